"""Comparison, arithmetic and conversion of leaf proxies."""

from __future__ import annotations

import collections
import collections.abc
import operator
from typing import Any

from theus import _array, _theus
from theus._leaf_call import as_items
from theus._leaf_methods import READS
from theus._leaf_parts import (
    adopt,
    copy_value,
    current,
    ensure_attached,
    exposed,
    give,
    is_array,
    is_builtin,
    is_harmless,
    plain_copy,
    prepare,
    runs_code,
    unwrap,
)
from theus._leaf_run import run, shares

_is_proxy = _theus.is_proxy
_parts = _theus.parts


def _function(name: str) -> Any:
    return divmod if name == "divmod" else getattr(operator, name)


def compare(proxy: Any, leaf: Any, target: Any, other: Any, name: str) -> Any:
    operation = _function(name)
    if is_array(leaf, target):
        return operation(_array.operand(leaf, target), _array.plain(other))
    obj = current(leaf, target)
    whole = shares(leaf, other)
    other = unwrap(leaf, other)
    if not is_builtin(obj) or runs_code(leaf, obj):
        return run(proxy, leaf, target, lambda real: operation(real, other), whole=whole)
    # A class that compares itself with lists could keep what it is shown: it gets a copy.
    if not is_harmless(other):
        obj = plain_copy(proxy, leaf, target)
    return operation(obj, other)


def binary(name: str, left: Any, right: Any) -> Any:
    operation = _function(name)
    for side in (left, right):
        if _is_proxy(side) and is_array(*_parts(side)):
            return operation(_array.plain(left), _array.plain(right))
    for side in (left, right):
        # An operator of an unknown class may change the object: `stream << value`.
        if _is_proxy(side):
            leaf, target = _parts(side)
            if leaf is not None and not is_builtin(current(leaf, target)):
                return _run_binary(operation, side, leaf, target, left, right)
    return operation(_shallow(left), _shallow(right))


def _run_binary(operation: Any, side: Any, leaf: Any, target: Any, left: Any, right: Any) -> Any:
    if side is left:
        whole = shares(leaf, right)
        other = unwrap(leaf, right)
        return run(side, leaf, target, lambda real: operation(real, other), whole=whole)
    return run(side, leaf, target, lambda real: operation(left, real))


def _shallow(value: Any) -> Any:
    """A new container of what iterating gives: a part that can be changed stays a proxy, so that
    `for row in ctx.a + ctx.b: row["done"] = True` is not lost."""
    if not _is_proxy(value):
        return value
    leaf, target = _parts(value)
    if leaf is None:
        return _theus.plain(value)
    leaf.check()
    obj = current(leaf, target)
    if type(obj) is dict:
        target = prepare(value, leaf, target, *obj)
        obj = current(leaf, target)
    if type(obj) in (list, tuple):
        return type(obj)(give(value, leaf, item, index) for index, item in enumerate(obj))
    if type(obj) is dict:
        return {key: give(value, leaf, item, key) for key, item in obj.items()}
    if type(obj) is collections.deque:
        items = (give(value, leaf, item, index) for index, item in enumerate(obj))
        return collections.deque(items, obj.maxlen)
    return _theus.plain(value)


def inplace(proxy: Any, leaf: Any, target: Any, name: str, other: Any) -> Any:
    if is_array(leaf, target):
        return _array.inplace(proxy, leaf, target, name, other)
    kind = type(current(leaf, target))
    if kind in (tuple, frozenset):
        return binary({"iand": "and_", "ior": "or_"}.get(name, name[1:]), proxy, other)
    target = ensure_attached(proxy, leaf, target)
    if kind in (list, collections.deque) and name == "iadd":
        other = [adopt(proxy, leaf, item) for item in other]
    elif kind is dict and name == "ior":
        other = {key: adopt(proxy, leaf, item) for key, item in as_items((other,), {})}
    elif kind in READS:
        if kind is set and isinstance(other, collections.abc.Set):
            other = set(other)  # of whatever class, such as a dict's keys()
        other = copy_value(proxy, _theus.plain(other))
    else:
        other = unwrap(leaf, other)
        operation = _function(name)
        return run(proxy, leaf, target, lambda real: operation(real, other))
    obj = exposed(proxy, leaf, target)
    result = _function(name)(obj, other)
    leaf.write()
    # `array *= 2` of a list that is no number raises; what is not changed in place is a new object.
    return proxy if result is obj else result


def unary(proxy: Any, leaf: Any, target: Any, name: str) -> Any:
    return _apply(proxy, leaf, target, _function(name))


def convert(proxy: Any, leaf: Any, target: Any, name: str) -> Any:
    return _apply(proxy, leaf, target, {"int": int, "float": float, "index": operator.index}[name])


def string(proxy: Any, leaf: Any, target: Any) -> str:
    text: str = _apply(proxy, leaf, target, str)
    return text


def formatted(proxy: Any, leaf: Any, target: Any, spec: str) -> str:
    text: str = _apply(proxy, leaf, target, lambda obj: format(obj, spec))
    return text


def _apply(proxy: Any, leaf: Any, target: Any, function: Any) -> Any:
    if is_array(leaf, target):
        return function(_array.operand(leaf, target))
    obj = current(leaf, target)
    if is_builtin(obj) and not runs_code(leaf, obj):
        return function(obj)
    return run(proxy, leaf, target, function)
