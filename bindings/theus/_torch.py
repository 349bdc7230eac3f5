"""PyTorch's functions on proxies of tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from theus import _theus


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
    named = named or {}
    proxies: list[Any] = []
    _collect([args, named], proxies)
    return _call(function, args, named, proxies, {})


def _call(
    function: Callable[..., Any], args: Any, named: Any, proxies: list[Any], real: dict[int, Any]
) -> Any:
    """With the tensors behind the first proxies in `real` already."""
    from theus._leaf_run import run

    if len(real) == len(proxies):
        return function(*_replace(args, real), **_replace(named, real))
    proxy = proxies[len(real)]
    leaf, target = _theus.parts(proxy)
    if leaf is None:
        raise TypeError("a mapping of the state is no tensor; use theus.plain(...)")
    leaf.check()

    def with_real(obj: Any) -> Any:
        return _call(function, args, named, proxies, {**real, id(proxy): obj})

    return run(proxy, leaf, target, with_real)


def _collect(value: Any, found: list[Any]) -> None:
    if _theus.is_proxy(value):
        if not any(value is known for known in found):
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
