"""Code of the user's classes that raises: the transaction rolls back, and the error says where."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import theus


class Refused(Exception):
    """What the user's code raises."""


armed: set[str] = set()


def check(name: str) -> None:
    if name in armed:
        raise Refused(name)


class Touchy:
    """Raises in the method that is named in `armed`."""

    def __init__(self) -> None:
        self.items = [1]

    def __eq__(self, other: object) -> bool:
        check("__eq__")
        return self is other

    def __hash__(self) -> int:
        check("__hash__")
        return 7

    def __reduce__(self) -> Any:
        check("__reduce__")
        return Touchy, (), self.__getstate__()

    def __getstate__(self) -> Any:
        check("__getstate__")
        return dict(vars(self))

    def __setstate__(self, state: Any) -> None:
        check("__setstate__")
        vars(self).update(state)

    def __del__(self) -> None:
        check("__del__")

    def __iter__(self) -> Iterator[int]:
        yield 1
        check("__iter__")

    def __bool__(self) -> bool:
        check("__bool__")
        return True

    def __getattr__(self, name: str) -> Any:
        check("__getattr__")
        raise AttributeError(name)

    def __iadd__(self, other: Any) -> Touchy:
        self.items.append(other)
        check("__iadd__")
        return self

    def __str__(self) -> str:
        check("__str__")
        return "touchy"

    def __repr__(self) -> str:
        check("__repr__")
        return "Touchy()"

    @property
    def value(self) -> int:
        check("value")
        return 1

    @value.setter
    def value(self, value: int) -> None:
        self.items.append(value)
        check("value.setter")

    def method(self) -> None:
        self.items.append(9)
        check("method")


@pytest.fixture(scope="module")
def shared() -> Iterator[theus.Engine]:
    with theus.Coordinator(capacity="64 MiB") as coordinator:
        with theus.connect(coordinator.name) as engine:
            yield engine


@pytest.fixture
def engine(shared: theus.Engine) -> Iterator[theus.Engine]:
    shared.run(lambda ctx: ctx.update({"deep": {"er": Touchy(), "set": {Touchy()}}, "n": 0}))
    yield shared
    armed.clear()


def augmented(ctx: Any) -> None:
    ctx.deep.er += 1


IN_THE_BODY: dict[str, Callable[[Any], Any]] = {
    "__eq__": lambda ctx: ctx.deep.er == Touchy(),
    "__hash__": lambda ctx: len(ctx.deep.set),
    "__iter__": lambda ctx: list(ctx.deep.er),
    "__bool__": lambda ctx: bool(ctx.deep.er),
    "__getattr__": lambda ctx: ctx.deep.er.nothing,
    "__setstate__": lambda ctx: ctx.deep.er,
    "__str__": lambda ctx: str(ctx.deep.er),
    "__iadd__": augmented,
    "value": lambda ctx: ctx.deep.er.value,
    "value.setter": lambda ctx: setattr(ctx.deep.er, "value", 5),
    "method": lambda ctx: ctx.deep.er.method(),
    "__reduce__": lambda ctx: theus.plain((ctx.deep.er.method(), ctx.deep.er)[1]),
    "__getstate__": lambda ctx: ctx.write("deep.new", Touchy()),
}


def causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found


def says(error: BaseException, path: str) -> bool:
    notes = [*getattr(error, "__notes__", ()), str(error)]
    return any(path in note for note in notes)


@pytest.mark.parametrize("name", IN_THE_BODY)
def test_in_the_body(name: str, engine: theus.Engine) -> None:
    version = engine.version
    with pytest.raises((Refused, theus.TheusError)) as caught:
        with engine.transaction() as ctx:
            ctx.n = 1
            armed.add(name)
            IN_THE_BODY[name](ctx)
    armed.clear()
    assert any(isinstance(error, Refused) for error in causes(caught.value))
    assert any(says(error, "deep.") for error in causes(caught.value)), causes(caught.value)
    assert engine.version == version and engine.read("n") == 0
    assert engine.run(lambda ctx: list(ctx.deep.er.items)) == [1]


@pytest.mark.parametrize("name", ["__reduce__", "__getstate__", "__setstate__"])
def test_at_the_commit(name: str, engine: theus.Engine) -> None:
    version = engine.version
    with pytest.raises(theus.EncodeError, match=r"deep\.er") as caught:
        with engine.transaction() as ctx:
            ctx.n = 1
            ctx.deep.er.method()
            armed.add(name)
    armed.clear()
    assert caught.value.path == "deep.er" and isinstance(causes(caught.value)[-1], Refused)
    assert engine.version == version and engine.read("n") == 0
    assert engine.run(lambda ctx: list(ctx.deep.er.items)) == [1]


@pytest.mark.parametrize("name", ["__setstate__", "__hash__"])
def test_while_decoding(name: str, engine: theus.Engine) -> None:
    armed.add(name)
    path = "er" if name == "__setstate__" else "set"
    with pytest.raises(theus.DecodeError, match=rf"deep\.{path}") as caught:
        theus.plain(engine.state["deep"][path])
    assert caught.value.path == f"deep.{path}"
    assert engine.read("n") == 0  # only that leaf cannot be read


def test_in_a_finalizer(engine: theus.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python does not let such an error out: it is reported, and nothing else happens."""
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(report.exc_type))
    armed.add("__del__")
    with engine.transaction() as ctx:
        ctx.deep.er.method()
        ctx.n = 1
    armed.clear()
    assert Refused in reported
    assert engine.read("n") == 1 and theus.plain(engine.state["deep"]["er"]).items == [1, 9]


def test_repr_never_raises(engine: theus.Engine) -> None:
    with engine.transaction() as ctx:
        armed.add("__repr__")
        assert "deep.er" in repr(ctx.deep.er)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupts_stay_what_they_are(
    error: type[BaseException], engine: theus.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Touchy) -> Any:
        raise error

    version = engine.version
    with pytest.raises(error):
        with engine.transaction() as ctx:
            ctx.deep.er.method()
            monkeypatch.setattr(Touchy, "__reduce__", interrupted)
    monkeypatch.undo()
    assert engine.version == version


def test_class_that_answers_for_another_value(engine: theus.Engine) -> None:
    """A user's __reduce__ may say anything: what is read back is what it said."""

    engine.write("n", 0)
    with engine.transaction() as ctx:
        ctx.other = [Renamed()]
    assert engine.run(lambda ctx: theus.plain(ctx.other)) == ["another"]


class Renamed:
    def __reduce__(self) -> Any:
        return str, ("another",)
