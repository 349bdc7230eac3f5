"""What is measured: data, operations in terms of any store, and what must hold afterwards.

A store (stores.py) offers clients; a client does the operations in whatever way is fastest for it.
Random choices are made before the clock runs.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stores import Client

ACCOUNTS = 1_000
BALANCE = 1_000
ROWS = 10_000
ROWS_PER_SNAPSHOT = 100
CHOICES = 4_096  # prepared ones, used over and over
SNAPSHOTS = 64
WRITE_SHARE = 0.05

Row = dict[str, Any]


class Unavailable(Exception):
    """A store is not installed; the text says what is missing."""


def make_row(number: int, stock: int = 10) -> Row:
    """Returns a row of six fields; `check` tells whether all of it is of one version."""
    return {
        "id": number,
        "name": f"article {number}",
        "price": number / 4,
        "stock": stock,
        "active": True,
        "check": number + stock,
    }


def is_whole(row: Row) -> bool:
    """Says whether a row is one that make_row() has made."""
    return bool(row == make_row(row["id"], row["stock"]))


Operation = Callable[[], Any]


def counter(client: Client, seed: int) -> Operation:
    return client.increment


def transfers(client: Client, seed: int) -> Operation:
    choose = random.Random(seed)
    pairs = [choose.sample(range(ACCOUNTS), 2) for _ in range(CHOICES)]
    keys = [(client.account_key(a), client.account_key(b)) for a, b in pairs]
    transfer, choice = client.transfer, itertools.cycle(keys).__next__
    return lambda: transfer(*choice())


def rows(client: Client, seed: int) -> Operation:
    choose = random.Random(seed)
    prepared = []
    for _ in range(CHOICES):
        number = choose.randrange(ROWS)
        new = make_row(number, choose.randrange(100)) if choose.random() < WRITE_SHARE else None
        prepared.append((client.row_key(number), new))
    read, replace, choice = client.read_row, client.replace_row, itertools.cycle(prepared).__next__

    def operation() -> None:
        key, new = choice()
        if new is None:
            read(key)
        else:
            replace(key, new)

    return operation


def snapshot(client: Client, seed: int) -> Operation:
    choose = random.Random(seed)
    prepared = [
        [client.row_key(number) for number in choose.sample(range(ROWS), ROWS_PER_SNAPSHOT)]
        for _ in range(SNAPSHOTS)
    ]
    read, choice = client.read_rows, itertools.cycle(prepared).__next__
    return lambda: read(choice())


def check_counter(client: Client, operations: int) -> str | None:
    """Returns what is wrong, None when nothing is; so do the others."""
    found = client.read_counter()
    return None if found == operations else f"the counter is {found}, not {operations}"


def check_transfers(client: Client, operations: int) -> str | None:
    total = sum(client.read_account(client.account_key(number)) for number in range(ACCOUNTS))
    wanted = ACCOUNTS * BALANCE
    return None if total == wanted else f"the accounts hold {total}, not {wanted}"


def check_rows(client: Client, operations: int) -> str | None:
    for first in range(0, ROWS, ROWS_PER_SNAPSHOT):
        numbers = range(first, first + ROWS_PER_SNAPSHOT)
        found = client.read_rows([client.row_key(number) for number in numbers])
        for number, row in zip(numbers, found, strict=True):
            if type(row) is not dict or row["id"] != number or not is_whole(row):
                return f"row {number} is {row!r}"
    return None


class Workload:
    """One kind of work. `workers`: processes side by side."""

    def __init__(
        self,
        name: str,
        title: str,
        prepare: Callable[[Client, int], Operation],
        check: Callable[[Client, int], str | None],
        workers: int = 2,
    ) -> None:
        self.name = name
        self.title = title
        self.prepare = prepare
        self.check = check
        self.workers = workers


WORKLOADS = [
    Workload("counter", "one hot counter, read-modify-write", counter, check_counter),
    Workload("add", "one hot counter, ctx.add", lambda client, seed: client.add, check_counter),
    Workload("alone", "one counter, one worker", counter, check_counter, workers=1),
    Workload("transfers", "two-account transfers, 1,000 accounts", transfers, check_transfers),
    Workload("rows", "95/5 rows of six fields, 10,000 rows", rows, check_rows),
    Workload("snapshot", "100 rows in one snapshot", snapshot, check_rows),
]
