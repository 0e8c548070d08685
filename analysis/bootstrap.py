"""Stratified bootstrap, vectorised: a statistic is computed on all resamples at once.

A resample of runs is a row of weights. Row 0 weighs the data themselves, so a statistic of `weights` is the estimate
(row 0) followed by its bootstrap distribution. Within a task each run weighs the same and all tasks weigh the same;
with equal numbers of runs per task these are exactly rliable's statistics and its percentile interval.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
LEVEL = (2.5, 97.5)


@lru_cache(maxsize=32)
def resample(sizes: tuple[int, ...], reps: int, seed: int) -> Array:
    """Weights [1 + reps, N] over the N = sum(sizes) runs, ordered by task; sizes: runs per task, each at least 1.

    The same arguments give the same resamples, so statistics of two methods with equal sizes are paired by seed.
    """
    rng = np.random.default_rng(seed)
    blocks = [np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=reps)]) / n for n in sizes]
    weights = np.hstack(blocks) / len(sizes)
    weights.setflags(write=False)
    return weights


def iqm(values: Array, weights: Array) -> Array:
    """Interquartile mean of values [N] for weights [R, N]: the floor(N / 4) lowest and highest runs' worth is cut."""
    cut = (len(values) // 4) / len(values)
    order = np.argsort(values, kind="stable")
    mass = weights[:, order]
    above = np.cumsum(mass, axis=1)
    kept = np.minimum(above, 1 - cut) - np.maximum(above - mass, cut)
    return np.clip(kept, 0, None) @ values[order] / (1 - 2 * cut)


def mean(values: Array, weights: Array) -> Array:
    """Mean over tasks of the mean of values [N] for weights [R, N]."""
    return weights @ values


def median(values: Array, weights: Array, sizes: Sequence[int]) -> Array:
    """Median over tasks of the mean of values [N] for weights [R, N]."""
    starts = np.cumsum([0, *sizes[:-1]])
    return np.median(np.add.reduceat(weights * values, starts, axis=1) * len(sizes), axis=1)


def optimality_gap(values: Array, weights: Array) -> Array:
    """Mean distance of values [N] below 1 for weights [R, N]."""
    return weights @ np.clip(1 - values, 0, None)


def profile(values: Array, weights: Array, taus: Array) -> Array:
    """Share of values [N] above each of taus [K] for weights [R, N] -> [R, K]."""
    return weights @ (values[:, None] > taus)


def improvement(a: Sequence[Array], b: Sequence[Array], weights_a: Array, weights_b: Array) -> Array:
    """Probability that a run of `a` scores above a run of `b` (ties count half), mean over tasks; a, b: one array per
    task; weights [R, N_a] and [R, N_b]."""
    total, at_a, at_b = np.zeros(len(weights_a)), 0, 0
    for x, y in zip(a, b, strict=True):
        wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        of_x, of_y = weights_a[:, at_a : at_a + len(x)], weights_b[:, at_b : at_b + len(y)]
        total += np.einsum("ri,ri->r", of_x @ wins, of_y)
        at_a, at_b = at_a + len(x), at_b + len(y)
    return total * len(a)


def middle(values: Array, weights: Array) -> Array:
    """Median of the runs of ONE task: values [n] for weights [R, n] that are whole multiples of 1 / n."""
    order, n = np.argsort(values, kind="stable"), len(values)
    seen = np.rint(np.cumsum(weights[:, order], axis=1) * n)
    lower, upper = ((seen > place).argmax(axis=1) for place in ((n - 1) // 2, n // 2))
    return (values[order][lower] + values[order][upper]) / 2


def longest(learned: Sequence[Array], weights: Array, delays: Sequence[int]) -> Array:
    """The last of `delays`, in order, at which and before which at least half of the runs learned, 0 if none; learned:
    one array of 0 and 1 per delay; weights [R, N] over all of them, so that each delay's add up to 1 / their number."""
    starts = np.cumsum([0, *map(len, learned[:-1])])
    shares = np.add.reduceat(weights * np.concatenate(learned), starts, axis=1) * len(learned)
    reached = np.logical_and.accumulate(shares >= 0.5 - 1e-9, axis=1).sum(axis=1)
    return np.array([0.0, *delays])[reached]


def interval(distribution: Array) -> tuple[Array, Array]:
    """The 95 % percentile interval of a statistic [1 + reps, ...] (row 0, the estimate, is left out)."""
    low, high = np.percentile(distribution[1:], LEVEL, axis=0)
    return low, high
