"""Code of unknown classes: it runs on the real, private object, and what it changes is found."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from typing import Any

from theus import _theus, _torch
from theus._leaf_methods import everything_in, reachable
from theus._leaf_parts import copy_value, current, ensure_attached, give
from theus.errors import ReadOnlyError, TheusError

_is_frozen = _theus.is_frozen
_CONTAINERS = (list, dict, collections.deque, collections.UserList, collections.UserDict)


def note(error: BaseException, leaf: Any, what: str) -> None:
    """Says in a traceback at which path user code raised."""
    if isinstance(error, TheusError):
        return  # it names its path
    path = _theus.spell_path(leaf.path)
    text = f"theus: raised while {what} {path}"
    if hasattr(error, "add_note"):
        error.add_note(text)
    else:  # Python 3.10 prints no notes, but tools that look for them find it
        notes = getattr(error, "__notes__", None)
        error.__notes__ = [*(notes or ()), text]  # type: ignore[attr-defined, unused-ignore]


def run(
    proxy: Any,
    leaf: Any,
    target: Any,
    function: Callable[[Any], Any],
    key: Any = None,
    raising: bool = True,
) -> Any:
    """Calls function(real object), which may change it. In a snapshot a change is undone, and is
    an error if `raising`."""
    if leaf.writable:
        leaf.expose()
        try:
            result = _call(proxy, leaf, target, function)
        except BaseException as error:
            note(error, leaf, "using")
            raise
        return give_result(proxy, leaf, target, result, key)
    leaf.remember()
    try:
        result = give_result(proxy, leaf, target, function(current(leaf, target)), key)
    except BaseException as error:
        note(error, leaf, "using")
        raise
    finally:
        changed = leaf.restore()
    if changed and raising:
        path = _theus.spell_path(leaf.path)
        failure = ReadOnlyError(
            f"{path} was changed by its own method inside of a snapshot; nothing was written; use "
            "engine.transaction() or engine.run(fn)"
        )
        failure.path = path
        raise failure
    return result


def _call(proxy: Any, leaf: Any, target: Any, function: Callable[[Any], Any]) -> Any:
    """In a transaction: what is no part of the state any more may be read, and not be changed."""
    obj = current(leaf, target)
    try:
        ensure_attached(proxy, leaf, target)
    except TheusError:
        before = _theus.encode_leaf(obj)
        result = function(obj)
        if _theus.encode_leaf(obj) != before:
            raise
        return result
    return function(obj)


def give_result(proxy: Any, leaf: Any, target: Any, value: Any, key: Any = None) -> Any:
    """What code of an unknown class returned: a part of the leaf, or a new object."""
    if _is_frozen(value):
        return value
    if value is current(leaf, target):
        return proxy
    if not leaf.writable:
        return _give_read_only(proxy, leaf, target, value, key)
    # A new object may have parts of the leaf inside: what is changed there is found at commit.
    return give(proxy, leaf, value, key) if reachable(leaf.shadow, value) else value


def _give_read_only(proxy: Any, leaf: Any, target: Any, value: Any, key: Any) -> Any:
    """In a snapshot, a write to a part of the leaf has to be refused wherever it is found."""
    inside = everything_in(leaf.shadow)
    container = current(leaf, target)

    def show(item: Any, place: Any) -> Any:
        if _is_frozen(item):
            return item
        if id(item) in inside:
            return give(proxy, leaf, item, place)
        kind = type(item)
        view = _torch.shares_memory(item, inside.values())
        if view is not None:
            return leaf.proxy(proxy, place, item) if view else item
        if kind in (list, tuple, collections.deque):
            items = [show(inner, number) for number, inner in enumerate(item)]
            return kind(items)
        if kind is dict:
            return {name: show(inner, name) for name, inner in item.items()}
        if kind in (set, frozenset):
            return copy_value(proxy, item)
        if "numpy" in sys.modules and isinstance(item, sys.modules["numpy"].ndarray):
            if item.base is not None:
                item.flags.writeable = False  # a view, made just now
            return item
        if "numpy" in sys.modules and isinstance(item, sys.modules["numpy"].void):
            return leaf.proxy(proxy, place, item)  # a row, which is a view, too
        # Something that acts on the object, such as a data frame's `loc`, a generator or a view, or
        # a container with parts of it: what is done through it is done to the snapshot.
        holds = isinstance(item, _CONTAINERS) and not inside.keys().isdisjoint(everything_in(item))
        return leaf.proxy(proxy, place, item) if holds or reachable(item, container) else item

    try:
        return show(value, key)
    except RecursionError:  # a new container that holds itself
        return copy_value(proxy, value)
