"""keys(), values() and items() of a dict inside of a leaf."""

from __future__ import annotations

import types
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any


class _View:
    """What a dict's views have and the abstract ones lack."""

    __slots__ = ()

    def __reversed__(self: Any) -> Iterator[Any]:
        return iter(list(self)[::-1])

    def __repr__(self: Any) -> str:
        return f"{type(self).__name__}({list(self)!r})"

    @property
    def mapping(self: Any) -> types.MappingProxyType[Any, Any]:
        return types.MappingProxyType(self._mapping)


class LeafKeys(_View, KeysView[Any]):
    __slots__ = ()


class LeafValues(_View, ValuesView[Any]):
    __slots__ = ()


class LeafItems(_View, ItemsView[Any, Any]):
    __slots__ = ()


VIEWS: dict[str, Any] = {"keys": LeafKeys, "values": LeafValues, "items": LeafItems}
VIEW_TYPES = tuple(VIEWS.values())
