"""Array leaves, and arrays inside of leaves, in a transaction.

An array proxy stands for a whole array, or for a view of one (`ArrayPart`). Before the first write
that is a view of the shared read-only array; with the shadow it moves to the same place in there,
where it stays whatever becomes of the array's own shape.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from typing import Any

from theus import _theus


class ArrayPart:
    """A view inside of an array of the leaf. `origin`: the array object, None: the leaf itself."""

    __slots__ = ("array", "origin", "place")

    def __init__(self, leaf: Any, origin: Any, view: Any, fixed: bool) -> None:
        self.origin, self.array = origin, view
        # Bytes from the start of the shared array that it is a view of; None: it is one of the
        # shadow, or NumPy gives it read-only.
        self.place: int | None = None
        if fixed or not leaf.writable:
            return
        if origin is None and not leaf.has_shadow:
            self.place = _address(view) - _address(leaf.content)
        else:
            self.array = view.view()
            self.array.flags.writeable = True

    def now(self, leaf: Any) -> Any:
        if self.place is not None and leaf.has_shadow:
            import numpy

            view, whole = self.array, leaf.shadow
            contents = whole if whole.flags.c_contiguous else whole.T
            self.array = numpy.ndarray(
                view.shape, view.dtype, contents, self.place if view.size else 0, view.strides
            )
            self.place = None
        return self.array


def _address(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


class RowPart(ArrayPart):
    """A row of a structured array: an array without dimensions, as that is a view."""

    __slots__ = ()


PARTS = (ArrayPart, RowPart)

# Functions and methods whose views NumPy gives read-only.
_FIXED = {"broadcast_arrays", "broadcast_to", "diag", "diagonal", "sliding_window_view"}
# Methods that change the array they are called on.
_INPLACE = {"byteswap", "fill", "itemset", "partition", "put", "setfield", "sort"}
# NumPy functions that change their first argument, and its name.
_CHANGING = {
    "copyto": "dst",
    "fill_diagonal": "a",
    "nan_to_num": "x",  # with copy=False
    "place": "arr",
    "put": "a",
    "put_along_axis": "arr",
    "putmask": "a",
}


def read_only(array: Any) -> Any:
    view = array.view()
    view.flags.writeable = False
    return view


def resolve(leaf: Any, target: Any) -> Any:
    """The array as it is now; the shadow itself where there is one."""
    if target is None:
        return leaf.content
    if type(target) in PARTS:
        return target.now(leaf)
    return target


def readable(leaf: Any, target: Any) -> Any:
    """The array as it is now, read-only."""
    array = resolve(leaf, target)
    if array.dtype.hasobject and leaf.writable:
        leaf.expose()  # its elements can be changed without anybody seeing it
    return read_only(array)


def operand(leaf: Any, target: Any) -> Any:
    """The same for a function that wants a row as the scalar it is."""
    array = readable(leaf, target)
    return array[()].copy() if type(target) is RowPart else array


def writable(proxy: Any, leaf: Any, target: Any) -> Any:
    """The shadow's array, to be changed. changed() has to follow."""
    from theus._leaf_parts import ensure_attached

    ensure_attached(proxy, leaf, target)
    leaf.expose()
    array = resolve(leaf, target)
    if not array.flags.writeable:
        path = _theus.spell_path(leaf.path)
        raise ValueError(f"assignment destination is read-only, as NumPy gives this view of {path}")
    return array


def changed(leaf: Any) -> None:
    leaf.write()


def plain(value: Any) -> Any:
    """A value with read-only arrays and plain objects instead of proxies."""
    if _theus.is_proxy(value):
        leaf, target = _theus.parts(value)
        if leaf is not None and _is_array(leaf, target):
            leaf.check()
            return operand(leaf, target)
        return _theus.plain(value)
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    return value


def _is_array(leaf: Any, target: Any) -> bool:
    from theus._leaf_parts import is_array

    return is_array(leaf, target)


def _part(
    leaf: Any, target: Any, view: Any, kind: type[ArrayPart] = ArrayPart, fixed: bool = False
) -> ArrayPart:
    if type(target) in PARTS:
        # What NumPy gives read-only has no writable views either.
        fixed = fixed or (target.place is None and not target.array.flags.writeable)
        return kind(leaf, target.origin, view, fixed)
    return kind(leaf, target, view, fixed)


def _give(
    proxy: Any, leaf: Any, target: Any, array: Any, value: Any, key: Any, fixed: bool = False
) -> Any:
    """A result of an operation on `array`: a sub-proxy if it is a view of it."""
    import numpy

    if not isinstance(value, numpy.ndarray):
        if _theus.is_frozen(value) or not array.dtype.hasobject:
            return value
        from theus._leaf_run import give_result

        return give_result(proxy, leaf, target, value, key)
    if value.flags.writeable or not numpy.may_share_memory(value, array):
        # A copy, which belongs to the caller, or nothing at all.
        return value.copy() if leaf.writable and not value.size else value
    if not leaf.writable and not value.dtype.hasobject:
        return value
    return leaf.proxy(proxy, key, _part(leaf, target, value, fixed=fixed))


def get_item(proxy: Any, leaf: Any, target: Any, key: Any) -> Any:
    import numpy

    array = readable(leaf, target)
    key = plain(key)
    if type(target) is RowPart:
        if not isinstance(key, (str, list)):
            key = array.dtype.names[key]
        value = array[key]
        if value.ndim == 0:
            if value.dtype.names is not None:
                return _give_row(proxy, leaf, target, value, key)
            value = value[()]
    else:
        value = array[key]
        if isinstance(value, numpy.void) and value.dtype.names is not None:
            view = array[(*key, ...) if isinstance(key, tuple) else (key, ...)]
            return _give_row(proxy, leaf, target, view, _plain_key(key))
    return _give(proxy, leaf, target, array, value, _plain_key(key))


def _give_row(proxy: Any, leaf: Any, target: Any, view: Any, key: Any) -> Any:
    if not leaf.writable and not view.dtype.hasobject:
        return view[()]  # read-only
    return leaf.proxy(proxy, key, _part(leaf, target, view, RowPart))


def _plain_key(key: Any) -> Any:
    return key if isinstance(key, int) else repr(key)


def set_item(proxy: Any, leaf: Any, target: Any, key: Any, value: Any) -> None:
    array = writable(proxy, leaf, target)
    key = plain(key)
    if type(target) is RowPart and not isinstance(key, (str, list)):
        key = array.dtype.names[key]
    array[key] = _incoming(proxy, leaf, array, value)
    changed(leaf)


def _incoming(proxy: Any, leaf: Any, array: Any, value: Any) -> Any:
    """What to assign to (a part of) `array`; objects are copied at this moment."""
    if not array.dtype.hasobject:
        value = plain(value)
        if type(value) in (list, tuple) and array.dtype.names is None:
            # NumPy converts element by element: what cannot be is found before any is assigned.
            import numpy

            converted = numpy.empty(numpy.shape(value), array.dtype)
            converted[...] = value
            return converted
        return value
    from theus._leaf_parts import adopt

    return adopt(proxy, leaf, value)


def get_attribute(proxy: Any, leaf: Any, target: Any, name: str) -> Any:
    if name == "base":
        return None
    array = readable(leaf, target)
    if name == "flat":
        return FlatView(proxy)
    value = getattr(operand(leaf, target), name)
    if callable(value):
        return _ArrayMethod(proxy, leaf, target, name)
    return _give(proxy, leaf, target, array, value, name)


# What an array is, not what it holds: a view made by indexing has these for itself.
_FORM = {"shape", "dtype", "strides"}


def set_attribute(proxy: Any, leaf: Any, target: Any, name: str, value: Any) -> None:
    if name in _FORM and type(target) in PARTS:
        raise TypeError(f"a part of an array has no {name} of its own; use reshape() or view()")
    array = writable(proxy, leaf, target)
    setattr(array, name, plain(value))
    changed(leaf)


class FlatView:
    """`array.flat` of an array proxy."""

    __slots__ = ("_proxy",)

    def __init__(self, proxy: Any) -> None:
        self._proxy = proxy

    def _parts(self) -> tuple[Any, Any]:
        leaf, target = _theus.parts(self._proxy)
        leaf.check()
        return leaf, target

    def __getitem__(self, key: Any) -> Any:
        leaf, target = self._parts()
        array = readable(leaf, target)
        return _give(self._proxy, leaf, target, array, array.flat[plain(key)], None)

    def __setitem__(self, key: Any, value: Any) -> None:
        leaf, target = self._parts()
        array = writable(self._proxy, leaf, target)
        array.flat[plain(key)] = _incoming(self._proxy, leaf, array, value)
        changed(leaf)

    def __len__(self) -> int:
        return int(self._proxy.size)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy

        return numpy.array(operand(*self._parts()).flat, dtype)


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
            shadow = writable(proxy, leaf, target)
            if shadow.dtype.hasobject:
                arguments = tuple(_incoming(proxy, leaf, shadow, value) for value in args)
            result = getattr(shadow, name)(*arguments, **values)
            changed(leaf)
            return None if result is None else proxy
        array = readable(leaf, target)
        if out is not None:
            with _Outputs(out) as outputs:
                getattr(array, name)(*arguments, **values, out=outputs.arrays[0])
            return out
        result = getattr(operand(leaf, target), name)(*arguments, **values)
        return _give(proxy, leaf, target, array, result, f"{name}()", name in _FIXED)


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
    if type(target) is not RowPart:
        count = len(readable(leaf, target))  # TypeError without dimensions
    else:
        count = len(readable(leaf, target).dtype.names)
    return _iterate(proxy, leaf, target, count)


def _iterate(proxy: Any, leaf: Any, target: Any, count: int) -> Iterator[Any]:
    for index in range(count):
        leaf.check()
        yield get_item(proxy, leaf, target, index)


def plain_copy(proxy: Any, leaf: Any, target: Any) -> Any:
    """The array at this moment, read-only; a view of shared memory where nothing was written."""
    array = resolve(leaf, target)
    if array.dtype.hasobject:
        from theus._leaf_parts import copy_value

        copied = copy_value(proxy, array)
        return copied[()] if type(target) is RowPart else read_only(copied)
    if type(target) is RowPart:
        return array[()].copy()
    if array.flags.writeable:
        array = array.copy(order="K")
    return read_only(array)


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
    name = getattr(function, "__name__", "")
    values = {key: plain(value) for key, value in named.items() if key != "out"}
    arguments = [plain(value) for value in args]
    if name in _CHANGING and (name != "nan_to_num" or not _copies(args, named)):
        first = args[0] if args else named[_CHANGING[name]]
        with _Outputs((first,)) as outputs:
            if args:
                arguments[0] = outputs.arrays[0]
            else:
                values[_CHANGING[name]] = outputs.arrays[0]
            result = function(*arguments, **values)
        return first if result is outputs.arrays[0] else result
    out, place = _output(function, args, named)
    if out is None:
        result = function(*arguments, **values)
        owners = [
            *_owners(args, arguments),
            *_owners([named[key] for key in values], values.values()),
        ]
        return _give_views(owners, result, name)
    with _Outputs(out) as outputs:
        arrays = outputs.arrays if isinstance(out, tuple) else outputs.arrays[0]
        if place is None:
            values["out"] = arrays
        else:
            arguments[place] = arrays
        function(*arguments, **values)
    return out


def _copies(args: tuple[Any, ...], named: dict[str, Any]) -> bool:
    return bool(args[1] if len(args) > 1 else named.get("copy", True))


def _output(function: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, int | None]:
    """What was given for `out`, and as which positional argument."""
    if "out" in named or not any(_theus.is_proxy(value) for value in args[1:]):
        return named.get("out"), None
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:
        return None, None
    for place, parameter in enumerate(parameters[: len(args)]):
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            break  # what is given for *operands is no output
        if parameter.name == "out":
            return args[place], place
    return None, None


def _owners(given: Any, arrays: Any) -> Iterator[tuple[Any, Any]]:
    """The array proxies among the arguments, each with the array that stood for it."""
    for value, array in zip(given, arrays, strict=True):
        if type(value) in (list, tuple):
            yield from _owners(value, array)
        elif _theus.is_proxy(value):
            leaf, target = _theus.parts(value)
            if leaf is not None and _is_array(leaf, target):
                yield value, array


def _give_views(owners: list[tuple[Any, Any]], result: Any, name: str) -> Any:
    """np.ravel() and the like give views: of a proxy's array they are parts, which can be written
    to. Others give what is in an array of objects."""
    import numpy

    def give(item: Any) -> Any:
        view = isinstance(item, numpy.ndarray)
        for proxy, array in owners:
            if numpy.may_share_memory(item, array) if view else array.dtype.hasobject:
                leaf, target = _theus.parts(proxy)
                return _give(proxy, leaf, target, array, item, f"{name}()", name in _FIXED)
        return item

    is_element = any(
        array.dtype.hasobject and any(result is item for item in array.flat) for _, array in owners
    )
    if type(result) in (list, tuple) and not is_element:
        return type(result)(give(item) for item in result)
    return give(result)
