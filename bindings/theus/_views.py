"""What is not hot about mapping nodes: set operations of their views, update(), equality."""

from __future__ import annotations

import collections.abc
import operator
from typing import Any

from theus import _theus
from theus.errors import TheusError

collections.abc.MutableMapping.register(_theus.ProcessContext)
collections.abc.KeysView.register(_theus.KeysView)
collections.abc.ValuesView.register(_theus.ValuesView)
collections.abc.ItemsView.register(_theus.ItemsView)


def operate(name: str, left: Any, right: Any) -> Any:
    """`left <name> right`, of which one is a keys or items view; the result is a set."""
    if name == "isdisjoint":
        return all(item not in left for item in right)
    if not isinstance(left, collections.abc.Iterable) or not isinstance(
        right, collections.abc.Iterable
    ):
        return NotImplemented
    return getattr(operator, name)(set(left), set(right))


def compare(name: str, view: Any, other: Any) -> Any:
    if not isinstance(other, collections.abc.Set):
        return NotImplemented
    if name in ("eq", "ne"):
        return (len(view) == len(other) and _all_in(view, other)) == (name == "eq")
    small, large = (view, other) if name in ("le", "lt") else (other, view)
    if len(small) > len(large) or (name in ("lt", "gt") and len(small) == len(large)):
        return False
    return _all_in(small, large)


def _all_in(items: Any, others: Any) -> bool:
    return all(item in others for item in items)


def represent(view: Any) -> str:
    try:
        return f"{type(view).__name__}({list(view)!r})"
    except TheusError:  # its transaction is over, or another thread's
        return f"<{type(view).__name__} that cannot be read here and now>"


def as_items(other: Any, names: dict[str, Any] | None) -> list[tuple[Any, Any]]:
    """The items that dict.update(other, **names) would set, in order."""
    if hasattr(other, "keys"):
        items = [(key, other[key]) for key in other.keys()]
    else:
        items = []
        for number, pair in enumerate(other):
            pair = tuple(pair)
            if len(pair) != 2:
                raise ValueError(f"element {number} of update() has length {len(pair)}, not 2")
            items.append(pair)
    items.extend((names or {}).items())
    return items


def equal(node: Any, other: Any) -> Any:
    if not isinstance(other, collections.abc.Mapping):
        return NotImplemented
    try:
        if len(node) != len(other):
            return False
    except TypeError:
        return NotImplemented
    plain = _theus.plain(other)
    return _theus.plain(node) == (plain if isinstance(plain, dict) else dict(plain))
