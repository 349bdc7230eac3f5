"""SPEC section 7, and the messages: what happened, to which path, and what to do."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import theus
from helpers import WAIT_S, Worker, write


@pytest.fixture
def engine(engine: theus.Engine) -> theus.Engine:
    engine.update({"domain": {"counter": 0, "orders": {"o1": {"qty": 1}}}, "tags": [1]})
    return engine


def message(error: type[BaseException], body: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        body()
    return str(caught.value)


def test_the_hierarchy() -> None:
    transient = (
        theus.ConflictError, theus.RetriesExhausted, theus.SnapshotTooOld, theus.CoordinatorLost,
    )  # fmt: skip
    for error in transient:
        assert issubclass(error, theus.TransientError)
    for error in (
        theus.TransientError, theus.ReadOnlyError, theus.EncodeError, theus.DecodeError,
        theus.CapacityError, theus.CoordinatorNotFound, theus.VersionMismatch, theus.CommitUnknown,
    ):  # fmt: skip
        assert issubclass(error, theus.TheusError)
    assert not issubclass(theus.CommitUnknown, theus.TransientError)
    assert issubclass(theus.CapacityError, MemoryError)


def test_conflict(engine: theus.Engine, other: Worker) -> None:
    with pytest.raises(theus.ConflictError) as caught:
        with engine.transaction() as ctx:
            snapshot = ctx.transaction.snapshot_version
            ctx.domain.counter += 1
            other.do(write, "domain.counter", 5)
    error = caught.value
    assert list(error.paths) == ["domain.counter"]
    assert error.winner_pid == other.pid
    assert error.snapshot_version == snapshot
    assert str(error) == (
        f"domain.counter was changed by pid {other.pid} (version {snapshot + 1} > snapshot "
        f"{snapshot}); nothing was written; use engine.run(fn) to retry"
    )


def test_conflict_about_the_keys_of_a_mapping(engine: theus.Engine, other: Worker) -> None:
    with pytest.raises(theus.ConflictError) as caught:
        with engine.transaction() as ctx:
            ctx.domain.counter = len(ctx.domain.orders)
            other.do(write, "domain.orders.o2", {"qty": 1})
    assert list(caught.value.paths) == ["domain.orders"]
    assert "domain.orders" in str(caught.value)


def test_paths_that_are_no_strings(engine: theus.Engine, other: Worker) -> None:
    engine.write("rows", {7: 0, "a.b": 0})
    for path in (("rows", 7), ("rows", "a.b")):
        with pytest.raises(theus.ConflictError) as caught:
            with engine.transaction() as ctx:
                ctx.write(path, 1)
                other.do(write, path, 2)
        assert list(caught.value.paths) == [path]


def test_retries_exhausted(engine: theus.Engine, other: Worker) -> None:
    def body(ctx: Any) -> None:
        ctx.domain.counter += 1
        other.do(write, "domain.counter", 0)

    with pytest.raises(theus.RetriesExhausted) as caught:
        engine.run(body, retries=2)
    assert caught.value.attempts == 3
    assert "domain.counter" in str(caught.value)
    with pytest.raises(theus.RetriesExhausted) as caught:
        engine.run(body, retries=0)
    assert caught.value.attempts == 1
    assert engine.state["domain"]["counter"] == 0


def test_only_ones_own_conflict_is_retried(engine: theus.Engine) -> None:
    executions = 0

    def body(ctx: Any) -> None:
        nonlocal executions
        executions += 1
        raise theus.RetriesExhausted("of something else")

    with pytest.raises(theus.RetriesExhausted, match="of something else"):
        engine.run(body)
    assert executions == 1


def test_missing_names(engine: theus.Engine) -> None:
    with engine.snapshot() as ctx:
        assert "counter" in message(KeyError, lambda: ctx.domain["countr"])
        assert "counter" in message(AttributeError, lambda: ctx.domain.countr)
        text = message(KeyError, lambda: ctx["domain.counter"])
        assert "ctx.read('domain.counter')" in text.replace('"', "'")
        assert not hasattr(ctx.domain, "nothing")


def test_missing_parent(engine: theus.Engine) -> None:
    assert "domain.nowhere" in message(KeyError, lambda: engine.write("domain.nowhere.x", 1))
    assert "nowhere" not in engine.state["domain"]


@pytest.mark.parametrize("path", ["", ".", "a..b", ".a", "a."])
def test_empty_segments(path: str, engine: theus.Engine) -> None:
    assert message(ValueError, lambda: engine.read(path, None))
    assert message(ValueError, lambda: engine.write(path, 1))


def test_paths_stop_at_leaves(engine: theus.Engine) -> None:
    assert "tags" in message(Exception, lambda: engine.read(("tags", 0), None))
    assert "counter" in message(Exception, lambda: engine.read("domain.counter.x", None))


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(),
        lambda: 1,
        (n for n in range(3)),
        [1, {"deep": [threading.Lock()]}],
        {"in a mapping": {"here": threading.Lock()}},
    ],
    ids=["lock", "lambda", "generator", "in a list", "in a mapping"],
)
def test_what_cannot_be_stored(value: object, engine: theus.Engine) -> None:
    before = repr(engine.state.to_dict())
    text = message(theus.EncodeError, lambda: engine.write("domain.bad", value))
    assert "domain.bad" in text
    with engine.transaction() as ctx:
        with contextlib.suppress(theus.EncodeError):
            ctx.domain.bad = value
        assert "bad" not in ctx.domain
        with contextlib.suppress(theus.EncodeError):
            ctx.domain.counter = value
        assert ctx.domain.counter == 0
    assert repr(engine.state.to_dict()) == before


def test_engines_and_contexts_cannot_be_stored(engine: theus.Engine) -> None:
    assert "me" in message(theus.EncodeError, lambda: engine.write("me", engine))
    with engine.transaction() as ctx:
        assert "me" in message(theus.EncodeError, lambda: ctx.write("me", ctx))
        assert "me" in message(theus.EncodeError, lambda: ctx.write("me", [ctx]))


def test_a_cycle_through_dicts(engine: theus.Engine) -> None:
    cycle: dict[str, Any] = {"x": {}}
    cycle["x"]["back"] = cycle
    assert "cycle" in message(theus.EncodeError, lambda: engine.write("cycle", cycle))
    assert "cycle" not in engine.state


def test_nesting_without_end(engine: theus.Engine) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"d": deep}
    message(theus.EncodeError, lambda: engine.write("deep", deep))
    assert "deep" not in engine.state


@pytest.mark.parametrize("key", [[1], object(), float("nan"), (1, float("nan")), {1: 2}])
def test_bad_keys(key: object, engine: theus.Engine) -> None:
    with engine.transaction() as ctx:
        with pytest.raises((theus.EncodeError, TypeError)) as caught:
            ctx.domain[key] = 1
        assert "domain" in str(caught.value) or isinstance(caught.value, TypeError)
        assert list(ctx.domain) == ["counter", "orders"]


def test_a_failing_encoding_at_commit_names_the_path(engine: theus.Engine) -> None:
    with pytest.raises(theus.EncodeError, match="tags"):
        with engine.transaction() as ctx:
            ctx.domain.counter = 1
            ctx.transaction.get_shadow("tags").append(threading.Lock())
    assert engine.state["domain"]["counter"] == 0
    assert theus.plain(engine.state["tags"]) == [1]


def test_after_the_end(engine: theus.Engine) -> None:
    with engine.transaction() as ctx:
        orders = ctx.domain.orders
    for use in (lambda: ctx.domain, lambda: ctx.write("n", 1)):
        assert message(theus.TheusError, use)
    text = message(theus.TheusError, lambda: orders["o1"])
    assert "domain.orders" in text
    assert "theus.plain" in text
    assert repr(orders)
    assert repr(ctx)


def test_another_thread(engine: theus.Engine) -> None:
    caught: list[BaseException] = []

    def use(ctx: Any) -> None:
        try:
            ctx.domain.counter = 5
        except theus.TheusError as error:
            caught.append(error)

    with engine.transaction() as ctx:
        thread = threading.Thread(target=use, args=(ctx,))
        thread.start()
        thread.join()
    assert "thread" in str(caught[0])
    assert engine.state["domain"]["counter"] == 0


def test_nested_transactions(engine: theus.Engine) -> None:
    with engine.transaction() as ctx:
        for nested in (
            lambda: engine.transaction().__enter__(),
            lambda: engine.run(lambda ctx: None),
        ):
            assert "ctx on" in message(theus.TheusError, nested)
        with engine.snapshot() as snapshot:  # these two are allowed
            assert snapshot.domain.counter == 0
        assert engine.state["domain"]["counter"] == 0
        ctx.domain.counter = 1
    assert engine.state["domain"]["counter"] == 1


def test_coroutines_and_generators(engine: theus.Engine) -> None:
    async def coroutine(ctx: Any) -> None:
        ctx.domain.counter = 1

    def generator(ctx: Any) -> Any:
        yield ctx.domain.counter

    for function in (coroutine, generator):
        message(TypeError, lambda function=function: engine.run(function))
        message(TypeError, lambda function=function: engine.process()(function))


def test_unknown_arguments(engine: theus.Engine) -> None:
    message(TypeError, lambda: engine.process(retry=3))
    message(ValueError, lambda: engine.process(semantic="sideways"))
    message(ValueError, lambda: engine.transaction(isolation="read committed").__enter__())


def test_reserved_names(engine: theus.Engine) -> None:
    with engine.transaction() as ctx:
        with pytest.raises(AttributeError):
            ctx.transaction = 1
        with pytest.raises(AttributeError):
            ctx.domain.update = 1
        ctx["transaction"] = 1
        ctx.domain["update"] = 2
    assert engine.state["transaction"] == 1
    assert engine.state["domain"]["update"] == 2


def test_a_closed_engine(engine: theus.Engine) -> None:
    engine.close()
    engine.close()
    assert "closed" in message(theus.TheusError, lambda: engine.state)
    assert "closed" in message(theus.TheusError, lambda: engine.run(lambda ctx: None))


# --- coordinators


def test_nobody_there() -> None:
    name = f"test-nobody-{os.getpid()}"
    text = message(theus.CoordinatorNotFound, lambda: theus.connect(name))
    assert name in text
    assert "theus.open" in text or "theus-coordinator" in text


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "x" * 200, "a\nb", "a\0b"])
def test_bad_names(name: str) -> None:
    for function in (theus.connect, theus.Coordinator, theus.open):
        if function is theus.open and not name:
            continue  # which asks for the private one
        if function is theus.Coordinator and not name:
            continue  # a fresh name
        with pytest.raises((theus.TheusError, ValueError)) as caught:
            function(name)
        assert not isinstance(caught.value, theus.CoordinatorNotFound)


def test_a_name_that_is_taken(coordinator: theus.Coordinator) -> None:
    assert coordinator.name in message(
        theus.TheusError, lambda: theus.Coordinator(coordinator.name)
    )


@pytest.mark.parametrize("capacity", ["1 KiB", "much", "-5", "1000 TiB", "", 5])
def test_bad_capacities(capacity: object) -> None:
    with pytest.raises((theus.TheusError, ValueError)):
        theus.Coordinator(capacity=capacity)


def test_isolated_arbitration_is_refused_in_words() -> None:
    with pytest.raises((theus.TheusError, ValueError, NotImplementedError), match="isolated"):
        theus.Coordinator(arbitration="isolated").close()
    with pytest.raises((theus.TheusError, ValueError)):
        theus.Coordinator(arbitration="by lot")


def socket_path(name: str) -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = f"{runtime}/theus" if runtime else f"/tmp/theus-{os.getuid()}"
    return f"{folder}/{name}.sock"


def test_garbage_on_the_control_socket(
    coordinator: theus.Coordinator, engine: theus.Engine
) -> None:
    for garbage in (b"", b"\0", b"GET / HTTP/1.0\r\n\r\n", os.urandom(4000), b"\xff" * 60_000):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(socket_path(coordinator.name))
            with contextlib.suppress(OSError):
                peer.send(garbage)
                peer.settimeout(10)
                while peer.recv(65536):
                    pass
    engine.write("n", 1)
    with theus.connect(coordinator.name) as again:
        assert again.state["n"] == 1


def test_the_socket_is_for_its_user_alone(coordinator: theus.Coordinator) -> None:
    path = socket_path(coordinator.name)
    assert os.stat(os.path.dirname(path)).st_mode & 0o077 == 0
    assert os.stat(path).st_uid == os.getuid()


def test_another_pid_namespace(coordinator: theus.Coordinator) -> None:
    """Process ids mean nothing across namespaces, and owners of a robust mutex are named by one."""
    unshare = ["unshare", "--pid", "--fork"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True, timeout=WAIT_S)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("unshare is not there or not allowed")
    script = "import sys, theus; theus.connect(sys.argv[1])"
    done = subprocess.run(
        [*unshare, sys.executable, "-c", script, coordinator.name],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("theus.errors.VersionMismatch: ")
    ours = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    assert ours in last
    assert last.count("PID namespace") == 2
