"""Array leaves, and arrays inside of leaves, in a transaction.

An array proxy stands for a whole array, or for a part of one: an `ArrayPart` remembers the steps
(indexing, transposing, reshaping) that lead there, and takes them anew at each use, on the shared
read-only array before the first write and on the shadow after it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from theus import _theus
from theus.errors import TheusError


class ArrayPart:
    """A view inside of an array of the leaf. `origin`: the array object, None: the leaf itself."""

    __slots__ = ("origin", "steps")

    def __init__(self, origin: Any, steps: tuple[tuple[Any, ...], ...]) -> None:
        self.origin, self.steps = origin, steps

    def take(self, array: Any) -> Any:
        for kind, what, *arguments in self.steps:
            if kind == "item":
                array = array[what]
            elif kind == "attribute":
                array = getattr(array, what)
            else:
                array = getattr(array, what)(*arguments[0], **arguments[1])
        return array


# What reachability (_leaf_methods) looks for instead of the part.
setattr(ArrayPart, "__theus_origin__", ArrayPart.__dict__["origin"])  # noqa: B010

# Methods that change the array they are called on.
_INPLACE = {"byteswap", "fill", "itemset", "partition", "put", "setfield", "sort"}
# numpy functions that change an argument, and which.
_CHANGING = {
    "copyto": 0,
    "fill_diagonal": 0,
    "place": 0,
    "put": 0,
    "put_along_axis": 0,
    "putmask": 0,
}


def read_only(array: Any) -> Any:
    view = array.view()
    view.flags.writeable = False
    return view


def resolve(leaf: Any, target: Any) -> Any:
    """The array as it is now; the shadow itself where there is one."""
    if target is None:
        return leaf.content
    if type(target) is ArrayPart:
        return target.take(leaf.content if target.origin is None else target.origin)
    return target


def readable(leaf: Any, target: Any) -> Any:
    """The array as it is now, read-only."""
    array = resolve(leaf, target)
    if array.dtype.hasobject and leaf.writable:
        leaf.expose()  # its elements can be changed without anybody seeing it
    return read_only(array)


def writable(proxy: Any, leaf: Any, target: Any) -> Any:
    """The shadow's array, to be changed. changed() has to follow."""
    from theus._leaf_parts import ensure_attached

    ensure_attached(proxy, leaf, target)
    leaf.expose()
    array = resolve(leaf, target)
    if not array.flags.writeable:
        path = _theus.spell_path(leaf.path)
        raise TheusError(f"this part of {path} is a copy; a write to it would be lost")
    return array


def changed(leaf: Any) -> None:
    leaf.write()


def plain(value: Any) -> Any:
    """A value with read-only arrays and plain objects instead of proxies."""
    if _theus.is_proxy(value):
        leaf, target = _theus.parts(value)
        if leaf is not None and (
            leaf.array if target is None else type(target) is ArrayPart or _theus.is_array(target)
        ):
            leaf.check()
            return readable(leaf, target)
        return _theus.plain(value)
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    return value


def _below(target: Any, step: tuple[Any, ...]) -> ArrayPart:
    if type(target) is ArrayPart:
        return ArrayPart(target.origin, (*target.steps, step))
    return ArrayPart(target, (step,))


def _give(
    proxy: Any, leaf: Any, target: Any, array: Any, value: Any, step: tuple[Any, ...], key: Any
) -> Any:
    """A result of an operation on `array`: a sub-proxy if it is a view of it."""
    import numpy

    if isinstance(value, numpy.void) and not value.dtype.hasobject:
        return value.copy()
    if not isinstance(value, numpy.ndarray):
        return value if _theus.is_frozen(value) else _theus.plain(value)
    if value.flags.writeable or not numpy.may_share_memory(value, array):
        return value  # a copy: it belongs to the caller
    if not leaf.writable:
        return value
    return leaf.proxy(proxy, key, _below(target, step))


def get_item(proxy: Any, leaf: Any, target: Any, key: Any) -> Any:
    array = readable(leaf, target)
    key = plain(key)
    value = array[key]
    if array.dtype.hasobject and not _theus.is_array(value):
        return value if _theus.is_frozen(value) else leaf.proxy(proxy, None, value)
    return _give(proxy, leaf, target, array, value, ("item", key), _plain_key(key))


def _plain_key(key: Any) -> Any:
    return key if isinstance(key, int) else repr(key)


def set_item(proxy: Any, leaf: Any, target: Any, key: Any, value: Any) -> None:
    array = writable(proxy, leaf, target)
    array[plain(key)] = plain(value)
    changed(leaf)


def get_attribute(proxy: Any, leaf: Any, target: Any, name: str) -> Any:
    if name == "base":
        return None
    array = readable(leaf, target)
    value = getattr(array, name)
    if callable(value):
        return _ArrayMethod(proxy, leaf, target, name)
    return _give(proxy, leaf, target, array, value, ("attribute", name), name)


def set_attribute(proxy: Any, leaf: Any, target: Any, name: str, value: Any) -> None:
    array = writable(proxy, leaf, target)
    setattr(array, name, plain(value))
    changed(leaf)


class _ArrayMethod:
    __slots__ = ("_leaf", "_name", "_proxy", "_target")

    def __init__(self, proxy: Any, leaf: Any, target: Any, name: str) -> None:
        self._proxy, self._leaf, self._target, self._name = proxy, leaf, target, name

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._proxy!r}>"

    def __call__(self, *args: Any, **named: Any) -> Any:
        proxy, leaf, target, name = self._proxy, self._leaf, self._target, self._name
        leaf.check()
        if name == "resize":
            raise ValueError("an array of the state cannot be resized in place; assign a new one")
        out = named.get("out")
        values = {key: plain(value) for key, value in named.items() if key != "out"}
        arguments = tuple(plain(value) for value in args)
        if name in _INPLACE and not (name == "byteswap" and not _swaps(args, named)):
            result = getattr(writable(proxy, leaf, target), name)(*arguments, **values)
            changed(leaf)
            return None if result is None else proxy
        array = readable(leaf, target)
        if out is not None:
            with _Outputs(out) as outputs:
                getattr(array, name)(*arguments, **values, out=outputs.arrays[0])
            return out
        result = getattr(array, name)(*arguments, **values)
        return _give(
            proxy, leaf, target, array, result, ("call", name, arguments, values), f"{name}()"
        )


def _swaps(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    return bool(args[0] if args else named.get("inplace", False))


class _Outputs:
    """The arrays of `out=`: of proxies the shadows, which are marked as changed afterwards."""

    def __init__(self, out: Any) -> None:
        self.given = out if isinstance(out, tuple) else (out,)
        self.arrays: tuple[Any, ...] = ()

    def __enter__(self) -> _Outputs:
        self.arrays = tuple(self._array(item) for item in self.given)
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        if kind is None:
            for item in self.given:
                if _theus.is_proxy(item):
                    changed(_theus.parts(item)[0])

    @staticmethod
    def _array(item: Any) -> Any:
        if not _theus.is_proxy(item):
            return item
        leaf, target = _theus.parts(item)
        if leaf is None:
            raise TypeError("out= takes arrays, not mapping nodes")
        leaf.check()
        return writable(item, leaf, target)


def inplace(proxy: Any, leaf: Any, target: Any, name: str, other: Any) -> Any:
    array = writable(proxy, leaf, target)
    result = getattr(operator, name)(array, plain(other))
    changed(leaf)
    return proxy if result is array else result


def iterate(proxy: Any, leaf: Any, target: Any) -> Iterator[Any]:
    for index in range(len(readable(leaf, target))):
        leaf.check()
        yield get_item(proxy, leaf, target, index)


def plain_copy(leaf: Any, target: Any) -> Any:
    """The array at this moment, read-only; a view of shared memory where nothing was written."""
    array = resolve(leaf, target)
    if array.flags.writeable:
        array = array.copy()
    return read_only(array)


def as_array(leaf: Any, target: Any, dtype: Any, copy: bool | None) -> Any:
    array = plain_copy(leaf, target)
    if dtype is not None and array.dtype != dtype:
        return array.astype(dtype)
    return array.copy() if copy else array


def array_ufunc(proxy: Any, ufunc: Any, method: str, *inputs: Any, **named: Any) -> Any:
    values = {key: plain(value) for key, value in named.items() if key != "out"}
    if method == "at":
        with _Outputs(inputs[0]) as outputs:
            ufunc.at(outputs.arrays[0], *(plain(value) for value in inputs[1:]), **values)
        return None
    arguments = [plain(value) for value in inputs]
    out = named.get("out")
    if out is None:
        return getattr(ufunc, method)(*arguments, **values)
    with _Outputs(out) as outputs:
        getattr(ufunc, method)(*arguments, **values, out=outputs.arrays)
    return outputs.given[0] if len(outputs.given) == 1 else outputs.given


def array_function(
    proxy: Any, function: Any, kinds: Any, args: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    values = {key: plain(value) for key, value in named.items() if key != "out"}
    changing = _CHANGING.get(getattr(function, "__name__", ""))
    if changing is not None and len(args) > changing:
        with _Outputs((args[changing],)) as outputs:
            arguments = [plain(value) for value in args]
            arguments[changing] = outputs.arrays[0]
            return function(*arguments, **values)
    arguments = [plain(value) for value in args]
    out = named.get("out")
    if out is None:
        return function(*arguments, **values)
    with _Outputs(out) as outputs:
        arrays = outputs.arrays if isinstance(out, tuple) else outputs.arrays[0]
        function(*arguments, **values, out=arrays)
    return out
