"""Keys and values on their way in and out (docs/bindings.md, Keys and Leaves)."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import pathlib
import threading
import uuid

import numpy as np
import pytest

import theus
from theus import _theus


@pytest.fixture(scope="module")
def coordinator():
    with theus.Coordinator(capacity="256 MiB") as running:
        yield running


@pytest.fixture
def engine(coordinator):
    with theus.connect(coordinator.name) as engine:
        engine.run(lambda ctx: ctx.clear())
        yield engine


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Name(str):
    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: object


@dataclasses.dataclass
class User:
    name: str
    tags: list


Pair = collections.namedtuple("Pair", "left right")


def store_and_read(engine, value):
    def write(ctx):
        ctx["value"] = value

    engine.run(write)
    return engine.read("value")


# ------------------------------------------------------------------------------ keys

KEYS = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    -(2**200),
    1.5,
    -0.0,
    1e300,
    math.inf,
    -math.inf,
    "",
    "a",
    "é€\U0001f600",
    "with\0nul",
    "\udc80 lone surrogate",
    b"",
    b"\x00\xff",
    (),
    (1,),
    (1.0, "x", (None, b"y", (True,))),
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_key_comes_back_as_it_was_spelled(key):
    canonical, spelling = _theus.encode_key(key)
    again = _theus.decode_key(canonical, spelling)
    assert again == key
    assert type(again) is type(key)
    assert repr(again) == repr(key)


def test_distinct_keys_have_distinct_canonical_forms():
    forms = {_theus.encode_key(key)[0] for key in KEYS}
    assert len(forms) == len(set(KEYS))


@pytest.mark.parametrize(
    "spellings",
    [
        (1, True, 1.0, Level.LOW, np.int64(1), np.float32(1), np.bool_(True)),
        (0, False, 0.0, -0.0),
        ("a", Name("a"), np.str_("a")),
        (b"a", np.bytes_(b"a")),
        (2**70, float(2**70)),
        ((1, 2), (1.0, True + 1), Pair(1, 2)),
    ],
    ids=repr,
)
def test_keys_equal_in_python_are_one_key(spellings):
    assert len({_theus.encode_key(key)[0] for key in spellings}) == 1


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        (math.nan, "NaN"),
        ((1, math.nan), "NaN"),
        (uuid.uuid4(), "str(key)"),
        (datetime.date(2020, 1, 1), "isoformat"),
        (pathlib.PurePosixPath("/x"), "str(key)"),
        ([1], "tuple(key)"),
        (Colour.RED, "keys are"),
        (decimal.Decimal(1), "keys are"),
        (object(), "keys are"),
        ("x" * 1000, "960 bytes"),
        (1 << 9000, "960 bytes"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_keys_are_refused_with_a_suggestion(key, suggestion):
    with pytest.raises(theus.EncodeError) as caught:
        _theus.encode_key(key)
    assert suggestion in str(caught.value)


def test_damaged_keys_are_decode_errors():
    for canonical in (b"", b"\x09", b"123\x01", b"12\x03", b"\xff\xff\x06", b"\x05\x00a\x06"):
        with pytest.raises(theus.DecodeError):
            _theus.decode_key(canonical, b"")


def test_first_spelling_of_a_key_stays(engine):
    with engine.transaction() as ctx:
        ctx["m"] = {1.0: "a"}
        ctx["m"][True] = "b"
    assert engine.read("m") == {1: "b"}
    assert [type(key) for key in engine.read("m")] == [float]


def test_str_subclasses_and_enums_are_stored_as_plain_keys(engine):
    engine.write("m", {Name("n"): 1, Level.LOW: 2, np.int64(5): 3})
    assert [type(key) for key in engine.read("m")] == [str, int, int]


# ------------------------------------------------------------------------------ values

PLAIN = [
    None,
    True,
    0,
    -(2**63),
    2**64,
    -(10**50),
    0.1,
    -0.0,
    math.inf,
    "",
    "text" * 1000,
    "\udc80",
    b"",
    b"x" * 5000,
    1 + 2j,
    (),
    (1, (2, "x")),
    frozenset({1, 2}),
    range(5),
    datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
    datetime.timedelta(days=1),
    decimal.Decimal("1.10"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=5),
    Colour.RED,
    Point(1, (2, 3)),
    Pair(1, "x"),
    np.float64(1.5),
    np.int8(3),
    np.datetime64("2020-01-01"),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: f"{type(value).__name__}-{value!r:.20}")
def test_frozen_values_are_given_out_as_themselves(engine, value):
    engine.write("value", value)
    with engine.transaction() as ctx:
        assert type(ctx.value) is type(value)
        assert repr(ctx.value) == repr(value)
    with engine.snapshot() as ctx:
        assert type(ctx.value) is type(value)
    assert repr(engine.read("value")) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        [],
        [1, [2]],
        {1, 2},
        bytearray(b"x"),
        collections.deque([1], maxlen=3),
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        collections.defaultdict(list, a=[1]),
        (1, [2]),
        User("ann", ["x"]),
        Point(1, [2]),
        Pair([1], 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_mutable_values_stand_behind_a_proxy_and_keep_their_class(engine, value):
    engine.write("value", value)
    for opened in (engine.transaction, engine.snapshot):
        with opened() as ctx:
            proxy = ctx.value
            assert type(proxy) is theus.SupervisorProxy
            assert isinstance(proxy, type(value))
            again = theus.plain(proxy)
            assert type(again) is type(value)
            assert again == value
            assert again is not theus.plain(proxy)
    assert engine.read("value") == value


def test_only_exact_dicts_become_nodes(engine):
    engine.write("value", theus.leaf({"a": {"b": [1]}}))
    with engine.transaction() as ctx:
        assert isinstance(ctx.value, dict)
        ctx.value["a"]["b"].append(2)
        ctx.again = ctx.value
        with pytest.raises(AttributeError):
            ctx.value.a
    assert engine.read("value") == engine.read("again") == {"a": {"b": [1, 2]}}
    with pytest.raises(TypeError, match="leaf"):
        engine.read("again.a")


DTYPES = ["?", "i1", "<u8", ">i4", "f2", "f4", "f8", "c16", "M8[ns]", "m8[D]", "S5", "U3"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 4), (2, 0, 3)], ids=str)
def test_arrays_keep_dtype_shape_and_content(engine, dtype, shape):
    size = math.prod(shape)
    array = np.arange(size).astype("i8").astype(dtype).reshape(shape)
    again = store_and_read(engine, array)
    assert again.dtype == array.dtype and again.shape == array.shape
    assert again.tobytes() == array.tobytes()
    assert not again.flags.writeable
    with pytest.raises(ValueError):
        again.flags.writeable = True


def test_structured_array(engine):
    dtype = np.dtype([("id", "i4"), ("weight", "f8", (2,))], align=True)
    array = np.zeros(3, dtype)
    array["id"] = [1, 2, 3]
    again = store_and_read(engine, array)
    assert again.dtype == dtype and (again["id"] == [1, 2, 3]).all()


def test_strided_arrays_are_encoded_contiguously_and_fortran_order_is_kept(engine):
    base = np.arange(24.0).reshape(4, 6)
    for array in (base[::2, ::3], base.T, base[::-1], np.asfortranarray(base)):
        again = store_and_read(engine, array)
        assert (again == array).all()
        assert again.flags.f_contiguous == array.flags.f_contiguous
        assert again.flags.forc


def test_object_arrays_and_subclasses_are_pickled(engine):
    objects = np.array([1, "x", None], dtype=object)
    again = store_and_read(engine, objects)
    assert list(again) == [1, "x", None]
    masked = np.ma.masked_array([1, 2], mask=[True, False])
    assert isinstance(store_and_read(engine, masked), np.ma.MaskedArray)


def test_array_data_is_aligned_and_not_copied(engine):
    engine.write("value", np.arange(1 << 20))
    with engine.snapshot() as ctx:
        first, second = ctx.value, ctx.value
        assert first is not second
        assert first.ctypes.data == second.ctypes.data
        assert first.ctypes.data % 64 == 0
        first.shape = (1 << 10, 1 << 10)
        assert second.shape == (1 << 20,)


def test_arrays_inside_a_leaf_are_out_of_band(engine):
    value = [np.arange(1000), {"x": np.ones(1000)}]
    encoded = _theus.encode_leaf(value)
    assert len(encoded) > 16000
    again = store_and_read(engine, value)
    assert (again[0] == value[0]).all() and (again[1]["x"] == 1).all()
    with engine.snapshot() as ctx:
        assert not ctx.value[0].flags.writeable


def test_dataframe(engine):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5], "c": ["x", "y", "z"]})
    engine.write("frame", frame)
    pandas.testing.assert_frame_equal(engine.read("frame"), frame)
    with engine.transaction() as ctx:
        ctx.frame["d"] = ctx.frame["a"] * 2
        ctx.frame.loc[0, "b"] = 9.0
    changed = engine.read("frame")
    assert list(changed["d"]) == [2, 4, 6] and changed.loc[0, "b"] == 9.0
    with engine.snapshot() as ctx:
        assert ctx.frame.loc[0, "b"] == 9.0 and ctx.frame["d"].sum() == 12
        assert list(ctx.frame.iloc[1:]["a"]) == [2, 3]
        for write in (
            lambda: ctx.frame.__setitem__("d", 0),
            lambda: ctx.frame.loc.__setitem__((0, "b"), 1.0),
            lambda: ctx.frame.insert(0, "e", 0),
        ):
            with pytest.raises(theus.ReadOnlyError):
                write()
        assert ctx.frame.loc[0, "b"] == 9.0 and list(ctx.frame.columns) == ["a", "b", "c", "d"]


def test_damaged_leaves_are_decode_errors():
    for value in ([1, 2, "x"], np.arange(10), [np.arange(10)]):
        encoded = _theus.encode_leaf(value)
        _theus.decode_leaf(encoded)
        for size in (0, 1, 3, 10, 20, len(encoded) - 1):
            with pytest.raises(theus.DecodeError):
                _theus.decode_leaf(encoded[:size])
        for place in (0, 1, 2, 3):
            broken = bytearray(encoded)
            broken[place] ^= 0x55
            with pytest.raises(theus.DecodeError):
                _theus.decode_leaf(bytes(broken))
        for place in (4, 8, 12, 16, 24):
            broken = bytearray(encoded)
            broken[place + 3] = 0xFF
            with pytest.raises((theus.DecodeError, ValueError)):
                _theus.decode_leaf(bytes(broken))


# ------------------------------------------------------------------------------ refused values


UNPICKLABLE = [lambda: None, threading.Lock(), (n for n in "x"), memoryview(b"x")]


@pytest.mark.parametrize("value", UNPICKLABLE, ids=lambda value: type(value).__name__)
def test_what_cannot_be_pickled_is_refused_with_its_path(engine, value):
    with engine.transaction() as ctx:
        ctx["a"] = {"kept": 1}
        with pytest.raises(theus.EncodeError) as caught:
            ctx["a"] = {"good": 2, "deep": {"bad": [value]}}
        assert caught.value.path == "a.deep.bad"
        assert caught.value.__cause__ is not None
        assert "nothing was changed" in str(caught.value)
        assert ctx["a"].to_dict() == {"kept": 1}
    assert engine.read("a") == {"kept": 1}


def test_engines_and_contexts_are_refused(engine):
    with engine.transaction() as ctx:
        for value in (engine, ctx, [engine], [ctx]):
            with pytest.raises(theus.EncodeError):
                ctx["x"] = value
        assert "x" not in ctx


def test_a_failing_update_changes_nothing(engine):
    engine.update({"a": 1})
    with engine.transaction() as ctx:
        with pytest.raises(theus.EncodeError):
            ctx.update({"a": 2, "b": 3, "c": threading.Lock()})
        with pytest.raises(theus.EncodeError):
            ctx.update({"a": 2, math.nan: 3})
        assert ctx.to_dict() == {"a": 1}


def test_bad_keys_inside_a_value_name_the_path(engine):
    with engine.transaction() as ctx:
        with pytest.raises(theus.EncodeError) as caught:
            ctx["a"] = {"b": {uuid.uuid4(): 1}}
        assert caught.value.path == "a.b"


def test_cycles_through_dicts_are_refused(engine):
    cycle = {"x": {}}
    cycle["x"]["y"] = cycle
    with engine.transaction() as ctx:
        with pytest.raises(theus.EncodeError, match="contains itself"):
            ctx["a"] = cycle
        ctx["a"] = theus.leaf(cycle)
        again = theus.plain(ctx["a"])
        assert again["x"]["y"] is again


def test_shared_dicts_become_independent_copies(engine):
    shared = {"n": 1}
    with engine.transaction() as ctx:
        ctx["a"] = {"left": shared, "right": shared}
        ctx["a"]["left"]["n"] = 2
    assert engine.read("a") == {"left": {"n": 2}, "right": {"n": 1}}


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"d": value}
    return value


def test_nesting_is_bounded(engine):
    engine.write("deep", nested(150))
    assert engine.read("deep") == nested(150)
    with engine.transaction() as ctx:
        for depth in (500, 100_000):
            with pytest.raises(theus.EncodeError, match="deep"):
                ctx["deeper"] = nested(depth)
        deep = []
        for _ in range(20_000):
            deep = [deep]
        with pytest.raises(theus.EncodeError):
            ctx["deeper"] = deep
        while deep:  # an ordinary destructor would recurse, too
            deep = deep.pop()


def test_assignment_stores_a_copy_of_that_moment(engine):
    rows, weights = [1], np.zeros(3)
    with engine.transaction() as ctx:
        ctx["rows"], ctx["weights"] = rows, weights
        rows.append(2)
        weights[0] = 9
    assert engine.read("rows") == [1]
    assert engine.read("weights")[0] == 0


def test_a_class_that_cannot_be_imported_raises_only_when_that_leaf_is_read(engine, monkeypatch):
    engine.update({"user": User("ann", []), "other": 1})
    monkeypatch.delattr(f"{__name__}.User")
    with theus.connect(engine.name) as fresh:
        assert fresh.read("other") == 1
        with pytest.raises(theus.DecodeError) as caught:
            fresh.read("user")
        assert caught.value.path == "user"
        with fresh.transaction() as ctx:
            del ctx["user"]


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ((1, "x"), "frozen"),
        ([1, "x"], "flat"),
        ({"a": 1}, "flat"),
        ({1, (2, 3)}, "flat"),
        ([[1]], "known"),
        ((1, [2]), "known"),
        ([np.zeros(2)], "known"),
        ([User("a", [])], "object"),
        (collections.defaultdict(list), "object"),
        (Point(1, [2]), "object"),
        (np.array([None]), "object"),
    ],
    ids=repr,
)
def test_classify(value, shape):
    assert _theus.classify(value) == shape
