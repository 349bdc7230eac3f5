"""engine.wait() and engine.watch(): who is woken by what, how a wait ends, what deaths do to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest
import theus
from helpers import WAIT_S, Reporter, Worker, increment, run_forked, until, wait_gone, write


class InThread:
    """Calls something in a thread; result() waits for it and returns or raises what it did."""

    def __init__(self, function: Callable[..., Any], *args: Any, **named: Any) -> None:
        self._done: list[Any] = []
        self._error: list[BaseException] = []

        def call() -> None:
            try:
                self._done.append(function(*args, **named))
            except BaseException as error:
                self._error.append(error)

        self.thread = threading.Thread(target=call, daemon=True)
        self.thread.start()

    def result(self) -> Any:
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive(), f"still waiting after {WAIT_S} s"
        if self._error:
            raise self._error[0]
        return self._done[0]


def sleeps(thread_id: int | None, pid: int | str = "self") -> bool:
    """Whether that thread sleeps in futex(2), as a wait does (and so does who wants a lock)."""
    with open(f"/proc/{pid}/task/{thread_id}/wchan", encoding="ascii") as wchan:
        return "futex" in wchan.read()


def asleep(waiting: InThread, engine: theus.Engine) -> InThread:
    """Waits until the wait is registered and sleeps."""
    until(lambda: engine._waiters and sleeps(waiting.thread.native_id))
    return waiting


@pytest.fixture
def tree(engine: theus.Engine) -> theus.Engine:
    engine.update({"a": {"b": {"c": 1}, "n": 1}, "other": 0})
    return engine


# ------------------------------------------------------------------------------ what wakes


CHANGES: dict[str, Callable[[theus.ProcessContext], Any]] = {
    "a.b.c": lambda ctx: ctx.write("a.b.c", 2),
    "a.b.new": lambda ctx: ctx.write("a.b.new", 2),
    "del a.b.c": lambda ctx: ctx.delete("a.b.c"),
    "a.n": lambda ctx: ctx.write("a.n", 2),
    "a.b": lambda ctx: ctx.write("a.b", {}),
    "a": lambda ctx: ctx.write("a", 5),
    "other": lambda ctx: ctx.write("other", 2),
}


@pytest.mark.parametrize(
    ("path", "woken_by"),
    [
        ((), set(CHANGES)),
        ("a", set(CHANGES) - {"other"}),
        ("a.b", {"a.b.c", "a.b.new", "del a.b.c", "a.b", "a"}),
        (("a", "b", "c"), {"a.b.c", "del a.b.c", "a.b", "a"}),
        ("a.n", {"a.n", "a"}),
        ("a.b.new", {"a.b.new", "a.b", "a", "del a.b.c"}),  # del: early, for the path is absent
    ],
)
def test_what_wakes(tree: theus.Engine, path: Any, woken_by: set[str]) -> None:
    for name, change in CHANGES.items():
        tree.update({"a": {"b": {"c": 1}, "n": 1}, "other": 0})
        since = tree.version
        assert tree.wait(path, since=since, timeout=0) is None
        tree.run(change)
        assert (tree.wait(path, since=since, timeout=0) is not None) == (name in woken_by), name


def test_a_change_after_the_version_that_was_read_returns_at_once(tree: theus.Engine) -> None:
    with tree.transaction() as ctx:
        assert ctx.other == 0
        since = ctx.transaction.snapshot_version
    tree.write("other", 1)
    assert tree.wait("other", since=since) == tree.version
    assert tree.wait("a", "other", since=since, timeout=0) == tree.version
    assert tree.wait("other", since=0) == tree.version


def test_wakes_a_sleeper_in_this_and_in_another_process(tree: theus.Engine, other: Worker) -> None:
    waiting = asleep(InThread(tree.wait, "a.b"), tree)
    other.do(write, "a.b.c", 7)
    assert waiting.result() == tree.version
    assert tree.read("a.b.c") == 7
    assert not tree._waiters


def test_what_does_not_concern_it_does_not_wake(tree: theus.Engine, other: Worker) -> None:
    waiting = asleep(InThread(tree.wait, "a.b"), tree)
    other.do(increment, "other", 100)
    assert sleeps(waiting.thread.native_id)
    other.do(write, "a.b.c", 7)
    assert waiting.result() == tree.version


class Called:
    """A Waiter whose sleeper looks by itself once a second, as ever: that it finds something then,
    without having been called, is an error."""

    def __init__(self, waiter: theus._theus.Waiter, target: theus._theus.Target, since: int):
        self.waiter, self.target, self.since = waiter, target, since
        self.arm = waiter.arm

    def sleep(self, seconds: float) -> bool:
        called = self.waiter.sleep(seconds)
        if not called and self.target.look(self.since)[1]:
            # Its committer may be on the way from its commit to the call.
            until = time.monotonic() + WAIT_S
            while not called and time.monotonic() < until:
                called = self.waiter.sleep(WAIT_S)
            assert called, "a wake-up was lost"
        return called


def ping_pong(engine: theus.Engine, me: int, rounds: int) -> None:
    """Two take turns."""
    as_ever = theus._waiting.sleep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            theus._waiting,
            "sleep",
            lambda waiter, target, since, deadline: as_ever(
                Called(waiter, target, since), target, since, deadline
            ),
        )
        for _ in range(rounds):
            while True:
                with engine.snapshot() as ctx:
                    turn, version = ctx.turn, ctx.transaction.snapshot_version
                if turn % 2 == me:
                    break
                assert engine.wait("turn", since=version, timeout=WAIT_S) is not None
            engine.run(lambda ctx: ctx.write("turn", ctx.turn + 1))


def test_no_wake_up_is_lost(engine: theus.Engine, other: Worker) -> None:
    engine.write("turn", 0)
    other.start(ping_pong, 1, 2000)
    ping_pong(engine, 0, 2000)
    other.result()
    assert engine.read("turn") == 4000


# ------------------------------------------------------------------------------ how it ends


def test_timeout(tree: theus.Engine) -> None:
    before = time.monotonic()
    assert tree.wait("a", timeout=0.05) is None
    assert time.monotonic() - before >= 0.05
    assert tree.wait("a", timeout=0) is None
    assert not tree._waiters


def test_misuse(tree: theus.Engine) -> None:
    with pytest.raises(ValueError, match="the newest is"):
        tree.wait("a", since=tree.version + 1)
    with pytest.raises(ValueError, match="-1"):
        tree.wait("a", since=-1)
    with pytest.raises(TypeError, match="snapshot_version"):
        tree.wait("a", since="a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="at least one path"):
        tree.wait()
    with pytest.raises(ValueError, match="timeout"):
        tree.wait("a", timeout=-1)
    with pytest.raises(ValueError, match="empty segment"):
        tree.watch("a..b")
    with pytest.raises(theus.EncodeError):
        tree.wait(("a", object()), timeout=0)


def test_not_inside_of_a_transaction(tree: theus.Engine) -> None:
    with tree.transaction():
        with pytest.raises(theus.TheusError, match=r"engine\.wait\(\) inside"):
            tree.wait("a", timeout=0)
        with pytest.raises(theus.TheusError, match=r"engine\.watch\(\) inside"):
            next(tree.watch("a"))
        in_thread = InThread(tree.wait, "a", timeout=0)
        assert in_thread.result() is None
    with tree.snapshot():
        assert tree.wait("a", timeout=0) is None


class Interrupted(Exception):
    pass


@contextlib.contextmanager
def handler(function: Callable[[int, Any], Any]) -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, function)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def signal_when_asleep(engine: theus.Engine, times: int) -> None:
    main = threading.main_thread().native_id
    for _ in range(times):
        until(lambda: engine._waiters and sleeps(main))
        os.kill(os.getpid(), signal.SIGUSR1)


def test_a_signal_interrupts(tree: theus.Engine) -> None:
    def interrupt(number: int, frame: Any) -> None:
        raise Interrupted

    with handler(interrupt):
        helper = InThread(signal_when_asleep, tree, 1)
        with pytest.raises(Interrupted):
            tree.wait("a", timeout=WAIT_S)
        helper.result()
    assert not tree._waiters
    assert tree.wait("a", timeout=0) is None


def test_a_signal_that_is_handled_does_not(tree: theus.Engine) -> None:
    handled: list[int] = []
    with handler(lambda number, frame: handled.append(number)):
        helper = InThread(signal_when_asleep, tree, 3)
        thread = threading.Timer(0.5, tree.write, ("a.n", 2))
        thread.start()
        assert tree.wait("a", timeout=WAIT_S) is not None
        assert tree.read("a.n") == 2
        thread.join()
        with contextlib.suppress(AssertionError):
            helper.result()
    assert handled


def test_closing_the_engine_ends_it(coordinator: theus.Coordinator) -> None:
    engine = theus.connect(coordinator.name)
    engine.write("n", 1)
    waiting = asleep(InThread(engine.wait, "n"), engine)
    watching = InThread(next, engine.watch("n"))
    until(lambda: len(engine._waiters) == 2 and sleeps(watching.thread.native_id))
    engine.close()
    for each in (waiting, watching):
        with pytest.raises(theus.TheusError, match="closed"):
            each.result()
    with pytest.raises(theus.TheusError, match="closed"):
        engine.wait("n", timeout=0)


def test_a_forked_child_waits_for_itself(tree: theus.Engine) -> None:
    changes = tree.watch("other")
    waiting = asleep(InThread(tree.wait, "other"), tree)

    def body() -> int:
        assert tree.wait("other", timeout=0.01) is None
        timer = threading.Timer(0.05, tree.write, ("other", 4))
        timer.start()
        assert next(changes) == (tree.version, ("other",))
        tree.close()
        return 7

    assert run_forked(body) == 7
    assert waiting.result() == tree.version
    assert next(changes) == (tree.version, ("other",))


def test_a_wait_holds_no_version(tree: theus.Engine, other: Worker) -> None:
    waiting = asleep(InThread(tree.wait, "a"), tree)
    other.do(increment, "other", 50)
    stats = tree.stats()
    assert stats["oldest_pin"] == stats["version"]
    tree.write("a.n", 5)
    waiting.result()


# ------------------------------------------------------------------------------ deaths


def test_the_coordinator_is_killed_and_restarted(
    coordinator: theus.Coordinator, tree: theus.Engine, other: Worker
) -> None:
    other.do(increment, "other", 1)
    waiting = asleep(InThread(tree.wait, "a"), tree)
    killed = coordinator.pid
    os.kill(killed, signal.SIGKILL)
    wait_gone(killed)
    until(lambda: coordinator.pid != killed)
    assert waiting.thread.is_alive()
    other.do(write, "a.n", 3)
    assert waiting.result() == tree.version


def wait_forever(pipe: Connection, engine: theus.Engine) -> None:
    pipe.send_bytes(b"ready")
    engine.wait("never")


def test_killed_waiters_leave_nothing(
    tree: theus.Engine, context: BaseContext, other: Worker
) -> None:
    killed = [Reporter(context, wait_forever, tree) for _ in range(4)]
    for each in killed:
        assert each.receive() == b"ready"
        until(lambda pid=each.process.pid: sleeps(pid, pid))
        each.kill()
        each.join()
    waiting = asleep(InThread(tree.wait, "a"), tree)
    other.do(write, "a.n", 3)
    assert waiting.result() == tree.version
    # Nobody is in the table any more once the coordinator has taken their slots back.
    until(lambda: tree.stats()["workers"] == 2)


def commit_for_ever(pipe: Connection, engine: theus.Engine) -> None:
    pipe.send_bytes(b"ready")
    while True:
        increment(engine, "n", 100)


def test_committers_that_are_killed_do_not_lose_a_wake_up(
    engine: theus.Engine, context: BaseContext
) -> None:
    """Each is killed anywhere in its commits; whoever waits knows the last one it made."""
    engine.update({"n": 0})
    rounds = 30 if context.get_start_method() == "fork" else 3
    seen: list[int] = []

    def watch() -> None:
        for version, _ in engine.watch("n", since=0):
            seen.append(engine.read("n"))
            if engine.read("n") < 0:
                return

    watching = InThread(watch)
    for _ in range(rounds):
        committer = Reporter(context, commit_for_ever, engine)
        assert committer.receive() == b"ready"
        until(lambda low=engine.read("n"): engine.read("n") > low)
        committer.kill()
        assert committer.join() == -signal.SIGKILL
        last = engine.read("n")
        until(lambda goal=last: seen and seen[-1] >= goal)
    engine.write("n", -1)
    watching.result()


# ------------------------------------------------------------------------------ watch


def test_watch_tells_what_has_changed_as_it_was_spelled(tree: theus.Engine) -> None:
    changes = tree.watch("a.b", ("other",), "a", ())
    tree.write("other", 1)
    assert next(changes) == (tree.version, (("other",), ()))
    tree.write("a.b.c", 5)
    assert next(changes) == (tree.version, ("a.b", "a", ()))


def test_watch_puts_changes_together_and_keeps_the_last(tree: theus.Engine) -> None:
    changes = tree.watch("other", "a.n")
    for number in range(50):
        tree.write("other", number)
    tree.write("a.n", 9)
    assert next(changes) == (tree.version, ("other", "a.n"))
    waiting = asleep(InThread(next, changes), tree)
    tree.write("other", -1)
    assert waiting.result() == (tree.version, ("other",))


def watch_until(pipe: Connection, engine: theus.Engine, goal: int) -> None:
    changes = engine.watch("n", since=0)
    pipe.send_bytes(b"ready")
    items, last = 0, 0
    for version, paths in changes:
        assert version > last and paths == ("n",)
        items, last = items + 1, version
        if engine.read("n") == goal:
            break
    pipe.send_bytes(f"{items}".encode())


def test_watch_never_misses_the_last_change(engine: theus.Engine, context: BaseContext) -> None:
    engine.write("n", 0)
    watchers = [Reporter(context, watch_until, engine, 3000) for _ in range(2)]
    for each in watchers:
        assert each.receive() == b"ready"
    increment(engine, "n", 3000)
    for each in watchers:
        items = int(each.receive() or b"0")
        assert 1 <= items <= 3001
        assert each.join() == 0


def acknowledge(engine: theus.Engine, bursts: int) -> None:
    """Commits a few changes in a row, then waits until the watcher has seen the last one."""
    for number in range(bursts):
        increment(engine, "n", 1 + number % 3)
        last = engine.read("n")
        while engine.read("seen") != last:
            version = engine.version
            if engine.read("seen") != last:
                assert engine.wait("seen", since=version, timeout=WAIT_S / 3) is not None, number
    engine.write("n", -1)


def test_watch_never_misses_the_last_change_of_a_burst(engine: theus.Engine, other: Worker) -> None:
    engine.update({"n": 0, "seen": 0})
    other.start(acknowledge, 1000)
    watching = InThread(watch_and_answer, engine)
    try:
        other.result()
    finally:
        engine.write("n", -1)
        watching.result()


def watch_and_answer(engine: theus.Engine) -> None:
    for _ in engine.watch("n", since=0):
        value = engine.read("n")
        if value < 0:
            return
        engine.write("seen", value)


def test_watch_since(tree: theus.Engine) -> None:
    first = tree.version
    tree.write("other", 1)
    assert next(tree.watch("other", since=first)) == (tree.version, ("other",))
    with pytest.raises(ValueError, match="the newest is"):
        tree.watch("other", since=tree.version + 1)


def test_watch_is_closed_from_another_thread(tree: theus.Engine) -> None:
    with tree.watch("other") as changes:
        waiting = asleep(InThread(list, changes), tree)
        changes.close()
        assert waiting.result() == []
        assert list(changes) == []
        assert "closed" in repr(changes)
    with tree.watch("a.b") as changes:
        assert repr(changes) == f"Watch('a.b', since={tree.version})"
        tree.write("a.b.c", 2)
    assert list(changes) == [], "closed by the end of its with"


def test_one_watch_is_for_one_loop(tree: theus.Engine) -> None:
    changes = tree.watch("other")
    waiting = asleep(InThread(next, changes), tree)
    with pytest.raises(theus.TheusError, match="elsewhere"):
        next(changes)
    tree.write("other", 1)
    waiting.result()


def test_waits_end_with_the_program(tmp_path: Path) -> None:
    """Daemon threads that wait do not hold up, or break, the interpreter's end."""
    script = tmp_path / "ends.py"
    script.write_text(
        "import asyncio, threading, theus\n"
        "engine = theus.open(initial={'n': 0, 'jobs': {}})\n"
        "def take(ctx):\n"
        "    if not ctx.jobs: ctx.retry()\n"
        "def consume(): asyncio.run(engine.run_async(take))\n"
        "for target in (lambda: engine.wait('n'), lambda: engine.run(take), consume,\n"
        "               lambda: list(engine.watch('n'))):\n"
        "    threading.Thread(target=target, daemon=True).start()\n"
        "while len(engine._waiters) < 4: pass\n"
        "threading.excepthook = lambda args: None\n"
    )
    ends_well(script, 10)


def test_daemon_threads_that_commit_end_with_the_program(tmp_path: Path) -> None:
    script = tmp_path / "ends.py"
    script.write_text(
        "import threading, theus\n"
        "engine = theus.open(initial={'n': 0})\n"
        "def count():\n"
        "    while True: engine.run(lambda ctx: ctx.write('n', sum(range(1000))))\n"
        "for _ in range(4): threading.Thread(target=count, daemon=True).start()\n"
        "while engine.version < 100: pass\n"
        "threading.excepthook = lambda args: None\n"
    )
    ends_well(script, 10)


def ends_well(script: Path, times: int) -> None:
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "Fatal" not in done.stderr and "terminate" not in done.stderr
