"""examples/index_stdlib.py stays exact when a worker and the coordinator are killed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers import START_METHODS

EXAMPLE = Path(__file__).parents[2] / "examples" / "index_stdlib.py"
FILES = 250


def run_example(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--limit", str(FILES), "--workers", "3", *arguments],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"exactly the same: {FILES} modules" in done.stdout
    return done.stdout


@pytest.mark.parametrize("start_method", START_METHODS)
def test_exact_though_a_worker_and_the_coordinator_are_killed(start_method: str) -> None:
    shown = run_example("--kill-coordinator", "--start-method", start_method)
    assert "killing worker" in shown
    assert "has died (status -9)" in shown
    assert "killing coordinator" in shown
    assert "before anybody could be killed" not in shown


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("index_stdlib", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("damage", ["none", "word", "module", "missing", "queue", "line"])
def test_the_comparison_sees_every_difference(damage: str, tmp_path: Path) -> None:
    example = load_example()
    source = tmp_path / "one.py"
    source.write_text('def f(self):  # a comment\n    return self.x + "self" + rb"\\n"\n')
    index = example.index_file(str(source))
    assert index.words == {"f": 1, "self": 2, "x": 1}
    state: dict[str, Any] = {
        "queue": {},
        "words": dict(index.words),
        "modules": {"one": Counter(index.words)},
        "line_lengths": np.array(index.line_lengths),
    }
    if damage == "word":
        state["words"]["self"] += 1
    elif damage == "module":
        state["modules"]["one"]["f"] += 1
    elif damage == "missing":
        del state["modules"]["one"]
    elif damage == "queue":
        state["queue"]["one"] = str(source)
    elif damage == "line":
        state["line_lengths"][3] += 1
    found = list(example.differences(state, {"one": index}))
    assert len(found) == (0 if damage == "none" else 1)


def test_unreadable_files_are_counted_as_such(tmp_path: Path) -> None:
    example = load_example()
    bad = tmp_path / "bad.py"
    bad.write_bytes(b"# coding: utf-8\n\xff\xfe\n")
    assert example.index_file(str(bad)).words is None
    assert example.index_file(str(tmp_path / "absent.py")).words is None
