"""What a proxy costs: reading and shadowing leaves, against the same on plain Python objects.

Usage: objects.py [--quick]

One process. "in it" is one operation inside of an open transaction that has the leaf already;
"whole" is a transaction around it: open, first use (which decodes), operation, commit. Medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import theus

Change = Callable[[Any], Any]


class Account:
    def __init__(self) -> None:
        self.owner = "ann"
        self.entries = list(range(10))

    def total(self) -> int:
        return sum(self.entries)


def set_first(value: Any) -> None:
    value[0] = 1


def set_key(value: Any) -> None:
    value["k1"] = 1


def set_owner(value: Any) -> None:
    value.owner = "bob"


def take(value: Any) -> None:
    for _ in value:
        pass


# Name, what the leaf is, operation.
CASES: list[tuple[str, Callable[[], Any], Change]] = [
    ("list of 100: read an element", lambda: list(range(100)), lambda x: x[50]),
    ("list of 100: iterate over it", lambda: list(range(100)), take),
    ("list of 100: append, pop", lambda: list(range(100)), lambda x: (x.append(1), x.pop())),
    ("list of 100: set an element", lambda: list(range(100)), set_first),
    ("list of 100 lists: read an inner element", lambda: [[i] for i in range(100)],
     lambda x: x[50][0]),
    ("list of 100 lists: append to one", lambda: [[i] for i in range(100)],
     lambda x: (x[50].append(1), x[50].pop())),
    ("dict of 100: read a key", lambda: {f"k{i}": i for i in range(100)}, lambda x: x["k50"]),
    ("dict of 100: set a key", lambda: {f"k{i}": i for i in range(100)}, set_key),
    ("object: read an attribute", Account, lambda x: x.owner),
    ("object: set an attribute", Account, set_owner),
    ("object: call a method that reads", Account, lambda x: x.total()),
]  # fmt: skip


def per_call_ns(operation: Callable[[], Any], seconds: float) -> float:
    """The median over batches of a hundredth of `seconds` each."""
    count = 1
    while True:
        began = time.perf_counter()
        for _ in range(count):
            operation()
        took = time.perf_counter() - began
        if took > seconds / 100:
            break
        count *= 2
    batches = []
    for _ in range(100):
        began = time.perf_counter()
        for _ in range(count):
            operation()
        batches.append((time.perf_counter() - began) / count * 1e9)
    return statistics.median(batches)


def measure(engine: theus.Engine, make: Callable[[], Any], change: Change, seconds: float) -> Any:
    plain = make()
    alone = per_call_ns(lambda: change(plain), seconds)
    engine.write("x", theus.leaf(make()))
    with engine.transaction() as ctx:
        proxy = ctx.x
        change(proxy)
        inside = per_call_ns(lambda: change(proxy), seconds)
        ctx.transaction.rollback()
    whole = per_call_ns(lambda: engine.run(lambda ctx: change(ctx.x) and None), seconds)
    return alone, inside, whole


def compared(engine: theus.Engine, items: int, seconds: float) -> tuple[float, float]:
    """A transaction that reads one attribute, and one that calls a method that changes nothing."""
    account = Account()
    account.entries = list(range(items))
    engine.write("x", account)
    return (
        per_call_ns(lambda: engine.run(lambda ctx: ctx.x.owner), seconds),
        per_call_ns(lambda: engine.run(lambda ctx: ctx.x.total() and None), seconds),
    )


LARGE_BYTES = 64 << 20


def best_ms(operation: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        operation()
        best = min(best, time.perf_counter() - began)
    return best * 1e3


def large(engine: theus.Engine) -> list[tuple[str, float]]:
    """Milliseconds, whole transactions and reads of values of 64 MiB; best of 5."""
    import numpy as np
    import pandas as pd

    numbers = np.zeros(LARGE_BYTES // 8)
    frame = pd.DataFrame({name: numbers[: len(numbers) // 8] for name in "abcdefgh"})
    engine.update(
        {"w": numbers, "frame": frame, "rows": [numbers[::2].copy(), numbers[1::2].copy()]}
    )
    count = iter(range(1, 1_000))
    run = engine.run
    return [
        ("array: read a slice", best_ms(lambda: run(lambda ctx: ctx.w[3:5].sum()))),
        ("array: set an element", best_ms(lambda: run(lambda ctx: set_first(ctx.w)))),
        ("list of 2 arrays: read an element", best_ms(lambda: run(lambda ctx: ctx.rows[0][0]))),
        ("frame: read a number", best_ms(lambda: run(lambda ctx: ctx.frame["a"].iloc[3]))),
        ("frame: sum of a column", best_ms(lambda: run(lambda ctx: ctx.frame["a"].sum()))),
        ("frame: set a number", best_ms(lambda: run(lambda ctx: set_number(ctx, next(count))))),
        ("frame: engine.read()", best_ms(lambda: engine.read("frame"))),
    ]


def set_number(ctx: Any, number: float) -> None:
    ctx.frame.loc[3, "a"] = number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="rougher, within seconds")
    seconds = 0.1 if parser.parse_args().quick else 1.0
    with theus.Coordinator(capacity="1 GiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            print(f"{'':42}{'plain':>10}{'in it':>10}{'whole':>10}   ns")
            for name, make, change in CASES:
                row = measure(engine, make, change, seconds)
                print(f"{name:42}" + "".join(f"{number:10,.0f}" for number in row))
            print(f"\n{'an object with a list of N ints':42}{'read':>10}{'method':>10}   us, whole")
            for items in (10, 1_000, 100_000):
                pair = compared(engine, items, seconds)
                print(f"{items:<42,}" + "".join(f"{number / 1000:10,.1f}" for number in pair))
            print(f"\n{'values of 64 MiB':42}{'':10}{'whole':>10}   ms")
            for name, milliseconds in large(engine):
                print(f"{name:52}{milliseconds:10,.2f}")


if __name__ == "__main__":
    main()
