"""What an operation on a leaf proxy does.

The C++ side calls these functions with (proxy, leaf, target, ...): `leaf` is the mutable leaf the
proxy belongs to, `target` the part of it that the proxy stands for, None for the whole. It has
already made sure that the context is open and that this is its thread. (_leaf_operators.py and
_leaf_call.py have the rest.)

Rules (docs/bindings.md):
- An object that `leaf.content` gives may be shared with other transactions: it is read by
  operations of the exact built-in containers only, and never given out, nor kept in a frame that
  outlives the call.
- What is given out is frozen, a proxy, or an object that belongs to the caller.
- A write first makes sure that the part is still in the leaf, then works on the shadow.
- Whatever runs code of unknown classes works on the shadow, which is then compared at commit
  (`leaf.expose()`), or, in a snapshot, put back if it was changed (`fingerprint()`, `restore()`).
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterator
from typing import Any

from theus import _array, _theus
from theus._leaf_call import BuiltinMethod, Method
from theus._leaf_methods import READS, WRITES
from theus._leaf_parts import (
    ABSENT,
    adopt,
    class_attribute,
    copy_value,
    current,
    ensure_attached,
    exposed,
    give,
    has_length,
    is_array,
    is_attached,
    is_builtin,
    is_harmless,
    look,
    plain_attribute,
    plain_copy,
    prepare,
    runs_code,
    unwrap,
)
from theus._leaf_run import give_removed, give_result, note, run, shares

_BOUND: tuple[type, ...] = (
    types.MethodType,
    types.BuiltinMethodType,
    types.MethodWrapperType,
    types.FunctionType,
)
_is_frozen = _theus.is_frozen
_is_proxy = _theus.is_proxy
_parts = _theus.parts

__all__ = ["plain_copy"]  # C++ calls it by this module's name


# --------------------------------------------------------------------- attributes


def get_attribute(proxy: Any, leaf: Any, target: Any, name: str) -> Any:
    if is_array(leaf, target):
        return _array.get_attribute(proxy, leaf, target, name)
    obj = current(leaf, target)
    if name == "__init__":
        return Method(proxy, leaf, name)
    if is_builtin(obj):
        if name in READS[type(obj)] or name in WRITES[type(obj)]:
            return BuiltinMethod(proxy, leaf, name)
        return getattr(obj, name)  # AttributeError, or a constant
    value = plain_attribute(obj, name)
    if value is not ABSENT:
        return give(proxy, leaf, value, name)
    if type(class_attribute(type(obj), name)) is types.FunctionType:
        return Method(proxy, leaf, name)
    value = run(proxy, leaf, target, lambda real: getattr(real, name), name, raising=False)
    return Method(proxy, leaf, name) if isinstance(value, _BOUND) else value


def set_attribute(proxy: Any, leaf: Any, target: Any, name: str, value: Any) -> None:
    if is_array(leaf, target):
        _array.set_attribute(proxy, leaf, target, name, value)
        return
    target = ensure_attached(proxy, leaf, target)
    adopted = adopt(proxy, leaf, value)
    obj = exposed(proxy, leaf, target)
    try:
        setattr(obj, name, adopted)
    except BaseException as error:
        note(error, leaf, f"setting .{name} of")
        raise


def delete_attribute(proxy: Any, leaf: Any, target: Any, name: str) -> None:
    target = ensure_attached(proxy, leaf, target)
    obj = exposed(proxy, leaf, target)
    try:
        delattr(obj, name)
    except BaseException as error:
        note(error, leaf, f"deleting .{name} of")
        raise


# --------------------------------------------------------------------- items


def get_item(proxy: Any, leaf: Any, target: Any, key: Any) -> Any:
    if is_array(leaf, target):
        return _array.get_item(proxy, leaf, target, key)
    target = prepare(proxy, leaf, target, key)
    whole = shares(leaf, key)
    key = unwrap(leaf, key)
    obj = current(leaf, target)
    if not is_builtin(obj):
        value = look(obj, key)
        if value is not ABSENT:
            return give(proxy, leaf, value, key)
        return run(proxy, leaf, target, lambda real: real[key], key, raising=False, whole=whole)
    if leaf.is_object and leaf.writable and not _is_frozen(key):
        leaf.expose()  # the keys' own code decides which is equal
    if isinstance(key, slice) and type(obj) in (list, tuple):
        places = range(*key.indices(len(obj)))
        return type(obj)(give(proxy, leaf, obj[place], place) for place in places)
    value = obj[key]
    # Of something without parts a slice is a new one.
    return value if isinstance(key, slice) else give(proxy, leaf, value, key)


def set_item(proxy: Any, leaf: Any, target: Any, key: Any, value: Any) -> None:
    if is_array(leaf, target):
        _array.set_item(proxy, leaf, target, key, value)
        return
    target = ensure_attached(proxy, leaf, target)
    kind = type(current(leaf, target))
    key = unwrap(leaf, key)
    if isinstance(key, slice) and kind is list:
        adopted: Any = [adopt(proxy, leaf, item) for item in value]
    elif isinstance(key, slice) and kind is bytearray:
        adopted = _theus.plain(value)
    else:
        if not _is_frozen(key) and kind in READS:
            key = copy_value(proxy, key)
        if _is_own_place(leaf, target, key, value):
            return
        adopted = adopt(proxy, leaf, value)
    obj = exposed(proxy, leaf, target)
    try:
        obj[key] = adopted
    except BaseException as error:
        note(error, leaf, "setting an item of")
        raise
    if is_builtin(obj):
        leaf.write()


def _is_own_place(leaf: Any, target: Any, key: Any, value: Any) -> bool:
    """Whether `value` stands for what is at `key` already: `x[k] += y` assigns it back."""
    if not _is_proxy(value):
        return False
    other, part = _parts(value)
    if other is not leaf or part is None:
        return False
    obj = current(leaf, target)
    if type(obj) is list:
        return isinstance(key, int) and -len(obj) <= key < len(obj) and obj[key] is part
    return type(obj) is dict and obj.get(key) is part


def delete_item(proxy: Any, leaf: Any, target: Any, key: Any) -> None:
    if is_array(leaf, target):
        raise ValueError("cannot delete array elements")
    target = ensure_attached(proxy, leaf, target)
    key = unwrap(leaf, key)
    obj = exposed(proxy, leaf, target)
    try:
        del obj[key]
    except BaseException as error:
        note(error, leaf, "deleting an item of")
        raise
    if is_builtin(obj):
        leaf.write()


def length(proxy: Any, leaf: Any, target: Any) -> int:
    if is_array(leaf, target):
        return len(_array.operand(leaf, target))
    obj = current(leaf, target)
    return len(obj) if is_builtin(obj) or has_length(obj) else run(proxy, leaf, target, len)


def truth(proxy: Any, leaf: Any, target: Any) -> bool:
    if is_array(leaf, target):
        return bool(_array.operand(leaf, target))
    obj = current(leaf, target)
    return bool(obj) if is_builtin(obj) else run(proxy, leaf, target, bool)


def contains(proxy: Any, leaf: Any, target: Any, item: Any) -> Any:
    if is_array(leaf, target):
        return _array.plain(item) in _array.operand(leaf, target)
    obj = current(leaf, target)
    whole = shares(leaf, item)
    item = unwrap(leaf, item)
    if is_builtin(obj) and not runs_code(leaf, obj):
        return item in (obj if is_harmless(item) else plain_copy(proxy, leaf, target))
    return run(proxy, leaf, target, lambda real: item in real, whole=whole)


def iterate(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    """Over anything but the exact built-in containers, which C++ iterates over."""
    if is_array(leaf, target):
        return _array.iterate(proxy, leaf, target)
    if leaf.writable:
        obj = exposed(proxy, leaf, target)
        return _iterate_object(proxy, leaf, target, iter(obj))
    return iter(run(proxy, leaf, target, list))


def _iterate_object(proxy: Any, leaf: Any, target: Any, items: Iterator[Any]) -> Iterator[Any]:
    attached = is_attached(proxy, leaf, target)
    for index in itertools.count():
        leaf.check()
        try:
            item = next(items)
        except StopIteration:
            return
        except BaseException as error:
            note(error, leaf, "iterating over")
            raise
        # What a removed container gives is no part of the state, nor is what is inside of that.
        result = give_result if attached else give_removed
        yield result(proxy, leaf, target, item, index)


def iterate_reversed(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    if not is_array(leaf, target) and not hasattr(current(leaf, target), "__getitem__"):
        name = type(current(leaf, target)).__name__
        raise TypeError(f"'{name}' object is not reversible")
    return iter(list(proxy)[::-1])


# --------------------------------------------------------------------- as a whole


def directory(proxy: Any, leaf: Any, target: Any) -> list[str]:
    names = dir(_array.operand(leaf, target) if is_array(leaf, target) else current(leaf, target))
    return names


def as_array(proxy: Any, leaf: Any, target: Any, dtype: Any, copy: bool | None) -> Any:
    import numpy

    value = plain_copy(proxy, leaf, target)
    array = numpy.asarray(value, dtype)
    if copy:
        return array if array.base is None and array is not value else array.copy()
    if is_array(leaf, target) or not is_builtin(current(leaf, target)):
        # A write to it would be lost, as it shows this moment only: NumPy refuses it.
        array = array.view()
        array.flags.writeable = False
    return array


def shadow_of_part(proxy: Any, leaf: Any, target: Any) -> Any:
    """ctx.transaction.get_shadow() of a part of a leaf."""
    target = ensure_attached(proxy, leaf, target)
    obj = exposed(proxy, leaf, target)
    return _array.resolve(leaf, target) if is_array(leaf, target) else obj
