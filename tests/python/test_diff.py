"""State.diff: what changed between two versions."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import theus
from helpers import Worker, run_forked, write

REVERSED = {"added": "removed", "removed": "added", "replaced": "replaced"}
KEYS = ("a", "b", "c", "a.b", 7, (1, "x"), None)


class Leaf:
    """A leaf of the model: each write makes another one, also of the same value."""

    def __init__(self, value: int) -> None:
        self.value = value


class Mapping(dict[Any, Any]):
    """A mapping of the model, of leaves and mappings. Its copies keep its identity."""

    def __init__(self, items: Any = (), identity: object = None) -> None:
        super().__init__(items)
        self.identity = identity or object()


def copy(model: Any) -> Any:
    if isinstance(model, Leaf):
        return model
    return Mapping({key: copy(item) for key, item in model.items()}, model.identity)


def renewed(model: Any) -> Any:
    """What storing it elsewhere makes: something new, with all below it."""
    if isinstance(model, Leaf):
        return Leaf(model.value)
    return Mapping({key: renewed(item) for key, item in model.items()})


def is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.identity is other.identity
    return one is other


def expected(before: Mapping, after: Mapping, path: tuple[Any, ...] = ()) -> dict[Any, str]:
    """By walking everything, in the documented order."""
    changes: dict[Any, str] = {}
    for key, item in after.items():
        if key not in before:
            changes[(*path, key)] = "added"
        elif not is_same(before[key], item):
            changes[(*path, key)] = "replaced"
        elif isinstance(item, Mapping):
            changes.update(expected(before[key], item, (*path, key)))
    for key in before:
        if key not in after:
            changes[(*path, key)] = "removed"
    return changes


def spelled(changes: dict[Any, str]) -> dict[Any, str]:
    def spell(path: tuple[Any, ...]) -> Any:
        plain = all(isinstance(key, str) and "." not in key for key in path)
        return ".".join(path) if plain else path

    return {spell(path): kind for path, kind in changes.items()}


def plain(model: Any) -> Any:
    if isinstance(model, Mapping):
        return {key: plain(item) for key, item in model.items()}
    return model.value


def change(ctx: Any, model: Mapping, chance: random.Random) -> None:
    """One operation, somewhere in both."""
    while chance.random() < 0.6:
        inner = [key for key, item in model.items() if isinstance(item, Mapping)]
        if not inner:
            break
        key = chance.choice(inner)
        ctx, model = ctx[key], model[key]
    key = chance.choice(KEYS)
    what = chance.randrange(9)
    if what == 0:
        ctx.pop(key, None)
        model.pop(key, None)
    elif what == 1:  # a new mapping, with content
        ctx[key] = {"a": 1, "b": {"c": 2}}
        model[key] = Mapping({"a": Leaf(1), "b": Mapping({"c": Leaf(2)})})
    elif what == 2 and isinstance(model.get(key), Mapping):
        ctx[key].clear()
        model[key] = Mapping()
    elif what == 3 and key in model:  # goes and comes back, at the end
        ctx[key] = ctx.pop(key)
        model[key] = renewed(model.pop(key))
    elif what == 4 and key in model:  # a move
        target = chance.choice(KEYS)
        if target == key:
            return
        ctx[target] = ctx.pop(key)
        model[target] = renewed(model.pop(key))
    else:
        value = chance.randrange(3)  # often equal to what is there
        ctx[key] = value
        model[key] = Leaf(value)


@pytest.mark.parametrize("seed", range(20))
def test_random_histories(seed: int, engine: theus.Engine) -> None:
    chance = random.Random(seed)
    model = Mapping()
    history = [(engine.state, copy(model))]
    for _ in range(12):
        for _ in range(chance.randrange(1, 4)):
            with engine.transaction() as ctx:
                for _ in range(chance.randrange(1, 5)):
                    change(ctx, model, chance)
        history.append((engine.state, copy(model)))
        assert history[-1][0].to_dict() == plain(model)
    for before, model_before in history:
        for after, model_after in history:
            found = before.diff(after)
            if before.version <= after.version:
                in_order = spelled(expected(model_before, model_after))
            else:
                forth = spelled(expected(model_after, model_before))
                in_order = {path: REVERSED[kind] for path, kind in forth.items()}
            assert list(found.items()) == list(in_order.items())
            assert_explains(before.to_dict(), after.to_dict(), found)


def assert_explains(before: Any, after: Any, found: dict[Any, str]) -> None:
    """Whatever differs between the two plain dicts lies at or below a path that was found."""
    paths = {tuple(path.split(".")) if isinstance(path, str) else path for path in found}
    for differing in differences(before, after):
        assert any(differing[: len(path)] == path for path in paths), (differing, paths)


def differences(before: Any, after: Any, path: tuple[Any, ...] = ()) -> Any:
    for key in {**before, **after}:
        one, other = before.get(key, before), after.get(key, after)
        if isinstance(one, dict) and isinstance(other, dict) and key in before and key in after:
            yield from differences(one, other, (*path, key))
        elif key not in before or key not in after or one != other:
            yield (*path, key)


def test_kinds_and_order(engine: theus.Engine) -> None:
    engine.update({"m": {"x": 1, "y": 1, "z": {"deep": 1}}, "gone": 1, "l": [1], "same": {"n": 1}})
    before = engine.state
    with engine.transaction() as ctx:
        ctx.l.append(2)
        ctx.m.z.deep += 1
        del ctx.m.x, ctx.gone
        ctx.m["dotted.key"] = 1
        ctx.new = {"inner": {}}
    after = engine.state
    assert list(before.diff(after).items()) == [
        ("m.z.deep", "replaced"),
        (("m", "dotted.key"), "added"),
        ("m.x", "removed"),
        ("l", "replaced"),
        ("new", "added"),
        ("gone", "removed"),
    ]
    back = after.diff(before)
    assert list(back) == list(before.diff(after))
    assert back["m.x"] == "added" and back["new"] == "removed" and back["l"] == "replaced"
    assert before.diff(before) == {} == after.diff(engine.state)


def test_equal_values_written_again_have_changed(engine: theus.Engine) -> None:
    engine.update({"n": 5, "m": {"a": 1}, "l": [1], "w": np.zeros(3)})
    before = engine.state
    engine.update({"n": 5, "m": {"a": 1}, "l": [1], "w": np.zeros(3)})
    assert before.diff(engine.state) == dict.fromkeys(["n", "m", "l", "w"], "replaced")


def test_what_a_transaction_only_looked_at_has_not(engine: theus.Engine) -> None:
    engine.update({"m": {"a": 1}, "l": [1], "n": 0})
    before = engine.state
    with engine.transaction() as ctx:
        assert ctx.m.a == 1 and ctx.l[0] == 1 and list(ctx.m) == ["a"]
        ctx.m = ctx.m  # its own place
        ctx.n += 1
    assert before.diff(engine.state) == {"n": "replaced"}


def test_what_comes_and_goes_between_is_not_seen(engine: theus.Engine) -> None:
    engine.update({"m": {}})
    before = engine.state
    engine.write("m.x", 1)
    between = engine.state
    engine.run(lambda ctx: ctx.delete("m.x"))
    assert before.diff(engine.state) == {}
    assert before.diff(between) == {"m.x": "added"}
    assert between.diff(engine.state) == {"m.x": "removed"}


def test_the_empty_state(engine: theus.Engine) -> None:
    empty = engine.state
    assert empty.version == 0
    engine.update({"a": 1, "m": {"x": 1}})
    assert empty.diff(engine.state) == {"a": "added", "m": "added"}
    engine.run(lambda ctx: ctx.clear())
    assert empty.diff(engine.state) == {}


def test_changes_of_other_processes(engine: theus.Engine, other: Worker) -> None:
    engine.update({"m": {"a": 1}})
    before = engine.state
    other.do(write, "m.b", 2)
    assert before.diff(engine.state) == {"m.b": "added"}


def test_only_states_of_one_engine(engine: theus.Engine, coordinator: theus.Coordinator) -> None:
    with theus.connect(coordinator.name) as second, pytest.raises(theus.TheusError, match="engine"):
        engine.state.diff(second.state)
    with theus.Coordinator() as elsewhere, theus.connect(elsewhere.name) as third:
        with pytest.raises(theus.TheusError, match="engine"):
            engine.state.diff(third.state)
    for stranger in ({}, None, 5, engine):
        with pytest.raises(TypeError, match="States"):
            engine.state.diff(stranger)  # type: ignore[arg-type]


def test_after_close_and_in_a_child(coordinator: theus.Coordinator) -> None:
    engine = theus.connect(coordinator.name)
    before = engine.state
    engine.write("a", 1)
    after = engine.state

    def in_child() -> int:
        inherited = before.diff(after) == {"a": "added"}
        engine.write("b", 1)
        return 0 if inherited and after.diff(engine.state) == {"b": "added"} else 1

    assert run_forked(in_child) == 0
    engine.close()
    assert before.diff(after) == {"a": "added"}


def test_it_needs_no_values(engine: theus.Engine) -> None:
    """A leaf that cannot be decoded here is compared all the same."""

    class Gone:
        pass

    Gone.__qualname__ = "Gone"
    globals()["Gone"] = Gone
    before = engine.state
    engine.write("x", Gone())
    del globals()["Gone"]
    assert before.diff(engine.state) == {"x": "added"}
    with pytest.raises(theus.DecodeError):
        engine.state.to_dict()
