"""Promise 14: N increments by any number of processes give N."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import theus
from helpers import WAIT_S, Worker

PROCESSES = 4
TIMES = 500


def add_one(ctx: Any) -> None:
    ctx.n += 1
    ctx.each[ctx.n % 7] += 1
    ctx.array[ctx.n % 5] += 1


def by_run(engine: theus.Engine) -> None:
    for _ in range(TIMES):
        engine.run(add_one)


def by_attempts(engine: theus.Engine) -> None:
    for _ in range(TIMES):
        for attempt in engine.attempts(1000):
            with attempt as ctx:
                add_one(ctx)
        assert attempt.committed


def by_process(engine: theus.Engine) -> None:
    decorated = engine.process(semantic="effect")(add_one)
    for _ in range(TIMES):
        decorated()


def by_hand(engine: theus.Engine) -> None:
    done = 0
    while done < TIMES:
        try:
            with engine.transaction() as ctx:
                add_one(ctx)
            done += 1
        except theus.ConflictError:
            continue


def by_threads(engine: theus.Engine) -> None:
    def some() -> None:
        for _ in range(TIMES // 5):
            engine.run(add_one, retries=1000)

    threads = [threading.Thread(target=some) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)


def commutatively(engine: theus.Engine) -> None:
    for _ in range(TIMES):
        engine.run(lambda ctx: ctx.add("n", 1))


@pytest.mark.parametrize("how", [by_run, by_attempts, by_process, by_hand, by_threads])
def test_increments(
    how: Callable[[theus.Engine], None], engine: theus.Engine, start_worker: Callable[[], Worker]
) -> None:
    engine.update({"n": 0, "each": {n: 0 for n in range(7)}, "array": np.zeros(5, dtype=np.int64)})
    workers = [start_worker() for _ in range(PROCESSES)]
    for worker in workers:
        worker.start(how)
    for worker in workers:
        worker.result()
    state = engine.state
    assert state["n"] == PROCESSES * TIMES
    assert sum(state["each"].values()) == PROCESSES * TIMES
    assert state["array"].sum() == PROCESSES * TIMES


def test_commutative_increments(engine: theus.Engine, start_worker: Callable[[], Worker]) -> None:
    engine.update({"n": 0})
    workers = [start_worker() for _ in range(PROCESSES)]
    for worker in workers:
        worker.start(commutatively)
    for worker in workers:
        worker.result()
    assert engine.state["n"] == PROCESSES * TIMES


def take_a_job(ctx: Any) -> int | None:
    for job in ctx.queue:
        ctx.queue.pop(job)
        return job
    return None


def take_jobs(engine: theus.Engine) -> list[int]:
    jobs = []
    while (job := engine.run(take_a_job, retries=1000)) is not None:
        jobs.append(job)
    return jobs


def test_each_job_goes_to_one_process(
    engine: theus.Engine, start_worker: Callable[[], Worker]
) -> None:
    engine.update({"queue": {n: True for n in range(600)}})
    workers = [start_worker() for _ in range(3)]
    for worker in workers:
        worker.start(take_jobs)
    taken = [job for worker in workers for job in worker.result()]
    assert sorted(taken) == list(range(600))
    assert not engine.state["queue"]


def insert_own(engine: theus.Engine, who: str) -> None:
    for n in range(TIMES):
        engine.run(lambda ctx: ctx.rows.update({(who, n): {"n": n}}))


def test_inserts_into_one_mapping(engine: theus.Engine, start_worker: Callable[[], Worker]) -> None:
    engine.update({"rows": {}})
    workers = {who: start_worker() for who in ("ann", "bob", "cid")}
    for who, worker in workers.items():
        worker.start(insert_own, who)
    for worker in workers.values():
        worker.result()
    expected = {(who, n): {"n": n} for who in workers for n in range(TIMES)}
    rows = theus.plain(engine.state["rows"])
    assert rows == expected
    # In insertion order, so each process's own are in theirs.
    for who in workers:
        assert [n for name, n in rows if name == who] == list(range(TIMES))
