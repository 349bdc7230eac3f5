"""How values of some libraries are pickled into the state, where their own way copies too much, or
cannot be read back as it was.

A reducer says what pickle is to store, and a function `restore_...` here makes the value of it.
Both sides are only ever this package's: what leaves the state is pickled by its own class again.
"""

from __future__ import annotations

import array
import copyreg
import io
import pickle
import sys
from collections.abc import Callable
from typing import Any

from theus import _theus


def dumps(value: Any, buffer_callback: Any) -> bytes:
    """pickle.dumps(), with these reducers."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=buffer_callback)
    pickler.dispatch_table = _reducers()
    pickler.dump(value)
    return file.getvalue()


def _reducers() -> dict[type[Any], Callable[[Any], Any]]:
    table = dict(copyreg.dispatch_table)
    numpy: Any = sys.modules.get("numpy")
    torch: Any = sys.modules.get("torch")
    if hasattr(numpy, "ndarray"):  # not while it is being imported
        table[numpy.ndarray] = _reduce_array
        table[numpy.void] = _reduce_row
    arrays: Any = getattr(sys.modules.get("pandas"), "arrays", None)
    for name in ("DatetimeArray", "TimedeltaArray", "PeriodArray"):
        if hasattr(arrays, name):
            table[getattr(arrays, name)] = _reduce_without_cache
    if hasattr(torch, "Tensor"):
        table[torch.Tensor] = _reduce_tensor
    return table


# ------------------------------------------------------------------------------ memoryview, array


class Memory:
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
        return restore_memory, (pickle.PickleBuffer(contents), letter, view.shape)


def restore_memory(buffer: Any, letter: Any, shape: tuple[int, ...]) -> memoryview:
    view: Any = memoryview(buffer).cast("B")
    flat = 0 in shape or len(shape) == 1
    result: memoryview = view.cast(letter) if flat else view.cast(letter, shape)
    return result


class Elements:
    """An array.array on its way into the state, in one copy; reading it is another."""

    __slots__ = ("_array",)

    def __init__(self, elements: array.array[Any]) -> None:
        self._array = elements

    def __reduce_ex__(self, protocol: Any) -> Any:
        contents = memoryview(self._array).cast("B")
        return restore_elements, (pickle.PickleBuffer(contents), self._array.typecode)


def restore_elements(buffer: Any, typecode: Any) -> array.array[Any]:
    elements: array.array[Any] = array.array(typecode)
    elements.frombytes(buffer)
    return elements


# ------------------------------------------------------------------------------ NumPy


def _reduce_array(value: Any) -> Any:
    # NumPy pickles dates as bytes in the middle of the pickle, as the buffer protocol has none.
    if value.dtype.kind not in "mM":
        return value.__reduce_ex__(5)
    return restore_dates, (value.view("i8"), value.dtype)


def restore_dates(numbers: Any, dtype: Any) -> Any:
    return numbers.view(dtype)


def _reduce_row(value: Any) -> Any:
    # NumPy's own way gives rows that forget what is assigned to their fields.
    import numpy

    return restore_row, (numpy.array(value),)


def restore_row(array: Any) -> Any:
    return array[()].copy()


# ------------------------------------------------------------------------------ pandas


def _reduce_without_cache(value: Any) -> Any:
    # What these have looked up once they keep in `_cache`, and pickle it: reading a column of dates
    # would look like a change of it.
    reduced = value.__reduce_ex__(5)
    state = reduced[2] if len(reduced) == 3 else None
    # (dtype, elements), and what else the object has if it has anything.
    if not isinstance(state, tuple) or not state or not isinstance(state[-1], dict):
        return reduced
    others = {name: found for name, found in state[-1].items() if name != "_cache"}
    return *reduced[:2], (*state[:-1], others) if others else state[:-1]


# ------------------------------------------------------------------------------ PyTorch


def _reduce_tensor(tensor: Any) -> Any:
    torch = sys.modules["torch"]
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not dense or not tensor.is_leaf or tensor.is_quantized or tensor.is_conj() or vars(tensor):
        return tensor.__reduce_ex__(5)
    bits = tensor.detach().contiguous().reshape(-1)
    if bits.is_neg() or not bits.numel():
        return tensor.__reduce_ex__(5)
    contents = pickle.PickleBuffer(bits.view(torch.uint8).numpy())
    return restore_tensor, (contents, tensor.dtype, tuple(tensor.shape), tensor.requires_grad)


def restore_tensor(contents: Any, dtype: Any, shape: tuple[int, ...], requires_grad: bool) -> Any:
    """A private tensor, always, as PyTorch has no read-only ones: nothing of a large one is copied
    before it is written to."""
    torch = sys.modules["torch"]  # imported by the unpickling of `dtype`

    view = memoryview(contents)
    if view.readonly:
        contents = _theus.private_view(view) or bytearray(view)
    tensor = torch.frombuffer(contents, dtype=dtype).reshape(shape)
    return tensor.requires_grad_(requires_grad)
