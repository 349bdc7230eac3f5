"""Large values are mapped, also where they can be written to: what is not written is not copied."""

from __future__ import annotations

import array
import multiprocessing
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import theus
from helpers import Worker

MEBIBYTE = 1 << 20
SIZE = 32 * MEBIBYTE


class Model:
    def __init__(self) -> None:
        self.weights = np.ones(SIZE // 8)

    def total(self) -> float:
        return float(self.weights.sum())

    def train(self) -> None:
        self.weights[0] += 1


def frame() -> pd.DataFrame:
    return pd.DataFrame({"a": np.ones(SIZE // 16), "b": np.ones(SIZE // 16)})


STATE: dict[str, Callable[[], Any]] = {
    "array": lambda: np.ones(SIZE // 8),
    "arrays": lambda: [np.ones(SIZE // 16), np.ones(SIZE // 16)],
    "frame": frame,
    "dates": lambda: pd.Series(np.zeros(SIZE // 8, dtype="M8[ns]")),
    "object": Model,
}


@pytest.fixture(scope="module")
def filled() -> Iterator[theus.Engine]:
    with theus.Coordinator(capacity="1 GiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            engine.update({name: make() for name, make in STATE.items()})
            yield engine


@pytest.fixture
def large(filled: theus.Engine) -> theus.Engine:
    for name, read in READS.items():  # imports, caches
        read(filled, name.split()[0])
    return filled


def private_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


def in_transaction(look: Callable[[Any], Any]) -> Callable[[theus.Engine, str], Any]:
    def read(engine: theus.Engine, name: str) -> Any:
        with engine.transaction() as ctx:
            return look(ctx[name]), private_bytes()

    return read


def one_shot(look: Callable[[Any], Any]) -> Callable[[theus.Engine, str], Any]:
    def read(engine: theus.Engine, name: str) -> Any:
        value = engine.read(name)
        return look(value), private_bytes()

    return read


READS: dict[str, Callable[[theus.Engine, str], Any]] = {
    "array in a transaction": in_transaction(lambda x: x[3]),
    "array summed in a transaction": in_transaction(lambda x: x[:].sum()),
    "arrays in a transaction": in_transaction(lambda x: x[1][3]),
    "frame in a transaction": in_transaction(lambda x: x["a"].iloc[3]),
    "frame summed in a transaction": in_transaction(lambda x: x["a"].sum()),
    "dates in a transaction": in_transaction(lambda x: x.iloc[3]),
    "object in a transaction": in_transaction(lambda x: x.total()),
    "array read": one_shot(lambda x: x[3]),
    "arrays read": one_shot(lambda x: x[1][3]),
    "frame read": one_shot(lambda x: x["a"].sum()),
    "dates read": one_shot(lambda x: x.iloc[3]),
    "object read": one_shot(lambda x: x.total()),
}


@pytest.mark.parametrize("name", READS)
def test_reading_copies_nothing(name: str, large: theus.Engine) -> None:
    before = private_bytes()
    _, during = READS[name](large, name.split()[0])
    assert during - before < SIZE / 8
    assert large.version == 1, "and nothing is taken for changed"


WRITES: dict[str, Callable[[Any], Any]] = {
    "array": lambda x: x.__setitem__(7, 5.0),
    "array part": lambda x: x[7:9].fill(5.0),
    "arrays": lambda x: x[0].__setitem__(7, 5.0),
    "frame": lambda x: x.loc.__setitem__((7, "b"), 5.0),
    "dates": lambda x: x.iloc.__setitem__(7, pd.Timestamp("2020-01-01")),
    "object": lambda x: x.train(),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_copies_what_it_changes_and_commits(
    name: str, large: theus.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = name.split()[0]
    expected = STATE[kind]()
    WRITES["array" if name == "array part" else name](expected)
    if name == "array part":
        expected[8] = 5.0
    with large.transaction() as ctx:
        before = private_bytes()
        WRITES[name](ctx[kind])
        assert private_bytes() - before < SIZE / 4
    with large.snapshot() as ctx:
        seen = theus.plain(ctx[kind])
    assert describe(seen) == describe(expected)
    large.write(kind, STATE[kind]())


def describe(value: Any) -> Any:
    if isinstance(value, Model):
        return describe(value.weights)
    if isinstance(value, list):
        return [describe(item) for item in value]
    return value.to_csv() if hasattr(value, "to_csv") and len(value) < 10 else bytes_of(value)


def bytes_of(value: Any) -> bytes:
    return np.ascontiguousarray(np.asarray(value)).tobytes()


def test_a_write_that_is_taken_back_is_none(large: theus.Engine) -> None:
    with large.transaction() as ctx:
        ctx.frame.loc[7, "b"] = 5.0
        ctx.object.train()
        ctx.frame.loc[7, "b"] = 1.0
        ctx.object.weights[0] -= 1
        assert ctx.transaction.pending_data.keys() == {"frame", "object"}
    with large.transaction() as ctx:
        ctx.frame.loc[7, "b"] = 5.0
        ctx.frame.loc[7, "b"] = 1.0
    assert ctx.transaction.version == ctx.transaction.snapshot_version, "compared, and equal"


def test_rolling_back_changes_nothing(large: theus.Engine) -> None:
    version = large.version
    for name in WRITES:
        with pytest.raises(ZeroDivisionError), large.transaction() as ctx:
            WRITES[name](ctx[name.split()[0]])
            raise ZeroDivisionError
    assert large.version == version
    for name, make in STATE.items():
        assert describe(large.read(name)) == describe(make()), name


@pytest.mark.parametrize("name", ["arrays", "frame", "dates", "object"])
def test_what_is_read_belongs_to_the_reader(name: str, large: theus.Engine) -> None:
    mine = large.read(name)
    WRITES[name](mine)
    assert describe(mine) != describe(STATE[name]())
    assert describe(large.read(name)) == describe(STATE[name]())
    shadow = None
    with large.transaction() as ctx:
        shadow = ctx.transaction.get_shadow(name)
        ctx.transaction.rollback()
    WRITES[name](shadow)
    assert describe(large.read(name)) == describe(STATE[name]())


def test_what_is_read_stays(coordinator: theus.Coordinator, other: Worker) -> None:
    """Whatever others write, and when the engine and the coordinator are gone."""
    engine = theus.connect(coordinator.name)
    engine.write("frame", pd.DataFrame({"a": np.arange(MEBIBYTE // 8)}))
    mine, untouched = engine.read("frame"), engine.read("frame")
    mine.loc[3, "a"] = 0
    for _ in range(20):
        other.do(replace_frame)
    engine.close()
    coordinator.close()
    assert (untouched["a"] == np.arange(MEBIBYTE // 8)).all()
    mine.loc[3, "a"] = 3
    assert mine.equals(untouched)


def replace_frame(engine: theus.Engine) -> None:
    engine.write("frame", pd.DataFrame({"a": np.zeros(MEBIBYTE // 8)}))


def test_a_forked_child_keeps_what_was_read(large: theus.Engine) -> None:
    mine = large.read("frame")
    mine.loc[0, "a"] = 2.0
    queue = multiprocessing.get_context("fork").SimpleQueue()

    def child() -> None:
        mine.loc[1, "a"] = 3.0
        queue.put(float(mine["a"].sum()))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    rows = SIZE // 16
    assert queue.get() == rows + 3.0
    process.join()
    assert mine["a"].sum() == rows + 1.0


def test_more_than_there_are_pins_for(coordinator: theus.Coordinator) -> None:
    """What is more is copied: only arrays, which cannot be, run out of pins."""
    with theus.connect(coordinator.name) as engine:
        engine.write("rows", [np.arange(10_000)])
        held = [engine.read("rows") for _ in range(5_000)]
        assert all(int(rows[0][9_999]) == 9_999 for rows in held)
        engine.write("array", np.arange(10_000))
        assert int(engine.read("array")[5]) == 5


def test_array_of_the_array_module(coordinator: theus.Coordinator, other: Worker) -> None:
    with theus.connect(coordinator.name) as engine:
        for typecode in "bBhHiIlLqQfd":
            engine.write("a", array.array(typecode, range(100)))
            with engine.transaction() as ctx:
                ctx.a[3] = 7
                ctx.a.append(9)
            read = engine.read("a")
            assert type(read) is array.array and read.typecode == typecode
            assert read.tolist() == [0, 1, 2, 7, *range(4, 100), 9]
        assert other.do(last_of_a) == 9.0


def last_of_a(engine: theus.Engine) -> Any:
    return engine.state["a"][-1]


def test_other_threads_run_while_it_is_copied(filled: theus.Engine) -> None:
    big = np.ones(8 * SIZE // 8)
    filled.write("big", big)
    woken_at: list[float] = []
    go = threading.Event()

    def wait() -> None:
        go.wait()
        woken_at.append(time.perf_counter())

    interval = sys.getswitchinterval()
    waiter = threading.Thread(target=wait)
    waiter.start()
    try:
        sys.setswitchinterval(60)  # nobody gets the GIL who is not given it
        go.set()
        filled.write("big", big)
        end = time.perf_counter()
    finally:
        sys.setswitchinterval(interval)
    waiter.join()
    filled.write("big", None)
    assert woken_at[0] < end
