"""memoryview as a leaf: its bytes lie in shared memory by themselves."""

from __future__ import annotations

import pickle
from typing import Any


class Portable:
    """A memoryview on its way into the state. What is read back is a memoryview: read-only and of
    shared memory in a snapshot, of a private copy in a transaction."""

    __slots__ = ("_view",)

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __reduce_ex__(self, protocol: Any) -> Any:
        view = self._view
        letter: Any = view.format
        memoryview(b"").cast("B").cast(letter)  # ValueError: no format of one native type
        contents = view if view.c_contiguous else bytearray(view.tobytes())
        return restore, (pickle.PickleBuffer(contents), letter, view.shape)


def restore(buffer: Any, letter: Any, shape: tuple[int, ...]) -> memoryview:
    view: Any = memoryview(buffer).cast("B")
    flat = 0 in shape or len(shape) == 1
    result: memoryview = view.cast(letter) if flat else view.cast(letter, shape)
    return result
