"""Promise 5: nothing that Python holds can change committed state."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import faulthandler
import mmap
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import theus
from helpers import run_forked

PROT_READ, PROT_WRITE = 1, 2


@dataclasses.dataclass
class Account:
    owner: str
    history: list[int]


STATE: dict[str, Any] = {
    "array": np.arange(10_000),
    "m": {"k": {"x": 1}},
    "tags": ["a", ["b"]],
    "pair": (1, [2]),
    "seen": {1, 2},
    "raw": bytearray(b"abc"),
    "leaf": theus.leaf({"k": [1]}),
    "account": Account("ann", [1]),
}


@pytest.fixture
def engine(engine: theus.Engine) -> theus.Engine:
    engine.update(STATE)
    return engine


def array_of_state(engine: theus.Engine) -> np.ndarray:
    return engine.state["array"]


def array_of_snapshot(engine: theus.Engine) -> np.ndarray:
    with engine.snapshot() as ctx:
        return np.asarray(ctx.array)


def array_of_transaction(engine: theus.Engine) -> np.ndarray:
    with engine.transaction() as ctx:
        return np.asarray(ctx.array)


ARRAYS = pytest.mark.parametrize(
    "source", [array_of_state, array_of_snapshot, array_of_transaction]
)


@ARRAYS
def test_arrays_are_read_only(
    source: Callable[[theus.Engine], np.ndarray], engine: theus.Engine
) -> None:
    view = source(engine)
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    with pytest.raises(ValueError):
        view.flags.writeable = True
    with pytest.raises(ValueError):
        view.setflags(write=True)
    with pytest.raises(ValueError):
        np.add(view, 1, out=view)
    with pytest.raises(TypeError):
        memoryview(view)[0] = 1
    base = view
    while isinstance(base.base, np.ndarray):
        base = base.base
        with pytest.raises(ValueError):
            base.flags.writeable = True
    assert engine.state["array"][0] == 0


@ARRAYS
def test_metadata_of_a_view_is_its_own(
    source: Callable[[theus.Engine], np.ndarray], engine: theus.Engine
) -> None:
    view = source(engine).reshape(100, 100).view(np.uint8)
    assert view.shape == (100, 800)
    assert engine.state["array"].shape == (10_000,)
    assert engine.state["array"].dtype == STATE["array"].dtype


@ARRAYS
def test_a_write_to_the_address_is_a_segmentation_fault(
    source: Callable[[theus.Engine], np.ndarray], engine: theus.Engine
) -> None:
    def overwrite() -> int:
        faulthandler.disable()  # its report would look like a failure of this test
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with theus.connect(engine.name) as own:
            view = source(own)
            assert ctypes.c_int64.from_address(view.ctypes.data).value == 0
            ctypes.c_int64.from_address(view.ctypes.data).value = 1
        return 0

    assert run_forked(overwrite) == -signal.SIGSEGV
    assert engine.state["array"][0] == 0


def protect(address: int, protection: int) -> int:
    """mprotect() of the page at `address`; returns 0 or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = address // mmap.PAGESIZE * mmap.PAGESIZE
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return ctypes.get_errno() if libc.mprotect(page, mmap.PAGESIZE, protection) else 0


@ARRAYS
def test_the_mapping_cannot_be_made_writable(
    source: Callable[[theus.Engine], np.ndarray], engine: theus.Engine
) -> None:
    def make_writable() -> int:
        with theus.connect(engine.name) as own:
            view = source(own)
            private = np.arange(10_000)
            assert protect(private.ctypes.data, PROT_READ | PROT_WRITE) == 0
            return protect(view.ctypes.data, PROT_READ | PROT_WRITE)

    assert run_forked(make_writable) != 0
    assert engine.state["array"][0] == 0


def test_no_writable_mapping_has_the_address_of_a_view(engine: theus.Engine) -> None:
    view = engine.state["array"]
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            addresses, permissions = line.split()[:2]
            start, end = (int(address, 16) for address in addresses.split("-"))
            if start <= view.ctypes.data < end:
                assert permissions == "r--s"
                return
    raise AssertionError("the view is in no mapping")


CHANGES: dict[str, Callable[[Any], object]] = {
    "mapping": lambda root: root["m"].__setitem__("new", 1),
    "nested mapping": lambda root: root["m"]["k"].__setitem__("x", 2),
    "mapping deletion": lambda root: root["m"].__delitem__("k"),
    "update": lambda root: root["m"].update({"a": 1}),
    "clear": lambda root: root["m"].clear(),
    "list": lambda root: root["tags"].append("c"),
    "list item": lambda root: root["tags"].__setitem__(0, "c"),
    "nested list": lambda root: root["tags"][1].append("c"),
    "list in a tuple": lambda root: root["pair"][1].append(3),
    "set": lambda root: root["seen"].add(3),
    "bytearray": lambda root: root["raw"].__setitem__(0, 65),
    "leaf": lambda root: root["leaf"]["k"].append(2),
    "leaf item": lambda root: root["leaf"].__setitem__("new", 1),
    "object": lambda root: setattr(root["account"], "owner", "bob"),
    "list in an object": lambda root: root["account"].history.append(2),
    "array": lambda root: root["array"].__setitem__(0, 9),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("held", ["state", "snapshot"])
def test_snapshots_refuse_changes(name: str, held: str, engine: theus.Engine) -> None:
    before = repr(engine.state.to_dict())
    error = ValueError if name == "array" else theus.ReadOnlyError
    if held == "state":
        with pytest.raises(error):
            CHANGES[name](engine.state)
    else:
        with engine.snapshot() as ctx, pytest.raises(error):
            CHANGES[name](ctx)
    assert repr(engine.state.to_dict()) == before


@pytest.mark.parametrize("name", CHANGES)
def test_a_transaction_changes_only_what_it_commits(name: str, engine: theus.Engine) -> None:
    state = engine.state
    before = repr(state.to_dict())
    with engine.transaction() as ctx:
        CHANGES[name](ctx)
        assert repr(engine.state.to_dict()) == before
    assert repr(state.to_dict()) == before
    assert repr(engine.state.to_dict()) != before


@pytest.mark.parametrize("taken", [theus.plain, copy.copy, copy.deepcopy])
def test_what_is_taken_out_is_private(taken: Callable[[Any], Any], engine: theus.Engine) -> None:
    before = repr(engine.state.to_dict())
    root = {name: taken(engine.state[name]) for name in STATE if name != "pair"}
    root["pair"] = theus.plain(engine.state["pair"])
    with engine.transaction() as ctx:
        if taken is not copy.copy:  # its parts are of the snapshot still
            root = {name: theus.plain(ctx[name]) for name in STATE}
    for name, change in CHANGES.items():
        shallow = taken is copy.copy and ("nested" in name or " in " in name or name == "leaf")
        if shallow or name == "array":
            continue
        change(root)
    assert repr(engine.state.to_dict()) == before


def test_what_went_in_is_not_shared_with_the_caller(engine: theus.Engine) -> None:
    mine = {"list": [1], "array": np.zeros(3)}
    with engine.transaction() as ctx:
        ctx.mine = mine
        mine["list"].append(2)
        mine["array"][0] = 1
    mine["new"] = 1
    mine["array"][1] = 1
    state = engine.state
    assert theus.plain(state["mine"]["list"]) == [1]
    assert state["mine"]["array"].tolist() == [0, 0, 0]
    assert "new" not in state["mine"]


def test_a_shadow_is_detached_at_the_end(engine: theus.Engine) -> None:
    with engine.transaction() as ctx:
        array = ctx.transaction.get_shadow("array")
        part = array[:10]
        tags = ctx.transaction.get_shadow("tags")
        array[0] = 1
        tags.append("c")
    part[1] = 77
    array[2] = 77
    tags.append("d")
    assert engine.state["array"][:3].tolist() == [1, 1, 2]
    assert theus.plain(engine.state["tags"]) == ["a", ["b"], "c"]


def test_nothing_shared_is_inheritable_by_exec() -> None:
    """A program started by a worker must not be able to write to the state by accident."""
    with theus.Coordinator() as coordinator, theus.connect(coordinator.name):
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{fd}")
            except FileNotFoundError:
                continue  # the one that was listing
            if target.startswith("/memfd:"):
                assert not os.get_inheritable(int(fd)), target
