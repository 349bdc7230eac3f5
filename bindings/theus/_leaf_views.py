"""keys(), values() and items() of a dict inside of a leaf."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any


class DictView:
    """keys(), values() or items() of a dict inside of a leaf."""

    __slots__ = ("_kind", "_proxy")

    def __init__(self, proxy: Any, kind: str) -> None:
        self._proxy, self._kind = proxy, kind

    def __len__(self) -> int:
        return len(self._proxy)

    def __iter__(self) -> Iterator[Any]:
        for key in self._proxy:
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
        if self._kind == "values" or not isinstance(other, (DictView, Set)):
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
