"""Proxies and the memory they hold."""

from __future__ import annotations

import dataclasses
import functools
import gc

import pytest

import theus


@pytest.fixture(scope="module")
def coordinator():
    with theus.Coordinator(capacity="256 MiB") as running:
        yield running


@pytest.fixture
def engine(coordinator):
    with theus.connect(coordinator.name) as engine:
        engine.run(lambda ctx: ctx.clear())
        yield engine


class Account:
    def __init__(self, owner):
        self.owner = owner
        self.entries = []
        self.total = 0

    def book(self, amount):
        self.entries.append(amount)
        self.total += amount
        return self

    def count(self):
        return len(self.entries)

    @functools.cached_property
    def summary(self):
        return f"{self.owner}: {self.total}"

    def __eq__(self, other):
        return isinstance(other, Account) and vars(self) == vars(other)

    __hash__ = None


class Callable:
    def __init__(self):
        self.calls = 0

    def __call__(self, n):
        self.calls += n
        return self.calls


@dataclasses.dataclass
class Row:
    name: str
    done: bool = False
    tags: list = dataclasses.field(default_factory=list)


def change(engine, body):
    """Runs body(ctx) in one transaction; returns whether it made a version."""
    before = engine.version
    with engine.transaction() as ctx:
        body(ctx)
    return engine.version > before


def test_no_references_are_left(engine):
    engine.update({"l": [[1]], "m": {"a": 1}})

    def work():
        with engine.transaction() as ctx:
            ctx.l[0].append(1)
            ctx.m.keys()
            list(ctx.m.items())
            ctx.transaction.delta_log
        with engine.snapshot() as ctx:
            ctx.l[0]

    def count():
        gc.collect()
        return sum(str(type(item).__module__).startswith("theus") for item in gc.get_objects())

    work()
    before = count()
    for _ in range(200):
        work()
    assert count() <= before


def test_an_abandoned_transaction_in_a_cycle_is_collected(engine):
    guard = engine.transaction()
    ctx = guard.__enter__()
    ctx.l = [[1]]
    holder = [guard, ctx, ctx.l]
    holder.append(holder)
    del guard, ctx, holder
    gc.collect()
    with engine.transaction() as ctx:
        assert "l" not in ctx
