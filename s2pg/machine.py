"""What processor this is."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu() -> dict[str, str]:
    """Facts about the first processor by their names in /proc/cpuinfo; empty on systems without that file."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def name() -> str:
    """The processor's name; where it says too little (some virtual machines), with the numbers of family and model."""
    facts = cpu()
    model = facts.get("model name", platform.processor())
    numbers = [
        f"{key} {facts[label]}" for key, label in (("family", "cpu family"), ("model", "model")) if label in facts
    ]
    return f"{model} ({', '.join(numbers)})" if numbers else model
