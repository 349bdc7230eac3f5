"""What a forked child inherits and keeps: arrays, States, snapshots."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import theus
from helpers import WAIT_S, forked, run_forked, until, wait_gone


@pytest.fixture
def engine(engine: theus.Engine) -> theus.Engine:
    engine.update({"n": 0, "m": {"k": "v"}, "array": np.arange(1000)})
    return engine


def overwrite_everything(engine: theus.Engine) -> None:
    """Commits until whatever nothing keeps has been used for something else."""
    for n in range(300):
        engine.update({"n": n, "m": {"k": str(n)}, "array": np.full(1000, -1)})


class Talker:
    """A bare os.fork() child that runs body(ask): ask() waits until the test says go on."""

    def __init__(self, body: Callable[[Callable[[], None]], None]) -> None:
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(WAIT_S)
        theirs.settimeout(WAIT_S)

        def serve() -> int:
            self._ours.close()

            def ask() -> None:
                theirs.send(b"?")
                assert theirs.recv(1) == b"!"

            body(ask)
            return 0

        self._forked = forked(serve)
        self.pid = self._forked.__enter__()
        theirs.close()

    def asks(self) -> None:
        """Waits until it asks."""
        assert self._ours.recv(1) == b"?", "the child has ended"

    def go_on(self) -> None:
        self._ours.send(b"!")

    def status(self) -> int:
        wait_gone(self.pid)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_child_keeps_what_it_inherits(engine: theus.Engine) -> None:
    """Whatever the parent releases and overwrites: array, State, open snapshot."""
    states, held = [engine.state], [engine.state["array"]]
    guard = engine.snapshot()
    ctx = guard.__enter__()

    def child(ask: Callable[[], None]) -> None:
        ask()
        for _ in range(3):
            assert np.array_equal(held[0], np.arange(1000))
            assert np.array_equal(states[0]["array"], np.arange(1000))
            assert states[0]["m"]["k"] == "v"
            assert states[0]["n"] == 0
            assert theus.plain(ctx.m) == {"k": "v"}
            assert [*ctx] == ["n", "m", "array"]
            assert engine.read("n") == 299  # through a session of its own
            engine.write("own", theus.plain(states[0]["m"]))
            ask()

    talker = Talker(child)
    talker.asks()
    guard.__exit__(None, None, None)
    held.clear()
    states.clear()
    for _ in range(3):
        overwrite_everything(engine)
        talker.go_on()
        talker.asks()
        assert theus.plain(engine.state["own"]) == {"k": "v"}
    talker.go_on()
    assert talker.status() == 0


def test_a_child_outlives_its_parent(coordinator: theus.Coordinator, tmp_path: Path) -> None:
    """The parent is killed and evicted; the child still shows what it inherited."""
    script = """
        import os, sys, numpy as np, theus
        engine = theus.connect(sys.argv[1])
        engine.update({"m": {"k": "v"}, "array": np.arange(1000)})
        state = engine.state
        view = state["array"]
        if os.fork() == 0:
            assert sys.stdin.readline().strip() == "look"
            good = np.array_equal(view, np.arange(1000)) and state["m"]["k"] == "v"
            print("good" if good else "bad", flush=True)
            os._exit(0)
        print(os.getpid(), flush=True)
        os.wait()
    """
    path = tmp_path / "parent.py"
    path.write_text(textwrap.dedent(script))
    with (
        theus.connect(coordinator.name) as engine,
        subprocess.Popen(
            [sys.executable, str(path), coordinator.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as parent,
    ):
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) == parent.pid
        assert engine.stats()["workers"] == 2
        parent.kill()
        until(lambda: engine.stats()["workers"] == 1)
        overwrite_everything(engine)
        parent.stdin.write("look\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "good\n"


def test_memory_comes_back_from_a_child(engine: theus.Engine) -> None:
    """What a child lets go of, or dies with, is free again; what it holds is not."""
    size = 8 << 20
    engine.write("array", np.zeros(size, np.uint8))
    held = [engine.state["array"]]

    def child(ask: Callable[[], None]) -> None:
        ask()
        held.clear()
        gc.collect()
        ask()

    def used() -> int:
        engine.run(lambda ctx: ctx.write("n", ctx.n + 1))
        used_bytes: int = engine.stats()["used_bytes"]
        return used_bytes

    for way in ("release", "death"):
        talker = Talker(child)
        talker.asks()
        before = used()
        held.clear()
        gc.collect()
        engine.write("array", np.zeros(size, np.uint8))
        for _ in range(500):
            assert used() >= before + size
        if way == "release":
            talker.go_on()
            talker.asks()
        else:
            os.kill(talker.pid, signal.SIGKILL)
        until(lambda before=before: used() < before + size)
        if way == "release":
            talker.go_on()
        assert talker.status() == (0 if way == "release" else -signal.SIGKILL)
        held.append(engine.state["array"])


def test_without_a_spare_slot_nothing_wrong_is_seen(
    coordinator: theus.Coordinator, engine: theus.Engine
) -> None:
    state = engine.state
    view = state["array"]
    # Asked for before: the answer comes from the coordinator.
    pids = (coordinator.parent_pid, coordinator.pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        # The first uses the spare slot that there is, if the coordinator has told us of it.
        first = Talker(lambda ask: ask())
        first.asks()

        def child() -> int:
            for use in (lambda: state["n"], lambda: state["m"]["k"], lambda: len(state)):
                with pytest.raises(theus.TheusError, match="spare slot"):
                    use()
            with pytest.raises(BufferError, match="spare slot"):
                memoryview(view.base.obj if isinstance(view.base, memoryview) else view.base)
            repr(state)
            return 0

        assert run_forked(child) == 0
        assert run_forked(lambda: int(view[0])) == -signal.SIGSEGV
        first.go_on()
        assert first.status() == 0
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
    assert np.array_equal(view, np.arange(1000))
    assert state["m"]["k"] == "v"
    # The coordinator answers again, and so the next child has its slot.
    until(lambda: run_forked(lambda: int(not np.array_equal(view, np.arange(1000)))) == 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_coordinator_is_killed(
    when: str, coordinator: theus.Coordinator, engine: theus.Engine
) -> None:
    states = [engine.state]
    assert run_forked(lambda: int(states[0]["n"])) == 0

    def child(ask: Callable[[], None]) -> None:
        ask()
        assert states[0]["m"]["k"] == "v"
        assert np.array_equal(states[0]["array"], np.arange(1000))

    def kill() -> None:
        pid = coordinator.pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: engine.stats()["coordinator_pid"] != pid)

    if when == "before":
        kill()
    talker = Talker(child)
    talker.asks()
    if when == "after":
        kill()
    states.clear()
    overwrite_everything(engine)
    talker.go_on()
    assert talker.status() == 0


def test_a_grandchild_keeps_what_it_inherits(engine: theus.Engine) -> None:
    held = [engine.state]

    def grandchild(ask: Callable[[], None]) -> None:
        ask()
        assert held[0]["m"]["k"] == "v"
        assert np.array_equal(held[0]["array"], np.arange(1000))

    def child(ask: Callable[[], None]) -> None:
        talker = Talker(grandchild)
        talker.asks()
        held.clear()
        ask()
        talker.go_on()
        assert talker.status() == 0

    talker = Talker(child)
    talker.asks()
    held.clear()
    gc.collect()
    overwrite_everything(engine)
    talker.go_on()
    assert talker.status() == 0


@pytest.mark.parametrize("method", ["Process", "Pool"])
def test_multiprocessing_by_fork_hands_views_on(method: str, engine: theus.Engine) -> None:
    context = multiprocessing.get_context("fork")
    state = engine.state
    _inherited_states.append(state)
    del state
    try:
        if method == "Process":
            jobs = [context.Process(target=look_at_inherited, args=(0,)) for _ in range(4)]
            for job in jobs:
                job.start()
            _inherited_states.clear()
            overwrite_everything(engine)
            for job in jobs:
                job.join(WAIT_S)
                assert job.exitcode == 0
        else:
            with context.Pool(4) as pool:
                _inherited_states.clear()
                overwrite_everything(engine)
                assert pool.map(look_at_inherited, range(40)) == list(range(40))
    finally:
        _inherited_states.clear()
    assert engine.stats()["workers"] == 1, "children that only hold views are no workers"


_inherited_states: list[theus.State] = []


def look_at_inherited(number: int) -> int:
    assert _inherited_states[0]["m"]["k"] == "v"
    assert np.array_equal(_inherited_states[0]["array"], np.arange(1000))
    return number


def test_views_while_other_threads_commit(engine: theus.Engine) -> None:
    stop = threading.Event()

    def commit() -> None:
        while not stop.is_set():
            overwrite_everything(engine)

    threads = [threading.Thread(target=commit) for _ in range(2)]
    view = engine.state["array"]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with engine.snapshot() as ctx:
                n, k = ctx.n, ctx.m["k"]

                def child(ctx: Any = ctx, n: int = n, k: str = k) -> int:
                    for _ in range(20):
                        assert np.array_equal(view, np.arange(1000))
                        assert (ctx.n, ctx.m["k"]) == (n, k)
                    return 0

                assert run_forked(child) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)


def test_subprocesses_hold_no_slot(engine: theus.Engine) -> None:
    """fork and exec: with preexec_fn subprocess forks, handlers and all."""
    state = engine.state
    size = 8 << 20
    engine.write("array", np.zeros(size, np.uint8))
    view = [engine.state["array"]]
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, preexec_fn=lambda: None
    ) as process:
        view.clear()
        before = engine.stats()["used_bytes"]
        engine.write("array", 0)
        del state

        def used() -> int:
            engine.run(lambda ctx: ctx.write("n", ctx.n + 1))
            used_bytes: int = engine.stats()["used_bytes"]
            return used_bytes

        until(lambda: used() <= before - size)
        assert process.poll() is None
        process.communicate(b"\n")
