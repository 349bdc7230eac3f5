"""Promises 2 and 11: SIGKILL at any instruction tears no commit, loses none, doubles none.

A worker tells of each commit as soon as it is acknowledged. It is killed as soon as a random number
of these messages has been read; it runs on meanwhile, so that the signal meets it anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import pytest
import theus
from helpers import Reporter

ACCOUNTS = 12
MONEY = 100 * ACCOUNTS
WORKERS = 3


def transfer(ctx: Any, who: str) -> None:
    source, target = random.sample(range(ACCOUNTS), 2)
    amount = random.randint(1, 50)
    ctx.accounts[source] -= amount
    ctx.accounts[target] += amount
    # The same number in many places and kinds: a torn commit shows.
    n = ctx.workers[who].n + 1
    ctx.workers[who].n = n
    ctx.workers[who].log.append(n)
    ctx.workers[who].array[:] = n
    ctx.workers[who][("row", n)] = {"n": n}
    if n > 5:
        del ctx.workers[who]["row", n - 5]


def work(pipe: Connection, engine: theus.Engine, who: str) -> None:
    for _ in range(100_000):
        engine.run(transfer, who, retries=1000)
        pipe.send_bytes(b"acknowledged")


def check(state: theus.State, who: str, acknowledged: int, alive: bool = False) -> None:
    assert sum(state["accounts"].values()) == MONEY
    worker = theus.plain(state["workers"])[who]
    n = worker["n"]
    assert acknowledged <= n
    if not alive:
        assert n <= acknowledged + 1, "a commit that nobody made"
    assert worker["log"] == list(range(1, n + 1))
    assert worker["array"].tolist() == [n] * len(worker["array"])
    rows = {key: row for key, row in worker.items() if isinstance(key, tuple)}
    assert rows == {("row", k): {"n": k} for k in range(max(1, n - 4), n + 1)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kills", [{"fork": 60, "spawn": 6, "forkserver": 12}])
def test_killed_workers(kills: dict[str, int], context: BaseContext, engine: theus.Engine) -> None:
    fresh = {"n": 0, "log": [], "array": np.zeros(1000, dtype=np.int64)}
    engine.update({"accounts": {n: 100 for n in range(ACCOUNTS)}, "workers": {}})
    names = (f"worker{n}" for n in range(1000))

    def start() -> tuple[str, Reporter]:
        who = next(names)
        engine.write(("workers", who), fresh)
        return who, Reporter(context, work, engine, who)

    crew = [start() for _ in range(WORKERS)]
    try:
        for _ in range(kills[context.get_start_method()]):
            who, reporter = crew.pop(random.randrange(WORKERS))
            acknowledged = 0
            for _ in range(random.randint(1, 30)):
                assert reporter.receive() is not None
                acknowledged += 1
            reporter.kill()
            acknowledged += len(reporter.drain())
            assert reporter.join() == -9
            check(engine.state, who, acknowledged)
            crew.append(start())
        # Those that live have not been disturbed.
        for who, reporter in crew:
            assert reporter.receive() is not None
            check(engine.state, who, 1, alive=True)
    finally:
        for _, reporter in crew:
            reporter.kill()
            reporter.drain()
            reporter.join()


def test_the_check_sees_a_torn_commit(engine: theus.Engine) -> None:
    """A checker that has never failed proves nothing."""
    engine.update(
        {
            "accounts": {n: 100 for n in range(ACCOUNTS)},
            "workers": {"w": {"n": 0, "log": [], "array": np.zeros(1000, dtype=np.int64)}},
        }
    )
    for _ in range(10):
        engine.run(transfer, "w")
    check(engine.state, "w", 10)
    check(engine.state, "w", 9)

    def refused(change: Callable[[Any], object], acknowledged: int = 10) -> bool:
        with engine.transaction() as ctx:
            change(ctx)
        torn = engine.state
        with pytest.raises(AssertionError):
            check(torn, "w", acknowledged)
        return True

    state = engine.state
    for change in (
        lambda ctx: ctx.accounts.update({0: ctx.accounts[0] + 1}),
        lambda ctx: ctx.workers.w.update({"n": 11}),
        lambda ctx: ctx.workers.w.log.pop(),
        lambda ctx: ctx.workers.w.array.__setitem__(999, 0),
        lambda ctx: ctx.workers.w.pop(("row", 8)),
    ):
        assert refused(change)
        engine.update({name: theus.plain(state[name]) for name in ("accounts", "workers")})
        check(engine.state, "w", 10)
    assert refused(lambda ctx: None, acknowledged=11)  # a lost commit
    assert refused(lambda ctx: None, acknowledged=8)  # one that came twice
