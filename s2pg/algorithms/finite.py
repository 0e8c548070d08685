"""Divergence is an outcome that a run reports, not a crash."""

from __future__ import annotations

import math


class Diverged(RuntimeError):
    """A loss or a standard deviation is no longer finite; the message names it."""


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics as they are; raises `Diverged` if one of them is not finite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value}")
    return metrics
