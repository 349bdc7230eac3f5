"""Ways around the proxies: none of them changes committed state, neither what other processes read
nor what this one reads afterwards."""

from __future__ import annotations

import collections
import copy
import ctypes
import faulthandler
import functools
import gc
import multiprocessing
import operator
import signal
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import Worker, run_forked, to_dict

import theus

np = pytest.importorskip("numpy")


class Account:
    limits = [1]  # noqa: RUF012 (shared on purpose: a class is no part of the state)

    def __init__(self) -> None:
        self.entries = [1, [2]]
        self.tags = {"a"}

    def adder(self) -> Callable[[Any], None]:
        return lambda item: self.entries.append(item)

    def keeper(self, kept: list[Any] = []) -> Any:  # noqa: B006 (the escape itself)
        kept.append(self)
        return kept

    def each(self) -> Iterator[Any]:
        for entry in self.entries:
            yield self, entry


def state() -> dict[str, Any]:
    return {
        "list": [1, [2], {"a": [3]}],
        "flat": [1, 2, 3],
        "dict": theus.leaf({"a": [1], "b": 2}),
        "set": {1, 2},
        "deque": collections.deque([1, [2]]),
        "bytes": bytearray(b"abc"),
        "tuple": ([1], 2),
        "object": Account(),
        "array": np.arange(4.0),
        "rows": np.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")]),
        "objects": np.array([[1], 2], dtype=object),
        "memory": memoryview(b"abcd"),
        "node": {"leaf": [1], "number": 1},
    }


MUTABLE = (list, dict, set, collections.deque, bytearray, Account)


def spoil(value: Any) -> None:
    """Changes a raw object in every way it has."""
    if isinstance(value, (list, collections.deque)):
        value.append("spoiled")
    elif isinstance(value, dict):
        value["spoiled"] = True
    elif isinstance(value, set):
        value.add("spoiled")
    elif isinstance(value, bytearray):
        value.extend(b"spoiled")
    elif isinstance(value, Account):
        value.entries.append("spoiled")
    elif isinstance(value, np.ndarray):
        try:
            value.flags.writeable = True
        except ValueError:
            return
        value[...] = value[::-1] if value.ndim else value


def refer(start: Any) -> list[Any]:
    """What the collector sees from `start` on, as far as it belongs to the state."""
    seen = {id(start): start}
    waiting, found = [start], []
    while waiting:
        for item in gc.get_referents(waiting.pop()):
            if id(item) in seen or isinstance(item, (type, types.ModuleType, theus.Engine)):
                continue
            if isinstance(item, (types.FunctionType, types.FrameType, types.CodeType)):
                continue
            seen[id(item)] = item
            if type(item) in MUTABLE or isinstance(item, np.ndarray):
                found.append(item)
            name = f"{type(item).__module__}.{type(item).__qualname__}"
            if name.startswith("theus") or type(item) in (*MUTABLE, tuple):
                waiting.append(item)
    return found


def bypass(body: Callable[[], Any]) -> None:
    """An escape that is refused is as good as one that reaches nothing."""
    try:
        body()
    except (TypeError, AttributeError, ValueError, BufferError, theus.TheusError, KeyError):
        pass


def by_referents(root: Any) -> None:
    for name in root:
        value = root[name]
        for raw in refer(value):
            spoil(raw)


def by_iterators(root: Any) -> None:
    for name in ("list", "flat", "dict", "set", "deque", "bytes", "tuple"):
        iterator = iter(root[name])
        next(iterator)
        for raw in refer(iterator):
            spoil(raw)
        for views in ("keys", "values", "items"):
            if hasattr(root[name], views):
                for raw in refer(iter(getattr(root[name], views)())):
                    spoil(raw)


def by_dict_attribute(root: Any) -> None:
    for name in root:
        value = root[name]
        bypass(lambda value=value: value.__dict__["entries"].append(9))
        bypass(lambda value=value: vars(value).update(entries=[]))
        bypass(lambda value=value: object.__getattribute__(value, "__dict__").clear())


def by_object_setattr(root: Any) -> None:
    for name in root:
        value = root[name]
        bypass(lambda value=value: object.__setattr__(value, "entries", []))
        bypass(lambda value=value: object.__delattr__(value, "entries"))
        bypass(lambda value=value: object.__setattr__(value, "__class__", dict))
        bypass(lambda value=value: Account.__setattr__(value, "entries", []))


def by_unbound_methods(root: Any) -> None:
    bypass(lambda: list.append(root["list"], 9))
    bypass(lambda: dict.__setitem__(root["dict"], "x", 9))
    bypass(lambda: dict.update(root["node"], x=9))
    bypass(lambda: set.add(root["set"], 9))
    bypass(lambda: bytearray.extend(root["bytes"], b"x"))
    bypass(lambda: np.ndarray.fill(root["array"], 9))


def by_plain_results(root: Any) -> None:
    for name in root:
        ways = (theus.plain, copy.copy, copy.deepcopy) if name != "memory" else (theus.plain,)
        for taken in [way(root[name]) for way in ways]:
            spoil(taken)
            for inner in refer(taken):
                spoil(inner)
    for item in (root["list"][1:], root["list"].copy(), root["dict"].copy(), root["set"].copy()):
        spoil(item)
    spoil(sorted(root["flat"]))
    spoil(root["objects"].tolist())


def by_numpy(root: Any) -> None:
    for name in ("array", "rows"):
        value = root[name]
        for array in (np.asarray(value), np.asarray(value)[:2], np.asarray(value).view("u1")):
            at: Any = array
            while at is not None:
                if isinstance(at, np.ndarray):
                    spoil(at)
                    bypass(lambda at=at: at.setflags(write=True))
                    bypass(lambda at=at: at.__setitem__(Ellipsis, 0))
                at = getattr(at, "base", None) if isinstance(at, np.ndarray) else None
        bypass(lambda value=value: np.frombuffer(value, "u1").__setitem__(0, 9))
        bypass(lambda value=value: memoryview(value).cast("B").__setitem__(0, 9))
        bypass(lambda value=value: memoryview(memoryview(value).obj).cast("B").__setitem__(0, 9))
        bypass(lambda value=value: (ctypes.c_char * 4).from_buffer(value))


def by_memoryview(root: Any) -> None:
    view = memoryview(root["memory"])
    for inner in (view, view[1:], view.cast("B"), view.toreadonly(), memoryview(view.obj)):
        bypass(lambda inner=inner: operator.setitem(inner, 0, 9))
        bypass(lambda inner=inner: (ctypes.c_char * 2).from_buffer(inner))
    bypass(lambda: operator.setitem(np.frombuffer(view, "u1"), 0, 9))


ESCAPES = [
    by_referents,
    by_iterators,
    by_dict_attribute,
    by_object_setattr,
    by_unbound_methods,
    by_plain_results,
    by_numpy,
    by_memoryview,
]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[theus.Engine, Worker]]:
    with theus.Coordinator(capacity="64 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            worker = Worker(multiprocessing.get_context("fork"), engine)
            yield engine, worker
            worker.kill()


def shown(plain: dict[str, Any]) -> str:
    account = vars(plain["object"])
    return repr({**plain, "object": account, "memory": bytes(plain["memory"])})


@pytest.fixture
def engine(running: tuple[theus.Engine, Worker]) -> Iterator[theus.Engine]:
    """Filled with state(), which must be there unchanged at the end, for everybody."""
    engine, worker = running
    engine.run(lambda ctx: (ctx.clear(), ctx.update(state())) and None)
    for _ in range(2):  # decoded objects are kept by now
        before = shown(engine.state.to_dict())
    version = engine.version
    yield engine
    assert engine.version == version
    assert shown(engine.state.to_dict()) == before
    with engine.transaction() as ctx:
        assert shown(ctx.to_dict()) == before
        seen = {name: theus.plain(ctx[name]) for name in ctx}
        assert shown(seen) == before
    with engine.snapshot() as ctx:
        assert [list(ctx.flat), ctx.list[1][0], ctx.dict["a"][0]] == [[1, 2, 3], 2, 1]
        assert set(ctx.set) == {1, 2} and bytes(ctx.bytes) == b"abc"
    assert worker.do(_shown) == before


def _shown(engine: theus.Engine) -> str:
    return shown(to_dict(engine))


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: escape.__name__)
def test_from_a_state(escape: Callable[[Any], None], engine: theus.Engine) -> None:
    held = engine.state
    before = shown(held.to_dict())
    escape(held)
    assert shown(held.to_dict()) == before


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: escape.__name__)
def test_from_a_transaction_that_is_abandoned(
    escape: Callable[[Any], None], engine: theus.Engine
) -> None:
    with pytest.raises(ZeroDivisionError):
        with engine.transaction() as ctx:
            escape(ctx)
            raise ZeroDivisionError


@pytest.mark.parametrize("shadow", [False, True])
def test_what_is_kept_beyond_the_end(shadow: bool, engine: theus.Engine) -> None:
    kept: list[Any] = []
    later: list[Callable[[], Any]] = []
    with engine.transaction() as ctx:
        for name in ctx:
            value = ctx[name]
            if shadow and name != "node":
                raw = ctx.transaction.get_shadow(value)
                kept.append(raw)
                kept.extend(refer(raw))
            if isinstance(value, theus.SupervisorProxy):
                later.append(functools.partial(spoil, value))
                later.append(functools.partial(operator.setitem, value, 0, 9))
                for method in ("append", "add", "extend", "update", "clear", "fill", "adder"):
                    bound = getattr(value, method, None)
                    if bound is not None:
                        later.append(functools.partial(bound, 9))
                bypass(lambda value=value: later.append(iter(value).__next__))
        kept += [ctx.object.keeper(), ctx.object.adder(), ctx.object.each()]
        kept += [ctx.list[1:], ctx.list + [], ctx.array[1:], ctx.rows[0], ctx.objects[0]]
        kept += list(ctx.dict.values())
    for item in kept:
        bypass(lambda item=item: spoil(item))
        bypass(lambda item=item: item("spoiled"))
        bypass(lambda item=item: spoil(next(item)[0]))
        bypass(lambda item=item: [spoil(raw) for raw in item])
    for action in later:
        bypass(action)


def dies(body: Callable[[], int]) -> bool:
    """Whether a child that runs body() is ended by the kernel."""

    def quietly() -> int:
        faulthandler.disable()
        return body()

    return run_forked(quietly) == -signal.SIGSEGV


def write_address(array: Any) -> int:
    ctypes.memset(array.ctypes.data, 0xFF, 1)
    return 0


def write_interface(array: Any) -> int:
    ctypes.c_char.from_address(array.__array_interface__["data"][0]).value = b"x"
    return 0


def write_struct(array: Any) -> int:
    ctypes.memmove(array.__array_interface__["data"][0], b"x", 1)
    return 0


def write_unchecked(array: Any) -> int:
    np.add.at(array, [0], 5)  # NumPy does not look at the flag here
    return 0


def write_forged(array: Any) -> int:
    """A view that another library makes of the address."""
    interface = {**array.__array_interface__, "data": (array.ctypes.data, False)}
    forged = np.asarray(types.SimpleNamespace(__array_interface__=interface, keep=array))
    forged[0] = 9
    return 0


@pytest.mark.parametrize(
    "write", [write_address, write_interface, write_struct, write_unchecked, write_forged]
)
def test_a_write_to_the_address_kills_the_writer(
    write: Callable[[Any], int], engine: theus.Engine
) -> None:
    def body() -> int:
        with engine.snapshot() as ctx:
            return write(ctx.array)

    assert dies(body)


def test_a_write_to_the_address_of_a_memoryview_kills_the_writer(engine: theus.Engine) -> None:
    def body() -> int:
        view = engine.state["memory"]
        ctypes.memset(np.frombuffer(view, "u1").ctypes.data, 0, 1)
        return 0

    assert dies(body)


def test_a_write_to_a_read_only_array_of_a_transaction_kills_the_writer(
    engine: theus.Engine,
) -> None:
    def body() -> int:
        with engine.transaction() as ctx:
            ctypes.memset(np.asarray(ctx.array).ctypes.data, 0, 1)
        return 0

    assert dies(body)
