"""The pins: one lock file, the same versions in the conda environment, and nothing that only one machine has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK)}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_carries_the_pins_of_the_lock_file() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert python == "python=3.11"
    assert pip["pip"] == LOCK


def test_every_line_of_the_lock_file_is_one_plain_pin() -> None:
    plain = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+")
    assert [line for line in LOCK if not plain.fullmatch(line)] == []
    assert len(PINS) == len(LOCK)


def test_every_declared_dependency_is_locked_within_its_bounds() -> None:
    extras = project()["optional-dependencies"].values()
    declared = [
        Requirement(line) for line in [*project()["dependencies"], *(line for extra in extras for line in extra)]
    ]
    outside = [str(r) for r in declared if not r.specifier.contains(PINS.get(canonicalize_name(r.name), "0"))]
    assert outside == []
