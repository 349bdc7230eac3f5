"""The one thread of a process in which all asyncio waits on an engine sleep.

It waits for everything that any of them waits for, through one Waiter, and tells the event loops.
It starts with the first wait and ends when there has been none for a second. A forked child has
none of it, and makes its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any

from theus._waiting import Found, waiter_of

if TYPE_CHECKING:
    from theus import _theus
    from theus._engine import Engine

_SLICE_S = 1.0


class Wait:
    """One wait of a task. Compared by identity."""

    __slots__ = ("future", "loop", "since", "target")

    def __init__(self, target: _theus.Target, since: int, loop: asyncio.AbstractEventLoop) -> None:
        self.target = target
        self.since = since
        self.loop = loop
        self.future: asyncio.Future[Found | None] = loop.create_future()

    def fail(self, error: Exception) -> None:
        """Ends it, from any thread."""
        _call(self.loop, [(self.future, error)])


class WaitingThread:
    """Invariants, under `_lock`: while there are waits there is a thread; whoever adds one counts
    `_changes` up and then wakes the thread, which looks at `_changes` between arming and sleeping.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._waits: set[Wait] = set()
        self._changes = 0
        self._thread: threading.Thread | None = None
        self._waiter: _theus.Waiter | None = None

    def begin(self, target: _theus.Target, since: int) -> Wait:
        """A wait of the running event loop, to be handed to end()."""
        wait = Wait(target, since, asyncio.get_running_loop())
        with self._lock:
            self._waits.add(wait)
            self._changes += 1
            waiter = self._waiter
            if self._thread is None:
                name = f"theus waits on {self._engine.name}"
                self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._thread.start()
        if waiter is not None:
            waiter.wake()
        return wait

    async def end(self, wait: Wait, timeout: float | None = None) -> Found | None:
        """Returns what has changed after its `since`; None after `timeout` seconds. TheusError when
        the engine is closed."""
        timer = None
        if timeout is not None:
            timer = wait.loop.call_later(timeout, _tell, [(wait.future, None)])
        try:
            return await wait.future
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                self._waits.discard(wait)

    def _serve(self) -> None:
        try:
            with waiter_of(self._engine) as waiter:
                with self._lock:
                    self._waiter = waiter
                self._tell_of_changes(waiter)
        except Exception as error:
            # Everybody who waits hears of it: the engine was closed, the coordinator is lost.
            self._fail(error)

    def _tell_of_changes(self, waiter: _theus.Waiter) -> None:
        while True:
            with self._lock:
                seen, waits = self._changes, list(self._waits)
            waiter.arm([wait.target for wait in waits])
            self._look(waits)
            while self._changes == seen and not waiter.sleep(_SLICE_S):
                with self._lock:
                    if not self._waits:
                        self._thread = self._waiter = None
                        return
                self._look(waits)

    def _look(self, waits: list[Wait]) -> None:
        found = [(wait, wait.target.look(wait.since)) for wait in waits if wait in self._waits]
        self._deliver([(wait, result) for wait, result in found if result[1]])

    def _fail(self, error: Exception) -> None:
        with self._lock:
            waits = list(self._waits)
            self._thread = self._waiter = None
        self._deliver([(wait, error) for wait in waits])

    def _deliver(self, results: list[tuple[Wait, Any]]) -> None:
        with self._lock:
            self._waits.difference_update(wait for wait, _ in results)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for wait, result in results:
            by_loop.setdefault(wait.loop, []).append((wait.future, result))
        for loop, futures in by_loop.items():
            _call(loop, futures)


def _call(loop: asyncio.AbstractEventLoop, results: list[tuple[asyncio.Future[Any], Any]]) -> None:
    # A loop that is closed says RuntimeError: nobody waits there any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_tell, results)


def _tell(results: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in results:
        if future.done():
            continue  # cancelled, or its time was up
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)


def waiting_thread(engine: Engine) -> WaitingThread:
    """This process's."""
    threads = engine._waiting_threads
    return threads.get(os.getpid()) or threads.setdefault(os.getpid(), WaitingThread(engine))
