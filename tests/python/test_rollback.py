"""Promise 7: an attempt that did not commit leaves nothing: no value, no event, no memory."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import theus
from helpers import Worker, to_dict, until, write

INITIAL: dict[str, Any] = {
    "n": 1,
    "text": "before",
    "m": {"k1": {"x": 1}, "k2": 2},
    "tags": ["a", {"b": [1]}],
    "seen": {1, 2},
    "raw": bytearray(b"abc"),
    "leaf": theus.leaf({"k": [1]}),
    "array": np.arange(10),
}


@pytest.fixture
def engine(engine: theus.Engine) -> theus.Engine:
    engine.update(INITIAL)
    return engine


def shown(engine: theus.Engine) -> str:
    """All of the state, spelled out: types, order and array contents too."""
    return repr(engine.state.to_dict())


def set_scalar(ctx: Any) -> None:
    ctx.n = 2
    ctx.text += " and after"


def insert(ctx: Any) -> None:
    ctx.new = {"deep": {"deeper": [1]}}
    ctx.m["k3"] = 3


def delete(ctx: Any) -> None:
    del ctx.m["k1"]
    del ctx.n


def clear(ctx: Any) -> None:
    ctx.m.clear()


def replace_by_another_kind(ctx: Any) -> None:
    ctx.m = 5
    ctx.n = {"now": "a mapping"}


def append(ctx: Any) -> None:
    ctx.tags.append("c")


def nested_in_a_list(ctx: Any) -> None:
    ctx.tags[1]["b"].append(2)


def change_set(ctx: Any) -> None:
    ctx.seen.add(3)
    ctx.seen.discard(1)


def change_bytes(ctx: Any) -> None:
    ctx.raw[0:1] = b"X"


def change_leaf(ctx: Any) -> None:
    ctx.leaf["k"].append(2)


def change_array(ctx: Any) -> None:
    ctx.array[2:5] = -1
    ctx.array += 1


def change_shadow(ctx: Any) -> None:
    ctx.transaction.get_shadow("tags").append("by the shadow")
    ctx.transaction.get_shadow("array")[:] = 0


def commutative(ctx: Any) -> None:
    ctx.add("n", 5)
    ctx.maximum("n", 100)
    ctx.append("tags", "d")
    ctx.insert("seen", 9)


def mapping_methods(ctx: Any) -> None:
    ctx.m.update({"k1": 0, "k9": 9})
    ctx.m |= {"k8": 8}
    ctx.m.setdefault("k7", {})
    ctx.m.pop("k2")
    ctx.m.popitem()


CHANGES = [
    set_scalar, insert, delete, clear, replace_by_another_kind, append, nested_in_a_list,
    change_set, change_bytes, change_leaf, change_array, change_shadow, commutative,
    mapping_methods,
]  # fmt: skip


class Planned(Exception):
    pass


@pytest.mark.parametrize("change", CHANGES)
def test_an_exception_leaves_nothing(change: Callable[[Any], None], engine: theus.Engine) -> None:
    before, version = shown(engine), engine.version
    with pytest.raises(Planned):
        with engine.transaction() as ctx:
            change(ctx)
            raise Planned
    assert shown(engine) == before
    assert engine.version == version


@pytest.mark.parametrize("change", CHANGES)
def test_each_of_these_changes_commits(change: Callable[[Any], None], engine: theus.Engine) -> None:
    """Otherwise the tests around this one would prove nothing."""
    before = shown(engine)
    with engine.transaction() as ctx:
        change(ctx)
    assert shown(engine) != before


@pytest.mark.parametrize("change", CHANGES)
def test_rollback_leaves_nothing(change: Callable[[Any], None], engine: theus.Engine) -> None:
    before, version = shown(engine), engine.version
    with engine.transaction() as ctx:
        change(ctx)
        ctx.transaction.rollback()
    assert shown(engine) == before
    assert engine.version == version


def test_a_conflict_leaves_nothing(engine: theus.Engine, other: Worker) -> None:
    for change in CHANGES:
        engine.update(INITIAL)
        engine.write("trigger", 0)
        before = engine.state.to_dict()
        with pytest.raises(theus.ConflictError):
            with engine.transaction() as ctx:
                ctx.trigger = "mine"
                change(ctx)
                other.do(write, "trigger", "theirs")
        before["trigger"] = "theirs"
        assert repr(other.do(to_dict)) == repr(before)
        engine.run(lambda ctx: ctx.pop("new", None) if "new" in ctx else None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, Planned])
def test_any_exception_rolls_back_and_propagates(
    error: type[BaseException], engine: theus.Engine
) -> None:
    raised = error()
    with pytest.raises(error) as caught:
        with engine.transaction() as ctx:
            ctx.n = 2
            raise raised
    assert caught.value is raised
    assert engine.state["n"] == 1


def test_a_closed_generator_rolls_back(engine: theus.Engine) -> None:
    def suspended() -> Generator[int, None, None]:
        with engine.transaction() as ctx:
            ctx.n = 2
            yield ctx.n

    generator = suspended()
    assert next(generator) == 2
    generator.close()
    assert engine.state["n"] == 1
    engine.write("n", 3)  # and nothing is left open
    assert engine.state["n"] == 3


def test_return_and_break_commit(engine: theus.Engine) -> None:
    def returns() -> str:
        with engine.transaction() as ctx:
            ctx.n = 2
            return "returned"

    assert returns() == "returned"
    assert engine.state["n"] == 2
    for value in (3, 4):
        with engine.transaction() as ctx:
            ctx.n = value
            break
    assert engine.state["n"] == 3


def test_on_commit_runs_once_and_only_after_a_commit(engine: theus.Engine, other: Worker) -> None:
    events: list[str] = []

    with pytest.raises(Planned):
        with engine.transaction() as ctx:
            ctx.n = 2
            ctx.transaction.on_commit(lambda: events.append("rolled back"))
            raise Planned
    with pytest.raises(theus.ConflictError):
        with engine.transaction() as ctx:
            ctx.n += 1
            ctx.transaction.on_commit(lambda: events.append("conflicted"))
            other.do(write, "n", 10)
    assert events == []

    executions = 0

    def body(ctx: Any) -> None:
        nonlocal executions
        executions += 1
        ctx.n += 1
        ctx.transaction.on_commit(lambda: events.append("committed"))
        if executions < 3:
            other.do(write, "n", 20)

    engine.run(body)
    assert executions == 3
    assert engine.state["n"] == 21
    assert events == ["committed"]


def test_one_shadow_for_each_object(engine: theus.Engine) -> None:
    with engine.transaction() as ctx:
        shadow = ctx.transaction.get_shadow("tags")
        ctx.tags.append("c")
        assert ctx.transaction.get_shadow(ctx.tags) is shadow
        assert shadow[-1] == "c"
        array = ctx.transaction.get_shadow("array")
        ctx.array[0] = 99
        assert ctx.transaction.get_shadow("array") is array
        assert array[0] == 99
    shadow.append("too late")
    array[0] = 7
    assert theus.plain(engine.state["tags"])[-1] == "c"
    assert engine.state["array"][0] == 99


def test_what_is_rolled_back_takes_no_memory(engine: theus.Engine) -> None:
    def discard() -> None:
        with pytest.raises(Planned):
            with engine.transaction() as ctx:
                ctx.big = np.ones(1 << 20, dtype=np.uint8)
                ctx.many = {str(n): "x" * 100 for n in range(100)}
                raise Planned

    for _ in range(10):  # what stays in stock for the next use is there after these
        discard()
    used = engine.stats()["used_bytes"]
    for _ in range(300):  # several times the capacity
        discard()
    until(lambda: engine.stats()["used_bytes"] <= used + (2 << 20), meanwhile=discard)
