"""Prints what pyproject.toml asks of a Python environment, one requirement a line.

Usage: requirements.py GROUP...   where a GROUP is "build" or the name of an extra.
"""

import pathlib
import sys

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib


def requirements(groups: list[str]) -> list[str]:
    """Returns the requirements of the groups, sorted, each once; an unknown group is a KeyError."""
    path = pathlib.Path(__file__).parent.parent / "pyproject.toml"
    project = tomllib.loads(path.read_text())
    found: set[str] = set()
    for group in groups:
        if group == "build":
            found.update(project["build-system"]["requires"])
        else:
            found.update(project["project"]["optional-dependencies"][group])
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
