"""The types that theus declares: they agree with themselves, with the C++ half, and with what a
program that is checked with them may and may not write."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)  # without a cache mypy reads all of NumPy's types first

ROOT = Path(__file__).parents[2]

NOT_COMPARED = """
# It is the object's own, bound.
theus._theus.SupervisorProxy.__init__
"""

# Every line that must be refused says so, and by which of mypy's rules.
PROGRAM = """
from collections.abc import Mapping
from typing import Any, Callable

import theus
from typing_extensions import assert_type


def add(ctx: theus.ProcessContext, amount: int, twice: bool = False) -> int:
    ctx.total += amount
    ctx.rows["a"] = {"b": [1]}
    ctx["rows"].a.b[0] += 1
    ctx.add("total", 1)
    ctx.total()
    if not ctx.rows:
        ctx.retry()
    for key, value in ctx.items():
        print(key, value)
    return 1


def count_keys(mapping: Mapping[str, Any]) -> int:
    return len(mapping)


def wait_for_ever(ctx: theus.ProcessContext) -> int:
    ctx.retry()


def change(proxy: theus.SupervisorProxy) -> None:
    proxy.a[0] *= 2
    proxy += 1
    proxy <<= 2
    print(2 @ proxy, divmod(proxy, 2), bool(proxy), proxy[0], len(proxy), proxy.pop(1, None))


with theus.open("shop", initial={"total": 0, ("a", 1): []}, capacity="1 GiB") as engine:
    assert_type(engine, theus.Engine)
    assert_type(engine.run(add, 1, twice=True), int)
    assert_type(engine.run(add, 1, retries=3, timeout=1.5), int)
    engine.run(add, 1, retries="3")  # refused: arg-type
    engine.run(3)  # refused: arg-type
    engine.transaction(isolation="none")  # refused: arg-type
    with engine.transaction(isolation="snapshot", label="x") as ctx:
        assert_type(ctx, theus.ProcessContext)
        assert_type(ctx.transaction.snapshot_version, int)
        assert_type(ctx.transaction.version, int | None)
        assert_type(ctx.read("a", None), Any | None)
        ctx.write("a")  # refused: call-arg
        ctx.write({"a": 1}, 1)  # refused: arg-type
        ctx.transaction.on_commit(3)  # refused: arg-type
        ctx.transaction.version = 3  # refused: misc
        count_keys(ctx)
        ctx |= {"a": 1}
        print(ctx == {"a": 1}, ctx | {"b": 2})
    for attempt in engine.attempts(3):
        with attempt as ctx:
            assert_type(ctx, theus.ProcessContext)
        assert_type(attempt.committed, bool)
    assert_type(engine.wait("a", ("b", 1), since=3), int | None)
    engine.wait(3)  # refused: arg-type
    for version, paths in engine.watch("a"):
        assert_type(version, int)
        assert_type(paths, tuple[str | tuple[Any, ...], ...])
    assert_type(engine.state.update({"a": 1, ("b", 2): 2}), theus.State)
    assert_type(engine.state.to_dict(), dict[Any, Any])


def find() -> int:
    with engine.snapshot() as ctx:  # does not swallow exceptions: no return is missing
        return int(ctx.total)


@engine.process
def plainly(ctx: theus.ProcessContext, amount: int) -> str:
    return str(ctx.total + amount)


@engine.process(semantic="pure", retries=3)
def purely(ctx: Any, amount: int) -> str:
    return str(amount)


assert_type(plainly(1), str)
assert_type(purely(amount=1), str)
plainly("1")  # refused: arg-type
purely()  # refused: call-arg
engine.process(retries=0.5)  # refused: call-overload
engine.process(semantic="neither")  # refused: call-overload


async def main() -> None:
    assert_type(await engine.run_async(add, 1), int)
    assert_type(await engine.wait_async("a", timeout=1), int | None)
    async with engine.transaction() as ctx:
        assert_type(ctx, theus.ProcessContext)
    async for version, _ in engine.watch("a"):
        assert_type(version, int)


try:
    engine.add("total", 1)
except theus.ConflictError as error:
    assert_type(error.winner_pid, int | None)
    assert_type(error.paths, tuple[str | tuple[Any, ...], ...])
"""


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_the_package_and_the_examples() -> None:
    """As pyproject.toml asks: with --strict."""
    done = run("mypy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^Success: no issues found in \d\d source files$", done.stdout, re.M)


def test_the_types_are_those_at_run_time(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text(NOT_COMPARED)
    done = run(
        *("mypy.stubtest", "theus", "--mypy-config-file", "pyproject.toml"),
        *("--allowlist", str(allowed)),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_program_that_uses_the_types(tmp_path: Path) -> None:
    """Against the installed package, as anybody's program is checked."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run("mypy", "--strict", "--hide-error-context", "program.py", cwd=tmp_path)
    refused = re.findall(r"^program\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.M)
    marked = [
        (str(number), mark[1])
        for number, line in enumerate(PROGRAM.split("\n"), start=1)
        if (mark := re.search(r"# refused: (.*)", line))
    ]
    assert len(marked) > 10
    assert refused == marked, done.stdout + done.stderr
