"""The exceptions of theus. Every message says what happened, to which path, and what to do.

All of them can be pickled, so they pass through multiprocessing pools.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    from theus import _theus

Path = Union[str, tuple[Any, ...]]


class TheusError(Exception):
    """Base class; raised itself for misuse, such as a transaction used after its end."""


class TransientError(TheusError):
    """The same call may succeed when it is made again."""


class ConflictError(TransientError):
    """Another transaction was faster; nothing was written.

    paths: what had changed. winner_pid: who changed it (None: no longer known). snapshot_version:
    the version this transaction had read. version: the version that changed it (None: it is the
    turn of another transaction of this thread, which is about to).
    """

    paths: tuple[Path, ...] = ()
    winner_pid: int | None = None
    snapshot_version: int | None = None
    version: int | None = None
    _gave_way = False  # nothing had changed yet: it was the turn of another in this thread


class RetriesExhausted(TransientError):
    """Every execution met a conflict; the last one is the cause. Or, without a cause: ctx.retry()
    was called, and nothing that had been read changed within the timeout. attempts: how many
    executions there were."""

    attempts: int = 0


class SnapshotTooOld(TransientError):
    """The version that was read has been given up; read again."""


class CoordinatorLost(TransientError):
    """The coordinator is gone, and the state with it if no process was left."""


class ReadOnlyError(TheusError):
    """A write through a snapshot or a State. path: where."""

    path: Path | None = None


class EncodeError(TheusError):
    """A value or key cannot be stored; nothing was changed. path: where."""

    path: Path | None = None


class DecodeError(TheusError):
    """A stored value cannot be made into an object here. path: where."""

    path: Path | None = None


class CapacityError(TheusError, MemoryError):
    """The shared memory is full; nothing was written. Deletes still work, and free memory."""


class CoordinatorNotFound(TheusError):
    """No coordinator of that name runs."""


class VersionMismatch(TheusError):
    """The coordinator was built with another layout or C library, or is in another namespace."""


class CommitUnknown(TheusError):
    """It could not be found out whether the commit took place. Never retried by itself."""


class _Retry(BaseException):
    """Raised by ctx.retry(); caught by who runs the transaction. No Exception, so that what the
    function does with those cannot swallow it. target: what is to change."""

    def __init__(self, target: _theus.Target) -> None:
        super().__init__(
            "ctx.retry() has given up this attempt, which will be made again when something that "
            "it has read changes"
        )
        self.target = target


class MissingItem(KeyError):
    """A KeyError whose text says where the key is missing and which ones are near."""

    message = ""

    def __str__(self) -> str:
        return self.message


def _conflict(
    path: Path | None,
    winner_pid: int,
    winner_version: int,
    snapshot_version: int,
    keys_changed: bool,
    gave_way: bool,
) -> ConflictError:
    what = "something that was read" if path is None else _text(path)
    if keys_changed:
        what = f"the set of keys of {what}"
    by = f" by pid {winner_pid}" if winner_pid else ""
    how = f"was changed{by} (version {winner_version} > snapshot {snapshot_version})"
    if gave_way:
        how = f"is in use{by}: it is the turn of another transaction of this thread"
    error = ConflictError(f"{what} {how}; nothing was written; use engine.run(fn) to retry")
    error.paths = () if path is None else (path,)
    error.winner_pid = winner_pid or None
    error.snapshot_version = snapshot_version
    error.version = None if gave_way else winner_version
    error._gave_way = gave_way
    return error


def _exhausted(executions: int, cause: ConflictError) -> RetriesExhausted:
    times = "once" if executions == 1 else f"{executions} times"
    error = RetriesExhausted(
        f"the transaction was run {times} and met a conflict each time, the last: {cause}"
        if executions > 1
        else f"the transaction was run once and met a conflict: {cause}"
    )
    error.attempts = executions
    error.__cause__ = cause
    return error


def _unchanged(executions: int) -> RetriesExhausted:
    error = RetriesExhausted(
        "ctx.retry() gave up the transaction, and nothing that it had read changed in time; make "
        "the timeout longer, or try again later"
    )
    error.attempts = executions
    return error


def _missing(
    key: object, path: tuple[object, ...], near: Sequence[object], as_attribute: bool
) -> KeyError | AttributeError:
    where = _text(path) if path else "the root"
    message = f"{where} has no {'attribute or key' if as_attribute else 'key'} {key!r}"
    if path:
        message = f"{_text((*path, key))} does not exist: {message}"
    if isinstance(key, str):
        names = [name for name in near if isinstance(name, str)]
        if close := difflib.get_close_matches(key, names, n=3):
            message += "; near: " + ", ".join(repr(name) for name in close)
        if "." in key and not as_attribute:
            message += f'; keys in [...] are literal, use ctx.read("{key}") for a path'
    if as_attribute:
        return AttributeError(message)
    error = MissingItem(key)
    error.message = message
    return error


def _text(path: Path) -> str:
    if isinstance(path, tuple):
        if path and all(isinstance(key, str) and key and "." not in key for key in path):
            return ".".join(path)
        return repr(path)
    return path
