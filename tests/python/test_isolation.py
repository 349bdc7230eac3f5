"""Promise 1, 3 and 8: snapshots, serializability, what conflicts and what never does.

The transaction under test is the test's own; `other` is another process, which commits meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import theus
from helpers import Worker, delete, read, write

ISOLATIONS = ("serializable", "snapshot")


@pytest.fixture
def initial() -> dict[str, Any]:
    return {
        "n": 0,
        "a": 50,
        "b": 50,
        "m": {"k1": 1, "k2": 2, "k3": 3},
        "empty": {},
        "tree": {"x": {"y": {"z": 1, "w": 1}, "v": 1}, "u": {}},
        "tags": ["old"],
    }


@pytest.fixture
def engine(engine: theus.Engine, initial: dict[str, Any]) -> theus.Engine:
    engine.update(initial)
    return engine


@pytest.fixture
def interfered(engine: theus.Engine, other: Worker) -> Callable[..., bool]:
    """Runs before(ctx); then `other` does its part; then after(ctx). Returns: conflicted?"""

    def run(
        before: Callable[[Any], object],
        interference: tuple[Any, ...],
        after: Callable[[Any], object] = lambda ctx: ctx.write("n", -1),
        isolation: str = "serializable",
    ) -> bool:
        try:
            with engine.transaction(isolation=isolation) as ctx:
                before(ctx)
                other.do(*interference)
                after(ctx)
        except theus.ConflictError:
            return True
        return False

    return run


# --- anomalies


def test_lost_update(engine: theus.Engine, other: Worker) -> None:
    with pytest.raises(theus.ConflictError) as caught:
        with engine.transaction() as ctx:
            seen = ctx.n
            other.do(write, "n", 10)
            ctx.n = seen + 1
    assert engine.state["n"] == 10
    assert list(caught.value.paths) == ["n"]
    assert caught.value.winner_pid == other.pid
    assert caught.value.snapshot_version == engine.version - 1


def test_lost_update_under_snapshot_isolation(engine: theus.Engine, other: Worker) -> None:
    with pytest.raises(theus.ConflictError):
        with engine.transaction(isolation="snapshot") as ctx:
            seen = ctx.n
            other.do(write, "n", 10)
            ctx.n = seen + 1
    assert engine.state["n"] == 10


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_write_skew(isolation: str, engine: theus.Engine, other: Worker) -> None:
    """Each of two may give away what both have, if it sees that there is enough."""
    conflicted = False
    try:
        with engine.transaction(isolation=isolation) as ctx:
            assert ctx.a + ctx.b >= 100
            other.do(_withdraw, "a")
            ctx.b -= 100
    except theus.ConflictError:
        conflicted = True
    total = engine.state["a"] + engine.state["b"]
    if isolation == "serializable":
        assert conflicted
        assert total == 0
    else:
        assert not conflicted
        assert total == -100


def _withdraw(engine: theus.Engine, account: str) -> None:
    with engine.transaction() as ctx:
        assert ctx.a + ctx.b >= 100
        ctx[account] -= 100


# More than the arbiter walks under its lock: each process validates its own.
MANY = 3000


def test_write_skew_over_a_large_read_set(engine: theus.Engine, other: Worker) -> None:
    engine.write("many", {f"k{i}": 0 for i in range(MANY)})
    with pytest.raises(theus.ConflictError) as caught, engine.transaction() as ctx:
        assert sum(ctx.many.values()) == 0
        other.do(_take_if_nobody_has, "k2999")
        ctx.many.k0 = 1
    assert caught.value.paths == ("many.k2999",)
    assert caught.value.winner_pid == other.pid
    assert sum(engine.state["many"].values()) == 1
    # And what was not read does not matter.
    with engine.transaction() as ctx:
        assert sum(ctx.many[f"k{i}"] for i in range(MANY - 1)) == 0
        assert not any(f"absent {i}" in ctx.many for i in range(MANY))
        other.do(write, "many.k2999", 7)
        other.do(write, "many.new", 8)
        ctx.many.k0 = 1
    assert engine.state["many"]["k0"] == 1


def _take_if_nobody_has(engine: theus.Engine, mine: str) -> None:
    with engine.transaction() as ctx:
        if sum(ctx.many.values()) == 0:
            ctx.many[mine] = 1


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_read_skew(isolation: str, engine: theus.Engine, other: Worker) -> None:
    with engine.transaction(isolation=isolation) as ctx:
        a = ctx.a
        other.do(_transfer, 30)
        assert a + ctx.b == 100
    assert (engine.state["a"], engine.state["b"]) == (20, 80)


def _transfer(engine: theus.Engine, amount: int) -> None:
    with engine.transaction() as ctx:
        ctx.a -= amount
        ctx.b += amount


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_reading_twice_gives_the_same(
    isolation: str, engine: theus.Engine, other: Worker, initial: dict[str, Any]
) -> None:
    with engine.transaction(isolation=isolation) as ctx:
        before = theus.plain(ctx.m)
        other.do(write, "m.k1", 100)
        other.do(write, "m.k4", 4)
        other.do(delete, "m.k2")
        other.do(write, "n", 100)
        other.do(delete, "tags")
        assert theus.plain(ctx.m) == before == initial["m"]
        # And what is read for the first time is of the same version.
        assert ctx.n == 0
        assert theus.plain(ctx.tags) == ["old"]
    assert theus.plain(engine.state["m"]) == {"k1": 100, "k3": 3, "k4": 4}


def test_read_only_is_never_aborted_and_makes_no_version(
    engine: theus.Engine, other: Worker, initial: dict[str, Any]
) -> None:
    with engine.transaction() as ctx:
        assert list(ctx.m) == ["k1", "k2", "k3"]
        for value in range(50):
            other.do(write, "m.k1", value)
            other.do(write, ("m", f"new{value}"), value)
            assert ctx.m.k1 == 1
            assert len(ctx.m) == 3
        version = engine.version
    assert engine.version == version


def test_snapshot_stays_and_does_not_write(engine: theus.Engine, other: Worker) -> None:
    with engine.snapshot() as ctx:
        other.do(write, "m", {"k9": 9})
        assert theus.plain(ctx.m) == {"k1": 1, "k2": 2, "k3": 3}
        with pytest.raises(theus.ReadOnlyError):
            ctx.n = 1
        with pytest.raises(theus.ReadOnlyError):
            ctx.m.k1 = 1
        with pytest.raises(theus.ReadOnlyError):
            ctx.tags.append("new")
    assert theus.plain(engine.state["m"]) == {"k9": 9}
    assert engine.state["n"] == 0
    assert theus.plain(engine.state["tags"]) == ["old"]


def test_own_writes_are_seen_and_nobody_elses(engine: theus.Engine, other: Worker) -> None:
    with engine.transaction() as ctx:
        ctx.n = 7
        ctx.m.k4 = 4
        del ctx.m["k1"]
        ctx.tags.append("new")
        assert ctx.n == 7
        assert list(ctx.m) == ["k2", "k3", "k4"]
        assert other.do(read, "n") == 0
        assert other.do(read, "m") == {"k1": 1, "k2": 2, "k3": 3}
        assert other.do(read, "tags") == ["old"]
    assert other.do(read, "n") == 7
    assert other.do(read, "m") == {"k2": 2, "k3": 3, "k4": 4}
    assert other.do(read, "tags") == ["old", "new"]


def test_commits_are_seen_at_once_by_everybody(engine: theus.Engine, other: Worker) -> None:
    for value in range(100):
        if value % 2:
            engine.write("n", value)
            assert other.do(read, "n") == value
        else:
            other.do(write, "n", value)
            assert engine.read("n", None) == value


# --- what conflicts and what does not


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_blind_writes_to_one_path_conflict(isolation: str, interfered: Any) -> None:
    assert interfered(lambda ctx: None, (write, "n", 1), isolation=isolation)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_write_conflicts_with_a_delete(isolation: str, interfered: Any) -> None:
    assert interfered(lambda ctx: None, (delete, "n"), isolation=isolation)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_delete_conflicts_with_a_write(isolation: str, interfered: Any) -> None:
    assert interfered(
        lambda ctx: None, (write, "m.k1", 9), lambda ctx: ctx.delete("m.k1"), isolation=isolation
    )


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_two_inserts_of_one_key_conflict(isolation: str, interfered: Any) -> None:
    assert interfered(
        lambda ctx: None, (write, "m.k4", 9), lambda ctx: ctx.write("m.k4", 8), isolation=isolation
    )


def test_a_read_conflicts_with_a_write(interfered: Any) -> None:
    assert interfered(lambda ctx: ctx.a, (write, "a", 51))


def test_a_read_conflicts_with_a_write_of_the_same_value(interfered: Any) -> None:
    assert interfered(lambda ctx: ctx.a, (write, "a", 50))


def test_absence_is_a_read(interfered: Any) -> None:
    assert interfered(lambda ctx: ctx.m.get("k4"), (write, "m.k4", 4))
    assert interfered(lambda ctx: ctx.read("m.k5", None), (write, "m.k5", 5))


def test_a_list_is_one_value(interfered: Any) -> None:
    assert interfered(lambda ctx: ctx.tags[0], (write, "tags", ["old", "new"]))


def test_snapshot_isolation_checks_only_writes(interfered: Any) -> None:
    def before(ctx: Any) -> None:
        assert ctx.a == 50
        assert list(ctx.m) == ["k1", "k2", "k3"]

    assert not interfered(before, (write, "a", 51), isolation="snapshot")
    assert not interfered(lambda ctx: list(ctx.m), (write, "m.k4", 4), isolation="snapshot")


def test_iteration_against_insert_and_delete(interfered: Any, engine: theus.Engine) -> None:
    assert interfered(lambda ctx: list(ctx.m), (write, "m.k4", 4))
    assert interfered(lambda ctx: list(ctx.m), (delete, "m.k4"))
    assert interfered(lambda ctx: list(ctx.m.keys()), (write, "m.k5", 5))
    assert interfered(lambda ctx: list(ctx.empty), (write, "empty.k", 1))


def test_iteration_over_keys_against_nothing_else(interfered: Any) -> None:
    assert not interfered(lambda ctx: list(ctx.m), (write, "m.k1", 100))
    assert not interfered(lambda ctx: list(ctx.m), (write, "a", 1))
    assert not interfered(lambda ctx: list(ctx), (write, "m.k6", 1))


def test_iteration_over_values_is_a_read_of_them(interfered: Any) -> None:
    assert interfered(lambda ctx: list(ctx.m.values()), (write, "m.k1", 100))
    assert interfered(lambda ctx: list(ctx.m.items()), (write, "m.k2", 100))


def test_iteration_that_stopped_early(interfered: Any) -> None:
    """It depends on the keys it passed, not on what comes later."""

    def first_key(ctx: Any) -> Iterator[str]:
        iterator = iter(ctx.m)
        assert next(iterator) == "k1"
        return iterator

    assert not interfered(first_key, (write, "m.k4", 4))
    assert not interfered(first_key, (delete, "m.k3"))
    assert interfered(first_key, (delete, "m.k1"))


def test_iteration_from_the_end(interfered: Any, engine: theus.Engine) -> None:
    """It depends on what it passed and on nothing having come behind that."""

    def last_key(ctx: Any) -> str:
        return next(reversed(ctx.m))

    assert not interfered(last_key, (delete, "m.k1"))
    assert not interfered(last_key, (write, "m.k3", 100))
    assert interfered(last_key, (write, "m.k4", 4))
    assert interfered(last_key, (delete, "m.k4"))
    assert interfered(lambda ctx: next(reversed(ctx.m.items())), (write, "m.k3", 5))
    assert interfered(lambda ctx: list(reversed(ctx.m)), (delete, "m.k2"))
    assert interfered(lambda ctx: list(reversed(ctx.m)), (write, "m.k5", 5))
    assert list(engine.read("m")) == ["k3", "k5"]


def test_popitem_depends_on_the_end(interfered: Any, engine: theus.Engine) -> None:
    def pop(ctx: Any) -> None:
        ctx.m.popitem()

    def pop_own(ctx: Any) -> None:
        ctx.m.own = 1
        assert ctx.m.popitem() == ("own", 1)

    assert interfered(pop, (write, "m.k4", 4))
    assert list(engine.read("m")) == ["k1", "k2", "k3", "k4"]
    assert interfered(pop, (delete, "m.k4"))
    assert interfered(pop, (write, "m.k3", 30))
    assert not interfered(pop_own, (write, "m.k4", 4))
    assert not interfered(pop, (delete, "m.k1"))
    assert list(engine.read("m")) == ["k2", "k3"]
    assert not interfered(pop, (write, "m.k2", 20))
    assert list(engine.read("m")) == ["k2"]


def test_in_depends_on_that_key(interfered: Any) -> None:
    assert interfered(lambda ctx: "k4" in ctx.m, (write, "m.k4", 4))
    assert interfered(lambda ctx: "k4" in ctx.m, (delete, "m.k4"))
    assert not interfered(lambda ctx: "k1" in ctx.m, (write, "m.k1", 100))
    assert not interfered(lambda ctx: "k1" in ctx.m, (write, "m.k5", 5))
    assert not interfered(lambda ctx: "k6" in ctx.m, (delete, "m.k5"))


def test_len_depends_on_the_count(interfered: Any) -> None:
    assert interfered(lambda ctx: len(ctx.m), (write, "m.k4", 4))
    assert interfered(lambda ctx: len(ctx.m), (delete, "m.k4"))
    assert not interfered(lambda ctx: len(ctx.m), (write, "m.k1", 100))
    assert not interfered(lambda ctx: len(ctx.m), (write, "empty.k", 100))


def test_bool_depends_on_emptiness(interfered: Any) -> None:
    assert interfered(lambda ctx: bool(ctx.empty), (write, "empty.k1", 1))
    assert not interfered(lambda ctx: bool(ctx.empty), (write, "empty.k2", 1))
    assert not interfered(lambda ctx: bool(ctx.empty), (delete, "empty.k1"))
    assert interfered(lambda ctx: bool(ctx.empty), (delete, "empty.k2"))


# --- ancestors and descendants


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("ancestor", ["tree", "tree.x", "tree.x.y"])
@pytest.mark.parametrize("how", ["replace", "delete"])
def test_ancestor_goes_while_a_descendant_is_written(
    isolation: str, ancestor: str, how: str, interfered: Any, engine: theus.Engine
) -> None:
    gone = (delete, ancestor) if how == "delete" else (write, ancestor, {})
    assert interfered(
        lambda ctx: None, gone, lambda ctx: ctx.write("tree.x.y.z", 2), isolation=isolation
    )
    assert engine.read(ancestor, None) == (None if how == "delete" else {})


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("ancestor", ["tree", "tree.x", "tree.x.y"])
@pytest.mark.parametrize("how", ["replace", "delete"])
def test_descendant_is_written_while_its_ancestor_goes(
    isolation: str, ancestor: str, how: str, interfered: Any, engine: theus.Engine
) -> None:
    def gone(ctx: Any) -> None:
        ctx.delete(ancestor) if how == "delete" else ctx.write(ancestor, {})

    assert interfered(lambda ctx: None, (write, "tree.x.y.z", 2), gone, isolation=isolation)
    assert engine.read("tree.x.y.z", None) == 2


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_clear_conflicts_with_a_write_below(isolation: str, interfered: Any) -> None:
    assert interfered(
        lambda ctx: None,
        (write, "tree.x.y.z", 2),
        lambda ctx: ctx.tree.x.clear(),
        isolation=isolation,
    )


def test_reading_below_conflicts_with_replacing_above(interfered: Any) -> None:
    assert interfered(lambda ctx: ctx.tree.x.y.z, (write, "tree.x", {"y": {"z": 1}}))


@pytest.mark.parametrize("depth", range(1, 9))
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_disjoint_paths_never_conflict(
    depth: int, isolation: str, engine: theus.Engine, other: Worker
) -> None:
    value: Any = {"mine": 0, "theirs": 0}
    for level in reversed(range(1, depth)):
        value = {f"level{level}": value}
    engine.write("deep", value)
    parent = ("deep", *(f"level{level}" for level in range(1, depth)))

    with engine.transaction(isolation=isolation) as ctx:
        assert ctx.read((*parent, "mine")) == 0
        ctx.write((*parent, "mine"), 1)
        other.do(write, (*parent, "theirs"), 1)
        # New keys too, on both sides.
        ctx.write((*parent, "my key"), {"x": 1})
        other.do(write, (*parent, "their key"), {"x": 1})
    found = theus.plain(engine.read(parent, None))
    assert found == {"mine": 1, "theirs": 1, "my key": {"x": 1}, "their key": {"x": 1}}


def test_an_untouched_subtree_keeps_its_values_and_versions(
    engine: theus.Engine, other: Worker
) -> None:
    """Promise 6: who has only read it does not conflict with a commit elsewhere."""
    with engine.transaction() as ctx:
        assert theus.plain(ctx.tree) == {"x": {"y": {"z": 1, "w": 1}, "v": 1}, "u": {}}
        for value in range(20):
            other.do(write, "m.k1", value)
            other.do(write, "a", value)
        ctx.n = 1
    assert engine.state["n"] == 1
