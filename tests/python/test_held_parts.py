"""Parts of a nested leaf that are held before the first write to it: until then they are parts of
an object that all readers of the process share, afterwards of the transaction's own."""

from __future__ import annotations

import collections
import copy
import enum
import gc
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import theus


class Index(enum.IntEnum):
    ONE = 1


@pytest.fixture(scope="module")
def shared() -> Iterator[theus.Engine]:
    with theus.Coordinator(capacity="64 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            yield engine


@pytest.fixture
def engine(shared: theus.Engine) -> Iterator[theus.Engine]:
    yield shared
    shared.run(lambda ctx: ctx.clear())


def has_shadow(proxy: Any) -> bool:
    leaf = theus._theus.parts(proxy)[0]
    return bool(leaf.has_shadow)


def nested() -> list[Any]:
    return [{"a": [1], "b": ([2], {3})}, [[4], bytearray(b"5")], collections.deque([[6], [7]])]


def test_reading_copies_nothing(engine: theus.Engine) -> None:
    engine.write("x", nested())
    with engine.transaction() as ctx:
        assert ctx.x[0]["a"][0] == 1 and ctx.x[0].get("b")[0] == [2]
        assert [list(part) for part in ctx.x][1] == [[4], bytearray(b"5")]
        assert list(ctx.x[2])[1] == [7] and len(ctx.x[1][1]) == 1 and 3 in ctx.x[0]["b"][1]
        assert theus.plain(ctx.x) == nested() == copy.deepcopy(ctx.x)
        assert [dict(ctx.x[0].items()), sorted(ctx.x[0].keys())] == [nested()[0], ["a", "b"]]
        assert not has_shadow(ctx.x)
        ctx.x[0]["a"].append(2)
        assert has_shadow(ctx.x)


WRITES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "an item": (lambda x: x[0], lambda p: p.__setitem__("c", 1)),
    "a nested list": (lambda x: x[0]["a"], lambda p: p.append(9)),
    "a list in a tuple": (lambda x: x[0]["b"][0], lambda p: p.extend([9])),
    "a set in a tuple": (lambda x: x[0]["b"][1], lambda p: p.add(9)),
    "a bytearray": (lambda x: x[1][1], lambda p: p.reverse()),
    "of a deque": (lambda x: list(x[2])[1], lambda p: p.insert(0, 9)),
    "a deque": (lambda x: x[2], lambda p: p.rotate(1)),
    "in place": (lambda x: x[1][0], lambda p: p.__iadd__([9])),
    "a deleted item": (lambda x: x[0], lambda p: p.__delitem__("a")),
    "by a value": (lambda x: list(x[0].values())[0], lambda p: p.append(9)),
    "by get": (lambda x: x[0].get("a"), lambda p: p.append(9)),
    "from behind": (lambda x: x[-2][-2], lambda p: p.append(9)),
    "anew": (lambda x: x[1][0], lambda p: p.__init__([9])),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("first", ["through it", "elsewhere", "before it", "a moved sibling"])
def test_what_is_held_is_written(name: str, first: str, engine: theus.Engine) -> None:
    take, write = WRITES[name]
    engine.write("x", nested())
    before = engine.state
    expected = nested()
    with engine.transaction() as ctx:
        for x in (ctx.x, expected):
            held, bound = take(x), x[1].append
            if first == "elsewhere":
                x[1].append("new")
            elif first == "before it":
                x.insert(0, "new")
            elif first == "a moved sibling":
                bound("new")
                x[0], x[1] = x[1], x[0]
            write(held)
    assert engine.read("x") == expected and theus.plain(engine.state["x"]) == expected
    assert theus.plain(before["x"]) == nested(), "what readers share is as it was"


def test_the_shadow_of_a_held_part(engine: theus.Engine) -> None:
    engine.write("x", nested())
    before = engine.state["x"]
    with engine.transaction() as ctx:
        held = ctx.x[1][0]
        ctx.transaction.get_shadow(held).append(9)
        assert held == [4, 9]
    assert engine.read("x")[1][0] == [4, 9] and before[1][0] == [4]


def test_parts_put_elsewhere_in_the_leaf(engine: theus.Engine) -> None:
    engine.write("x", nested())
    before = engine.state["x"]
    with engine.transaction() as ctx:
        held = ctx.x[0]["a"]
        ctx.x.append(held)
        ctx.x.append({"again": [ctx.x[0]["a"]]})
        held.append(9)
    read = engine.read("x")
    assert read[0]["a"] is read[3] is read[4]["again"][0] == [1, 9]
    assert theus.plain(before) == nested()


def test_an_iterator_that_is_written_through(engine: theus.Engine) -> None:
    engine.write("x", [[number] for number in range(5)])
    before = engine.state["x"]
    with engine.transaction() as ctx:
        for part in ctx.x:
            part.append(-part[0])
        deep = iter(ctx.x)
        next(deep)
        ctx.x.append([5])
        assert [theus.plain(part) for part in deep] == [[n, -n] for n in range(1, 5)] + [[5]]
    assert engine.read("x") == [[n, -n] for n in range(5)] + [[5]]
    assert theus.plain(before) == [[number] for number in range(5)]


# ------------------------------------------------------------------------- at random


class Pairs:
    """Random operations on proxies and on plain objects side by side."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, depth: int) -> Any:
        chance = self.random.random()
        if depth <= 0 or chance < 0.2:
            return self.random.choice([1, "a", None, 2.5, (1, 2), b"x"])
        if chance < 0.5:
            return [self.value(depth - 1) for _ in range(self.random.randrange(4))]
        if chance < 0.75:
            keys = self.random.sample("abcdef", self.random.randrange(4))
            return {key: self.value(depth - 1) for key in keys}
        if chance < 0.83:
            return ([self.value(depth - 1)], {"t": self.value(depth - 1)})
        if chance < 0.92:
            return collections.deque(self.value(depth - 1) for _ in range(3))
        return self.random.choice([bytearray(b"abc"), {1, 5, 7}])

    def parts(self, proxy: Any, plain: Any) -> list[tuple[Any, Any]]:
        if isinstance(plain, dict):
            how = self.random.randrange(3)
            if how == 0:
                found = [(proxy[key], plain[key]) for key in plain]
            elif how == 1:
                found = list(zip(proxy.values(), plain.values(), strict=True))
            else:
                found = [(proxy.get(key), plain[key]) for key in plain]
        elif isinstance(plain, (list, tuple, collections.deque)):
            if self.random.random() < 0.5:
                found = list(zip(proxy, plain, strict=True))
            else:
                found = [(proxy[index], plain[index]) for index in range(len(plain))]
        else:
            found = []
        return [pair for pair in found if theus._theus.is_proxy(pair[0])]

    def operation(self, plain: Any) -> Callable[[Any], Any]:
        new = self.random.choice([7, "v", [1], {"k": [2]}])
        index, key = self.random.randrange(-3, 4), self.random.choice("abcdefk")
        made: list[Callable[[Any], Any]] = [len]
        if isinstance(plain, list):
            made = [
                lambda o: o.append(copy.deepcopy(new)),
                lambda o: o.insert(index, copy.deepcopy(new)),
                lambda o: o.reverse(),
                lambda o: o.__setitem__(index, copy.deepcopy(new)),
                lambda o: o.__delitem__(index),
                lambda o: o.pop(index),
            ]
        elif isinstance(plain, dict):
            made = [
                lambda o: o.__setitem__(key, copy.deepcopy(new)),
                lambda o: o.pop(key, None),
                lambda o: o.setdefault(key, copy.deepcopy(new)),
                lambda o: o.update({key: copy.deepcopy(new)}),
            ]
        elif isinstance(plain, collections.deque):
            made = [lambda o: o.append(5), lambda o: o.rotate(1), lambda o: o.popleft()]
        elif isinstance(plain, set):
            made = [lambda o: o.add(9), lambda o: o.discard(5)]
        elif isinstance(plain, bytearray):
            made = [lambda o: o.extend(b"z"), lambda o: o.reverse()]
        return self.random.choice(made)


def outcome(operation: Callable[[Any], Any], operand: Any) -> Any:
    try:
        return theus.plain(operation(operand))
    except (IndexError, KeyError, TypeError) as error:
        return type(error)


def holds(container: Any, part: Any) -> bool:
    if container is part:
        return True
    items = container.values() if isinstance(container, dict) else container
    inside = isinstance(container, (list, tuple, dict, collections.deque))
    return inside and any(holds(item, part) for item in items)


@pytest.mark.parametrize("seed", range(20))
def test_as_with_plain_objects(seed: int, engine: theus.Engine) -> None:
    pairs = Pairs(seed)
    plain = [pairs.value(3) for _ in range(4)]
    engine.write("x", plain)
    for _ in range(40):
        mine = copy.deepcopy(plain)
        commits = pairs.random.random() < 0.6
        try:
            with engine.transaction() as ctx:
                held = [(ctx.x, mine)]
                for _ in range(pairs.random.randrange(1, 14)):
                    proxy, twin = pairs.random.choice(held)
                    if pairs.random.random() < 0.5:
                        held += pairs.parts(proxy, twin)
                        continue
                    operation = pairs.operation(twin)
                    assert outcome(operation, proxy) == outcome(operation, twin)
                    held = [pair for pair in held if holds(mine, pair[1])]
                    if pairs.random.random() < 0.1:
                        del held[1::2]
                        gc.collect(0)
                assert theus.plain(ctx.x) == mine
                if not commits:
                    raise ZeroDivisionError
            plain = mine
        except ZeroDivisionError:
            assert not commits
        assert engine.read("x") == plain == theus.plain(engine.state["x"])


# ------------------------------------------------------------------------- code of other classes


class Spoils:
    """Changes what it is compared with."""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, list):
            other.append("raw")
        return False

    __hash__ = None  # type: ignore[assignment]


class Writes:
    """An index, or a key, that writes to the leaf while it is looked up."""

    def __init__(self, proxy: Any, stands_for: Any) -> None:
        self.proxy, self.stands_for = proxy, stands_for

    def __index__(self) -> int:
        self.proxy.append("w")
        return int(self.stands_for)

    def __hash__(self) -> int:
        return hash(self.stands_for)

    def __eq__(self, other: object) -> bool:
        self.proxy.append("w")
        return bool(other == self.stands_for)


@pytest.mark.parametrize(
    "compare",
    [
        lambda x: Spoils() in x,
        lambda x: x.count(Spoils()),
        lambda x: x == [Spoils(), 0, 0],
        lambda x: x == Spoils(),
    ],
)
def test_what_a_comparison_is_shown(compare: Callable[[Any], Any], engine: theus.Engine) -> None:
    engine.write("x", nested())
    with engine.transaction() as ctx:
        compare(ctx.x)
    with engine.snapshot() as ctx:
        compare(ctx.x)
    compare(engine.state["x"])
    assert theus.plain(engine.state["x"]) == nested() == engine.read("x")


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x[Writes(x, 0)],
        lambda x: x[Writes(x, 0) :][0],
        lambda x: x[0][Writes(x, "a")],
        lambda x: x[0].get(Writes(x, "a")),
    ],
)
def test_a_key_that_writes(look: Callable[[Any], Any], engine: theus.Engine) -> None:
    engine.write("x", nested())
    before, expected = engine.state["x"], nested()
    with engine.transaction() as ctx:
        for x in (ctx.x, expected):
            part = look(x)
            x.append(part)
            part.update(b=1) if isinstance(part, dict) else part.append(9)
    assert engine.read("x") == expected and theus.plain(before) == nested()


@pytest.mark.parametrize("index", [np.int64(1), True, Index.ONE])
def test_an_index_of_another_class(index: Any, engine: theus.Engine) -> None:
    engine.write("x", nested())
    with engine.transaction() as ctx:
        part = ctx.x[index]
        ctx.x.append(part)
        ctx.x[index][0].append(9)
    read = engine.read("x")
    assert read[1][0] == [4, 9] and read[3] is read[1]


def test_begun_anew_with_a_part_of_its_own(engine: theus.Engine) -> None:
    engine.write("x", nested())
    before, expected = engine.state["x"], nested()
    with engine.transaction() as ctx:
        for x in (ctx.x, expected):
            x[1].__init__(x[2])
            x[1][0].append(9)
    assert engine.read("x") == expected and theus.plain(before) == nested()


OPTIMIZED = """
import theus
with theus.open(initial={"x": [[1], [2]]}) as engine:
    before = engine.state["x"]
    with engine.transaction() as ctx:
        ctx.x.append(ctx.x[0])
        ctx.x[-1].append(9)
    assert_ = engine.read("x") == [[1, 9], [2], [1, 9]] and theus.plain(before) == [[1], [2]]
    raise SystemExit(0 if assert_ else 1)
"""


def test_without_assertions() -> None:
    assert subprocess.run([sys.executable, "-O", "-c", OPTIMIZED], timeout=60).returncode == 0
