"""The turn: a transaction among others that are faster, in its own process, too, commits before its
retries are exhausted."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import theus
from helpers import WAIT_S, Worker, until
from test_waiting import InThread

LONG_S = 0.02
MANY = 10**6


def count(ctx: theus.ProcessContext) -> None:
    ctx.a += 1


@pytest.fixture
def counter(engine: theus.Engine) -> theus.Engine:
    engine.update({"a": 0, "b": 0, "m": {}})
    return engine


@contextmanager
def again_and_again(body: Callable[[], Any], pause_s: float) -> Iterator[None]:
    """Another thread calls `body`."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(pause_s):
            body()

    thread = InThread(repeat)
    try:
        yield
    finally:
        stop.set()
        thread.result()


def read_first(ctx: theus.ProcessContext) -> None:
    value = ctx.a
    time.sleep(LONG_S)  # tidy: allow-sleep what takes long
    ctx.a = value + 1


def read_last(ctx: theus.ProcessContext) -> None:
    time.sleep(LONG_S)  # tidy: allow-sleep what takes long
    ctx.a += 1


def insert_last(ctx: theus.ProcessContext) -> None:
    size = len(ctx.m)
    time.sleep(LONG_S)  # tidy: allow-sleep what takes long
    ctx.m[f"long {size}"] = 1


def something_else_each_time(ctx: theus.ProcessContext) -> None:
    time.sleep(LONG_S)  # tidy: allow-sleep what takes long
    name = random.choice("abcdefgh")
    ctx.m[name] = ctx.m.get(name, 0) + 1


def insert(ctx: theus.ProcessContext) -> None:
    ctx.m[len(ctx.m)] = 1


def change_all(ctx: theus.ProcessContext) -> None:
    for name in "abcdefgh":
        ctx.m[name] = ctx.m.get(name, 0) + 1


def by_run(engine: theus.Engine, body: Callable[..., Any]) -> None:
    engine.run(body)


def by_attempts(engine: theus.Engine, body: Callable[..., Any]) -> None:
    for attempt in engine.attempts():
        with attempt as ctx:
            body(ctx)
    assert attempt.committed


RUNNERS = (by_run, by_attempts)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    ("body", "rival"),
    [
        (read_first, count),
        (read_last, count),
        (insert_last, insert),
        (something_else_each_time, change_all),
    ],
)
def test_a_long_one_among_short_ones_of_another_thread(
    runner: Any, body: Any, rival: Any, counter: theus.Engine
) -> None:
    with again_and_again(lambda: counter.run(rival, retries=MANY), 0.002):
        runner(counter, body)


def tightly(engine: theus.Engine) -> None:
    """Counts, without a pause, until told to stop."""
    while engine.run(lambda ctx: (count(ctx), ctx.b)[1], retries=MANY) >= 0:
        pass


@pytest.mark.parametrize("runner", RUNNERS)
def test_another_thread_that_does_not_disturb_leaves_it_its_turn(
    runner: Any, counter: theus.Engine, other: Worker
) -> None:
    other.start(tightly)
    try:
        with again_and_again(lambda: counter.add("m.c", 1), 0.002):
            counter.write("m.c", 0)
            runner(counter, read_first)
    finally:
        counter.write("b", -1)
        other.result()


@pytest.mark.parametrize("threads", [2, 8])
@pytest.mark.parametrize("runner", RUNNERS)
def test_threads_with_bodies_of_one_length(
    runner: Any, threads: int, counter: theus.Engine
) -> None:
    rounds = 15

    def work(seed: int) -> None:
        lengths = random.Random(seed)

        def body(ctx: theus.ProcessContext) -> None:
            value = ctx.a
            time.sleep(lengths.uniform(0.001, 0.005))  # tidy: allow-sleep what takes long
            ctx.a = value + 1

        for _ in range(rounds):
            runner(counter, body)

    workers = [InThread(work, seed) for seed in range(threads)]
    for each in workers:
        each.result()
    assert counter.read("a") == threads * rounds


def test_a_body_whose_own_thread_commits_something_else(counter: theus.Engine) -> None:
    """It waits for that thread, which therefore must not wait for its turn."""
    executions = []

    def body(ctx: theus.ProcessContext) -> None:
        executions.append(time.monotonic())
        value = ctx.a
        InThread(counter.add, "b", 1).result()
        time.sleep(LONG_S)  # tidy: allow-sleep what takes long
        ctx.a = value + 1

    with again_and_again(lambda: counter.run(count, retries=MANY), 0.002):
        counter.run(body)
    assert counter.read("b") == len(executions) == 4  # with the first turn


def test_a_body_that_waits_for_its_rival_is_held_up_for_its_turn_only(
    counter: theus.Engine,
) -> None:
    start = time.monotonic()
    with pytest.raises(theus.RetriesExhausted):
        counter.run(lambda ctx: (count(ctx), InThread(counter.run, count).result()), retries=6)
    assert time.monotonic() - start < 10  # four turns that run out


def test_closing_the_engine_ends_the_waits_for_a_turn(coordinator: theus.Coordinator) -> None:
    engine = theus.connect(coordinator.name)
    engine.update({"a": 0, "b": 0})
    in_turn, proceed, losing = threading.Event(), threading.Event(), threading.Event()

    def lose_thrice(ctx: theus.ProcessContext, key: str, executions: list[int]) -> None:
        executions.append(ctx[key])
        if len(executions) <= 3:
            InThread(engine.add, key, 1).result()
        ctx[key] += 1

    def body(ctx: theus.ProcessContext, executions: list[int]) -> None:
        lose_thrice(ctx, "a", executions)
        if len(executions) == 3:
            # tidy: allow-sleep a body that takes so long gets a turn of more than a second
            time.sleep(0.4)
        if len(executions) > 3:
            in_turn.set()
            assert proceed.wait(WAIT_S)

    def wants_the_next(ctx: theus.ProcessContext, executions: list[int]) -> None:
        lose_thrice(ctx, "b", executions)
        if len(executions) == 3:
            losing.set()

    holder = InThread(engine.run, body, [])
    assert in_turn.wait(WAIT_S)
    waiting = InThread(engine.run, wants_the_next, [])
    assert losing.wait(WAIT_S)

    def closed() -> bool:
        try:
            engine.close()
        except theus.TheusError:  # it is committing
            return False
        return True

    until(closed)
    with pytest.raises(theus.TheusError, match="closed"):
        waiting.result()
    proceed.set()
    with pytest.raises(theus.TheusError, match="closed"):
        holder.result()


# ------------------------------------------------------------------------------ asyncio


async def count_slowly(engine: theus.Engine, seconds: float, *, late: bool = False) -> int:
    executions = 0
    for attempt in engine.attempts():
        with attempt as ctx:
            executions += 1
            if late:
                await asyncio.sleep(seconds)  # tidy: allow-sleep others run
            value = ctx.a
            if not late:
                await asyncio.sleep(seconds)  # tidy: allow-sleep others run
            ctx.a = value + 1
    return executions


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("tasks", [2, 12])
@pytest.mark.parametrize("seconds", [0, 0.001])
def test_tasks_of_one_thread(tasks: int, seconds: float, late: bool, counter: theus.Engine) -> None:
    rounds = 10

    async def work() -> None:
        for _ in range(rounds):
            await count_slowly(counter, seconds, late=late)

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(tasks)))

    asyncio.run(main())
    assert counter.read("a") == tasks * rounds


def test_a_long_task_among_short_ones(counter: theus.Engine) -> None:
    """Neither is exhausted, and the short one's attempts in the long one's turn do not count."""

    async def main() -> int:
        long = asyncio.create_task(count_slowly(counter, LONG_S))
        most = 0
        while not long.done():
            most = max(most, await count_slowly(counter, 0))
            await asyncio.sleep(0.001)  # tidy: allow-sleep others run
        await long
        return most

    assert asyncio.run(main()) > 17


def test_a_task_is_not_refused_what_does_not_disturb(counter: theus.Engine) -> None:
    async def main() -> set[int]:
        long = asyncio.create_task(count_slowly(counter, LONG_S))
        rival = asyncio.create_task(count_slowly(counter, 0))
        executions = set()
        while not long.done():
            made = 0
            for attempt in counter.attempts():
                with attempt as ctx:
                    made += 1
                    ctx.b += 1
            executions.add(made)
            if rival.done():
                rival = asyncio.create_task(count_slowly(counter, 0))
            await asyncio.sleep(0)  # tidy: allow-sleep others run
        await long
        await rival
        return executions

    assert asyncio.run(main()) == {1}


def in_a_turn(counter: theus.Engine, meanwhile: Callable[[], Any]) -> Any:
    """Runs `meanwhile` while another task has the turn, and returns its result."""

    async def main() -> Any:
        executions = 0
        result = None
        for attempt in counter.attempts():
            with attempt as ctx:
                executions += 1
                value = ctx.a
                await asyncio.sleep(LONG_S)  # tidy: allow-sleep others run
                if executions <= 3:
                    await asyncio.get_running_loop().run_in_executor(None, counter.run, count)
                if executions == 4:
                    result = await asyncio.create_task(tried())
                ctx.a = value + 1
        return result

    async def tried() -> Any:
        return meanwhile()

    return asyncio.run(main())


def test_who_cannot_let_others_run_does_not_wait_for_them(counter: theus.Engine) -> None:
    """It would hold up the whole thread, and the turn with it."""

    def short() -> tuple[int, float]:
        made, start = 0, time.monotonic()
        for attempt in counter.attempts():
            with attempt as ctx:
                made += 1
                ctx.a += 1
        return made, time.monotonic() - start

    made, seconds = in_a_turn(counter, short)
    assert made == 3  # gave way, and again, as nobody had run; then not any more
    assert seconds < LONG_S
    counter.write("a", 0)
    assert in_a_turn(counter, lambda: counter.run(lambda ctx: ctx.a)) is not None


def test_the_conflict_says_whose_turn_it_is(counter: theus.Engine) -> None:
    def leaves() -> None:
        for attempt in counter.attempts():
            with attempt as ctx:
                ctx.a += 1
                return

    def short() -> theus.ConflictError:
        with pytest.raises(theus.ConflictError, match=r"^a is in use by pid \d+: it is the") as got:
            leaves()
        return got.value

    error = in_a_turn(counter, short)
    assert error.paths == ("a",) and error.version is None
    assert error.winner_pid is not None and error.snapshot_version is not None
