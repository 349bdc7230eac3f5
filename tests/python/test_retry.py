"""ctx.retry(): gives up an attempt and sleeps until something that it has read changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import theus
from helpers import WAIT_S, Worker, increment, until, write
from test_waiting import InThread, asleep


def take(ctx: theus.ProcessContext) -> Any:
    """The first job; sleeps while there is none."""
    for key in ctx.jobs:
        return ctx.jobs.pop(key)
    ctx.retry()


def run(engine: theus.Engine, body: Callable[..., Any], **options: Any) -> Any:
    return engine.run(body, **options)


def process(engine: theus.Engine, body: Callable[..., Any], **options: Any) -> Any:
    return engine.process(**options)(body)()


def loop(engine: theus.Engine, body: Callable[..., Any], **options: Any) -> Any:
    retries = options.pop("retries", 16)
    for attempt in engine.attempts(retries + 1, **options):
        with attempt as ctx:
            result = body(ctx)
    assert attempt.committed
    return theus.plain(result)


RUNNERS = (run, process, loop)
every_runner = pytest.mark.parametrize("runner", RUNNERS)


@pytest.fixture
def queue(engine: theus.Engine) -> theus.Engine:
    engine.update({"jobs": {}, "n": 0, "other": 0})
    return engine


@every_runner
def test_sleeps_until_there_is_something(
    runner: Callable[..., Any], queue: theus.Engine, other: Worker
) -> None:
    consumer = asleep(InThread(runner, queue, take), queue)
    other.do(increment, "other", 5)
    other.do(write, ("jobs", "a"), "first")
    assert consumer.result() == "first"
    assert queue.read("jobs") == {}
    assert not queue._waiters


@every_runner
def test_timeout(runner: Callable[..., Any], queue: theus.Engine) -> None:
    with pytest.raises(theus.RetriesExhausted, match="nothing that it had read changed") as caught:
        runner(queue, take, timeout=0.05)
    assert caught.value.attempts == 1
    assert caught.value.__cause__ is None
    with pytest.raises(theus.RetriesExhausted, match="in time"):
        runner(queue, take, timeout=0)
    with pytest.raises(ValueError, match="timeout"):
        runner(queue, take, timeout=-1)


def test_the_timeout_bounds_all_sleeps_together(queue: theus.Engine) -> None:
    """Somebody who is woken again and again for nothing does not wait for ever."""
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            increment(queue, "other", 1)

    disturber = InThread(disturb)
    executions = []

    def body(ctx: theus.ProcessContext) -> None:
        executions.append(ctx.other)
        ctx.retry()

    try:
        with pytest.raises(theus.RetriesExhausted, match="in time") as caught:
            queue.run(body, timeout=0.3)
    finally:
        stop.set()
        disturber.result()
    assert caught.value.attempts == len(executions) > 1


@every_runner
def test_a_wake_up_counts_the_retries_anew(runner: Callable[..., Any], queue: theus.Engine) -> None:
    """Two conflicts, a retry(), two conflicts: with retries=2 that is allowed, without it not."""
    executions: list[str] = []

    def interfere() -> None:
        InThread(queue.write, "n", 100 + len(executions)).result()

    def body(ctx: theus.ProcessContext) -> Any:
        place = len(executions)
        ctx.n += 1
        if place == 2:
            executions.append("retry")
            threading.Timer(0.05, queue.write, ("other", 1)).start()
            if ctx.other == 0:
                ctx.retry()
        executions.append("conflict" if place in (0, 1, 3, 4) else "commit")
        if place in (0, 1, 3, 4):
            interfere()
        return "done"

    assert runner(queue, body, retries=2) == "done"
    assert executions == ["conflict", "conflict", "retry", "conflict", "conflict", "commit"]


def test_exhausted_after_a_retry_counts_every_execution(queue: theus.Engine) -> None:
    executions = []

    def body(ctx: theus.ProcessContext) -> None:
        executions.append(ctx.n)
        ctx.n += 1
        if len(executions) == 1:
            threading.Timer(0.05, queue.write, ("n", 1)).start()
            ctx.retry()
        InThread(queue.write, "n", 100 + len(executions)).result()

    with pytest.raises(theus.RetriesExhausted, match="conflict") as caught:
        queue.run(body, retries=2)
    assert caught.value.attempts == len(executions) == 4


# ------------------------------------------------------------------------------ what wakes


READS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "a value": (lambda ctx: ctx.m.a, lambda ctx: ctx.m.update(a=2)),
    "a leaf": (lambda ctx: ctx.m.l[0], lambda ctx: ctx.m.l.append(3)),
    "absence": (lambda ctx: "x" in ctx.m, lambda ctx: ctx.m.update(x=2)),
    "absence by get": (lambda ctx: ctx.m.get("x"), lambda ctx: ctx.m.update(x=2)),
    "absence of a parent": (lambda ctx: ctx.read("x.y", None), lambda ctx: ctx.update(x={"y": 1})),
    "presence": (lambda ctx: "a" in ctx.m, lambda ctx: ctx.m.pop("a")),
    "count": (lambda ctx: len(ctx.m), lambda ctx: ctx.m.update(x=2)),
    "all keys": (lambda ctx: list(ctx.m), lambda ctx: ctx.m.update(x=2)),
    "the first key": (lambda ctx: next(iter(ctx.m)), lambda ctx: ctx.m.pop("a")),
    "all values": (lambda ctx: ctx.m.to_dict(), lambda ctx: ctx.m.update(a=2)),
    "emptiness": (lambda ctx: bool(ctx.empty), lambda ctx: ctx.empty.update(x=2)),
    "no keys": (lambda ctx: list(ctx.empty), lambda ctx: ctx.empty.update(x=2)),
    "not empty": (lambda ctx: bool(ctx.m), lambda ctx: ctx.m.clear()),
    "an ancestor": (lambda ctx: ctx.m.a, lambda ctx: ctx.update(m={"a": 1})),
    "an ancestor deleted": (lambda ctx: ctx.read("m.a", None), lambda ctx: ctx.pop("m")),
    "read, then cleared": (lambda ctx: (ctx.m.a, ctx.m.clear()), lambda ctx: ctx.m.update(a=2)),
    "read, then replaced": (lambda ctx: (ctx.m.a, ctx.update(m={})), lambda ctx: ctx.m.update(a=2)),
    "read, then written": (lambda ctx: ctx.m.update(a=ctx.m.a + 1), lambda ctx: ctx.m.update(a=2)),
}


@pytest.mark.parametrize("name", READS)
def test_what_was_read_wakes_and_nothing_else(name: str, engine: theus.Engine) -> None:
    read, change = READS[name]
    engine.update({"m": {"a": 1, "b": 1, "l": [1]}, "empty": {}, "other": 0})
    executions = []

    def body(ctx: theus.ProcessContext) -> None:
        executions.append(1)
        read(ctx)
        if len(executions) == 1:
            ctx.retry()
        ctx.transaction.rollback()

    waiting = asleep(InThread(engine.run, body), engine)
    engine.write("other", 1)
    with engine.transaction() as ctx:
        ctx.unrelated = {"a": 1}
    # Somebody whom that had woken would have run by now: another wait came and went since.
    assert engine.wait("other", since=0) is not None
    asleep(waiting, engine)
    assert len(executions) == 1
    engine.run(change)
    waiting.result()
    assert len(executions) == 2


def test_a_job_that_another_took_first_wakes_nobody(queue: theus.Engine) -> None:
    executions = []

    def body(ctx: theus.ProcessContext) -> Any:
        executions.append(1)
        return take(ctx)

    since = queue.version
    target_seen = asleep(InThread(queue.run, body), queue)
    with queue.transaction() as ctx:
        ctx.jobs["a"] = 1
        ctx.jobs.pop("a")
    queue.write(("jobs", "b"), 2)
    assert target_seen.result() == 2
    assert len(executions) == 2
    assert queue.version > since


# ------------------------------------------------------------------------------ where it may be


def test_where_it_may_not_be(queue: theus.Engine) -> None:
    with queue.transaction() as ctx:
        assert ctx.n == 0
        with pytest.raises(theus.TheusError, match=r"inside of engine\.run"):
            ctx.retry()
        ctx.n = 1  # nothing has happened to the transaction
    assert queue.read("n") == 1
    with queue.snapshot() as ctx, pytest.raises(theus.TheusError, match="this is a snapshot"):
        ctx.retry()
    pure = queue.process(semantic="pure")(lambda ctx: ctx.retry())
    with pytest.raises(theus.TheusError, match="this is a snapshot"):
        pure()


@every_runner
def test_with_nothing_read(runner: Callable[..., Any], queue: theus.Engine) -> None:
    def body(ctx: theus.ProcessContext) -> None:
        ctx.n = 5
        with pytest.raises(theus.TheusError, match="read nothing yet"):
            ctx.retry()

    runner(queue, body)
    assert queue.read("n") == 5


@every_runner
def test_whoever_swallows_it_cannot_commit(runner: Callable[..., Any], queue: theus.Engine) -> None:
    executions = []

    def body(ctx: theus.ProcessContext) -> str:
        executions.append(1)
        try:
            take(ctx)
        except Exception:
            pytest.fail("it is no Exception")
        except BaseException as swallowed:
            assert "retry" in repr(swallowed).lower()
        ctx.n += 1
        return "swallowed"

    with pytest.raises(theus.RetriesExhausted, match="in time"):
        runner(queue, body, timeout=0.05)
    assert queue.read("n") == 0 and len(executions) == 1
    queue.write(("jobs", "a"), 1)
    assert runner(queue, body) == "swallowed"
    assert queue.read("n") == 1


@every_runner
def test_a_later_error_goes_first(runner: Callable[..., Any], queue: theus.Engine) -> None:
    def body(ctx: theus.ProcessContext) -> None:
        try:
            take(ctx)
        finally:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        runner(queue, body)
    assert not queue._waiters


def test_of_another_engine_goes_through(
    queue: theus.Engine, coordinator: theus.Coordinator
) -> None:
    """Only the run() whose context it is sleeps; the inner one rolls back."""
    inner_runs, outer_runs = [], []
    with theus.connect(coordinator.name) as inner:

        def body(ctx: theus.ProcessContext) -> Any:
            outer_runs.append(1)

            def inside(inner_ctx: theus.ProcessContext) -> Any:
                inner_runs.append(1)
                inner_ctx.other += 1
                return take(ctx)

            return inner.run(inside)

        waiting = asleep(InThread(queue.run, body), queue)
        assert queue.read("other") == 0 and not inner._waiters
        queue.write(("jobs", "a"), 5)
        assert waiting.result() == 5
        assert (len(outer_runs), len(inner_runs), queue.read("other")) == (2, 2, 1)


def test_nothing_of_the_attempt_is_left(queue: theus.Engine) -> None:
    called = []

    def body(ctx: theus.ProcessContext) -> Any:
        ctx.n += 1
        ctx.scratch = {"x": [1, 2, 3]}
        ctx.transaction.on_commit(lambda: called.append(1))
        return take(ctx)

    waiting = asleep(InThread(queue.run, body), queue)
    state = queue.state
    assert "scratch" not in state and state["n"] == 0 and not called
    stats = queue.stats()
    assert stats["oldest_pin"] == stats["version"]
    queue.write(("jobs", "a"), 5)
    assert waiting.result() == 5
    assert queue.read("n") == 1 and called == [1]


# ------------------------------------------------------------------------------ attempts


def test_an_attempt_whose_loop_is_left_says_so(queue: theus.Engine) -> None:
    for attempt in queue.attempts(3):
        with pytest.raises(theus.TheusError, match="the loop is left"), attempt as ctx:
            take(ctx)
        break

    def leaves() -> None:
        for attempt in queue.attempts(3):
            with attempt as ctx:
                take(ctx)
            return

    with pytest.raises(theus.TheusError, match="the loop is left"):
        leaves()


def test_an_attempt_may_return_its_result(queue: theus.Engine) -> None:
    def consume() -> Any:
        for attempt in queue.attempts(3):
            with attempt as ctx:
                return take(ctx)
        return None

    waiting = asleep(InThread(consume), queue)
    queue.write(("jobs", "a"), 5)
    assert waiting.result() == 5
    assert queue.read("jobs") == {}


def test_closing_the_engine_ends_the_sleep(coordinator: theus.Coordinator) -> None:
    engine = theus.connect(coordinator.name)
    engine.update({"jobs": {}})
    sleeping = [InThread(runner, engine, take) for runner in RUNNERS]
    until(lambda: len(engine._waiters) == len(sleeping))
    engine.close()
    for each in sleeping:
        with pytest.raises(theus.TheusError, match="closed"):
            each.result()


# ------------------------------------------------------------------------------ processes


def consume(engine: theus.Engine, count: int) -> list[int]:
    return [engine.run(take, timeout=WAIT_S) for _ in range(count)]


def test_producers_and_consumers_in_processes(
    queue: theus.Engine, start_worker: Callable[[], Worker]
) -> None:
    consumers = [start_worker() for _ in range(3)]
    for each in consumers:
        each.start(consume, 100)
    for number in range(300):
        queue.write(("jobs", number), number)
    taken = [number for each in consumers for number in each.result()]
    assert sorted(taken) == list(range(300))
    assert queue.read("jobs") == {}
