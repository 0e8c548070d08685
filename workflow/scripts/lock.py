"""Write `requirements.lock` and `environment.yml` from the packages installed beside this interpreter.

python -m workflow.scripts.lock
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTE = "written by `make lock`: every package at the version that we ran"
LEFT_OUT = ("pip", "s2pg-suite")


def installed() -> list[str]:
    """`name==version` of each package, without editable ones and without local version labels (`+cpu`)."""
    command = [sys.executable, "-m", "pip", "freeze", "--all", "--exclude-editable"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    pins = [line.split("+")[0] for line in lines if "==" in line]
    return sorted((pin for pin in pins if pin.split("==")[0] not in LEFT_OUT), key=str.lower)


def lock_file(pins: list[str]) -> str:
    return "\n".join([f"# Python 3.11, {NOTE}.", *pins]) + "\n"


def environment_file(pins: list[str]) -> str:
    head = [f"# The pins of requirements.lock for conda users, {NOTE}.", "name: s2pg", "channels:", "  - conda-forge"]
    body = ["dependencies:", "  - python=3.11", "  - pip", "  - pip:", *(f"      - {pin}" for pin in pins)]
    return "\n".join([*head, *body]) + "\n"


def main() -> None:
    pins = installed()
    (ROOT / "requirements.lock").write_text(lock_file(pins))
    (ROOT / "environment.yml").write_text(environment_file(pins))


if __name__ == "__main__":
    main()
