"""Methods of leaves: kept by the program as bound methods, looked up anew at each call."""

from __future__ import annotations

import array
import operator
from typing import Any

from theus import _theus, _views
from theus._leaf_methods import RUNNING, WRITES
from theus._leaf_parts import (
    adopt,
    copy_value,
    current,
    ensure_attached,
    exposed,
    give,
    is_harmless,
    plain_copy,
    prepare,
    runs_code,
    unwrap,
)
from theus._leaf_run import note, run, shares
from theus._leaf_views import VIEWS

_is_frozen = _theus.is_frozen
_is_proxy = _theus.is_proxy
_parts = _theus.parts


class Method:
    """A method of an object leaf: runs on the private instance, never on a proxy."""

    __slots__ = ("__name__", "_leaf", "_proxy")

    def __init__(self, proxy: Any, leaf: Any, name: str) -> None:
        self._proxy, self._leaf, self.__name__ = proxy, leaf, name

    def __repr__(self) -> str:
        return f"<method {self.__name__} of {self._proxy!r}>"

    def __call__(self, *args: Any, **named: Any) -> Any:
        leaf = self._leaf
        leaf.check()
        if leaf.writable:
            leaf.expose()  # before its parts are looked for among the arguments
        target = _parts(self._proxy)[1]
        whole = shares(leaf, *args, *named.values())
        args = tuple(unwrap(leaf, value) for value in args)
        named = {name: unwrap(leaf, value) for name, value in named.items()}
        call = operator.methodcaller(self.__name__, *args, **named)
        return run(self._proxy, leaf, target, call, whole=whole)


class BuiltinMethod(Method):
    """A method of a list, dict, set, bytearray, deque or array.array inside of a leaf."""

    __slots__ = ()

    def __call__(self, *args: Any, **named: Any) -> Any:
        proxy, leaf, name = self._proxy, self._leaf, self.__name__
        leaf.check()
        target = _parts(proxy)[1]  # another object since the first write
        obj = current(leaf, target)
        if name in WRITES[type(obj)]:
            return _write(proxy, leaf, target, name, args, named)
        if name in ("to_list", "to_dict"):
            return _plain(proxy, *args, **named)
        if name in VIEWS and type(obj) is dict:
            return VIEWS[name](proxy, *args, **named)
        whole = shares(leaf, *args)
        args = tuple(unwrap(leaf, value) for value in args)
        if name == "get":
            return _get(proxy, leaf, target, *args, **named)
        call = operator.methodcaller(name, *args, **named)
        if name in RUNNING or runs_code(leaf, obj):
            return run(proxy, leaf, target, call, whole=whole)
        result = call(obj if all(map(is_harmless, args)) else plain_copy(proxy, leaf, target))
        return result if _is_frozen(result) else copy_value(proxy, result)


def _plain(proxy: Any) -> Any:
    value = _theus.plain(proxy)
    return value if type(value) is dict else list(value)


def _get(proxy: Any, leaf: Any, target: Any, key: Any, default: Any = None, /) -> Any:
    target = prepare(proxy, leaf, target, key)
    if leaf.is_object and leaf.writable and not _is_frozen(key):
        leaf.expose()
    absent = object()
    value = current(leaf, target).get(key, absent)
    return default if value is absent else give(proxy, leaf, value, key)


# Methods whose result leaves the container, and then belongs to the caller.
_TAKING = {"pop", "popitem", "popleft"}
# Their arguments are iterables of elements.
_EXTENDING = {
    "difference_update",
    "extend",
    "extendleft",
    "fromlist",
    "intersection_update",
    "symmetric_difference_update",
}


def _write(
    proxy: Any, leaf: Any, target: Any, name: str, args: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    target = ensure_attached(proxy, leaf, target)
    kind = type(current(leaf, target))
    if name in ("sort", "fromfile"):
        pass  # a function and a flag; a file
    elif name == "update" and kind is dict:
        args = ({key: adopt(proxy, leaf, item) for key, item in as_items(args, named)},)
        named = {}
    elif name in _EXTENDING or name == "update":
        args = tuple(_elements(proxy, leaf, kind, values) for values in args)
        _try(current(leaf, target), args)
    elif name in ("remove", "discard"):
        args = tuple(unwrap(leaf, value) for value in args)
    elif name not in _TAKING:
        args = tuple(adopt(proxy, leaf, value) for value in args)
        named = {key: adopt(proxy, leaf, value) for key, value in named.items()}
    try:
        result = getattr(exposed(proxy, leaf, target), name)(*args, **named)
    except BaseException as error:
        note(error, leaf, f"{name}() of")
        raise
    leaf.write()
    if name in _TAKING or result is None:
        return result
    return give(proxy, leaf, result, args[0] if args else None)


def _try(value: Any, args: tuple[Any, ...]) -> None:
    """Raises what these elements would, before any of them has been taken in."""
    for elements in args:
        if type(value) is set:
            set(elements)
        elif type(value) is array.array:
            array.array(value.typecode, elements)


def _elements(proxy: Any, leaf: Any, kind: type, values: Any) -> Any:
    if type(values) in (array.array, bytes, bytearray, str) or kind is bytearray:
        _theus.check_may_be_copied(proxy, values)
        return _theus.plain(values)
    if _is_proxy(values):
        _theus.check_may_be_copied(proxy, values)
    return [adopt(proxy, leaf, item) for item in values]


def as_items(args: tuple[Any, ...], named: dict[str, Any]) -> list[tuple[Any, Any]]:
    if len(args) > 1:
        raise TypeError("update() takes at most one positional argument")
    return _views.as_items(args[0] if args else (), named)


def call(
    proxy: Any, leaf: Any, target: Any, args: tuple[Any, ...], named: dict[str, Any] | None
) -> Any:
    """Calls an object that can be called."""
    if leaf.writable:
        leaf.expose()
    named = named or {}
    whole = shares(leaf, *args, *named.values())
    args = tuple(unwrap(leaf, value) for value in args)
    named = {name: unwrap(leaf, value) for name, value in named.items()}
    return run(proxy, leaf, target, lambda real: real(*args, **named), whole=whole)
