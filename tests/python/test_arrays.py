"""Array leaves, as a program meets them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import theus


@pytest.fixture(scope="module")
def coordinator():
    with theus.Coordinator(capacity="256 MiB") as running:
        yield running


@pytest.fixture
def engine(coordinator):
    with theus.connect(coordinator.name) as engine:
        engine.run(lambda ctx: ctx.clear())
        yield engine


class Account:
    def __init__(self, owner):
        self.owner = owner
        self.entries = []
        self.total = 0

    def book(self, amount):
        self.entries.append(amount)
        self.total += amount
        return self

    def count(self):
        return len(self.entries)

    @functools.cached_property
    def summary(self):
        return f"{self.owner}: {self.total}"

    def __eq__(self, other):
        return isinstance(other, Account) and vars(self) == vars(other)

    __hash__ = None


class Called:
    def __init__(self):
        self.calls = 0

    def __call__(self, n):
        self.calls += n
        return self.calls


@dataclasses.dataclass
class Row:
    name: str
    done: bool = False
    tags: list = dataclasses.field(default_factory=list)


def change(engine, body):
    """Runs body(ctx) in one transaction; returns whether it made a version."""
    before = engine.version
    with engine.transaction() as ctx:
        body(ctx)
    return engine.version > before


@pytest.fixture
def arrays(engine):
    engine.write("w", np.arange(12.0))
    engine.write("m", np.arange(12).reshape(3, 4))
    return engine


def test_array_reads_write_nothing(arrays):
    def body(ctx):
        w = ctx.w
        assert isinstance(w, np.ndarray) and type(w) is theus.SupervisorProxy
        assert w.shape == (12,) and w.dtype == float and w.ndim == 1 and len(w) == 12
        assert w[0] == 0 and w[-1] == 11 and w.sum() == 66 and w.mean() == 5.5
        assert (w + 1)[0] == 1 and (1 + w)[0] == 1 and (w @ w) == 506
        assert np.sin(w)[0] == 0 and np.sum(w) == 66 and np.concatenate([w, w]).size == 24
        assert (w > 5).sum() == 6 and w.max() == 11 and float(w[3:4].sum()) == 3
        assert ctx.m.T.shape == (4, 3) and ctx.m.reshape(2, 6)[1, 0] == 6
        assert [int(row.sum()) for row in ctx.m] == [6, 22, 38]
        assert not np.asarray(w).flags.writeable
        assert np.array_equal(np.array(w), np.arange(12.0))
        assert w.tolist()[:2] == [0.0, 1.0] and 3.0 in w

    assert not change(arrays, body)


@pytest.mark.parametrize(
    "write",
    [
        lambda ctx: ctx.w.__setitem__(0, 100),
        lambda ctx: ctx.w.__setitem__(slice(2, 5), 0.5),
        lambda ctx: ctx.w.__iadd__(1),
        lambda ctx: ctx.w[2:5].__iadd__(1),
        lambda ctx: ctx.w[2:5].__setitem__(0, 77),
        lambda ctx: ctx.w.fill(3),
        lambda ctx: ctx.w[::2].fill(3),
        lambda ctx: np.copyto(ctx.w, 5),
        lambda ctx: np.add(ctx.w, 1, out=ctx.w),
        lambda ctx: np.add(ctx.w[1:], 1, out=ctx.w[1:]),
        lambda ctx: np.add.at(ctx.w, [0, 1], 5),
        lambda ctx: np.put(ctx.w, [0], 9),
        lambda ctx: ctx.w[::-1].sort(),
        lambda ctx: ctx.m.T.__setitem__((0, 1), 99),
        lambda ctx: ctx.m.reshape(2, 6)[1].__iadd__(1),
        lambda ctx: ctx.m[1].__setitem__(0, 99),
        lambda ctx: np.cumsum(ctx.w, out=ctx.w),
        lambda ctx: [row.fill(1) for row in ctx.m],
        lambda ctx: ctx.transaction.get_shadow(ctx.w).__setitem__(0, 5),
    ],
)
def test_every_way_to_write_an_array_commits(arrays, write):
    model = {"w": np.arange(12.0), "m": np.arange(12).reshape(3, 4)}

    class Model:
        w, m = model["w"], model["m"]

        class transaction:
            @staticmethod
            def get_shadow(array):
                return array

    write(Model)
    assert change(arrays, write)
    assert np.array_equal(arrays.read("w"), Model.w)
    assert np.array_equal(arrays.read("m"), Model.m)


def test_augmented_assignment_to_array_parts(arrays):
    with arrays.transaction() as ctx:
        w = ctx.w
        w[2:5] += 10
        w[[0, 1]] += 20
        ctx.w[w > 15] *= 2
        ctx.w += 1
        ctx.m[0] -= 1
    expected = np.arange(12.0)
    expected[2:5] += 10
    expected[[0, 1]] += 20
    expected[expected > 15] *= 2
    expected += 1
    assert np.array_equal(arrays.read("w"), expected)
    assert list(arrays.read("m")[0]) == [-1, 0, 1, 2]


def test_an_unchanged_array_shadow_is_not_written(arrays):
    assert not change(arrays, lambda ctx: ctx.transaction.get_shadow("w"))


def test_arrays_inside_a_leaf(engine):
    engine.write("l", [np.zeros(3), {"x": np.zeros((2, 2))}])

    def body(ctx):
        ctx.l[0][1] = 5
        ctx.l[1]["x"][0] += 1
        ctx.l[1]["x"].T[1, 1] = 9

    change(engine, body)
    first, second = engine.read("l")
    assert list(first) == [0, 5, 0]
    assert second["x"].tolist() == [[1, 1], [0, 9]]


def test_replaced_array(arrays):
    with arrays.transaction() as ctx:
        w = ctx.w
        part = w[2:4]
        ctx.w = np.ones(2)
        assert list(part) == [2, 3]
        for write in (lambda: w.fill(0), lambda: part.__setitem__(0, 1)):
            with pytest.raises(theus.TheusError, match="replaced"):
                write()
        ctx.w[0] = 5
    assert list(arrays.read("w")) == [5, 1]


def test_structured_and_object_arrays(engine):
    engine.write("s", np.zeros(2, dtype=[("id", "i4"), ("v", "f8")]))
    engine.write("o", np.array([[1], [2], None], dtype=object))

    def body(ctx):
        ctx.s["v"][1] = 2.5
        ctx.s["id"] += 1
        ctx.o[0].append(5)
        ctx.o[2] = "x"

    change(engine, body)
    assert engine.read("s").tolist() == [(1, 0.0), (1, 2.5)]
    assert engine.read("o").tolist() == [[1, 5], [2], "x"]


def test_errors_in_array_operations_change_nothing(arrays):
    def body(ctx):
        with pytest.raises(ValueError):
            ctx.w[:] = [1, 2]
        with pytest.raises(IndexError):
            ctx.w[50]
        with pytest.raises(ValueError):
            ctx.w.resize(50)

    assert not change(arrays, body)


# ------------------------------------------------------------------------- views of arrays


def written(engine: theus.Engine, before: Any, change: Callable[[Any], Any]) -> list[Any]:
    """What is committed, and what NumPy alone makes of it."""
    engine.write("x", before)
    with engine.transaction() as ctx:
        change(ctx)
    plain = types.SimpleNamespace(x=before.copy(order="K"))
    change(plain)
    return [engine.read("x").tolist(), plain.x.tolist()]


def reshaped_meanwhile(ctx: Any) -> None:
    row = ctx.x[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ctx.x.shape = (2, 6)
    row[:] = 0


def trimmed(ctx: Any) -> None:
    view = np.trim_zeros(ctx.x)
    view[0] = 0
    view[1] = 7


def split_by_an_array(ctx: Any) -> None:
    where = np.array([2])
    first, _ = np.split(ctx.x, where)
    where[0] = 4
    first[:] = 1


def diagonal_by_einsum(ctx: Any) -> None:
    np.einsum("ii->i", ctx.x[:2, :2])[:] = 1


def views_before_and_behind_a_write(ctx: Any) -> None:
    before = ctx.x[::-1]
    ctx.x[0] = 9
    behind = before[1:]
    before[0] = 5
    behind[-1] += 1


def transposed(ctx: Any) -> None:
    part = ctx.x.T[1:, ::2]
    part += 10
    part.T[0] = -1


def nothing_in_it(ctx: Any) -> None:
    part = ctx.x[5:5]
    part[:] = 1
    ctx.x[0] = 2
    part += 1


VIEWS: list[tuple[Callable[[], Any], Callable[[Any], None]]] = [
    (lambda: np.arange(12.0).reshape(3, 4), reshaped_meanwhile),
    (lambda: np.array([0, 1, 2, 3, 0]), trimmed),
    (lambda: np.arange(10), split_by_an_array),
    (lambda: np.arange(6.0).reshape(2, 3), diagonal_by_einsum),
    (lambda: np.arange(6), views_before_and_behind_a_write),
    (lambda: np.arange(12).reshape(3, 4), transposed),
    (lambda: np.asfortranarray(np.arange(12).reshape(3, 4)), transposed),
    (lambda: np.arange(12).reshape(3, 4).astype("M8[s]").view("i8"), transposed),
    (lambda: np.arange(20_000.0).reshape(100, 200), transposed),
    (lambda: np.arange(8), nothing_in_it),
]


@pytest.mark.parametrize(("make", "change"), VIEWS)
def test_views_stay_where_they_are(make: Any, change: Any, engine: theus.Engine) -> None:
    committed, expected = written(engine, make(), change)
    assert committed == expected


def test_dates_have_views_too(engine: theus.Engine) -> None:
    engine.write("x", np.zeros(9, "M8[D]"))
    with engine.transaction() as ctx:
        part = ctx.x[2:4]
        part[0] = np.datetime64("2020-01-01")
    assert str(engine.read("x")[2]) == "2020-01-01"


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.diagonal(),
        lambda x: np.diagonal(x)[1:],
        lambda x: np.broadcast_to(x, (2, 3, 4)),
        lambda x: np.lib.stride_tricks.sliding_window_view(x, 2, 0),
    ],
)
def test_what_numpy_gives_read_only_is(view: Any, engine: theus.Engine) -> None:
    engine.write("x", np.arange(12).reshape(3, 4))
    with pytest.raises(ValueError, match="assignment destination is read-only"):
        view(np.arange(12).reshape(3, 4))[0] = 1
    for before in (False, True):
        with engine.transaction() as ctx:
            if before:
                ctx.x[0, 0] = 0
            with pytest.raises(ValueError, match="assignment destination is read-only"):
                view(ctx.x)[0] = 1
    assert engine.read("x").tolist() == np.arange(12).reshape(3, 4).tolist()


def test_einsum_of_proxies(engine: theus.Engine) -> None:
    plain = np.arange(6.0).reshape(2, 3)
    engine.write("x", plain)
    with engine.transaction() as ctx:
        for formula in ("ij->i", "ij->j", "ij->", "ij->ji", "ij,kj", "ij,ij->ij"):
            given = [ctx.x] * (formula.count(",") + 1)
            expected = np.einsum(formula, *[plain] * len(given))
            assert np.asarray(np.einsum(formula, *given)).tolist() == expected.tolist()
            out = np.zeros_like(expected)
            assert np.einsum(formula, *given, out=out) is out
            assert out.tolist() == expected.tolist()
        np.einsum("ij->ij", plain + 1, out=ctx.x)
    assert engine.read("x").tolist() == (plain + 1).tolist()


def test_what_cannot_be_converted_changes_nothing(engine: theus.Engine) -> None:
    engine.write("x", np.arange(4))
    with engine.transaction() as ctx:
        with pytest.raises(ValueError, match="'x'"):
            ctx.x[:] = ["1", "2", "x", "4"]
        with pytest.raises(ValueError, match="broadcast"):
            ctx.x[:] = [1, 2, 3]
        ctx.y = 1
    assert engine.read("x").tolist() == [0, 1, 2, 3]
    engine.run(lambda ctx: ctx.x.__setitem__(slice(None), ["1", "2", "3", "4"]))
    assert engine.read("x").tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy])
def test_a_copy_belongs_to_the_caller(copying: Any, engine: theus.Engine) -> None:
    engine.write("x", np.asfortranarray(np.arange(6).reshape(2, 3)))
    with engine.transaction() as ctx:
        mine = copying(ctx.x)
        mine[0, 0] = 99
        assert mine.flags.f_contiguous and ctx.x[0, 0] == 0
    with engine.snapshot() as snap:
        assert not snap.x.flags.writeable
