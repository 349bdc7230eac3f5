"""Waiting for the arbitration lock: a holder is stopped, and so is whoever would remove it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import theus
from helpers import Worker, until

# More than fits beside a key: it needs room that is bought under the lock, before anything else.
LARGE = bytes(100_000)
# How long a write that could have the lock might take on a busy machine.
SURELY_S = 2.0
ROUNDS_MAX = 200


def churn(engine: theus.Engine) -> None:
    """Holds the lock for much of the time."""
    while True:
        with engine.transaction() as ctx:
            ctx.m.update({str(i): i for i in range(4_000)})
        with engine.transaction() as ctx:
            ctx.m.clear()


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Each of them, in this order; they go on in the opposite one."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            until(lambda pid=pid: state_of(pid) == "T")
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


class Writer(threading.Thread):
    """Writes something large."""

    def __init__(self, engine: theus.Engine) -> None:
        super().__init__(daemon=True)
        self.engine = engine
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.engine.write("large", LARGE)
        except BaseException as error:
            self.error = error


@pytest.fixture
def stuck(coordinator: theus.Coordinator, engine: theus.Engine) -> Iterator[Writer]:
    """A thread of ours that waits for the lock, whose holder and all who could help are stopped."""
    engine.update({"m": {}, "large": b""})
    worker = Worker(multiprocessing.get_context("fork"), engine)
    try:
        worker.start(churn)
        until(lambda: engine.stats()["workers"] == 2)
        # One after the other may be stopped while it does not hold the lock: then the write ends.
        for _ in range(ROUNDS_MAX):
            with stopped(coordinator.parent_pid, coordinator.pid, worker.pid):
                writer = Writer(engine)
                writer.join(SURELY_S)
                blocked = writer.is_alive()
                if blocked:
                    yield writer
            writer.join()
            assert writer.error is None
            assert engine.state["large"] == LARGE
            if blocked:
                break
        else:
            pytest.fail(f"never stopped while it held the lock; {worker.process.exitcode=}")
    finally:
        worker.kill()


def test_other_threads_go_on(stuck: Writer) -> None:
    assert sum(i * i for i in range(100_000)) > 0
    with stuck.engine.snapshot() as ctx:
        assert ctx["large"] in (b"", LARGE)
    assert stuck.is_alive()


def test_nobody_takes_the_transaction_away(stuck: Writer) -> None:
    with pytest.raises(theus.TheusError, match="waits for the arbitration lock"):
        stuck.engine.close()
    assert stuck.is_alive()


def test_a_signal_ends_the_wait(stuck: Writer) -> None:
    main = threading.get_ident()
    begun = time.monotonic()
    # Inside of the write by then.
    threading.Timer(SURELY_S / 4, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        stuck.engine.write("large", b"1" * len(LARGE))
    assert time.monotonic() - begun < 20, "the wait ended by itself"
    assert stuck.is_alive()
