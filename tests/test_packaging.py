"""The pins: one lock file, the same versions in the conda environment, and nothing that only one machine has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def lines_of(lock: str) -> list[str]:
    return [line for line in (ROOT / lock).read_text().splitlines() if line and not line.startswith("#")]


def pins_of(lock: str) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines_of(lock))}


LOCK, PINS, LOCO = lines_of("requirements.lock"), pins_of("requirements.lock"), pins_of("requirements-locomujoco.lock")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_carries_the_pins_of_the_lock_file() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert python == "python=3.11"
    assert pip["pip"] == LOCK


def test_every_line_of_the_lock_files_is_one_plain_pin_and_no_package_is_pinned_twice() -> None:
    plain = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+")
    lines = [*LOCK, *lines_of("requirements-locomujoco.lock")]
    assert [line for line in lines if not plain.fullmatch(line)] == []
    assert len(PINS | LOCO) == len(lines)


def outside(lines: list[str], pins: dict[str, str]) -> list[str]:
    """Requirements that the pins do not meet."""
    declared = map(Requirement, lines)
    return [str(r) for r in declared if not r.specifier.contains(pins.get(canonicalize_name(r.name), "0"))]


def test_every_declared_dependency_is_locked_within_its_bounds() -> None:
    extras = dict(project()["optional-dependencies"])
    assert outside(extras.pop("locomujoco"), LOCO) == []
    assert outside([*project()["dependencies"], *(line for lines in extras.values() for line in lines)], PINS) == []


def test_locomujoco_is_run_with_the_suites_mujoco() -> None:
    assert "mujoco" not in LOCO
    assert PINS["mujoco"].startswith("3.")
