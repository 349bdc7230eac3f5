"""Waiting for the arbitration lock: a holder is stopped, and so is whoever would remove it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import pytest
import theus
from helpers import WAIT_S, Worker, until

# More than fits beside a key: it needs room that is bought under the lock, before anything else.
LARGE = bytes(100_000)
# How long a write that could have the lock might take on a busy machine.
SURELY_S = 2.0
# One after the other may be stopped while it does not hold the lock, many times in a row.
STOPPED_S = 60.0


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
        go_on(pids)


def go_on(pids: tuple[int, ...]) -> None:
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
        self.resume: Callable[[], None] = lambda: None  # ends it before the test is over
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
    others = engine.stats()["workers"]
    worker = Worker(multiprocessing.get_context("fork"), engine)
    pids = (coordinator.parent_pid, coordinator.pid, worker.pid)
    try:
        worker.start(churn)
        until(lambda: engine.stats()["workers"] == others + 1 or worker.process.exitcode)
        assert worker.process.exitcode is None
        deadline = time.monotonic() + STOPPED_S
        blocked = False
        while not blocked:
            seen = engine.version
            until(lambda seen=seen: engine.version > seen)  # it is running
            with stopped(*pids):
                writer = Writer(engine)
                writer.join(SURELY_S)
                blocked = writer.is_alive()
                if blocked:
                    writer.resume = lambda: go_on(pids)
                    yield writer
            writer.join()
            assert writer.error is None
            assert engine.state["large"] == LARGE
            assert blocked or time.monotonic() < deadline, "never stopped while it held the lock"
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


def read_only(engine: theus.Engine) -> None:
    """Needs no lock."""
    assert engine.run(lambda ctx: ctx["large"]) in (b"", LARGE)


def test_a_handler_runs_transactions_while_its_thread_waits(stuck: Writer) -> None:
    engine = stuck.engine
    ran = threading.Event()

    def handler(number: int, frame: object) -> None:
        if number == signal.SIGUSR1:
            read_only(engine)
            ran.set()
        else:
            raise KeyboardInterrupt

    main = threading.get_ident()
    before = {number: signal.signal(number, handler) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        threading.Timer(SURELY_S / 4, signal.pthread_kill, (main, signal.SIGUSR1)).start()
        threading.Thread(
            target=lambda: ran.wait(20) and signal.pthread_kill(main, signal.SIGUSR2), daemon=True
        ).start()
        with pytest.raises(KeyboardInterrupt):
            # Outside of any transaction: it registers with the committers, under the lock.
            engine.wait("large", timeout=20)
    finally:
        for number, old in before.items():
            signal.signal(number, old)
    assert ran.is_set()
    read_only(engine)  # what the handler had opened is over


def test_what_another_thread_drops_is_over(stuck: Writer) -> None:
    engine = stuck.engine
    dropped = [engine.transaction()]
    dropped[0].__enter__()
    main = threading.get_ident()

    def drop() -> None:
        dropped.clear()
        signal.pthread_kill(main, signal.SIGINT)

    threading.Timer(SURELY_S / 4, drop).start()
    with pytest.raises(KeyboardInterrupt):
        theus._theus.Waiter(engine).arm([theus._theus.Target(engine, ("large",))])
    assert not dropped
    read_only(engine)


def close_while_another_commits(engine: theus.Engine, ready: Connection) -> None:
    """Says when it is ready, and closes the engine at the answer."""
    others = 8  # one after the other: some go on committing when close() has the lock
    begun, may_commit = threading.Barrier(others + 1), threading.Event()

    def other() -> None:
        with contextlib.suppress(theus.TheusError), engine.transaction() as ctx:
            ctx["small"] = 1
            begun.wait()
            may_commit.wait()

    threads = [threading.Thread(target=other) for _ in range(others)]
    for thread in threads:
        thread.start()
    begun.wait()
    # The youngest is closed first.
    with contextlib.suppress(theus.TheusError), engine.transaction() as ctx:
        ctx["large"] = LARGE  # room, to be given back under the lock
        ready.send_bytes(b"ready")
        ready.recv_bytes()
        # Those that commit are found only after close() has waited for the lock.
        threading.Timer(SURELY_S / 4, may_commit.set).start()
        threading.Timer(SURELY_S, ready.send_bytes, (b"all wait",)).start()
        engine.close()
    for thread in threads:
        thread.join()


class Closer(Worker):
    def __init__(self, engine: theus.Engine) -> None:
        context = multiprocessing.get_context("fork")
        super().__init__(context, engine)
        self.line, theirs = context.Pipe()
        self.start(close_while_another_commits, theirs)

    def hears(self, text: bytes) -> bool:
        return self.line.poll(WAIT_S) and self.line.recv_bytes() == text


@pytest.fixture
def closer(engine: theus.Engine) -> Iterator[Closer]:
    engine.update({"large": b"", "small": 0})
    closer = Closer(engine)
    try:
        assert closer.hears(b"ready")
        yield closer
    finally:
        closer.kill()


def test_closing_looks_again_after_each_wait(closer: Closer, stuck: Writer) -> None:
    closer.line.send_bytes(b"close")
    assert closer.hears(b"all wait")
    stuck.resume()
    closer.result()
