"""What a newcomer tripped over."""

from __future__ import annotations

import array
import os
from collections.abc import Callable, Iterator
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
