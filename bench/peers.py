"""Stores of others: LMDB, Redis, SQLite. The interface is that of stores.py."""

from __future__ import annotations

import contextlib
import ctypes
import pathlib
import pickle
import shutil
import signal
import sqlite3
import struct
import subprocess
from typing import Any

from workloads import ACCOUNTS, BALANCE, ROWS, Row, Unavailable, make_row

MAP_BYTES = 2 << 30
START_TIMEOUT_S = 10
RETRIES = 1_000_000

dumps, loads = pickle.dumps, pickle.loads

# ------------------------------------------------------------------------------------ LMDB

_INT = struct.Struct("<q")


class LmdbClient:
    def __init__(self, folder: str) -> None:
        import lmdb

        # The settings of the budgets: nothing is synced, pages are written in place.
        self.env: Any = lmdb.open(
            folder, map_size=MAP_BYTES, sync=False, metasync=False, writemap=True
        )
        self.begin = self.env.begin

    def account_key(self, number: int) -> bytes:
        return b"a%d" % number

    def row_key(self, number: int) -> bytes:
        return b"r%d" % number

    def increment(self) -> None:
        with self.begin(write=True) as txn:
            txn.put(b"counter", _INT.pack(_INT.unpack(txn.get(b"counter"))[0] + 1))

    add = increment

    def transfer(self, source: bytes, target: bytes) -> None:
        with self.begin(write=True) as txn:
            txn.put(source, _INT.pack(_INT.unpack(txn.get(source))[0] - 1))
            txn.put(target, _INT.pack(_INT.unpack(txn.get(target))[0] + 1))

    def read_row(self, key: bytes) -> Any:
        with self.begin() as txn:
            return loads(txn.get(key))

    def replace_row(self, key: bytes, row: Row) -> None:
        with self.begin(write=True) as txn:
            txn.put(key, dumps(row, 5))

    def read_rows(self, keys: list[bytes]) -> list[Any]:
        with self.begin() as txn:
            return [loads(txn.get(key)) for key in keys]

    def read_counter(self) -> Any:
        with self.begin() as txn:
            return _INT.unpack(txn.get(b"counter"))[0]

    def read_account(self, key: bytes) -> Any:
        with self.begin() as txn:
            return _INT.unpack(txn.get(key))[0]

    def write_array(self, array: Any) -> None:
        with self.begin(write=True) as txn:
            txn.put(b"array", memoryview(array).cast("B"))

    def read_array(self) -> Any:
        import numpy

        # The view is valid as long as the transaction is open: it stays so until the next read.
        self.reading = self.begin(buffers=True)
        return numpy.frombuffer(self.reading.get(b"array"))


class Lmdb:
    name = "lmdb"

    def __init__(self, folder: pathlib.Path) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise Unavailable("pip install lmdb") from error
        self.version = f"{lmdb.__version__} (LMDB {'.'.join(map(str, lmdb.version()))})"
        self.folder = str(folder / "lmdb")
        filler = LmdbClient(self.folder)
        with filler.begin(write=True) as txn:
            txn.put(b"counter", _INT.pack(0))
            for number in range(ACCOUNTS):
                txn.put(filler.account_key(number), _INT.pack(BALANCE))
            for number in range(ROWS):
                txn.put(filler.row_key(number), dumps(make_row(number), 5))
        filler.env.close()  # an environment must not be carried through a fork

    def client(self) -> LmdbClient:
        return LmdbClient(self.folder)

    def close(self) -> None:
        """Nothing runs; the folder goes with the others."""


# ------------------------------------------------------------------------------------ Redis


class RedisClient:
    def __init__(self, path: str) -> None:
        import redis

        self.conflict = redis.WatchError
        self.redis: Any = redis.Redis(unix_socket_path=path)
        self.pipe = self.redis.pipeline()

    def account_key(self, number: int) -> str:
        return f"a{number}"

    def row_key(self, number: int) -> str:
        return f"r{number}"

    def increment(self) -> None:
        pipe = self.pipe
        for _ in range(RETRIES):
            try:
                pipe.watch("counter")
                value = int(pipe.get("counter"))
                pipe.multi()
                pipe.set("counter", value + 1)
                pipe.execute()
                return
            except self.conflict:
                continue

    def add(self) -> None:
        self.redis.incr("counter")

    def transfer(self, source: str, target: str) -> None:
        pipe = self.pipe
        for _ in range(RETRIES):
            try:
                pipe.watch(source, target)
                first, second = pipe.mget(source, target)
                pipe.multi()
                pipe.mset({source: int(first) - 1, target: int(second) + 1})
                pipe.execute()
                return
            except self.conflict:
                continue

    def read_row(self, key: str) -> Any:
        return loads(self.redis.get(key))

    def replace_row(self, key: str, row: Row) -> None:
        self.redis.set(key, dumps(row, 5))

    def read_rows(self, keys: list[str]) -> list[Any]:
        return [loads(row) for row in self.redis.mget(keys)]

    def read_counter(self) -> int:
        return int(self.redis.get("counter"))

    def read_account(self, key: str) -> int:
        return int(self.redis.get(key))

    def write_array(self, array: Any) -> None:
        self.redis.set("array", memoryview(array).cast("B"))

    def read_array(self) -> Any:
        import numpy

        return numpy.frombuffer(self.redis.get("array"))


def _end_with_parent() -> None:
    """Runs in the new server: it gets SIGTERM when this script is killed and cannot end it."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class Redis:
    name = "redis"

    def __init__(self, folder: pathlib.Path) -> None:
        try:
            import redis
        except ImportError as error:
            raise Unavailable("pip install redis") from error
        program = shutil.which("redis-server")
        if program is None:
            raise Unavailable("redis-server is not installed")
        said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        self.version = f"{redis.__version__} (server {said.split('v=')[-1].split()[0]})"
        self.path = str(folder / "redis.sock")
        arguments = ["--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly", "no"]
        self.server = subprocess.Popen(
            [program, *arguments, "--dir", str(folder), "--daemonize", "no"],
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this script, which then ends the server
            preexec_fn=_end_with_parent,
        )
        try:
            self._await()
            self._fill()
        except BaseException:
            self.close()
            raise

    def _await(self) -> None:
        import redis

        for _ in range(START_TIMEOUT_S * 100):
            with contextlib.suppress(redis.ConnectionError):
                redis.Redis(unix_socket_path=self.path).ping()
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise Unavailable(f"redis-server ended with status {self.server.wait(0.01)}")
        raise Unavailable(f"redis-server does not answer after {START_TIMEOUT_S} s")

    def _fill(self) -> None:
        client = RedisClient(self.path)
        pipe = client.redis.pipeline(transaction=False)
        pipe.set("counter", 0)
        for number in range(ACCOUNTS):
            pipe.set(client.account_key(number), BALANCE)
        for number in range(ROWS):
            pipe.set(client.row_key(number), dumps(make_row(number), 5))
        pipe.execute()
        client.redis.close()

    def client(self) -> RedisClient:
        return RedisClient(self.path)

    def close(self) -> None:
        self.server.terminate()
        try:
            self.server.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()


# ------------------------------------------------------------------------------------ SQLite


class SqliteClient:
    FIELDS = ("id", "name", "price", "stock", "active", "checksum")

    def __init__(self, path: str) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, timeout=60)
        for setting in ("journal_mode=WAL", "synchronous=OFF", "cache_size=-65536"):
            self.db.execute(f"PRAGMA {setting}")
        self.execute = self.db.execute

    def account_key(self, number: int) -> int:
        return number

    row_key = account_key

    def increment(self) -> None:
        execute = self.execute
        execute("BEGIN IMMEDIATE")
        (value,) = execute("SELECT n FROM counter").fetchone()
        execute("UPDATE counter SET n = ?", (value + 1,))
        execute("COMMIT")

    def add(self) -> None:
        self.execute("UPDATE counter SET n = n + 1")

    def transfer(self, source: int, target: int) -> None:
        execute = self.execute
        execute("BEGIN IMMEDIATE")
        execute("UPDATE account SET n = n - 1 WHERE id = ?", (source,))
        execute("UPDATE account SET n = n + 1 WHERE id = ?", (target,))
        execute("COMMIT")

    @staticmethod
    def _row(values: Any) -> Row:
        number, name, price, stock, active, check = values
        return {
            "id": number,
            "name": name,
            "price": price,
            "stock": stock,
            "active": bool(active),
            "check": check,
        }

    def read_row(self, key: int) -> Row:
        return self._row(self.execute("SELECT * FROM row WHERE id = ?", (key,)).fetchone())

    def replace_row(self, key: int, row: Row) -> None:
        self.execute("REPLACE INTO row VALUES (?, ?, ?, ?, ?, ?)", tuple(row.values()))

    def read_rows(self, keys: list[int]) -> list[Row]:
        marks = ",".join("?" * len(keys))
        found = self.execute(f"SELECT * FROM row WHERE id IN ({marks})", keys).fetchall()
        return [self._row(values) for values in found]

    def read_counter(self) -> Any:
        return self.execute("SELECT n FROM counter").fetchone()[0]

    def read_account(self, key: int) -> Any:
        return self.execute("SELECT n FROM account WHERE id = ?", (key,)).fetchone()[0]

    def write_array(self, array: Any) -> None:
        self.execute("REPLACE INTO blob VALUES (0, ?)", (memoryview(array).cast("B"),))

    def read_array(self) -> Any:
        import numpy

        return numpy.frombuffer(self.execute("SELECT bytes FROM blob").fetchone()[0])


class Sqlite:
    name = "sqlite"

    def __init__(self, folder: pathlib.Path) -> None:
        self.version = sqlite3.sqlite_version
        self.path = str(folder / "sqlite.db")
        client = SqliteClient(self.path)
        with contextlib.closing(client.db):
            client.execute("CREATE TABLE counter (n INTEGER)")
            client.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, n INTEGER)")
            client.execute("CREATE TABLE blob (id INTEGER PRIMARY KEY, bytes BLOB)")
            client.execute(
                "CREATE TABLE row (id INTEGER PRIMARY KEY, name TEXT, price REAL, stock INTEGER, "
                "active INTEGER, checksum INTEGER)"
            )
            client.execute("BEGIN")
            client.execute("INSERT INTO counter VALUES (0)")
            accounts = ((number, BALANCE) for number in range(ACCOUNTS))
            client.db.executemany("INSERT INTO account VALUES (?, ?)", accounts)
            rows = (tuple(make_row(number).values()) for number in range(ROWS))
            client.db.executemany("INSERT INTO row VALUES (?, ?, ?, ?, ?, ?)", rows)
            client.execute("COMMIT")

    def client(self) -> SqliteClient:
        return SqliteClient(self.path)

    def close(self) -> None:
        """Nothing runs; the folder goes with the others."""
