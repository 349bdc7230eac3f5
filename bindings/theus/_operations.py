"""ctx.add, maximum, minimum, append, insert and discard, and resolvers.

Each operation is here twice: as a program would do it, on what the transaction has; and on the
plain newest value, when others have committed meanwhile. (Ints and floats that fit into 64 bits are
folded by the arbiter instead, shm/fold.h.)
"""

from __future__ import annotations

import copy
import numbers
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

from theus import _theus
from theus._leaf_marker import Leaf

ABSENT = object()  # stands for nothing at all

_C = TypeVar("_C")
_Resolver = Callable[[Any, Any, Any], Any]


def _is_number(value: object) -> bool:
    numpy: Any = sys.modules.get("numpy")
    if isinstance(value, bool) or (numpy and isinstance(value, numpy.timedelta64)):
        return False  # both are registered as integers
    return isinstance(value, (numbers.Number, Decimal))


def _class_of(value: Any) -> type[Any]:
    if _theus.is_proxy(value):
        leaf, target = _theus.parts(value)
        value = target if leaf is None or target is not None else leaf.content
    return type(value)


def _is_array(value: Any) -> bool:
    """Whether it is of a class whose `+=` is known to change it in place."""
    cls = _class_of(value)
    modules = (("numpy", "ndarray"), ("torch", "Tensor"))
    return any(cls is getattr(sys.modules.get(module), name, None) for module, name in modules)


def _unbounded(value: Any) -> Any:
    """A NumPy integer as an int, which does not wrap around."""
    is_numpys = isinstance(value, numbers.Integral) and not isinstance(value, int)
    return int(value) if is_numpys and _is_number(value) else value


def _describe(path: Any) -> str:
    spelled = _theus.spell_path(path)
    return spelled if isinstance(spelled, str) else repr(spelled)


def _kind(value: Any) -> str:
    return "nothing" if value is ABSENT else str(value.__class__.__name__)


# ---------------------------------------------------------------------------- numbers and arrays


def _fits(value: Any, operand: Any) -> bool:
    """Whether both are numbers, or both arrays of one class, of whatever shape."""
    if value is ABSENT:
        return _is_number(operand) or _is_array(operand)
    if _is_array(value):
        return _class_of(value) is _class_of(operand)
    return _is_number(value) and _is_number(operand)


def _check(name: str, path: Any, value: Any, operand: Any) -> None:
    if not _fits(value, operand):
        raise TypeError(
            f"{name}() works on numbers and arrays, but {_describe(path)} holds {_kind(value)} and "
            f"the operand is {type(operand).__name__}"
        )
    if _is_array(operand) and value is not ABSENT and value.shape != operand.shape:
        raise ValueError(
            f"{name}() of arrays needs one shape: {_describe(path)} has {value.shape}, the "
            f"operand {operand.shape}"
        )


def _sum(value: Any, operand: Any) -> Any:
    return value + operand


def _greater(value: Any, operand: Any) -> Any:
    return operand if value != value or operand > value else value  # NaN gives way (shm/fold.h)


def _smaller(value: Any, operand: Any) -> Any:
    return operand if value != value or operand < value else value


def _add_array(value: Any, operand: Any) -> None:
    value += operand


def _maximum_array(value: Any, operand: Any) -> None:
    sys.modules[_module_of(value)].maximum(value, operand, out=value)


def _minimum_array(value: Any, operand: Any) -> None:
    sys.modules[_module_of(value)].minimum(value, operand, out=value)


def _module_of(array: Any) -> str:
    return _class_of(array).__module__.partition(".")[0]


def _numeric(
    name: str,
    combine: Callable[[Any, Any], Any],
    on_arrays: Callable[[Any, Any], None],
) -> tuple[Callable[[Any, Any, Any], Any], Callable[[Any, Any], Any]]:
    def operation(ctx: Any, path: Any, operand: Any) -> Any:
        operand = _unbounded(_theus.plain(operand))
        value = _unbounded(ctx.read(path, ABSENT))
        _check(name, path, value, operand)
        if value is ABSENT:
            ctx.write(path, operand)
        elif _is_array(value):
            on_arrays(value, operand)
        else:
            # Also where nothing changes: it may when it is done on what is newest at commit.
            ctx.write(path, combine(value, operand))
        return copy.deepcopy(operand)

    def again(value: Any, operand: Any) -> Any:
        value = _unbounded(value)
        if not _fits(value, operand):
            return NotImplemented
        if value is ABSENT:
            return operand
        try:
            if not _is_array(value):
                return combine(value, operand)
            if value.shape != operand.shape:
                return NotImplemented
            on_arrays(value, operand)
        except (TypeError, ValueError, ArithmeticError):
            return NotImplemented  # numbers or arrays of another type than those at the call
        return value

    return operation, again


add, _add_again = _numeric("add", _sum, _add_array)
maximum, _maximum_again = _numeric("maximum", _greater, _maximum_array)
minimum, _minimum_again = _numeric("minimum", _smaller, _minimum_array)


# ---------------------------------------------------------------------------- lists and sets


def _held(name: str, ctx: Any, path: Any, kind: type[Any]) -> Any:
    held = ctx.read(path, ABSENT)
    if held is not ABSENT and not isinstance(held, kind):
        raise TypeError(
            f"{name}() works on a {kind.__name__}, but {_describe(path)} holds {_kind(held)}"
        )
    return held


def append(ctx: Any, path: Any, value: Any) -> Any:
    held = _held("append", ctx, path, list)
    if held is ABSENT:
        ctx.write(path, [value])
    else:
        held.append(value)
    return copy.deepcopy(_theus.plain(value))


def insert(ctx: Any, path: Any, value: Any) -> Any:
    held = _held("insert", ctx, path, set)
    if held is ABSENT:
        ctx.write(path, {value})
    else:
        held.add(value)
    return copy.deepcopy(_theus.plain(value))


def discard(ctx: Any, path: Any, value: Any) -> Any:
    # Of nothing it is a read: there must be nothing at commit, too.
    held = _held("discard", ctx, path, set)
    if held is not ABSENT:
        held.discard(value)
    return copy.deepcopy(_theus.plain(value))


def _append_again(value: Any, operand: Any) -> Any:
    if value is ABSENT:
        return [operand]
    if not isinstance(value, list):
        return NotImplemented
    value.append(operand)
    return value


def _insert_again(value: Any, operand: Any) -> Any:
    if value is ABSENT:
        return {operand}
    if not isinstance(value, set):
        return NotImplemented
    value.add(operand)
    return value


def _discard_again(value: Any, operand: Any) -> Any:
    if not isinstance(value, set):
        return NotImplemented
    value.discard(operand)
    return value


_AGAIN: dict[str, Callable[[Any, Any], Any]] = {
    "add": _add_again,
    "maximum": _maximum_again,
    "minimum": _minimum_again,
    "append": _append_again,
    "insert": _insert_again,
    "discard": _discard_again,
}


def operate_again(value: Any, operations: list[tuple[str, Any]]) -> Any:
    """The operations in their order on a private value; NotImplemented: it is of another kind."""
    for name, operand in operations:
        value = _AGAIN[name](value, operand)
        if value is NotImplemented:
            break
    return value


# ---------------------------------------------------------------------------- resolvers

_resolvers: dict[type[Any], _Resolver] = {}
_SCALARS = (type(None), bool, int, float, str, bytes)


def resolver(cls: type[_C], /) -> Callable[[Callable[[_C, _C, _C], _C]], Callable[..., _C]]:
    """Registers a function that merges two changes of one leaf, for a class and its subclasses.

    `(old, committed, mine) -> merged`: what the losing transaction had begun from (None if nothing
    was there), what another has committed since, and what the loser wants to write. All three are
    private copies. It runs in the process whose commit met the conflict, before that commit is
    tried again; others may be faster again, so it may run several times, a bounded number. An
    exception that it raises rolls the transaction back and propagates. NotImplemented means
    ConflictError.

    What else the transaction has decided by what it read in the old object is not decided again.

        >>> class Tally:
        ...     def __init__(self) -> None:
        ...         self.votes = 0
        >>> @theus.resolver(Tally)
        ... def merge(old: Tally, committed: Tally, mine: Tally) -> Tally:
        ...     mine.votes += committed.votes - old.votes
        ...     return mine

    Every process that commits such objects needs it; a module that defines the class is the place.
    Raises TypeError for what is no class, for a mapping node's (a dict is merged by key), and for
    None, bool, int, float, str and bytes.
    """
    if not isinstance(cls, type):
        raise TypeError(f"resolver() takes a class, not {cls!r}")
    if cls is dict:
        raise TypeError("a dict is a mapping node, whose keys are merged one by one already")
    if cls in _SCALARS:
        raise TypeError(
            f"values of type {cls.__name__} are not merged by a resolver; use ctx.add() and the "
            "like for numbers, or a class of your own that holds the value"
        )

    def register(function: Callable[[_C, _C, _C], _C]) -> Callable[..., _C]:
        if not callable(function):
            raise TypeError(f"a resolver is a function (old, committed, mine), not {function!r}")
        _resolvers[cls] = function
        return function

    return register


def resolve(old: Any, committed: Any, mine: Any, path: tuple[Any, ...]) -> Any:
    for cls in type(mine).__mro__:
        function = _resolvers.get(cls)
        if function is not None:
            break
    else:
        return NotImplemented
    if not isinstance(committed, cls) or not (old is None or isinstance(old, cls)):
        return NotImplemented
    try:
        merged = function(old, committed, mine)
    except Exception as error:
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(f"in the resolver of {cls.__qualname__}, for {_describe(path)}")
        raise
    if merged is None:
        raise TypeError(
            f"the resolver of {cls.__qualname__} returned None for {_describe(path)}; it returns "
            "the merged object, or NotImplemented for a ConflictError"
        )
    if merged is NotImplemented:
        return merged
    if isinstance(merged, Leaf):
        return merged.value
    merged = _theus.plain(merged)
    if type(merged) is dict:
        raise TypeError(
            f"the resolver of {cls.__qualname__} returned a dict for {_describe(path)}, where a "
            "leaf was; return theus.leaf({...}) to store it as one"
        )
    return merged
