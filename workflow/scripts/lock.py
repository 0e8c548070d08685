"""Write `requirements.lock` and `environment.yml`: the project's requirements and theirs, as installed here.

    python -m workflow.scripts.lock

What else is installed beside this interpreter is left out, and so are local version labels (`+cpu`).
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
NOTE = "written by `make lock`: every package at the version that we ran"


def declared() -> list[Requirement]:
    """What pyproject.toml asks for, with all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines]


def required_by(requirement: Requirement) -> Iterator[Requirement]:
    """What an installed package asks for on this platform, with the extras that are asked of it."""
    for line in importlib.metadata.requires(requirement.name) or []:
        inner = Requirement(line)
        if any(not inner.marker or inner.marker.evaluate({"extra": extra}) for extra in {"", *requirement.extras}):
            yield inner


def pins(requirements: Iterable[Requirement]) -> list[str]:
    """`name==version` of these and all that they need."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) not in seen:
            seen.add((name, frozenset(requirement.extras)))
            versions[name] = importlib.metadata.version(name).split("+")[0]
            waiting += required_by(requirement)
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def lock_file(lines: list[str]) -> str:
    return "\n".join([f"# Python 3.11, {NOTE}.", *lines]) + "\n"


def environment_file(lines: list[str]) -> str:
    head = [f"# The pins of requirements.lock for conda users, {NOTE}.", "name: s2pg", "channels:", "  - conda-forge"]
    body = ["dependencies:", "  - python=3.11", "  - pip", "  - pip:", *(f"      - {line}" for line in lines)]
    return "\n".join([*head, *body]) + "\n"


def main() -> None:
    lines = pins(declared())
    (ROOT / "requirements.lock").write_text(lock_file(lines))
    (ROOT / "environment.yml").write_text(environment_file(lines))


if __name__ == "__main__":
    main()
