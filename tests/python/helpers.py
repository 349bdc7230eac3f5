"""What the tests that use several processes share."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any

import theus

START_METHODS = ("fork", "spawn", "forkserver")
# A bound on every single wait. It is reached only when something is broken.
WAIT_S = 30.0


class Raised:
    """An exception on its way from a worker to the test."""

    def __init__(self, error: BaseException) -> None:
        self.type = type(error)
        self.text = "".join(traceback.format_exception(type(error), error, error.__traceback__))


class WorkerError(AssertionError):
    """What a worker was told to do raised `type` there."""

    def __init__(self, raised: Raised) -> None:
        super().__init__(raised.text)
        self.type = raised.type


def _serve(pipe: Connection, engine: theus.Engine) -> None:
    """The worker's main function: does what it is told until the test's end of the pipe closes."""
    with contextlib.suppress(EOFError):
        while True:
            function, args = pipe.recv()
            try:
                answer = function(engine, *args)
            except Exception as error:
                answer = Raised(error)
            pipe.send(answer)


class Worker:
    """A process with an engine of its own that calls `function(engine, *args)` when told to."""

    def __init__(self, context: BaseContext, engine: theus.Engine) -> None:
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, engine), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls it there, waits for its end, and returns what it returned."""
        self.start(function, *args)
        return self.result()

    def start(self, function: Callable[..., Any], *args: Any) -> None:
        self._pipe.send((function, args))

    def result(self) -> Any:
        ready = wait([self._pipe, self.process.sentinel], timeout=WAIT_S)
        assert ready, f"worker {self.pid} has not answered within {WAIT_S} s"
        try:
            answer = self._pipe.recv()
        except EOFError:
            self.process.join()
            raise AssertionError(f"worker {self.pid} ended: {self.process.exitcode}") from None
        if isinstance(answer, Raised):
            raise WorkerError(answer)
        return answer

    def kill(self) -> None:
        """SIGKILL, and waits until the kernel has reaped it."""
        self.process.kill()
        self.process.join(WAIT_S)
        assert not self.process.is_alive()
        self._pipe.close()


class Reporter:
    """A process that runs `target(pipe, engine, *args)`; what it sends is read with receive()."""

    def __init__(
        self, context: BaseContext, target: Callable[..., None], engine: theus.Engine, *args: Any
    ) -> None:
        self._pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=target, args=(theirs, engine, *args), daemon=True)
        self.process.start()
        # From here on the process alone holds that end, so its death is the end of the pipe.
        theirs.close()

    def receive(self) -> bytes | None:
        """The next message; None at the end."""
        assert self._pipe.poll(WAIT_S), f"process {self.process.pid} says nothing for {WAIT_S} s"
        try:
            return self._pipe.recv_bytes()
        except EOFError:
            return None

    def drain(self) -> list[bytes]:
        """All messages up to the end of the process."""
        return list(iter(self.receive, None))

    def kill(self) -> None:
        self.process.kill()

    def join(self) -> int | None:
        self.process.join(WAIT_S)
        return self.process.exitcode


# --- what workers are told to do


def write(engine: theus.Engine, path: object, value: object) -> None:
    engine.write(path, value)


def delete(engine: theus.Engine, path: object) -> None:
    with engine.transaction() as ctx:
        ctx.delete(path)


def read(engine: theus.Engine, path: object, default: object = None) -> object:
    return theus.plain(engine.read(path, default))


def to_dict(engine: theus.Engine) -> dict[Any, Any]:
    return engine.state.to_dict()


def own_pid(engine: theus.Engine) -> int:
    return os.getpid()


def increment(engine: theus.Engine, path: str, times: int) -> None:
    for _ in range(times):
        engine.run(_add_one, path)


def _add_one(ctx: theus.ProcessContext, path: str) -> None:
    ctx.write(path, ctx.read(path) + 1)


# --- waiting for things without sleeping


def until(condition: Callable[[], Any], meanwhile: Callable[[], Any] | None = None) -> Any:
    """Asks again until the answer is true, at most WAIT_S; returns the answer.

    For what nothing announces, such as memory that comes back. `meanwhile` is done in between:
    preferably something that the awaited thing needs, else the processor is given up for 1 ms.
    """
    deadline = time.monotonic() + WAIT_S
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not so within {WAIT_S} s: {condition}"
        if meanwhile is None:
            select.select([], [], [], 0.001)
        else:
            meanwhile()
    return answer


def wait_gone(pid: int) -> None:
    """Waits for the end of any process, ours or not."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], WAIT_S)[0], f"process {pid} is still there"
    finally:
        os.close(pidfd)


def exists(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def forked(body: Callable[[], int]) -> Iterator[int]:
    """Runs body() in a bare os.fork() child, which exits with what it returns. Gives its pid."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = body()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def run_forked(body: Callable[[], int]) -> int:
    """Runs body() in a child and returns its exit status; minus the signal that killed it."""
    with forked(body) as pid:
        wait_gone(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
