"""engine.wait() and engine.watch(), and the sleep of ctx.retry().

Every wait goes: look; register with the committers; look again; sleep; and from the registration on
again. A commit comes before the registration, and the second look sees it, or behind it, and wakes
the sleeper. A look pins the newest version and lets go of it; nothing stays pinned meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from theus import _theus, errors
from theus.errors import TheusError

if TYPE_CHECKING:
    from theus._engine import Engine
    from theus.errors import Path

# What a look found: the newest version, and the numbers of the paths that have changed.
Found = tuple[int, tuple[int, ...]]
Change = tuple[int, "tuple[Path, ...]"]


def deadline_of(timeout: float | None) -> float | None:
    """Seconds from now as a point of time.monotonic()."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, numbers.Real):
        raise TypeError(f"timeout is None or a number of seconds, not {timeout!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout is None or 0 or more seconds, not {timeout!r}")
    return time.monotonic() + float(timeout)


def left(deadline: float | None) -> float:
    """Seconds until then; 0 when it has passed."""
    return math.inf if deadline is None else max(0.0, deadline - time.monotonic())


def start_of(engine: Engine, paths: tuple[Path, ...], since: int | None) -> int:
    """The version after which a change counts. Refuses what no wait can mean."""
    if not paths:
        raise TypeError("at least one path is needed; () is the root, that is, everything")
    newest = engine.version
    if since is None:
        return newest
    if isinstance(since, bool) or not isinstance(since, numbers.Integral):
        raise TypeError(f"since is a version, as in ctx.transaction.snapshot_version: {since!r}")
    if not 0 <= since <= newest:
        raise ValueError(f"there is no version {since} yet: the newest is {newest}")
    return int(since)


@contextlib.contextmanager
def waiter_of(engine: Engine) -> Iterator[_theus.Waiter]:
    """A Waiter that engine.close() ends."""
    waiter = _theus.Waiter(engine)
    engine._waiters.add(waiter)
    try:
        if engine._closed:  # before it was added
            waiter.close()
        yield waiter
    finally:
        engine._waiters.discard(waiter)
        waiter.disarm()


def sleep(
    waiter: _theus.Waiter, target: _theus.Target, since: int, deadline: float | None
) -> Found | None:
    """Returns what has changed after `since`, as soon as something has; None: the time is up."""
    while True:
        waiter.arm([target])
        woken = False
        while not woken:
            found = target.look(since)
            if found[1]:
                return found
            if left(deadline) == 0:
                return None
            woken = waiter.sleep(left(deadline))


def wait(
    engine: Engine, paths: tuple[Path, ...], since: int | None, timeout: float | None
) -> int | None:
    engine._check_outside("engine.wait()")
    since = start_of(engine, paths, since)
    deadline = deadline_of(timeout)
    target = _theus.Target(engine, paths)
    found: Found | None = target.look(since)
    if found is not None and not found[1]:
        if timeout == 0:
            return None
        with waiter_of(engine) as waiter:
            found = sleep(waiter, target, since, deadline)
    return None if found is None else found[0]


def sleep_for_retry(
    engine: Engine, target: _theus.Target, deadline: float | None, executions: int
) -> None:
    """Returns when something has changed that a transaction had read."""
    with waiter_of(engine) as waiter:
        if sleep(waiter, target, 0, deadline) is None:
            raise errors._unchanged(executions)


class Watch(Iterator[Change], AsyncIterator[Change]):
    """What engine.watch() returns: yields (version, paths that have changed) again and again.

    Changes that come while nobody asks are put together: the next item has the newest version and
    every path that has changed since the item before. For `for` and `async for`, one of them at a
    time. It holds nothing while it is not asked; in a forked child it goes on where it stood.
    """

    def __init__(self, engine: Engine, paths: tuple[Path, ...], since: int | None) -> None:
        self._engine = engine
        self._paths = paths
        self._since = start_of(engine, paths, since)
        self._target = _theus.Target(engine, paths)
        self._pid = os.getpid()
        self._closed = False
        self._busy = False
        self._interrupt: Callable[[], None] | None = None

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Change:
        """Sleeps until something has changed. StopIteration after close()."""
        try:
            with self._asked():
                found = self._look()
                if found is None:
                    with waiter_of(self._engine) as waiter:
                        self._sleeps(waiter.close)
                        found = sleep(waiter, self._target, self._since, None)
                assert found is not None, "a sleep without a deadline ends with a change"
                return self._advance(found)
        except TheusError:
            if self._closed:
                raise StopIteration from None
            raise

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Change:
        """The same without blocking the event loop. StopAsyncIteration after close()."""
        from theus import _aio

        try:
            with self._asked():
                found = self._look()
                if found is None:
                    found = await _aio.changed(
                        self._engine, self._target, self._since, self._sleeps
                    )
                else:
                    await _aio.pause()
                return self._advance(found)
        except TheusError:
            if self._closed:
                raise StopAsyncIteration from None
            raise

    def close(self) -> None:
        """Ends the iteration, also one that sleeps in another thread or task. Idempotent."""
        self._closed = True
        if self._interrupt is not None:
            self._interrupt()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        status = ", closed" if self._closed else ""
        return f"Watch({', '.join(map(repr, self._paths))}, since={self._since}{status})"

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        if self._closed:
            raise TheusError("this watch is closed")
        if self._busy:
            raise TheusError("this watch is asked already elsewhere; make one for each loop")
        self._engine._check_outside("engine.watch()")
        if self._pid != os.getpid():
            self._target = _theus.Target(self._engine, self._paths)
            self._pid = os.getpid()
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            self._interrupt = None

    def _sleeps(self, interrupt: Callable[[], None]) -> None:
        """A sleep begins, which `interrupt` ends, in whatever thread it is called."""
        self._interrupt = interrupt
        if self._closed:  # before that
            interrupt()

    def _look(self) -> Found | None:
        found = self._target.look(self._since)
        return found if found[1] else None

    def _advance(self, found: Found) -> Change:
        version, changed = found
        self._since = version
        return version, tuple(self._paths[number] for number in changed)
