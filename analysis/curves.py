"""Learning curves on a common grid of steps or training seconds.

At a place on the grid a run has the return of its last evaluation so far; before its first evaluation it has none, and
after its last it keeps it. A failed run has the random policy's return from its last evaluation on. The random policy
itself does not learn: its curve is flat.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import bootstrap
from analysis.bootstrap import Array

POINTS = 101
Steps = tuple[Array, Array]  # places, and the value from each place on


def grid(evaluated: pd.DataFrame, axis: str) -> Array:
    """Places [K] at which curves are compared: the evaluation steps (thinned to 101), or 101 geometrically spaced
    training seconds between the first evaluation of any run and the last. axis: step or seconds."""
    places = np.unique(evaluated[axis].dropna().to_numpy(float))
    if axis == "seconds":
        places = places[places > 0]
        return np.geomspace(places[0], places[-1], POINTS) if len(places) > 1 else places
    return places[np.unique(np.linspace(0, len(places) - 1, POINTS).astype(int))] if len(places) > POINTS else places


def steps_of(status: str, curve: pd.DataFrame | None, axis: str, random: float, flat: bool) -> Steps:
    """A run's curve as a step function. status: finished or failed; random: the random policy's return; flat: the run
    does not learn."""
    if curve is None or curve[axis].isna().any():
        return np.array([-np.inf]), np.array([random])
    at, values = curve[axis].to_numpy(float), curve["return"].to_numpy()
    if flat:
        return np.array([-np.inf]), values.mean(keepdims=True)
    if status == "failed":
        return np.r_[at, np.nextafter(at[-1], np.inf)], np.r_[values, random]
    return at, values


def held(curve: Steps, places: Array) -> Array:
    """Values of a step function at places [K]; NaN before it begins."""
    at, values = curve
    index = np.searchsorted(at, places, side="right") - 1
    return np.where(index < 0, np.nan, values[np.maximum(index, 0)])


def until(curves: Sequence[Steps], places: Array) -> NDArray[np.bool_]:
    """Which places [K] to show: up to the first one at which every one of the curves has ended."""
    end = max(at[-1] for at, _ in curves)
    last = len(places) - 1 if np.isinf(end) else min(int(np.searchsorted(places, end)), len(places) - 1)
    return np.arange(len(places)) <= last


def iqm_curve(blocks: Sequence[Array], reps: int, seed: int) -> Array:
    """Interquartile mean [1 + reps, K] at each place of the runs' values, one block [n, K] per task."""
    values = np.vstack(blocks)
    weights = bootstrap.resample(tuple(len(block) for block in blocks), reps, seed)
    return np.stack([bootstrap.iqm(column, weights) for column in values.T], axis=1)
