"""Fails on what the project's style forbids, naming file, line and remedy.

Usage: tidy.py [ROOT]   checks every file under version control, and every new one that git does
not ignore. tests/tidy_test.py plants a violation of each rule.
"""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

FILE_LINES_MAX = 700
LINE_COLUMNS_MAX = 100

CPP_SUFFIXES = {".h", ".hpp", ".cpp", ".cc"}
HEADER_SUFFIXES = {".h", ".hpp"}
PYTHON_SUFFIXES = {".py", ".pyi"}
CODE_SUFFIXES = CPP_SUFFIXES | PYTHON_SUFFIXES
# Checked for trailing spaces and unfinished work only. Not Markdown: two spaces at the end of a
# line mean something there.
OTHER_SUFFIXES = {".capnp", ".cmake", ".pml", ".sh", ".toml"}
OTHER_NAMES = {"CMakeLists.txt", "run"}

# Which of our folders each folder may include. A folder that is not named here (tests, bench) may
# include all of them.
LAYERS: dict[str, set[str]] = {
    "shm": {"shm"},
    "worker": {"worker", "shm"},
    "coordinator": {"coordinator", "shm"},
    "bindings": {"bindings", "worker", "shm"},
    "tools": {"tools", "shm"},
}
OUR_FOLDERS = set(LAYERS) | {"tests", "bench", "examples"}

INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]')
PRAGMA_ONCE = re.compile(r"^\s*#\s*pragma\s+once\b", re.MULTILINE)
# Written with a gap each, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
SLEEP = re.compile(r"\b(?:sleep|usleep|nanosleep|clock_nanosleep|sleep_for|sleep_until)\s*\(")
# Methods of ours, like Wait::sleep, which end with the event.
METHOD = re.compile(r"(?<!\btime)(?<!\basyncio)\.sleep\b|\bdef sleep\b")
ALLOW_SLEEP = re.compile(r"(//|#) tidy: allow-sleep \S")
SNAKE_CASE = re.compile(r"_{0,2}[a-z][a-z0-9]*(_[a-z0-9]+)*_{0,2}")


@dataclasses.dataclass(frozen=True, order=True)
class Violation:
    path: str
    line: int
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}; {self.remedy}"


def check_length(path: str, lines: list[str]) -> Iterator[Violation]:
    if len(lines) > FILE_LINES_MAX:
        yield Violation(
            path,
            FILE_LINES_MAX + 1,
            f"{len(lines)} lines, over {FILE_LINES_MAX}",
            "split the file by idea",
        )
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_COLUMNS_MAX:
            rule = f"{len(line)} columns, over {LINE_COLUMNS_MAX}"
            yield Violation(path, number, rule, "break the line")


def check_tabs(path: str, lines: list[str]) -> Iterator[Violation]:
    for number, line in enumerate(lines, 1):
        if "\t" in line:
            yield Violation(path, number, "tab", "indent with spaces; write \\t in a string")


def check_text(path: str, lines: list[str]) -> Iterator[Violation]:
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            yield Violation(path, number, "trailing space", "remove it")
        if found := UNFINISHED.search(line):
            remedy = "finish it, or say in the comment what holds and why"
            yield Violation(path, number, f"unfinished work ({found[1]})", remedy)


def check_name(path: str) -> Iterator[Violation]:
    stem = pathlib.PurePath(path).name.split(".")[0]
    if not SNAKE_CASE.fullmatch(stem):
        yield Violation(path, 1, "file name is not snake_case", "rename the file")


def check_includes(path: str, lines: list[str]) -> Iterator[Violation]:
    folder = pathlib.PurePath(path).parts[0]
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line)
        if not found:
            continue
        parts = pathlib.PurePath(found[1]).parts
        if ".." in parts:
            remedy = "write the path from the repository's root"
            yield Violation(path, number, "include with ..", remedy)
        elif folder in LAYERS and parts[0] in OUR_FOLDERS - LAYERS[folder]:
            allowed = ", ".join(sorted(LAYERS[folder]))
            yield Violation(
                path,
                number,
                f"{folder}/ includes {parts[0]}/",
                f"it may include only {allowed}; move the shared part down to a lower folder",
            )


def check_pragma_once(path: str, text: str) -> Iterator[Violation]:
    if not PRAGMA_ONCE.search(text):
        yield Violation(path, 1, "header without #pragma once", "add it above the includes")


def check_sleeps(path: str, lines: list[str]) -> Iterator[Violation]:
    for number, line in enumerate(lines, 1):
        if not SLEEP.search(METHOD.sub("", line)):
            continue
        above = lines[number - 2] if number > 1 else ""
        if ALLOW_SLEEP.search(line) or ALLOW_SLEEP.search(above):
            continue
        mark = "#" if path.endswith(".py") else "//"
        yield Violation(
            path,
            number,
            "sleep in a test",
            "wait for the event itself, or say why not: "
            f"`{mark} tidy: allow-sleep REASON` on this line or the one above",
        )


def names_in(node: ast.expr | None) -> set[str]:
    """Returns the names of the classes that an `except` catches."""
    if node is None:
        return set()
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def is_empty(body: list[ast.stmt]) -> bool:
    """Says whether a handler does nothing: `pass` or `...`, however often."""
    return all(
        isinstance(statement, ast.Pass)
        or (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and statement.value.value is Ellipsis
        )
        for statement in body
    )


def check_handlers(path: str, text: str) -> Iterator[Violation]:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield Violation(path, error.lineno or 1, f"syntax error ({error.msg})", "correct it")
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None:
            remedy = "name the exceptions; BaseException if it re-raises"
            yield Violation(path, node.lineno, "bare except", remedy)
        elif names_in(node.type) & {"Exception", "BaseException"} and is_empty(node.body):
            remedy = "name the one exception that is expected, and say why it does no harm"
            yield Violation(path, node.lineno, "every exception swallowed", remedy)


def check_file(path: str, text: str) -> list[Violation]:
    """Returns the violations in one file; path is relative to the root, with slashes."""
    pure = pathlib.PurePosixPath(path)
    # Not splitlines(): it also splits at form feeds and the like, and no editor counts these.
    lines = text.removesuffix("\n").split("\n")
    found: list[Violation] = []
    if pure.suffix in CODE_SUFFIXES:
        found += check_name(path)
        found += check_length(path, lines)
        found += check_tabs(path, lines)
    if pure.suffix in CODE_SUFFIXES | OTHER_SUFFIXES or pure.name in OTHER_NAMES:
        found += check_text(path, lines)
    if pure.suffix in CPP_SUFFIXES:
        found += check_includes(path, lines)
    if pure.suffix in HEADER_SUFFIXES:
        found += check_pragma_once(path, text)
    if pure.suffix in PYTHON_SUFFIXES:
        found += check_handlers(path, text)
    if pure.parts[0] == "tests" and pure.suffix in CODE_SUFFIXES:
        found += check_sleeps(path, lines)
    return sorted(found)


def list_files(root: pathlib.Path) -> list[str]:
    """Returns the files that are under version control or could be put under it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    # A file that was removed but not yet committed is still listed.
    return sorted({name for name in listed.stdout.split("\0") if (root / name).is_file()})


def check_tree(root: pathlib.Path) -> tuple[int, list[Violation]]:
    """Returns how many files were checked, and the violations in them."""
    checked, found = 0, []
    for name in list_files(root):
        pure = pathlib.PurePosixPath(name)
        if pure.suffix in CODE_SUFFIXES | OTHER_SUFFIXES or pure.name in OTHER_NAMES:
            checked += 1
            found += check_file(name, (root / name).read_text(encoding="utf-8"))
    return checked, found


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1])
    checked, found = check_tree(root)
    for violation in found:
        print(violation)
    if checked == 0:
        print(f"tidy: no file to check under {root}")
        return 1
    print(f"tidy: {checked} files, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
