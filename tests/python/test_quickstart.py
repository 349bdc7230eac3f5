"""What the documents tell readers to type works.

README.md's program does what its comment says, word for word, under each start method. The pieces
of docs/guide.md make one program, whose assertions hold.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import START_METHODS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "guide.md"
RUN_FORKING = """
import multiprocessing, runpy, sys
multiprocessing.set_start_method("fork")
runpy.run_path(sys.argv[1], run_name="__main__")
"""
MAIN = 'if __name__ == "__main__":\n'


def python_in(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", document.read_text(), re.M | re.S)


def quick_start() -> str:
    programs = [block for block in python_in(README) if MAIN in block]
    assert len(programs) == 1, "README.md has one program that can be run as it stands"
    return programs[0]


def promised_output(program: str) -> str:
    """What the comment behind the last print says."""
    comments = re.findall(r"print\(.*\)\s*# (.+?), exactly$", program, re.M)
    assert len(comments) == 1
    return comments[0] + "\n"


@pytest.mark.parametrize("start_method", [None, *START_METHODS])
def test_quick_start(start_method: str | None, tmp_path: Path) -> None:
    program = quick_start()
    promised = promised_output(program)
    if start_method is not None:
        setting = f"    mp.set_start_method({start_method!r})\n"
        program = program.replace(MAIN, MAIN + setting)
    script = tmp_path / "quickstart.py"
    script.write_text(program)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout == promised


def test_guide(tmp_path: Path) -> None:
    pieces = python_in(GUIDE)
    assert len(pieces) > 10
    script = tmp_path / "guide.py"
    script.write_text("\n".join(pieces) + "\nprint('read to the end')\n")
    # Its example of processes relies on functions that a forked child has.
    command = [sys.executable, "-c", RUN_FORKING, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "read to the end\n"
    assert done.returncode == 0
