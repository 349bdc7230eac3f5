"""SupervisorProxy: mapping nodes, mutable leaves and arrays, as a program meets them."""

from __future__ import annotations

import collections
import collections.abc
import copy
import dataclasses
import functools
import json
import pickle
import random

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


class Callable:
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


# ------------------------------------------------------------------------------ nodes


def test_a_node_is_a_complete_mutable_mapping(engine):
    engine.write("m", {"a": 1, "b": {"c": 2}})
    with engine.transaction() as ctx:
        m = ctx.m
        assert type(m) is theus.SupervisorProxy and isinstance(m, dict)
        assert isinstance(m, collections.abc.MutableMapping)
        assert m.a == m["a"] == m.get("a") == 1
        assert m.b.c == m["b"]["c"] == 2
        assert m.get("x") is None and m.get("x", 5) == 5
        assert "a" in m and "x" not in m and len(m) == 2 and bool(m)
        m.d = 3
        m["e"] = 4
        assert list(m) == list(m.keys()) == ["a", "b", "d", "e"]
        assert list(reversed(m)) == ["e", "d", "b", "a"]
        assert [*m.values()][0] == 1
        assert dict(m.items())["e"] == 4
        del m.d
        del m["e"]
        assert m.setdefault("a", 9) == 1 and m.setdefault("f", 9) == 9
        m.update({"g": 1}, h=2)
        m |= {"i": 3}
        m.update([("j", 4)])
        assert m.pop("g") == 1 and m.pop("zzz", None) is None
        with pytest.raises(KeyError):
            m.pop("zzz")
        assert m.popitem() == ("j", 4)
        assert m == {"a": 1, "b": {"c": 2}, "f": 9, "h": 2, "i": 3}
        assert {"a": 1, "b": {"c": 2}, "f": 9, "h": 2, "i": 3} == m
        assert m != {"a": 1} and not m == 5
        assert m | {"z": 1} == {**theus.plain(m), "z": 1}
        assert {"z": 1} | m == {"z": 1, **theus.plain(m)}
        m.clear()
        assert not m and len(m) == 0 and m == {} and list(m) == []
        with pytest.raises(KeyError):
            m.popitem()
    assert engine.read("m") == {}


def test_context_is_a_mapping_too(engine):
    with engine.transaction() as ctx:
        ctx.update(a=1, b={"x": 2})
        assert list(ctx) == ["a", "b"] and len(ctx) == 2 and "a" in ctx
        assert ctx.to_dict() == {"a": 1, "b": {"x": 2}}
        assert ctx.pop("a") == 1
        assert isinstance(ctx, collections.abc.MutableMapping)
        for copying in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                copying(ctx)


def test_views(engine):
    engine.write("m", {"a": 1, "b": 2})
    with engine.transaction() as ctx:
        keys, values, items = ctx.m.keys(), ctx.m.values(), ctx.m.items()
        assert isinstance(keys, collections.abc.KeysView)
        assert isinstance(items, collections.abc.ItemsView)
        ctx.m.c = 3
        assert len(keys) == len(values) == len(items) == 3
        assert "c" in keys and 3 in values and ("c", 3) in items and ("c", 4) not in items
        assert keys & {"a", "x"} == {"a"} and keys | {"x"} == {"a", "b", "c", "x"}
        assert keys - {"a"} == {"b", "c"} and {"a", "z"} - keys == {"z"}
        assert keys == {"a", "b", "c"} and keys >= {"a"} and keys.isdisjoint({"q"})
        assert list(reversed(items)) == [("c", 3), ("b", 2), ("a", 1)]
        assert "'a'" in repr(keys)


@pytest.mark.parametrize("view", ["keys", "values", "items", "__iter__"])
def test_resizing_while_iterating_raises(engine, view):
    engine.write("m", {str(n): n for n in range(5)})
    with engine.transaction() as ctx:
        with pytest.raises(RuntimeError):
            for _ in getattr(ctx.m, view)():
                ctx.m["new"] = 1
        with pytest.raises(RuntimeError):
            for _ in getattr(ctx.m, view)():
                ctx.m.pop("1", None)
        for key in ctx.m:
            ctx.m[key] = 0  # no resizing
    assert engine.read("m") == {"0": 0, "2": 0, "3": 0, "4": 0, "new": 0}


def test_insertion_order_with_deletes_and_replacements(engine):
    model = {}
    rng = random.Random(7)
    engine.write("m", {})
    for _ in range(30):
        with engine.transaction() as ctx:
            for _ in range(20):
                key = f"k{rng.randrange(12)}"
                if rng.random() < 0.5:
                    model[key] = ctx.m[key] = rng.random()
                elif rng.random() < 0.8:
                    assert model.pop(key, None) == ctx.m.pop(key, None)
                elif model:
                    assert model.popitem() == ctx.m.popitem()
            assert list(ctx.m.items()) == list(model.items())
        assert list(engine.read("m").items()) == list(model.items())


def test_names(engine):
    with engine.transaction() as ctx:
        ctx.m = {"keys": 1, "_private": 2, "a.b": 3}
        assert callable(ctx.m.keys) and ctx.m["keys"] == 1
        for name in ("keys", "update", "_x", "__class__"):
            with pytest.raises(AttributeError):
                setattr(ctx.m, name, 1)
        with pytest.raises(AttributeError):
            delattr(ctx.m, "keys")
        with pytest.raises(AttributeError):
            ctx.m._private
        ctx.m["_private"] += 1
        with pytest.raises(AttributeError):
            ctx.m.nothing
        with pytest.raises(KeyError) as caught:
            ctx["m.keys"]
        assert 'ctx.read("m.keys")' in str(caught.value)
        with pytest.raises(KeyError) as caught:
            ctx["m"]["kets"]
        assert "'keys'" in str(caught.value)
        assert caught.value.args == ("kets",)


def test_probes_read_nothing(engine):
    engine.write("m", {"a": 1})
    with engine.transaction() as ctx:
        m = ctx.m
        ctx.write("other", 1)
        for name in ("_repr_html_", "__array_interface__", "__wrapped__", "__len_hint__", "_a"):
            assert not hasattr(m, name)
        assert "a" in dir(m) and "keys" in dir(m)
        engine_run_elsewhere(engine, lambda other: other.m.__setitem__("_repr_html_", 1))


def engine_run_elsewhere(engine, body):
    """Commits in another thread, in which no transaction is open."""
    import threading

    thread = threading.Thread(target=engine.run, args=(body,))
    thread.start()
    thread.join()


def test_paths(engine):
    engine.write("m", {"a": {"x": 1}, 7: {"y": 2}, "leaf": [1]})
    with engine.transaction() as ctx:
        assert ctx.read("m.a.x") == ctx.read(("m", "a", "x")) == 1
        assert ctx.read(("m", 7, "y")) == 2
        assert ctx.read("m.7.y", "none") == "none"
        assert ctx.read("m.q.z", default=3) == 3
        assert ctx.read(()) == ctx.to_dict()
        with pytest.raises(KeyError):
            ctx.read("m.q")
        for path in ("m.leaf.0", "m.a.x.z"):
            with pytest.raises(TypeError, match="leaf"):
                ctx.read(path, None)
        for path in ("", "a..b", ".a", "a."):
            with pytest.raises(ValueError):
                ctx.read(path)
        with pytest.raises(TypeError):
            ctx.read(["m"])
        ctx.write(("m", "b"), {"n": 1})
        ctx.delete("m.a")
        with pytest.raises(KeyError, match=r"m\.none"):
            ctx.write("m.none.x", 1)
        with pytest.raises(KeyError):
            ctx.delete("m.a")
    assert engine.read("m") == {7: {"y": 2}, "leaf": [1], "b": {"n": 1}}


def test_copies_are_plain(engine):
    engine.write("m", {"a": {"b": [1, {"c": 2}]}})
    expected = {"a": {"b": [1, {"c": 2}]}}
    with engine.transaction() as ctx:
        m = ctx.m
        for plain in (
            copy.copy(m),
            copy.deepcopy(m),
            pickle.loads(pickle.dumps(m)),
            pickle.loads(pickle.dumps([m]))[0],
            m.copy(),
            m.to_dict(),
            theus.plain(m),
        ):
            assert plain == expected and type(plain) is dict
            assert type(plain["a"]) is dict and type(plain["a"]["b"]) is list
        assert b"theus" not in pickle.dumps(m)
        for leaf in (copy.copy(m.a.b), copy.deepcopy(m.a.b), pickle.loads(pickle.dumps(m.a.b))):
            assert type(leaf) is list and leaf == [1, {"c": 2}]
        with pytest.raises(TypeError):
            json.dumps(m)
        assert json.loads(json.dumps(m, default=theus.plain)) == expected
        assert json.loads(json.dumps({"x": [m]}, default=theus.plain)) == {"x": [expected]}
        with pytest.raises(TypeError):
            hash(m)
        with pytest.raises(TypeError):
            hash(m.a.b)
        assert {**m}.keys() == dict(m).keys() == {"a"}
        assert np.array(m).dtype == object
        assert theus.plain([m, (m,), {"k": m}]) == [expected, (expected,), {"k": expected}]
        plain = theus.plain(m)
        plain["a"]["b"].append(9)
    assert engine.read("m") == expected


def test_pandas_meets_plain_objects(engine):
    pandas = pytest.importorskip("pandas")
    engine.write("table", {"a": [1, 2], "b": [3, 4]})
    with engine.snapshot() as ctx:
        frame = pandas.DataFrame(ctx.table)
        assert frame.to_dict("list") == {"a": [1, 2], "b": [3, 4]}


def test_assignments_make_independent_copies(engine):
    with engine.transaction() as ctx:
        ctx.a = {"x": [1]}
        ctx.b = ctx.a
        ctx.c = ctx.d = {}
        ctx.b.x.append(2)
        ctx.c.y = 1
        ctx.e = [ctx.a, ctx.b.x]
        ctx.f = engine.state
    assert engine.read("a") == {"x": [1]} and engine.read("b") == {"x": [1, 2]}
    assert engine.read("c") == {"y": 1} and engine.read("d") == {}
    assert engine.read("e") == [{"x": [1]}, [1, 2]]
    with engine.transaction() as ctx:
        ctx.g = engine.state["a"]
    assert engine.read("g") == {"x": [1]}


def test_a_proxy_of_another_open_transaction_is_refused(engine, coordinator):
    engine.write("m", {"a": [1]})
    with theus.connect(coordinator.name) as second, second.transaction() as theirs:
        with engine.transaction() as ctx:
            for value in (theirs.m, theirs.m.a, [theirs.m.a]):
                with pytest.raises(theus.TheusError):
                    ctx.copied = value
            ctx.copied = theus.plain(theirs.m)
    assert engine.read("copied") == {"a": [1]}


def test_replaced_nodes_read_as_last_seen_and_refuse_writes(engine):
    engine.write("m", {"a": {"x": 1, "l": [1]}})
    with engine.transaction() as ctx:
        node, leaf = ctx.m.a, ctx.m.a.l
        ctx.m.a = {"x": 2, "l": [2]}
        assert ctx.m.a.x == 2
        for write in (lambda: node.__setitem__("x", 3), node.clear, lambda: leaf.append(1)):
            with pytest.raises(theus.TheusError, match="replaced or removed"):
                write()
        assert theus.plain(leaf) == [1]
    assert engine.read("m") == {"a": {"x": 2, "l": [2]}}


def test_after_the_end(engine):
    engine.write("m", {"a": [1]})
    with engine.transaction() as ctx:
        m, a = ctx.m, ctx.m.a
        method, iterator = a.append, iter(m)
    for use in (
        lambda: m.a,
        lambda: m["a"],
        lambda: len(m),
        lambda: a[0],
        lambda: a.append(1),
        lambda: method(1),
        lambda: next(iterator),
        lambda: m == {},
        lambda: theus.plain(m),
        lambda: ctx.m,
        lambda: ctx.transaction.rollback(),
    ):
        with pytest.raises(theus.TheusError, match="ended"):
            use()
    with pytest.raises(theus.TheusError, match=r"m\.a.*theus\.plain"):
        a[0]
    assert "m.a" in repr(a) and "m" in repr(m) and "ended" in repr(ctx)


def test_reprs_are_truncated(engine):
    engine.write("m", {"big": {str(n): n for n in range(1000)}, "long": list(range(10000))})
    with engine.transaction() as ctx:
        assert len(repr(ctx.m.big)) < 300 and len(repr(ctx.m.long)) < 300
        assert "m.big" in repr(ctx.m.big)


# ------------------------------------------------------------------------------ leaves


def test_list_leaf(engine):
    engine.write("l", [3, 1, 2])
    with engine.transaction() as ctx:
        items = ctx.l
        assert isinstance(items, list) and items[0] == 3 and items[-1] == 2 and items[1:] == [1, 2]
        assert len(items) == 3 and 1 in items and 9 not in items and list(items) == [3, 1, 2]
        assert items.index(1) == 1 and items.count(2) == 1 and sorted(items) == [1, 2, 3]
        assert items == [3, 1, 2] and [3, 1, 2] == items and items != [1] and items < [4]
        assert (
            items + [5] == [3, 1, 2, 5]
            and [5] + items == [5, 3, 1, 2]
            and items * 2 == [3, 1, 2] * 2
        )
        assert list(reversed(items)) == [2, 1, 3] and sum(items) == 6 and max(items) == 3
        assert ctx.transaction.delta_log == []
        items.append(4)
        items.extend([5, 6])
        items += [7]
        ctx.l += [8]
        items.insert(0, 0)
        items.sort(reverse=True)
        del items[0]
        items[0] = 70
        items[1:3] = [60]
        items.remove(1)
        assert items.pop() == 0
        assert ctx.transaction.delta_log == [("write", "l")]
    assert engine.read("l") == [70, 60, 4, 3, 2]


def test_reading_a_leaf_writes_nothing(engine):
    engine.update(
        {"l": [1, [2], {"a": 3}], "s": {1}, "o": Account("ann"), "d": theus.leaf({1: []})}
    )

    def read(ctx):
        assert ctx.l[1][0] == 2 and ctx.l[2]["a"] == 3
        assert 1 in ctx.s and ctx.o.owner == "ann" and ctx.o.count() == 0
        assert list(ctx.d.items()) == [(1, [])]
        for item in ctx.l:
            repr(item)

    assert not change(engine, read)


def test_writes_at_any_depth_are_found(engine):
    engine.update({"l": [[1], {"a": [2]}], "d": theus.leaf({"x": {"y": [1]}}), "t": ([1], 2)})
    assert change(engine, lambda ctx: ctx.l[0].append(5))
    assert change(engine, lambda ctx: ctx.l[1]["a"].append(6))
    assert change(engine, lambda ctx: ctx.l[1].__setitem__("b", {1, 2}))
    assert change(engine, lambda ctx: ctx.l[1]["b"].add(3))
    assert change(engine, lambda ctx: ctx.d["x"]["y"].extend([2, 3]))
    assert change(engine, lambda ctx: ctx.t[0].append(4))
    assert change(engine, lambda ctx: [row.append(0) for row in ctx.l if isinstance(row, list)])
    assert change(engine, lambda ctx: next(iter(ctx.d["x"].values())).append(9))
    assert engine.read("l") == [[1, 5, 0], {"a": [2, 6], "b": {1, 2, 3}}]
    assert engine.read("d") == {"x": {"y": [1, 2, 3, 9]}}
    assert engine.read("t") == ([1, 4], 2)


def test_augmented_assignment_of_parts(engine):
    engine.write("rows", [[1], {"n": 1, "l": [1]}])

    def body(ctx):
        ctx.rows[0] += [2]
        ctx.rows[1]["n"] += 1
        ctx.rows[1]["l"] *= 2

    change(engine, body)
    assert engine.read("rows") == [[1, 2], {"n": 2, "l": [1, 1]}]


def test_set_dict_deque_bytearray(engine):
    engine.update(
        {
            "s": {1, 2},
            "d": theus.leaf({"a": 1}),
            "q": collections.deque([1, 2], maxlen=3),
            "b": bytearray(b"abc"),
        }
    )
    with engine.transaction() as ctx:
        ctx.s.add(3)
        ctx.s |= {4}
        ctx.s -= {1}
        ctx.s.discard(99)
        assert ctx.s == {2, 3, 4} and ctx.s & {2} == {2} and ctx.s.union({9}) == {2, 3, 4, 9}
        assert ctx.s >= {2} and ctx.s.issuperset([2])
        ctx.d["b"] = 2
        ctx.d.update(c=3)
        ctx.d |= {"e": 5}
        assert ctx.d.pop("a") == 1 and ctx.d.setdefault("z", []) == []
        ctx.d["z"].append(1)
        ctx.q.append(3)
        ctx.q.appendleft(0)
        ctx.q.rotate(1)
        ctx.b += b"d"
        ctx.b[0] = ord("x")
        assert bytes(ctx.b) == b"xbcd" and ctx.b.decode() == "xbcd" and ctx.b[1:3] == b"bc"
    assert engine.read("s") == {2, 3, 4}
    assert engine.read("d") == {"b": 2, "c": 3, "e": 5, "z": [1]}
    assert list(engine.read("q")) == [2, 0, 1] and engine.read("q").maxlen == 3
    assert engine.read("b") == b"xbcd"


def test_a_proxy_follows_its_part(engine):
    engine.write("rows", [{"n": 0, "done": False}, {"n": 1, "done": False}])

    def body(ctx):
        row = ctx.rows[0]
        ctx.rows.insert(0, {"n": -1, "done": False})
        row["done"] = True
        ctx.rows[0], ctx.rows[2] = ctx.rows[2], ctx.rows[0]

    change(engine, body)
    assert [(row["n"], row["done"]) for row in engine.read("rows")] == [
        (1, False),
        (0, True),
        (-1, False),
    ]
    engine.write("rows", [[n] for n in range(20)])
    change(engine, lambda ctx: random.Random(3).shuffle(ctx.rows))
    rows = engine.read("rows")
    assert sorted(rows) == [[n] for n in range(20)] and rows != sorted(rows)


def test_a_removed_part_reads_as_last_seen_and_refuses_writes(engine):
    engine.write("rows", [{"n": 0}, {"n": 1}])
    with engine.transaction() as ctx:
        row = ctx.rows[0]
        del ctx.rows[0]
        assert row["n"] == 0
        with pytest.raises(theus.TheusError, match="removed"):
            row["n"] = 5
        ctx.rows.append(row)
        assert ctx.rows.pop()["n"] == 0
        taken = ctx.rows.pop()
        assert type(taken) is dict
        taken["n"] = 9
        assert ctx.rows == []
    assert engine.read("rows") == []


def test_values_put_into_a_leaf_are_copied(engine):
    engine.write("l", [])
    outside = [1]
    with engine.transaction() as ctx:
        ctx.l.append(outside)
        ctx.l.extend([outside, outside])
        outside.append(2)
        with pytest.raises(theus.EncodeError) as caught:
            ctx.l.append(lambda: None)
        assert caught.value.path == "l"
        with pytest.raises(theus.EncodeError):
            ctx.l[0] = (n for n in "abc")
    assert engine.read("l") == [[1], [1], [1]]


def test_a_failing_operation_changes_nothing(engine):
    engine.write("l", [1])

    def body(ctx):
        for failing in (
            lambda: ctx.l.remove(9),
            lambda: ctx.l.pop(5),
            lambda: ctx.l.__setitem__(5, 1),
            lambda: ctx.l.sort(key=lambda item: item.nothing),
        ):
            with pytest.raises((ValueError, IndexError, AttributeError)):
                failing()

    assert not change(engine, body)


def test_object_leaf(engine):
    engine.write("o", Account("ann"))
    with engine.transaction() as ctx:
        assert isinstance(ctx.o, Account) and type(ctx.o) is theus.SupervisorProxy
        assert ctx.o.book(5) is not None
        ctx.o.book(6).book(7)
        ctx.o.owner = "bob"
        ctx.o.total += 1
        ctx.o.entries.append(1)
        ctx.o.note = {"new": []}
        assert ctx.o.count() == 4 and ctx.o.note == {"new": []}
        del ctx.o.note
        with pytest.raises(AttributeError):
            ctx.o.nothing
    o = engine.read("o")
    assert (o.owner, o.entries, o.total) == ("bob", [5, 6, 7, 1], 19)
    assert change(engine, lambda ctx: ctx.o.summary)  # cached: it changes the object
    assert not change(engine, lambda ctx: ctx.o.summary)


def test_changes_that_equality_does_not_see(engine):
    engine.write("d", theus.leaf({"n": 1, "o": collections.OrderedDict(a=1, b=2)}))
    assert change(engine, lambda ctx: ctx.d.__setitem__("n", True))
    assert engine.read("d")["n"] is True
    assert change(engine, lambda ctx: ctx.d["o"].move_to_end("a"))
    assert list(engine.read("d")["o"]) == ["b", "a"]
    engine.write("dd", collections.defaultdict(list))
    assert change(engine, lambda ctx: ctx.dd["made by reading"])
    assert list(engine.read("dd")) == ["made by reading"]
    engine.write("counter", collections.Counter("aab"))
    assert not change(engine, lambda ctx: ctx.counter.most_common())
    assert change(engine, lambda ctx: ctx.counter.update("b"))
    assert engine.read("counter") == {"a": 2, "b": 2}


def test_callable_and_dataclass_leaves(engine):
    engine.update({"f": Callable(), "row": Row("x")})
    with engine.transaction() as ctx:
        assert ctx.f(3) == 3
        ctx.row.done = True
        ctx.row.tags.append("t")
        assert not callable(ctx.row)
        with pytest.raises(TypeError):
            dataclasses.asdict(ctx.row)
        assert dataclasses.asdict(theus.plain(ctx.row)) == {
            "name": "x",
            "done": True,
            "tags": ["t"],
        }
    assert engine.read("f").calls == 3
    assert engine.read("row") == Row("x", True, ["t"])


def test_get_shadow(engine):
    engine.update({"l": [[1]], "n": 5, "m": {"x": 1}, "a": np.zeros(3)})
    with engine.transaction() as ctx:
        shadow = ctx.transaction.get_shadow("l")
        assert type(shadow) is list
        shadow[0].append(2)
        assert ctx.l[0] == [1, 2]
        assert ctx.transaction.get_shadow(ctx.l) is shadow
        assert ctx.transaction.get_shadow("n") == 5
        assert type(ctx.transaction.get_shadow("m")) is theus.SupervisorProxy
        array = ctx.transaction.get_shadow(ctx.a)
        array[1] = 7
        assert ctx.transaction.pending_data["l"] is shadow
    shadow[0].append("late")
    array[2] = 9
    assert engine.read("l") == [[1, 2]]
    assert list(engine.read("a")) == [0, 7, 0]
    assert not change(engine, lambda ctx: ctx.transaction.get_shadow("l"))


def test_pending_data_and_delta_log(engine):
    engine.write("m", {"a": 1, "b": 2, "l": [1]})
    with engine.transaction() as ctx:
        ctx.m.a = 5
        del ctx.m.b
        ctx.m.l.append(2)
        ctx.m[("x", 1)] = 1
        assert ctx.transaction.pending_data == {"m.a": 5, ("m", ("x", 1)): 1, "m.l": [1, 2]}
        assert ctx.transaction.delta_log == [
            ("write", "m.a"),
            ("delete", "m.b"),
            ("write", ("m", ("x", 1))),
            ("write", "m.l"),
        ]


# ------------------------------------------------------------------------------ read-only


def test_snapshots_refuse_every_write(engine):
    engine.update({"m": {"a": 1}, "l": [[1]], "o": Account("ann"), "r": Row("x")})
    for root in (engine.snapshot().__enter__(), engine.state):
        for write in (
            lambda root=root: root["m"].__setitem__("a", 2),
            lambda root=root: setattr(root["m"], "a", 2),
            lambda root=root: root["m"].clear(),
            lambda root=root: root["m"].pop("a"),
            lambda root=root: root["m"].update(a=2),
            lambda root=root: root["l"].append(1),
            lambda root=root: root["l"][0].append(1),
            lambda root=root: root["l"].__setitem__(0, 1),
            lambda root=root: root["o"].book(1),
            lambda root=root: setattr(root["o"], "owner", "x"),
            lambda root=root: setattr(root["r"], "done", True),
        ):
            with pytest.raises(theus.ReadOnlyError) as caught:
                write()
            assert caught.value.path
        assert theus.plain(root["l"]) == [[1]] and root["o"].count() == 0
        assert root["l"][0][0] == 1 and [list(x) for x in root["l"]] == [[1]]


def test_plain_objects_from_a_snapshot_are_the_callers(engine):
    engine.write("l", [[1]])
    state = engine.state
    first, second = theus.plain(state["l"]), state.to_dict()["l"]
    first[0].append(2)
    second[0].append(3)
    assert theus.plain(state["l"]) == engine.read("l") == [[1]]
