"""Statistics of per-trajectory gradients [N, P], and the bounds that theory gives for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from s2pg.gradients.linear import Bounds

Z95 = 1.959964  # the normal's 97.5 % quantile


@dataclass(frozen=True)
class Summary:
    """Of N gradients g_i of one trajectory each; divide the variance by N for that of their mean.

    variance, low, high: trace of the covariance, with a 95 % interval; error: its jackknife standard error.
    snr: |E g|^2 / variance of a single trajectory, with the estimate |mean|^2 - variance / N of |E g|^2, floored at 0.
    bias, bias_error: |mean - exact|, and what that is (root mean square) without any bias; nan without `exact`.
    cosine: of mean and exact.
    """

    count: int
    variance: float
    low: float
    high: float
    error: float
    snr: float
    bias: float
    bias_error: float
    cosine: float


def summarise(gradients: Tensor, exact: Tensor | None = None) -> Summary:
    """From gradients [N, P] and the exact one [P]."""
    n, mean = len(gradients), gradients.mean(0)
    variance, error = total_variance(gradients)
    spread = math.exp(Z95 * error / variance) if variance else 1.0
    snr = max(float(mean @ mean) / variance - 1 / n, 0.0) if variance else math.inf
    bias = cosine = math.nan
    if exact is not None:
        bias = float((mean - exact).norm())
        cosine = float(torch.cosine_similarity(mean, exact, dim=0))
    return Summary(n, variance, variance / spread, variance * spread, error, snr, bias, math.sqrt(variance / n), cosine)


def total_variance(gradients: Tensor) -> tuple[float, float]:
    """Trace of the covariance of gradients [N, P], N >= 3, and the standard error of this estimate by the jackknife.

    Leaving out g_i takes n / (n-1) |g_i - mean|^2 off the sum of squares, so no resampling is needed. The error is that
    of a mean of squares, too small where fourth moments are dominated by episodes that did not occur.
    """
    n = len(gradients)
    squares = (gradients - gradients.mean(0)).square().sum(1)
    without = (squares.sum() - squares * n / (n - 1)) / (n - 2)
    error = math.sqrt((n - 1) / n * float((without - without.mean()).square().sum()))
    return float(squares.sum() / (n - 1)), error


def z_scores(gradients: Tensor, exact: Tensor) -> Tensor:
    """(mean - exact) / standard error for each component, standard normal if there is no bias: [P]."""
    error = gradients.std(0) / math.sqrt(len(gradients))
    return ((gradients.mean(0) - exact) / error).nan_to_num(nan=0.0)


def batch_cosine(gradients: Tensor, exact: Tensor, batch: int) -> float:
    """Mean cosine between the exact gradient and the mean of `batch` trajectories."""
    means = gradients[: len(gradients) // batch * batch].unflatten(0, (-1, batch)).mean(1)
    return float(torch.cosine_similarity(means, exact, dim=1).mean())


def s2pg_score_bound(bounds: Bounds, horizon: int, sigma_a: float, sigma_z: float) -> Tensor:
    """E|score_t|^2 <= F^2 / sigma_a^2 + H^2 / sigma_z^2, the same for every t and Z: [T]."""
    return torch.full((horizon,), bounds.F**2 / sigma_a**2 + bounds.H**2 / sigma_z**2, dtype=torch.float64)


def bptt_score_bound(bounds: Bounds, horizon: int, sigma_a: float, context: int | None = None) -> Tensor:
    """E|score_t|^2 <= (F + K H (1 + Z + ... + Z^(t-1)))^2 / sigma_a^2; at most L - 1 terms in a context of L: [T]."""
    powers = bounds.Z ** torch.arange(horizon - 1, dtype=torch.float64)
    powers[(context or horizon) - 1 :] = 0
    reach = bounds.K * torch.cat([torch.zeros(1, dtype=torch.float64), powers.cumsum(0)])
    return ((bounds.F + torch.where(reach > 0, bounds.H * reach, 0.0)) / sigma_a) ** 2


def variance_bound(score_bound: Tensor, reward: float, discount: float, reward_to_go: bool = False) -> float:
    """On the variance of one trajectory's gradient without baseline, for |r| <= `reward`, from E|score_t|^2 <= B_t [T].

    return:        R_g^2 sum_t B_t, R_g = R sum_t gamma^t, because |J| <= R_g and scores are uncorrelated
    reward to go:  R R_g sum_t gamma^t sum_{k<=t} B_k, by Cauchy-Schwarz on sum_t gamma^t r_t (score_0 + ... + score_t)

    The second is below the first, and for gamma < 1 and constant B it stays finite as T grows.
    """
    discounts = discount ** torch.arange(len(score_bound), dtype=torch.float64)
    total = reward * float(discounts.sum())
    if reward_to_go:
        return reward * total * float(discounts @ score_bound.cumsum(0))
    return total**2 * float(score_bound.sum())
