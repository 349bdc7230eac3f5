"""docs/reference.md has every public name, with its signature, and no other.

That also pins the signatures: who changes one changes the reference. Where C++ does not tell them,
the stub does.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import theus

REFERENCE = Path(__file__).parents[2] / "docs" / "reference.md"
STUB = Path(theus.__file__).with_name("_theus.pyi")
HEADING = re.compile(r"^###+ `(.+)`$", re.M)
MAPPINGS = (theus.SupervisorProxy, theus.ProcessContext, theus.State)
# Documented once, for all of these.
MAPPING = tuple(name for name in vars(theus.SupervisorProxy) if not name.startswith("_"))
OWN = ("State.to_dict", "State.update")
# These may be given by position; every other option is keyword-only.
POSITIONAL = {
    ("theus.open", "name"),
    ("theus.Coordinator", "name"),
    ("Engine.read", "default"),
    ("Engine.attempts", "n"),
    ("Engine.process", "function"),
    ("ProcessContext.read", "default"),
    ("mapping.get", "default"),
    ("mapping.pop", "default"),
    ("mapping.setdefault", "default"),
    ("mapping.update", "other"),
}


class Default:
    """Stands for a default that has no spelling, and for an argument that may be left out."""

    def __repr__(self) -> str:
        return "..."


def bare(signature: inspect.Signature) -> inspect.Signature:
    """Without annotations and self."""
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if type(parameter.default) is object:
            parameter = parameter.replace(default=Default())
        parameters.append(parameter.replace(annotation=inspect.Parameter.empty))
    return inspect.Signature(parameters)


def stub_functions() -> dict[tuple[str, str], list[ast.FunctionDef]]:
    found: dict[tuple[str, str], list[ast.FunctionDef]] = {}
    for definition in ast.parse(STUB.read_text()).body:
        if isinstance(definition, ast.ClassDef):
            for member in definition.body:
                if isinstance(member, ast.FunctionDef):
                    found.setdefault((definition.name, member.name), []).append(member)
    return found


def stub_signature(overloads: list[ast.FunctionDef]) -> inspect.Signature:
    """The longest of the overloads; what the others do not have may be left out."""
    longest = max((each.args for each in overloads), key=lambda a: len(a.posonlyargs + a.args))
    needed = min(len(each.args.posonlyargs + each.args.args) for each in overloads)
    kinds = inspect.Parameter
    parameters = []
    positional = longest.posonlyargs + longest.args
    defaults = [None] * (len(positional) - len(longest.defaults)) + list(longest.defaults)
    for number, (argument, default) in enumerate(zip(positional, defaults, strict=True)):
        only = number < len(longest.posonlyargs)
        value: Any = kinds.empty if number < needed else Default()
        if default is not None:
            value = ast.literal_eval(default)
        kind = kinds.POSITIONAL_ONLY if only else kinds.POSITIONAL_OR_KEYWORD
        parameters.append(kinds(argument.arg, kind, default=value))
    if longest.kwarg is not None:
        parameters.append(kinds(longest.kwarg.arg, kinds.VAR_KEYWORD))
    return bare(inspect.Signature(parameters))


STUBS = stub_functions()


def signature_of(owner: type, name: str) -> inspect.Signature:
    attribute = inspect.getattr_static(owner, name)
    try:
        return bare(inspect.signature(attribute))
    except ValueError:
        stub = STUBS.get((owner.__name__, name)) or STUBS["_Node", name]
        return stub_signature(stub)


def is_attribute(owner: type, name: str) -> bool:
    return not callable(getattr(owner, name, None))


def members(owner: type) -> Iterator[str]:
    inherited = set(dir(MemoryError))  # of exceptions
    names = {name for name in dir(owner) if not name.startswith("_")} - inherited
    if owner is theus.Coordinator:
        names.add("name")
    return iter(sorted(names))


def signatures() -> dict[str, inspect.Signature | None]:
    """Of every public name; None: it is not called."""
    found: dict[str, inspect.Signature | None] = {}
    for exported in theus.__all__:
        public = getattr(theus, exported)
        if not isinstance(public, type):
            found[f"theus.{exported}"] = bare(inspect.signature(public))
            continue
        made = public is theus.Coordinator
        found[f"theus.{exported}"] = bare(inspect.signature(public)) if made else None
        for name in members(public):
            spelled = f"{exported}.{name}"
            if public in MAPPINGS and name in MAPPING and spelled not in OWN:
                spelled = f"mapping.{name}"
            if is_attribute(public, name):
                found[spelled] = None
            elif spelled not in found:  # the first has it in the stub
                found[spelled] = signature_of(public, name)
    return found


def heading(name: str, signature: inspect.Signature | None) -> str:
    return name if signature is None else f"{name}{signature}"


def test_the_reference_has_what_there_is() -> None:
    documented = HEADING.findall(REFERENCE.read_text())
    assert len(documented) == len(set(documented))
    expected = {heading(name, signature) for name, signature in signatures().items()}
    assert sorted(set(documented)) == sorted(expected)


def test_each_name_is_explained() -> None:
    pieces = HEADING.split(REFERENCE.read_text())[1:]
    short = [
        name for name, text in zip(pieces[::2], pieces[1::2], strict=True) if len(text.split()) < 4
    ]
    assert short == []


@pytest.mark.parametrize("name", sorted(signatures()))
def test_options_are_keywords(name: str) -> None:
    signature = signatures()[name]
    for parameter in signature.parameters.values() if signature is not None else ():
        if (
            parameter.default is not inspect.Parameter.empty
            and (
                name,
                parameter.name,
            )
            not in POSITIONAL
        ):
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, f"{name}: {parameter}"


def test_options_are_keywords_where_cpp_reads_them(engine: theus.Engine) -> None:
    with pytest.raises(TypeError, match="keywords only"):
        engine.transaction("snapshot")  # type: ignore[misc]
    with pytest.raises(TypeError):
        engine.transaction(colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        engine.snapshot("snapshot")  # type: ignore[call-arg]
    with engine.transaction() as ctx:
        for call in (ctx.write, ctx.add, ctx.append, ctx.transaction.get_shadow):
            with pytest.raises(TypeError):
                call(path="a", value=1)
        with pytest.raises(TypeError):
            ctx.read("a", 1, 2)
        with pytest.raises(TypeError):
            ctx.read("a", fallback=1)
