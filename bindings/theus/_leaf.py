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

import collections
import operator
import types
from collections.abc import Callable, Iterator
from typing import Any

from theus import _array, _theus
from theus._leaf_methods import READS, WRITES, reachable
from theus.errors import EncodeError, ReadOnlyError, TheusError

_BOUND = (
    types.MethodType,
    types.BuiltinMethodType,
    types.MethodWrapperType,
    types.FunctionType,
)
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_is_frozen = _theus.is_frozen
_is_proxy = _theus.is_proxy
_parts = _theus.parts


def _current(leaf: Any, target: Any) -> Any:
    return leaf.content if target is None else target


def _is_array(leaf: Any, target: Any) -> bool:
    if target is None:
        return leaf.array
    return type(target) is _array.ArrayPart or _theus.is_array(target)


def _is_builtin(leaf: Any, obj: Any) -> bool:
    """Whether `obj` is of a class whose operations are known to read or to write."""
    return type(obj) in READS and not leaf.is_object


# --------------------------------------------------------------------- what goes in


def _unwrap(leaf: Any, value: Any) -> Any:
    """An argument as the real object wants it: this leaf's own parts as themselves."""
    if not _is_proxy(value):
        return value
    other, target = _parts(value)
    if other is leaf:
        return _array.resolve(leaf, target) if _is_array(leaf, target) else _current(leaf, target)
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


def _adopt(proxy: Any, leaf: Any, value: Any) -> Any:
    """What to put into the shadow for `value`: a part of this leaf stays itself (so that swaps
    work), anything else is copied at this moment."""
    if _is_proxy(value):
        other, target = _parts(value)
        if other is leaf and not _is_array(leaf, target):
            return leaf.shadow if target is None else target
        return private_copy(_theus.plain(value))
    return copy_value(proxy, value)


def _ensure_attached(proxy: Any, leaf: Any, target: Any) -> None:
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
    other, container = _parts(parent) if _is_proxy(parent) else (None, None)
    if other is not leaf or container is not None:
        return False
    root = leaf.shadow
    if type(root) is list and type(key) is int:
        return -len(root) <= key < len(root) and root[key] is target
    return type(root) is dict and root.get(key) is target


def _exposed(leaf: Any, target: Any) -> Any:
    """The real object, to be changed. leaf.write() follows once that has succeeded: what fails
    half-way is compared at commit instead."""
    shadow = leaf.expose()
    return shadow if target is None else target


# --------------------------------------------------------------------- what goes out


def _give(proxy: Any, leaf: Any, value: Any, key: Any = None) -> Any:
    """A part of the leaf, or a frozen value, for the program."""
    if _is_frozen(value):
        return value
    if _theus.is_array(value) and not leaf.writable:
        return _array.read_only(value)
    return leaf.proxy(proxy, key, value)


def _give_result(proxy: Any, leaf: Any, target: Any, value: Any, key: Any = None) -> Any:
    """What code of an unknown class returned: a part of the leaf, or a new object."""
    if _is_frozen(value):
        return value
    if value is _current(leaf, target):
        return proxy
    if type(value) in (list, tuple, dict, set, frozenset, collections.deque):
        if not reachable(leaf.shadow, value):
            # New, but it may have parts of the leaf inside.
            return value if leaf.writable else copy_value(proxy, value)
    elif not reachable(leaf.shadow, value):
        return value
    return _give(proxy, leaf, value, key)


def private_copy(value: Any) -> Any:
    """`value`, which belongs to the caller, with writable arrays instead of shared ones."""
    if _theus.is_array(value):
        return value if value.flags.writeable else value.copy()
    if type(value) is dict:
        return {key: private_copy(item) for key, item in value.items()}
    return value


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
        return _give_result(proxy, leaf, target, function(_current(leaf, target)), key)
    leaf.remember()
    try:
        result = _give_result(proxy, leaf, target, function(_current(leaf, target)), key)
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
        args = tuple(_unwrap(leaf, value) for value in args)
        named = {name: _unwrap(leaf, value) for name, value in named.items()}
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
        obj = _current(leaf, target)
        if name in WRITES[type(obj)]:
            return _call_writer(proxy, leaf, target, name, args, named)
        args = tuple(_unwrap(leaf, value) for value in args)
        if name in ("keys", "values", "items"):
            return _DictView(proxy, leaf, target, name)
        if name == "get":
            absent = object()
            value = obj.get(args[0], absent) if 1 <= len(args) <= 2 and not named else obj.get()
            if value is absent:
                return args[1] if len(args) == 2 else None
            return _give(proxy, leaf, value, args[0])
        result = getattr(obj, name)(*args, **named)
        return result if _is_frozen(result) else copy_value(proxy, result)


# Methods whose result leaves the container, and then belongs to the caller.
_TAKING = {"pop", "popitem", "popleft"}


def _call_writer(
    proxy: Any, leaf: Any, target: Any, name: str, args: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    _ensure_attached(proxy, leaf, target)
    kind = type(_current(leaf, target))
    if name == "sort":
        pass  # its arguments are a function and a flag
    elif name in ("extend", "extendleft") or (name.endswith("update") and kind is not dict):
        args = tuple([_adopt(proxy, leaf, item) for item in values] for values in args)
    elif name == "update":
        args = ({key: _adopt(proxy, leaf, item) for key, item in _items(args, named)},)
        named = {}
    elif name in ("remove", "discard"):
        args = tuple(_unwrap(leaf, value) for value in args)
    elif name not in _TAKING:
        args = tuple(_adopt(proxy, leaf, value) for value in args)
        named = {key: _adopt(proxy, leaf, value) for key, value in named.items()}
    result = getattr(_exposed(leaf, target), name)(*args, **named)
    leaf.write()
    if name in _TAKING or result is None:
        return result
    return _give(proxy, leaf, result, args[0] if args else None)


def _items(args: tuple[Any, ...], named: dict[str, Any]) -> list[tuple[Any, Any]]:
    from theus import _views

    if len(args) > 1:
        raise TypeError("update() takes at most one positional argument")
    return _views.as_items(args[0] if args else (), named)


class _DictView:
    """keys(), values() or items() of a dict inside of a leaf."""

    __slots__ = ("_kind", "_leaf", "_proxy", "_target")

    def __init__(self, proxy: Any, leaf: Any, target: Any, kind: str) -> None:
        self._proxy, self._leaf, self._target, self._kind = proxy, leaf, target, kind

    def __len__(self) -> int:
        return len(self._proxy)

    def __iter__(self) -> Iterator[Any]:
        for key in iterate(self._proxy, self._leaf, self._target):
            if self._kind == "keys":
                yield key
                continue
            value = self._proxy[key]
            yield value if self._kind == "values" else (key, value)

    def __contains__(self, wanted: Any) -> bool:
        if self._kind == "keys":
            return wanted in self._proxy
        return any(wanted == item for item in self)

    def __reversed__(self) -> Iterator[Any]:
        return iter(list(self)[::-1])

    def __eq__(self, other: Any) -> Any:
        if self._kind == "values" or not isinstance(other, (_DictView, collections.abc.Set)):
            return NotImplemented
        return set(self) == set(other)

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: Any) -> set[Any]:
        return set(self) & set(other)

    def __or__(self, other: Any) -> set[Any]:
        return set(self) | set(other)

    def __sub__(self, other: Any) -> set[Any]:
        return set(self) - set(other)

    def __repr__(self) -> str:
        return f"dict_{self._kind}({list(self)!r})"


# --------------------------------------------------------------------- attributes


def get_attribute(proxy: Any, leaf: Any, target: Any, name: str) -> Any:
    if _is_array(leaf, target):
        return _array.get_attribute(proxy, leaf, target, name)
    obj = _current(leaf, target)
    if _is_builtin(leaf, obj):
        if name in READS[type(obj)] or name in WRITES[type(obj)]:
            return _BuiltinMethod(proxy, leaf, target, name)
        return getattr(obj, name)  # AttributeError, or a constant
    if leaf.writable:
        leaf.expose()
    value = getattr(_current(leaf, target), name)
    if isinstance(value, _BOUND):
        return _Method(proxy, leaf, target, name)
    return _give_result(proxy, leaf, target, value, name)


def set_attribute(proxy: Any, leaf: Any, target: Any, name: str, value: Any) -> None:
    if _is_array(leaf, target):
        _array.set_attribute(proxy, leaf, target, name, value)
        return
    _ensure_attached(proxy, leaf, target)
    leaf.expose()
    obj = _current(leaf, target)
    adopted = _adopt(proxy, leaf, value)
    setattr(obj, name, adopted)


def delete_attribute(proxy: Any, leaf: Any, target: Any, name: str) -> None:
    _ensure_attached(proxy, leaf, target)
    leaf.expose()
    delattr(_current(leaf, target), name)


# --------------------------------------------------------------------- items


def get_item(proxy: Any, leaf: Any, target: Any, key: Any) -> Any:
    if _is_array(leaf, target):
        return _array.get_item(proxy, leaf, target, key)
    obj = _current(leaf, target)
    key = _unwrap(leaf, key)
    if not _is_builtin(leaf, obj):
        return _run(proxy, leaf, target, lambda real: real[key], key, raising=False)
    value = obj[key]
    if isinstance(key, slice) and type(obj) in (list, tuple):
        return type(obj)(_give(proxy, leaf, item) for item in value)
    if type(obj) is bytearray and isinstance(key, slice):
        return value  # a new one
    return _give(proxy, leaf, value, key)


def set_item(proxy: Any, leaf: Any, target: Any, key: Any, value: Any) -> None:
    if _is_array(leaf, target):
        _array.set_item(proxy, leaf, target, key, value)
        return
    _ensure_attached(proxy, leaf, target)
    key = _unwrap(leaf, key)
    if isinstance(key, slice):
        adopted = [_adopt(proxy, leaf, item) for item in value]
        adopted = bytes(adopted) if type(_current(leaf, target)) is bytearray else adopted
    else:
        if not _is_frozen(key):
            key = copy_value(proxy, key)
        if _is_own_place(leaf, target, key, value):
            return
        adopted = _adopt(proxy, leaf, value)
    obj = _exposed(leaf, target)
    obj[key] = adopted
    if _is_builtin(leaf, obj):
        leaf.write()


def _is_own_place(leaf: Any, target: Any, key: Any, value: Any) -> bool:
    """Whether `value` stands for what is at `key` already: `x[k] += y` assigns it back."""
    if not _is_proxy(value):
        return False
    other, part = _parts(value)
    if other is not leaf or part is None:
        return False
    obj = _current(leaf, target)
    if type(obj) is list:
        return isinstance(key, int) and -len(obj) <= key < len(obj) and obj[key] is part
    return type(obj) is dict and obj.get(key) is part


def delete_item(proxy: Any, leaf: Any, target: Any, key: Any) -> None:
    if _is_array(leaf, target):
        raise ValueError("cannot delete array elements")
    _ensure_attached(proxy, leaf, target)
    key = _unwrap(leaf, key)
    obj = _exposed(leaf, target)
    del obj[key]
    if _is_builtin(leaf, obj):
        leaf.write()


def length(proxy: Any, leaf: Any, target: Any) -> int:
    if _is_array(leaf, target):
        return len(_array.readable(leaf, target))
    obj = _current(leaf, target)
    return len(obj) if _is_builtin(leaf, obj) else _run(proxy, leaf, target, len)


def truth(proxy: Any, leaf: Any, target: Any) -> bool:
    if _is_array(leaf, target):
        return bool(_array.readable(leaf, target))
    obj = _current(leaf, target)
    return bool(obj) if _is_builtin(leaf, obj) else _run(proxy, leaf, target, bool)


def contains(proxy: Any, leaf: Any, target: Any, item: Any) -> bool:
    if _is_array(leaf, target):
        return _array.plain(item) in _array.readable(leaf, target)
    obj = _current(leaf, target)
    item = _unwrap(leaf, item)
    if _is_builtin(leaf, obj):
        return item in obj
    return _run(proxy, leaf, target, lambda real: item in real)


def iterate(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    if _is_array(leaf, target):
        return _array.iterate(proxy, leaf, target)
    obj = _current(leaf, target)
    if not _is_builtin(leaf, obj):
        return _iterate_object(proxy, leaf, target)
    if type(obj) in (list, tuple, bytearray):
        return _iterate_sequence(proxy, leaf, target)
    return _iterate_container(proxy, leaf, target)


def _iterate_sequence(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    index = 0
    while True:
        leaf.check()
        obj = _current(leaf, target)  # anew each time: a write makes the shadow meanwhile
        if index >= len(obj):
            return
        yield _give(proxy, leaf, obj[index], index)
        index += 1


def _iterate_container(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    obj = _current(leaf, target)
    iterator = iter(obj)
    while True:
        leaf.check()
        if _current(leaf, target) is not obj:
            raise RuntimeError(f"{type(obj).__name__} changed during iteration")
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield _give(proxy, leaf, item)


def _iterate_object(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    if leaf.writable:
        leaf.expose()
        for item in _current(leaf, target):
            yield _give_result(proxy, leaf, target, item)
            leaf.check()
        return
    for item in _run(proxy, leaf, target, list):
        yield item


def iterate_reversed(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    return iter(list(iterate(proxy, leaf, target))[::-1])


# --------------------------------------------------------------------- operators


def compare(proxy: Any, leaf: Any, target: Any, other: Any, name: str) -> Any:
    if _is_array(leaf, target):
        return getattr(operator, name)(_array.readable(leaf, target), _array.plain(other))
    obj = _current(leaf, target)
    other = _unwrap(leaf, other)
    if _is_builtin(leaf, obj):
        # A class that compares itself with lists could keep what it is shown: it gets a copy.
        if type(other) not in READS and not _is_frozen(other):
            obj = plain_copy(proxy, leaf, target)
        return getattr(operator, name)(obj, other)
    return _run(proxy, leaf, target, lambda real: getattr(operator, name)(real, other))


def binary(name: str, left: Any, right: Any) -> Any:
    if any(_is_proxy(side) and _is_array(*_parts(side)) for side in (left, right)):
        return getattr(operator, name)(_array.plain(left), _array.plain(right))
    operation = divmod if name == "divmod" else getattr(operator, name)
    return operation(_theus.plain(left), _theus.plain(right))


def inplace(proxy: Any, leaf: Any, target: Any, name: str, other: Any) -> Any:
    if _is_array(leaf, target):
        return _array.inplace(proxy, leaf, target, name, other)
    obj = _current(leaf, target)
    if type(obj) in (tuple, frozenset):
        return binary({"iand": "and_", "ior": "or_"}.get(name, name[1:]), proxy, other)
    _ensure_attached(proxy, leaf, target)
    if _is_builtin(leaf, obj):
        if name == "iadd" and type(obj) is not bytearray:
            other = [_adopt(proxy, leaf, item) for item in other]
        elif type(obj) is dict:
            other = {key: _adopt(proxy, leaf, item) for key, item in _items((other,), {})}
        else:
            other = _theus.plain(other)
    else:
        other = _adopt(proxy, leaf, other)
    obj = _exposed(leaf, target)
    result = getattr(operator, name)(obj, other)
    if _is_builtin(leaf, obj):
        leaf.write()
    # A class without in-place operators has made a new object, which the program assigns next.
    return proxy if result is obj else result


def unary(proxy: Any, leaf: Any, target: Any, name: str) -> Any:
    if _is_array(leaf, target):
        return getattr(operator, name)(_array.readable(leaf, target))
    return getattr(operator, name)(plain_copy(proxy, leaf, target))


def convert(proxy: Any, leaf: Any, target: Any, name: str) -> Any:
    function = {"int": int, "float": float, "index": operator.index}[name]
    if _is_array(leaf, target):
        return function(_array.readable(leaf, target))
    return function(plain_copy(proxy, leaf, target))


def call(
    proxy: Any, leaf: Any, target: Any, args: tuple[Any, ...], named: dict[str, Any] | None
) -> Any:
    args = tuple(_unwrap(leaf, value) for value in args)
    named = {name: _unwrap(leaf, value) for name, value in (named or {}).items()}
    return _run(proxy, leaf, target, lambda real: real(*args, **named))


# --------------------------------------------------------------------- as a whole


def string(proxy: Any, leaf: Any, target: Any) -> str:
    if _is_array(leaf, target):
        return str(_array.readable(leaf, target))
    obj = _current(leaf, target)
    return str(obj) if _is_builtin(leaf, obj) else _run(proxy, leaf, target, str)


def directory(proxy: Any, leaf: Any, target: Any) -> list[str]:
    return dir(_array.readable(leaf, target) if _is_array(leaf, target) else _current(leaf, target))


def plain_copy(proxy: Any, leaf: Any, target: Any) -> Any:
    if _is_array(leaf, target):
        return _array.plain_copy(leaf, target)
    if target is None:
        return leaf.copy()
    return copy_value(proxy, target)


def as_array(proxy: Any, leaf: Any, target: Any, dtype: Any, copy: bool | None) -> Any:
    if _is_array(leaf, target):
        return _array.as_array(leaf, target, dtype, copy)
    import numpy

    return numpy.asarray(plain_copy(proxy, leaf, target), dtype)


def shadow_of_part(proxy: Any, leaf: Any, target: Any) -> Any:
    """ctx.transaction.get_shadow() of a part of a leaf."""
    _ensure_attached(proxy, leaf, target)
    leaf.expose()
    return _array.resolve(leaf, target) if _is_array(leaf, target) else target
