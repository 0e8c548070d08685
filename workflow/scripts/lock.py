"""Write `requirements.lock` and `environment.yml`: the project's requirements and theirs, as installed here.

    python -m workflow.scripts.lock
    python -m workflow.scripts.lock --locomujoco     requirements-locomujoco.lock: what that extra adds to the former

What else is installed beside this interpreter is left out, and so are local version labels (`+cpu`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
NOTE = "written by `make lock`: every package at the version that we ran"
APART = "locomujoco"  # an extra with an environment of its own
EXTRA_NOTE = (
    f"# Python 3.11, written by `make lock-{APART}`: what the extra {APART} adds to requirements.lock.\n"
    "# To be installed with --no-deps: loco-mujoco pins an older MuJoCo, with which the suite does not work.\n"
)
REPLACED = {"opencv-python": "opencv-python-headless", "pygame": "pygame-ce"}  # the same modules, of what asks for them


def declared() -> list[Requirement]:
    """What pyproject.toml asks for, with all extras but `APART`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [lines for extra, lines in project["optional-dependencies"].items() if extra != APART]
    return [Requirement(line) for line in [*project["dependencies"], *(line for lines in extras for line in lines)]]


def declared_apart() -> list[Requirement]:
    """What the extra `APART` asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["optional-dependencies"][APART]]


def required_by(requirement: Requirement) -> Iterator[Requirement]:
    """What an installed package asks for on this platform, with the extras that are asked of it."""
    for line in importlib.metadata.requires(requirement.name) or []:
        inner = Requirement(line)
        if any(not inner.marker or inner.marker.evaluate({"extra": extra}) for extra in {"", *requirement.extras}):
            inner.name = REPLACED.get(canonicalize_name(inner.name), inner.name)
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


def write_apart() -> None:
    """`requirements-locomujoco.lock`; ValueError where the packages of requirements.lock differ from it."""
    path = ROOT / "requirements.lock"
    core = {line.split("==")[0]: line for line in path.read_text().splitlines()}
    lines = pins(declared_apart())
    other = [line for line in lines if core.get(line.split("==")[0], line) != line]
    if other:
        raise ValueError(f"{', '.join(other)}: not as in {path.name}; run `make setup-{APART}` first")
    added = [line for line in lines if line.split("==")[0] not in core]
    (ROOT / f"requirements-{APART}.lock").write_text(EXTRA_NOTE + "\n".join(added) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(f"--{APART}", dest="apart", action="store_true", help="the lock of that extra")
    if parser.parse_args().apart:
        return write_apart()
    lines = pins(declared())
    (ROOT / "requirements.lock").write_text(lock_file(lines))
    (ROOT / "environment.yml").write_text(environment_file(lines))
    return None


if __name__ == "__main__":
    main()
