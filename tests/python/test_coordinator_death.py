"""Promise 11, the coordinator's part: nobody who is attached needs it to commit."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext

import pytest
import theus
from helpers import Reporter, Worker, increment, read, until, wait_gone, write


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)


def restarted(coordinator: theus.Coordinator, killed: int) -> int:
    """Waits until there is another one; returns its pid."""
    until(lambda: coordinator.pid != killed)
    return coordinator.pid


def test_two_processes(coordinator: theus.Coordinator) -> None:
    assert len({coordinator.pid, coordinator.parent_pid, os.getpid()}) == 3
    os.kill(coordinator.pid, 0)
    os.kill(coordinator.parent_pid, 0)


def test_commits_go_on_and_new_workers_come_in(
    coordinator: theus.Coordinator, engine: theus.Engine, start_worker: Callable[[], Worker]
) -> None:
    engine.update({"n": 0, "m": {"k": "v"}})
    old_worker = start_worker()
    assert old_worker.do(read, "n") == 0
    pids = [coordinator.pid]
    parent = coordinator.parent_pid
    for round_number in range(1, 4):
        kill(coordinator.pid)
        # At once, whether there is a coordinator yet or not.
        engine.run(lambda ctx: ctx.write("n", ctx.n + 1))
        old_worker.do(increment, "n", 1)
        new_worker = start_worker()  # waits for the next coordinator
        new_worker.do(increment, "n", 1)
        assert engine.state["n"] == 3 * round_number
        assert new_worker.do(read, "m") == {"k": "v"}
        pids.append(restarted(coordinator, pids[-1]))
        assert coordinator.parent_pid == parent
    assert len(set(pids)) == 4
    assert old_worker.do(read, "n") == 9


def count(pipe: Connection, engine: theus.Engine, path: str, times: int) -> None:
    for _ in range(times):
        increment(engine, path, 1)
        pipe.send_bytes(b"acknowledged")


def test_killed_while_workers_commit(
    coordinator: theus.Coordinator, engine: theus.Engine, context: BaseContext
) -> None:
    engine.update({"n": 0})
    times, reporters = 3000, []
    try:
        for _ in range(2):
            reporters.append(Reporter(context, count, engine, "n", times))
        acknowledged = 0
        for _ in range(6):
            for _ in range(50):
                for reporter in reporters:
                    acknowledged += reporter.receive() is not None
            pid = coordinator.pid
            kill(pid)
            restarted(coordinator, pid)
        for reporter in reporters:
            acknowledged += len(reporter.drain())
            assert reporter.join() == 0
    finally:
        for reporter in reporters:
            reporter.kill()
    assert acknowledged == engine.state["n"] == 2 * times


def test_the_memory_of_the_dead_comes_back_after_a_restart(
    coordinator: theus.Coordinator, engine: theus.Engine, start_worker: Callable[[], Worker]
) -> None:
    """A worker that dies while there is no coordinator is found by the next one."""
    worker = start_worker()
    worker.do(write, "n", 1)
    workers = engine.stats()["workers"]
    assert workers == 2
    pid = coordinator.pid
    os.kill(pid, signal.SIGSTOP)  # so that it sees nothing before its end
    worker.process.kill()
    worker.process.join()
    os.kill(pid, signal.SIGKILL)
    restarted(coordinator, pid)
    until(lambda: engine.stats()["workers"] == workers - 1)


def test_the_supervisor_alone_may_die(
    coordinator: theus.Coordinator, engine: theus.Engine, start_worker: Callable[[], Worker]
) -> None:
    engine.update({"n": 0})
    worker = start_worker()
    worker.do(increment, "n", 10)
    kill(coordinator.parent_pid)
    increment(engine, "n", 10)
    worker.do(increment, "n", 10)
    start_worker().do(increment, "n", 10)
    assert engine.state["n"] == 40


@pytest.mark.parametrize("first", ["supervisor", "coordinator"])
def test_both_may_die(
    first: str, coordinator: theus.Coordinator, engine: theus.Engine, other: Worker
) -> None:
    """Nobody comes in any more, but those who are in go on."""
    engine.update({"n": 0})
    other.do(increment, "n", 1)  # a worker attaches at its first use of the engine
    pids = [coordinator.parent_pid, coordinator.pid]
    if first == "supervisor":
        kill(pids[0])
        kill(pids[1])
    else:
        os.kill(pids[0], signal.SIGSTOP)  # it would start another one
        kill(pids[1])
        kill(pids[0])
    other.do(increment, "n", 100)
    increment(engine, "n", 100)
    other.do(write, "m", {"k": list(range(1000))})
    assert engine.state["n"] == 201
    assert theus.plain(engine.state["m"]) == {"k": list(range(1000))}
    with pytest.raises(theus.TheusError):
        theus.connect(coordinator.name)


def test_a_stopped_holder_is_fenced(
    coordinator: theus.Coordinator, engine: theus.Engine, context: BaseContext
) -> None:
    """Workers that are stopped in mid-commit, wherever that is, do not stop the others."""
    engine.update({"n": 0, "mine": 0})
    rounds = 20 if context.get_start_method() == "fork" else 2  # the others start slowly
    for _ in range(rounds):
        reporter = Reporter(context, count, engine, "n", 100_000)
        try:
            assert reporter.receive() is not None
            os.kill(reporter.process.pid, signal.SIGSTOP)
            increment(engine, "mine", 20)
        finally:
            reporter.kill()
            reporter.drain()
            assert reporter.join() == -signal.SIGKILL
    assert engine.state["mine"] == 20 * rounds


def test_closing_ends_both_processes() -> None:
    with theus.Coordinator() as coordinator:
        pids = [coordinator.pid, coordinator.parent_pid]
    for pid in pids:
        wait_gone(pid)
    with pytest.raises(theus.CoordinatorNotFound):
        theus.connect(coordinator.name)
