"""Fixtures: a coordinator for each test, an engine, and workers under each start method."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext

import pytest
import theus
from helpers import START_METHODS, Worker


@pytest.fixture
def coordinator() -> Iterator[theus.Coordinator]:
    """A fresh one. It ends with the test, or, if the test is killed, by itself."""
    with theus.Coordinator(capacity="64 MiB") as coordinator:
        yield coordinator


@pytest.fixture
def engine(coordinator: theus.Coordinator) -> Iterator[theus.Engine]:
    with theus.connect(coordinator.name) as engine:
        yield engine


@pytest.fixture(params=START_METHODS)
def context(request: pytest.FixtureRequest) -> BaseContext:
    """multiprocessing with one start method; a test that uses it runs under each."""
    return multiprocessing.get_context(request.param)


@pytest.fixture
def start_worker(context: BaseContext, engine: theus.Engine) -> Iterator[Callable[[], Worker]]:
    """Starts workers; those that still live at the end are killed."""
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(Worker(context, engine))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture
def other(start_worker: Callable[[], Worker]) -> Worker:
    """One worker: the other process that most tests need."""
    return start_worker()
