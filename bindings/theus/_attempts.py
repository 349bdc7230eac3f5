"""engine.attempts(): the explicit retry loop.

    for attempt in engine.attempts(16):
        with attempt as ctx: ...

A `with` whose commit met a conflict ends quietly if the loop is going to try again. Whether it is
cannot be seen from a `with` alone: `return` and `break` inside it look like its normal end. So the
loop notes where its caller's `for` fetched the attempt, and the end of the `with` looks in the
caller's bytecode whether that place can still be reached. Where it cannot, ConflictError is raised;
where that is not known (the attempt was fetched by other code than a `for`), the loop's finalizer
reports a lost conflict through sys.unraisablehook.

A `with` that ends with its ctx.retry() sleeps until something changes, and then is as one that met
a conflict, except that the attempts are counted anew.

An attempt whose commit meets the turn of another transaction of this thread, which is one of
another asyncio task, cannot wait for it and gives way: it is made again and does not count. That
helps only if the other task runs in between. Where it has not, because nothing in the attempt
awaits, or not for very long, the attempts after it give way no more.
"""

from __future__ import annotations

import dis
import functools
import random
import sys
import time
from collections.abc import Iterator
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from theus import errors
from theus._waiting import deadline_of, sleep_for_retry
from theus.errors import ConflictError, TheusError

if TYPE_CHECKING:
    import asyncio

    from theus import _theus
    from theus._engine import Engine

_FIRST_PAUSE_S = 2e-6
_PAUSE_MAX_S = 1e-3
_PAUSE_OF_TASKS_MAX_S = 1e-4  # all tasks of the thread pause
_PAUSES_MAX = 2  # then the attempts have asked for the turn
_GIVES_WAY_S = 10.0


class Attempt:
    """One execution of the body of a loop over Engine.attempts(), for one `with`, which gives the
    ProcessContext. committed: whether its `with` has ended with a commit. For one thread."""

    __slots__ = ("_guard", "_loop", "_transaction", "committed")

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._guard: Any = None
        self.committed = False

    def __repr__(self) -> str:
        return f"Attempt(committed={self.committed})"

    def __enter__(self) -> _theus.ProcessContext:
        if self._guard is not None:
            raise TheusError("an attempt is for one `with`; take the next one from the loop")
        self._loop.unused = False
        self._guard = guard = self._loop.guard()
        ctx = guard.__enter__()
        self._transaction = ctx.transaction
        self._loop.started = time.monotonic()
        return ctx

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        target = self._guard._retry_target(value)
        if target is not None:
            # Also where the body has swallowed the exception.
            self._guard.__exit__(errors._Retry, None, None)
            self._loop.retry(target, sys._getframe(1))
            return True
        self._loop.note_duration()
        try:
            self._guard.__exit__(kind, value, traceback)
        except ConflictError as conflict:
            self._loop.met(conflict, self._guard, sys._getframe(1))
        else:
            self.committed = self._transaction.version is not None
            self._loop.over = True
        return False


class _Loop:
    """The iterator that attempts() returns. (Attempts refer to it, and it to none of them: what is
    interrupted within __enter__ is rolled back when the `for` lets go of it.)"""

    _conflict: ConflictError | None = None  # also of what is interrupted within __init__

    def __init__(self, engine: Engine, n: int, deadline: float | None) -> None:
        self.engine = engine
        self.over = False
        self.unused = False  # the newest attempt
        self._n = n
        self._deadline = deadline
        self._begin_anew()
        self._executions = 0
        self._met: _theus.ContextGuard | None = None  # of the last attempt that met a conflict
        self.started = 0.0
        self._longest = 0.0
        self._others_ran = True
        self._place: tuple[CodeType, int] | None = None

    def __repr__(self) -> str:
        return f"{self.engine!r}.attempts({self._n})"

    def _begin_anew(self) -> None:
        self._left = self._n
        self._made = 0  # since then
        self._turns = 0  # of these, those that had asked for a turn
        self._ways_given = 0  # and those that gave way
        self._gives_way_until: float | None = None
        self._gives_way = True

    def __iter__(self) -> Iterator[Attempt]:
        return self

    def __next__(self) -> Attempt:
        if self.over:
            raise StopIteration
        if self.unused:
            raise TheusError("an attempt was not used: write `with attempt as ctx:` in the loop")
        self._conflict = None
        frame = sys._getframe(1)
        self._place = (frame.f_code, frame.f_lasti)
        if self._ways_given > 0:
            _pause(self._ways_given, _PAUSE_OF_TASKS_MAX_S)
        elif 1 < self._made <= _PAUSES_MAX:
            _pause(self._made - 1, _PAUSE_MAX_S)
        self._executions += 1
        self._left -= 1
        self.unused = True
        return Attempt(self)

    def guard(self) -> _theus.ContextGuard:
        """For the current attempt."""
        guard = self.engine._attempt(
            self._made, self._turns, self._longest, self._gives_way, self._met
        )
        self._made += 1
        return guard

    def note_duration(self) -> None:
        """The current attempt's body is at its end."""
        self._longest = max(self._longest, time.monotonic() - self.started)

    def met(self, conflict: ConflictError, guard: _theus.ContextGuard, frame: FrameType) -> None:
        """The current attempt met a conflict, and its `with` in `frame` is at its end."""
        self._met = guard
        if conflict._gave_way:
            self._left += 1
            self._note_way_given()
        elif self._made > _PAUSES_MAX + 1:
            self._turns += 1
        if self._left <= 0:
            self.over = True
            raise errors._exhausted(self._executions, conflict)
        if self._is_left(frame):
            self.over = True
            raise conflict
        self._conflict = conflict

    def _note_way_given(self) -> None:
        self._ways_given += 1
        now = time.monotonic()
        if self._gives_way_until is None:
            self._gives_way_until = now + _GIVES_WAY_S
        loop = _running_loop()
        if loop is None or not self._others_ran or now > self._gives_way_until:
            self._gives_way = False
        else:
            self._others_ran = False
            loop.call_soon(self._note_others_ran)

    def _note_others_ran(self) -> None:
        self._others_ran = True

    def retry(self, target: _theus.Target, frame: FrameType) -> None:
        """The current attempt has called ctx.retry(), and its `with` in `frame` is at its end."""
        if self._is_left(frame):
            self.over = True
            raise TheusError(
                "ctx.retry() was called in an attempt behind which the loop is left, so that there "
                "is no next one; nothing was written; leave an attempt only by its end"
            )
        try:
            sleep_for_retry(self.engine, target, self._deadline, self._executions)
        except BaseException:
            self.over = True
            raise
        self._begin_anew()

    def _is_left(self, frame: FrameType) -> bool:
        """Whether the loop cannot come to another attempt from there."""
        if self._place is None or self._place[0] is not frame.f_code:
            return False
        return not _reaches(frame.f_code, frame.f_lasti, self._place[1])

    def __del__(self) -> None:
        if self._conflict is None:
            return
        # What __del__ raises is given to sys.unraisablehook.
        raise ConflictError(
            "a loop over engine.attempts() was left although its last attempt had met a conflict; "
            "what that attempt wrote is lost"
        ) from self._conflict


def _pause(number: int, most_s: float) -> None:
    bound = min(_FIRST_PAUSE_S * 2 ** min(number - 1, 20), most_s)
    time.sleep(random.random() * bound)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    # Who runs a loop has imported it.
    running = sys.modules.get("asyncio")
    return None if running is None else running._get_running_loop()


def attempts(engine: Engine, n: int, timeout: float | None) -> Iterator[Attempt]:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"attempts(n): n is 1 or more, not {n!r}")
    return _Loop(engine, n, deadline_of(timeout))


def _find_way(code: CodeType, start: int, goal: int) -> bool:
    """Whether execution that goes on behind the instruction at `start` can come to the one at
    `goal`, a FOR_ITER, in the same loop. True where that is not known."""
    instructions = list(dis.get_instructions(code))
    places = {instruction.offset: number for number, instruction in enumerate(instructions)}
    if start not in places or goal not in places:
        return True
    if instructions[places[goal]].opname != "FOR_ITER":
        return True
    waiting = [places[start] + 1]
    seen = set()
    while waiting:
        number = waiting.pop()
        if number in seen or number >= len(instructions):
            continue
        seen.add(number)
        instruction = instructions[number]
        name = instruction.opname
        if instruction.offset == goal:
            return True
        # A new loop begins behind GET_ITER; its FOR_ITER is the same instruction, not the same
        # loop.
        if name == "GET_ITER" or name.startswith(("RETURN", "RAISE", "RERAISE")):
            continue
        if instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs:
            target = instruction.argval
            if target in places:
                waiting.append(places[target])
            if name.startswith("JUMP") and "IF" not in name:
                continue
        waiting.append(number + 1)
    return False


_reaches = functools.lru_cache(maxsize=1024)(_find_way)
