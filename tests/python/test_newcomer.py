"""What a newcomer tripped over."""

from __future__ import annotations

import array
import copy
import dataclasses
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import theus


@pytest.fixture
def rival(coordinator: theus.Coordinator) -> Iterator[theus.Engine]:
    with theus.connect(coordinator.name) as engine:
        yield engine


class Thing:
    def __init__(self) -> None:
        self.x: Any = None


INTO: dict[str, Callable[[Any, Any], Any]] = {
    "append": lambda ctx, p: ctx.list.append(p),
    "extend": lambda ctx, p: ctx.list.extend([p]),
    "extend with it": lambda ctx, p: ctx.list.extend(p),
    "item": lambda ctx, p: ctx.list.__setitem__(0, p),
    "slice": lambda ctx, p: ctx.list.__setitem__(slice(0, 1), [p]),
    "+=": lambda ctx, p: ctx.list.__iadd__([p]),
    "leaf dict": lambda ctx, p: ctx.leaf.__setitem__("k", p),
    "leaf dict, update": lambda ctx, p: ctx.leaf.update({"k": p}),
    "attribute": lambda ctx, p: setattr(ctx.thing, "x", p),
    "node": lambda ctx, p: ctx.node.__setitem__("k", p),
    "node, inside": lambda ctx, p: ctx.node.__setitem__("k", {"z": p}),
    "node, update": lambda ctx, p: ctx.node.update(k=p),
}


@pytest.mark.parametrize(
    ("how", "source"),
    [
        (how, source)
        for how in INTO
        for source in ("list", "node", "array", "thing")
        if (how, source) != ("extend with it", "thing")  # it is no iterable
    ],
)
def test_a_proxy_of_another_transaction_is_refused(
    how: str, source: str, engine: theus.Engine, rival: theus.Engine
) -> None:
    engine.update({"list": [1], "leaf": theus.leaf({"a": 1}), "thing": Thing(), "node": {"a": 1}})
    engine.write("array", np.zeros(2))
    before = str(engine.state.to_dict()["list"])
    with engine.transaction() as ours:
        foreign = ours[source]
        with (
            pytest.raises(theus.TheusError, match="belongs to another open transaction"),
            rival.transaction() as ctx,
        ):
            INTO[how](ctx, foreign)
    assert str(engine.state.to_dict()["list"]) == before


def test_a_mapping_is_not_updated_with_one_of_another_transaction(
    engine: theus.Engine, rival: theus.Engine
) -> None:
    engine.update({"a": {"k": 1}, "b": {}})
    with engine.transaction() as ours, rival.transaction() as ctx:
        with pytest.raises(theus.TheusError, match="belongs to another open transaction"):
            ctx.b.update(ours.a)
        ctx.b.update(ctx.a)
    assert theus.plain(engine.state["b"]) == {"k": 1}


def test_whether_an_attempt_committed(engine: theus.Engine) -> None:
    engine.write("n", 1)
    for attempt in engine.attempts(3):
        with attempt as ctx:
            ctx.n = 2
            ctx.transaction.rollback()
    assert not attempt.committed and engine.read("n") == 1
    for attempt in engine.attempts(3):
        with attempt as ctx:
            assert ctx.n == 1
    assert attempt.committed
    for attempt in engine.attempts(3):
        with attempt as ctx:
            ctx.n = 3
            if (child := os.fork()) == 0:
                attempt.__exit__(None, None, None)
                os._exit(1 if attempt.committed else 0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert attempt.committed and engine.read("n") == 3


def test_what_an_operation_takes_in_is_tried_first(engine: theus.Engine) -> None:
    engine.update({"set": {9}, "array": array.array("i", [1])})
    with engine.transaction() as ctx:
        with pytest.raises(TypeError):
            ctx.set.update([1, [2]])
        with pytest.raises(TypeError):
            ctx.array.extend([1, "x"])
        assert ctx.set == {9} and ctx.array == array.array("i", [1])
    assert theus.plain(engine.state["set"]) == {9}


def test_the_repr_of_a_view_never_raises(engine: theus.Engine) -> None:
    engine.write("m", {"a": 1})
    with engine.transaction() as ctx:
        views = [ctx.m.keys(), ctx.m.values(), ctx.m.items()]
        assert "a" in repr(views[0])
    for view in views:
        assert "cannot be read" in repr(view)


def test_a_key_that_is_nested_too_deeply(engine: theus.Engine) -> None:
    key: Any = ()
    for _ in range(5000):
        key = (key,)
    with engine.transaction() as ctx:
        for failing in (
            lambda: ctx.__setitem__(key, 1),
            lambda: ctx.write((key,), 1),
            lambda: ctx.update({"q": {key: 1}}),
        ):
            with pytest.raises(theus.EncodeError):
                failing()


def test_initial_is_a_mapping() -> None:
    with pytest.raises(TypeError, match="initial is a dict"):
        theus.open(initial=[1])  # type: ignore[arg-type]


def test_an_object_that_is_called_lazily_is_no_process(engine: theus.Engine) -> None:
    class Lazy:
        async def __call__(self, ctx: theus.ProcessContext) -> None: ...

    class Eager:
        def __call__(self, ctx: theus.ProcessContext) -> int:
            return 7

    with pytest.raises(TypeError, match="coroutine or generator function"):
        engine.process(Lazy())
    assert engine.process(Eager())() == 7


@pytest.mark.parametrize("name", [5, b"shop", ("a",)])
def test_a_name_is_a_str(name: Any) -> None:
    for call in (theus.open, theus.connect, theus.Coordinator):
        with pytest.raises(TypeError, match=re.escape(f"coordinator is a str, not {name!r}")):
            call(name)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_is_no_name(name: str) -> None:
    for call in (theus.open, theus.connect, theus.Coordinator):
        with pytest.raises(ValueError, match="cannot be the name of a coordinator"):
            call(name)


def test_update_takes_a_dict(engine: theus.Engine) -> None:
    for update in (engine.update, engine.state.update):
        with pytest.raises(TypeError, match=r"takes a dict \{path: value\}, not list"):
            update([("a", 1)])  # type: ignore[arg-type]


def test_views_that_a_function_returns_are_converted(engine: theus.Engine) -> None:
    engine.update({"m": {"x": [1]}, "leaf": theus.leaf({"y": [2]})})
    assert engine.run(lambda ctx: ctx.m.keys()) == ["x"]
    assert engine.run(lambda ctx: ctx.m.values()) == [[1]]
    assert engine.run(lambda ctx: ctx.m.items()) == [("x", [1])]
    assert engine.run(lambda ctx: ctx.leaf.items()) == [("y", [2])]
    assert engine.run(lambda ctx: (ctx.leaf.keys(), {"k": ctx.m.values()})) == (["y"], {"k": [[1]]})


def test_a_with_that_another_thread_has_left(engine: theus.Engine) -> None:
    engine.write("n", 1)
    guard = engine.transaction()
    ctx = guard.__enter__()
    ctx.n = 2
    with ThreadPoolExecutor(1) as thread, pytest.raises(theus.TheusError, match="left in thread"):
        thread.submit(guard.__exit__, None, None, None).result()
    with pytest.raises(theus.TheusError, match="left in another thread before"):
        guard.__exit__(None, None, None)
    assert engine.read("n") == 1
    engine.write("n", 3)


def test_an_attempt_that_is_interrupted_as_it_begins(engine: theus.Engine) -> None:
    """An exception between __enter__ and the body of the `with` rolls back, too."""
    engine.write("n", 1)

    def interrupt(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_name != "__enter__" or "_attempts" not in frame.f_code.co_filename:
            return None

        def inside(frame: Any, event: str, argument: Any) -> Any:
            if event == "return":
                sys.settrace(None)
                raise KeyboardInterrupt
            return inside

        return inside

    def work() -> None:
        for attempt in engine.attempts(3):
            with attempt as ctx:
                ctx.n += 1

    gc.collect()
    gc.disable()
    before = sys.gettrace()
    try:
        sys.settrace(interrupt)
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        sys.settrace(before)
        gc.enable()
    engine.write("m", 5)
    work()
    assert engine.read("n") == 2


def test_the_root_is_merged_like_a_dict(engine: theus.Engine) -> None:
    engine.write("a", 1)
    with engine.transaction() as ctx:
        assert ctx | {"b": 2} == {"a": 1, "b": 2} == {"b": 2} | ctx
        ctx |= {"c": 3}
    assert engine.state.to_dict() == {"a": 1, "c": 3}


def test_the_last_known_pid_of_a_parent_that_died() -> None:
    with theus.Coordinator() as coordinator:
        parent = coordinator.parent_pid
        os.kill(parent, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while theus._theus.coordinator_pids(coordinator.name)[1] != 0:
            assert time.monotonic() < deadline
        assert coordinator.parent_pid == parent


ITEMS: list[tuple[Callable[[Any], Any], Any]] = [
    (lambda d: d.items() == d.items(), True),
    (lambda d: d.items() != d.items(), False),
    (lambda d: d.items() == {"y": [1]}.items(), True),
    (lambda d: {"y": [1]}.items() == d.items(), True),
    (lambda d: d.items() == {"y": [2]}.items(), False),
    (lambda d: d.items() <= {"y": [1], "z": 2}.items(), True),
    (lambda d: d.items() < {"y": [1]}.items(), False),
    (lambda d: d.items() >= {("x", 1)}, False),
    (lambda d: d.keys() & {"x", "y"}, {"y"}),
]


@pytest.mark.parametrize(("compare", "expected"), ITEMS)
def test_views_with_values_that_have_no_hash(
    compare: Any, expected: Any, engine: theus.Engine
) -> None:
    assert compare({"y": [1]}) == expected
    engine.write("m", {"y": [1]})
    assert engine.run(lambda ctx: compare(ctx.m)) == expected


def test_sets_take_the_keys_of_a_mapping(engine: theus.Engine) -> None:
    engine.update({"s": {1}, "m": {"y": [1]}})
    with engine.transaction() as ctx:
        ctx.s |= ctx.m.keys()
        ctx.s |= {"k": 1}.keys()
        ctx.s -= {1: 1}.keys()
        ctx.s &= {"k": 1, "y": 2}.keys()
        with pytest.raises(TypeError):
            ctx.s |= ["no", "set"]
    assert engine.read("s") == {"y", "k"}


@dataclasses.dataclass(frozen=True)
class Settings:
    level: int
    names: tuple[str, ...] = ()

    def raise_by_force(self) -> None:
        object.__setattr__(self, "level", self.level + 1)


@pytest.mark.parametrize("value", [Settings(1), [Settings(1)], (5, Settings(1))], ids=str)
def test_a_frozen_object_that_is_changed_by_force(value: Any, engine: theus.Engine) -> None:
    """It is somebody's own: nobody else of the process sees that, nor a later read."""
    before = copy.deepcopy(value)
    engine.update({"x": value, "m": {"x": value}})

    def force(ctx: Any) -> None:
        for item in (ctx["x"], ctx["m"]["x"], theus.plain(ctx["m"])["x"]):
            (item if isinstance(item, Settings) else item[-1]).raise_by_force()

    with pytest.raises(ZeroDivisionError), engine.transaction() as ctx:
        force(ctx)
        raise ZeroDivisionError
    force(engine.state)
    with engine.snapshot() as ctx:
        force(ctx)
    assert engine.read("x") == before and engine.read("m") == {"x": before}
    assert theus.plain(engine.state["x"]) == before


def test_the_referents_of_a_part_do_not_lead_to_what_others_read(engine: theus.Engine) -> None:
    engine.write("x", [1, [2], {"a": [3]}])
    for part in (engine.state["x"][1], engine.state["x"][2], engine.state["x"][2]["a"]):
        for found in gc.get_referents(part):
            if type(found) in (list, dict):
                found.clear()
    assert theus.plain(engine.state["x"]) == [1, [2], {"a": [3]}]
