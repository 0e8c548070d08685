"""The problem of a case: a scalar system seen with noise, and a policy whose memory has a given recurrence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Any

import torch

from s2pg.gradients.estimators import Estimator, sample_gradients
from s2pg.gradients.linear import StatefulPolicy, System, exact_gradient
from s2pg.gradients.variance import (
    Summary,
    bptt_score_bound,
    s2pg_score_bound,
    summarise,
    variance_bound,
)
from s2pg.study import Case

SCALAR = {"A": [[0.9]], "B": [[0.4]], "C": [[1.0]], "Q": [[1.0]], "R": [[0.1]], "P": [[1.0]], "W": [[0.04]]}
SEEN_WITH = {"V": [[0.09]]}
GAINS = -0.6, 0.6  # how the action and the memory read the observation


def problem(case: Case) -> tuple[System, StatefulPolicy]:
    """s' = 0.9 s + 0.4 a + w, o = s + v, and Z units of memory that each carry their own past on.

    Bounded features: mu = theta phi + K mean(z), eta = theta phi + Z z, where only theta is learned, the reward is
    1 - exp(-cost) below 0, and F, H, K, Z are known. Linear features: all gains of (a, z') = theta (o, z) are learned,
    the reward is quadratic, and everything has a closed form.
    """
    units, bounded = case.memory, case.features == "bounded"
    fixed = torch.zeros(1 + units, units, dtype=torch.float64)
    fixed[0] = case.read / units**0.5
    fixed[1:] = case.recurrence * torch.eye(units)
    theta = torch.zeros(1 + units, 1 + units, dtype=torch.float64)
    theta[0, 0], theta[1:, 0] = GAINS[0], GAINS[1]
    if not bounded:
        theta[:, 1:], fixed = fixed, torch.zeros_like(fixed)
    policy = StatefulPolicy(theta, fixed, case.sigma_action, case.sigma_memory, bounded)
    return System.of(**SCALAR, **SEEN_WITH, discount=case.discount, bounded=bounded), policy


def measure(
    case: Case, estimators: Mapping[str, Estimator], horizons: tuple[int, ...], episodes: int, seed: int
) -> Iterator[dict[str, Any]]:
    """A row for each length of the trajectory and estimator: its `Summary`, its bound, and seconds for all episodes.

    All estimators see the same episodes; each length has episodes of its own. `bias` and `cosine` are against the exact
    gradient, where there is one, and nan elsewhere; `bound` is infinite where the theory has none.
    """
    system, policy = problem(case)
    for horizon in horizons:
        exact = None if policy.bounded else exact_gradient(system, policy, horizon)
        norm = float("nan") if exact is None else float(exact.norm())
        for name, estimator in estimators.items():
            started = perf_counter()
            found = sample_gradients({name: estimator}, system, policy, episodes, horizon, seed + horizon)[name]
            summary, seconds = summarise(found, exact), perf_counter() - started
            yield {"horizon": horizon, "estimator": name, **vars(summary), "exact_norm": norm, "bound": bound(case, estimator, horizon), "seconds": seconds}


def bound(case: Case, estimator: Estimator, horizon: int) -> float:
    """On the variance of one trajectory's gradient; nan for a signal or baseline that the theory does not cover."""
    if estimator.baseline != "none" or estimator.signal not in ("return", "reward_to_go"):
        return float("nan")
    bounds = problem(case)[1].bounds()
    if estimator.decides:
        steps = s2pg_score_bound(bounds, horizon, case.sigma_action, case.sigma_memory)
    else:
        steps = bptt_score_bound(bounds, horizon, case.sigma_action, estimator.context)
    return variance_bound(steps, 1.0, case.discount, estimator.signal == "reward_to_go")


__all__ = ["Summary", "bound", "measure", "problem"]
