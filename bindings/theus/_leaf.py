"""What an operation on a leaf proxy does.

The C++ side calls these functions with (proxy, leaf, target, ...): `leaf` is the mutable leaf the
proxy belongs to, `target` the part of it that the proxy stands for, None for the whole. It has
already made sure that the context is open and that this is its thread.

Rules (docs/bindings.md):
- An object that `leaf.content` gives may be shared with other transactions: it is read by
  operations of the exact built-in containers only, and never given out.
- What is given out is frozen, a proxy, or an object that belongs to the caller.
- A write first makes sure that the part is still in the leaf, then works on the shadow.
- Whatever runs code of unknown classes works on the shadow, which is then compared at commit
  (`leaf.expose()`), or, in a snapshot, put back if it was changed (`remember()`, `restore()`).
"""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Iterator
from typing import Any

from theus import _array, _theus
from theus._leaf_methods import READS, WRITES
from theus._leaf_parts import (
    adopt,
    copy_value,
    current,
    ensure_attached,
    exposed,
    give,
    give_result,
    is_array,
    is_builtin,
    unwrap,
)
from theus._leaf_views import DictView
from theus.errors import ReadOnlyError

_BOUND = (
    types.MethodType,
    types.BuiltinMethodType,
    types.MethodWrapperType,
    types.FunctionType,
)
_is_frozen = _theus.is_frozen
_is_proxy = _theus.is_proxy
_parts = _theus.parts


# --------------------------------------------------------------------- unknown classes


def _run(
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
        return give_result(proxy, leaf, target, function(current(leaf, target)), key)
    leaf.remember()
    try:
        result = give_result(proxy, leaf, target, function(current(leaf, target)), key)
    finally:
        changed = leaf.restore()
    if changed and raising:
        path = _theus.spell_path(leaf.path)
        error = ReadOnlyError(
            f"{path} was changed by its own method inside of a snapshot; nothing was written; use "
            "engine.transaction() or engine.run(fn)"
        )
        error.path = path
        raise error
    return result


class _Method:
    """A method of an object leaf: runs on the private instance, never on a proxy."""

    __slots__ = ("_leaf", "_name", "_proxy", "_target")

    def __init__(self, proxy: Any, leaf: Any, target: Any, name: str) -> None:
        self._proxy, self._leaf, self._target, self._name = proxy, leaf, target, name

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._proxy!r}>"

    def __call__(self, *args: Any, **named: Any) -> Any:
        leaf = self._leaf
        leaf.check()
        args = tuple(unwrap(leaf, value) for value in args)
        named = {name: unwrap(leaf, value) for name, value in named.items()}
        return _run(
            self._proxy,
            leaf,
            self._target,
            lambda obj: getattr(obj, self._name)(*args, **named),
        )


class _BuiltinMethod:
    """A method of a list, dict, set, bytearray or deque inside of a leaf."""

    __slots__ = ("_leaf", "_name", "_proxy", "_target")

    def __init__(self, proxy: Any, leaf: Any, target: Any, name: str) -> None:
        self._proxy, self._leaf, self._target, self._name = proxy, leaf, target, name

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._proxy!r}>"

    def __call__(self, *args: Any, **named: Any) -> Any:
        proxy, leaf, target, name = self._proxy, self._leaf, self._target, self._name
        leaf.check()
        obj = current(leaf, target)
        if name in WRITES[type(obj)]:
            return _call_writer(proxy, leaf, target, name, args, named)
        args = tuple(unwrap(leaf, value) for value in args)
        if name in ("keys", "values", "items"):
            return DictView(proxy, name)
        if name == "get":
            absent = object()
            value = obj.get(args[0], absent) if 1 <= len(args) <= 2 and not named else obj.get()
            if value is absent:
                return args[1] if len(args) == 2 else None
            return give(proxy, leaf, value, args[0])
        result = getattr(obj, name)(*args, **named)
        return result if _is_frozen(result) else copy_value(proxy, result)


# Methods whose result leaves the container, and then belongs to the caller.
_TAKING = {"pop", "popitem", "popleft"}


def _call_writer(
    proxy: Any, leaf: Any, target: Any, name: str, args: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    ensure_attached(proxy, leaf, target)
    kind = type(current(leaf, target))
    if name == "sort":
        pass  # its arguments are a function and a flag
    elif name in ("extend", "extendleft") or (name.endswith("update") and kind is not dict):
        args = tuple([adopt(proxy, leaf, item) for item in values] for values in args)
    elif name == "update":
        args = ({key: adopt(proxy, leaf, item) for key, item in _items(args, named)},)
        named = {}
    elif name in ("remove", "discard"):
        args = tuple(unwrap(leaf, value) for value in args)
    elif name not in _TAKING:
        args = tuple(adopt(proxy, leaf, value) for value in args)
        named = {key: adopt(proxy, leaf, value) for key, value in named.items()}
    result = getattr(exposed(leaf, target), name)(*args, **named)
    leaf.write()
    if name in _TAKING or result is None:
        return result
    return give(proxy, leaf, result, args[0] if args else None)


def _items(args: tuple[Any, ...], named: dict[str, Any]) -> list[tuple[Any, Any]]:
    from theus import _views

    if len(args) > 1:
        raise TypeError("update() takes at most one positional argument")
    return _views.as_items(args[0] if args else (), named)


# --------------------------------------------------------------------- attributes


def get_attribute(proxy: Any, leaf: Any, target: Any, name: str) -> Any:
    if is_array(leaf, target):
        return _array.get_attribute(proxy, leaf, target, name)
    obj = current(leaf, target)
    if is_builtin(leaf, obj):
        if name in READS[type(obj)] or name in WRITES[type(obj)]:
            return _BuiltinMethod(proxy, leaf, target, name)
        return getattr(obj, name)  # AttributeError, or a constant
    if leaf.writable:
        leaf.expose()
    value = getattr(current(leaf, target), name)
    if isinstance(value, _BOUND):
        return _Method(proxy, leaf, target, name)
    return give_result(proxy, leaf, target, value, name)


def set_attribute(proxy: Any, leaf: Any, target: Any, name: str, value: Any) -> None:
    if is_array(leaf, target):
        _array.set_attribute(proxy, leaf, target, name, value)
        return
    ensure_attached(proxy, leaf, target)
    leaf.expose()
    obj = current(leaf, target)
    adopted = adopt(proxy, leaf, value)
    setattr(obj, name, adopted)


def delete_attribute(proxy: Any, leaf: Any, target: Any, name: str) -> None:
    ensure_attached(proxy, leaf, target)
    leaf.expose()
    delattr(current(leaf, target), name)


# --------------------------------------------------------------------- items


def get_item(proxy: Any, leaf: Any, target: Any, key: Any) -> Any:
    if is_array(leaf, target):
        return _array.get_item(proxy, leaf, target, key)
    obj = current(leaf, target)
    key = unwrap(leaf, key)
    if not is_builtin(leaf, obj):
        return _run(proxy, leaf, target, lambda real: real[key], key, raising=False)
    value = obj[key]
    if isinstance(key, slice) and type(obj) in (list, tuple):
        return type(obj)(give(proxy, leaf, item) for item in value)
    if type(obj) is bytearray and isinstance(key, slice):
        return value  # a new one
    return give(proxy, leaf, value, key)


def set_item(proxy: Any, leaf: Any, target: Any, key: Any, value: Any) -> None:
    if is_array(leaf, target):
        _array.set_item(proxy, leaf, target, key, value)
        return
    ensure_attached(proxy, leaf, target)
    key = unwrap(leaf, key)
    if isinstance(key, slice):
        adopted: Any = [adopt(proxy, leaf, item) for item in value]
        adopted = bytes(adopted) if type(current(leaf, target)) is bytearray else adopted
    else:
        if not _is_frozen(key):
            key = copy_value(proxy, key)
        if _is_own_place(leaf, target, key, value):
            return
        adopted = adopt(proxy, leaf, value)
    obj = exposed(leaf, target)
    obj[key] = adopted
    if is_builtin(leaf, obj):
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
    ensure_attached(proxy, leaf, target)
    key = unwrap(leaf, key)
    obj = exposed(leaf, target)
    del obj[key]
    if is_builtin(leaf, obj):
        leaf.write()


def length(proxy: Any, leaf: Any, target: Any) -> int:
    if is_array(leaf, target):
        return len(_array.readable(leaf, target))
    obj = current(leaf, target)
    return len(obj) if is_builtin(leaf, obj) else _run(proxy, leaf, target, len)


def truth(proxy: Any, leaf: Any, target: Any) -> bool:
    if is_array(leaf, target):
        return bool(_array.readable(leaf, target))
    obj = current(leaf, target)
    return bool(obj) if is_builtin(leaf, obj) else _run(proxy, leaf, target, bool)


def contains(proxy: Any, leaf: Any, target: Any, item: Any) -> Any:
    if is_array(leaf, target):
        return _array.plain(item) in _array.readable(leaf, target)
    obj = current(leaf, target)
    item = unwrap(leaf, item)
    if is_builtin(leaf, obj):
        return item in obj
    return _run(proxy, leaf, target, lambda real: item in real)


def iterate(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    if is_array(leaf, target):
        return _array.iterate(proxy, leaf, target)
    obj = current(leaf, target)
    if not is_builtin(leaf, obj):
        return _iterate_object(proxy, leaf, target)
    if type(obj) in (list, tuple, bytearray):
        return _iterate_sequence(proxy, leaf, target)
    return _iterate_container(proxy, leaf, target)


def _iterate_sequence(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    index = 0
    while True:
        leaf.check()
        obj = current(leaf, target)  # anew each time: a write makes the shadow meanwhile
        if index >= len(obj):
            return
        yield give(proxy, leaf, obj[index], index)
        index += 1


def _iterate_container(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    obj = current(leaf, target)
    iterator = iter(obj)
    while True:
        leaf.check()
        if current(leaf, target) is not obj:
            raise RuntimeError(f"{type(obj).__name__} changed during iteration")
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield give(proxy, leaf, item)


def _iterate_object(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    if leaf.writable:
        leaf.expose()
        for item in current(leaf, target):
            yield give_result(proxy, leaf, target, item)
            leaf.check()
        return
    for item in _run(proxy, leaf, target, list):
        yield item


def iterate_reversed(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    return iter(list(iterate(proxy, leaf, target))[::-1])


# --------------------------------------------------------------------- operators


def compare(proxy: Any, leaf: Any, target: Any, other: Any, name: str) -> Any:
    if is_array(leaf, target):
        return getattr(operator, name)(_array.readable(leaf, target), _array.plain(other))
    obj = current(leaf, target)
    other = unwrap(leaf, other)
    if is_builtin(leaf, obj):
        # A class that compares itself with lists could keep what it is shown: it gets a copy.
        if type(other) not in READS and not _is_frozen(other):
            obj = plain_copy(proxy, leaf, target)
        return getattr(operator, name)(obj, other)
    return _run(proxy, leaf, target, lambda real: getattr(operator, name)(real, other))


def binary(name: str, left: Any, right: Any) -> Any:
    if any(_is_proxy(side) and is_array(*_parts(side)) for side in (left, right)):
        return getattr(operator, name)(_array.plain(left), _array.plain(right))
    operation = divmod if name == "divmod" else getattr(operator, name)
    return operation(_theus.plain(left), _theus.plain(right))


def inplace(proxy: Any, leaf: Any, target: Any, name: str, other: Any) -> Any:
    if is_array(leaf, target):
        return _array.inplace(proxy, leaf, target, name, other)
    obj = current(leaf, target)
    if type(obj) in (tuple, frozenset):
        return binary({"iand": "and_", "ior": "or_"}.get(name, name[1:]), proxy, other)
    ensure_attached(proxy, leaf, target)
    if is_builtin(leaf, obj):
        if name == "iadd" and type(obj) is not bytearray:
            other = [adopt(proxy, leaf, item) for item in other]
        elif type(obj) is dict:
            other = {key: adopt(proxy, leaf, item) for key, item in _items((other,), {})}
        else:
            other = _theus.plain(other)
    else:
        other = adopt(proxy, leaf, other)
    obj = exposed(leaf, target)
    result = getattr(operator, name)(obj, other)
    if is_builtin(leaf, obj):
        leaf.write()
    # A class without in-place operators has made a new object, which the program assigns next.
    return proxy if result is obj else result


def unary(proxy: Any, leaf: Any, target: Any, name: str) -> Any:
    if is_array(leaf, target):
        return getattr(operator, name)(_array.readable(leaf, target))
    return getattr(operator, name)(plain_copy(proxy, leaf, target))


def convert(proxy: Any, leaf: Any, target: Any, name: str) -> Any:
    function: Any = {"int": int, "float": float, "index": operator.index}[name]
    if is_array(leaf, target):
        return function(_array.readable(leaf, target))
    return function(plain_copy(proxy, leaf, target))


def call(
    proxy: Any, leaf: Any, target: Any, args: tuple[Any, ...], named: dict[str, Any] | None
) -> Any:
    args = tuple(unwrap(leaf, value) for value in args)
    named = {name: unwrap(leaf, value) for name, value in (named or {}).items()}
    return _run(proxy, leaf, target, lambda real: real(*args, **named))


# --------------------------------------------------------------------- as a whole


def string(proxy: Any, leaf: Any, target: Any) -> str:
    if is_array(leaf, target):
        return str(_array.readable(leaf, target))
    obj = current(leaf, target)
    return str(obj) if is_builtin(leaf, obj) else _run(proxy, leaf, target, str)


def directory(proxy: Any, leaf: Any, target: Any) -> list[str]:
    return dir(_array.readable(leaf, target) if is_array(leaf, target) else current(leaf, target))


def plain_copy(proxy: Any, leaf: Any, target: Any) -> Any:
    if is_array(leaf, target):
        return _array.plain_copy(leaf, target)
    if target is None:
        return leaf.copy()
    return copy_value(proxy, target)


def as_array(proxy: Any, leaf: Any, target: Any, dtype: Any, copy: bool | None) -> Any:
    if is_array(leaf, target):
        return _array.as_array(leaf, target, dtype, copy)
    import numpy

    return numpy.asarray(plain_copy(proxy, leaf, target), dtype)


def shadow_of_part(proxy: Any, leaf: Any, target: Any) -> Any:
    """ctx.transaction.get_shadow() of a part of a leaf."""
    ensure_attached(proxy, leaf, target)
    leaf.expose()
    return _array.resolve(leaf, target) if is_array(leaf, target) else target
