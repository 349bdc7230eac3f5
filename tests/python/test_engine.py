"""Engines, transactions and their life: what belongs to no single value."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import os
import pickle
import sys
import threading

import numpy as np
import pytest

import theus
from theus import _attempts


@pytest.fixture(scope="module")
def coordinator():
    with theus.Coordinator(capacity="256 MiB") as running:
        yield running


@pytest.fixture
def engine(coordinator):
    with theus.connect(coordinator.name) as engine:
        engine.run(lambda ctx: ctx.clear())
        yield engine


def in_thread(function, *args):
    """Runs it in another thread; returns its result or raises its exception."""
    result = []

    def work():
        try:
            result.append((function(*args), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    value, error = result[0]
    if error is not None:
        raise error
    return value


def interfere(engine, key="n"):
    """Makes the transaction that is open in this thread lose, if it has read or written `key`."""
    in_thread(engine.run, lambda ctx: ctx.__setitem__(key, (ctx.get(key) or 0) + 100))


# ------------------------------------------------------------------------------ with


def test_leaving_normally_commits_and_exceptions_roll_back(engine):
    with engine.transaction() as ctx:
        ctx.n = 1
    for error in (ValueError, KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(error), engine.transaction() as ctx:
            ctx.n = 2
            raise error
    assert engine.read("n") == 1

    def leave_by_return():
        with engine.transaction() as ctx:
            ctx.n = 3
            return ctx.n

    assert leave_by_return() == 3
    for _ in range(2):
        with engine.transaction() as ctx:
            ctx.n += 1
            break
    assert engine.read("n") == 4


def test_guards_are_for_one_with(engine):
    guard = engine.transaction()
    assert type(guard) is theus.ContextGuard
    with pytest.raises(theus.TheusError):
        guard.__exit__(None, None, None)
    with guard as ctx:
        assert type(ctx) is theus.ProcessContext
        assert type(ctx.transaction) is theus.Transaction
        assert ctx.transaction is ctx.transaction
    with pytest.raises(theus.TheusError, match="entered before"), guard:
        pass
    with contextlib.ExitStack() as stack:
        stack.enter_context(engine.transaction()).n = 7
    assert engine.read("n") == 7
    for misuse in (type(guard).__enter__, lambda: type(guard).__enter__(5), lambda: guard(1)):
        with pytest.raises(TypeError):
            misuse()


def test_conflict_names_path_and_versions(engine):
    engine.write("m", {"n": 1, ("t", 1): 0})
    snapshot = engine.version
    with pytest.raises(theus.ConflictError) as caught, engine.transaction() as ctx:
        ctx.m.n += 1
        in_thread(engine.write, "m.n", 5)
    error = caught.value
    assert error.paths == ("m.n",) and error.snapshot_version == snapshot
    assert error.version == snapshot + 1 and error.winner_pid == os.getpid()
    assert str(error) == (
        f"m.n was changed by pid {os.getpid()} (version {snapshot + 1} > snapshot {snapshot}); "
        "nothing was written; use engine.run(fn) to retry"
    )
    with pytest.raises(theus.ConflictError) as caught, engine.transaction() as ctx:
        ctx.m[("t", 1)] += 1
        in_thread(engine.write, ("m", ("t", 1)), 5)
    assert caught.value.paths == (("m", ("t", 1)),)
    again = pickle.loads(pickle.dumps(error))
    assert again.paths == error.paths and str(again) == str(error)


def test_isolation_levels(engine):
    engine.update({"a": 1, "b": 1})
    with pytest.raises(theus.ConflictError), engine.transaction() as ctx:
        ctx.b = ctx.a
        in_thread(engine.write, "a", 2)
    with engine.transaction(isolation="snapshot", label="quick") as ctx:
        assert ctx.transaction.isolation == "snapshot" and ctx.transaction.label == "quick"
        ctx.b = ctx.a
        in_thread(engine.write, "a", 3)
    assert engine.read("b") == 2
    with pytest.raises(ValueError, match="isolation"):
        engine.transaction(isolation="none")
    with pytest.raises(TypeError):
        engine.transaction(colour="red")


def test_nested_transactions_raise_and_snapshots_do_not(engine):
    engine.write("n", 1)
    with engine.transaction() as ctx:
        with pytest.raises(theus.TheusError, match="pass ctx on"), engine.transaction():
            pass
        with pytest.raises(theus.TheusError, match="pass ctx on"):
            engine.run(lambda other: None)
        with pytest.raises(theus.TheusError):
            engine.write("n", 5)
        with engine.snapshot() as snapshot:
            assert snapshot.n == 1
        assert engine.state["n"] == 1 and engine.read("n") == 1
        ctx.n = 2
    assert engine.read("n") == 2


def test_rollback(engine):
    engine.write("n", 1)
    with engine.transaction() as ctx:
        ctx.n = 2
        ctx.transaction.rollback()
        with pytest.raises(theus.TheusError, match="rolled back"):
            ctx.n
    assert engine.read("n") == 1
    assert (
        engine.run(lambda ctx: (ctx.write("n", 3), ctx.transaction.rollback(), "done")[-1])
        == "done"
    )
    assert engine.read("n") == 1


def test_on_commit(engine, monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    called = []
    engine.write("n", 0)
    with contextlib.suppress(ValueError), engine.transaction() as ctx:
        ctx.transaction.on_commit(lambda: called.append("rolled back"))
        raise ValueError
    with contextlib.suppress(theus.ConflictError), engine.transaction() as ctx:
        ctx.n += 1
        ctx.transaction.on_commit(lambda: called.append("conflicted"))
        interfere(engine)
    with engine.transaction() as ctx:
        ctx.n = 5
        ctx.transaction.on_commit(lambda: called.append(engine.read("n")))
        ctx.transaction.on_commit(lambda: 1 // 0)
        ctx.transaction.on_commit(lambda: called.append("last"))
        assert called == []
    assert called == [5, "last"]
    assert [item.exc_type for item in unraisable] == [ZeroDivisionError]
    with engine.snapshot() as ctx, pytest.raises(theus.ReadOnlyError):
        ctx.transaction.on_commit(print)


def test_threads(engine):
    engine.write("m", {"n": 0})
    with engine.transaction() as ctx:
        m = ctx.m
        for use in (lambda: ctx.m, lambda: m.n, lambda: ctx.write("x", 1), lambda: list(m)):
            with pytest.raises(theus.TheusError, match="thread"):
                in_thread(use)
    with engine.snapshot() as ctx:
        assert in_thread(lambda: ctx.m.n) == 0
    state = engine.state
    assert in_thread(lambda: state["m"]["n"]) == 0

    guard = engine.transaction()
    guard.__enter__().x = 1
    with pytest.raises(theus.TheusError, match="thread"):
        in_thread(guard.__exit__, None, None, None)
    assert engine.read("x", None) is None
    snapshot = engine.snapshot()
    snapshot.__enter__()
    in_thread(snapshot.__exit__, None, None, None)

    def count():
        for _ in range(100):
            engine.run(lambda ctx: ctx.m.__setitem__("n", ctx.m.n + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert engine.read("m.n") == 400


def test_asyncio_tasks_may_interleave(engine):
    engine.update({"a": 0, "b": 0})

    async def work(key, ready, go):
        with engine.transaction() as ctx:
            ctx[key] += 1
            ready.set()
            await go.wait()
            with pytest.raises(theus.TheusError, match="pass ctx on"), engine.transaction():
                pass

    async def main():
        first, second = asyncio.Event(), asyncio.Event()
        await asyncio.gather(work("a", first, second), work("b", second, first))
        return await engine.run_async(lambda ctx: ctx.a + ctx.b)

    assert asyncio.run(main()) == 2


def test_suspended_generators(engine):
    engine.write("n", 1)

    def read():
        with engine.snapshot() as ctx:
            yield ctx.n
            yield ctx.n

    generator = read()
    assert next(generator) == 1
    engine.write("n", 2)
    assert next(generator) == 1
    in_thread(generator.close)


# ------------------------------------------------------------------------------ run


def test_run_retries_and_returns(engine):
    engine.write("n", 0)
    seen = []

    def body(ctx, amount, *, factor=1):
        seen.append(ctx.n)
        ctx.n += amount * factor
        if len(seen) < 3:
            interfere(engine)
        return ctx.n

    assert engine.run(body, 5, factor=2) == 210
    assert seen == [0, 100, 200]


@pytest.mark.parametrize("retries", [0, 1, 6])
def test_retries_are_bounded(engine, retries):
    engine.write("n", 0)
    executions = []

    def body(ctx):
        executions.append(ctx.n)
        ctx.n += 1
        # A commit that counts as another's, made where no turn can keep it away: by this process.
        interfere(engine)

    with pytest.raises(theus.RetriesExhausted) as caught:
        engine.run(body, retries=retries)
    assert caught.value.attempts == len(executions) == retries + 1
    assert isinstance(caught.value.__cause__, theus.ConflictError)
    assert caught.value.__cause__.paths == ("n",)


def test_run_retries_only_its_own_conflict(engine):
    executions = []

    def body(ctx):
        executions.append(1)
        raise theus.ConflictError("somebody else's")

    with pytest.raises(theus.ConflictError, match="somebody else's"):
        engine.run(body)
    assert len(executions) == 1


async def coroutine(ctx):
    pass


async def async_generator(ctx):
    yield ctx


def generator(ctx):
    yield ctx


class Methods:
    def method(self, ctx):
        yield ctx

    async def __call__(self, ctx):
        pass


@pytest.mark.parametrize(
    "function",
    [
        coroutine,
        async_generator,
        generator,
        functools.partial(generator),
        Methods().method,
        Methods(),
        lambda ctx: (item for item in "abc"),
    ],
    ids=lambda function: getattr(function, "__name__", type(function).__name__),
)
def test_lazy_functions_are_refused(engine, function):
    with pytest.raises(TypeError, match="coroutine or generator"):
        engine.run(function)
    if inspect.isfunction(function) and function.__name__ != "<lambda>":
        with pytest.raises(TypeError):
            engine.process(function)


def test_run_arguments(engine):
    with pytest.raises(TypeError):
        engine.run()
    with pytest.raises(TypeError):
        engine.run(5)
    with pytest.raises(ValueError):
        engine.run(lambda ctx: None, retries=-1)
    with pytest.raises(TypeError):
        engine.run(lambda ctx: None, 1)
    many = list(range(40))
    assert engine.run(lambda ctx, *args, **kw: (list(args), kw), *many, a=1) == (many, {"a": 1})
    assert engine.run(lambda ctx: 5, timeout=1.0) == 5


def test_returned_proxies_are_converted(engine):
    engine.update({"m": {"a": [1]}, "w": np.arange(3.0), "l": [[1]]})
    assert type(engine.run(lambda ctx: ctx.m)) is dict
    assert type(engine.run(lambda ctx: ctx.l[0])) is list
    assert engine.run(lambda ctx: (ctx.m, ctx.l)) == ({"a": [1]}, [[1]])
    assert engine.run(lambda ctx: ctx)["m"] == {"a": [1]}
    view = engine.run(lambda ctx: ctx.w)
    assert type(view) is np.ndarray and not view.flags.writeable

    def double(ctx):
        ctx.w *= 2
        return ctx.w

    changed = engine.run(double)
    engine.write("w", np.zeros(3))
    assert list(changed) == [0, 2, 4] and not changed.flags.writeable
    assert list(view) == [0, 1, 2]


def test_process(engine):
    engine.write("n", 1)

    @engine.process()
    def add(ctx, amount, retries=0):
        """Adds."""
        ctx.n += amount + retries
        return ctx.n

    @engine.process(semantic="pure")
    def look(ctx, name):
        return ctx[name]

    @engine.process
    def plain(ctx):
        return ctx.n

    @engine.process(semantic="pure")
    def cheat(ctx):
        ctx.n = 5

    assert add(1) == 2 and add(1, retries=10) == 13 and plain() == 13
    assert add.__name__ == "add" and add.__doc__ == "Adds."
    assert look("n") == look(name="n") == 13
    with pytest.raises(theus.ReadOnlyError):
        cheat()
    with pytest.raises(TypeError):
        engine.process(colour="red")
    with pytest.raises(ValueError):
        engine.process(semantic="maybe")


# ------------------------------------------------------------------------------ attempts


def test_attempts(engine):
    engine.write("n", 0)
    tried = []
    for attempt in engine.attempts(5):
        with attempt as ctx:
            tried.append(ctx.n)
            ctx.n += 1
            if len(tried) < 3:
                interfere(engine)
        assert attempt.committed == (len(tried) == 3)
    assert tried == [0, 100, 200] and engine.read("n") == 201


def test_the_last_attempt_raises(engine):
    engine.write("n", 0)
    count = 0
    with pytest.raises(theus.RetriesExhausted) as caught:
        for attempt in engine.attempts(3):
            with attempt as ctx:
                count += 1
                ctx.n += 1
                interfere(engine)
    assert count == caught.value.attempts == 3


def leave_by_return(engine):
    for attempt in engine.attempts(5):
        with attempt as ctx:
            ctx.n += 1
            interfere(engine)
            return ctx.n


def leave_by_bare_return(engine):
    for _ in range(2):
        for attempt in engine.attempts(5):
            with attempt as ctx:
                ctx.n += 1
                interfere(engine)
                return


def leave_by_break(engine):
    for _ in range(1):
        for attempt in engine.attempts(5):
            with attempt as ctx:
                ctx.n += 1
                interfere(engine)
                break
        print("after the loop")


def leave_sometimes(engine):
    for attempt in engine.attempts(5):
        try:
            with attempt as ctx:
                ctx.n += 1
                interfere(engine)
                if ctx.n:
                    break
        finally:
            print("cleaning up")


@pytest.mark.parametrize(
    "leave", [leave_by_return, leave_by_bare_return, leave_by_break, leave_sometimes]
)
def test_leaving_the_loop_after_a_conflict_raises(engine, leave):
    engine.write("n", 0)
    with pytest.raises(theus.ConflictError):
        leave(engine)
    assert engine.read("n") == 100


@pytest.mark.parametrize("leave", [leave_by_return, leave_by_break, leave_sometimes])
def test_leaving_the_loop_after_a_commit_is_fine(engine, leave, monkeypatch):
    monkeypatch.setitem(globals(), "interfere", lambda engine: None)
    engine.write("n", 0)
    leave(engine)
    assert engine.read("n") == 1


def test_where_leaving_cannot_be_seen_the_finalizer_reports(engine, monkeypatch):
    reports = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)
    engine.write("n", 0)

    def fetch(loop):
        return next(loop)

    loop = engine.attempts(5)
    with fetch(loop) as ctx:
        ctx.n += 1
        interfere(engine)
    del loop, ctx
    gc.collect()
    assert [report.exc_type for report in reports] == [theus.ConflictError]


def test_bytecode_walk_knows_every_loop():
    """Each way out of the functions above is told from the normal end."""

    def stays(engine):
        for attempt in engine.attempts(5):
            with attempt as ctx:
                ctx.n += 1
            print("more")
            if attempt.committed:
                print("yes")

    for function, leaves in ((stays, False), (leave_by_return, True), (leave_by_break, True)):
        import dis

        instructions = list(dis.get_instructions(function.__code__))
        loops = [item.offset for item in instructions if item.opname == "FOR_ITER"]
        calls = [
            item.offset
            for item in instructions
            if item.opname in ("CALL", "CALL_FUNCTION", "PRECALL") and item.argval in (2, 3)
        ]
        reached = [_attempts._reaches(function.__code__, call, loops[-1]) for call in calls]
        assert (False in reached) == leaves, function


def test_exceptions_leave_the_loop(engine):
    engine.write("n", 0)
    with pytest.raises(ZeroDivisionError):
        for attempt in engine.attempts(5):
            with attempt as ctx:
                ctx.n += 1
                ctx.n //= 0
    assert engine.read("n") == 0
    for bad in (0, -1, True, 1.5):
        with pytest.raises(ValueError):
            engine.attempts(bad)
