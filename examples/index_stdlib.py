"""Index the standard library of the running Python with several processes, exactly.

Worker processes share one state: a queue of files, a table of words, a table of modules and a
NumPy histogram of line lengths. A worker reads a file, and then one transaction takes that file off
the queue and adds its counts to the tables. Since both happen or neither does, a worker may be
killed at any moment: its file is simply still in the queue. To prove it, one worker is killed in
the middle; at the end everything is counted again by one process, and must be the same.

    python examples/index_stdlib.py
    python examples/index_stdlib.py --workers 4 --kill-coordinator --name index  # and theus-top

Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import keyword
import multiprocessing
import os
import random
import re
import signal
import sys
import sysconfig
import time
import tokenize
from collections import Counter
from collections.abc import Iterable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import theus

LONGEST_LINE = 200  # characters; longer lines are counted as this long
TRIES_MAX = 100  # per file; a transaction that meets conflicts is given its turn long before
REPLACEMENTS_MAX = 3  # a worker that keeps dying has a bug, and starting it again hides that

# Comments and strings are matched too, and first, so that words inside them do not count.
TOKENS = re.compile(
    r"""  \#[^\n]*
        | [rbfuRBFU]{0,2} (?: \"\"\"(?:\\.|[^\\])*?\"\"\" | '''(?:\\.|[^\\])*?'''
                            | "(?:\\.|[^"\\\n])*"         | '(?:\\.|[^'\\\n])*' )
        | ([^\W\d]\w*)""",
    re.DOTALL | re.VERBOSE,
)


class FileIndex(NamedTuple):
    """What one file adds to the tables."""

    words: Counter[str] | None  # None: the file could not be read
    line_lengths: npt.NDArray[np.int64]  # how many lines have 0, 1, ... LONGEST_LINE characters


def find_files(limit: int | None) -> dict[str, str]:
    """Returns module name -> path of what the standard library consists of."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts]
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): str(path) for path in paths[:limit]
    }


def index_file(path: str) -> FileIndex:
    """Counts the identifiers and the line lengths of one file. Touches nothing shared."""
    try:
        with tokenize.open(path) as file:  # obeys the encoding that the file declares
            text = file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return FileIndex(None, np.zeros(LONGEST_LINE + 1, dtype=np.int64))
    words = Counter(word for word in TOKENS.findall(text) if word and not keyword.iskeyword(word))
    lengths = [min(len(line), LONGEST_LINE) for line in text.split("\n")]
    return FileIndex(words, np.bincount(lengths, minlength=LONGEST_LINE + 1))


# --- what a worker does


def record(ctx: theus.ProcessContext, module: str, index: FileIndex, tries: int) -> None:
    """Takes the file off the queue and adds its counts: one transaction, all of it or nothing."""
    if module not in ctx.queue:
        return  # another worker was faster; its counts are in the tables
    del ctx.queue[module]
    ctx.modules[module] = index.words
    ctx.line_lengths += index.line_lengths
    if index.words is not None:
        words = ctx.words
        for word, count in index.words.items():
            words[word] = words.get(word, 0) + count
    ctx.tries += tries


def work(engine: theus.Engine) -> None:
    """Indexes files until none is left.

    Each worker goes through the files in an order of its own, so two are seldom at the same one;
    when they are, the later one finds it gone from the queue, and has done some work in vain.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    order = list(engine.state["queue"].items())
    random.shuffle(order)
    for module, path in order:
        if module not in engine.state["queue"]:
            continue
        index = index_file(path)
        # Most files contain `self`, so transactions that overlap in time conflict. The later one is
        # run again, on a newer snapshot. (engine.run does the same, but does not tell how often.)
        for tries, attempt in enumerate(engine.attempts(TRIES_MAX), start=1):
            with attempt as ctx:
                record(ctx, module, index, tries)


# --- what the parent does


class Crew:
    """The worker processes. One that dies is replaced."""

    def __init__(self, engine: theus.Engine, size: int, start_method: str | None) -> None:
        self._context: Any = multiprocessing.get_context(start_method)
        self._engine = engine
        self._deaths = 0
        self._workers = [self._start() for _ in range(size)]

    def _start(self) -> BaseProcess:
        worker: BaseProcess = self._context.Process(target=work, args=(self._engine,), daemon=True)
        worker.start()
        return worker

    def watch(self, seconds: float) -> bool:
        """Waits, at most so long, for a worker to end. Returns whether any is still at work."""
        wait([worker.sentinel for worker in self._workers], timeout=seconds)
        ended = [worker for worker in self._workers if not worker.is_alive()]
        for worker in ended:
            self._workers.remove(worker)
            if worker.exitcode != 0:
                self._replace(worker)
        return bool(self._workers)

    def _replace(self, worker: BaseProcess) -> None:
        self._deaths += 1
        if self._deaths > REPLACEMENTS_MAX:
            raise SystemExit(f"{self._deaths} workers died; that is too many")
        replacement = self._start()
        self._workers.append(replacement)
        say(
            f"worker {worker.pid} has died (status {worker.exitcode}); "
            f"worker {replacement.pid} takes its place"
        )

    def kill_one(self) -> None:
        victim = self._workers[0]
        say(f"killing worker {victim.pid}, whatever it is doing")
        victim.kill()

    def stop(self) -> None:
        for worker in self._workers:
            worker.kill()
            worker.join()


class Progress:
    """One line about how far it has got: rewritten in place on a terminal, else now and then."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.seconds = 0.0
        self._start = self._shown = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._every_s = 0.1 if self._terminal else 2.0

    def update(self, state: theus.State, last: bool = False) -> int:
        """Returns how many files are done; shows it when it is time to."""
        done = len(state["modules"])
        now = time.monotonic()
        self.seconds = now - self._start
        if last or now - self._shown >= self._every_s:
            self._shown = now
            line = (
                f"{done}/{self.total} files  {done / max(self.seconds, 1e-9):.0f} files/s  "
                f"{conflict_share(state):.1%} of the attempts conflicted"
            )
            end = "" if self._terminal and not last else "\n"
            print(f"\r\033[K{line}" if self._terminal else line, end=end, flush=True)
        return done


def say(message: str) -> None:
    """Prints a line of its own, in the place of a progress line that may stand there."""
    print(f"\r\033[K{message}" if sys.stdout.isatty() else message, flush=True)


def conflict_share(state: theus.State) -> float:
    tries = state["tries"]
    return 1 - len(state["modules"]) / tries if tries else 0.0


def run(arguments: argparse.Namespace, files: dict[str, str]) -> theus.State:
    """Lets the workers index the files, with the accidents ordered; returns the final state."""
    with (
        theus.Coordinator(arguments.name) as coordinator,
        theus.connect(coordinator.name) as engine,
    ):
        engine.update(
            {
                "queue": files,
                "words": {},
                "modules": {},
                "line_lengths": np.zeros(LONGEST_LINE + 1, dtype=np.int64),
                "tries": 0,
            }
        )
        say(
            f"{len(files)} files, {arguments.workers} workers, coordinator {coordinator.pid} "
            f"(theus-top {coordinator.name} shows it)"
        )
        progress = Progress(len(files))
        crew = Crew(engine, arguments.workers, arguments.start_method)
        worker_lives, coordinator_lives = True, arguments.kill_coordinator
        try:
            while crew.watch(seconds=0.01):
                done = progress.update(engine.state)
                if worker_lives and done > len(files) / 3:
                    worker_lives = False
                    crew.kill_one()
                if coordinator_lives and done > len(files) / 2:
                    coordinator_lives = False
                    say(f"killing coordinator {coordinator.pid}; the workers go on meanwhile")
                    os.kill(coordinator.pid, signal.SIGKILL)
        finally:
            crew.stop()
        if worker_lives or coordinator_lives:
            say("all was done before anybody could be killed; take more files")
        if arguments.kill_coordinator:
            say(f"coordinator {coordinator.pid} was started in its place")
        state = engine.state
        progress.update(state, last=True)
        say(
            f"\n{len(files) / progress.seconds:.0f} files/s with {arguments.workers} workers; "
            f"{state['tries']} attempts, {conflict_share(state):.1%} of them conflicted"
        )
    return state  # stays readable: a State keeps its content as long as it is held


def differences(state: theus.State, indexes: dict[str, FileIndex]) -> Iterable[str]:
    """Compares the shared tables with those that this process alone makes from `indexes`."""
    words: Counter[str] = Counter()
    line_lengths = np.zeros(LONGEST_LINE + 1, dtype=np.int64)
    for index in indexes.values():
        words.update(index.words or {})
        line_lengths += index.line_lengths

    if state["queue"]:
        yield f"{len(state['queue'])} files are still in the queue"
    shared_modules = theus.plain(state["modules"])
    for module in shared_modules.keys() | indexes.keys():
        alone = indexes[module].words if module in indexes else "no such module"
        if shared_modules.get(module, "missing") != alone:
            yield f"module {module} differs"
    shared_words = theus.plain(state["words"])
    for word in shared_words.keys() | words.keys():
        if shared_words.get(word) != words.get(word):
            yield f"word {word!r}: {shared_words.get(word)} shared, {words.get(word)} alone"
    if not np.array_equal(state["line_lengths"], line_lengths):
        yield "the histogram of line lengths differs"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=min(max(cores, 2), 4), metavar="N")
    parser.add_argument("--limit", type=int, metavar="N", help="take only the first N files")
    parser.add_argument("--name", help="name of the coordinator, for theus-top to find it by")
    parser.add_argument("--kill-coordinator", action="store_true", help="kill it in the middle")
    parser.add_argument("--start-method", choices=multiprocessing.get_all_start_methods())
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error("--workers must be at least 1")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    files = find_files(arguments.limit)
    state = run(arguments, files)

    top = Counter(theus.plain(state["words"])).most_common(10)
    say("the most frequent words: " + ", ".join(f"{word} {count}" for word, count in top))
    say("counting again in one process, to compare ...")
    start = time.monotonic()
    found = list(differences(state, {name: index_file(path) for name, path in files.items()}))
    for difference in found[:20]:
        say(f"WRONG: {difference}")
    say(
        f"{len(found)} differences ({time.monotonic() - start:.1f} s alone)"
        if found
        else f"exactly the same: {len(files)} modules, {len(state['words'])} words, "
        f"{int(state['line_lengths'].sum())} lines ({time.monotonic() - start:.1f} s alone)"
    )
    return 1 if found else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
