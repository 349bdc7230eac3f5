"""Promise 13: when the last process is gone, so is every byte, by any exit, without a cleaner."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import theus
from helpers import START_METHODS, WAIT_S, exists, run_forked, until, wait_gone

# Starts an embedded coordinator and two workers, which write arrays; tells the pids, and waits for
# the end of its standard input.
PROGRAM = textwrap.dedent("""
    import json, multiprocessing, os, sys
    import numpy, theus

    def work(engine, number):
        for n in range(10**9):
            engine.run(lambda ctx: ctx.write("n", ctx.n + 1), retries=10**6)
            engine.write(f"arrays.a{number}", numpy.full(100_000, n))
            if n == 10:
                engine.write(f"pids.p{number}", os.getpid())

    if __name__ == "__main__":
        multiprocessing.set_start_method(sys.argv[1])
        initial = {"n": 0, "arrays": {}, "pids": {}}
        engine = theus.open(sys.argv[2], capacity="64 MiB", initial=initial)
        jobs = [multiprocessing.Process(target=work, args=(engine, n), daemon=True)
                for n in range(2)]
        for job in jobs:
            job.start()
        held = engine.state
        while len(engine.state["pids"]) < 2:
            assert all(job.is_alive() for job in jobs)
        stats = engine.stats()
        print(json.dumps({"workers": [job.pid for job in jobs],
                          "coordinator": [stats["supervisor_pid"], stats["coordinator_pid"]]}),
              flush=True)
        how = sys.stdin.read()
        if how == "exit at once":
            os._exit(0)
        if how == "raise":
            raise RuntimeError("as ordered")
        if how == "close":
            for job in jobs:
                job.kill()
                job.join()
            engine.close()
""")


class Program:
    """The program above, running, with all its processes."""

    def __init__(self, folder: Path, start_method: str, name: str | None = None) -> None:
        self.name = name or f"test-{os.getpid()}-{folder.name}"[:60]
        script = folder / "program.py"
        script.write_text(PROGRAM)
        command = [sys.executable, str(script), start_method, self.name]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the program ended"
        told = json.loads(line)
        self.workers: list[int] = told["workers"]
        self.coordinator: list[int] = told["coordinator"]
        self.memory = memory_of(self.process.pid)

    @property
    def pids(self) -> list[int]:
        return [self.process.pid, *self.workers, *self.coordinator]

    def end(self, how: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(how)
        self.process.stdin.close()
        self.process.wait(WAIT_S)

    def kill(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process.pid in pids:
            self.process.wait(WAIT_S)


def memory_of(pid: int) -> set[tuple[int, int]]:
    """Device and inode of every memfd that the process has open or mapped."""
    found = set()
    for kind in ("fd", "map_files"):
        folder = f"/proc/{pid}/{kind}"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for entry in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                    if os.readlink(f"{folder}/{entry}").startswith("/memfd:"):
                        status = os.stat(f"{folder}/{entry}")
                        found.add((status.st_dev, status.st_ino))
    return found


def holders(memory: set[tuple[int, int]]) -> list[int]:
    """All processes of this machine that have any of it."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if memory_of(pid) & memory]


@pytest.fixture(params=START_METHODS)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    before = set(os.listdir("/dev/shm"))
    program = Program(tmp_path, request.param)
    try:
        yield program
        for pid in program.pids:
            wait_gone(pid)
        until(lambda: not holders(program.memory))
        new = set(os.listdir("/dev/shm")) - before
        assert not {name for name in new if "theus" in name}
    finally:
        program.kill([pid for pid in program.pids if exists(pid)])


def test_while_it_runs_it_holds_memory_without_a_name(program: Program) -> None:
    assert program.memory
    assert set(program.pids) <= set(holders(program.memory))
    for pid in program.pids:
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "memfd:" in maps or pid == program.coordinator[0]  # that one maps nothing
        assert "/dev/shm" not in maps
    program.kill(program.pids)


def test_killing_everything(program: Program) -> None:
    program.kill(program.pids)


def test_killing_everything_but_the_coordinator(program: Program) -> None:
    """An embedded one ends by itself when its starter and all who were attached are gone."""
    program.kill([program.process.pid, *program.workers])


def test_killing_the_starter_leaves_the_workers_at_work(program: Program) -> None:
    program.kill([program.process.pid])
    with theus.connect(program.name) as engine:
        n = engine.state["n"]
        until(lambda: engine.state["n"] > n)
    program.kill(program.workers)


@pytest.mark.parametrize("how", ["return", "raise", "exit at once", "close"])
def test_any_exit(how: str, program: Program) -> None:
    program.end(how)
    if how == "exit at once":  # which skips what would have ended the workers
        program.kill(program.workers)


def test_a_leftover_socket_file_is_harmless(tmp_path: Path) -> None:
    name = f"test-leftover-{os.getpid()}"
    for _ in range(2):
        program = Program(tmp_path, "fork", name)
        program.kill(program.pids)
        for pid in program.pids:
            wait_gone(pid)
        with pytest.raises(theus.CoordinatorNotFound):
            theus.connect(name)
    with theus.open(name) as engine:
        assert engine.state.to_dict() == {}


def test_an_embedded_coordinator_ends_with_the_last_process() -> None:
    """theus.open() by name: a second program keeps it alive after the first one has ended."""
    name = f"test-embedded-{os.getpid()}"
    script = textwrap.dedent("""
        import sys, theus
        engine = theus.open(sys.argv[1], initial={"n": 1})
        print(engine.state["n"], flush=True)
        sys.stdin.read()
    """)
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", script, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    )
    with first, second:
        assert first.stdout.readline() == second.stdout.readline() == b"1\n"
        first.kill()
        first.wait(WAIT_S)
        with theus.connect(name) as engine:
            engine.write("n", 2)
        with theus.connect(name) as engine:
            assert engine.state["n"] == 2
        second.kill()
        second.wait(WAIT_S)

    def ended() -> bool:
        try:
            theus.connect(name).close()
        except theus.CoordinatorNotFound:
            return True
        return False

    until(ended)


@pytest.mark.parametrize("start", ["engine = theus.open()", "held = theus.Coordinator()"])
def test_a_coordinator_does_not_outlive_its_starter(start: str) -> None:
    if "Coordinator" in start:
        start += "; engine = theus.connect(held.name)"
    script = f"import sys, theus; {start}; print(engine.stats(), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        stats = ast.literal_eval(starter.stdout.readline().decode())
        starter.kill()
    wait_gone(stats["coordinator_pid"])
    wait_gone(stats["supervisor_pid"])


@pytest.mark.parametrize(
    "start", ["e = theus.open()", "c = theus.Coordinator(); e = theus.connect(c.name)"]
)
def test_output_of_a_program_can_be_captured(start: str) -> None:
    """One that inherited the pipe would keep subprocess.run() waiting. It is quiet, too."""
    script = f"import theus; {start}; e.write('n', 1); print(e.state['n'])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT_S, check=True
    )
    assert done.stdout == "1\n"
    assert done.stderr == ""


def test_ctrl_c_does_not_reach_the_coordinator(tmp_path: Path) -> None:
    program = Program(tmp_path, "fork")
    try:

        def interrupted() -> bool:
            # What a terminal does. Once is not always enough: an interpreter that is on its way
            # into read() when the signal comes notices it only after the read.
            os.killpg(program.process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(1)
            return program.process.returncode is not None

        until(interrupted)
        for pid in program.coordinator:
            wait_gone(pid)  # by themselves, since nobody is left
    finally:
        program.kill(program.pids)


def test_leaving_by_exit_in_a_forked_child_leaves_the_parent_alone() -> None:
    with theus.Coordinator() as coordinator, theus.connect(coordinator.name) as engine:
        engine.write("n", 1)
        assert run_forked(lambda: 0) == 0
        engine.write("n", 2)
        with theus.connect(coordinator.name) as again:
            assert again.state["n"] == 2
