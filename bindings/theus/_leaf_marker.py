"""theus.leaf(): a dict (or anything) that is to be one leaf."""

from __future__ import annotations

import operator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Leaf(Generic[T]):
    """Marks a value that is stored as one leaf; the value itself is what is read back."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"theus.leaf({self.value!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Inside another leaf the mark has no meaning: the value stands alone.
        return operator.getitem, ((self.value,), 0)


def leaf(value: T) -> Leaf[T]:
    """Marks `value` to be stored whole, versioned as one: a dict then is no mapping node.

    What is read back is the value itself.

        >>> engine.write("config", theus.leaf({"a": 1}))
        >>> engine.read("config")
        {'a': 1}
        >>> engine.read("config.a")
        Traceback (most recent call last):
        ...
        TypeError: config is a leaf (dict), and a path stops at leaves; read the leaf, then index it
    """
    return value if isinstance(value, Leaf) else Leaf(value)
