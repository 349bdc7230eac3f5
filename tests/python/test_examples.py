"""Each program of examples/ does its job, can tell when it has not, and leaves nothing behind.

examples/index_stdlib.py has tests of its own, in test_demo.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import START_METHODS, until

EXAMPLES = Path(__file__).parents[2] / "examples"
MAIN = 'if __name__ == "__main__":\n'
TIMEOUT_S = 100
MARK = "THEUS_TEST_EXAMPLE"

SMALL = {
    "job_queue.py": ["--jobs", "40", "--size", "500"],
    "bank.py": ["--accounts", "10", "--transfers", "200"],
    "parameter_server.py": ["--rounds", "10"],
    "async_service.py": ["--orders", "20"],
}
# With these a program does something wrong, and has to find that out.
WRONG = {
    "job_queue.py": ["--careless"],
    "bank.py": ["--torn", "--transfers", "3000"],
    "parameter_server.py": ["--stale"],
    "async_service.py": ["--blocking"],
}


def marked(mark: str) -> list[int]:
    """The processes that have `mark` in their environment, whoever has started them."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                environment = Path("/proc", name, "environ").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # gone meanwhile, or not ours
            if f"{MARK}={mark}".encode() in environment.split(b"\0"):
                found.append(int(name))
    return found


def run(script: Path, *arguments: str) -> tuple[int, str, str]:
    """Returns the exit code and what it wrote. None of its processes is left, the coordinator's
    included, and with the last one its memory is gone."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=TIMEOUT_S)
        until(lambda: not marked(mark))  # a coordinator ends a moment after its program
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    return process.returncode, output, errors


@pytest.mark.parametrize("name", SMALL)
def test_as_it_stands(name: str) -> None:
    code, output, errors = run(EXAMPLES / name)
    assert (code, errors) == (0, ""), output + errors
    assert "exactly right: " in output and "WRONG" not in output


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.parametrize("name", SMALL)
def test_under_each_start_method(name: str, start_method: str, tmp_path: Path) -> None:
    program = (EXAMPLES / name).read_text()
    assert program.count(MAIN) == 1
    setting = f"    multiprocessing.set_start_method({start_method!r})\n"
    script = tmp_path / name
    script.write_text(program.replace(MAIN, MAIN + setting))
    code, output, errors = run(script, *SMALL[name])
    assert (code, errors) == (0, ""), output + errors
    assert "exactly right: " in output and "WRONG" not in output


@pytest.mark.parametrize("name", SMALL)
def test_it_sees_when_it_is_wrong(name: str) -> None:
    code, output, errors = run(EXAMPLES / name, *SMALL[name], *WRONG[name])
    assert (code, errors) == (1, ""), output + errors
    assert "WRONG: " in output and "exactly right" not in output
