"""Promise 10, and what a full memory gets: bounded, given back, refused without harm."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import pandas as pd
import pytest
import theus
from helpers import Worker, until, write

MEBIBYTE = 1 << 20


def used(engine: theus.Engine) -> int:
    return engine.stats()["used_bytes"]


def array(fill: int, size: int = MEBIBYTE) -> np.ndarray:
    return np.full(size, fill, dtype=np.uint8)


def touch(engine: theus.Engine) -> Callable[[], None]:
    """A small commit: what reclamation is paced by."""
    return lambda: engine.write("touched", 1)


@pytest.fixture
def small() -> Iterator[theus.Engine]:
    with theus.Coordinator(capacity="16 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            yield engine


# --- bounded


def test_updates_of_one_key_take_no_memory(engine: theus.Engine) -> None:
    def increment(ctx: Any) -> None:
        ctx.n += 1

    engine.write("n", 0)
    for _ in range(20_000):
        engine.run(increment)
    before = used(engine)
    for _ in range(180_000):
        engine.run(increment)
    assert engine.state["n"] == 200_000
    # If each left as little as one cell of 64 bytes, these would be 11 MiB.
    assert used(engine) <= before + MEBIBYTE


def test_updates_of_strings_lists_and_mappings_take_no_memory(engine: theus.Engine) -> None:
    def replace(n: int) -> None:
        engine.update(
            {
                "text": f"{n}" * 100,
                "tags": [n] * 50,
                "m": {f"k{n % 10}": {"x": n, "y": "z" * 50}},
            }
        )

    for n in range(1000):
        replace(n)
    before = used(engine)
    for n in range(20_000):
        replace(n)
    until(lambda: used(engine) <= before + 2 * MEBIBYTE, meanwhile=touch(engine))


def test_keys_that_come_and_go_take_no_memory(small: theus.Engine) -> None:
    """Ten times as many as fit at once; how far reclamation lags behind is its own business."""
    small.write("m", {})

    def come_and_go(start: int) -> None:
        with small.transaction() as ctx:
            for n in range(start, start + 100):
                ctx.m[n] = {"x": n}
        with small.transaction() as ctx:
            for n in range(start, start + 100):
                del ctx.m[n]

    for start in range(0, 800_000, 100):
        come_and_go(start)
    assert not small.state["m"]


def test_arrays_recycle(engine: theus.Engine) -> None:
    for n in range(500):  # of 1 MiB, with a capacity of 64
        engine.write("array", array(n % 256))
    assert (engine.state["array"] == 499 % 256).all()


# --- pins


def test_an_old_pin_keeps_what_it_sees_and_nothing_in_between(engine: theus.Engine) -> None:
    engine.update({"array": array(1), "n": 0})
    with engine.snapshot() as ctx:
        for n in range(300):
            engine.write("array", array(n % 256))
        assert (np.asarray(ctx.array) == 1).all()


_pinned: list[Any] = []


def pin(engine: theus.Engine) -> None:
    _pinned.append(engine.state)
    _pinned.append(engine.state["array"])


def test_a_dead_process_lets_go_of_its_pins(
    engine: theus.Engine, start_worker: Callable[[], Worker]
) -> None:
    engine.write("array", array(0, 10 * MEBIBYTE))
    for n in range(5):  # blocks for as many versions as may be needed at once
        engine.write("array", array(n, 10 * MEBIBYTE))
    until(lambda: used(engine) < 25 * MEBIBYTE, meanwhile=touch(engine))
    workers = []
    for n in range(3):
        engine.write("array", array(n, 10 * MEBIBYTE))
        worker = start_worker()
        worker.do(pin)
        workers.append(worker)
    engine.write("array", array(9, 10 * MEBIBYTE))
    assert used(engine) >= 40 * MEBIBYTE
    with pytest.raises(theus.CapacityError):
        for n in range(3):
            engine.write(f"more{n}", array(n, 10 * MEBIBYTE))
    for worker in workers:
        worker.kill()
    until(lambda: used(engine) < 40 * MEBIBYTE, meanwhile=touch(engine))


def test_dead_processes_in_the_midst_of_work_give_back_everything(
    engine: theus.Engine, start_worker: Callable[[], Worker]
) -> None:
    engine.write("array", array(0, 8 * MEBIBYTE))
    for _ in range(6):  # each dies with 8 MiB written and not committed
        worker = start_worker()
        worker.do(leave_open)
        worker.kill()
    until(lambda: used(engine) < 24 * MEBIBYTE, meanwhile=touch(engine))
    for n in range(20):
        engine.write("array", array(n, 8 * MEBIBYTE))
    assert (engine.state["array"] == 19).all()


def leave_open(engine: theus.Engine) -> None:
    guard = engine.transaction()
    _pinned.append(guard)
    ctx = guard.__enter__()
    ctx.array[:] = 1
    ctx.another = array(2, 4 * MEBIBYTE)


# --- full


def fill(engine: theus.Engine) -> int:
    """Writes arrays until there is no room; returns how many there are."""
    engine.write("arrays", {})
    for n in range(100):
        try:
            engine.write(("arrays", n), array(n))
        except theus.CapacityError:
            return n
    raise AssertionError("100 MiB fit into 16 MiB")


def test_full_memory_leaves_the_state_intact(small: theus.Engine) -> None:
    small.update({"n": 1, "m": {"k": "v"}})
    count = fill(small)
    assert count >= 8
    version = small.version
    for _ in range(20):
        with pytest.raises(theus.CapacityError):
            small.update({"n": 2, "big": array(0, 8 * MEBIBYTE)})
    assert small.version == version
    state = small.state
    assert state["n"] == 1
    assert "big" not in state
    assert theus.plain(state["m"]) == {"k": "v"}
    assert list(state["arrays"]) == list(range(count))
    for n in range(count):
        assert (state["arrays"][n] == n).all()


def test_full_memory_is_a_memory_error_that_says_what_to_do(small: theus.Engine) -> None:
    fill(small)
    with pytest.raises(MemoryError) as caught:
        small.write("big", array(0, 8 * MEBIBYTE))
    assert isinstance(caught.value, theus.CapacityError)
    assert "capacity" in str(caught.value)


def test_smaller_commits_still_work(small: theus.Engine) -> None:
    fill(small)
    for n in range(1000):
        small.write("n", n)
    small.update({"m": {"k": 1}, "text": "x" * 100})
    assert small.state["n"] == 999


def test_deletes_work_and_free(small: theus.Engine) -> None:
    count = fill(small)
    for n in range(count):
        with small.transaction() as ctx:
            del ctx.arrays[n]
    until(lambda: used(small) < 8 * MEBIBYTE, meanwhile=touch(small))
    assert fill(small) >= count - 1


def test_a_full_state_of_small_things_can_be_emptied(small: theus.Engine) -> None:
    """Not even a cell is left, and each delete needs to say what it deletes."""
    small.write("m", {})
    added = 0
    with pytest.raises(theus.CapacityError):
        while True:
            with small.transaction() as ctx:
                for n in range(added, added + 200):
                    ctx.m[n] = {"x": n}
            added += 200
    with pytest.raises(theus.CapacityError):
        while True:
            with small.transaction() as ctx:
                ctx.m[added] = 1
            added += 1
    assert len(small.state["m"]) == added
    for n in range(100):
        with small.transaction() as ctx:
            del ctx.m[n]
    with small.transaction() as ctx:
        ctx.m.clear()
    assert not small.state["m"]
    # The same again fits again, as often as one likes.
    for _ in range(3):
        with small.transaction() as ctx:
            ctx.m.clear()
        for start in range(0, added - 1000, 200):
            with small.transaction() as ctx:
                for n in range(start, start + 200):
                    ctx.m[n] = {"x": n}
        assert len(small.state["m"]) >= added - 1200


def fill_up(engine: theus.Engine, rows: int) -> None:
    """Numbers under "m", then arrays of all sizes, then numbers until not one more fits."""
    engine.write("m", {})
    for start in range(0, rows, 5000):
        with engine.transaction() as ctx:
            for n in range(start, min(start + 5000, rows)):
                ctx.m[n] = n
    engine.write("filling", {})
    size, count = 8 * MEBIBYTE, 0
    while size >= 1:
        try:
            engine.write(("filling", count), array(0, size) if size > 64 else 1)
            count += 1
        except theus.CapacityError:
            size //= 2


@pytest.fixture
def full() -> Iterator[theus.Engine]:
    with theus.Coordinator(capacity="128 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            fill_up(engine, 130_000)
            yield engine


def test_fifty_thousand_deletes_in_one_transaction(full: theus.Engine) -> None:
    with pytest.raises(theus.CapacityError, match="delete in smaller transactions"):
        with full.transaction() as ctx:
            for n in range(130_000):
                del ctx.m[n]
    assert len(full.state["m"]) == 130_000
    with full.transaction() as ctx:
        for n in range(50_000):
            del ctx.m[n]
    assert len(full.state["m"]) == 80_000


def clear(engine: theus.Engine) -> None:
    with engine.transaction() as ctx:
        ctx.m.clear()


def test_another_process_clears_a_full_state(full: theus.Engine, context: BaseContext) -> None:
    newcomer = Worker(context, full)
    newcomer.do(clear)
    newcomer.kill()
    assert not full.state["m"]
    until(lambda: full.stats()["keys"] < 1000, meanwhile=touch(full))


def test_arrays_leave_room_for_larger_ones() -> None:
    with theus.Coordinator(capacity="64 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            count = 0
            with pytest.raises(theus.CapacityError):
                while True:
                    small = dict.fromkeys(range(900), 0)
                    engine.update({f"a{count}": array(1), f"m{count}": small})
                    count += 1
            for n in range(count):
                with engine.transaction() as ctx:
                    del ctx[f"a{n}"]
            until(lambda: used(engine) < 30 * MEBIBYTE, meanwhile=touch(engine))
            engine.write("large", array(2, 21 * MEBIBYTE))
            assert (engine.state["large"] == 2).all()


def test_a_capacity_error_in_run_is_not_retried(small: theus.Engine) -> None:
    executions = 0

    def body(ctx: Any) -> None:
        nonlocal executions
        executions += 1
        ctx.big = array(0, 32 * MEBIBYTE)

    with pytest.raises(theus.CapacityError):
        small.run(body)
    assert executions == 1


def test_another_process_fills_it(engine: theus.Engine, other: Worker) -> None:
    other.do(write, "arrays", {})
    with pytest.raises(AssertionError, match="CapacityError"):
        for n in range(100):
            other.do(write, ("arrays", n), array(n, 4 * MEBIBYTE))
    state = engine.state
    for n in state["arrays"]:
        assert (state["arrays"][n] == n).all()
    del state  # which pins them
    with engine.transaction() as ctx:
        ctx.arrays.clear()
    until(lambda: used(engine) < 32 * MEBIBYTE, meanwhile=touch(engine))


# --- nothing waits for the garbage collector


class Model:
    def __init__(self) -> None:
        self.weights = np.ones(MEBIBYTE // 8)

    def get(self) -> np.ndarray:
        return self.weights

    def all(self) -> list[Any]:
        return [self.weights, {"w": self.weights}]

    def each(self) -> Iterator[Any]:
        yield self.weights


def loop(engine: theus.Engine, leave: bool) -> None:
    for attempt in engine.attempts(2):
        with attempt as ctx:
            ctx.w[0] = 1
        if leave:
            return


def failing(work: Callable[[], Any]) -> None:
    with pytest.raises((theus.TheusError, ZeroDivisionError)):
        work()


USES: dict[str, Callable[[theus.Engine], Any]] = {
    "a method": lambda e: e.state["model"].get(),
    "a container of parts": lambda e: e.state["model"].all(),
    "a generator": lambda e: next(iter(e.state["model"].each())),
    "an attribute": lambda e: e.state["model"].weights[0],
    "a frame": lambda e: e.state["frame"]["a"].sum(),
    "a row of a frame": lambda e: e.state["frame"].loc[3],
    "rows of a frame": lambda e: list(e.state["frame"].head(2).itertuples()),
    "a frame in a transaction": lambda e: e.run(lambda ctx: ctx.frame["a"].sum()),
    "a write to a frame": lambda e: e.run(lambda ctx: ctx.frame.loc.__setitem__((3, "a"), 4.0)),
    "a part of an array": lambda e: e.run(lambda ctx: ctx.w[3:5].sum()),
    "a write to a part": lambda e: e.run(lambda ctx: ctx.w.__setitem__(slice(3, 5), 7)),
    "a part of a list": lambda e: e.run(lambda ctx: ctx.rows[0].__setitem__(0, 7)),
    "a plain copy": lambda e: e.read("model"),
    "a deep copy": lambda e: copy.deepcopy(e.state["model"]),
    "a refused write": lambda e: failing(lambda: setattr(e.state["model"], "weights", 3)),
    "an error": lambda e: failing(lambda: e.run(lambda ctx: [ctx.w.fill(1), 1 / 0])),
    "attempts": lambda e: loop(e, leave=False),
    "attempts that are left": lambda e: loop(e, leave=True),
    "a difference": lambda e: e.state.diff(e.state),
    "all of it": lambda e: e.state.to_dict(),
    "a kept part of a state": lambda e: e.state["nested"]["model"].get(),
}


@pytest.mark.parametrize("name", USES)
def test_what_was_used_is_let_go_at_once(name: str, engine: theus.Engine) -> None:
    """No reference cycle keeps a pin until the collector comes by."""

    def replace() -> None:
        model = Model()
        frame = pd.DataFrame({"a": np.ones(MEBIBYTE // 8)})
        engine.update({"model": model, "frame": frame, "w": model.weights, "rows": [model.weights]})
        engine.write("nested", {"model": model})

    replace()
    USES[name](engine)
    gc.collect()
    gc.disable()
    try:
        USES[name](engine)
        engine.write("touched", 1)
        stats = engine.stats()
        assert stats["oldest_pin"] == stats["version"]
        for _ in range(40):  # 5 MiB each, of 64
            USES[name](engine)
            replace()
    finally:
        gc.enable()
