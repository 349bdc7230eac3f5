"""Code of unknown classes: it runs on the real, private object, and what it changes is found."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

from theus import _theus
from theus._leaf_methods import reachable
from theus._leaf_parts import copy_value, current, give
from theus.errors import ReadOnlyError, TheusError

_is_frozen = _theus.is_frozen
_COPIED = (list, tuple, dict, set, frozenset, collections.deque)


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
        error.__notes__ = [*(notes or ()), text]  # type: ignore[attr-defined]


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
            result = function(current(leaf, target))
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


def give_result(proxy: Any, leaf: Any, target: Any, value: Any, key: Any = None) -> Any:
    """What code of an unknown class returned: a part of the leaf, or a new object."""
    if _is_frozen(value):
        return value
    if value is current(leaf, target):
        return proxy
    if not reachable(leaf.shadow, value):
        if type(value) in _COPIED:
            # New, but it may have parts of the leaf inside.
            return value if leaf.writable else copy_value(proxy, value)
        if leaf.writable or not reachable(value, current(leaf, target)):
            return value
        # Something that acts on the object, such as a data frame's `loc`: a write through it is a
        # write to the snapshot, which the proxy refuses.
        return leaf.proxy(proxy, key, value)
    return give(proxy, leaf, value, key)
