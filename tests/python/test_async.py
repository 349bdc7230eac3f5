"""The asyncio forms. The event loop goes on whatever the transactions wait for."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import pytest
import theus
from helpers import WAIT_S, Reporter, Worker, increment, run_forked, until, write
from test_retry import take


def go(main: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(main(), WAIT_S)

    return asyncio.run(bounded())


@pytest.fixture
def queue(engine: theus.Engine) -> theus.Engine:
    engine.update({"jobs": {}, "n": 0, "other": 0})
    return engine


def waits(engine: theus.Engine) -> int:
    """How many asyncio waits of this process are registered."""
    return sum(len(each._waits) for each in engine._waiting_threads.values())


async def until_waiting(engine: theus.Engine, count: int) -> None:
    while waits(engine) != count:
        await asyncio.sleep(0)  # tidy: allow-sleep lets the other tasks of the loop run


# ------------------------------------------------------------------------------ async with


def test_commits_and_rolls_back(queue: theus.Engine) -> None:
    async def main() -> None:
        async with queue.transaction(label="x") as ctx:
            ctx.n += 1
            await asyncio.sleep(0)  # tidy: allow-sleep another task may run in the middle
            ctx.jobs["a"] = [1]
            ctx.jobs.a.append(2)
        assert ctx.transaction.version == queue.version
        with pytest.raises(ZeroDivisionError):
            async with queue.transaction() as ctx:
                ctx.n += 1
                raise ZeroDivisionError
        async with queue.snapshot() as ctx:
            assert ctx.n == 1 and theus.plain(ctx.jobs) == {"a": [1, 2]}
            with pytest.raises(theus.ReadOnlyError):
                ctx.n = 2
        async with queue.transaction() as ctx:
            assert ctx.n == 1

    go(main)


def test_a_conflict_is_raised_at_the_with(queue: theus.Engine, other: Worker) -> None:
    async def main() -> None:
        with pytest.raises(theus.ConflictError, match="n was changed by pid"):
            async with queue.transaction() as ctx:
                ctx.n += 1
                other.do(write, "n", 7)

    go(main)
    assert queue.read("n") == 7


def test_the_commit_is_in_a_thread_and_callbacks_are_not(queue: theus.Engine) -> None:
    threads: list[int] = []

    class Noted:
        def __reduce__(self) -> Any:
            threads.append(threading.get_ident())
            return (int, ())

    async def main() -> None:
        async with queue.transaction() as ctx:
            ctx.jobs["a"] = [0]
            ctx.transaction.get_shadow("jobs.a")[0] = Noted()
            ctx.transaction.on_commit(lambda: threads.append(threading.get_ident()))

    go(main)
    here = threading.get_ident()
    assert threads[-1] == here, "on_commit"
    assert threads[:-1] and here not in threads[:-1], (
        "the leaf was encoded by the commit, elsewhere"
    )


def test_nesting(queue: theus.Engine) -> None:
    async def main() -> None:
        async with queue.transaction() as ctx:
            ctx.n += 1
            for nested in (
                queue.run_async(lambda ctx: None),
                queue.wait_async("n", timeout=0),
                anext_of(queue.watch("n")),
                enter(queue),
            ):
                with pytest.raises(theus.TheusError, match="inside of a transaction|already open"):
                    await nested
            # Another task is another place.
            assert await asyncio.create_task(queue.run_async(lambda ctx: ctx.other)) == 0

    async def enter(engine: theus.Engine) -> None:
        async with engine.transaction():
            pass

    async def anext_of(watch: Any) -> Any:
        return await watch.__anext__()

    go(main)
    assert queue.read("n") == 1


class Gate:
    """An object whose encoding, which the commit does, waits until it is opened."""

    opened = threading.Event()
    reached = threading.Event()

    def __reduce__(self) -> Any:
        Gate.reached.set()
        assert Gate.opened.wait(WAIT_S)
        return (int, ())


@pytest.fixture
def gate() -> Iterator[type[Gate]]:
    Gate.opened.clear()
    Gate.reached.clear()
    yield Gate
    Gate.opened.set()


async def gated_commit(queue: theus.Engine, called: list[str]) -> None:
    async with queue.transaction() as ctx:
        ctx.n += 1
        ctx.jobs["a"] = [0]
        ctx.transaction.get_shadow("jobs.a")[0] = Gate()
        ctx.transaction.on_commit(lambda: called.append("committed"))


async def reached(gate: type[Gate]) -> None:
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, gate.reached.wait, WAIT_S)


def test_the_loop_runs_during_a_commit(queue: theus.Engine, gate: type[Gate]) -> None:
    async def main() -> None:
        commit = asyncio.create_task(gated_commit(queue, []))
        await reached(gate)
        for _ in range(100):
            await asyncio.sleep(0)  # tidy: allow-sleep the loop turns a hundred times
        assert not commit.done()
        gate.opened.set()
        await commit

    go(main)
    assert queue.read("n") == 1


def test_a_cancelled_commit_is_waited_for(queue: theus.Engine, gate: type[Gate]) -> None:
    called: list[str] = []

    async def main() -> None:
        commit = asyncio.create_task(gated_commit(queue, called))
        await reached(gate)
        for _ in range(3):
            commit.cancel()
            await asyncio.sleep(0)  # tidy: allow-sleep the cancellation arrives
            assert not commit.done(), "given up in the middle of its commit"
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError):
            await commit

    go(main)
    assert queue.read("n") == 1 and called == ["committed"]


def test_a_cancelled_commit_that_conflicts(queue: theus.Engine, gate: type[Gate]) -> None:
    async def main() -> None:
        commit = asyncio.create_task(gated_commit(queue, []))
        await reached(gate)
        commit.cancel()
        await asyncio.to_thread(queue.write, "n", 9)
        gate.opened.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await commit
        assert caught.value.__cause__ is None or isinstance(
            caught.value.__cause__, theus.ConflictError
        )

    go(main)
    assert queue.read("n") == 9


def test_nobody_uses_a_context_that_commits(queue: theus.Engine, gate: type[Gate]) -> None:
    contexts: list[Any] = []

    async def main() -> None:
        async def commit() -> None:
            async with queue.transaction() as ctx:
                contexts.append(ctx)
                ctx.jobs["a"] = [0]
                ctx.transaction.get_shadow("jobs.a")[0] = Gate()

        task = asyncio.create_task(commit())
        await reached(gate)
        with pytest.raises(theus.TheusError, match="thread|being committed"):
            contexts[0].n = 5
        gate.opened.set()
        await task

    go(main)
    assert queue.read("n") == 0


def test_a_cancellation_in_the_body_rolls_back(queue: theus.Engine) -> None:
    async def main() -> None:
        async def body() -> None:
            async with queue.transaction() as ctx:
                ctx.n += 1
                await asyncio.Event().wait()

        task = asyncio.create_task(body())
        await asyncio.sleep(0)  # tidy: allow-sleep the task runs up to its wait
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    go(main)
    assert queue.read("n") == 0


def test_an_executor_that_is_shut_down(queue: theus.Engine) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, int)
        await asyncio.get_running_loop().shutdown_default_executor()
        with pytest.raises(RuntimeError):
            async with queue.transaction() as ctx:
                ctx.n += 1

    go(main)
    assert queue.read("n") == 0
    queue.run(lambda ctx: ctx.write("n", 1))  # nothing is open any more


# ------------------------------------------------------------------------------ run_async


def test_run_async(queue: theus.Engine) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    def body(ctx: theus.ProcessContext, amount: int, *, factor: int = 1) -> Any:
        ctx.n += amount * factor
        return [ctx.n, variable.get(), threading.get_ident()]

    async def main() -> None:
        variable.set("set")
        value, seen, thread = await queue.run_async(body, 5, factor=2, retries=3, timeout=1.0)
        assert (value, seen) == (10, "set") and thread != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await queue.run_async(lambda ctx: 1 / 0)
        with pytest.raises(TypeError, match="coroutine"):
            await queue.run_async(main)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await queue.run_async(lambda ctx: next(iter(())))
        with pytest.raises(ValueError, match="retries"):
            await queue.run_async(body, retries=-1)

    go(main)
    assert queue.read("n") == 10


def test_run_async_sleeps_without_a_thread(queue: theus.Engine) -> None:
    """A thousand consumers, with an executor of a few threads, which stays free."""
    count = 1000

    async def main() -> None:
        consumers = [asyncio.create_task(queue.run_async(take)) for _ in range(count)]
        await until_waiting(queue, count)
        assert await asyncio.to_thread(lambda: "free") == "free"
        assert sum("theus waits" in each.name for each in threading.enumerate()) == 1

        def fill(ctx: theus.ProcessContext, first: int) -> None:
            ctx.jobs.update({first + number: first + number for number in range(100)})

        for first in range(0, count, 100):
            await queue.run_async(fill, first)
        assert sorted(await asyncio.gather(*consumers)) == list(range(count))

    go(main)
    assert queue.read("jobs") == {}
    assert waits(queue) == 0


def test_run_async_timeout(queue: theus.Engine) -> None:
    async def main() -> None:
        with pytest.raises(theus.RetriesExhausted, match="in time") as caught:
            await queue.run_async(take, timeout=0.05)
        assert caught.value.attempts == 1

    go(main)
    assert waits(queue) == 0


def test_a_cancelled_run_async_does_not_commit(queue: theus.Engine) -> None:
    begun, end = threading.Event(), threading.Event()

    def body(ctx: theus.ProcessContext) -> None:
        ctx.n += 1
        begun.set()
        assert end.wait(WAIT_S)

    async def main() -> None:
        task = asyncio.create_task(queue.run_async(body))
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        task.cancel()
        await asyncio.sleep(0)  # tidy: allow-sleep the cancellation arrives
        assert not task.done(), "its thread has not ended"
        end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    go(main)
    assert queue.read("n") == 0


def test_a_cancelled_sleep_ends_at_once(queue: theus.Engine) -> None:
    async def main() -> None:
        task = asyncio.create_task(queue.run_async(take))
        await until_waiting(queue, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waits(queue) == 0
        await queue.run_async(lambda ctx: ctx.jobs.update(a=1))

    go(main)
    assert queue.read("jobs") == {"a": 1}


def test_a_cancelled_run_async_that_has_not_begun_never_does(queue: theus.Engine) -> None:
    free = threading.Event()
    executed: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        busy = [loop.run_in_executor(None, free.wait, WAIT_S) for _ in range(100)]
        task = asyncio.create_task(queue.run_async(lambda ctx: executed.append(1)))
        await asyncio.sleep(0)  # tidy: allow-sleep the task runs up to its wait
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        free.set()
        await asyncio.gather(*busy)

    go(main)
    assert not executed


# ------------------------------------------------------------------------------ waiting


def test_wait_async(queue: theus.Engine, other: Worker) -> None:
    async def main() -> None:
        assert await queue.wait_async("n", timeout=0) is None
        assert await queue.wait_async("n", timeout=0.02) is None
        assert await queue.wait_async("n", since=0) == queue.version
        task = asyncio.create_task(queue.wait_async("n", "jobs"))
        await until_waiting(queue, 1)
        other.do(increment, "other", 3)
        await asyncio.sleep(0)  # tidy: allow-sleep who was woken wrongly would run now
        assert not task.done()
        other.do(write, "n", 5)
        assert await task == queue.version
        with pytest.raises(ValueError, match="the newest is"):
            await queue.wait_async("n", since=queue.version + 1)

    go(main)
    assert waits(queue) == 0


@pytest.mark.parametrize("when", ["it sleeps", "it begins to"])
def test_one_that_comes_while_others_sleep_is_woken(
    when: str, queue: theus.Engine, other: Worker
) -> None:
    """The thread sleeps for what there was; it has to learn of the new one."""

    async def main() -> None:
        first = asyncio.create_task(queue.wait_async("other"))
        await until_waiting(queue, 1)
        for number in range(100):
            if when == "it sleeps":
                await asyncio.sleep(0.002)  # tidy: allow-sleep nothing tells when it does
            second = asyncio.create_task(queue.wait_async("n"))
            await until_waiting(queue, 2)
            await asyncio.to_thread(other.do, write, "n", number)
            before = time.monotonic()
            assert await second == queue.version
            # The thread looks once a second by itself; then this were the fate of most.
            assert time.monotonic() - before < 0.9
        assert not first.done()
        first.cancel()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        go(main)
    finally:
        sys.setswitchinterval(interval)


def test_async_watch(queue: theus.Engine, other: Worker) -> None:
    async def main() -> None:
        changes = queue.watch("n", "jobs", since=0)
        assert await changes.__anext__() == (queue.version, ("n", "jobs"))
        waiting = asyncio.create_task(changes.__anext__())
        await until_waiting(queue, 1)
        other.do(write, "jobs.a", 1)
        assert await waiting == (queue.version, ("jobs",))
        other.do(increment, "n", 500)
        seen = 0
        async for version, paths in changes:
            seen += 1
            assert paths == ("n",)
            if version == queue.version:
                break
        assert seen == 1, "put together"
        waiting = asyncio.create_task(changes.__anext__())
        await until_waiting(queue, 1)
        with pytest.raises(theus.TheusError, match="elsewhere"):
            await changes.__anext__()
        changes.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        async for _ in changes:
            pytest.fail("it is closed")

    go(main)


def test_async_watch_never_misses_the_last_change(queue: theus.Engine, other: Worker) -> None:
    other.start(increment, "n", 3000)

    async def main() -> None:
        async for _ in queue.watch("n", since=0):
            async with queue.snapshot() as ctx:
                if ctx.n == 3000:
                    break

    go(main)
    other.result()


def test_closing_the_engine_ends_every_wait(coordinator: theus.Coordinator) -> None:
    engine = theus.connect(coordinator.name)
    engine.update({"n": 0, "jobs": {}})

    async def main() -> None:
        changes = engine.watch("n")
        tasks = [
            asyncio.create_task(engine.wait_async("n")),
            asyncio.create_task(engine.run_async(take)),
            asyncio.create_task(changes.__anext__()),  # type: ignore[arg-type]
        ]
        await until_waiting(engine, 3)
        engine.close()
        for task in tasks:
            with pytest.raises(theus.TheusError, match="closed"):
                await task

    go(main)


def test_several_event_loops(queue: theus.Engine) -> None:
    results: list[Any] = []
    loops = [
        threading.Thread(target=lambda: results.append(go(lambda: queue.run_async(take))))
        for _ in range(3)
    ]
    for each in loops:
        each.start()
    until(lambda: waits(queue) == 3)
    queue.write("jobs", {number: number for number in range(3)})
    for each in loops:
        each.join(WAIT_S)
    assert sorted(results) == [0, 1, 2]


def test_a_loop_that_is_closed_with_its_waits(queue: theus.Engine) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(queue.wait_async("n"))
    loop.run_until_complete(until_waiting(queue, 1))
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    queue.write("n", 1)
    until(lambda: waits(queue) == 0)
    assert go(lambda: queue.wait_async("n", since=0)) == queue.version


def test_the_waiting_thread_ends(queue: theus.Engine) -> None:
    assert go(lambda: queue.wait_async("n", timeout=0.01)) is None
    until(lambda: not any("theus waits" in each.name for each in threading.enumerate()))
    assert not queue._waiters
    assert go(lambda: queue.wait_async("n", timeout=0.01)) is None


def test_a_forked_child_has_a_thread_of_its_own(queue: theus.Engine) -> None:
    results: list[Any] = []
    waiting = threading.Thread(target=lambda: results.append(go(lambda: queue.wait_async("n"))))
    waiting.start()
    until(lambda: waits(queue) == 1)

    def body() -> int:
        assert go(lambda: queue.wait_async("n", timeout=0.01)) is None
        threading.Timer(0.05, queue.write, ("n", 4)).start()
        assert go(lambda: queue.wait_async("n")) == queue.version
        queue.close()
        return 7

    assert run_forked(body) == 7
    waiting.join(WAIT_S)
    assert results == [queue.version]


# ------------------------------------------------------------------------------ the event loop


def commit_for_ever(pipe: Connection, engine: theus.Engine) -> None:
    increment(engine, "other", 1)
    pipe.send_bytes(b"ready")
    while True:
        increment(engine, "other", 1000)


@contextlib.contextmanager
def lock_held(
    coordinator: theus.Coordinator, engine: theus.Engine, context: BaseContext
) -> Iterator[Callable[[], None]]:
    """A process is stopped while it has the arbitration lock, and nobody is there to fence it. The
    lock is free again after the function that is given has been called."""
    keepers = [coordinator.parent_pid, coordinator.pid]
    reporter = Reporter(context, commit_for_ever, engine)
    assert reporter.receive() == b"ready"
    pid = reporter.process.pid
    assert pid is not None
    try:
        for keeper in keepers:
            os.kill(keeper, signal.SIGSTOP)
        held = False
        while not held:
            os.kill(pid, signal.SIGCONT)
            low = engine.read("other")
            until(lambda: engine.read("other") > low)
            os.kill(pid, signal.SIGSTOP)
            until(lambda: stopped(pid))
            probe = threading.Thread(target=engine.write, args=("n", -1))
            probe.start()
            probe.join(0.2)
            held = probe.is_alive()
        yield lambda: os.kill(pid, signal.SIGCONT)
        probe.join(WAIT_S)
    finally:
        for each in (pid, *keepers):
            os.kill(each, signal.SIGCONT)
        reporter.kill()
        reporter.join()


def stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("context", ["fork"], indirect=True)
def test_the_loop_never_waits_for_the_lock(
    coordinator: theus.Coordinator, queue: theus.Engine, context: BaseContext
) -> None:
    """While a stopped process has the lock, a second long, commits are under way and the loop turns
    on; none of them can end before the lock is given back."""

    async def commit() -> None:
        async with queue.transaction() as ctx:
            ctx.jobs["committed"] = 1

    async def main(release: Callable[[], None]) -> None:
        try:
            tasks = [asyncio.create_task(commit())]
            tasks += [asyncio.create_task(queue.run_async(lambda ctx: ctx.jobs.update(run=1)))]
            ticks, end = 0, time.monotonic() + 1.0
            while time.monotonic() < end:
                await asyncio.sleep(0.001)  # tidy: allow-sleep the ticks that are counted
                ticks += 1
            assert not any(task.done() for task in tasks)
        finally:
            release()
        await asyncio.gather(*tasks)
        assert ticks > 100, "the loop stood still"

    with lock_held(coordinator, queue, context) as release:
        go(lambda: main(release))
    assert set(queue.read("jobs")) == {"committed", "run"}
