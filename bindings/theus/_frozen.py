"""Which classes are frozen: their instances are given out as they are."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import re
import types
import uuid
import zoneinfo

# As classify.cpp knows them.
OPAQUE, IMMUTABLE, TUPLE_LIKE, FIELDS, BY_CONVENTION = range(5)

FROZEN_TYPES: frozenset[type] = frozenset(
    {
        range,
        slice,
        type(Ellipsis),
        type(NotImplemented),
        datetime.date,
        datetime.datetime,
        datetime.time,
        datetime.timedelta,
        datetime.timezone,
        zoneinfo.ZoneInfo,
        decimal.Decimal,
        re.Pattern,
        # Pickled by name: the object itself is no part of the state.
        type,
        types.FunctionType,
        types.BuiltinFunctionType,
    }
)
# Written in Python: nobody changes them, but somebody can, and then only what is his own.
_FROZEN_BY_CONVENTION: frozenset[type] = frozenset(
    {
        fractions.Fraction,
        uuid.UUID,
        pathlib.PurePosixPath,
        pathlib.PureWindowsPath,
        pathlib.PosixPath,
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
    }
)
_FROZEN_BY_NAME = {
    ("pandas._libs.tslibs.timestamps", "Timestamp"),
    ("pandas._libs.tslibs.timedeltas", "Timedelta"),
    ("pandas._libs.tslibs.nattype", "NaTType"),
    ("pandas._libs.missing", "NAType"),
}


def describe_type(cls: type) -> int:
    """Returns how instances of exactly this class are judged."""
    if cls in FROZEN_TYPES or issubclass(cls, (enum.Enum, type)):
        return IMMUTABLE
    if cls in _FROZEN_BY_CONVENTION:
        return BY_CONVENTION
    if (cls.__module__, cls.__qualname__) in _FROZEN_BY_NAME or _is_numpy_scalar(cls):
        return IMMUTABLE
    if cls.__mro__ == (cls, tuple, object) and hasattr(cls, "_fields") and not cls.__dictoffset__:
        return TUPLE_LIKE
    parameters = cls.__dict__.get("__dataclass_params__")
    if parameters is not None and parameters.frozen and _has_only_dataclasses(cls):
        return FIELDS
    return OPAQUE


def _is_numpy_scalar(cls: type) -> bool:
    names = {(base.__module__, base.__qualname__) for base in cls.__mro__}
    # A void (or record) is a row of a structured array, and can be written to.
    is_scalar = cls.__module__ == "numpy" and ("numpy", "generic") in names
    return is_scalar and ("numpy", "void") not in names


def _has_only_dataclasses(cls: type) -> bool:
    return all("__dataclass_params__" in base.__dict__ for base in cls.__mro__[:-1])


def frozen_fields(value: object) -> tuple[object, ...] | None:
    """Returns a frozen dataclass's values; None when it holds more than its fields."""
    fields = [field.name for field in dataclasses.fields(value)]  # type: ignore[arg-type]
    if not set(getattr(value, "__dict__", ())) <= set(fields):
        return None
    return tuple(getattr(value, name, None) for name in fields)
