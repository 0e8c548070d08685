"""How far the states that a policy visits are from the expert's: a distance between samples, for the log."""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 1000  # states of each side that are compared


def state_distance(visited: Tensor, expert: Tensor) -> float:
    """`mmd` of the states visited `[n, S]` and the expert's `[m, S]`, of evenly spaced ones where there are many.

    States are in units of the expert's standard deviation, and of the root of S, so that tasks can be compared. A
    component that does not vary in the expert keeps its unit.
    """
    x, y = (_thinned(states.double()) for states in (visited, expert))
    centre, spread = y.mean(0), y.std(0)
    spread = torch.where(spread > 1e-6, spread, 1.0) * x.shape[1] ** 0.5
    return float(mmd((x - centre) / spread, (y - centre) / spread))


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of samples `[n, S]` and `[m, S]` with the kernel -|a - b|.

    That is the energy distance 2 E|x - y| - E|x - x'| - E|y - y'| (Sejdinovic et al. 2013), which has no width to
    choose: 0 where the distributions are equal and above 0 where they are not. The estimate may be negative.
    """
    return 2 * _distances(x, y).mean() - _within(x) - _within(y)


def _within(x: Tensor) -> Tensor:
    """Mean distance of two different rows."""
    return _distances(x, x).sum() / (len(x) * (len(x) - 1))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """`[n, m]`; without the matrix product, which leaves rounding errors of 1e-8 where rows are equal."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _thinned(states: Tensor) -> Tensor:
    if len(states) <= MOST:
        return states
    return states[torch.linspace(0, len(states) - 1, MOST, device=states.device).round().long()]
