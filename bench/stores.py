"""The stores that are compared, each behind the same small interface.

A Store is made in the parent process and filled there; each worker process then makes its own
Client. Clients use the store's fastest way that is still safe with several processes: writes that
depend on reads are transactions, or hold a lock.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import multiprocessing
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from peers import Lmdb, Redis, Sqlite
from workloads import ACCOUNTS, BALANCE, ROWS, Row, Unavailable, make_row

CAPACITY_BYTES = 2 << 30
RETRIES = 1_000_000


class Client(Protocol):
    def account_key(self, number: int) -> Any: ...
    def row_key(self, number: int) -> Any: ...
    def increment(self) -> None: ...
    def add(self) -> None: ...
    def transfer(self, source: Any, target: Any) -> None: ...
    def read_row(self, key: Any) -> Row: ...
    def replace_row(self, key: Any, row: Row) -> None: ...
    def read_rows(self, keys: list[Any]) -> list[Row]: ...
    def read_counter(self) -> int: ...
    def read_account(self, key: Any) -> int: ...
    def write_array(self, array: Any) -> None: ...
    def read_array(self) -> Any: ...


class Store(Protocol):
    name: str
    version: str

    def client(self) -> Any: ...
    def close(self) -> None: ...


# ------------------------------------------------------------------------------------ theus


@contextlib.contextmanager
def errors_to(path: pathlib.Path) -> Iterator[None]:
    """What is started meanwhile has that file as its stderr."""
    kept = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class TheusClient:
    def __init__(self, name: str) -> None:
        import theus

        self.engine = engine = theus.connect(name)
        plain: Any = theus.plain
        run = engine.run

        def increment(ctx: Any) -> None:
            ctx.counter += 1

        def add(ctx: Any) -> None:
            ctx.add("counter", 1)

        def transfer(ctx: Any, source: str, target: str) -> None:
            accounts = ctx.accounts
            accounts[source] -= 1
            accounts[target] += 1

        def replace(ctx: Any, key: str, row: Row) -> None:
            ctx.rows[key] = row

        def read_row(key: str) -> Row:
            with engine.snapshot() as ctx:
                return plain(ctx.rows[key])

        def read_rows(keys: list[str]) -> list[Row]:
            with engine.snapshot() as ctx:
                rows = ctx.rows
                return [plain(rows[key]) for key in keys]

        # Contention never gives up here: what is measured is how long it takes.
        self.increment = lambda: run(increment, retries=RETRIES)
        self.add = lambda: run(add, retries=RETRIES)
        self.transfer = lambda source, target: run(transfer, source, target, retries=RETRIES)
        self.replace_row = lambda key, row: run(replace, key, row, retries=RETRIES)
        self.read_row = read_row
        self.read_rows = read_rows

    def account_key(self, number: int) -> str:
        return f"a{number}"

    def row_key(self, number: int) -> str:
        return f"r{number}"

    def read_counter(self) -> Any:
        return self.engine.read("counter")

    def read_account(self, key: str) -> Any:
        return self.engine.read(("accounts", key))

    def write_array(self, array: Any) -> None:
        self.engine.write("array", array)

    def read_array(self) -> Any:
        with self.engine.snapshot() as ctx:
            return ctx.array[:]


class Theus:
    name = "theus"

    def __init__(self, folder: pathlib.Path) -> None:
        try:
            import theus
        except ImportError as error:
            raise Unavailable(f"theus cannot be imported: {error}") from error
        self.version = importlib.metadata.version("theus-shm")
        with errors_to(folder / "theus.log"):  # the coordinator logs to the stderr it is given
            self.coordinator = theus.Coordinator(capacity=CAPACITY_BYTES)
        with theus.connect(self.coordinator.name) as engine, engine.transaction() as ctx:
            ctx.counter = 0
            ctx.accounts = {f"a{number}": BALANCE for number in range(ACCOUNTS)}
            ctx.rows = {f"r{number}": make_row(number) for number in range(ROWS)}

    def client(self) -> TheusClient:
        return TheusClient(self.coordinator.name)

    def close(self) -> None:
        self.coordinator.close()


# --------------------------------------------------------------------------- dicts with a lock


class DictClient:
    """A mapping and a lock: of a Manager, or the plain ones of one process."""

    def __init__(self, data: Any, lock: Any) -> None:
        self.data, self.lock = data, lock

    def account_key(self, number: int) -> str:
        return f"a{number}"

    def row_key(self, number: int) -> str:
        return f"r{number}"

    def increment(self) -> None:
        with self.lock:
            self.data["counter"] += 1

    add = increment

    def transfer(self, source: str, target: str) -> None:
        with self.lock:
            self.data[source] -= 1
            self.data[target] += 1

    def read_row(self, key: str) -> Any:
        return self.data[key]

    def replace_row(self, key: str, row: Row) -> None:
        self.data[key] = row

    def read_rows(self, keys: list[str]) -> list[Any]:
        with self.lock:
            return [self.data[key] for key in keys]

    def read_counter(self) -> Any:
        return self.data["counter"]

    def read_account(self, key: str) -> Any:
        return self.data[key]

    def write_array(self, array: Any) -> None:
        self.data["array"] = array

    def read_array(self) -> Any:
        return self.data["array"]


class Manager:
    name = "manager"

    def __init__(self, folder: pathlib.Path) -> None:
        self.version = "of the standard library"
        self.manager = multiprocessing.Manager()
        # A lock of multiprocessing rather than the manager's own: no message for it.
        self.lock = multiprocessing.Lock()
        self.data: Any = self.manager.dict({"counter": 0})
        self.data.update({f"a{number}": BALANCE for number in range(ACCOUNTS)})
        self.data.update({f"r{number}": make_row(number) for number in range(ROWS)})

    def client(self) -> DictClient:
        return DictClient(self.data, self.lock)

    def close(self) -> None:
        self.manager.shutdown()


class PlainDict:
    """What a program has without sharing: the mark for a single worker. Counted in the worker's own
    memory, so it is checked there, too."""

    name = "dict"

    def __init__(self, folder: pathlib.Path) -> None:
        self.version = "under a threading.Lock, in one process"
        self.data = {"counter": 0}

    def client(self) -> DictClient:
        return DictClient(self.data, threading.Lock())

    def close(self) -> None:
        """Nothing runs."""


STORES: list[Any] = [Theus, Lmdb, Redis, Sqlite, Manager, PlainDict]
