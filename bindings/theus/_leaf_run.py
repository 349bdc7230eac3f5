"""Code of unknown classes: it runs on the real, private object, and what it changes is found."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from typing import Any

from theus import _theus, _torch
from theus._leaf_methods import everything_in, reachable
from theus._leaf_parts import copy_value, current, ensure_attached, give, look, settled
from theus.errors import EncodeError, ReadOnlyError, TheusError

_is_frozen = _theus.is_frozen
_is_proxy = _theus.is_proxy
_CONTAINERS = (list, dict, collections.deque, collections.UserList, collections.UserDict)


def shares(leaf: Any, *values: Any) -> bool:
    """Whether one of the arguments is a part of this leaf."""
    return any(_is_proxy(value) and _theus.parts(value)[0] is leaf for value in values)


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
    whole: bool = False,
) -> Any:
    """Calls function(real object), which may change it. In a snapshot a change is undone, and is
    an error if `raising`. whole: the function has other parts of the leaf, too."""
    if leaf.writable:
        leaf.expose()
        target = None if target is None else settled(proxy, leaf)
        try:
            return _run_in_transaction(proxy, leaf, target, function, key)
        except BaseException as error:
            note(error, leaf, "using")
            raise
    part = None if whole else target
    try:
        before = leaf.fingerprint(part)
    except EncodeError:  # a view, or what else is no object by itself
        part, before = None, leaf.fingerprint(None)
    try:
        result = give_result(proxy, leaf, target, function(current(leaf, target)), key)
    except BaseException as error:
        note(error, leaf, "using")
        raise
    finally:
        changed = leaf.restore(part, before)
    if changed and raising:
        path = _theus.spell_path(leaf.path)
        failure = ReadOnlyError(
            f"{path} was changed by its own method inside of a snapshot; nothing was written; use "
            "engine.transaction() or engine.run(fn)"
        )
        failure.path = path
        raise failure
    return result


def _run_in_transaction(
    proxy: Any, leaf: Any, target: Any, function: Callable[[Any], Any], key: Any
) -> Any:
    obj = current(leaf, target)
    try:
        ensure_attached(proxy, leaf, target)
    except TheusError:
        # What is no part of the state any more may be read, and neither it nor its parts changed.
        read = _read_removed(obj, function)
        if read is None:
            raise
        return give_removed(proxy, leaf, target, read[0], key)
    result, new = _theus.call_fresh(function, obj)
    # A new object may have parts of the leaf inside: what is changed there is found at commit.
    return result if new else give_result(proxy, leaf, target, result, key)


def _read_removed(obj: Any, function: Callable[[Any], Any]) -> tuple[Any] | None:
    """None: the function changes the object; not this one, as a copy of it tells."""
    before = _theus.encode_leaf(obj)
    trial = _theus.decode_leaf(before)
    function(trial)
    if _theus.encode_leaf(trial) != before:
        return None
    return (function(obj),)


def give_removed(proxy: Any, leaf: Any, target: Any, value: Any, key: Any) -> Any:
    return value if _is_frozen(value) else leaf.proxy(proxy, key, value)


def give_result(proxy: Any, leaf: Any, target: Any, value: Any, key: Any = None) -> Any:
    """What code of an unknown class returned: a part of the leaf, or something else."""
    if _is_frozen(value):
        return value
    if value is current(leaf, target):
        return proxy
    if not leaf.writable:
        return _give_read_only(proxy, leaf, target, value, key)
    container = current(leaf, target)  # may have been removed from the leaf
    is_part = key is not None and look(container, key) is value
    is_part = is_part or reachable(leaf.shadow, value) or reachable(container, value)
    return give(proxy, leaf, value, key) if is_part else value


def _give_read_only(proxy: Any, leaf: Any, target: Any, value: Any, key: Any) -> Any:
    """In a snapshot, a write to a part of the leaf has to be refused wherever it is found."""
    try:
        return _Shown(proxy, leaf, target).show(value, key)
    except RecursionError:  # a new container that holds itself
        return copy_value(proxy, value)


class _Shown:
    """(No closure that calls itself: it would be a cycle, which keeps a pin until the collector
    comes by.)"""

    def __init__(self, proxy: Any, leaf: Any, target: Any) -> None:
        self.proxy, self.leaf = proxy, leaf
        self.inside = everything_in(leaf.shadow)
        self.container = current(leaf, target)

    def show(self, item: Any, place: Any) -> Any:
        if _is_frozen(item):
            return item
        proxy, leaf, inside = self.proxy, self.leaf, self.inside
        if id(item) in inside:
            return give(proxy, leaf, item, place)
        kind = type(item)
        view = _torch.shares_memory(item, inside.values())
        if view is not None:
            return leaf.proxy(proxy, place, item) if view else item
        if kind in (list, tuple, collections.deque):
            return kind([self.show(inner, number) for number, inner in enumerate(item)])
        if kind is dict:
            return {name: self.show(inner, name) for name, inner in item.items()}
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
        shown = holds or reachable(item, self.container)
        return leaf.proxy(proxy, place, item) if shown else item
