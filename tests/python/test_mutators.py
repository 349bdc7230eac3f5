"""Every mutating method and operator of every container and kind of class: each one commits, a
rollback undoes it, a snapshot refuses it. A method that a later Python adds makes the test of
completeness fail: it belongs into a table here, and, if it writes, into theus/_leaf_methods.py."""

from __future__ import annotations

import array
import collections
import dataclasses
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

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

try:
    import pydantic
except ImportError:  # its cases are left out; test_pydantic_is_there says so
    pydantic = None  # type: ignore[assignment]


@pytest.fixture(scope="module")
def engine() -> Iterator[theus.Engine]:
    with theus.Coordinator(capacity="64 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            yield engine


def delete(h: Any, key: Any) -> None:
    del h.x[key]


# --- containers

COMMON_READS = """__add__ __class_getitem__ __contains__ __copy__ __deepcopy__ __getitem__ __iter__
    __len__ __mul__ __rmul__ __reversed__ __module__ copy count index __dict__ __weakref__"""

LIST: dict[str, Change] = {
    "append": lambda h: h.x.append([9]),
    "clear": lambda h: h.x.clear(),
    "extend": lambda h: h.x.extend([[8], 9]),
    "insert": lambda h: h.x.insert(1, [9]),
    "pop": lambda h: h.x.pop(0),
    "remove": lambda h: h.x.remove(2),
    "reverse": lambda h: h.x.reverse(),
    "sort": lambda h: h.x.sort(key=str, reverse=True),
    "__init__": lambda h: setattr(h, "x", [1]),
    "__setitem__": lambda h: h.x.__setitem__(0, 9),
    "__setitem__(slice)": lambda h: h.x.__setitem__(slice(0, 2), [[7], 8, 9]),
    "__delitem__": lambda h: delete(h, 0),
    "__delitem__(slice)": lambda h: delete(h, slice(None, None, 2)),
    "__iadd__": augmented("+", [[9]]),
    "__imul__": augmented("*", 2),
    "inner append": lambda h: h.x[2].append(4),
    "inner +=": lambda h: h.x.__getitem__(2).__iadd__([5]),
    "while iterating": lambda h: [h.x.__setitem__(i, None) for i, _ in enumerate(h.x)],
    "inner of slice": lambda h: h.x[1:][1].append(4),
    "inner of sum": lambda h: (h.x + [])[2].append(4),
    "inner of loop": lambda h: [y.append(1) for y in h.x if isinstance(y, list)],
    "inner of reversed": lambda h: [y.append(1) for y in reversed(h.x) if isinstance(y, list)],
    "inner of sorted": lambda h: sorted(h.x, key=str)[-1].append(1),
    "inner of unpacking": lambda h: (lambda *items: items[2].append(1))(*h.x),
}
DEQUE: dict[str, Change] = {
    **{name: change for name, change in LIST.items() if "slice" not in name and name != "sort"},
    "__init__": lambda h: setattr(h, "x", collections.deque([1])),
    "appendleft": lambda h: h.x.appendleft([9]),
    "extendleft": lambda h: h.x.extendleft([8, [9]]),
    "pop": lambda h: h.x.pop(),
    "popleft": lambda h: h.x.popleft(),
    "rotate": lambda h: h.x.rotate(),
    "inner of sum": lambda h: (h.x + collections.deque())[2].append(4),
}
DICT: dict[str, Change] = {
    "clear": lambda h: h.x.clear(),
    "pop": lambda h: h.x.pop("a"),
    "pop(default)": lambda h: h.x.pop("a", None),
    "popitem": lambda h: h.x.popitem(),
    "setdefault": lambda h: h.x.setdefault("z", []).append(1),
    "setdefault(present)": lambda h: h.x.setdefault("l", []).append(1),
    "update": lambda h: h.x.update({"z": [1]}, y=2),
    "update(pairs)": lambda h: h.x.update([("z", [1])]),
    "__init__": lambda h: setattr(h, "x", {"new": 1}),
    "__setitem__": lambda h: h.x.__setitem__("a", 9),
    "__setitem__(tuple)": lambda h: h.x.__setitem__(("a", 1), 9),
    "__delitem__": lambda h: delete(h, "a"),
    "__ior__": augmented("|", {"z": [1]}),
    "inner get": lambda h: h.x.get("l").append(2),
    "inner item": lambda h: h.x["l"].append(2),
    "inner values": lambda h: [v.append(1) for v in h.x.values() if isinstance(v, list)],
    "inner items": lambda h: [v.append(1) for _, v in h.x.items() if isinstance(v, list)],
    "inner |": lambda h: (h.x | {})["l"].append(1),
    "inner ** ": lambda h: (lambda **names: names["l"].append(1))(**h.x),
    "inner dict()": lambda h: dict(h.x)["l"].append(1),
    "while iterating": lambda h: [h.x.__setitem__(key, None) for key in h.x],
    "while items()": lambda h: [h.x.__setitem__(key, [value]) for key, value in h.x.items()],
}
NODE = {name: change for name, change in DICT.items() if name != "inner |"}
SET: dict[str, Change] = {
    "add": lambda h: h.x.add(9),
    "clear": lambda h: h.x.clear(),
    "difference_update": lambda h: h.x.difference_update([1], {2}),
    "discard": lambda h: h.x.discard(1),
    "intersection_update": lambda h: h.x.intersection_update([1]),
    "pop": lambda h: h.x.pop(),
    "remove": lambda h: h.x.remove(1),
    "symmetric_difference_update": lambda h: h.x.symmetric_difference_update([1, 9]),
    "update": lambda h: h.x.update([8], {9}),
    "__init__": lambda h: setattr(h, "x", {9}),
    "__iand__": augmented("&", {1}),
    "__ior__": augmented("|", {9}),
    "__isub__": augmented("-", {1}),
    "__ixor__": augmented("^", {1, 9}),
}
BYTEARRAY: dict[str, Change] = {
    "append": lambda h: h.x.append(9),
    "clear": lambda h: h.x.clear(),
    "extend": lambda h: h.x.extend(b"ext"),
    "insert": lambda h: h.x.insert(1, 9),
    "pop": lambda h: h.x.pop(),
    "remove": lambda h: h.x.remove(98),
    "reverse": lambda h: h.x.reverse(),
    "__init__": lambda h: setattr(h, "x", bytearray(b"new")),
    "__setitem__": lambda h: h.x.__setitem__(0, 9),
    "__setitem__(slice)": lambda h: h.x.__setitem__(slice(0, 2), b"longer"),
    "__delitem__": lambda h: delete(h, 0),
    "__iadd__": augmented("+", b"more"),
    "__imul__": augmented("*", 2),
    **({"resize": lambda h: h.x.resize(2)} if hasattr(bytearray, "resize") else {}),
    **({"take_bytes": lambda h: h.x.take_bytes(2)} if hasattr(bytearray, "take_bytes") else {}),
}
ARRAY: dict[str, Change] = {
    "append": lambda h: h.x.append(9),
    "byteswap": lambda h: h.x.byteswap(),
    "extend": lambda h: h.x.extend(array.array("i", [8])),
    "frombytes": lambda h: h.x.frombytes(b"\x09\0\0\0"),
    "fromfile": lambda h: h.x.fromfile(io.BytesIO(b"\x09\0\0\0"), 1),
    "fromlist": lambda h: h.x.fromlist([9]),
    "insert": lambda h: h.x.insert(1, 9),
    "pop": lambda h: h.x.pop(),
    "remove": lambda h: h.x.remove(2),
    "reverse": lambda h: h.x.reverse(),
    "__init__": lambda h: setattr(h, "x", array.array("i", [5])),
    "__setitem__": lambda h: h.x.__setitem__(0, 9),
    "__setitem__(slice)": lambda h: h.x.__setitem__(slice(0, 2), array.array("i", [7])),
    "__delitem__": lambda h: delete(h, 0),
    "__iadd__": augmented("+", array.array("i", [9])),
    "__imul__": augmented("*", 2),
    **({"clear": lambda h: h.x.clear()} if hasattr(array.array, "clear") else {}),
}
UNICODE: dict[str, Change] = {"fromunicode": lambda h: h.x.fromunicode("new")}
MEMORY: dict[str, Change] = {
    "__setitem__": lambda h: h.x.__setitem__(0, 9),
    "__setitem__(slice)": lambda h: h.x.__setitem__(slice(0, 2), b"xy"),
    "cast": lambda h: h.x.cast("B").__setitem__(0, 9),
    "slice": lambda h: h.x[1:].__setitem__(0, 9),
}
ORDERED: dict[str, Change] = {
    **DICT,
    "__init__": lambda h: setattr(h, "x", collections.OrderedDict(new=1)),
    "move_to_end": lambda h: h.x.move_to_end("a"),
}
DEFAULT: dict[str, Change] = {
    **DICT,
    "__init__": lambda h: setattr(h, "x", collections.defaultdict(list, new=1)),
    "__missing__": lambda h: h.x["missing"],
    "__missing__ inner": lambda h: h.x["missing"].append(1),
    "default_factory": lambda h: setattr(h.x, "default_factory", int),
}
COUNTER: dict[str, Change] = {
    "clear": lambda h: h.x.clear(),
    "pop": lambda h: h.x.pop("a"),
    "popitem": lambda h: h.x.popitem(),
    "setdefault": lambda h: h.x.setdefault("z", 1),
    "subtract": lambda h: h.x.subtract("ab"),
    "update": lambda h: h.x.update("abz"),
    "__init__": lambda h: setattr(h, "x", collections.Counter("new")),
    "__setitem__": lambda h: h.x.__setitem__("a", 9),
    "__delitem__": lambda h: delete(h, "a"),
    "__iadd__": augmented("+", collections.Counter("az")),
    "__isub__": augmented("-", collections.Counter("a")),
    "__iand__": augmented("&", collections.Counter("a")),
    "__ior__": augmented("|", collections.Counter("az")),
    "_keep_positive": lambda h: (h.x.__setitem__("a", -1), h.x._keep_positive()),
    "item +=": lambda h: h.x.__setitem__("a", h.x["a"] + 1),
}
SET_READS = """__and__ __or__ __xor__ __sub__ __rand__ __ror__ __rxor__ __rsub__ difference
    intersection isdisjoint issubset issuperset symmetric_difference union"""
DICT_READS = "__or__ __ror__ fromkeys get items keys values"
BYTE_READS = """__alloc__ __mod__ __rmod__ capitalize center decode endswith expandtabs find fromhex
    hex isalnum isalpha isascii isdigit islower isspace istitle isupper join ljust lower lstrip
    maketrans partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit
    rstrip split splitlines startswith strip swapcase title translate upper zfill __buffer__
    __release_buffer__"""
MEMORY_READS = """__enter__ __exit__ c_contiguous contiguous f_contiguous format hex itemsize nbytes
    ndim obj readonly release shape strides suboffsets tobytes tolist toreadonly __buffer__
    __release_buffer__ __delitem__"""
ARRAY_READS = """buffer_info itemsize tobytes tofile tolist tounicode typecode __buffer__
    __release_buffer__"""

COMPLETE = [
    (list, LIST, ""),
    (dict, DICT, DICT_READS),
    (set, SET, SET_READS),
    (bytearray, BYTEARRAY, BYTE_READS),
    (collections.deque, DEQUE, "maxlen"),
    (array.array, ARRAY | UNICODE, ARRAY_READS),
    (memoryview, MEMORY, MEMORY_READS),
    (collections.OrderedDict, ORDERED, DICT_READS),
    (collections.defaultdict, DEFAULT, DICT_READS),
    (
        collections.Counter,
        COUNTER,
        DICT_READS + " " + SET_READS + " elements most_common total __missing__ __neg__ __pos__",
    ),
]


@pytest.mark.parametrize(
    ("cls", "table", "reading"), COMPLETE, ids=lambda v: getattr(v, "__name__", "")
)
def test_the_tables_are_complete(cls: type, table: dict[str, Change], reading: str) -> None:
    # What every object has of these two is that it has no attributes to set.
    known = f"{COMMON_READS} {reading} __setattr__ __delattr__ __init__"
    assert not unknown_methods(cls, table, known)


# --- classes


class Plain:
    kinds = ("class", "attribute")

    def __init__(self) -> None:
        self.name = "x"
        self.items: list[Any] = [1, [2]]
        self._total = 1
        self.inner: Any = None

    @property
    def total(self) -> int:
        return self._total

    @total.setter
    def total(self, value: int) -> None:
        self._total = value

    @total.deleter
    def total(self) -> None:
        self._total = 0

    def book(self, amount: int) -> Plain:
        self.items.append(amount)
        return self

    def parts(self) -> list[Any]:
        return [self.items]

    def each(self) -> Iterator[Any]:
        yield self.items

    def __iter__(self) -> Iterator[Any]:
        return iter([self.items])

    def __getitem__(self, key: int) -> Any:
        return self.items

    def __setitem__(self, key: int, value: Any) -> None:
        self.items[key] = value

    def __delitem__(self, key: int) -> None:
        del self.items[key]

    def __call__(self) -> None:
        self._total += 1

    def __contains__(self, item: Any) -> bool:
        self._total += 1  # a read that writes
        return True

    def __bool__(self) -> bool:
        self.items.append("bool")
        return True

    def __len__(self) -> int:
        self.items.append("len")
        return 3

    __lshift__ = __rlshift__ = __add__ = __iadd__ = __matmul__ = book

    def __neg__(self) -> Plain:
        return self.book(7)

    def __int__(self) -> int:
        return len(self.book(7).items)

    def __str__(self) -> str:
        return f"{self.book(7).name}"

    def __format__(self, spec: str) -> str:
        return f"{self.book(7).name}"

    def __lt__(self, other: Any) -> bool:
        return self.book(7) is self

    def __getattr__(self, name: str) -> Any:
        if name == "computed":
            self._total += 1
            return self._total
        raise AttributeError(name)


class Cached:
    """As functools.cached_property does it."""

    def __init__(self) -> None:
        self.runs = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "count":
            self.runs += 1
        return object.__getattribute__(self, name)

    count = 1


class Slots:
    __slots__ = ("items", "name")

    def __init__(self) -> None:
        self.name, self.items = "x", [1, [2]]


@dataclasses.dataclass
class Data:
    name: str = "x"
    items: list[Any] = dataclasses.field(default_factory=lambda: [1, [2]])


@dataclasses.dataclass(frozen=True)
class Frozen:
    name: str = "x"
    items: list[Any] = dataclasses.field(default_factory=lambda: [1, [2]])


class Named(NamedTuple):
    name: str
    items: list[Any]


class Listing(collections.UserList[Any]):
    pass


def set_name(h: Any) -> None:
    h.x.name = "new"


def delete_name(h: Any) -> None:
    del h.x.name


def add_items(h: Any) -> None:
    h.x.items += [9]


ATTRIBUTES: dict[str, Change] = {
    "__setattr__": set_name,
    "__delattr__": delete_name,
    "inner": lambda h: h.x.items.append(9),
    "inner +=": add_items,
    "deep": lambda h: h.x.items[1].append(9),
}
PLAIN: dict[str, Change] = {
    **ATTRIBUTES,
    "new attribute": lambda h: setattr(h.x, "fresh", [1]),
    "property": lambda h: setattr(h.x, "total", 9),
    "property deleted": lambda h: delattr(h.x, "total"),
    "method": lambda h: h.x.book(3).book(4),
    "parts": lambda h: h.x.parts()[0].append(3),
    "generator": lambda h: [items.append(3) for items in h.x.each()],
    "__iter__": lambda h: [items.append(3) for items in h.x],
    "__getitem__": lambda h: h.x[0].append(3),
    "__setitem__": lambda h: h.x.__setitem__(0, 9),
    "__delitem__": lambda h: delete(h, 0),
    "__call__": lambda h: h.x(),
    "__contains__": lambda h: 5 in h.x,
    "__bool__": lambda h: bool(h.x),
    "__len__": lambda h: len(h.x),
    "__lshift__": lambda h: h.x << 3,
    "__rlshift__": lambda h: 3 << h.x,
    "__add__": lambda h: h.x + 3,
    "__iadd__": augmented("+", 3),
    "__matmul__": lambda h: h.x @ 3,
    "__neg__": lambda h: -h.x,
    "__int__": lambda h: int(h.x),
    "__str__": lambda h: str(h.x),
    "__format__": lambda h: f"{h.x:5}",
    "__lt__": lambda h: h.x < 3,
    "__getattr__": lambda h: h.x.computed,
    "bound method": lambda h: list(map(h.x.book, [1, 2])),
}
INNER = {name: ATTRIBUTES[name] for name in ("inner", "deep")}
PYDANTIC: dict[str, Change] = {
    "__setattr__": set_name,
    "inner": lambda h: h.x.items.append(9),
    "augmented": add_items,
    "deep": lambda h: h.x.lines[0].items.append(1),
    "extra": lambda h: setattr(h.x, "extra", [1]),
    "model_copy": lambda h: setattr(h, "x", h.x.model_copy(update={"name": "new"})),
    "private": lambda h: setattr(h.x, "_private", 3),
    "method": lambda h: h.x.rename("new"),
}


def pydantic_model() -> Any:
    return Model(name="x", items=[1], lines=[Line(items=[1])])


if pydantic is not None:

    class Line(pydantic.BaseModel):
        items: list[int]

    class Model(pydantic.BaseModel, validate_assignment=True, extra="allow"):
        name: str
        items: list[int]
        lines: list[Line]
        _private: int = 1

        def rename(self, name: str) -> None:
            self.name = name


def test_pydantic_is_there() -> None:
    pytest.importorskip("pydantic")


def some_list() -> list[Any]:
    return [3, 2, ["inner"]]


def some_dict() -> dict[Any, Any]:
    return {"a": 1, "b": 2, "l": [1]}


ALL = [
    *cases("list", some_list, LIST),
    *cases("list of objects", lambda: [*some_list()[:2], ["i"], Data()], LIST),
    *cases("deque", lambda: collections.deque(some_list()), DEQUE),
    *cases("dict leaf", some_dict, DICT, leaf=True),
    *cases("dict of objects", lambda: {**some_dict(), "o": Data()}, DICT, leaf=True),
    *cases("set", lambda: {1, 2, 3}, SET),
    *cases("bytearray", lambda: bytearray(b"abc"), BYTEARRAY),
    *cases("array", lambda: array.array("i", [1, 2, 3]), ARRAY),
    *cases("array of text", lambda: array.array("u", "abc"), UNICODE),
    *cases("memoryview", lambda: memoryview(bytearray(b"abc")), MEMORY),
    *cases("OrderedDict", lambda: collections.OrderedDict(some_dict()), ORDERED),
    *cases(
        "defaultdict",
        lambda: collections.defaultdict(list, some_dict()),
        DEFAULT,
        undone=("__missing__",),
    ),
    *cases("Counter", lambda: collections.Counter("aab"), COUNTER),
    *cases("tuple", lambda: (1, 2, [3]), {"inner": lambda h: h.x[2].append(1)}),
    *cases("UserList", lambda: Listing(some_list()), {"append": LIST["append"]}),
    *cases("object", Plain, PLAIN, undone=("__getattr__",)),
    *cases("object with its own lookup", Cached, {"read": lambda h: h.x.count}, undone=("read",)),
    *cases("slots", Slots, ATTRIBUTES),
    *cases("dataclass", Data, ATTRIBUTES),
    *cases("frozen dataclass", Frozen, INNER),
    *cases("named tuple", lambda: Named("x", [1, [2]]), INNER),
    *(cases("pydantic", pydantic_model, PYDANTIC) if pydantic is not None else []),
]


@pytest.mark.parametrize("case", ALL)
def test_commits(case: Case, engine: theus.Engine) -> None:
    check_commits(engine, case)


@pytest.mark.parametrize("case", ALL)
def test_rolls_back(case: Case, engine: theus.Engine) -> None:
    check_rolls_back(engine, case)


@pytest.mark.parametrize("case", ALL)
def test_a_snapshot_refuses(case: Case, engine: theus.Engine) -> None:
    check_snapshot_refuses(engine, case)


@pytest.mark.parametrize("change", NODE.values(), ids=NODE)
def test_a_mapping_node_does_what_a_dict_does(change: Change, engine: theus.Engine) -> None:
    case = Case("node", some_dict, change)
    check_commits(engine, case)
    check_rolls_back(engine, case)
    check_snapshot_refuses(engine, case)
