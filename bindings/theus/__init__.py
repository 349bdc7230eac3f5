"""Theus: transactions over shared memory for Python programs that use several processes.

The state lives in memory only: it ends with the last process that uses it.
"""

from __future__ import annotations

from theus import _views as _views
from theus._attempts import Attempt
from theus._coordinator import Coordinator
from theus._engine import Engine, connect, open
from theus._leaf_marker import leaf
from theus._operations import resolver
from theus._state import State
from theus._theus import (
    ContextGuard,
    ProcessContext,
    SupervisorProxy,
    Transaction,
    plain,
)
from theus._waiting import Watch
from theus.errors import (
    CapacityError,
    CommitUnknown,
    ConflictError,
    CoordinatorLost,
    CoordinatorNotFound,
    DecodeError,
    EncodeError,
    ReadOnlyError,
    RetriesExhausted,
    SnapshotTooOld,
    TheusError,
    TransientError,
    VersionMismatch,
)

__all__ = [
    "Attempt",
    "CapacityError",
    "CommitUnknown",
    "ConflictError",
    "ContextGuard",
    "Coordinator",
    "CoordinatorLost",
    "CoordinatorNotFound",
    "DecodeError",
    "EncodeError",
    "Engine",
    "ProcessContext",
    "ReadOnlyError",
    "RetriesExhausted",
    "SnapshotTooOld",
    "State",
    "SupervisorProxy",
    "TheusError",
    "Transaction",
    "TransientError",
    "VersionMismatch",
    "Watch",
    "connect",
    "leaf",
    "open",
    "plain",
    "resolver",
]
