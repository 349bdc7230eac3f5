"""Engine: how a process reaches the shared state; open() and connect()."""

from __future__ import annotations

import atexit
import functools
import inspect
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from theus import _coordinator, _theus, _waiting
from theus._attempts import Attempt, attempts
from theus._state import State, items_of
from theus._waiting import Watch, deadline_of
from theus.errors import CoordinatorNotFound, TheusError

if TYPE_CHECKING:
    from theus._waiting_thread import WaitingThread
    from theus.errors import Path

logger = logging.getLogger("theus")

P = ParamSpec("P")
R = TypeVar("R")
_NO_DEFAULT: Any = object()
_RETRIES_DEFAULT = 16
_STARTS_MAX = 5


class Engine(_theus.EngineCore):
    """One process's access to a shared state. Made by theus.open() and theus.connect().

    A context manager, which closes it. May be used from several threads. Can be pickled and handed
    to multiprocessing children under fork, spawn and forkserver: there it attaches anew by itself
    when it is first used. Any use but close() and repr() may raise CoordinatorNotFound then, and
    CoordinatorLost when the coordinator has given this process up.

        >>> engine.write("total", 1)
        >>> engine.run(lambda ctx: ctx.total + 1)
        2
    """

    def __init__(self, name: str, *, private: bool = False) -> None:
        self._name = name
        self._private = private
        self._closed = False
        self._attached_in: int | None = None  # pid of the process that attached last
        self._waiters: set[_theus.Waiter] = set()  # of this process
        self._waiting_threads: dict[int, WaitingThread] = {}  # by pid: a forked child has its own
        _open_engines.add(self)

    @property
    def name(self) -> str:
        """The coordinator's name."""
        return self._name

    @property
    def state(self) -> State:
        """The newest version as a pinned, immutable State.

        Allowed inside a transaction, too, where it is not part of what is checked at the commit.

            >>> engine.update({"total": 1, "tags": ["new"]})
            >>> state = engine.state
            >>> engine.write("total", 2)
            >>> state["total"], engine.state["total"]
            (1, 2)
        """
        return State(self)

    def _reattach(self) -> None:
        """Called from C++ when there is no session in this process."""
        if self._closed:
            raise TheusError(f"this engine ({self._name}) is closed; open or connect a new one")
        self._attach(self._name)
        first = self._attached_in in (None, os.getpid())
        self._attached_in = os.getpid()
        what = "attached" if first else "attached anew, in a forked child,"
        version = self._version_if_attached
        logger.debug("%s to coordinator %s, version %s", what, self._name, version)

    def close(self) -> None:
        """Detaches. Idempotent. Open transactions are rolled back, waits end with TheusError;
        arrays and States stay valid. TheusError while another thread commits."""
        self._closed = True
        attached = self._attached
        try:
            for waiter in list(self._waiters):
                waiter.close()
            self._detach()
        except TheusError:
            self._closed = False
            raise
        if attached:
            logger.debug("detached from coordinator %s", self._name)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        if _theus.encoding_now():
            raise TypeError("an engine cannot be stored in the state; pass it to processes instead")
        return _restore, (self._name, self._private)

    def __repr__(self) -> str:
        version = self._version_if_attached
        status = f"version={version}" if version is not None else "not attached"
        return f"Engine({self._name!r}, {'closed' if self._closed else status})"

    # ----------------------------------------------------------------- one-shot transactions

    def read(self, path: Path, default: Any = _NO_DEFAULT) -> Any:
        """Returns what is at `path` in the newest version, as plain objects (arrays: read-only).

        KeyError when there is nothing and no default; TypeError when the path goes inside a leaf.

            >>> engine.write("orders", {"o1": {"qty": 3}})
            >>> engine.read("orders.o1.qty"), engine.read(("orders", "o2"), None)
            (3, None)
        """
        with self.snapshot() as ctx:
            value = ctx.read(path) if default is _NO_DEFAULT else ctx.read(path, default)
            return value if value is default else _theus.plain(value)

    def write(self, path: Path, value: Any) -> None:
        """Sets what is at `path`, in a transaction of its own, which is run again after conflicts.

        KeyError names a missing parent. EncodeError, with the path, when the value cannot be
        stored; CapacityError when memory is full.
        """
        self.run(_write, path, value)

    def add(self, path: Path, operand: Any) -> None:
        """Adds to the number or array at `path`, in a transaction of its own.

        Nothing there counts as 0, but the parent has to exist (KeyError). TypeError when one of
        the two is no number.

            >>> engine.add("hits", 5)
            >>> engine.add("hits", 0.5)
            >>> engine.read("hits")
            5.5
        """
        self.run(_add, path, operand)

    def update(self, changes: Mapping[Path, Any]) -> None:
        """Commits {path: value, ...}, all or nothing; errors as for write().

        >>> engine.update({"orders": {}, "total": 0})
        >>> engine.update({"orders.o1": {"qty": 3}, ("orders", "a.b"): None, "total": 1})
        >>> engine.read("orders")
        {'o1': {'qty': 3}, 'a.b': None}
        """
        self.run(_write_all, items_of(changes))

    # ----------------------------------------------------------------- retrying

    def attempts(
        self, n: int = _RETRIES_DEFAULT, *, timeout: float | None = None
    ) -> Iterator[Attempt]:
        """Yields at most n attempts, each for one `with attempt as ctx`, until one commits.

        The last one raises RetriesExhausted from its `with`. After ctx.retry() the `with` sleeps
        until something that the attempt has read changes, and n is counted anew; timeout: seconds
        from this call on, after which it raises RetriesExhausted instead. Leave an attempt only by
        its end: ConflictError is raised where a conflict meets a `return` or `break`.

            >>> engine.write("total", 1)
            >>> for attempt in engine.attempts(16):
            ...     with attempt as ctx:
            ...         ctx.total += 1
            >>> attempt.committed, engine.read("total")
            (True, 2)
        """
        return attempts(self, n, timeout)

    @overload
    def process(
        self, function: Callable[Concatenate[_theus.ProcessContext, P], R], /
    ) -> Callable[P, R]: ...
    @overload
    def process(
        self,
        function: None = None,
        /,
        *,
        semantic: Literal["effect", "pure"] = "effect",
        retries: int = _RETRIES_DEFAULT,
        timeout: float | None = None,
    ) -> Callable[[Callable[Concatenate[_theus.ProcessContext, P], R]], Callable[P, R]]: ...
    def process(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        semantic: str = "effect",
        retries: int = _RETRIES_DEFAULT,
        timeout: float | None = None,
    ) -> Any:
        """Decorates fn(ctx, ...): calling it runs it in a transaction (semantic="effect"), which
        is retried after conflicts, or in a snapshot (semantic="pure"). retries, timeout (seconds):
        as for run(). TypeError for coroutine and generator functions.

            >>> engine.write("total", 1)
            >>> @engine.process(retries=3)
            ... def add(ctx, amount):
            ...     ctx.total += amount
            ...     return ctx.total
            >>> add(5)
            6
        """
        if semantic not in ("effect", "pure"):
            raise ValueError(f"semantic is 'effect' or 'pure', not {semantic!r}")
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries is 0 or more, not {retries!r}")
        deadline_of(timeout)  # refuses what is no time

        def decorate(body: Callable[..., R]) -> Callable[..., R]:
            if _is_lazy(body):
                raise TypeError(
                    f"{body!r} is a coroutine or generator function; use an ordinary one"
                )

            @functools.wraps(body)
            def run(*args: Any, **named: Any) -> R:
                if semantic == "pure":
                    with self.snapshot() as ctx:
                        result: R = _theus.plain_result(body(ctx, *args, **named))
                        return result
                # Bound first, so that a keyword of the body that is named like one of run()'s own
                # reaches the body.
                bound = functools.partial(_call, body, args, named)
                return self.run(bound, retries=retries, timeout=timeout)

            return run

        return decorate if function is None else decorate(function)

    async def run_async(
        self,
        fn: Callable[..., R],
        /,
        *args: Any,
        retries: int = _RETRIES_DEFAULT,
        timeout: float | None = None,
        **kw: Any,
    ) -> R:
        """run() for asyncio: the function runs in a thread of the loop's default executor.

        While it sleeps after ctx.retry() it has no thread. A cancellation waits for the end of an
        execution that has begun, which then does not commit unless it is at it already. Other
        arguments, results and errors: as for run().

            >>> import asyncio
            >>> async def main():
            ...     await engine.run_async(lambda ctx: ctx.update({"total": 5}))
            ...     return engine.read("total")
            >>> asyncio.run(main())
            5
        """
        from theus import _aio

        return await _aio.run(self, fn, args, retries, timeout, kw)

    # ----------------------------------------------------------------- waiting

    def wait(
        self, *paths: Path, since: int | None = None, timeout: float | None = None
    ) -> int | None:
        """Sleeps until one of the paths changes; returns the newest version, None when it has not
        within `timeout` seconds (None: for ever; 0: only looks).

        A change is one of what is there, below it or above it, after version `since` (default: the
        newest), at best ctx.transaction.snapshot_version of the transaction that read it. May
        return early, so look again. TheusError inside of a transaction, and when the engine is
        closed meanwhile; ValueError for a version that does not exist yet.

            >>> version = engine.version
            >>> engine.wait("job", since=version, timeout=0) is None
            True
            >>> engine.write("job", 1)
            >>> engine.wait("job", since=version) == engine.version
            True
        """
        return _waiting.wait(self, paths, since, timeout)

    async def wait_async(
        self, *paths: Path, since: int | None = None, timeout: float | None = None
    ) -> int | None:
        """wait() for asyncio: other tasks run meanwhile. Arguments and errors as there."""
        from theus import _aio

        return await _aio.wait(self, paths, since, timeout)

    def watch(self, *paths: Path, since: int | None = None) -> Watch:
        """Returns an iterator, for `for` and `async for`, over (version, paths that have changed).

        Begins with what changes after version `since` (default: the newest). Changes between two
        items are put together; the last one is never missed. Ends with close().

            >>> engine.update({"prices": {}, "orders": {}})
            >>> with engine.watch("prices", "orders") as changes:
            ...     engine.write("orders.o1", 3)
            ...     version, paths = next(changes)
            >>> paths
            ('orders',)
        """
        return Watch(self, paths, since)


def _is_lazy(function: Callable[..., Any]) -> bool:
    """Whether calling it only makes something that runs later; of an object, its `__call__`."""
    return any(
        inspect.iscoroutinefunction(each)
        or inspect.isgeneratorfunction(each)
        or inspect.isasyncgenfunction(each)
        for each in (function, getattr(type(function), "__call__", None))
    )


def _call(body: Callable[..., R], args: Any, named: Any, ctx: Any) -> R:
    return body(ctx, *args, **named)


def _write(ctx: Any, path: Any, value: Any) -> None:
    ctx.write(path, value)


def _add(ctx: Any, path: Any, operand: Any) -> None:
    ctx.add(path, operand)


def _write_all(ctx: Any, changes: list[tuple[Any, Any]]) -> None:
    for path, value in changes:
        ctx.write(path, value)


def _create_absent(ctx: Any, initial: list[tuple[Any, Any]]) -> None:
    for key, value in initial:
        if key not in ctx:
            ctx[key] = value


def _restore(name: str, private: bool) -> Engine:
    if private:
        _coordinator.private.adopt(name)
    return Engine(name, private=private)


_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_engines() -> None:
    for engine in list(_open_engines):
        try:
            engine.close()
        except TheusError as error:
            logger.debug("an engine could not be closed at exit: %s", error)


def connect(name: str) -> Engine:
    """Attaches to the coordinator `name`; CoordinatorNotFound if none runs.

    VersionMismatch when it was built differently or runs in another PID namespace.

        >>> with theus.Coordinator() as coordinator:
        ...     with theus.connect(coordinator.name) as engine:
        ...         engine.version
        0
    """
    _coordinator.check_name(name)
    engine = Engine(name)
    try:
        engine._reattach()
    except CoordinatorNotFound as error:
        raise CoordinatorNotFound(
            f"{error}; start one with theus.open({name!r}) or with `theus-coordinator {name}`"
        ) from None
    return engine


def open(  # noqa: A001
    name: str | None = None,
    *,
    initial: Mapping[Any, Any] | None = None,
    capacity: int | str | None = None,
    arbitration: str = "cooperative",
) -> Engine:
    """Attaches to the coordinator `name`, and starts one if none runs.

    Without a name: to the private coordinator of this program, which its multiprocessing children
    share; in such a child it attaches or raises CoordinatorNotFound. initial: creates each absent
    top-level key, all of them in one transaction. capacity: bytes or text such as "2 GiB", used if
    a coordinator is started (default: 2 GiB; memory is taken only as it is used).

    The state is in memory only: it ends with the last process that uses it.

        >>> with theus.open(initial={"total": 0}) as engine:
        ...     engine.read("total")
        0
    """
    _coordinator.check_arbitration(arbitration)
    if name is not None:
        _coordinator.check_name(name)
    if capacity is not None:
        _coordinator.parse_capacity(capacity)
    if initial is not None and not isinstance(initial, Mapping):
        raise TypeError(f"initial is a dict of top-level keys, not {type(initial).__name__}")
    engine = _open_private(capacity) if name is None else _open_named(name, capacity)
    if initial:
        try:
            engine.run(_create_absent, list(initial.items()))
        except BaseException:
            engine.close()
            raise
    return engine


def _open_private(capacity: int | str | None) -> Engine:
    name = _coordinator.private.find()
    if name is not None:
        engine = Engine(name, private=True)
        try:
            engine._reattach()
            return engine
        except CoordinatorNotFound:
            logger.warning(
                "the private coordinator %s is gone, and the state with it; starting another", name
            )
    engine = Engine(_coordinator.private.start(capacity, lost=name), private=True)
    engine._reattach()
    return engine


def _open_named(name: str, capacity: int | str | None) -> Engine:
    engine = Engine(name)
    for _ in range(_STARTS_MAX):
        try:
            engine._reattach()
            return engine
        except CoordinatorNotFound:
            logger.debug("no coordinator %s runs; starting one", name)
        # Started by another process meanwhile, it has no lifeline for us, and may end before we
        # attach: then once more.
        _, lifeline = _coordinator.start_embedded(name, capacity)
        try:
            engine._reattach()
            return engine
        except CoordinatorNotFound:
            logger.debug("coordinator %s ended before it could be used", name)
        finally:
            # From here on the attachment keeps it.
            _coordinator.lifelines.release(lifeline)
    raise CoordinatorNotFound(f"the coordinator {name!r} keeps ending as soon as it is started")
