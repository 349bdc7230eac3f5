"""Operations that do not conflict with each other, and resolvers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import pandas as pd
import pytest
import theus
from helpers import Reporter, Worker


@pytest.fixture
def rival(coordinator: theus.Coordinator) -> Iterator[theus.Engine]:
    """Another process's engine, as far as conflicts go."""
    with theus.connect(coordinator.name) as engine:
        yield engine


BIG = 2**80


class Tally:
    def __init__(self, votes: int = 0) -> None:
        self.votes = votes
        self.voters: list[str] = []

    def vote(self, who: str) -> None:
        self.votes += 1
        self.voters.append(who)


class Cautious(Tally):
    """A subclass: has the resolver of its base."""


@theus.resolver(Tally)
def merge_tallies(old: Tally | None, committed: Tally, mine: Tally) -> Tally:
    before = old.votes if old is not None else 0
    assert mine.votes > before, "mine is what the transaction wrote, whatever was merged before"
    committed.votes += mine.votes - before
    committed.voters += mine.voters[before:]
    return committed


# --------------------------------------------------------------------------- they do not conflict

# What both do, on what, and what comes of it when the second comes first.
CASES: dict[str, tuple[Any, tuple[str, Any], tuple[str, Any], Any]] = {
    "int": (10, ("add", 5), ("add", -7), 8),
    "float": (1.5, ("add", 0.25), ("add", 2.0), 3.75),
    "int and float": (10, ("add", 0.5), ("add", 1), 11.5),
    "beyond 64 bits": (2**63 - 2, ("add", 1), ("add", 1), 2**63),
    "big": (BIG, ("add", 1), ("add", 2), BIG + 3),
    "big operand": (1, ("add", BIG), ("add", -BIG), 1),
    "Decimal": (Decimal("1.10"), ("add", Decimal("0.05")), ("add", 2), Decimal("3.15")),
    "Fraction": (Fraction(1, 3), ("add", Fraction(1, 3)), ("add", Fraction(1, 3)), Fraction(1)),
    "NumPy scalar": (1, ("add", np.int64(2)), ("add", np.float64(0.5)), np.float64(3.5)),
    "maximum": (3, ("maximum", 5), ("maximum", 9), 9),
    "maximum without effect": (3, ("maximum", 2), ("add", -2), 2),
    "minimum": (3, ("minimum", 2.5), ("minimum", 1), 1),
    "maximum, big": (3, ("maximum", BIG), ("maximum", 5), BIG),
    "absent": (None, ("add", 5), ("add", 6), 11),
    "absent, maximum": (None, ("maximum", -5), ("maximum", -6), -5),
    "append": (["a"], ("append", "mine"), ("append", ["other"]), ["a", ["other"], "mine"]),
    "append to nothing": (None, ("append", 1), ("append", 2), [2, 1]),
    "insert": ({1}, ("insert", 2), ("insert", 3), {1, 2, 3}),
    "insert into nothing": (None, ("insert", 2), ("insert", 3), {2, 3}),
    "discard": ({1, 2, 3}, ("discard", 1), ("discard", 2), {3}),
    "discard what comes": ({1}, ("discard", 2), ("insert", 2), {1}),
}


@pytest.mark.parametrize("name", CASES)
def test_both_commit(name: str, engine: theus.Engine, rival: theus.Engine) -> None:
    before, mine, others, after = CASES[name]
    if before is not None:
        engine.write("x", before)
    with engine.transaction() as ctx:
        getattr(ctx, mine[0])("x", mine[1])
        rival.run(lambda ctx: getattr(ctx, others[0])("x", others[1]), retries=0)
    now = theus.plain(rival.read("x"))
    assert now == after and type(now) is type(after)
    assert engine.stats()["conflicts"] == 0


def test_arrays(engine: theus.Engine, rival: theus.Engine) -> None:
    engine.update({"sum": np.zeros(3), "most": np.array([1, 5]), "least": np.array([1.0, 5.0])})
    with engine.transaction() as ctx:
        operand = np.array([1.0, 2.0, 3.0])
        ctx.add("sum", operand)
        ctx.maximum("most", np.array([3, 3]))
        ctx.minimum("least", np.array([3.0, 3.0]))
        ctx.add("new", operand)
        operand[:] = 99  # taken at the call
        for _ in range(2):
            rival.run(lambda ctx: ctx.add("sum", np.ones(3)), retries=0)
        rival.run(lambda ctx: ctx.maximum("most", np.array([0, 9])), retries=0)
        rival.run(lambda ctx: ctx.minimum("least", np.array([0.5, 9.0])), retries=0)
        rival.run(lambda ctx: ctx.add("new", np.array([1.0, 1.0, 1.0])), retries=0)
    with rival.snapshot() as ctx:
        assert ctx.sum.tolist() == [3, 4, 5]
        assert ctx.most.tolist() == [3, 9] and ctx.most.dtype == np.int64
        assert ctx.least.tolist() == [0.5, 3.0]
        assert ctx.new.tolist() == [2, 3, 4]


def test_several_in_one_transaction(engine: theus.Engine, rival: theus.Engine) -> None:
    engine.update({"n": 1, "tags": ["a"], "set": {1}})
    with engine.transaction() as ctx:
        ctx.add("n", 1)
        ctx.maximum("n", 10)  # on what is newest: 101 + 1
        for tag in "bcd":
            ctx.append("tags", tag)
        ctx.insert("set", 2)
        ctx.discard("set", 1)
        ctx.insert("set", 3)
        rival.run(lambda ctx: ctx.add("n", 100), retries=0)
        rival.run(lambda ctx: ctx.append("tags", "x"), retries=0)
        rival.run(lambda ctx: ctx.insert("set", 4), retries=0)
    assert engine.read("n") == 102
    assert theus.plain(engine.read("tags")) == ["a", "x", "b", "c", "d"]
    assert theus.plain(engine.read("set")) == {2, 3, 4}


def test_together_with_what_does_conflict(engine: theus.Engine, rival: theus.Engine) -> None:
    engine.update({"n": 1, "tags": ["a"], "y": 1})
    with pytest.raises(theus.ConflictError, match="y was changed"), engine.transaction() as ctx:
        ctx.add("n", 1)
        ctx.append("tags", "b")
        ctx.y += 1
        rival.update({"n": 5, "y": 5})
    assert (engine.read("n"), theus.plain(engine.read("tags"))) == (5, ["a"])


def add_up(engine: theus.Engine, rounds: int) -> None:
    for i in range(rounds):
        with engine.transaction() as ctx:
            ctx.add("n", 1)
            ctx.add("big", BIG)
            ctx.maximum("most", i)
            ctx.append("list", i)
            ctx.insert("set", i)
            ctx.add("array", np.ones(4, dtype=np.int64))


def test_any_number_of_processes_get_on(
    engine: theus.Engine, start_worker: Callable[[], Worker]
) -> None:
    engine.update({"n": 0, "list": [], "array": np.zeros(4, dtype=np.int64), "big": BIG})
    workers = [start_worker() for _ in range(3)]
    rounds = 100
    for worker in workers:
        worker.start(add_up, rounds)
    for worker in workers:
        worker.result()  # no ConflictError in any of them
    assert engine.read("n") == 3 * rounds and engine.read("most") == rounds - 1
    assert engine.read("big") == BIG * (3 * rounds + 1)
    assert sorted(engine.read("list")) == sorted(list(range(rounds)) * 3)
    assert theus.plain(engine.read("set")) == set(range(rounds))
    assert engine.read("array").tolist() == [3 * rounds] * 4


def add_ones(engine: theus.Engine, rounds: int) -> None:
    for _ in range(rounds):
        with engine.transaction() as ctx:
            ctx.add("n", 1)


def test_beyond_64_bits_together(engine: theus.Engine, start_worker: Callable[[], Worker]) -> None:
    workers = [start_worker() for _ in range(3)]
    rounds = 300
    for _ in range(5):
        engine.write("n", 2**63 - 50)
        for worker in workers:
            worker.start(add_ones, rounds)
        for worker in workers:
            worker.result()  # no ConflictError in any of them
        assert engine.read("n") == 2**63 - 50 + 3 * rounds


def count_until_killed(pipe: Any, engine: theus.Engine, name: str) -> None:
    pipe.send_bytes(b"begins")
    while True:
        with engine.transaction() as ctx:
            ctx.add("total", 1)
            ctx.append("log", name)
            ctx.add(("counts", name), 1)


def test_killed_in_the_middle(context: BaseContext, engine: theus.Engine) -> None:
    engine.update({"total": 0, "log": [], "counts": {}})
    for round_ in range(4):
        workers = [Reporter(context, count_until_killed, engine, f"{round_}.{i}") for i in range(2)]
        for worker in workers:
            assert worker.receive() == b"begins"
        target = engine.read("total") + random.randint(1, 200)
        engine.run(lambda ctx, least: ctx.total >= least or ctx.retry(), target, timeout=30)
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
    with engine.snapshot() as ctx:
        assert ctx.total == sum(ctx.counts.values()) == len(ctx.log) > 4
        for name, count in ctx.counts.items():
            assert list(ctx.log).count(name) == count


# ------------------------------------------------------------------------------ what they show


def test_a_read_shows_ones_own_change_and_counts(engine: theus.Engine, rival: theus.Engine) -> None:
    engine.update({"n": 1, "tags": ["a"], "w": np.zeros(2)})
    changes: list[tuple[str, str, Any, Callable[[Any], Any], Any]] = [
        ("n", "add", 5, lambda ctx: ctx.n, 6),
        ("tags", "append", "b", lambda ctx: list(ctx.tags), ["a", "b"]),
        ("w", "add", np.ones(2), lambda ctx: ctx.w.tolist(), [1, 1]),
        ("n", "add", 5, lambda ctx: ctx.transaction.pending_data["n"], 106),
        ("tags", "append", "b", lambda ctx: ctx.transaction.get_shadow("tags"), ["a", "x", "b"]),
    ]
    others = {"n": ("add", 100), "tags": ("append", "x"), "w": ("add", np.ones(2))}
    for path, name, operand, look, shown in changes:
        with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
            getattr(ctx, name)(path, operand)
            assert look(ctx) == shown
            rival.run(lambda ctx, path=path: getattr(ctx, others[path][0])(path, others[path][1]))


def test_after_a_read_it_is_an_ordinary_write(engine: theus.Engine, rival: theus.Engine) -> None:
    engine.update({"n": 1, "tags": ["a"]})
    with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
        assert len(ctx.tags) == 1
        ctx.append("tags", "b")
        rival.run(lambda ctx: ctx.append("tags", "x"))
    with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
        ctx.n = 7
        ctx.add("n", 1)
        rival.run(lambda ctx: ctx.add("n", 1))
    with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
        ctx.append("tags", "b")
        ctx.tags = ["of its own"]
        rival.run(lambda ctx: ctx.append("tags", "y"))
    with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
        ctx.append("tags", "b")
        del ctx.tags
        rival.run(lambda ctx: ctx.append("tags", "z"))
    assert theus.plain(engine.read("tags")) == ["a", "x", "y", "z"]


def test_operands_are_taken_at_the_call(engine: theus.Engine, rival: theus.Engine) -> None:
    engine.update({"tags": []})
    entry = {"at": 1}
    with engine.transaction() as ctx:
        ctx.append("tags", entry)
        entry["at"] = 2
        rival.run(lambda ctx: ctx.append("tags", "x"))
    assert theus.plain(engine.read("tags")) == ["x", {"at": 1}]


def test_within_a_new_mapping(engine: theus.Engine) -> None:
    with engine.transaction() as ctx:
        ctx.m = {"n": 1}
        ctx.add("m.n", 1)
        ctx.add("m.k", 2)
        ctx.append("m.tags", "a")
        ctx.m.n += 1
    assert theus.plain(engine.state["m"]) == {"n": 3, "k": 2, "tags": ["a"]}
    with engine.transaction() as ctx:
        ctx.add("m.n", 1)
        ctx.m.clear()
        ctx.add("m.n", 1)
    assert theus.plain(engine.state["m"]) == {"n": 1}


def test_by_run_and_one_shot(engine: theus.Engine) -> None:
    engine.add("n", 2)
    engine.run(lambda ctx: ctx.add("n", 3))
    assert engine.read("n") == 5


# ------------------------------------------------------------------------------ what they refuse


@pytest.mark.parametrize(
    ("value", "name", "operand", "message"),
    [
        ("text", "add", 1, "x holds str and the operand is int"),
        (True, "add", 1, "x holds bool"),
        (1, "add", "text", "the operand is str"),
        (1, "maximum", [2], "the operand is list"),
        ({"a": 1}, "add", 1, "x holds dict"),
        ([1], "insert", 1, r"insert\(\) works on a set, but x holds list"),
        ({1}, "append", 1, r"append\(\) works on a list, but x holds set"),
        (None, "append", 1, "x holds NoneType"),
        ((), "add", 1, "x holds tuple"),
        ("text", "discard", 1, r"discard\(\) works on a set"),
    ],
)
def test_types_are_checked_at_the_call(
    value: Any, name: str, operand: Any, message: str, engine: theus.Engine
) -> None:
    engine.update({"x": value})
    with engine.transaction() as ctx, pytest.raises(TypeError, match=message):
        getattr(ctx, name)("x", operand)
    assert theus.plain(engine.read("x")) == value
    with engine.snapshot() as ctx, pytest.raises(theus.ReadOnlyError):
        getattr(ctx, name)("x", operand)
    with engine.transaction() as ctx, pytest.raises(KeyError, match="none"):
        getattr(ctx, name)("none.x", operand)


def test_shapes_must_be_equal(engine: theus.Engine) -> None:
    engine.write("x", np.zeros(3))
    with engine.transaction() as ctx, pytest.raises(ValueError, match=r"one shape.*\(3,\).*\(2,\)"):
        ctx.add("x", np.zeros(2))


@pytest.mark.parametrize(
    ("before", "operation", "after"),
    [
        (1, ("add", 1), "text"),
        (1, ("add", 1), None),
        (1, ("add", 1), {"a": 1}),
        (["a"], ("append", 1), {"a"}),
        (["a"], ("append", 1), {"a": 1}),
        ({1}, ("insert", 1), 7),
        (np.zeros(2), ("add", np.ones(2)), np.zeros(3)),
        (np.zeros(2), ("add", np.ones(2)), 5),
    ],
)
def test_another_type_meanwhile_is_a_conflict(
    before: Any, operation: tuple[str, Any], after: Any, engine: theus.Engine, rival: theus.Engine
) -> None:
    engine.write("x", before)
    with pytest.raises(theus.ConflictError, match="x was changed"), engine.transaction() as ctx:
        getattr(ctx, operation[0])("x", operation[1])
        rival.write("x", after)
    assert str(theus.plain(engine.state["x"])) == str(after)


@pytest.mark.parametrize("before", [1, ["a"], BIG])
def test_deleted_meanwhile_is_a_conflict(
    before: Any, engine: theus.Engine, rival: theus.Engine
) -> None:
    engine.write("x", before)
    with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
        if isinstance(before, list):
            ctx.append("x", "b")
        else:
            ctx.add("x", 1)
        rival.run(lambda ctx: ctx.delete("x"))
    assert "x" not in engine.state


def test_discarding_from_nothing_is_a_read(engine: theus.Engine, rival: theus.Engine) -> None:
    engine.write("y", 1)
    with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
        ctx.discard("x", 1)
        ctx.y = 2
        rival.write("x", {1})
    assert theus.plain(engine.read("x")) == {1}


def test_nan(engine: theus.Engine) -> None:
    engine.write("x", 1)
    engine.run(lambda ctx: ctx.maximum("x", math.nan))
    assert engine.read("x") == 1
    engine.add("x", math.nan)
    assert math.isnan(engine.read("x"))
    engine.run(lambda ctx: ctx.minimum("x", 0))
    assert engine.read("x") == 0


# ------------------------------------------------------------------------------ resolvers


@pytest.mark.parametrize("cls", [Tally, Cautious])
def test_a_resolver_merges(cls: type[Tally], engine: theus.Engine, rival: theus.Engine) -> None:
    engine.write("tally", cls())
    with engine.transaction() as ctx:
        ctx.tally.vote("mine")
        for i in range(3):
            rival.run(lambda ctx, i=i: ctx.tally.vote(f"other {i}"))
    tally = theus.plain(engine.read("tally"))
    assert type(tally) is cls and tally.votes == 4
    assert tally.voters == ["other 0", "other 1", "other 2", "mine"]


def test_both_insert(engine: theus.Engine, rival: theus.Engine) -> None:
    with engine.transaction() as ctx:
        ctx.tally = Tally(2)
        rival.write("tally", Tally(3))
    assert theus.plain(engine.read("tally")).votes == 5


def vote(engine: theus.Engine, who: str, rounds: int) -> None:
    for _ in range(rounds):
        with engine.transaction() as ctx:
            ctx.tally.vote(who)


def test_many_voters(engine: theus.Engine, start_worker: Callable[[], Worker]) -> None:
    engine.write("tally", Tally())
    workers = [start_worker() for _ in range(2)]
    for i, worker in enumerate(workers):
        worker.start(vote, str(i), 100)
    for worker in workers:
        worker.result()
    tally = theus.plain(engine.read("tally"))
    assert tally.votes == 200 and sorted(tally.voters) == ["0"] * 100 + ["1"] * 100


class Difficult:
    how = "merges"

    def __init__(self, n: int = 0) -> None:
        self.n = n


def conflict_of(engine: theus.Engine, rival: theus.Engine) -> None:
    engine.write("x", Difficult())
    with engine.transaction() as ctx:
        ctx.x.n = 1
        rival.run(lambda ctx: setattr(ctx.x, "n", 2))


def test_a_resolver_may_refuse_or_fail(
    engine: theus.Engine, rival: theus.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from theus import _operations

    monkeypatch.setattr(_operations, "_resolvers", {})
    with pytest.raises(theus.ConflictError):
        conflict_of(engine, rival)

    answers: list[Callable[[], Any]] = []

    @theus.resolver(Difficult)
    def merge(old: Difficult, committed: Difficult, mine: Difficult) -> Any:
        assert (old.n, committed.n, mine.n) == (0, 2, 1)
        return answers[-1]()

    answers.append(lambda: NotImplemented)
    with pytest.raises(theus.ConflictError):
        conflict_of(engine, rival)
    answers.append(lambda: None)
    with pytest.raises(TypeError, match=r"Difficult returned None for x; .*NotImplemented"):
        conflict_of(engine, rival)
    answers.append(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        conflict_of(engine, rival)
    assert "for x" in str(getattr(raised.value, "__notes__", "for x"))
    answers.append(lambda: Difficult(lambda: 0))  # type: ignore[arg-type]
    with pytest.raises(theus.EncodeError, match="x was changed by others too"):
        conflict_of(engine, rival)
    assert theus.plain(engine.read("x")).n == 2, "each of them was rolled back"
    answers.append(lambda: Difficult(12))
    conflict_of(engine, rival)
    assert theus.plain(engine.read("x")).n == 12
    answers.append(lambda: engine.run(lambda ctx: None))
    with pytest.raises(theus.TheusError, match="already open"):
        conflict_of(engine, rival)


def test_only_of_its_class(engine: theus.Engine, rival: theus.Engine) -> None:
    engine.write("x", Tally())
    with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
        ctx.x.vote("mine")
        rival.write("x", [1])
    with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
        ctx.x = Tally(1)
        rival.run(lambda ctx: ctx.delete("x"))


def test_what_is_no_class_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a class"):
        theus.resolver("Tally")  # type: ignore[type-var]
    with pytest.raises(TypeError, match="mapping node"):
        theus.resolver(dict)
    with pytest.raises(TypeError, match="is a function"):
        theus.resolver(Difficult)(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "operand", "result"),
    [
        (2**63 - 1, np.int64(1), 2**63),
        (np.int8(127), 1, 128),
        (np.uint8(0), np.int8(-1), -1),
        (None, np.int64(2**62), 2**62),
    ],
)
def test_numpy_integers_do_not_wrap(
    value: Any, operand: Any, result: int, engine: theus.Engine, rival: theus.Engine
) -> None:
    if value is not None:
        engine.write("n", value)
    with engine.transaction() as ctx:
        ctx.add("n", operand)
        rival.run(lambda ctx: ctx.add("n", np.int64(2**62)), retries=0)
    assert engine.read("n") == result + 2**62 and type(engine.read("n")) is int


def test_a_resolver_does_not_make_mappings(
    engine: theus.Engine, rival: theus.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from theus import _operations

    monkeypatch.setattr(_operations, "_resolvers", {})
    answers: list[Any] = [theus.leaf({"a": 1}), {"a": 1}]
    theus.resolver(Difficult)(lambda old, committed, mine: answers.pop())
    with pytest.raises(TypeError, match=r"returned a dict for x, .*theus\.leaf"):
        conflict_of(engine, rival)
    conflict_of(engine, rival)
    assert theus.plain(engine.read("x")) == {"a": 1}


# ------------------------------------------------------------------------------ kinds of values


@pytest.mark.parametrize("name", ["add", "maximum", "minimum"])
@pytest.mark.parametrize(
    ("value", "operand"),
    [
        (pd.Index([1, 2]), pd.Index([10, 20])),
        (pd.Series([1, 2]), pd.Series([10, 20])),
        (np.bool_(False), np.bool_(True)),
        (np.str_("a"), np.str_("b")),
        (np.timedelta64(5, "ns"), np.timedelta64(5, "ns")),
        (np.zeros(2), [1, 2]),
        (np.zeros(2), 1),
        (1, np.zeros(2)),
        (True, 1),
    ],
    ids=str,
)
def test_what_cannot_be_combined_is_refused_at_the_call(
    name: str, value: Any, operand: Any, engine: theus.Engine
) -> None:
    engine.write("x", value)
    with engine.transaction() as ctx, pytest.raises(TypeError, match="x holds .* the operand is"):
        getattr(ctx, name)("x", operand)
    assert str(engine.read("x")) == str(value)


@pytest.mark.parametrize("operand", [np.bool_(True), np.timedelta64(5, "ns"), "a", True])
def test_what_is_no_number_does_not_begin_one(operand: Any, engine: theus.Engine) -> None:
    with engine.transaction() as ctx, pytest.raises(TypeError, match="x holds nothing"):
        ctx.add("x", operand)
    assert "x" not in engine.state


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("meanwhile", [False, True])
def test_nan_gives_way_whatever_the_order(
    look: bool, meanwhile: bool, engine: theus.Engine, rival: theus.Engine
) -> None:
    engine.update({"high": 0.0, "low": 0.0})
    with engine.transaction() as ctx:
        for operand in (math.nan, 5.0, math.nan):
            ctx.maximum("high", operand)
            ctx.minimum("low", -operand)
            ctx.maximum("new", operand)
        if meanwhile and not look:
            rival.add("high", 1)
            rival.add("low", -1)
        if look:
            assert (ctx.high, ctx.low, ctx.new) == (5.0, -5.0, 5.0)
    assert engine.state.to_dict() == {"high": 5.0, "low": -5.0, "new": 5.0}


def test_ints_and_floats_are_added_one_by_one(engine: theus.Engine, rival: theus.Engine) -> None:
    """Together the operands would be rounded: -2**63 + 1.5 is -2**63."""
    engine.write("x", 2**62)
    with engine.transaction() as ctx:
        ctx.add("x", -(2**63))
        ctx.add("x", 1.5)
        ctx.add("x", 1.5)
        rival.run(lambda other: other.maximum("x", 2**63 - 1))
    assert engine.read("x") == 2.0


@pytest.mark.parametrize(
    ("name", "operand", "after"),
    [
        ("add", Decimal("1.5"), 1.5),
        ("maximum", 5, 1j),
        ("add", 2**1025, 1.5),
        ("add", np.full(2, 0.5), np.zeros(2, int)),
    ],
)
def test_a_number_of_another_type_meanwhile_is_a_conflict(
    name: str, operand: Any, after: Any, engine: theus.Engine, rival: theus.Engine
) -> None:
    with pytest.raises(theus.ConflictError, match="x was changed"), engine.transaction() as ctx:
        getattr(ctx, name)("x", operand)
        rival.write("x", after)
    assert str(engine.read("x")) == str(after)


@pytest.mark.parametrize("cls", [int, float, str, bytes, bool, type(None)])
def test_resolvers_are_for_classes(cls: type) -> None:
    with pytest.raises(TypeError, match=f"values of type {cls.__name__}"):
        theus.resolver(cls)
