"""The examples in docstrings and documents do what they say.

A docstring's example has `theus`, and `engine`: one on an empty state of its own. The sessions of a
document go on from one to the next. (Its programs are run by test_quickstart.py.)
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import multiprocessing.process
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import theus
from theus import _coordinator

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/guide.md", "docs/reference.md")
FLAGS = doctest.ELLIPSIS


def modules() -> Iterator[Any]:
    yield theus
    for found in pkgutil.iter_modules(theus.__path__):
        if found.name != "_torch":  # needs PyTorch
            yield importlib.import_module(f"theus.{found.name}")


def docstrings() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for module in modules() for test in finder.find(module) if test.examples]


def run(test: doctest.DocTest) -> None:
    said: list[str] = []
    results = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
    assert results.failed == 0, "".join(said)
    assert results.attempted > 0


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example is a program of its own: theus.open() starts another coordinator."""
    handed_down = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
    monkeypatch.setattr(_coordinator.private, "name", None)
    # Set first: only then what it becomes is taken back at the end.
    monkeypatch.setenv(_coordinator._PRIVATE_VARIABLE, "")
    monkeypatch.delenv(_coordinator._PRIVATE_VARIABLE)
    monkeypatch.setitem(handed_down, _coordinator._PRIVATE_KEY, "")
    monkeypatch.delitem(handed_down, _coordinator._PRIVATE_KEY)


@pytest.mark.parametrize("test", docstrings(), ids=lambda test: test.name)
def test_docstring(test: doctest.DocTest, engine: theus.Engine) -> None:
    test.globs.update(theus=theus, engine=engine)
    run(test)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document(name: str, engine: theus.Engine) -> None:
    text = (ROOT / name).read_text().replace("```", "")
    globs = {"theus": theus, "engine": engine, "__name__": "__main__"}
    test = doctest.DocTestParser().get_doctest(text, globs, name, name, 0)
    if test.examples:
        run(test)


def test_examples_are_found() -> None:
    """The finder sees the classes and the functions, and a wrong result fails."""
    names = {test.name for test in docstrings()}
    for name in ("theus", "theus._engine.Engine.run_async", "theus._state.State.diff"):
        assert name in names
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    with pytest.raises(AssertionError):
        run(wrong)


def test_everything_public_has_a_docstring() -> None:
    for name in theus.__all__:
        public = getattr(theus, name)
        assert inspect.getdoc(public), name
        if not isinstance(public, type) or issubclass(public, Exception):
            continue
        for member in dir(public):
            attribute = inspect.getattr_static(public, member)
            if not member.startswith("_") and not inspect.ismemberdescriptor(attribute):
                assert inspect.getdoc(getattr(public, member, attribute)), f"{name}.{member}"
