"""Objects as leaves: what stays one object, what is removed, and what may be looked at for free."""

from __future__ import annotations

import collections
import fractions
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import theus


class Account:
    limit = 5

    def __init__(self, balance: int = 0) -> None:
        self.balance = balance
        self.log: list[int] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Account) and self.__dict__ == other.__dict__

    def pay(self, amount: int) -> None:
        self.balance += amount
        self.log.append(amount)

    def me(self) -> Account:
        return self


class Tree:
    def __init__(self, value: int, parent: Any = None) -> None:
        self.value, self.parent = value, parent
        self.children: list[Tree] = []


class Rows(list[Any]):
    pass


class Table(dict[Any, Any]):
    pass


@pytest.fixture(scope="module")
def shared() -> Iterator[theus.Engine]:
    with theus.Coordinator(capacity="64 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            yield engine


@pytest.fixture
def engine(shared: theus.Engine) -> Iterator[theus.Engine]:
    yield shared
    shared.run(lambda ctx: ctx.clear())


# ------------------------------------------------------------------------- one object


def test_a_new_object_may_refer_to_parts_of_the_leaf(engine: theus.Engine) -> None:
    engine.write("root", Tree(1))
    with engine.transaction() as ctx:
        ctx.root.children.append(Tree(2, ctx.root))
        ctx.root.children.append(Tree(3, ctx.root.children[0]))
        ctx.root.children[0].parent.value = 77
        assert ctx.root.value == 77
    root = engine.read("root")
    assert root.value == 77 and root.children[0].parent is root
    assert root.children[1].parent is root.children[0]


def test_a_list_may_be_made_a_part_of_itself(engine: theus.Engine) -> None:
    engine.write("rows", [[1]])
    with engine.transaction() as ctx:
        ctx.rows.append([ctx.rows, ctx.rows[0]])
        ctx.rows[0].append(2)
    rows = engine.read("rows")
    assert rows[1][0] is rows and rows[1][1] is rows[0] == [1, 2]


def test_what_comes_from_another_leaf_is_a_copy(engine: theus.Engine) -> None:
    engine.update({"a": [[1]], "b": [[2]]})
    with engine.transaction() as ctx:
        ctx.a.append([ctx.b[0]])
        ctx.b[0].append(3)
    assert engine.read("a") == [[1], [[2]]] and engine.read("b") == [[2, 3]]


def test_parts_of_an_array_of_objects_stay_themselves(engine: theus.Engine) -> None:
    boxes = np.empty(2, object)
    boxes[0], boxes[1] = [1], [2]
    engine.write("boxes", boxes)
    with engine.transaction() as ctx:
        second = ctx.boxes[1]
        ctx.boxes[0], ctx.boxes[1] = ctx.boxes[1], ctx.boxes[0]
        second.append(8)
        np.max(ctx.boxes).append(9)
    assert engine.read("boxes").tolist() == [[2, 8, 9], [1]]


# ------------------------------------------------------------------------- begun anew


@pytest.mark.parametrize(
    ("before", "arguments", "after"),
    [
        (Account(3), (7,), Account(7)),
        ([1, 2], ([9],), [9]),
        ({1, 2}, ([9],), {9}),
        (collections.deque([1]), ([9],), collections.deque([9])),
        (theus.leaf({"a": 1}), ({"b": 2},), {"a": 1, "b": 2}),
    ],
)
def test_initializers_change_the_object(
    before: Any, arguments: tuple[Any, ...], after: Any, engine: theus.Engine
) -> None:
    engine.write("x", before)
    with engine.snapshot() as ctx, pytest.raises(theus.ReadOnlyError):
        ctx.x.__init__(*arguments)
    with engine.transaction() as ctx:
        ctx.x.__init__(*arguments)
        assert theus.plain(ctx.x) == after
    assert engine.read("x") == after


def test_the_dict_of_an_object(engine: theus.Engine) -> None:
    engine.write("x", Account(3))
    with engine.transaction() as ctx:
        assert ctx.x == Account(3) and Account(3) == ctx.x and [Account(3)] == [ctx.x]
        assert vars(ctx.x) == {"balance": 3, "log": []}
        ctx.x.__dict__["log"].append(1)
        vars(ctx.x)["owner"] = "ann"
    assert vars(engine.read("x")) == {"balance": 3, "log": [1], "owner": "ann"}
    with engine.snapshot() as ctx, pytest.raises(theus.ReadOnlyError):
        ctx.x.__dict__["owner"] = "bob"
    with engine.transaction() as ctx, pytest.raises(AttributeError):
        ctx.__dict__  # noqa: B018


def test_rows_take_assignments(engine: theus.Engine) -> None:
    row = np.array([(1, 2.0)], dtype="i4,f8")[0]
    engine.update({"row": row, "rows": [row]})
    with engine.transaction() as ctx:
        ctx.row["f0"] = 5
        ctx.row[1] = 6.0
        ctx.rows[0]["f0"] = 7
    assert engine.read("row").tolist() == (5, 6.0) and engine.read("rows")[0]["f0"] == 7


# ------------------------------------------------------------------------- removed


@pytest.mark.parametrize(
    "make",
    [
        lambda: collections.OrderedDict(a=[1]),
        lambda: collections.defaultdict(list, a=[1]),
        lambda: Table(a=[1]),
        lambda: {"a": [1]},
    ],
)
@pytest.mark.parametrize("remove", [lambda v: v.clear(), lambda v: v.__setitem__(0, 5)])
@pytest.mark.parametrize(
    "write",
    [
        lambda d: d["a"].append(2),
        lambda d: d.get("a").append(2),
        lambda d: [item.append(2) for item in d.values()],
        lambda d: [item.append(2) for _, item in d.items()],
        lambda d: d.update(b=1),
        lambda d: d.popitem(),
        lambda d: d.clear(),
        lambda d: d.setdefault("b", 1),
    ],
)
def test_a_removed_container_and_what_is_in_it(
    make: Any, remove: Any, write: Any, engine: theus.Engine
) -> None:
    engine.write("v", [make()])
    with engine.transaction() as ctx:
        held = ctx.v[0]
        remove(ctx.v)
        with pytest.raises(theus.TheusError, match="replaced or removed"):
            write(held)
        assert theus.plain(held) == {"a": [1]}


def test_a_defaultdict_stays_one(engine: theus.Engine) -> None:
    engine.update({"d": collections.defaultdict(list, a=[1]), "m": {"b": [2]}})
    with engine.transaction() as ctx:
        ctx.d = ctx.d | ctx.m
        ctx.e = ctx.m | theus.plain(ctx.d)
    assert engine.read("d") == {"a": [1], "b": [2]}
    assert type(engine.read("d")) is collections.defaultdict


# ------------------------------------------------------------------------- escapes


class Bound:
    def __init__(self) -> None:
        self.append = [1].append


@pytest.mark.parametrize(
    "value",
    [[1].append, [[1].append], (5, [1].append), slice([1], 2), [slice([1], 2)]],
    ids=str,
)
def test_what_only_looks_immutable(value: Any, engine: theus.Engine) -> None:
    """A bound method of a list, a slice of lists: their parts are not shared by readers."""
    engine.write("x", value)
    before = describe(engine.read("x"))

    def spoil(item: Any) -> None:
        if isinstance(item, types.BuiltinMethodType):
            item(9)
        elif isinstance(item, slice):
            item.start.append(9)
        else:
            spoil(item[-1])

    for read in (lambda: engine.read("x"), lambda: theus.plain(engine.state["x"])):
        spoil(read())
        assert describe(engine.read("x")) == before
    with pytest.raises(ZeroDivisionError), engine.transaction() as ctx:
        spoil(theus.plain(ctx.x))
        raise ZeroDivisionError
    assert describe(engine.read("x")) == before


def describe(value: Any) -> Any:
    if isinstance(value, types.BuiltinMethodType):
        return value.__self__
    if isinstance(value, slice):
        return value.start
    return [describe(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_frozen_by_convention(engine: theus.Engine) -> None:
    engine.write("x", fractions.Fraction(1, 2))
    engine.read("x")._numerator = 7
    engine.run(lambda ctx: setattr(ctx.x, "_numerator", 7))
    assert engine.read("x") == fractions.Fraction(1, 2)
    assert engine.state["x"] == fractions.Fraction(1, 2)


# ------------------------------------------------------------------------- what it costs


def seconds(work: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


LARGE: dict[str, Callable[[int], Any]] = {
    "OrderedDict": lambda n: collections.OrderedDict((i, [i]) for i in range(n)),
    "defaultdict": lambda n: collections.defaultdict(list, ((i, [i]) for i in range(n))),
    "dict class": lambda n: Table((i, [i]) for i in range(n)),
    "list class": lambda n: Rows([i] for i in range(n)),
    "deque": lambda n: collections.deque([i] for i in range(n)),
    "objects": lambda n: [Account(i) for i in range(n)],
}


def change_each(ctx: Any) -> None:
    for item in ctx.v.values() if isinstance(ctx.v, dict) else ctx.v:
        item.pay(1) if isinstance(item, Account) else item.append(1)
    for index in range(len(ctx.v)):
        ctx.v[index].pay(1) if isinstance(ctx.v[index], Account) else ctx.v[index].append(1)


def add_to_new_keys(ctx: Any) -> None:
    for index in range(len(ctx.v)):
        ctx.v[-1 - index].append(1)


def read_each(engine: theus.Engine) -> None:
    with engine.snapshot() as ctx:
        for index in range(len(ctx.v)):
            ctx.v[index].me() if isinstance(ctx.v[index], Account) else ctx.v[index][0]


@pytest.mark.parametrize("kind", LARGE)
def test_working_through_a_leaf_is_linear(kind: str, engine: theus.Engine) -> None:
    """16 times as much takes about 16 times as long; going through all of it for each would take
    256 times as long."""
    took = {}
    for count in (100, 1600):
        engine.write("v", LARGE[kind](count))
        took[count] = seconds(lambda: (engine.run(change_each), read_each(engine)))
        if kind == "defaultdict":
            took[count] += seconds(lambda: engine.run(add_to_new_keys))
    assert took[1600] < 80 * took[100]


def test_rows_that_have_moved_are_found(engine: theus.Engine) -> None:
    took = {}
    for count in (100, 1600):
        engine.write("rows", [{"n": number, "seen": []} for number in range(count)])

        def work(ctx: Any) -> None:
            held = list(ctx.rows)
            ctx.rows.insert(0, {"n": -1, "seen": []})
            for row in held:
                row["n"] = -row["n"]
            for row in ctx.rows[:]:
                if row["n"] % 2:
                    row["seen"].append(1)

        took[count] = seconds(lambda: engine.run(work))
    assert took[1600] < 80 * took[100]


def test_a_moved_row_says_where_it_is(engine: theus.Engine) -> None:
    engine.write("rows", [{"n": 0}, {"n": 1}])
    with engine.transaction() as ctx:
        row = ctx.rows[1]
        ctx.rows.insert(0, {"n": -1})
        row["n"] = 5
        assert "('rows', 2)" in repr(row)
    assert engine.read("rows")[2] == {"n": 5}


def test_a_snapshot_decodes_an_object_once(engine: theus.Engine) -> None:
    engine.write("x", Account(3))
    with engine.snapshot() as ctx:
        assert theus._theus.parts(ctx.x)[0] is theus._theus.parts(ctx.x)[0]
        with pytest.raises(theus.ReadOnlyError):
            ctx.x.pay(1)
        assert ctx.x.balance == 3 and ctx.x.log == []
