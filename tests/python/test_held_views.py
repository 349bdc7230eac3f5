"""Promise 9: an array or a State keeps its content as long as Python holds it."""

from __future__ import annotations

import gc
import os
import pickle
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import theus
from helpers import Worker, wait_gone, write

ELEMENTS = 100_000  # of 8 bytes; 64 MiB hold about 80 such arrays
OVERWRITES = 300  # several times the capacity


def original() -> np.ndarray:
    return np.arange(ELEMENTS)


def overwrite(engine: theus.Engine, times: int) -> None:
    for n in range(times):
        if n % 2:
            engine.write("array", np.full(ELEMENTS, -n))
        else:
            with engine.transaction() as ctx:
                ctx.array[:] = -n


@pytest.fixture
def engine(engine: theus.Engine) -> theus.Engine:
    engine.update({"array": original(), "m": {"k": {"x": 1}}, "tags": ["a", "b"], "n": 1})
    return engine


def from_snapshot(engine: theus.Engine) -> np.ndarray:
    with engine.snapshot() as ctx:
        return np.asarray(ctx.array)


def from_transaction(engine: theus.Engine) -> np.ndarray:
    with engine.transaction() as ctx:
        return np.asarray(ctx.array)


def from_state(engine: theus.Engine) -> np.ndarray:
    return engine.state["array"]


def from_read(engine: theus.Engine) -> np.ndarray:
    return engine.read("array", None)


def from_run(engine: theus.Engine) -> np.ndarray:
    return engine.run(lambda ctx: ctx.array)


def slice_of_state(engine: theus.Engine) -> np.ndarray:
    """Only a derived view is held, not what it was made of."""
    return engine.state["array"].reshape(10, -1)[:, ::2]


def memory_of_state(engine: theus.Engine) -> memoryview:
    return memoryview(engine.state["array"])


SOURCES = [
    from_snapshot, from_transaction, from_state, from_read, from_run, slice_of_state,
    memory_of_state,
]  # fmt: skip


def expected(source: Callable[[theus.Engine], Any]) -> np.ndarray:
    return original().reshape(10, -1)[:, ::2] if source is slice_of_state else original()


@pytest.mark.parametrize("source", SOURCES)
def test_others_overwrite_it(
    source: Callable[[theus.Engine], Any], engine: theus.Engine, other: Worker
) -> None:
    view = source(engine)
    gc.collect()
    other.do(overwrite, OVERWRITES)
    assert np.array_equal(view, expected(source))
    assert not np.array_equal(engine.state["array"], original())


@pytest.mark.parametrize("source", SOURCES)
def test_the_engine_is_closed(
    source: Callable[[theus.Engine], Any], engine: theus.Engine, other: Worker
) -> None:
    view = source(engine)
    engine.close()
    gc.collect()
    other.do(overwrite, OVERWRITES)
    assert np.array_equal(view, expected(source))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("how", ["closed", "killed"])
def test_the_coordinator_is_gone(
    source: Callable[[theus.Engine], Any], how: str, coordinator: theus.Coordinator
) -> None:
    with theus.connect(coordinator.name) as engine:
        engine.update({"array": original()})
        view = source(engine)
        pids = [coordinator.parent_pid, coordinator.pid]
        if how == "closed":
            coordinator.close()
        else:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            wait_gone(pid)
        assert np.array_equal(view, expected(source))
    gc.collect()
    assert np.array_equal(view, expected(source))


def test_an_array_in_the_new_version_is_another_one(engine: theus.Engine) -> None:
    """What would be wrong if views were taken for equal because their place is."""
    old = engine.state["array"]
    engine.write("array", original() + 1)
    new = engine.state["array"]
    assert old[0] == 0
    assert new[0] == 1


def test_views_in_a_worker(engine: theus.Engine, other: Worker) -> None:
    other.do(hold)
    overwrite(engine, OVERWRITES)
    assert other.do(sum_of_held) == original().sum()


_held: list[np.ndarray] = []


def hold(engine: theus.Engine) -> None:
    _held.append(engine.state["array"])


def sum_of_held(engine: theus.Engine) -> int:
    return int(_held.pop().sum())


def test_many_views_of_many_versions(engine: theus.Engine) -> None:
    views = []
    for n in range(40):
        engine.write("array", np.full(ELEMENTS // 10, n))
        views.append(engine.state["array"])
    for n, view in enumerate(views):
        assert (view == n).all()


def test_a_state_stays(engine: theus.Engine, other: Worker) -> None:
    state = engine.state
    version = state.version
    before = repr(state.to_dict())
    other.do(overwrite, 50)
    other.do(write, "m", {"other": 1})
    other.do(write, "tags", [])
    other.do(write, "n", 2)
    assert repr(state.to_dict()) == before
    assert state["m"]["k"]["x"] == 1
    assert state.version == version

    newer = engine.state
    engine.close()
    assert repr(state.to_dict()) == before
    assert (state["n"], newer["n"]) == (1, 2)
    assert theus.plain(newer["m"]) == {"other": 1}


def test_a_state_after_the_coordinator(coordinator: theus.Coordinator) -> None:
    with theus.connect(coordinator.name) as engine:
        engine.update({"array": original(), "m": {"k": [1, 2]}})
        state = engine.state
    coordinator.close()
    assert theus.plain(state["m"]) == {"k": [1, 2]}
    assert np.array_equal(state["array"], original())


def test_a_copy_is_a_copy(engine: theus.Engine) -> None:
    view = engine.state["array"]
    for copy in (view.copy(), np.array(view), pickle.loads(pickle.dumps(view))):
        assert copy.flags.writeable
        copy[0] = 5
    assert view[0] == 0
