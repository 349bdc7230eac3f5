"""ctx.add, maximum, minimum, append and insert.

In this version they read, change and write, so that they can conflict with each other; what they
leave behind is the same.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from theus import _theus

_ABSENT = object()


def _is_number(value: object) -> bool:
    return isinstance(value, (numbers.Number, Decimal)) and not isinstance(value, bool)


def _is_array(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not _is_number(value)


def _describe(ctx: Any, path: Any) -> str:
    spelled = _theus.spell_path(_theus.parse_path(path))
    return spelled if isinstance(spelled, str) else repr(spelled)


def _check_operand(name: str, ctx: Any, path: Any, value: Any, operand: Any) -> None:
    numeric = _is_number(operand) and (value is _ABSENT or _is_number(value))
    arrays = _is_array(operand) and (value is _ABSENT or _is_array(value))
    if numeric:
        return
    if not arrays:
        held = "nothing" if value is _ABSENT else type(_theus.plain(value)).__name__
        raise TypeError(
            f"{name}() works on numbers and arrays, but {_describe(ctx, path)} holds {held} and "
            f"the operand is {type(operand).__name__}"
        )
    if value is not _ABSENT and value.shape != operand.shape:
        raise ValueError(
            f"{name}() of arrays needs one shape: {_describe(ctx, path)} has {value.shape}, the "
            f"operand {operand.shape}"
        )


def add(ctx: Any, path: Any, operand: Any) -> None:
    value = ctx.read(path, _ABSENT)
    _check_operand("add", ctx, path, value, operand)
    if value is _ABSENT:
        ctx.write(path, operand)
    elif _is_array(value):
        value += operand
    else:
        ctx.write(path, value + operand)


def _choose(name: str, better: Callable[[Any, Any], bool]) -> Callable[[Any, Any, Any], None]:
    def operation(ctx: Any, path: Any, operand: Any) -> None:
        value = ctx.read(path, _ABSENT)
        _check_operand(name, ctx, path, value, operand)
        if value is _ABSENT:
            ctx.write(path, operand)
        elif _is_array(value):
            import numpy

            getattr(numpy, name)(value, operand, out=value)
        elif better(operand, value):
            ctx.write(path, operand)

    return operation


maximum = _choose("maximum", lambda operand, value: operand > value)
minimum = _choose("minimum", lambda operand, value: operand < value)


def append(ctx: Any, path: Any, value: Any) -> None:
    _grow(ctx, path, value, list, "append")


def insert(ctx: Any, path: Any, value: Any) -> None:
    _grow(ctx, path, value, set, "insert")


def _grow(ctx: Any, path: Any, value: Any, kind: Any, name: str) -> None:
    held = ctx.read(path, _ABSENT)
    if held is _ABSENT:
        ctx.write(path, kind((value,)))
        return
    if not isinstance(held, kind):
        raise TypeError(
            f"{name}() works on a {kind.__name__}, but {_describe(ctx, path)} holds "
            f"{type(_theus.plain(held)).__name__}"
        )
    if kind is list:
        held.append(value)
    else:
        held.add(value)
