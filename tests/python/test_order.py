"""A mapping from both ends: reversed, popitem and the first entry, as of a dict."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import theus


def test_reversed_is_lazy_and_notices_resizing(engine):
    engine.write("m", {str(n): n for n in range(5)})
    with engine.transaction() as ctx:
        backwards = reversed(ctx.m)
        assert next(backwards) == "4"
        ctx.m["3"] = 30  # no resizing
        assert next(backwards) == "3"
        ctx.m.new = 1
        with pytest.raises(RuntimeError):
            next(backwards)
    state = engine.state
    backwards = reversed(state["m"].values())
    engine.run(lambda ctx: ctx.m.clear())
    assert list(backwards) == [1, 4, 30, 2, 1, 0] == list(reversed(list(state["m"].values())))
    assert next(reversed(state)) == "m" and list(reversed(engine.state["m"])) == []


def test_entries_are_taken_from_both_ends_as_from_a_dict(engine):
    rng = random.Random(3)
    model = {}
    engine.write("m", {})
    for _ in range(60):
        with engine.transaction() as ctx:
            for _ in range(rng.randrange(60)):
                what, key = rng.randrange(6), f"k{rng.randrange(40)}"
                if what < 2:
                    model[key] = ctx.m[key] = rng.random()
                elif what == 2:  # to the end
                    model[key] = ctx.m[key] = model.pop(key, 0)
                    ctx.m[key] = ctx.m.pop(key)
                    model[key] = model.pop(key)
                elif not model:
                    assert next(iter(ctx.m), None) is None is next(reversed(ctx.m), None)
                elif what == 3:
                    assert next(reversed(ctx.m)) == next(reversed(model))
                    assert ctx.m.popitem() == model.popitem()
                else:
                    first = next(iter(model))
                    assert next(iter(ctx.m)) == first
                    assert ctx.m.pop(first) == model.pop(first)
            assert list(ctx.m.items()) == list(model.items())
            assert list(reversed(ctx.m.items())) == list(reversed(model.items()))
        assert list(reversed(engine.state["m"])) == list(reversed(model))


@pytest.mark.parametrize("look", [lambda m: next(reversed(m)), lambda m: next(reversed(m.keys()))])
def test_the_last_of_ones_own_new_keys(
    look: Callable[[Any], Any], engine: theus.Engine, coordinator: theus.Coordinator
) -> None:
    """It is the last only as long as nobody else has it, and others behind it."""
    engine.write("m", {"a": 1})
    with theus.connect(coordinator.name) as rival:
        with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
            ctx.add("m.x", 1)
            ctx.last = look(ctx.m)
            rival.update({"m.x": 5, "m.y": 0})
    assert engine.read("m") == {"a": 1, "x": 5, "y": 0} and "last" not in engine.state
