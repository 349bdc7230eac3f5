"""What else a proxy has to do like the object it stands for."""

from __future__ import annotations

import array
import collections
import hashlib
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

import theus

np = pytest.importorskip("numpy")


class Point:
    __match_args__ = ("x", "y")
    encoded = 0

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __getstate__(self) -> Any:
        Point.encoded += 1
        return vars(self)

    def __format__(self, spec: str) -> str:
        return f"<{self.x:{spec}}>"

    def swap(self) -> None:
        self.x, self.y = self.y, self.x


@pytest.fixture(scope="module")
def shared() -> Iterator[theus.Engine]:
    with theus.Coordinator(capacity="64 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            yield engine


@pytest.fixture
def engine(shared: theus.Engine) -> Iterator[theus.Engine]:
    shared.run(lambda ctx: ctx.clear())
    yield shared


def describe(value: Any) -> str:
    match value:
        case Point(x, y=1):
            return f"point {x}"
        case dict():
            return "dict"
        case list() | tuple():
            return "sequence"
        case _:
            return "nothing"


def test_match_asks_for_classes(engine: theus.Engine) -> None:
    engine.update({"p": Point(5, 1), "m": {}, "d": theus.leaf({}), "l": [[]], "t": ([],)})
    with engine.transaction() as ctx:
        found = [describe(ctx[name]) for name in ("p", "m", "d", "l", "t")]
    assert found == ["point 5", "dict", "dict", "sequence", "sequence"]


def test_buffers_are_read_only(engine: theus.Engine) -> None:
    engine.update({"b": bytearray(b"abcd"), "a": array.array("i", [1, 2]), "l": [1], "m": {}})
    with engine.transaction() as ctx:
        assert hashlib.sha256(ctx.b).digest() == hashlib.sha256(b"abcd").digest()
        assert io.BytesIO().write(ctx.b) == 4 and struct.unpack_from("2s", ctx.b, 1) == (b"bc",)
        assert b"".join([ctx.b, b"!"]) == b"abcd!" and bytes(ctx.b) == b"abcd"
        assert memoryview(ctx.a).tolist() == [1, 2] and np.asarray(ctx.a).tolist() == [1, 2]
        for value in (ctx.b, ctx.a):
            with pytest.raises(TypeError, match="read-only"):
                memoryview(value)[0] = 1
        with pytest.raises((BufferError, TypeError), match=r"get_shadow|read-write"):
            io.BytesIO(b"xx").readinto(ctx.b)
        for value in (ctx.l, ctx.m):
            with pytest.raises(TypeError, match="bytes-like"):
                memoryview(value)
        kept = memoryview(ctx.b)
        ctx.b[0] = 0
        assert bytes(kept) == b"abcd"  # that moment's


def test_a_memoryview_is_mapped(engine: theus.Engine) -> None:
    words = memoryview(array.array("i", range(1000)))
    engine.update({"m": words, "square": memoryview(bytes(6)).cast("B", (2, 3)), "e": words[:0]})
    state = engine.state
    held = state["m"]
    assert type(held) is memoryview and held.readonly and held.format == "i" and held == words
    assert state["square"].shape == (2, 3) and len(state["e"]) == 0
    with engine.transaction() as ctx:
        ctx.m[1] = 99
        assert held[1] == 1
    assert held[1] == 1 and engine.state["m"][1] == 99
    with pytest.raises(theus.EncodeError):
        engine.write("m", memoryview(np.zeros(2, dtype=[("a", "i4")])))


def test_plain_forms(engine: theus.Engine) -> None:
    engine.update(
        {"l": [1, [2]], "d": theus.leaf({"a": [1]}), "s": {1}, "q": collections.deque("a")}
    )
    with engine.transaction() as ctx:
        assert json.dumps([ctx.l.to_list(), ctx.d.to_dict(), ctx.s.to_list(), ctx.q.to_list()])
        assert type(ctx.l.to_list()[1]) is list and type(ctx.d.to_dict()["a"]) is list
        assert f"{ctx.l}" == "[1, [2]]" and f"{ctx.s!s:>5}" == "  {1}"
        with pytest.raises(TypeError):
            format(ctx.l, ">5")
        with pytest.raises(TypeError, match="not reversible"):
            reversed(ctx.s)


def test_format_is_the_objects_own(engine: theus.Engine) -> None:
    engine.write("p", Point(5, 1))
    with engine.transaction() as ctx:
        assert f"{ctx.p:03}" == "<005>"


def test_views_of_a_dict_leaf(engine: theus.Engine) -> None:
    engine.write("d", theus.leaf({"a": 1, "b": [2]}))
    with engine.transaction() as ctx:
        keys, items = ctx.d.keys(), ctx.d.items()
        assert keys ^ {"a", "z"} == {"b", "z"} and {"z"} | keys == {"a", "b", "z"}
        assert keys <= {"a", "b", "c"} and keys.isdisjoint({"z"}) and keys == {"a", "b"}
        assert ("a", 1) in items and list(reversed(keys)) == ["b", "a"] and len(items) == 2
        ctx.d["c"] = 3
        assert "c" in keys and keys.mapping["c"] == 3


def test_iterating_and_writing(engine: theus.Engine) -> None:
    engine.update({"d": theus.leaf({1: 1, 2: 2}), "s": {1, 2}, "q": collections.deque([1, 2])})
    for _ in range(2):  # the second time from the cache
        with engine.transaction() as ctx:
            for key in ctx.d:
                ctx.d[key] += 1
            for index, item in enumerate(ctx.q):
                ctx.q[index] = item + 1
            with pytest.raises(RuntimeError, match="changed size"):
                for key in ctx.d:
                    ctx.d[key, "new"] = 1
            with pytest.raises(RuntimeError, match="mutated|changed"):
                for _item in ctx.q:
                    ctx.q.append(1)
            del ctx.d[1, "new"]
            ctx.q.pop()
            with pytest.raises(RuntimeError, match="changed size"):
                for item in ctx.s:
                    ctx.s.add(item + 10)
            ctx.s -= {11, 12}
    assert engine.read("d") == {1: 3, 2: 4} and list(engine.read("q")) == [3, 4]


def test_a_plain_attribute_costs_no_comparison(engine: theus.Engine) -> None:
    engine.write("p", Point([1], 2))
    Point.encoded = 0
    with engine.transaction() as ctx:
        assert ctx.p.y == 2 and ctx.p.x[0] == 1 and len(ctx.p.x) == 1 and 1 in ctx.p.x
    assert Point.encoded == 0
    with engine.transaction() as ctx:
        ctx.p.swap()
        ctx.p.swap()
    assert Point.encoded == 2  # now, and a fresh one


def test_a_deep_part_is_found_on_its_way(engine: theus.Engine) -> None:
    engine.write("l", [[{"k": Point([], 0)}] for _ in range(3)])
    with engine.transaction() as ctx:
        inner = ctx.l[1][0]["k"].x
        ctx.l.insert(0, "moved")
        inner.append(1)
        assert ctx.l[2][0]["k"].x == [1]
        del ctx.l[2][0]["k"]
        with pytest.raises(theus.TheusError, match="replaced or removed"):
            inner.append(2)
        assert list(inner) == [1]


def test_a_method_of_a_removed_part_may_only_read(engine: theus.Engine) -> None:
    engine.update({"l": [Point(1, 2)], "p": Point(3, 4)})
    with engine.transaction() as ctx:
        part, whole = ctx.l[0], ctx.p
        ctx.l.clear()
        ctx.p = 5
        for removed in (part, whole):
            assert removed.x in (1, 3) and f"{removed}"
            with pytest.raises(theus.TheusError, match="replaced or removed"):
                removed.swap()


def test_what_lies_deep_inside_of_a_replaced_mapping(engine: theus.Engine) -> None:
    engine.write("m", {"n": {"o": {"leaf": [1], "k": 1}}})
    with engine.transaction() as ctx:
        node, leaf = ctx.m.n.o, ctx.m.n.o.leaf
        leaf.append(2)
        ctx.m = {}
        for write in (
            lambda: leaf.append(3),
            lambda: node.update({"x": {}}, y=1),
            lambda: node.pop("k"),
            lambda: ctx.transaction.get_shadow(leaf),
        ):
            with pytest.raises(theus.TheusError, match=r"^m\.n\.o.* was replaced or removed"):
                write()
        assert list(leaf) == [1, 2] and node.k == 1
        assert ctx.transaction.pending_data.keys() == {"m"}
    assert engine.state.to_dict() == {"m": {}}


def test_functions_may_return_containers_of_proxies(engine: theus.Engine) -> None:
    engine.update({"l": [[1], {"a": [2]}], "m": {"n": {"k": [1]}}})
    assert engine.run(lambda ctx: list(ctx.l)) == [[1], {"a": [2]}]
    found = engine.run(lambda ctx: {"m": ctx.m, "first": (ctx.l[0],), "sum": ctx.l + [[3]]})
    assert found == {"m": {"n": {"k": [1]}}, "first": ([1],), "sum": [[1], {"a": [2]}, [3]]}
    assert type(found["m"]["n"]) is dict and type(found["sum"][1]) is dict


@pytest.mark.parametrize("order", ["C", "F"])
def test_order_is_kept_in_shadows_and_copies(order: str, engine: theus.Engine) -> None:
    engine.write("w", np.asarray(np.arange(6.0).reshape(2, 3), order=order))
    flag = f"{order.lower()}_contiguous"
    assert getattr(engine.state["w"].flags, flag)
    with engine.transaction() as ctx:
        ctx.w[0, 1] = 9
        assert getattr(ctx.transaction.get_shadow(ctx.w).flags, flag)
        assert getattr(theus.plain(ctx.w).flags, flag)
    assert getattr(engine.state["w"].flags, flag) and engine.state["w"][0, 1] == 9


def test_rows_of_structured_arrays(engine: theus.Engine) -> None:
    rows = np.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")])
    engine.write("r", rows)
    with engine.transaction() as ctx:
        row = ctx.r[1]
        assert isinstance(row, np.void) and row["a"] == 3 and row[1] == 4.0 and len(row) == 2
        assert tuple(row) == (3, 4.0) and row.item() == (3, 4.0) and row == rows[1]
        assert row.dtype == rows.dtype and str(row) == str(rows[1])
        row["a"] += 5
        assert ctx.r["a"].tolist() == [1, 8] and theus.plain(row).item() == (8, 4.0)
        ctx.kept = row
    assert engine.state["r"]["a"].tolist() == [1, 8] and rows["a"].tolist() == [1, 3]


def test_reading_twice_gives_the_same_in_a_snapshot(engine: theus.Engine) -> None:
    engine.write("d", collections.defaultdict(list))
    with engine.snapshot() as ctx:
        assert len(ctx.d) == 0
        ctx.d["new"]
        assert len(ctx.d) == 0 and "new" not in ctx.d


def test_after_the_end_comparing_raises_too(engine: theus.Engine) -> None:
    engine.write("m", {"l": [1]})
    with engine.transaction() as ctx:
        node, leaf = ctx.m, ctx.m.l
    for kept in (node, leaf):
        with pytest.raises(theus.TheusError, match="has ended"):
            assert kept == 1


def test_messages_name_the_class_and_the_key(engine: theus.Engine) -> None:
    engine.write("l", [1])
    with pytest.raises(TypeError, match=r"l is a leaf \(list\)"):
        engine.read("l.x")
    with engine.snapshot() as ctx:
        with pytest.raises(theus.ReadOnlyError, match=r"^new cannot be written") as caught:
            ctx.new = 1
        assert caught.value.path == "new"
