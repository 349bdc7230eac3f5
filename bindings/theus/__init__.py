"""Theus: transactions over shared memory for Python programs that use several processes.

The state lives in memory only: it ends with the last process that uses it.

    >>> import theus
    >>> engine = theus.open(initial={"total": 0, "orders": {}})
    >>> with engine.transaction() as ctx:
    ...     ctx.total += 1
    ...     ctx.orders["o1"] = {"by": "ann", "lines": [1, 2]}
    >>> engine.state.to_dict()
    {'total': 1, 'orders': {'o1': {'by': 'ann', 'lines': [1, 2]}}}
    >>> engine.close()

docs/guide.md explains it, docs/reference.md lists every name. Messages go to
logging.getLogger("theus"): DEBUG for attaching and detaching, INFO for coordinators that are
started and stopped, WARNING for those that were gone.
"""

from __future__ import annotations

import logging

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

# Without it, warnings would go to stderr in programs that have not configured logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())

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
