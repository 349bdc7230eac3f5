"""logging.getLogger("theus"): what is said, and at which level."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import theus
from helpers import run_forked, wait_gone

DEBUG, INFO, WARNING = logging.DEBUG, logging.INFO, logging.WARNING


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(DEBUG, logger="theus")
    return caplog


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    assert {record.name for record in caplog.records} <= {"theus"}
    found = [(record.levelno, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


def test_a_coordinator(records: pytest.LogCaptureFixture) -> None:
    with theus.Coordinator() as coordinator:
        name = coordinator.name
        assert said(records) == [(INFO, f"started coordinator {name} (pid {coordinator.pid})")]
    assert said(records) == [(INFO, f"stopped coordinator {name}")]
    coordinator.close()
    assert said(records) == []


def test_a_coordinator_that_was_gone(records: pytest.LogCaptureFixture) -> None:
    coordinator = theus.Coordinator()
    for pid in (coordinator.parent_pid, coordinator.pid):
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
    said(records)
    coordinator.close()
    assert said(records) == [
        (WARNING, f"coordinator {coordinator.name} had gone before it was stopped")
    ]


def test_attaching(coordinator: theus.Coordinator, records: pytest.LogCaptureFixture) -> None:
    said(records)
    engine = theus.connect(coordinator.name)
    assert said(records) == [(DEBUG, f"attached to coordinator {coordinator.name}, version 0")]
    engine.write("x", 1)
    engine.read("x")
    assert said(records) == [], "nothing about transactions"
    engine.close()
    assert said(records) == [(DEBUG, f"detached from coordinator {coordinator.name}")]
    engine.close()
    assert said(records) == []


def test_a_forked_child(engine: theus.Engine, records: pytest.LogCaptureFixture) -> None:
    def in_child() -> int:
        said(records)
        engine.write("x", 1)
        expected = f"attached anew, in a forked child, to coordinator {engine.name}, version 0"
        return 0 if said(records) == [(DEBUG, expected)] else 1

    assert run_forked(in_child) == 0


LOST = """
import logging, os, signal, sys
import theus
sys.path.insert(0, {tests!r})
from helpers import wait_gone
configured = "configured" in sys.argv
if configured:
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s", level=logging.INFO)
engine = theus.open()
stats = engine.stats()
for pid in (stats["supervisor_pid"], stats["coordinator_pid"]):
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
engine.close()
theus.open().close()
"""


@pytest.mark.parametrize("configured", [True, False])
def test_a_private_coordinator_that_was_lost(configured: bool) -> None:
    """And: a program that has not configured logging hears nothing."""
    script = textwrap.dedent(LOST).format(tests=os.path.dirname(__file__))
    arguments = [sys.executable, "-c", script, *(["configured"] if configured else [])]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    levels = [line.split()[:2] for line in done.stderr.splitlines()]
    if configured:
        assert levels == [["INFO", "theus"], ["WARNING", "theus"], ["INFO", "theus"]], done.stderr
        assert "is gone, and the state with it; starting another" in done.stderr
    else:
        assert done.stderr == ""


def test_the_handler() -> None:
    handlers = logging.getLogger("theus").handlers
    assert [type(handler) for handler in handlers] == [logging.NullHandler]
