"""What is known of the built-in containers: which methods read, which write, what is inside."""

from __future__ import annotations

import array
import collections
import gc
import types
from typing import Any

from theus import _theus

WRITES: dict[type, frozenset[str]] = {
    list: frozenset({"append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse"}),
    dict: frozenset({"clear", "pop", "popitem", "setdefault", "update"}),
    set: frozenset(
        {
            "add",
            "clear",
            "difference_update",
            "discard",
            "intersection_update",
            "pop",
            "remove",
            "symmetric_difference_update",
            "update",
        }
    ),
    bytearray: frozenset(
        {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "resize", "take_bytes"}
    ),
    collections.deque: frozenset(
        {
            "append",
            "appendleft",
            "clear",
            "extend",
            "extendleft",
            "insert",
            "pop",
            "popleft",
            "remove",
            "reverse",
            "rotate",
        }
    ),
    array.array: frozenset(
        {
            "append",
            "byteswap",
            "clear",
            "extend",
            "frombytes",
            "fromfile",
            "fromlist",
            "fromunicode",
            "insert",
            "pop",
            "remove",
            "reverse",
        }
    ),
    tuple: frozenset(),
    frozenset: frozenset(),
}


def _other_methods(cls: type) -> frozenset[str]:
    names = {
        name
        for name in dir(cls)
        if not name.startswith("_") and callable(getattr(cls, name)) and name not in WRITES[cls]
    }
    if cls is dict:
        names.add("to_dict")
    elif cls not in (bytearray, array.array):
        names.add("to_list")
    return frozenset(names)


READS: dict[type, frozenset[str]] = {cls: _other_methods(cls) for cls in WRITES}

# These read, but tell an address: what is written there is found at commit.
RUNNING = frozenset({"buffer_info"})

# Where the way through a leaf's objects ends: these are shared with the rest of the program.
_OUTSIDE: tuple[type, ...] = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.CodeType,
    types.FrameType,
    str,
    bytes,
    int,
    float,
)


def _referents(value: Any) -> list[Any]:
    if _theus.is_array(value) and value.dtype.hasobject:
        return [value.ravel().tolist()]  # NumPy does not tell the collector what is inside
    return gc.get_referents(value)


_NOTHING = object()


def everything_in(root: Any, wanted: Any = _NOTHING) -> dict[int, Any]:
    """All objects in `root` by their id, itself included; or those found before `wanted`, and it.
    Walks all of it at worst."""
    found = {id(root): root}
    waiting = [root]
    while waiting and id(wanted) not in found:
        for item in _referents(waiting.pop()):
            if id(item) not in found and (item is wanted or not isinstance(item, _OUTSIDE)):
                found[id(item)] = item
                waiting.append(item)
    return found


def reachable(root: Any, target: Any) -> bool:
    """Whether `target` is `root` or somewhere inside of it."""
    return id(target) in everything_in(root, target)
