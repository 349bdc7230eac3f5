"""Starting and stopping coordinators."""

from __future__ import annotations

import logging
import multiprocessing.process
import os
import pathlib
import re
import shutil
import sys
import sysconfig
import threading
from types import TracebackType
from typing import Any

from theus import _theus
from theus.errors import CoordinatorNotFound, TheusError

logger = logging.getLogger("theus")

_CAPACITY_DEFAULT = "2 GiB"
_STOP_TIMEOUT_S = 10.0
# Names the coordinator of theus.open() for the multiprocessing children of this program.
_PRIVATE_VARIABLE = "THEUS_PRIVATE"
_PRIVATE_KEY = "theus_private"
_EXECUTABLE_VARIABLE = "THEUS_COORDINATOR"

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def parse_capacity(capacity: int | str) -> int:
    """Returns bytes for 1073741824, "512 MiB", "2GiB", "1.5 GB"."""
    if isinstance(capacity, int) and not isinstance(capacity, bool):
        size = capacity
    else:
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", str(capacity))
        if found is None or found[2].lower() not in _UNITS:
            raise ValueError(f'capacity is bytes or a text such as "2 GiB", not {capacity!r}')
        size = int(float(found[1]) * _UNITS[found[2].lower()])
    if size <= 0:
        raise ValueError(f"capacity is more than 0 bytes, not {capacity!r}")
    return size


def check_name(name: object) -> None:
    """Says what is wrong; which names there may be is the C++ side's to say."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a coordinator is a str, not {name!r}")
    if not name or "\0" in name:
        raise ValueError(f"{name!r} cannot be the name of a coordinator")


def find_executable() -> str:
    """Returns the path of theus-coordinator; TheusError when it is not installed."""
    name = "theus-coordinator"
    if named := os.environ.get(_EXECUTABLE_VARIABLE):
        return named
    places = [sysconfig.get_path("scripts"), str(pathlib.Path(sys.executable).parent)]
    for place in places:
        candidate = pathlib.Path(place, name)
        if os.access(candidate, os.X_OK):
            return str(candidate)
    if found := shutil.which(name):
        return found
    raise TheusError(
        f"{name} is not installed beside this Python nor on the PATH; reinstall the package, or "
        f"set {_EXECUTABLE_VARIABLE} to its path"
    )


def is_multiprocessing_child() -> bool:
    return multiprocessing.process.parent_process() is not None


class Lifelines:
    """Descriptors that keep embedded coordinators alive. A forked child drops its copies, as the
    coordinator is to live as long as the program that started it, not as its last child."""

    def __init__(self) -> None:
        self._descriptors: set[int] = set()
        self._lock = threading.Lock()
        # Held across a fork, so that the child finds the set complete.
        os.register_at_fork(
            before=self._lock.acquire,
            after_in_parent=self._lock.release,
            after_in_child=self._after_fork,
        )

    def _after_fork(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._lock.release()

    def hold(self, descriptor: int) -> None:
        if descriptor >= 0:
            with self._lock:
                self._descriptors.add(descriptor)

    def release(self, descriptor: int) -> None:
        with self._lock:
            if descriptor not in self._descriptors:
                return
            self._descriptors.discard(descriptor)
        os.close(descriptor)


lifelines = Lifelines()


def start_embedded(name: str | None, capacity: int | str | None) -> tuple[str, int]:
    """Starts a coordinator that ends with its users; returns its name and its lifeline."""
    size = parse_capacity(_CAPACITY_DEFAULT if capacity is None else capacity)
    started, pid, _, lifeline = _theus.start_coordinator(
        find_executable(), name or "", size, True, ""
    )
    lifelines.hold(lifeline)
    logger.info("started coordinator %s (pid %d)", started, pid)
    return started, lifeline


def _handed_down() -> dict[str, Any]:
    """What multiprocessing copies into each Process that is made here, under any start method."""
    process: Any = multiprocessing.process.current_process()
    config: dict[str, Any] = process._config
    return config


class _Private:
    """The coordinator of theus.open() without a name: one for this program and its children."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def adopt(self, name: str) -> None:
        """An engine of it was unpickled here: this program's coordinator is that one."""
        if self.name is None and is_multiprocessing_child():
            self.name = name

    def find(self) -> str | None:
        if self.name is None and is_multiprocessing_child():
            handed_down = _handed_down().get(_PRIVATE_KEY)
            self.name = handed_down or os.environ.get(_PRIVATE_VARIABLE)
        return self.name

    def _hand_down(self, name: str) -> None:
        """Tells this program's children to come. The environment does not reach the children of a
        fork server that runs already; what multiprocessing itself hands down to each does."""
        os.environ[_PRIVATE_VARIABLE] = name
        _handed_down()[_PRIVATE_KEY] = name

    def start(self, capacity: int | str | None, lost: str | None) -> str:
        """Starts one, unless another thread has (`lost`: the name that is not there any more)."""
        if is_multiprocessing_child():
            raise CoordinatorNotFound(
                "theus.open() in a multiprocessing child attaches to the coordinator that the "
                "parent program opened, but there is none; call theus.open() in the parent first, "
                "or pass an engine to the child"
            )
        with self._lock:
            if self.name is None or self.name == lost:
                self.name, _ = start_embedded(None, capacity)
                self._hand_down(self.name)
            return self.name


private = _Private()


class Coordinator:
    """A coordinator in a process of its own, for one `with` statement or until close().

    name: how others reach it; without one it gets a fresh, unique name. capacity: bytes, or text
    such as "2 GiB"; fixed from then on, and taken from the system only as it is used. Raises
    TheusError with the coordinator's own words when it cannot start. May be used from several
    threads.

        >>> with theus.Coordinator(capacity="64 MiB") as coordinator:
        ...     engine = theus.connect(coordinator.name)
        ...     engine.stats()["workers"]
        ...     engine.close()
        1
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        capacity: int | str = _CAPACITY_DEFAULT,
        arbitration: str = "cooperative",
    ) -> None:
        check_arbitration(arbitration)
        if name is not None:
            check_name(name)
        self.name = name or ""
        self._closed = True
        self._owner = os.getpid()
        if name and _is_running(name):
            raise TheusError(
                f"a coordinator {name!r} runs already; use theus.connect({name!r}), or another name"
            )
        # Embedded: it logs nowhere, and if this program is killed before close() it ends with the
        # last worker that is attached.
        self.name, self._pid, self._parent_pid, self._lifeline = _theus.start_coordinator(
            find_executable(), name or "", parse_capacity(capacity), True, ""
        )
        lifelines.hold(self._lifeline)
        self._closed = False
        logger.info("started coordinator %s (pid %d)", self.name, self._pid)

    def _ask(self) -> None:
        if self._closed:
            return
        try:
            self._pid, parent = _theus.coordinator_pids(self.name)
        except TheusError:
            logger.debug("coordinator %s does not answer; its last known pids stand", self.name)
        else:
            self._parent_pid = parent or self._parent_pid

    @property
    def pid(self) -> int:
        """Process id of the coordinator itself, as of now: after a crash it is another."""
        self._ask()
        return self._pid

    @property
    def parent_pid(self) -> int:
        """Process id of the parent that restarts it; if that has died, its last known one."""
        self._ask()
        return self._parent_pid

    def close(self) -> None:
        """Stops it and waits until it is gone, at most 10 s. Idempotent. Attached workers get
        CoordinatorLost.

        Does nothing in a forked child: the coordinator is the parent's.
        """
        if self._closed or self._owner != os.getpid():
            return
        self._closed = True
        try:
            _theus.stop_coordinator(self.name, _STOP_TIMEOUT_S)
            logger.info("stopped coordinator %s", self.name)
        except CoordinatorNotFound:
            logger.warning("coordinator %s had gone before it was stopped", self.name)
        finally:
            lifelines.release(self._lifeline)

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        # As last known: to ask it would be a wait.
        return f"Coordinator({self.name!r}, {'closed' if self._closed else f'pid={self._pid}'})"


def _is_running(name: str) -> bool:
    try:
        _theus.coordinator_pids(name)
    except CoordinatorNotFound:
        return False
    return True


def check_arbitration(arbitration: str) -> None:
    if arbitration == "isolated":
        raise TheusError('arbitration="isolated" is not available in this version')
    if arbitration != "cooperative":
        raise ValueError(f"arbitration is 'cooperative' or 'isolated', not {arbitration!r}")
