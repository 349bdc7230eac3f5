"""What the tables of mutating methods share: a case, and the three things that must hold for it."""

from __future__ import annotations

import collections
import copy
import dataclasses
import types
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import theus
from theus import _theus

Change = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """`change(h)` changes h.x, where h is a context or a namespace of plain objects."""

    name: str
    make: Callable[[], Any]
    change: Change
    leaf: bool = False
    # A read that changes the object: a snapshot undoes the change, and does not complain.
    undone: bool = False

    def value(self) -> Any:
        return theus.leaf(self.make()) if self.leaf else self.make()


def cases(
    kind: str,
    make: Callable[[], Any],
    changes: dict[str, Change],
    leaf: bool = False,
    undone: tuple[str, ...] = (),
) -> list[Any]:
    names = {name: f"{kind}.{name}" for name in changes}
    return [
        pytest.param(Case(names[name], make, change, leaf, name in undone), id=names[name])
        for name, change in changes.items()
    ]


def augmented(operator: str, operand: Any) -> Change:
    """`h.x <operator>= operand`, as a program writes it."""
    scope = {"operand": operand, "copy": copy}
    exec(f"def change(h): h.x {operator}= copy.copy(operand)", scope)
    change: Change = scope["change"]
    return change


def encoded(value: Any) -> bytes:
    result: bytes = _theus.encode_leaf(theus.plain(value))
    return result


def canonical(value: Any) -> Any:
    """`value` as nested tuples, equal exactly if it is the same to its last detail: == does not
    tell 1 from True, or one order from another, and pickles differ in what they share."""
    kind = type(value)
    name = kind.__module__.partition(".")[0]
    if name == "pandas":
        parts: Any = [
            list(value.index),
            list(value.index.names),
            value.attrs,
            value.to_numpy().tolist(),
        ]
        if value.ndim == 2:
            parts += [list(value.columns), [str(dtype) for dtype in value.dtypes]]
        else:
            parts += [value.name, str(value.dtype)]
        return kind, canonical(parts)
    if name == "numpy" and "ndarray" in (base.__name__ for base in kind.__mro__):
        rest = {name: getattr(value, name, 0) for name in ("mask", "fill_value", "hardmask")}
        inner = rest if hasattr(value, "hardmask") else {}
        return kind, str(value.dtype), value.shape, canonical(value.tolist()), canonical(inner)
    if kind is memoryview:
        return kind, value.format, value.tolist()
    if isinstance(value, dict):
        items = tuple((canonical(key), canonical(item)) for key, item in value.items())
        return kind, items, repr(getattr(value, "default_factory", None))
    if isinstance(value, (list, tuple, collections.deque)):
        return kind, tuple(canonical(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return kind, frozenset(canonical(item) for item in value)
    if hasattr(kind, "__slots__") and not hasattr(value, "__dict__"):
        return kind, tuple((n, canonical(getattr(value, n, None))) for n in kind.__slots__)
    if hasattr(value, "__dict__"):
        state = {**vars(value), "__extra": getattr(value, "__pydantic_extra__", None),
                 "__private": getattr(value, "__pydantic_private__", None)}  # fmt: skip
        return kind, canonical(state)
    return kind, repr(value)


def same(one: Any, other: Any) -> bool:
    return bool(canonical(one) == canonical(other))


def expected(case: Case) -> Any:
    holder = types.SimpleNamespace(x=case.make())
    case.change(holder)
    return holder.x


def check_commits(engine: theus.Engine, case: Case) -> None:
    engine.write("x", case.value())
    before = engine.version
    with engine.transaction() as ctx:
        case.change(ctx)
    after = theus.plain(engine.state["x"])
    wanted = expected(case)
    assert same(after, wanted), f"{after!r} instead of {wanted!r}"
    assert not same(wanted, case.make()), "the case changes nothing"
    assert engine.version == before + 1


class Abandoned(Exception):
    pass


def check_rolls_back(engine: theus.Engine, case: Case) -> None:
    engine.write("x", case.value())
    before, version = encoded(engine.state["x"]), engine.version
    with pytest.raises(Abandoned):
        with engine.transaction() as ctx:
            case.change(ctx)
            raise Abandoned
    assert engine.version == version
    assert encoded(engine.state["x"]) == before


# The last two are how NumPy's dot() and pandas' fillna() put it.
REFUSED = r"read.?only|WRITEABLE|snapshot|not acceptable|Invalid value"
REFUSALS = (theus.ReadOnlyError, ValueError, TypeError, BufferError)


def check_snapshot_refuses(engine: theus.Engine, case: Case) -> None:
    engine.write("x", case.value())
    before, version = encoded(engine.state["x"]), engine.version
    with engine.snapshot() as ctx:
        if case.undone:
            case.change(ctx)
            assert encoded(ctx.x) == before
            return
        with pytest.raises(REFUSALS, match=REFUSED) as caught:
            case.change(ctx)
        if isinstance(caught.value, theus.ReadOnlyError):
            assert str(caught.value.path).split(".")[0] == "x" or caught.value.path[0] == "x"
        assert encoded(ctx.x) == before
    assert engine.version == version
    assert encoded(engine.state["x"]) == before


def unknown_methods(cls: type, table: Iterable[str], reading: str) -> set[str]:
    """The names in dir(cls) that are neither in the table nor known to read."""
    inherited = set(dir(object)) - {"__setattr__", "__delattr__", "__init__"}
    return set(dir(cls)) - set(table) - set(reading.split()) - inherited
