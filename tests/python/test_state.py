"""engine.state: one version, pinned, and immutable all the way down."""

from __future__ import annotations

import collections
import copy
import dataclasses
import gc
import multiprocessing
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import theus
from helpers import Worker, write


@dataclasses.dataclass
class Order:
    by: str
    lines: list[Any]


STATE: dict[str, Any] = {
    "n": 1,
    "text": "x",
    "m": {"k": {"deep": {1: [1, {"a": [2]}]}}},
    "list": [[1], {"x": {2}}, (1, [2]), bytearray(b"a")],
    "deque": collections.deque([[1], 2]),
    "dict": theus.leaf({"k": [1], "o": Order("ann", [[1]])}),
    "counter": collections.Counter("aab"),
    "default": collections.defaultdict(list, k=[1]),
    "order": Order("bob", [{"qty": [1]}]),
    "tuple": (1, (2, [3])),
    "array": np.arange(10),
    "arrays": [np.arange(3), {"w": np.zeros(2)}],
}


@pytest.fixture
def engine(engine: theus.Engine) -> theus.Engine:
    engine.update(STATE)
    return engine


def inside(value: Any) -> Iterator[Any]:
    """What `value` gives out, by every way that a program would take."""
    if isinstance(value, np.ndarray):
        return
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
        for key, item in value.items():
            yield item
            yield value[key]
            yield value.get(key)
    elif isinstance(value, (list, tuple, collections.deque)):
        yield from value
        yield from reversed(value)
        for number in range(len(value)):
            yield value[number]
        if not isinstance(value, collections.deque):
            yield value[:]
    elif isinstance(value, set):
        yield from value
    elif isinstance(value, Order):
        yield value.by
        yield value.lines


MUTABLE = (list, dict, set, bytearray, collections.deque, Order)


def private_copies(value: Any, path: str = "state") -> None:
    """Fails where something is given out that could be changed and is no proxy."""
    if type(value) is theus.SupervisorProxy or isinstance(value, theus.State):
        for number, item in enumerate(inside(value)):
            private_copies(item, f"{path}[{number}]")
    elif isinstance(value, np.ndarray):
        assert not value.flags.writeable, path
        with pytest.raises(ValueError, match="WRITEABLE"):
            value.flags.writeable = True
    elif type(value) is tuple:
        for number, item in enumerate(value):
            private_copies(item, f"{path}[{number}]")
    elif type(value) is list and all(type(item) is not list for item in value):
        pass  # a slice is a list of its own; what is in it is looked at by itself
    else:
        assert not isinstance(value, MUTABLE), (path, type(value))


def test_nothing_mutable_is_given_out(engine: theus.Engine) -> None:
    state = engine.state
    before = pickle.dumps(state.to_dict())
    private_copies(state)
    for name in STATE:
        private_copies(state[name], name)
        private_copies(state.get(name), name)
    assert pickle.dumps(engine.state.to_dict()) == before


def test_the_state_itself(engine: theus.Engine) -> None:
    state = engine.state
    for change in (
        lambda: setattr(state, "version", 5),
        lambda: setattr(state, "n", 5),
        lambda: delattr(state, "n"),
        lambda: state.__setitem__("n", 5),  # type: ignore[attr-defined]
        lambda: state.pop("n"),  # type: ignore[attr-defined]
        lambda: state.clear(),  # type: ignore[attr-defined]
    ):
        with pytest.raises((AttributeError, TypeError)):
            change()
    with pytest.raises(TypeError):
        del state["n"]  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        hash(state)
    assert copy.copy(state) is state and copy.deepcopy(state) is state


def test_every_write_below_raises(engine: theus.Engine) -> None:
    state = engine.state
    before = pickle.dumps(state.to_dict())
    for write_below in (
        lambda: state["m"].k.deep[1].append(3),
        lambda: state["m"]["k"].deep.update({2: 3}),
        lambda: state["m"].k.setdefault("new", 1),
        lambda: state["m"].popitem(),
        lambda: state["list"].sort(key=repr),
        lambda: state["list"][0].__iadd__([2]),
        lambda: state["list"][1]["x"].add(3),
        lambda: state["list"][3].extend(b"b"),
        lambda: state["deque"].rotate(1),
        lambda: state["dict"]["o"].lines[0].append(2),
        lambda: setattr(state["dict"]["o"], "by", "eve"),
        lambda: state["counter"].update("a"),
        lambda: state["default"]["k"].append(2),
        lambda: setattr(state["order"], "new", 1),
        lambda: delattr(state["order"], "by"),
        lambda: state["order"].lines[0]["qty"].clear(),
        lambda: state["tuple"][1][1].append(4),
    ):
        with pytest.raises(theus.ReadOnlyError):
            write_below()
    for view in (state["array"], state["arrays"][0], state["arrays"][1]["w"], state["array"][2:]):
        with pytest.raises((ValueError, theus.ReadOnlyError)):
            view[0] = 9
    assert pickle.dumps(state.to_dict()) == before == pickle.dumps(engine.state.to_dict())


def test_to_dict_is_private(engine: theus.Engine) -> None:
    state = engine.state
    before = pickle.dumps(state.to_dict())
    taken = state.to_dict()
    taken["m"]["k"]["deep"][1].append("mine")
    taken["list"][0].append("mine")
    taken["order"].lines.append("mine")
    taken["dict"]["o"].by = "mine"
    taken.clear()
    assert pickle.dumps(state.to_dict()) == before == pickle.dumps(engine.state.to_dict())


def test_it_is_pinned_while_anything_of_it_lives(engine: theus.Engine) -> None:
    other = Worker(multiprocessing.get_context("spawn"), engine)
    state = engine.state
    version = state.version
    part = state["m"].k
    for n in range(200):
        other.do(write, "m", {"k": n})
        other.do(write, "list", [n])
    assert state.version == version and state["list"][0][0] == 1
    assert engine.stats()["oldest_pin"] == version
    del state
    assert theus.plain(part) == STATE["m"]["k"], "a proxy of it keeps the version"
    assert engine.stats()["oldest_pin"] == version
    del part
    gc.collect()
    engine.write("n", 2)
    assert engine.stats()["oldest_pin"] != version
    other.kill()


def test_one_version_for_all(engine: theus.Engine) -> None:
    """Two States of one version are equal (arrays in it or not), and each keeps it."""
    one, two = engine.state, engine.state
    assert one == two and one.version == two.version == engine.version
    engine.write("n", 2)
    del one
    gc.collect()
    assert two["n"] == 1
    assert engine.state["n"] == 2


# --- update


def test_update_returns_the_next_state(engine: theus.Engine) -> None:
    state = engine.state
    following = state.update({"n": 2, "m.k": {}, ("m", "a.b"): [1]})
    assert isinstance(following, theus.State)
    assert following.version == state.version + 1 == engine.version
    assert state.diff(following) == {
        "n": "replaced",
        "m.k": "replaced",
        ("m", "a.b"): "added",
    }
    assert state["n"] == 1 and "a.b" not in state["m"]
    last = following.update({"n": 3}).update({"n": 4})
    assert last["n"] == 4 and last.version == state.version + 3


def test_update_is_all_or_nothing(engine: theus.Engine) -> None:
    state = engine.state
    engine.write("n", 7)
    version = engine.version
    with pytest.raises(theus.ConflictError) as caught:
        state.update({"text": "new", "n": 8})
    assert caught.value.paths == ("n",) and caught.value.snapshot_version == state.version
    for changes, error in (
        ({"text": "new", "no.parent": 1}, KeyError),
        ({"text": "new", "list.0": 1}, TypeError),
        ({"text": "new", "k": lambda: 1}, theus.EncodeError),
        ({"text": "new", (): {}}, ValueError),
        ({"text": "new", "a..b": 1}, ValueError),
    ):
        with pytest.raises(error):
            engine.state.update(changes)
    assert engine.version == version and engine.read("text") == "x"


def test_update_meets_other_processes(engine: theus.Engine) -> None:
    other = Worker(multiprocessing.get_context("fork"), engine)
    state = engine.state
    other.do(write, "m.k.new", 1)
    assert state.update({"n": 2})["n"] == 2, "another path"
    with pytest.raises(theus.ConflictError):
        state.update({"m.k": {}})
    other.kill()


def test_update_is_a_transaction_of_its_own(engine: theus.Engine) -> None:
    with engine.transaction(), pytest.raises(theus.TheusError, match="pass ctx on"):
        engine.state.update({"n": 2})
    version = engine.version
    assert engine.state.update({}).version == version
