"""repr(): one line, which tells one object from the next; it neither raises nor reads the state."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from typing import Any

import pytest
import theus
from helpers import run_forked, wait_gone
from theus import _theus

LONG = 200


def test_an_engine(coordinator: theus.Coordinator) -> None:
    name = coordinator.name
    engine = theus.connect(name)
    engine.write("x", 1)
    engine.write("x", 2)
    assert repr(engine) == f"Engine({name!r}, version=2)"
    again = pickle.loads(pickle.dumps(engine))
    workers = engine.stats()["workers"]
    assert repr(again) == f"Engine({name!r}, not attached)"
    assert repr(again) == f"Engine({name!r}, not attached)"
    assert engine.stats()["workers"] == workers, "repr() has not attached it"
    engine.close()
    assert repr(engine) == f"Engine({name!r}, closed)"
    again.close()
    assert repr(again) == f"Engine({name!r}, closed)"


def test_an_engine_in_a_forked_child(engine: theus.Engine) -> None:
    def in_child() -> int:
        before = repr(engine)
        engine.write("x", 1)
        ok = before == f"Engine({engine.name!r}, not attached)"
        return 0 if ok and repr(engine) == f"Engine({engine.name!r}, version=1)" else 1

    assert run_forked(in_child) == 0


def test_a_coordinator() -> None:
    coordinator = theus.Coordinator()
    assert repr(coordinator) == f"Coordinator({coordinator.name!r}, pid={coordinator.pid})"
    coordinator.close()
    assert repr(coordinator) == f"Coordinator({coordinator.name!r}, closed)"


def test_a_coordinator_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = theus.Coordinator()
    known = coordinator.pid
    for pid in (coordinator.parent_pid, known):
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
    monkeypatch.setattr(_theus, "coordinator_pids", None)
    assert repr(coordinator) == f"Coordinator({coordinator.name!r}, pid={known})"
    coordinator.close()


def test_a_coordinator_that_did_not_start(coordinator: theus.Coordinator) -> None:
    with pytest.raises(theus.TheusError):
        theus.Coordinator(coordinator.name)
    unfinished = theus.Coordinator.__new__(theus.Coordinator)
    with pytest.raises(theus.TheusError):
        unfinished.__init__(coordinator.name)  # type: ignore[misc]
    assert repr(unfinished) == f"Coordinator({coordinator.name!r}, closed)"


def test_a_state(engine: theus.Engine) -> None:
    engine.update({f"k{i}": list(range(1000)) for i in range(100)})
    state = engine.state
    assert repr(state) == f"State({engine.name!r}, version=1)"
    engine.close()
    assert repr(state) == f"State({engine.name!r}, version=1)"


def test_guards_contexts_and_transactions(engine: theus.Engine) -> None:
    engine.write("x", 1)
    guard = engine.transaction(label="job 7")
    assert repr(guard) == "ContextGuard(isolation='serializable', label='job 7', not entered)"
    with guard as ctx:
        transaction = ctx.transaction
        assert repr(guard) == "ContextGuard(isolation='serializable', label='job 7', open)"
        assert repr(ctx) == "ProcessContext(version=1)"
        assert repr(transaction) == (
            "Transaction(snapshot_version=1, isolation='serializable', label='job 7', open)"
        )
        ctx.x = 2
    assert repr(guard) == "ContextGuard(isolation='serializable', label='job 7', committed)"
    assert repr(ctx) == "ProcessContext(version=1, ended)"
    assert repr(transaction).endswith("label='job 7', committed)")


def test_other_ends(engine: theus.Engine) -> None:
    with engine.transaction(isolation="snapshot") as ctx:
        ctx.transaction.rollback()
    assert repr(ctx.transaction) == (
        "Transaction(snapshot_version=0, isolation='snapshot', rolled back)"
    )
    guard = engine.snapshot()
    assert repr(guard) == "ContextGuard(snapshot, not entered)"
    with guard as ctx:
        assert repr(ctx) == "ProcessContext(version=0, snapshot)"
        assert repr(guard) == "ContextGuard(snapshot, open)"
    assert repr(guard) == "ContextGuard(snapshot, closed)"
    with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
        ctx.x = 1
        thread = threading.Thread(target=engine.write, args=("x", 2))
        thread.start()
        thread.join()
    assert "conflicted" in repr(ctx.transaction)
    with pytest.raises(theus.EncodeError), engine.transaction() as ctx:
        ctx.bad = [1]
        ctx.bad.append(lambda: 1)
    assert "rolled back" in repr(ctx.transaction)


def test_the_parents_in_a_child(engine: theus.Engine) -> None:
    with engine.transaction() as ctx:
        transaction = ctx.transaction

        def in_child() -> int:
            found = [repr(ctx), repr(transaction)]
            return 0 if all("of the parent process" in text for text in found) else 1

        assert run_forked(in_child) == 0


def test_labels(engine: theus.Engine) -> None:
    class Odd(str):
        def __repr__(self) -> str:
            raise RuntimeError("no")

    for label in ("x" * 10_000, "quote'", Odd("odd")):
        with engine.transaction(label=label) as ctx:
            assert len(repr(ctx.transaction)) < LONG
    with pytest.raises(TypeError, match="label"):
        engine.transaction(label=5)  # type: ignore[arg-type]


def test_a_watch(engine: theus.Engine) -> None:
    watch = engine.watch("a.b", ("c", 1))
    assert repr(watch) == "Watch('a.b', ('c', 1), since=0)"
    watch.close()
    assert repr(watch) == "Watch('a.b', ('c', 1), since=0, closed)"


def test_an_attempt(engine: theus.Engine) -> None:
    for attempt in engine.attempts():
        assert repr(attempt) == "Attempt(committed=False)"
        with attempt as ctx:
            ctx.x = 1
    assert repr(attempt) == "Attempt(committed=True)"


def test_nothing_is_read(engine: theus.Engine) -> None:
    """A transaction that has only been shown conflicts with nothing, and a large state costs
    nothing: no text grows with it."""
    engine.update({f"key{i}": {"x" * 100: [i] * 100} for i in range(100)})
    with engine.transaction() as ctx:
        shown: list[Any] = [engine, engine.state, ctx, ctx.transaction, engine.transaction()]
        for each in shown:
            assert len(repr(each)) < LONG and "\n" not in repr(each)
        ctx.mine = 1
        thread = threading.Thread(target=engine.write, args=("key1", 5))
        thread.start()
        thread.join()
    assert ctx.transaction.version is not None
