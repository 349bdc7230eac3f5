"""One-shot operations, State, and what belongs to an engine as a whole."""

from __future__ import annotations

import logging
import os
import pathlib
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import theus
from theus import _coordinator


@pytest.fixture(scope="module")
def coordinator():
    with theus.Coordinator(capacity="256 MiB") as running:
        yield running


@pytest.fixture
def engine(coordinator):
    with theus.connect(coordinator.name) as engine:
        engine.run(lambda ctx: ctx.clear())
        yield engine


def in_thread(function, *args):
    """Runs it in another thread; returns its result or raises its exception."""
    result = []

    def work():
        try:
            result.append((function(*args), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    value, error = result[0]
    if error is not None:
        raise error
    return value


def interfere(engine, key="n"):
    """Makes the transaction that is open in this thread lose, if it has read or written `key`."""
    in_thread(engine.run, lambda ctx: ctx.__setitem__(key, (ctx.get(key) or 0) + 100))


def test_one_shots(engine):
    engine.write("m", {"n": 1})
    engine.add("m.n", 5)
    engine.update({"m.x": [1], ("m", 7): 8, "top": {"k": "v"}})
    assert engine.read("m") == {"n": 6, "x": [1], 7: 8}
    assert engine.read("nothing.at.all", 3) == 3
    with pytest.raises(KeyError):
        engine.read("nothing")
    with pytest.raises(KeyError):
        engine.update({"m.n": 0, "none.x": 1})
    assert engine.read("m.n") == 6


def test_commutative_operations(engine):
    def body(ctx):
        ctx.add("n", 5)
        ctx.add("n", 2**70)
        ctx.add("f", 0.5)
        ctx.maximum("hi", 5)
        ctx.maximum("hi", 3)
        ctx.minimum("lo", 5)
        ctx.minimum("lo", 3)
        ctx.append("l", [1])
        ctx.append("l", 2)
        ctx.insert("s", 1)
        ctx.insert("s", 1)
        ctx.add("w", np.ones(2))
        ctx.add("w", np.ones(2))
        ctx.maximum("w", np.array([0, 9]))

    engine.run(body)
    state = engine.state
    assert (state["n"], state["f"], state["hi"], state["lo"]) == (2**70 + 5, 0.5, 5, 3)
    assert theus.plain(state["l"]) == [[1], 2] and theus.plain(state["s"]) == {1}
    assert list(state["w"]) == [2, 9]
    engine.write("text", "x")

    def misuse(ctx):
        for operation, path, operand, error in (
            (ctx.add, "text", 1, TypeError),
            (ctx.add, "n", "x", TypeError),
            (ctx.add, "w", np.ones(3), ValueError),
            (ctx.append, "n", 1, TypeError),
            (ctx.insert, "l", 1, TypeError),
            (ctx.add, "none.x", 1, KeyError),
        ):
            with pytest.raises(error):
                operation(path, operand)

    before = engine.version
    engine.run(misuse)
    assert engine.version == before


def test_state(engine):
    engine.update({"m": {"a": 1}, "l": [1]})
    state = engine.state
    assert isinstance(state, theus.State) and state.version == engine.version
    engine.write("m", {"a": 2})
    assert state["m"]["a"] == 1 and engine.state["m"]["a"] == 2
    assert list(state) == ["m", "l"] and len(state) == 2 and "m" in state
    assert state.to_dict() == theus.plain(state) == {"m": {"a": 1}, "l": [1]}
    assert state == {"m": {"a": 1}, "l": [1]} and state != engine.state
    assert state.get("zzz", 5) == 5 and dict(state.items()).keys() == {"m", "l"}
    assert pickle.loads(pickle.dumps(state)) == state.to_dict()
    with pytest.raises(TypeError):
        state["m"] = 1
    with pytest.raises(theus.ReadOnlyError):
        state["m"]["a"] = 1


def test_state_update(engine):
    engine.update({"a": 1, "b": 1, "m": {"x": 1, "y": 1}})
    state = engine.state
    following = state.update({"a": 2, "new": [1]})
    assert following["a"] == 2 and following.version > state.version
    assert state["a"] == 1
    state.update({"b": 2})  # it was not changed meanwhile
    for changes in ({"a": 9}, {"b": 9}, {"new": 9}):
        with pytest.raises(theus.ConflictError) as caught:
            state.update({"m.x": 5, **changes})
        assert caught.value.paths == tuple(changes)
    assert engine.read("m.x") == 1
    engine.write("m.y", 2)
    state.update({"m.x": 3})
    with pytest.raises(theus.ConflictError):
        state.update({"m": {}})  # something below it has changed
    with pytest.raises(theus.ConflictError):
        state.update({"m.y": 5})
    now = engine.state
    engine.run(lambda ctx: ctx.delete("m"))
    with pytest.raises(theus.ConflictError):
        now.update({"m": {}})


def test_states_and_views_stay_after_close(coordinator):
    engine = theus.connect(coordinator.name)
    engine.update({"w": np.arange(1000), "m": {"l": [1, [2]]}})
    state, view = engine.state, engine.read("w")
    engine.close()
    assert view[-1] == 999 and state["w"][5] == 5 and theus.plain(state["m"]["l"]) == [1, [2]]
    for use in (lambda: engine.state, lambda: engine.read("w"), lambda: engine.run(print)):
        with pytest.raises(theus.TheusError, match="closed"):
            use()
    with theus.connect(coordinator.name) as other:
        for n in range(20):
            other.write("w", np.full(1000, n))
    assert view[-1] == 999 and state["w"][5] == 5
    del state, view


def test_closing_inside_a_transaction(coordinator):
    engine = theus.connect(coordinator.name)
    with pytest.raises(theus.TheusError, match="closed inside"), engine.transaction() as ctx:
        ctx.closed = 1
        engine.close()
        with pytest.raises(theus.TheusError, match="closed"):
            ctx.closed
    with theus.connect(coordinator.name) as other:
        assert other.read("closed", None) is None


def test_stats_and_attributes(engine, coordinator):
    before = engine.stats()
    engine.write("n", 1)
    after = engine.stats()
    assert after["commits"] == before["commits"] + 1
    assert after["version"] == engine.version
    assert after["capacity_bytes"] >= 256 << 20 and after["workers"] >= 1
    assert engine.name == coordinator.name and coordinator.name in repr(engine)
    assert coordinator.pid != coordinator.parent_pid
    os.kill(coordinator.pid, 0)


def test_what_is_not_there_yet_says_so(engine):
    with pytest.raises(theus.TheusError, match="not available"):
        theus.Coordinator(arbitration="isolated")
    with pytest.raises(ValueError):
        theus.Coordinator(arbitration="both")


def test_engines_are_pickled_by_name(engine):
    again = pickle.loads(pickle.dumps(engine))
    engine.write("n", 5)
    assert again.read("n") == 5 and again.name == engine.name
    again.close()


def test_logging(coordinator, caplog):
    with caplog.at_level(logging.DEBUG, logger="theus"), theus.connect(coordinator.name):
        pass
    assert any(coordinator.name in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("text", "size"),
    [(1 << 30, 1 << 30), ("2 GiB", 2 << 30), ("512MiB", 512 << 20), ("1.5 GB", 1500000000)],
)
def test_capacities(text, size):
    assert _coordinator.parse_capacity(text) == size


def test_stubs_name_what_the_package_has():
    folder = pathlib.Path(theus.__file__).parent
    stub = (folder / "_theus.pyi").read_text()
    for name in ("ContextGuard", "ProcessContext", "SupervisorProxy", "Transaction"):
        assert f"class {name}" in stub
        for member in vars(getattr(theus, name)):
            if not member.startswith("_"):
                assert f"def {member}(" in stub, (name, member)
    assert (folder / "py.typed").exists()
    for name in theus.__all__:
        assert hasattr(theus, name)


def test_arrays_held_at_interpreter_exit(coordinator):
    """Whatever is still held when the interpreter ends, it ends quietly."""
    script = f"""
import numpy, theus
engine = theus.connect({coordinator.name!r})
engine.write("held", numpy.arange(100000))
class Holder: pass
holder = Holder()
holder.me, holder.view, holder.state = holder, engine.read("held"), engine.state
guard = engine.transaction()
ctx = guard.__enter__()
ctx.never = [1]
proxy = ctx.never
proxy.append(2)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
