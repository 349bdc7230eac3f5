"""Every way to write to an array or data frame in place, as in test_mutators.py: each one commits,
a rollback undoes it, a snapshot refuses it."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from typing import Any

import pytest
from mutation_table import (
    Case,
    Change,
    augmented,
    cases,
    check_commits,
    check_rolls_back,
    check_snapshot_refuses,
    unknown_methods,
)

import theus

np = pytest.importorskip("numpy")
try:
    import pandas as pd
except ImportError:  # its cases are left out; test_pandas_is_there says so
    pd = None


@pytest.fixture(scope="module")
def engine() -> Iterator[theus.Engine]:
    with theus.Coordinator(capacity="64 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            yield engine


def attribute(name: str, value: Any) -> Change:
    return lambda h: setattr(h.x, name, value)


METHODS: dict[str, Change] = {
    "__setitem__": lambda h: h.x.__setitem__((0, 1), 9),
    "__setitem__(slice)": lambda h: h.x.__setitem__(slice(0, 1), 9),
    "__setitem__(fancy)": lambda h: h.x.__setitem__(([0, 1], [1, 1]), 9),
    "__setitem__(mask)": lambda h: h.x.__setitem__(h.x > 2, 9),
    "__setitem__(ellipsis)": lambda h: h.x.__setitem__(Ellipsis, 9),
    "__iadd__": augmented("+", 1),
    "__isub__": augmented("-", 1),
    "__imul__": augmented("*", 3),
    "__ifloordiv__": augmented("//", 2),
    "__imod__": augmented("%", 2),
    "__ipow__": augmented("**", 2),
    "__ilshift__": augmented("<<", 1),
    "__irshift__": augmented(">>", 1),
    "__iand__": augmented("&", 1),
    "__ior__": augmented("|", 8),
    "__ixor__": augmented("^", 1),
    "__imatmul__": augmented("@", np.array([[2, 0, 0], [0, 1, 0], [0, 0, 1]])),
    "byteswap": lambda h: h.x.byteswap(inplace=True),
    "fill": lambda h: h.x.fill(7),
    "partition": lambda h: h.x.partition(1, axis=0),
    "put": lambda h: h.x.put([1], 9),
    "setfield": lambda h: h.x.setfield(7, "i2"),
    "sort": lambda h: h.x.sort(axis=0),
    "shape": attribute("shape", (3, 2)),
    "dtype": attribute("dtype", "u8"),
    "flat": attribute("flat", 5),
    "flat item": lambda h: h.x.flat.__setitem__(3, 9),
    "real": attribute("real", 9),
    "part": lambda h: h.x[0].__setitem__(1, 9),
    "part of part": lambda h: h.x[0:1][0][1:].fill(9),
    "part +=": lambda h: h.x[0:1].__iadd__(1),
    "items +=": lambda h: h.x.__setitem__(0, h.x[0] + 1),
    "rows": lambda h: [row.fill(1) for row in h.x],
    "T": lambda h: h.x.T.__setitem__((1, 0), 9),
    "mT": lambda h: getattr(h.x, "mT", h.x.T).__setitem__((1, 0), 9),
    "ravel": lambda h: h.x.ravel().__setitem__(1, 9),
    "reshape": lambda h: h.x.reshape(6).__setitem__(1, 9),
    "squeeze": lambda h: h.x.squeeze().__setitem__((0, 1), 9),
    "swapaxes": lambda h: h.x.swapaxes(0, 1).__setitem__((1, 0), 9),
    "transpose": lambda h: h.x.transpose().__setitem__((1, 0), 9),
    "view": lambda h: h.x.view("u8").__setitem__((0, 1), 9),
    "getfield": lambda h: h.x.getfield("i2").__setitem__((0, 1), 9),
    "imag": lambda h: h.x.view("c8").imag.__setitem__((0, 1), 9),
    "shuffle": lambda h: random.Random(1).shuffle(h.x[0]),
}
METHODS_OUT: dict[str, Change] = {
    name: lambda h, name=name, more=more: getattr(h.x, name)(*more, axis=0, out=h.x[0])
    for name, more in {
        "max": (), "min": (), "sum": (), "prod": (), "argmax": (), "argmin": (),
        "cumsum": (), "cumprod": (), "all": (), "any": (), "compress": ([False, True],),
        "take": ([1],), "mean": (), "std": (), "var": (),
    }.items()
}  # fmt: skip
FUNCTIONS: dict[str, Change] = {
    "copyto": lambda h: np.copyto(h.x, 9),
    "copyto(dst=)": lambda h: np.copyto(dst=h.x, src=9, where=h.x > 2),
    "fill_diagonal": lambda h: np.fill_diagonal(h.x, 9),
    "nan_to_num": lambda h: np.nan_to_num(h.x, copy=False, nan=9),
    "place": lambda h: np.place(h.x, h.x > 2, [8, 9]),
    "put": lambda h: np.put(h.x, [1], 9),
    "put_along_axis": lambda h: np.put_along_axis(h.x, np.array([[0]]), 9, 0),
    "putmask": lambda h: np.putmask(h.x, h.x > 2, 9.0),
    "add.reduce": lambda h: np.add.reduce(h.x, out=h.x[0]),
    "add.accumulate": lambda h: np.add.accumulate(h.x, out=h.x),
    "divmod": lambda h: np.divmod(h.x, 2, out=(h.x, None)),
    "modf": lambda h: np.modf(h.x, h.x, None),
    "positional out": lambda h: np.add(h.x, 1, h.x),
    "ravel": lambda h: np.ravel(h.x).__setitem__(1, 9),
    "reshape": lambda h: np.reshape(h.x, 9).__setitem__(1, 9),
    "split": lambda h: np.split(h.x, 3)[1].__setitem__((0, 0), 99),
    "moveaxis": lambda h: np.moveaxis(h.x, 0, 1)[0].fill(9),
    "flip": lambda h: np.flip(h.x)[0].fill(9),
    "atleast_3d": lambda h: np.atleast_3d(h.x)[0].fill(9),
    "expand_dims": lambda h: np.expand_dims(h.x, 0)[0].fill(9),
    "random": lambda h: np.random.RandomState(1).shuffle(h.x[0]),
}
# NumPy does not look at the flag here: what a snapshot gives is protected by the memory itself, and
# the process dies (test_escape.py).
UNCHECKED: dict[str, Change] = {
    "add.at": lambda h: np.add.at(h.x, ([0], [1]), 5),
    "negative.at": lambda h: np.negative.at(h.x, ([0], [1])),
}
# Functions with an argument `out`, called as f(array, *arguments, out=...).
OUT_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        """all any amax amin argmax argmin cumprod cumsum cumulative_prod cumulative_sum max mean
        median min nanargmax nanargmin nancumprod nancumsum nanmax nanmean nanmedian nanmin nanprod
        nanstd nansum nanvar prod ptp round around std sum var fix isneginf isposinf""".split(),
        (),
    ),
    "choose": ([np.zeros((3, 3)), np.ones((3, 3)), np.ones((3, 3))],),
    "clip": (1, 2),
    "compress": ([True, True, True],),
    "dot": (np.eye(3),),
    "nanpercentile": (50,),
    "nanquantile": (0.5,),
    "outer": ([2.0, 3.0, 5.0],),
    "percentile": (50,),
    "quantile": (0.5,),
    "take": ([2, 1, 0],),
    "trace": (),
}
# These take several arrays, or text, first.
OUT_ELSEWHERE: dict[str, Change] = {
    "concatenate": lambda h: np.concatenate([np.ones((3, 3))], out=h.x),
    "concat": lambda h: getattr(np, "concat", np.concatenate)([np.ones((3, 3))], out=h.x),
    "einsum": lambda h: np.einsum("ij->ji", np.eye(3) * 2, out=h.x),
    "stack": lambda h: np.stack([np.ones(3), np.zeros(3), np.ones(3)], out=h.x),
}
NO_NUMBERS = {"busday_count", "busday_offset", "is_busday"}  # of dates; out= as everywhere
INTO_ROW = {
    "all", "any", "amax", "amin", "argmax", "argmin", "max", "mean", "median", "min", "nanargmax",
    "nanargmin", "nanmax", "nanmean", "nanmedian", "nanmin", "nanprod", "nanstd", "nansum",
    "nanvar", "prod", "ptp", "std", "sum", "var", "nanpercentile", "nanquantile", "percentile",
    "quantile",
}  # fmt: skip


def output(name: str) -> Change:
    function, arguments = getattr(np, name), OUT_ARGUMENTS[name]
    # Not h.x: what NumPy makes of an output that overlaps its input is nobody's promise.
    source = finite()[::-1] * 2
    if name in ("argmax", "argmin", "nanargmax", "nanargmin"):
        return lambda h: function(source, axis=0, out=h.x.view("i8")[0])
    if name in INTO_ROW:
        return lambda h: function(source, *arguments, axis=0, out=h.x[0])
    if name == "choose":
        return lambda h: function(np.eye(3, dtype=int), *arguments, out=h.x)
    if name == "compress":
        return lambda h: function(*arguments, source, axis=0, out=h.x)
    if name == "trace":
        return lambda h: function(source, out=h.x[0, 1, ...])
    if name == "outer":
        return lambda h: function([1.0, 2.0, 3.0], *arguments, out=h.x)
    if name in ("take", "cumsum", "cumprod", "nancumsum", "nancumprod", "cumulative_sum",
                "cumulative_prod"):  # fmt: skip
        return lambda h: function(source, *arguments, axis=0, out=h.x)
    return lambda h: function(source, *arguments, out=h.x)


def integers() -> Any:
    return np.array([[5, 3, 1], [4, 2, 0]])


def floats() -> Any:
    return np.array([[5.5, -3.25, 1.5], [0.5, 2.75, 7.5], [9.5, -1.5, np.nan]])


def finite() -> Any:
    return np.array([[5.5, -3.25, 1.5], [0.5, 2.75, 7.5], [9.5, -1.5, 4.25]])


STRUCTURE = np.dtype([("a", "i4"), ("b", "f8"), ("c", "i4", (2,)), ("d", [("e", "i2")])])


def structured() -> Any:
    return np.array([(1, 2.0, [1, 2], (1,)), (3, 4.0, [3, 4], (2,))], dtype=STRUCTURE)


STRUCTURED: dict[str, Change] = {
    "field": lambda h: h.x["a"].fill(9),
    "field +=": lambda h: h.x["a"].__iadd__(9),
    "row": lambda h: h.x.__setitem__(0, (7, 8.0, [9, 9], (9,))),
    "row field": lambda h: h.x[0].__setitem__("a", 9),
    "row position": lambda h: h.x[0].__setitem__(1, 9),
    "row subarray": lambda h: h.x[0]["c"].__setitem__(1, 9),
    "row substructure": lambda h: h.x[0]["d"].__setitem__("e", 9),
    "rows": lambda h: [row.__setitem__("a", 9) for row in h.x],
    "row of part": lambda h: h.x[1:][0].__setitem__("a", 9),
    "fields": lambda h: h.x[["a", "b"]].__setitem__(0, (9, 9)),
    "row in loop": lambda h: [h.x[i].__setitem__("b", i) for i in range(2)],
    "sort": lambda h: h.x[::-1].sort(order="a"),
}
OBJECTS: dict[str, Change] = {
    "element": lambda h: h.x.__setitem__(2, {"new": [1]}),
    "inner": lambda h: h.x[0].append(2),
    "inner of part": lambda h: h.x[:2][0].append(2),
    "inner of dict": lambda h: h.x[1]["a"].append(2),
    "inner of loop": lambda h: [y.append(2) for y in h.x if isinstance(y, list)],
    "fill": lambda h: h.x.fill(None),
    "flat": lambda h: h.x.flat.__setitem__(0, 9),
    "augmented": lambda h: h.x[2:].__iadd__(1),
    "item()": lambda h: h.x.item(0).append(1),
    "tolist()": lambda h: h.x.tolist()[0].append(1),
}
MASKED: dict[str, Change] = {
    "item": lambda h: h.x.__setitem__(0, 9),
    "masked": lambda h: h.x.__setitem__(1, np.ma.masked),
    "mask": lambda h: setattr(h.x, "mask", [1, 1, 0]),
    "+=": augmented("+", 1),
    "data": lambda h: h.x.data.__setitem__(0, 9),
    "fill_value": lambda h: setattr(h.x, "fill_value", 7),
    "sort": lambda h: h.x.sort(),
    "put": lambda h: h.x.put([0], [9]),
    "part": lambda h: h.x[0:2].__setitem__(0, 9),
}
RECORDS: dict[str, Change] = {
    "attribute": lambda h: setattr(h.x[0], "a", 9),
    "field": lambda h: h.x.a.__setitem__(0, 9),
    "row": lambda h: h.x.__setitem__(0, (9, 9)),
}
FORMS = {
    "F order": lambda: np.asfortranarray(integers()),
    "strided": lambda: np.arange(24).reshape(4, 6)[::2, ::2],
    "reversed": lambda: integers()[::-1, ::-1],
    "big-endian": lambda: integers().astype(">i8"),
    "bool": lambda: integers() > 2,
    "float16": lambda: integers().astype("f2"),
    "longdouble": lambda: integers().astype("longdouble"),
    "complex": lambda: integers() * 1j,
    "text": lambda: integers().astype("U3"),
    "bytes": lambda: integers().astype("S3"),
    "datetime64": lambda: integers().astype("M8[D]"),
    "timedelta64": lambda: integers().astype("m8[s]"),
}
FORM: dict[str, Change] = {
    "item": lambda h: h.x.__setitem__((0, 1), h.x[1, 2]),
    "slice": lambda h: h.x.__setitem__(slice(0, 1), h.x[1]),
    "part": lambda h: h.x[0].__setitem__(0, h.x[1, 2]),
    "column": lambda h: h.x.T[1].__setitem__(slice(None), h.x[0, 0]),
    "fill": lambda h: h.x[0].fill(h.x[1, 1]),
    "copyto": lambda h: np.copyto(h.x, h.x[1, 1]),
}
NESTED: dict[str, Change] = {
    "item": lambda h: h.x[0].__setitem__(0, 9),
    "+=": lambda h: h.x.__setitem__(0, h.x[0].__iadd__(1)),
    "out": lambda h: np.add(h.x[0], 1, out=h.x[0]),
    "deep": lambda h: h.x[1]["w"][1:].fill(9),
    "append": lambda h: h.x.append(np.ones(2)),
    "objects": lambda h: h.x[2][0].append(3),
}
READING = """T __abs__ __add__ __and__ __array__ __array_finalize__ __array_function__
    __array_interface__ __array_namespace__ __array_priority__ __array_struct__ __array_ufunc__
    __array_wrap__ __array_prepare__ __bool__ __class_getitem__ __complex__ __contains__ __copy__
    __deepcopy__ __divmod__ __dlpack__ __dlpack_device__ __float__ __floordiv__ __getitem__
    __index__ __int__ __invert__ __iter__ __len__ __lshift__ __matmul__ __mod__ __mul__ __neg__
    __or__ __pos__ __pow__ __radd__ __rand__ __rdivmod__ __rfloordiv__ __rlshift__ __rmatmul__
    __rmod__ __rmul__ __ror__ __rpow__ __rrshift__ __rshift__ __rsub__ __rtruediv__ __rxor__
    __sub__ __truediv__ __xor__ __buffer__ __release_buffer__ argpartition argsort astype base
    choose clip conj conjugate copy ctypes data device diagonal dot dump dumps flags flatten item
    itemsize nbytes ndim newbyteorder nonzero ptp repeat round searchsorted setflags size
    strides to_device tobytes tofile tolist tostring trace"""
RAISING = "__delitem__ __setstate__ resize itemset"


def test_the_table_of_methods_is_complete() -> None:
    known = f"{READING} {RAISING} __setattr__ __delattr__ __init__ __itruediv__"
    assert not unknown_methods(np.ndarray, METHODS | METHODS_OUT, known)


def test_the_table_of_functions_is_complete() -> None:
    found = set()
    for name in dir(np):
        function = getattr(np, name)
        if not callable(function) or isinstance(function, (type, np.ufunc)):
            continue
        try:
            if "out" in inspect.signature(function).parameters:
                found.add(name)
        except (ValueError, TypeError):
            pass  # it has no signature
    assert found <= OUT_ARGUMENTS.keys() | OUT_ELSEWHERE.keys() | NO_NUMBERS


def outputs() -> dict[str, Change]:
    return {name: output(name) for name in OUT_ARGUMENTS if hasattr(np, name)}


def ufuncs() -> dict[str, Change]:
    """Every function of NumPy's that works element by element and can write into what it reads."""
    found: dict[str, Change] = {}
    for name in sorted(dir(np)):
        function = getattr(np, name)
        if not isinstance(function, np.ufunc) or function.signature is not None:
            continue
        operands = [finite() for _ in range(function.nin)]
        try:
            with np.errstate(all="ignore"):
                result = function(*operands, out=(operands[0],) + (None,) * (function.nout - 1))
        except TypeError:
            continue  # for integers or dates; NumPy treats out= alike
        first = result[0] if function.nout > 1 else result
        if not np.array_equal(first, finite()):
            found[name] = lambda h, f=function: f(
                *[h.x] * f.nin, out=(h.x,) + (None,) * (f.nout - 1)
            )
    return found


def frame() -> Any:
    return pd.DataFrame({"a": [3, 1, 2], "b": [1.5, np.nan, 3.5], "s": ["x", "y", "x"]})


def series() -> Any:
    return pd.Series([3.5, np.nan, 1.5], index=["r", "s", "t"], name="n")


def locate(indexer: str, key: Any, value: Any) -> Change:
    return lambda h: getattr(h.x, indexer).__setitem__(key, value)


def method(name: str, *arguments: Any, **named: Any) -> Change:
    return lambda h: getattr(h.x, name)(*arguments, **named)


INPLACE: dict[str, Change] = {
    "bfill": method("bfill", inplace=True),
    "clip": lambda h: h.x.__setitem__("b", h.x["b"].clip(2, 3)),
    "drop": method("drop", index=0, inplace=True),
    "drop_duplicates": method("drop_duplicates", "s", inplace=True),
    "dropna": method("dropna", inplace=True),
    "eval": method("eval", "z = a + b", inplace=True),
    "ffill": method("ffill", inplace=True),
    "fillna": method("fillna", {"b": 0.0}, inplace=True),
    "interpolate": lambda h: h.x.__setitem__("b", h.x["b"].interpolate()),
    "mask": lambda h: h.x.mask(h.x == 1.5, 9.5, inplace=True),
    "query": method("query", "a > 1", inplace=True),
    "rename": method("rename", columns={"a": "A"}, inplace=True),
    "rename_axis": method("rename_axis", "rows", inplace=True),
    "replace": method("replace", 3.5, 9.5, inplace=True),
    "reset_index": method("reset_index", inplace=True),
    "set_index": method("set_index", "s", inplace=True),
    "sort_index": method("sort_index", ascending=False, inplace=True),
    "sort_values": method("sort_values", "a", inplace=True),
    "where": lambda h: h.x.where(h.x != 1.5, 9.5, inplace=True),
}
FRAME: dict[str, Change] = {
    **INPLACE,
    "loc": locate("loc", (0, "a"), 9),
    "loc rows": lambda h: h.x.loc.__setitem__((h.x["a"] > 1, "b"), 0.0),
    "loc append": lambda h: h.x.loc.__setitem__(len(h.x), [4, 4.5, "z"]),
    "iloc": locate("iloc", (0, 0), 9),
    "at": locate("at", (0, "a"), 9),
    "iat": locate("iat", (0, 0), 9),
    "column": lambda h: h.x.__setitem__("a", [7, 8, 9]),
    "new column": lambda h: h.x.__setitem__("new", h.x["a"] * 2),
    "column +=": lambda h: h.x.__setitem__("a", h.x["a"].__iadd__(1)),
    "attribute": lambda h: setattr(h.x, "a", [7, 8, 9]),
    "columns": lambda h: setattr(h.x, "columns", ["x", "y", "z"]),
    "index": lambda h: setattr(h.x, "index", [7, 8, 9]),
    "attrs": lambda h: h.x.attrs.__setitem__("k", 1),
    "index.name": lambda h: setattr(h.x.index, "name", "rows"),
    "delete": lambda h: h.x.__delitem__("a"),
    "insert": method("insert", 0, "new", [7, 8, 9]),
    "pop": method("pop", "a"),
    "update": lambda h: h.x.update(pd.DataFrame({"a": [9]})),
    "slice": lambda h: h.x[["a", "b"]].__setitem__ and h.x.__setitem__(["a", "b"], 0),
    "iterrows": lambda h: [h.x.loc.__setitem__((i, "a"), i) for i, _ in h.x.iterrows()],
}
NUMBERS: dict[str, Change] = {
    "+=": augmented("+", 1),
    "*=": augmented("*", 2),
    "[:]": lambda h: h.x.__setitem__(slice(None), 0.0),
    "mask": lambda h: h.x.__setitem__(h.x > 2, 0.0),
}
SERIES: dict[str, Change] = {
    "item": lambda h: h.x.__setitem__("r", 9.5),
    "loc": locate("loc", "r", 9.5),
    "iloc": locate("iloc", 0, 9.5),
    "at": locate("at", "r", 9.5),
    "iat": locate("iat", 0, 9.5),
    "+=": augmented("+", 1),
    "mask": lambda h: h.x.__setitem__(h.x > 2, 0.5),
    "name": lambda h: setattr(h.x, "name", "new"),
    "index": lambda h: setattr(h.x, "index", [7, 8, 9]),
    "pop": method("pop", "r"),
    "delete": lambda h: h.x.__delitem__("r"),
    "update": lambda h: h.x.update(pd.Series({"r": 9.5})),
    "fillna": method("fillna", 0.5, inplace=True),
    "sort_values": method("sort_values", inplace=True),
    "drop": method("drop", "r", inplace=True),
}


def test_pandas_is_there() -> None:
    pytest.importorskip("pandas")


def test_the_table_of_inplace_methods_is_complete() -> None:
    pytest.importorskip("pandas")
    found = {
        name
        for name in dir(pd.DataFrame)
        if not name.startswith("_")
        and inspect.isfunction(getattr(pd.DataFrame, name))
        and "inplace" in inspect.signature(getattr(pd.DataFrame, name)).parameters
    }
    assert found <= INPLACE.keys()


ALL = [
    *cases("array", integers, {k: v for k, v in METHODS.items() if k != "imag"},
           undone=("shape", "dtype")),  # what a view is, and not what it holds, is its own
    *cases("array", lambda: integers().astype("f8"), {"__itruediv__": augmented("/", 4)}),
    *cases("array", lambda: np.ones((2, 4), "f4"), {"imag": METHODS["imag"]}),
    *cases("method out", finite, {
        name: change for name, change in METHODS_OUT.items()
        if name not in ("argmax", "argmin", "cumsum", "cumprod", "compress", "take")
    }),
    *cases("function", floats, {k: v for k, v in FUNCTIONS.items()}),
    *cases("out", finite, outputs() | OUT_ELSEWHERE),
    *cases("ufunc", finite, ufuncs()),
    *cases("structured", structured, STRUCTURED),
    *cases("objects", lambda: np.array([[1], {"a": [1]}, 5], dtype=object), OBJECTS),
    *cases("masked", lambda: np.ma.array([3, 2, 1], mask=[0, 0, 1]), MASKED),
    *cases("records", lambda: np.rec.array([(1, 2), (3, 4)], names="a,b"), RECORDS),
    *cases("list of arrays", lambda: [np.zeros(2), {"w": np.ones(3)},
                                      np.array([[1], 2], dtype=object)], NESTED),
    *(case for name, make in FORMS.items() for case in cases(name, make, FORM)),
    *(cases("frame", frame, FRAME) if pd is not None else []),
    *(cases("numbers", lambda: frame()[["a", "b"]], NUMBERS) if pd is not None else []),
    *(cases("series", series, SERIES) if pd is not None else []),
]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("case", [*ALL, *cases("function", floats, UNCHECKED)])
def test_commits(case: Case, engine: theus.Engine) -> None:
    check_commits(engine, case)


@pytest.mark.parametrize("case", ALL)
def test_rolls_back(case: Case, engine: theus.Engine) -> None:
    check_rolls_back(engine, case)


@pytest.mark.parametrize("case", ALL)
def test_a_snapshot_refuses(case: Case, engine: theus.Engine) -> None:
    check_snapshot_refuses(engine, case)


def test_what_numpy_cannot_do_through_a_proxy_raises(engine: theus.Engine) -> None:
    engine.write("x", integers())
    with engine.transaction() as ctx:
        with pytest.raises(ValueError, match="resized"):
            ctx.x.resize((1, 2))
        with pytest.raises(ValueError, match="delete"):
            del ctx.x[0]
        with pytest.raises(TypeError, match="reshape"):
            ctx.x[0].shape = (3, 1)
        for write in (
            lambda: np.asarray(ctx.x).__setitem__(0, 1),
            lambda: memoryview(ctx.x).__setitem__((0, 0), 1),
            lambda: ctx.x.data.__setitem__((0, 0), 1),
            lambda: np.lib.stride_tricks.as_strided(ctx.x, (1,), (8,)).__setitem__(0, 1),
            lambda: np.broadcast_to(ctx.x, (2, 2, 3)).__setitem__(0, 1),
            lambda: np.nditer(ctx.x, op_flags=["readwrite"]),
        ):
            with pytest.raises((ValueError, TypeError, theus.TheusError), match="read-?only"):
                write()
    assert np.array_equal(engine.state["x"], integers())
