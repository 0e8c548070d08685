"""Where a result comes from: code, packages, machine, command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "gymnasium", "mujoco", "pandas", "tensorboard", "s2pg-suite")
ROOT = Path(__file__).resolve().parents[2]


def provenance() -> dict[str, Any]:
    """Facts about this process, as they go into `provenance.json`."""
    return {
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": None
        if (changes := _git("status", "--porcelain", "--untracked-files=no")) is None
        else bool(changes),
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The model's name; where it says too little (some virtual machines), with the numbers of family and model."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return platform.processor()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    name = facts.get("model name", platform.processor())
    numbers = [
        f"{key} {facts[label]}" for key, label in (("family", "cpu family"), ("model", "model")) if label in facts
    ]
    return f"{name} ({', '.join(numbers)})" if numbers else name
