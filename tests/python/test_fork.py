"""Engines in children: bare fork, Process, Pool, ProcessPoolExecutor."""

from __future__ import annotations

import gc
import multiprocessing.reduction
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import theus
from helpers import START_METHODS, WAIT_S, run_forked


@pytest.fixture
def engine(engine: theus.Engine) -> theus.Engine:
    engine.update({"n": 0, "m": {"k": "v"}, "array": np.arange(1000)})
    return engine


def add(engine: theus.Engine, amount: int) -> int:
    def body(ctx: Any) -> int:
        ctx.n += amount
        return ctx.n

    return engine.run(body, retries=1000)


def test_a_forked_child_has_the_engine(engine: theus.Engine) -> None:
    add(engine, 1)

    def child() -> int:
        assert engine.state["n"] == 1
        assert add(engine, 10) == 11
        assert engine.state["n"] == 11
        return 0

    assert run_forked(child) == 0
    assert engine.state["n"] == 11
    assert add(engine, 1) == 12


def test_grandchildren(engine: theus.Engine) -> None:
    def grandchild() -> int:
        add(engine, 100)
        return 0

    def child() -> int:
        add(engine, 10)
        assert run_forked(grandchild) == 0
        add(engine, 10)
        return 0

    assert run_forked(child) == 0
    assert engine.state["n"] == 120


def test_parent_and_child_at_once(engine: theus.Engine) -> None:
    def child() -> int:
        for _ in range(500):
            add(engine, 1)
        return 0

    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os._exit(child())
        pids.append(pid)
    for _ in range(500):
        add(engine, 1)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    assert engine.state["n"] == 2000


def test_the_parents_transaction_in_a_child(engine: theus.Engine) -> None:
    guard = engine.transaction()
    with guard as ctx:
        ctx.n = 5
        mapping = ctx.m

        def child() -> int:
            for use in (
                lambda: ctx.n,
                lambda: ctx.write("n", 6),
                lambda: mapping["k"],
                lambda: ctx.transaction.rollback(),
            ):
                with pytest.raises(theus.TheusError, match="fork"):
                    use()
            assert not guard.__exit__(None, None, None)
            assert engine.state["n"] == 0
            engine.write("own", 1)  # a transaction of its own
            return 0

        assert run_forked(child) == 0
        # The parent's is as open as before, and its pin stands.
        assert ctx.n == 5
        assert mapping["k"] == "v"
    assert engine.state["n"] == 5


@pytest.mark.parametrize("error", [None, ValueError])
def test_leaving_the_parents_with_in_a_child_does_not_commit(
    error: type[Exception] | None, engine: theus.Engine
) -> None:
    pid, status, seen = -1, -1, -1
    try:
        with engine.transaction() as ctx:
            ctx.n = 7
            pid = os.fork()
            if pid == 0 and error is not None:
                raise error
            if pid != 0:
                status = os.waitpid(pid, 0)[1]
                seen = engine.state["n"]
    except BaseException as raised:
        if pid == 0:
            os._exit(0 if type(raised) is error else 1)
        raise
    if pid == 0:
        os._exit(0)
    assert status == 0
    assert seen == 0
    assert engine.state["n"] == 7


def test_a_view_of_the_parents(engine: theus.Engine) -> None:
    view = engine.state["array"]

    def child() -> int:
        for n in range(50):
            engine.write("array", np.full(1000, n))
        assert np.array_equal(view, np.arange(1000))
        return 0

    assert run_forked(child) == 0
    assert np.array_equal(view, np.arange(1000))


def test_what_a_child_lets_go_of_is_still_the_parents(engine: theus.Engine) -> None:
    """A child that collects inherited views must not release the parent's pins."""
    views = [engine.state["array"]]

    def child() -> int:
        views.clear()
        gc.collect()
        return 0

    assert run_forked(child) == 0
    for n in range(50):
        engine.write("array", np.full(1000, n))
    assert np.array_equal(views[0], np.arange(1000))


def test_fork_while_other_threads_commit(engine: theus.Engine) -> None:
    stop = threading.Event()
    done = [0, 0]

    def commit(number: int) -> None:
        while not stop.is_set():
            add(engine, 1)
            done[number] += 1

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()

    def child() -> int:
        add(engine, 1)
        return 0

    try:
        for _ in range(20):
            assert run_forked(child) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert engine.state["n"] == sum(done) + 20


def test_process(context: BaseContext, engine: theus.Engine) -> None:
    jobs = [context.Process(target=add, args=(engine, 1)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(WAIT_S)
        assert job.exitcode == 0
    assert engine.state["n"] == 3


def test_pool(context: BaseContext, engine: theus.Engine) -> None:
    with context.Pool(3) as pool:
        results = pool.starmap(add, [(engine, 1)] * 60)
    assert sorted(results) == list(range(1, 61))
    assert engine.state["n"] == 60


_inherited: list[theus.Engine] = []


def remember(engine: theus.Engine) -> None:
    _inherited.append(engine)


def add_to_remembered(amount: int) -> int:
    return add(_inherited[-1], amount)


def test_pool_initializer(context: BaseContext, engine: theus.Engine) -> None:
    with context.Pool(2, initializer=remember, initargs=(engine,), maxtasksperchild=5) as pool:
        results = pool.map(add_to_remembered, [1] * 40, chunksize=1)
    assert sorted(results) == list(range(1, 41))


def test_process_pool_executor(context: BaseContext, engine: theus.Engine) -> None:
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        results = list(executor.map(add, [engine] * 30, [1] * 30))
    assert sorted(results) == list(range(1, 31))


def test_engine_survives_pickling_and_closing(engine: theus.Engine) -> None:
    again = multiprocessing.reduction.ForkingPickler.loads(
        multiprocessing.reduction.ForkingPickler.dumps(engine)
    )
    add(again, 1)
    again.close()
    with pytest.raises(theus.TheusError):
        add(again, 1)
    assert add(engine, 1) == 2


# --- theus.open() without a name: one coordinator for a program and its children

OPEN_IN_CHILDREN = textwrap.dedent("""
    import multiprocessing, sys, theus

    def work(pipe):
        with theus.open() as engine:
            engine.run(lambda ctx: ctx.write("n", ctx.n + 1), retries=1000)
            pipe.send(engine.name)

    def nothing():
        pass

    if __name__ == "__main__":
        multiprocessing.set_start_method(sys.argv[1])
        if sys.argv[2] == "before":      # so that a fork server is there before the coordinator
            early = multiprocessing.Process(target=nothing)
            early.start()
            early.join()
        with theus.open(initial={"n": 0}) as engine, theus.open() as same:
            assert engine.name == same.name
            ours, theirs = multiprocessing.Pipe()
            jobs = [multiprocessing.Process(target=work, args=(theirs,)) for _ in range(3)]
            for job in jobs: job.start()
            for job in jobs: job.join()
            assert [job.exitcode for job in jobs] == [0, 0, 0]
            assert {ours.recv() for _ in jobs} == {engine.name}
            print(engine.state["n"])
""")

OPEN_FIRST_IN_A_CHILD = textwrap.dedent("""
    import multiprocessing, sys, theus

    def work(pipe):
        try:
            theus.open()
        except theus.CoordinatorNotFound:
            pipe.send("not found")
        else:
            pipe.send("found")

    if __name__ == "__main__":
        multiprocessing.set_start_method(sys.argv[1])
        ours, theirs = multiprocessing.Pipe()
        job = multiprocessing.Process(target=work, args=(theirs,))
        job.start()
        job.join()
        print(ours.recv())
""")


def run_script(folder: Path, text: str, *arguments: str) -> str:
    script = folder / "script.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("first", ["before", "after"])
def test_open_in_children(start_method: str, first: str, tmp_path: Path) -> None:
    assert run_script(tmp_path, OPEN_IN_CHILDREN, start_method, first) == "3\n"


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_child_never_starts_a_coordinator(start_method: str, tmp_path: Path) -> None:
    assert run_script(tmp_path, OPEN_FIRST_IN_A_CHILD, start_method) == "not found\n"


def test_initial_is_created_by_whoever_comes_first(engine: theus.Engine) -> None:
    def child() -> int:
        with theus.open(engine.name, initial={"n": "not taken", "fresh": []}) as own:
            assert own.state["n"] == 0
            own.run(lambda ctx: ctx.fresh.append(1))
        return 0

    for _ in range(3):
        assert run_forked(child) == 0
    assert theus.plain(engine.state["fresh"]) == [1, 1, 1]
    assert engine.state["n"] == 0
