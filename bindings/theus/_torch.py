"""PyTorch: how tensors are pickled, and its functions on proxies of them."""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable
from typing import Any

from theus import _theus


def dumps(value: Any, buffer_callback: Any) -> bytes:
    """pickle.dumps(), with the elements of dense tensors in the CPU's memory out of band. (What
    PyTorch itself writes has addresses inside and is never the same twice.)"""
    torch = sys.modules["torch"]
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=buffer_callback)
    if hasattr(torch, "Tensor"):  # not while it is being imported
        reducers = {torch.Tensor: _reduce}
        pickler.dispatch_table = ChainMap[Any, Any](reducers, copyreg.dispatch_table)
    pickler.dump(value)
    return file.getvalue()


def _reduce(tensor: Any) -> Any:
    torch = sys.modules["torch"]
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not dense or not tensor.is_leaf or tensor.is_quantized or tensor.is_conj() or vars(tensor):
        return tensor.__reduce_ex__(5)
    bits = tensor.detach().contiguous().reshape(-1)
    if bits.is_neg() or not bits.numel():
        return tensor.__reduce_ex__(5)
    contents = pickle.PickleBuffer(bits.view(torch.uint8).numpy())
    return restore, (contents, tensor.dtype, tuple(tensor.shape), tensor.requires_grad)


def restore(contents: Any, dtype: Any, shape: tuple[int, ...], requires_grad: bool) -> Any:
    """A private tensor, always, as PyTorch has no read-only ones: nothing of a large one is copied
    before it is written to."""
    import torch

    view = memoryview(contents)
    if view.readonly:
        contents = _theus.private_view(view) or bytearray(view)
    tensor = torch.frombuffer(contents, dtype=dtype).reshape(shape)
    return tensor.requires_grad_(requires_grad)


def shares_memory(value: Any, others: Any) -> bool | None:
    """Whether a tensor has its elements in common with another one. None: `value` is no tensor."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return None
    place = value.storage().data_ptr()
    tensors = (other for other in others if isinstance(other, torch.Tensor))
    return any(other.storage().data_ptr() == place for other in tensors)


def torch_function(
    function: Callable[..., Any],
    types: Any,
    args: tuple[Any, ...] = (),
    named: dict[str, Any] | None = None,
) -> Any:
    """Calls it on the real, private tensors; what that changes is found at commit, or refused."""
    from theus._leaf_run import run

    named = named or {}
    proxies: list[Any] = []
    _collect([args, named], proxies)
    real: dict[int, Any] = {}

    def call(number: int) -> Any:
        if number == len(proxies):
            return function(*_replace(args, real), **_replace(named, real))
        proxy = proxies[number]
        leaf, target = _theus.parts(proxy)
        if leaf is None:
            raise TypeError("a mapping of the state is no tensor; use theus.plain(...)")
        leaf.check()

        def with_real(obj: Any) -> Any:
            real[id(proxy)] = obj
            return call(number + 1)

        return run(proxy, leaf, target, with_real)

    return call(0)


def _collect(value: Any, found: list[Any]) -> None:
    if _theus.is_proxy(value):
        found.append(value)
    elif type(value) in (list, tuple, dict):
        for item in value.values() if type(value) is dict else value:
            _collect(item, found)


def _replace(value: Any, real: dict[int, Any]) -> Any:
    if id(value) in real:
        return real[id(value)]
    if type(value) in (list, tuple):
        return type(value)(_replace(item, real) for item in value)
    if type(value) is dict:
        return {key: _replace(item, real) for key, item in value.items()}
    return value
