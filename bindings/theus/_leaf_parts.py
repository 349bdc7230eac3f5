"""Parts of leaves: what goes in, what goes out, and whether a part is still where it was."""

from __future__ import annotations

import collections
import types
from typing import Any

from theus import _array, _theus
from theus._frozen import FROZEN_TYPES
from theus._leaf_methods import READS, reachable
from theus.errors import EncodeError, TheusError

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_is_frozen = _theus.is_frozen
_is_proxy = _theus.is_proxy
_parts = _theus.parts


def current(leaf: Any, target: Any) -> Any:
    return leaf.content if target is None else target


def is_array(leaf: Any, target: Any) -> bool:
    if target is None:
        return leaf.array or _theus.is_array(leaf.content)
    return type(target) in _array.PARTS or _theus.is_array(target)


def is_builtin(obj: Any) -> bool:
    """Whether `obj` is of a class whose operations are known to read or to write."""
    return type(obj) in READS


def runs_code(leaf: Any, obj: Any) -> bool:
    """Whether to compare or to print a built-in container runs code of unknown classes."""
    return leaf.is_object and _theus.classify(obj) == "object"


# --------------------------------------------------------------------- what goes in


def unwrap(leaf: Any, value: Any) -> Any:
    """An argument as the real object wants it: this leaf's own parts as themselves."""
    if not _is_proxy(value):
        return value
    other, target = _parts(value)
    if other is leaf:
        return _array.resolve(leaf, target) if is_array(leaf, target) else current(leaf, target)
    return _theus.plain(value)


def copy_value(proxy: Any, value: Any, into: Any = None) -> Any:
    """A private copy of `value`, as it will be read back; EncodeError when it cannot be stored.
    into: the leaf that it is to be a part of, whose own parts in it stay themselves."""
    if type(value) in _SCALARS:
        return value
    try:
        if into is not None and not _is_frozen(value):
            return _theus.copy_into(into, value)
        encoded = _theus.encode_leaf(value)
        return value if _is_frozen(value) else _theus.decode_leaf(encoded)
    except Exception as error:
        path = _theus.spell_path(_theus.path_of(proxy))
        failure = EncodeError(
            f"{path}: a value of type {type(value).__name__} cannot be stored, as it cannot be "
            "pickled (the cause says why); nothing was changed"
        )
        failure.path = path
        raise failure from error


def adopt(proxy: Any, leaf: Any, value: Any) -> Any:
    """What to put into the shadow for `value`: a part of this leaf stays itself (so that swaps
    work), anything else is copied at this moment."""
    if _is_proxy(value):
        other, target = _parts(value)
        whole_array = target is None and _theus.is_array(leaf.content)
        if other is leaf and type(target) not in _array.PARTS and not whole_array:
            return leaf.shadow if target is None else settled(value, leaf)
        _theus.check_may_be_copied(proxy, value)
        return private_copy(_theus.plain(value))
    return copy_value(proxy, value, leaf)


def settled(proxy: Any, leaf: Any) -> Any:
    """The proxy's part as it is in the shadow: before the first write it is a part of an object
    that is shared with readers."""
    _ = leaf.shadow  # made now, if it has not been
    return _parts(proxy)[1]


_PLAIN_KEYS = frozenset({type(None), int, str, bytes})


def _is_plain_key(key: Any) -> bool:
    if type(key) is slice:
        bounds = (key.start, key.stop, key.step)
        return all(bound is None or type(bound) is int for bound in bounds)
    return type(key) in _PLAIN_KEYS


def prepare(proxy: Any, leaf: Any, target: Any, *keys: Any) -> Any:
    """Before looking up: with keys that may run code of their own (which may write), or by which a
    part would not be found again, that is done in the shadow. Returns the target."""
    if leaf.writable and not leaf.has_shadow and not all(map(_is_plain_key, keys)):
        return settled(proxy, leaf)
    return target


def is_harmless(value: Any) -> bool:
    """Whether comparing parts with it runs no code that could change or keep them."""
    kind = type(value)
    if kind in READS:
        return bool(_theus.classify(value) != "object")
    return kind in _SCALARS or kind in FROZEN_TYPES


def ensure_attached(proxy: Any, leaf: Any, target: Any) -> Any:
    """Raises unless a write to `target` would reach the state. Returns the target, settled."""
    leaf.check_write()
    part = target = settled(proxy, leaf)
    while type(part) in _array.PARTS:
        proxy, part = _theus.origin(proxy)[0], _parts(_theus.origin(proxy)[0])[1]
    if part is None or _holds(proxy, leaf, part) or reachable(leaf.shadow, part):
        return target
    path = _theus.spell_path(leaf.path)
    raise TheusError(
        f"this part of {path} was replaced or removed by this transaction; a write to what it was "
        "would be lost"
    )


def is_attached(proxy: Any, leaf: Any, target: Any) -> bool:
    try:
        ensure_attached(proxy, leaf, target)
    except TheusError:
        return False
    return True


def _holds(proxy: Any, leaf: Any, target: Any) -> bool:
    """Whether `target` is still in the container that the proxy took it from, and so on up to the
    leaf's root. Runs no code of unknown classes. False also where that cannot be told."""
    while target is not None:
        parent, key = _theus.origin(proxy)
        if not _is_proxy(parent):
            return False
        other, container = _parts(parent)
        if other is not leaf:
            return False
        holder = leaf.shadow if container is None else container
        if look(holder, key) is not target:
            place = _place_of(holder, key, target)
            if place is None:
                return False
            _theus.moved(proxy, place)
        proxy, target = parent, container
    return True


def _place_of(container: Any, key: Any, item: Any) -> int | None:
    """Where in a sequence `item` has gone to from index `key`: others came and went before it, so
    that is mostly near."""
    if type(container) not in (list, tuple, collections.deque) or type(key) is not int:
        return None
    for near in range(max(0, key - _NEAR), min(len(container), key + _NEAR)):
        if container[near] is item:
            return near
    for place, other in enumerate(container):
        if other is item:
            return place
    return None


_NEAR = 4
# How the built-in containers look up: a class that has inherited it does the same.
_LOOKUPS: dict[int, Any] = {
    id(kind.__dict__["__getitem__"]): kind for kind in (list, tuple, collections.deque, dict)
}


_LENGTHS = {id(kind.__dict__["__len__"]) for kind in _LOOKUPS.values()}


def has_length(container: Any) -> bool:
    """Whether its class has inherited how long it is from a built-in container."""
    return id(class_attribute(type(container), "__len__")) in _LENGTHS


def look(container: Any, key: Any) -> Any:
    """What is at `key`, as far as that can be told without running any code of the container's
    class; else ABSENT."""
    kind = _LOOKUPS.get(id(class_attribute(type(container), "__getitem__")))
    if kind is None:
        return plain_attribute(container, key) if type(key) is str else ABSENT
    if kind is dict:
        return dict.get(container, key, ABSENT) if _is_frozen(key) else ABSENT
    size = kind.__len__(container)
    inside = type(key) is int and -size <= key < size
    return kind.__getitem__(container, key) if inside else ABSENT


ABSENT = object()


def plain_attribute(obj: Any, name: str) -> Any:
    """What the instance itself holds as attribute `name`, if no code of its class has a say in
    that; else ABSENT."""
    cls: Any = type(obj)
    if cls.__getattribute__ is not object.__getattribute__:
        return ABSENT
    if name == "__dict__" and cls.__dictoffset__ and not isinstance(obj, type):
        own: dict[str, Any] = obj.__dict__
        return own if type(own) is dict else ABSENT
    described = class_attribute(cls, name)
    if type(described) is types.MemberDescriptorType:  # one of __slots__
        try:
            return described.__get__(obj)
        except AttributeError:
            return ABSENT
    if not cls.__dictoffset__ or hasattr(type(described), "__set__"):
        return ABSENT
    return obj.__dict__.get(name, ABSENT)


def class_attribute(cls: type, name: str) -> Any:
    """What `cls` or a base of it defines under that name, as it is there; else ABSENT."""
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return ABSENT


def exposed(proxy: Any, leaf: Any, target: Any) -> Any:
    """The real object, to be changed. leaf.write() follows once that has succeeded: what fails
    half-way is compared at commit instead."""
    shadow = leaf.expose()
    return shadow if target is None else settled(proxy, leaf)


# --------------------------------------------------------------------- what goes out


def give(proxy: Any, leaf: Any, value: Any, key: Any = None) -> Any:
    """A part of the leaf, or a frozen value, for the program."""
    if _is_frozen(value):
        return value
    if _theus.is_array(value) and not leaf.writable and not value.dtype.hasobject:
        return _array.read_only(value)
    return leaf.proxy(proxy, key, value)


def private_copy(value: Any) -> Any:
    """`value`, which belongs to the caller, with writable arrays instead of shared ones."""
    if _theus.is_array(value):
        return value if value.flags.writeable else value.copy(order="K")
    if type(value) is dict:
        return {key: private_copy(item) for key, item in value.items()}
    return value


def plain_copy(proxy: Any, leaf: Any, target: Any) -> Any:
    """A plain object that belongs to the caller; an array as a read-only one of this moment."""
    if is_array(leaf, target):
        return _array.plain_copy(proxy, leaf, target)
    if target is None:
        return leaf.copy()
    return copy_value(proxy, target)
