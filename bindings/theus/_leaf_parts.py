"""Parts of leaves: what goes in, what goes out, and whether a part is still where it was."""

from __future__ import annotations

import collections
from typing import Any

from theus import _array, _theus
from theus._leaf_methods import READS, reachable
from theus.errors import EncodeError, TheusError

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_is_frozen = _theus.is_frozen
_is_proxy = _theus.is_proxy
_parts = _theus.parts


def current(leaf: Any, target: Any) -> Any:
    return leaf.content if target is None else target


def is_array(leaf: Any, target: Any) -> bool:
    if target is None:
        return bool(leaf.array)
    return type(target) is _array.ArrayPart or _theus.is_array(target)


def is_builtin(leaf: Any, obj: Any) -> bool:
    """Whether `obj` is of a class whose operations are known to read or to write."""
    return type(obj) in READS and leaf.is_object is False


# --------------------------------------------------------------------- what goes in


def unwrap(leaf: Any, value: Any) -> Any:
    """An argument as the real object wants it: this leaf's own parts as themselves."""
    if not _is_proxy(value):
        return value
    other, target = _parts(value)
    if other is leaf:
        return _array.resolve(leaf, target) if is_array(leaf, target) else current(leaf, target)
    return _theus.plain(value)


def copy_value(proxy: Any, value: Any) -> Any:
    """A private copy of `value`, as it will be read back; EncodeError when it cannot be stored."""
    if type(value) in _SCALARS:
        return value
    try:
        encoded = _theus.encode_leaf(value)
        return value if _is_frozen(value) else _theus.decode_leaf(encoded)
    except Exception as error:
        path = _theus.spell_path(_theus.path_of(proxy))
        failure = EncodeError(
            f"{path}: a value of type {type(value).__name__} cannot be stored, as it cannot be "
            "pickled (the cause says why); nothing was changed"
        )
        failure.path = path
        raise failure from error


def adopt(proxy: Any, leaf: Any, value: Any) -> Any:
    """What to put into the shadow for `value`: a part of this leaf stays itself (so that swaps
    work), anything else is copied at this moment."""
    if _is_proxy(value):
        other, target = _parts(value)
        if other is leaf and not is_array(leaf, target):
            return leaf.shadow if target is None else target
        return private_copy(_theus.plain(value))
    return copy_value(proxy, value)


def ensure_attached(proxy: Any, leaf: Any, target: Any) -> None:
    """Raises unless a write to `target` would reach the state."""
    leaf.check_write()
    if target is None:
        return
    if _holds(proxy, leaf, target) or reachable(leaf.shadow, target):
        return
    path = _theus.spell_path(leaf.path)
    raise TheusError(
        f"this part of {path} was replaced or removed by this transaction; a write to what it was "
        "would be lost"
    )


def _holds(proxy: Any, leaf: Any, target: Any) -> bool:
    """Whether `target` is still where the proxy took it from, directly in the leaf's root."""
    parent, key = _theus.origin(proxy)
    if not _is_proxy(parent):
        return False
    other, container = _parts(parent)
    if other is not leaf or container is not None:
        return False
    root = leaf.shadow
    if type(root) is list and type(key) is int:
        return -len(root) <= key < len(root) and root[key] is target
    return type(root) is dict and root.get(key) is target


def exposed(leaf: Any, target: Any) -> Any:
    """The real object, to be changed. leaf.write() follows once that has succeeded: what fails
    half-way is compared at commit instead."""
    shadow = leaf.expose()
    return shadow if target is None else target


# --------------------------------------------------------------------- what goes out


def give(proxy: Any, leaf: Any, value: Any, key: Any = None) -> Any:
    """A part of the leaf, or a frozen value, for the program."""
    if _is_frozen(value):
        return value
    if _theus.is_array(value) and not leaf.writable:
        return _array.read_only(value)
    return leaf.proxy(proxy, key, value)


def give_result(proxy: Any, leaf: Any, target: Any, value: Any, key: Any = None) -> Any:
    """What code of an unknown class returned: a part of the leaf, or a new object."""
    if _is_frozen(value):
        return value
    if value is current(leaf, target):
        return proxy
    if type(value) in (list, tuple, dict, set, frozenset, collections.deque):
        if not reachable(leaf.shadow, value):
            # New, but it may have parts of the leaf inside.
            return value if leaf.writable else copy_value(proxy, value)
    elif not reachable(leaf.shadow, value):
        if leaf.writable or not reachable(value, current(leaf, target)):
            return value
        # Something that acts on the object, such as a data frame's `loc`: a write through it is a
        # write to the snapshot, which the proxy refuses.
        return leaf.proxy(proxy, key, value)
    return give(proxy, leaf, value, key)


def private_copy(value: Any) -> Any:
    """`value`, which belongs to the caller, with writable arrays instead of shared ones."""
    if _theus.is_array(value):
        return value if value.flags.writeable else value.copy()
    if type(value) is dict:
        return {key: private_copy(item) for key, item in value.items()}
    return value
