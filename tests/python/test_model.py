"""A model test: random programs over nested containers and objects do the same through a
transaction as on plain Python objects, in every process; and a rollback leaves every bit as it was.

Derandomized and short by default. THEUS_MODEL_EXAMPLES=5000 runs that many random programs.
"""

from __future__ import annotations

import array
import collections
import copy
import dataclasses
import multiprocessing
import operator
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import Worker, to_dict
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

import theus
from theus import _theus

# --- what the state is made of


class Box:
    """An object with a property, and methods that change it."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    @total.setter
    def total(self, value: int) -> None:
        self._total = value

    def book(self, amount: int) -> Box:
        self.items.append(amount)
        self._total += amount
        return self

    def __lshift__(self, amount: int) -> Box:
        return self.book(amount)


class Slotted:
    __slots__ = ("items", "total")

    def __init__(self, items: list[Any]) -> None:
        self.items, self.total = items, 0

    def book(self, amount: int) -> Slotted:
        self.total += amount
        return self

    __lshift__ = book


@dataclasses.dataclass
class Row:
    items: list[Any]
    total: int = 0

    def book(self, amount: int) -> Row:
        self.items = [*self.items, amount]
        return self

    __lshift__ = book


OBJECTS = (Box, Slotted, Row)
KEYS = ("a", "b", "c", "a.b", 1, (1, "x"))


def attributes(value: Any) -> list[tuple[str, Any]]:
    names = ("items", "total") if isinstance(value, Slotted) else tuple(vars(value))
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]


def canonical(value: Any) -> Any:
    """`value` as nested tuples that are equal exactly if it is the same, types and order too."""
    kind = type(value)
    if kind in OBJECTS:
        return kind, canonical(attributes(value))
    if kind is dict:
        return kind, tuple((key, canonical(item)) for key, item in value.items())
    if kind in (list, tuple, collections.deque):
        return kind, tuple(canonical(item) for item in value)
    if kind in (set, frozenset):
        return kind, frozenset(value)
    if kind in (bytearray, array.array):
        return kind, bytes(value)
    return kind, value


def children(value: Any) -> list[tuple[Callable[[Any], Any], Any]]:
    """The mutable things directly in `value`, and how each is reached."""
    kind = type(value)
    if kind is dict or kind in (list, tuple, collections.deque):
        pairs = list(value.items()) if kind is dict else list(enumerate(value))
        found = [(operator.itemgetter(key), item) for key, item in pairs]
    elif kind in OBJECTS:
        found = [(operator.attrgetter(name), item) for name, item in attributes(value)]
    else:
        found = []
    mutable = (list, dict, set, tuple, collections.deque, bytearray, array.array, *OBJECTS)
    return [(step, item) for step, item in found if type(item) in mutable]


def same(one: Any, other: Any) -> bool:
    """Whether two steps are the same."""
    return bool(one.__reduce__() == other.__reduce__())


def holds(root: Any, target: Any) -> bool:
    return root is target or any(holds(item, target) for _, item in children(root))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([2**70, 0.5, "", "text", b"bytes", (1, 2)]),
)
keys = st.sampled_from(KEYS)
small_sets = st.sets(st.integers(0, 9), max_size=4)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3),
        st.lists(inner, max_size=2).map(tuple),
        st.lists(inner, max_size=3).map(collections.deque),
        small_sets,
        st.binary(max_size=4).map(bytearray),
        st.lists(st.integers(-9, 9), max_size=3).map(lambda items: array.array("i", items)),
        st.tuples(st.sampled_from(OBJECTS), st.lists(inner, max_size=2)).map(
            lambda pair: pair[0](pair[1])
        ),
    ),
    max_leaves=6,
)


def zoo() -> dict[Any, Any]:
    """One of everything, each with something inside."""
    return {
        "list": [[3, 1, 2], {"a": [1]}],
        "deque": collections.deque([[1], 2, 3]),
        "set": {1, 2, 3},
        "bytes": bytearray(b"abc"),
        "array": array.array("i", [1, 2, 3]),
        "tuple": ([1], {"b": {1}}),
        "dict": {"a": {"b": [1], "c": 2}, 1: [1]},
        "box": Box([1, [2]]),
        "slotted": Slotted([1, [2]]),
        "rows": [Row([1, [2]]), Row([])],
    }


# --- what a program does to it: the same code for proxies and for plain objects


@dataclasses.dataclass
class Arguments:
    i: int
    j: int
    key: Any
    value: Any
    more: list[Any]
    numbers: set[int]


arguments = st.builds(
    Arguments,
    i=st.integers(-4, 4),
    j=st.integers(-4, 4),
    key=keys,
    value=values,
    more=st.lists(values, max_size=3),
    numbers=small_sets,
)


def inplace(name: str) -> Callable[[Any, Any], Any]:
    """x <op>= y, where x is a variable; returns whether it stayed the same object."""
    operation = getattr(operator, name)
    return lambda x, y: operation(x, y) is x


def swap(x: Any, a: Arguments) -> None:
    x[a.i], x[a.j] = x[a.j], x[a.i]


def augment(x: Any, a: Arguments) -> None:
    x[a.i] += a.more


def augment_key(x: Any, a: Arguments) -> None:
    x[a.key] += a.more


def write_while_iterating(x: Any, a: Arguments) -> list[Any]:
    seen = []
    for index, item in enumerate(x):
        x[index] = a.i
        seen.append(theus.plain(item))
    return seen


def replace_while_iterating(x: Any, a: Arguments) -> list[Any]:
    seen = []
    for key, item in x.items():
        seen.append((key, copy.deepcopy(theus.plain(item))))
        x[key] = a.i
    return seen


def append_to_each(x: Any, a: Arguments) -> None:
    for item in x + x:
        if isinstance(item, list):
            item.append(a.i)


def set_total(x: Any, a: Arguments) -> None:
    x.total = a.i


def add_total(x: Any, a: Arguments) -> None:
    x.total += a.i


def augment_items(x: Any, a: Arguments) -> None:
    x.items += a.more


def set_items(x: Any, a: Arguments) -> None:
    x.items = a.more


Operation = Callable[[Any, Arguments], Any]
SEQUENCE: list[Operation] = [
    lambda x, a: x.append(a.value),
    lambda x, a: x.insert(a.i, a.value),
    lambda x, a: x.extend(a.more),
    lambda x, a: x.pop(),
    lambda x, a: x.remove(a.i),
    lambda x, a: x.reverse(),
    lambda x, a: x.clear(),
    lambda x, a: x.__setitem__(a.i, a.value),
    lambda x, a: x.__delitem__(a.i),
    lambda x, a: inplace("iadd")(x, a.more),
    lambda x, a: inplace("imul")(x, 2) if len(x) < 5 else None,
    lambda x, a: (a.i in x, x.count(a.i), len(x), bool(x), x == a.more),
    lambda x, a: x.index(a.i),
    swap,
    augment,
    write_while_iterating,
    append_to_each,
]
MAPPING: list[Operation] = [
    lambda x, a: x.__setitem__(a.key, a.value),
    lambda x, a: x.__delitem__(a.key),
    lambda x, a: x.pop(a.key),
    lambda x, a: x.pop(a.key, None),
    lambda x, a: x.popitem(),
    lambda x, a: x.setdefault(a.key, a.value),
    lambda x, a: x.update({a.key: a.value}),
    lambda x, a: x.update([(a.key, a.value)], c=a.i),
    lambda x, a: inplace("ior")(x, {a.key: a.value}),
    lambda x, a: x.clear() if a.i == 0 else None,
    lambda x, a: x.get(a.key),
    lambda x, a: (a.key in x, len(x), bool(x), list(x), list(reversed(x))),
    lambda x, a: [list(x.keys()), x.keys() & {a.key}, a.key in x.keys()],
    lambda x, a: x == {a.key: a.value},
    augment_key,
    replace_while_iterating,
]
BYTES: list[Operation] = [
    lambda x, a: x.append(a.i),
    lambda x, a: x.extend(b"ext" if isinstance(x, bytearray) else array.array("i", [7])),
    lambda x, a: x.__setitem__(a.i, 5),
    lambda x, a: x.__delitem__(slice(a.i, a.j)),
    lambda x, a: x.insert(a.i, 7),
    lambda x, a: x.pop(),
    lambda x, a: x.reverse(),
    lambda x, a: inplace("iadd")(x, copy.copy(x)) if len(x) < 9 else None,
    lambda x, a: (bytes(memoryview(x)), x[::2], len(x)),
]
OPERATIONS: dict[type, list[Operation]] = {
    list: [
        *SEQUENCE,
        lambda x, a: x.sort(key=repr) if all(type(item) is int for item in x) else None,
        lambda x, a: x.sort(),
        lambda x, a: x.__setitem__(slice(a.i, a.j), a.more),
        lambda x, a: x.__setitem__(slice(None), x[::-1]),
        lambda x, a: x.__delitem__(slice(a.i, a.j)),
        lambda x, a: x[a.i : a.j],
        lambda x, a: sorted(x, key=lambda item: repr(type(theus.plain(item)))),
    ],
    collections.deque: [
        *SEQUENCE,
        lambda x, a: x.appendleft(a.value),
        lambda x, a: x.extendleft(a.more),
        lambda x, a: x.popleft(),
        lambda x, a: x.rotate(a.i),
    ],
    dict: MAPPING,
    set: [
        lambda x, a: x.add(a.i),
        lambda x, a: x.discard(a.i),
        lambda x, a: x.remove(a.i),
        lambda x, a: x.update(a.numbers, [a.i]),
        lambda x, a: inplace("ior")(x, a.numbers),
        lambda x, a: inplace("iand")(x, a.numbers),
        lambda x, a: inplace("isub")(x, a.numbers),
        lambda x, a: inplace("ixor")(x, a.numbers),
        lambda x, a: x.symmetric_difference_update(a.numbers),
        lambda x, a: [x | a.numbers, a.numbers - x, x <= a.numbers, x.union([1]), a.i in x],
        lambda x, a: x.clear(),
    ],
    bytearray: BYTES,
    array.array: BYTES,
    tuple: [
        lambda x, a: x + (a.i,),
        lambda x, a: [len(x), a.i in x, x == (1, 2)],
        lambda x, a: [item.append(a.i) for item in x if isinstance(item, list)],
        lambda x, a: operator.setitem(x, 0, 1),
    ],
    **{
        kind: [
            set_total,
            add_total,
            augment_items,
            set_items,
            lambda x, a: x.book(a.i).book(a.j).total,
            lambda x, a: x << a.i,
            lambda x, a: [x.total, len(x.items)],
            lambda x, a: setattr(x, "items", x.items),
            lambda x, a: delattr(x, "nothing"),
        ]
        for kind in OBJECTS
    },
}


def outcome(operation: Operation, x: Any, given: Arguments) -> Any:
    """What it returned, or which exception it raised."""
    given = copy.deepcopy(given)
    try:
        return canonical(theus.plain(operation(x, given)))
    except theus.TheusError:
        raise
    except Exception as error:
        return KeyError if isinstance(error, KeyError) else type(error)
    finally:
        if isinstance(x, theus.SupervisorProxy):
            for value in (given.value, *given.more):  # a copy was stored, at that moment
                spoil(value)


def spoil(value: Any) -> None:
    """Changes what the program still holds of a value that it has given away."""
    if isinstance(value, (list, collections.deque)):
        value.append("spoiled")
    elif isinstance(value, (set, dict)):
        value.clear()
    elif isinstance(value, OBJECTS):
        value.items.append("spoiled")


# --- the machine


Step = Callable[[Any], Any]


@dataclasses.dataclass
class Part:
    """The same thing twice: behind a proxy, and in the model; and how both were reached."""

    transaction: int
    proxy: Any
    plain: Any
    way: tuple[Step, ...]


class Giving(RuleBasedStateMachine):
    """State, and what it should be. Filled in by the test."""

    engine: theus.Engine
    worker: Worker
    parts = Bundle("parts")

    @initialize(target=parts, start=st.dictionaries(keys, values, min_size=1, max_size=4))
    def begin_with(self, start: dict[Any, Any]) -> Any:
        start = {**zoo(), **start}
        self.transaction = 0
        self.ctx: Any = None
        names = ("node", "leaf", "list")
        self.committed: dict[Any, Any] = {
            "node": copy.deepcopy(start),
            "leaf": copy.deepcopy(start),
            "list": list(copy.deepcopy(start).values()),
        }
        with self.engine.transaction() as ctx:
            ctx.clear()
            ctx.node = start
            ctx.leaf = theus.leaf(start)
            ctx.list = list(start.values())
        self.open()
        return multiple(*(self.walk((operator.itemgetter(name),)) for name in names))

    def encoded(self) -> bytes:
        encoded: bytes = _theus.encode_leaf(self.engine.state.to_dict())
        return encoded

    def open(self) -> None:
        self.before = (self.engine.version, self.encoded())
        self.guard = self.engine.transaction()
        self.ctx = self.guard.__enter__()
        self.transaction += 1
        self.model = copy.deepcopy(self.committed)

    def walk(self, way: tuple[Step, ...]) -> Part:
        """Goes that way as far as it still leads to something mutable."""
        proxy, plain = self.ctx, self.model
        for number, step in enumerate(way):
            inner = next((item for other, item in children(plain) if same(other, step)), None)
            reached = step(proxy) if inner is not None else None
            if not isinstance(reached, theus.SupervisorProxy):
                way = way[:number]
                break
            proxy, plain = reached, inner
        return Part(self.transaction, proxy, plain, way)

    def present(self, part: Part) -> Part:
        """The part, or what is there now if its transaction has ended."""
        if self.ctx is None:
            self.open()
        return part if part.transaction == self.transaction else self.walk(part.way)

    def take_now(self, part: Part, down: list[int]) -> Part:
        part = self.present(part)
        for number in down:
            found = children(part.plain)
            if not found:
                break
            step, inner = found[number % len(found)]
            proxy = step(part.proxy)
            if not isinstance(proxy, theus.SupervisorProxy):
                break  # a tuple of frozen values
            part = Part(self.transaction, proxy, inner, (*part.way, step))
        return part

    @rule(
        target=parts,
        part=parts,
        down=st.lists(st.integers(0, 11), max_size=3),
        number=st.integers(0, 40),
        given=arguments,
    )
    def change(self, part: Part, down: list[int], number: int, given: Arguments) -> Any:
        part = self.take_now(part, down)
        if part.plain is self.model:
            return part
        operations = OPERATIONS[type(part.plain)]
        operation = operations[number % len(operations)]
        attached = holds(self.model, part.plain)
        seen = canonical(theus.plain(part.proxy))
        try:
            real = outcome(operation, part.proxy, given)
        except theus.TheusError as error:
            assert "replaced or removed" in str(error) and not attached
            return part
        if not attached:
            # What it was is still read; a write would have raised.
            assert canonical(theus.plain(part.proxy)) == seen
            return part
        assert real == outcome(operation, part.plain, given)
        assert canonical(theus.plain(part.proxy)) == canonical(part.plain)
        return part

    @rule(part=parts)
    def use_after_the_end(self, part: Part) -> None:
        if part.transaction == self.transaction and self.ctx is not None:
            return
        assert "cannot be read" in repr(part.proxy)
        with pytest.raises(theus.TheusError):
            bool(part.proxy)

    @precondition(lambda self: self.ctx is not None)
    @rule()
    def look(self) -> None:
        assert canonical(self.ctx.to_dict()) == canonical(self.model)

    @precondition(lambda self: self.ctx is not None)
    @rule()
    def commit(self) -> None:
        self.guard.__exit__(None, None, None)
        self.ctx = None
        self.committed = self.model
        self.read_elsewhere()
        assert canonical(self.engine.state.to_dict()) == canonical(self.committed)

    @precondition(lambda self: self.ctx is not None)
    @rule(how=st.sampled_from(["exception", "rollback"]))
    def roll_back(self, how: str) -> None:
        if how == "rollback":
            self.ctx.transaction.rollback()
            self.guard.__exit__(None, None, None)
        else:
            self.guard.__exit__(KeyError, KeyError("x"), None)
        self.ctx = None
        assert (self.engine.version, self.encoded()) == self.before

    def read_elsewhere(self) -> None:
        assert canonical(self.worker.do(to_dict)) == canonical(self.committed)

    @invariant()
    def others_see_nothing_yet(self) -> None:
        if getattr(self, "ctx", None) is not None:
            assert self.engine.version == self.before[0]

    def teardown(self) -> None:
        if getattr(self, "ctx", None) is not None:
            self.commit()


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[theus.Engine, Worker]]:
    with theus.Coordinator(capacity="256 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            worker = Worker(multiprocessing.get_context("fork"), engine)
            yield engine, worker
            worker.kill()


def test_transactions_do_what_plain_objects_do(shared: tuple[theus.Engine, Worker]) -> None:
    examples = int(os.environ.get("THEUS_MODEL_EXAMPLES", "0"))

    class Machine(Giving):
        engine, worker = shared

    Machine.TestCase.__name__ = "Machine"
    profile = settings(
        derandomize=not examples,
        max_examples=examples or 200,
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    run_state_machine_as_test(Machine, settings=profile)
