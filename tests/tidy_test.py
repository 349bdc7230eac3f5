"""Plants a violation of each rule of tests/tidy.py, and near misses that must pass."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
import tidy

HEADER = "#pragma once\n"
# In two parts, because tidy also reads this file.
UNFINISHED = "TO" + "DO"
SLEEP_CPP = "sle" + "ep_for(10ms);\n"
SLEEP_PYTHON = "time.sle" + "ep(1)\n"

# rule, path, text, line of the violation
VIOLATIONS = [
    ("lines, over 700", "shm/long.cpp", "int i;\n" * 701, 701),
    ("columns, over 100", "shm/wide.cpp", "\n" + "x" * 101 + "\n", 2),
    ("columns, over 100", "bindings/theus/wide.py", "# " + "x" * 99 + "\n", 1),
    ("tab", "shm/a.cpp", "int i;\n\tint j;\n", 2),
    ("tab", "bindings/theus/a.py", "if x:\n\tpass\n", 2),
    ("trailing space", "worker/a.cpp", "int i; \n", 1),
    ("trailing space", "tests/model/a.pml", "init { skip } \n", 1),
    ("unfinished work", "worker/a.cpp", f"// {UNFINISHED}: later\n", 1),
    ("unfinished work", "bindings/theus/a.py", "x = 1  # FIX" + "ME\n", 1),
    ("unfinished work", "shm/delta.capnp", "# XX" + "X\n", 1),
    ("file name", "shm/SegmentMap.cpp", "int i;\n", 1),
    ("file name", "shm/segment-map.h", HEADER, 1),
    ("file name", "tests/python/testThing.py", "x = 1\n", 1),
    ("header without #pragma once", "shm/a.h", "int f();\n", 1),
    ("bare except", "bindings/theus/a.py", "try:\n    f()\nexcept:\n    g()\n", 3),
    (
        "every exception swallowed",
        "bindings/theus/a.py",
        "try:\n    f()\nexcept Exception:\n    pass\n",
        3,
    ),
    (
        "every exception swallowed",
        "bench/a.py",
        "try:\n    f()\nexcept (OSError, BaseException):\n    ...\n",
        3,
    ),
    ("syntax error", "bench/a.py", "def f(:\n", 1),
    ("shm/ includes worker/", "shm/a.cpp", '#include "worker/session.h"\n', 1),
    ("shm/ includes bindings/", "shm/a.cpp", "#include <bindings/module.h>\n", 1),
    ("worker/ includes coordinator/", "worker/a.h", HEADER + '#include "coordinator/a.h"\n', 2),
    ("coordinator/ includes worker/", "coordinator/a.cpp", '#  include "worker/a.h"\n', 1),
    ("bindings/ includes coordinator/", "bindings/a.cpp", '#include "coordinator/a.h"\n', 1),
    ("bindings/ includes tools/", "bindings/a.cpp", '#include "tools/a.h"\n', 1),
    ("tools/ includes worker/", "tools/top/a.cpp", '#include "worker/a.h"\n', 1),
    ("shm/ includes tests/", "shm/a.cpp", '#include "tests/cpp/fixture.h"\n', 1),
    ("include with ..", "shm/a.cpp", '#include "../worker/a.h"\n', 1),
    ("sleep in a test", "tests/cpp/a_test.cpp", SLEEP_CPP, 1),
    ("sleep in a test", "tests/python/test_a.py", SLEEP_PYTHON, 1),
    # An escape without a reason does not count.
    ("sleep in a test", "tests/python/test_a.py", "# tidy: allow-sleep\n" + SLEEP_PYTHON, 2),
]

ALLOWED = [
    ("shm/long.cpp", "int i;\n" * 700),
    ("shm/wide.cpp", "x" * 100 + "\n"),
    ("shm/a.h", "// Why it is here.\n" + HEADER + '#include "shm/b.h"\n#include <vector>\n'),
    ("worker/a.cpp", '#include "worker/a.h"\n#include "shm/a.h"\n'),
    ("coordinator/a.cpp", '#include "coordinator/a.h"\n#include "shm/a.h"\n'),
    ("bindings/a.cpp", '#include "bindings/a.h"\n#include "worker/a.h"\n#include "shm/a.h"\n'),
    ("tools/top/a.cpp", '#include "tools/top/a.h"\n#include "shm/a.h"\n'),
    ("tests/cpp/a_test.cpp", '#include "worker/a.h"\n#include "coordinator/a.h"\n'),
    ("tests/cpp/a_test.cpp", "// tidy: allow-sleep the clock itself is tested\n" + SLEEP_CPP),
    ("tests/python/test_a.py", SLEEP_PYTHON.strip() + "  # tidy: allow-sleep waits to be killed\n"),
    ("tests/python/test_a.py", "def check_sleepers(): ...\n"),
    ("bench/a.py", SLEEP_PYTHON),
    ("worker/a.cpp", 'auto name = "theus-XXXXXX";\n'),
    ("bindings/theus/__init__.py", ""),
    ("bindings/theus/_theus.pyi", "x: int\n"),
    ("bindings/theus/a.py", "try:\n    f()\nexcept OSError:\n    pass\n"),
    ("bindings/theus/a.py", "try:\n    f()\nexcept Exception:\n    log()\n"),
    ("docs/a.md", "two spaces at the end  \n"),
    ("tests/model/a.pml", "init {\n\tskip\n}\n"),
    ("Makefile", "all:\n\ttrue\n"),
]


@pytest.mark.parametrize(("rule", "path", "text", "line"), VIOLATIONS)
def test_violation_is_found(rule: str, path: str, text: str, line: int) -> None:
    found = tidy.check_file(path, text)
    assert len(found) == 1, found
    assert rule in found[0].rule
    assert (found[0].path, found[0].line) == (path, line)
    assert found[0].remedy


@pytest.mark.parametrize(("path", "text"), ALLOWED)
def test_near_miss_passes(path: str, text: str) -> None:
    assert tidy.check_file(path, text) == []


def run_tidy(root: pathlib.Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, tidy.__file__, str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_checks_new_files_and_skips_ignored_ones(tmp_path: pathlib.Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("build/\n")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "generated.h").write_text("int f();\t\n")
    (tmp_path / "shm").mkdir()
    header = tmp_path / "shm" / "a.h"

    header.write_text("int f();\n")
    failed = run_tidy(tmp_path)
    assert failed.returncode == 1
    assert "shm/a.h:1: header without #pragma once; add it above the includes" in failed.stdout
    assert "1 files, 1 violations" in failed.stdout

    header.write_text(HEADER)
    passed = run_tidy(tmp_path)
    assert passed.returncode == 0, passed.stdout
    assert "1 files, 0 violations" in passed.stdout


def test_command_fails_when_it_checked_nothing(tmp_path: pathlib.Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert run_tidy(tmp_path).returncode == 1
