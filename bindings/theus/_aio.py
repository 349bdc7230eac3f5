"""The asyncio forms: `async with`, run_async(), wait_async(), `async for` over a watch.

Nothing here makes the event loop wait: commits and functions run in the loop's default executor,
sleeps in the process's one waiting thread. A commit that has begun is not given up when its task is
cancelled: the cancellation goes on when the outcome is known.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from theus import _theus, errors
from theus._waiting import Found, deadline_of, left, start_of
from theus._waiting_thread import waiting_thread
from theus.errors import TheusError

if TYPE_CHECKING:
    from theus._engine import Engine
    from theus.errors import Path

R = TypeVar("R")


async def enter(guard: _theus.ContextGuard) -> _theus.ProcessContext:
    return guard.__enter__()


async def leave(
    guard: _theus.ContextGuard,
    kind: type[BaseException] | None,
    value: BaseException | None,
    traceback: TracebackType | None,
) -> bool:
    if kind is not None or not guard._hand_over():
        return guard.__exit__(kind, value, traceback)
    try:
        commit = asyncio.get_running_loop().run_in_executor(None, guard._commit_here)
    except RuntimeError as error:  # the executor has been shut down
        guard.__exit__(type(error), error, error.__traceback__)
        raise
    cancelled = await _end_of(commit)
    if commit.cancelled():  # with the executor, before it had begun
        guard.__exit__(asyncio.CancelledError, None, None)
        raise asyncio.CancelledError
    if cancelled is not None and commit.exception() is not None:
        raise cancelled from commit.exception()
    guard._run_callbacks(commit.result())
    if cancelled is not None:
        raise cancelled
    return False


async def _end_of(
    future: asyncio.Future[Any], on_cancel: Callable[[], bool] = lambda: True
) -> asyncio.CancelledError | None:
    """Waits until the future is done, whatever it brings. Returns what cancelled the task in the
    meantime. on_cancel() tells, at a cancellation, whether to wait any longer."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancelled = error
            if not on_cancel():
                break
    return cancelled


async def run(
    engine: Engine,
    function: Callable[..., R],
    args: tuple[Any, ...],
    retries: int,
    timeout: float | None,
    named: dict[str, Any],
) -> R:
    engine._check_outside("engine.run_async()")
    deadline = deadline_of(timeout)
    executions = 0
    target: _theus.Target | None = None
    run_once = functools.partial(_run_once, engine, function, args, retries, named)
    while True:
        target, result = await _in_thread(functools.partial(run_once, target))
        if target is None:
            done: R = result
            return done
        executions += result
        thread = waiting_thread(engine)
        seconds = None if deadline is None else left(deadline)
        if await thread.end(thread.begin(target, 0), seconds) is None:
            raise errors._unchanged(executions)


def _run_once(
    engine: Engine,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    retries: int,
    named: dict[str, Any],
    target: _theus.Target | None,
    stop: list[bool],
) -> tuple[_theus.Target | None, Any]:
    """Executions up to the result, or to a ctx.retry(): then (what is to change, how many)."""
    # Of many that one change has woken, the first may have undone it before this thread was free.
    if target is not None and not target.look(0)[1]:
        return target, 0
    try:
        return engine._run_once(stop, function, *args, retries=retries, **named)
    except StopIteration as error:  # no future can bring it
        raise RuntimeError("the function of run_async() raised StopIteration") from error


async def _in_thread(function: Callable[[list[bool]], R]) -> R:
    """Calls function(stop) in a thread. After a cancellation there is something in `stop`, and a
    call that has begun is waited for."""
    begun: list[bool] = []
    stop: list[bool] = []

    def call() -> R:
        begun.append(True)
        return function(stop)

    def on_cancel() -> bool:
        stop.append(True)
        return bool(begun)

    in_context = functools.partial(contextvars.copy_context().run, call)
    future = asyncio.get_running_loop().run_in_executor(None, in_context)
    cancelled = await _end_of(future, on_cancel)
    if cancelled is None:
        return future.result()
    if future.done() and not future.cancelled() and future.exception() is not None:
        raise cancelled from future.exception()
    if not future.done():
        future.cancel()
    raise cancelled


async def wait(
    engine: Engine, paths: tuple[Path, ...], since: int | None, timeout: float | None
) -> int | None:
    engine._check_outside("engine.wait_async()")
    since = start_of(engine, paths, since)
    deadline = deadline_of(timeout)
    target = _theus.Target(engine, paths)
    found: Found | None = target.look(since)
    if found is not None and not found[1]:
        if timeout == 0:
            return None
        seconds = None if deadline is None else left(deadline)
        thread = waiting_thread(engine)
        found = await thread.end(thread.begin(target, since), seconds)
    return None if found is None else found[0]


async def changed(
    engine: Engine,
    target: _theus.Target,
    since: int,
    sleeps: Callable[[Callable[[], None]], None],
) -> Found:
    """What has changed. sleeps(interrupt): called first; interrupt() ends it with TheusError."""
    thread = waiting_thread(engine)
    wait = thread.begin(target, since)
    sleeps(lambda: wait.fail(TheusError("this watch is closed")))
    found = await thread.end(wait)
    assert found is not None, "a wait without a time-out ends with a change"
    return found


async def pause() -> None:
    """Lets the other tasks of the loop run."""
    await asyncio.sleep(0)
