"""The problems of a gradient study: a scalar system seen with noise, and a policy with a given recurrence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import torch

from s2pg.config import ConfigError
from s2pg.gradients.estimators import Estimator, sample_gradients
from s2pg.gradients.linear import StatefulPolicy, System, exact_gradient, spectral_radius
from s2pg.gradients.variance import bptt_score_bound, s2pg_score_bound, summarise, variance_bound
from s2pg.study import Study

SCALAR = {"A": [[0.9]], "B": [[0.4]], "C": [[1.0]], "Q": [[1.0]], "R": [[0.1]], "P": [[1.0]], "W": [[0.04]]}
SEEN_WITH = {"V": [[0.09]]}
GAINS = -0.6, 0.6  # how the action and the memory read the observation
WITHOUT_CRITIC = ("return", "reward_to_go")


@dataclass(frozen=True)
class Case:
    """One policy on one system, see `problem`."""

    features: Literal["bounded", "linear"]  # of the policy: tanh(o, z) / sqrt(X), or (o, z) itself
    recurrence: float  # Z, by how much a step of the memory carries the last one on
    read: float  # K, how strongly the action reads the memory
    memory: int  # units
    sigma_action: float
    sigma_memory: float
    discount: float


def problem(case: Case) -> tuple[System, StatefulPolicy]:
    """s' = 0.9 s + 0.4 a + w, o = s + v, and units of memory that each carry their own past on.

    Bounded features: mu = theta phi + K mean(z) and eta = theta phi + Z z, where only theta is learned, and the reward
    is exp(-cost) - 1, between -1 and 0. Linear features: all gains of (a, z') = theta (o, z) are learned, the reward is
    -cost, and everything has a closed form.
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


def measure_case(study: Study, scale: str, case: str, seed: int) -> Iterator[dict[str, Any]]:
    """`measure` as a study's file has it; with critics only where they fit, to linear features."""
    wanted, problem_of = study.scale(scale), Case(**study.case(case))
    estimators = read_estimators(study, wanted["estimators"])
    kept = {k: e for k, e in estimators.items() if problem_of.features == "linear" or e.signal in WITHOUT_CRITIC}
    if not kept:
        raise ConfigError(
            f"{study.path}: scales.{scale}.estimators: none is for the case {case!r}, which has no critic"
        )
    return measure(problem_of, kept, wanted["horizons"], wanted["episodes"], seed, wanted["critic_episodes"])


def read_estimators(study: Study, names: Sequence[str], closed_form: bool = True) -> dict[str, Estimator]:
    """Estimators of a study's file. Raises ConfigError on one that means nothing, or needs a critic and has none."""
    found = {}
    for name in names:
        try:
            found[name] = Estimator(**study.spec["estimators"][name])
        except ValueError as error:
            raise ConfigError(f"{study.path}: estimators.{name}: {error}") from error
        if not closed_form and found[name].signal not in WITHOUT_CRITIC:
            raise ConfigError(f"{study.path}: estimators.{name}.signal: networks have no critic here; allowed: "
                              f"{', '.join(WITHOUT_CRITIC)}")  # fmt: skip
    return found


def measure(
    case: Case,
    estimators: Mapping[str, Estimator],
    horizons: Sequence[int],
    episodes: int,
    seed: int,
    critic_episodes: int = 10_000,
) -> Iterator[dict[str, Any]]:
    """A row for each length of the trajectory and estimator: its `Summary`, its bound, and seconds for all episodes.

    All estimators see the same episodes; each length has episodes of its own. `bias` and `cosine` are against the exact
    gradient, where there is one, and nan elsewhere; `bound` is infinite where the theory has none. `radius` is the
    closed loop's, with linear features. A critic that is fitted has `critic_episodes` of its own.
    """
    system, policy = problem(case)
    for horizon in horizons:
        exact = None if policy.bounded else exact_gradient(system, policy, horizon)
        norm = math.nan if exact is None else float(exact.norm())
        radius = math.nan if exact is None else spectral_radius(system, policy)
        for name, estimator in estimators.items():
            started = perf_counter()
            sizes = episodes, horizon, seed + horizon
            found = sample_gradients({name: estimator}, system, policy, *sizes, critic_episodes=critic_episodes)[name]
            row = {**vars(summarise(found, exact)), "exact_norm": norm, "bound": bound(case, estimator, horizon)}
            row["radius"] = radius
            yield {"horizon": horizon, "estimator": name, **row, "seconds": perf_counter() - started}


def bound(case: Case, estimator: Estimator, horizon: int) -> float:
    """On the variance of one trajectory's gradient; nan for a signal or baseline that the theory does not cover."""
    if estimator.baseline != "none" or estimator.signal not in WITHOUT_CRITIC:
        return math.nan
    bounds = problem(case)[1].bounds()
    if estimator.decides:
        steps = s2pg_score_bound(bounds, horizon, case.sigma_action, case.sigma_memory)
    else:
        steps = bptt_score_bound(bounds, horizon, case.sigma_action, estimator.context)
    return variance_bound(steps, 1.0, case.discount, estimator.signal == "reward_to_go")
