"""Variances of policy gradients: slopes against the length of the trajectory, crossing points, tables, figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.studies import gradients_figures
from analysis.studies.gradients_figures import GROWTH, estimator_label
from analysis.tables.content import Table

Z95 = 1.959964  # the normal's 97.5 % quantile
MEASURED = {
    "case": "name of the problem in the study's file",
    "horizon": "T, length of the trajectories in steps",
    "estimator": "name in the study's file",
    "count": "trajectories",
    "variance": "trace of the covariance of one trajectory's gradient",
    "low": "of its 95 % interval",
    "high": "of its 95 % interval",
    "error": "its standard error",
    "snr": "squared norm of the mean gradient over the variance",
    "bias": "distance of the mean from the exact gradient; nan where there is none",
    "bias_error": "what that distance is (root mean square) without any bias",
    "cosine": "of mean and exact gradient",
    "exact_norm": "norm of the exact gradient",
    "bound": "what theory says the variance stays below; infinite or nan where it says nothing",
    "seconds": "for the gradients of all trajectories; with a closed form, for sampling and fitting a critic too",
}
COLUMNS = MEASURED | {
    "features": "of the policy: bounded or linear",
    "recurrence": "Z, by how much a step of the memory carries the last one on",
    "memory": "units",
    "sigma_memory": "standard deviation of z'",
    "radius": "largest eigenvalue of the closed loop of policy and system; nan with bounded features",
}
FROM = 16  # slopes are fitted from this length on


@dataclass(frozen=True)
class Fit:
    """d log variance / d log T."""

    slope: float
    error: float

    @property
    def low(self) -> float:
        return self.slope - Z95 * self.error

    @property
    def high(self) -> float:
        return self.slope + Z95 * self.error


def slope(horizons: np.ndarray, variances: np.ndarray, errors: np.ndarray) -> Fit:
    """By least squares, with the sampling errors propagated; so the difference of two is the slope of their ratio.

    The interval has the sampling errors of independent variances only; it does not say that this is a power law.
    """
    x = np.log(horizons) - np.log(horizons).mean()
    information = (x**2).sum()
    error = np.sqrt((x**2 * (errors / variances) ** 2).sum()) / information
    return Fit(float((x * np.log(variances)).sum() / information), float(error))


def fit(rows: pd.DataFrame, start: int = FROM) -> Fit | None:
    """Of one case and estimator, over trajectories of at least `start` steps; None with fewer than two lengths."""
    rows = rows[(rows["horizon"] >= start) & (rows["variance"] > 0)]
    if len(rows) < 2:
        return None
    return slope(*(rows[key].to_numpy(float) for key in ("horizon", "variance", "error")))


def slopes(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per case and estimator: measured slope with its interval, that of the bound, and their ratio at the end."""
    rows = []
    for (case, name), part in frame.groupby(["case", "estimator"], sort=False):
        found, last = fit(part), part.loc[part["horizon"].idxmax()]
        late = part[(part["horizon"] >= FROM) & np.isfinite(part["bound"])]
        theory = np.nan
        if len(late) > 1:
            theory = np.polyfit(np.log(late["horizon"]), np.log(late["bound"]), 1)[0]
        share = last["variance"] / last["bound"] if np.isfinite(last["bound"]) else np.nan
        numbers = (found.slope, found.low, found.high) if found else (np.nan,) * 3
        rows.append((case, name, *numbers, theory, share))
    columns = ["case", "estimator", "slope", "low", "high", "bound_slope", "share_of_bound"]
    return pd.DataFrame(rows, columns=columns)


def crossings(frame: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """A row per case: from which length on `a` has less variance than `b`, intervals apart; nan: at no length."""
    rows = []
    for case, part in frame.groupby("case", sort=False):
        wide = part.pivot(index="horizon", columns="estimator", values=["low", "high", "variance"])
        less = (wide["high"][a] < wide["low"][b])[::-1].cummin()[::-1]
        more = (wide["low"][a] > wide["high"][b]).cummin()
        ratio = wide["variance"][a] / wide["variance"][b]
        first = [h for h, yes in less.items() if yes]
        until = [h for h, yes in more.items() if yes]
        rows.append(
            (case, first[0] if first else np.nan, until[-1] if until else np.nan, ratio.iloc[0], ratio.iloc[-1])
        )
    return pd.DataFrame(rows, columns=["case", "less_from", "more_until", "first_ratio", "last_ratio"])


# --- statistics of claims ---------------------------------------------------------------------------------------------

Interval = tuple[float, float, float]


def _rows(frame: pd.DataFrame, rule: Mapping[str, Any], key: str) -> pd.DataFrame:
    wanted = (frame["case"] == rule["case"]) & (frame["estimator"] == rule[key]) & (frame["horizon"] >= rule["from"])
    return frame[wanted].sort_values("horizon")


def growth(frame: pd.DataFrame, rule: Mapping[str, Any]) -> Interval | None:
    """Slope of `a`."""
    found = fit(_rows(frame, rule, "a"), rule["from"])
    return (found.slope, found.low, found.high) if found else None


def growth_difference(frame: pd.DataFrame, rule: Mapping[str, Any]) -> Interval | None:
    """Slope of `a` less that of `b`. Both see the same trajectories, which makes the interval too wide if anything."""
    a, b = (fit(_rows(frame, rule, key), rule["from"]) for key in ("a", "b"))
    if a is None or b is None:
        return None
    difference = Fit(a.slope - b.slope, float(np.hypot(a.error, b.error)))
    return difference.slope, difference.low, difference.high


def log_ratio(frame: pd.DataFrame, rule: Mapping[str, Any]) -> Interval | None:
    """Smallest log of the variance of `a` over that of `b` at any length: of the estimates, and of their ends."""
    a, b = (_rows(frame, rule, key).set_index("horizon") for key in ("a", "b"))
    both = a.join(b, rsuffix="_b", how="inner")
    if both.empty:
        return None
    estimate = np.log(both["variance"] / both["variance_b"])
    half = Z95 * np.hypot(both["error"] / both["variance"], both["error_b"] / both["variance_b"])
    return float(estimate.min()), float((estimate - half).min()), float((estimate + half).min())


STATISTICS = {"slope": growth, "slope_difference": growth_difference, "log_ratio": log_ratio}
WORDS = {
    "slope": "slope of log variance against log T of {a}, T from {from}",
    "slope_difference": "slope of log variance against log T, {a} minus {b}, T from {from}",
    "log_ratio": "smallest log of the variance of {a} over that of {b} at any length, T from {from}",
}
LABEL = estimator_label


# --- tables ----------------------------------------------------------------------------------------------------------


def slope_table(frame: pd.DataFrame) -> Table:
    """Measured slopes beside those of the bounds."""
    data = slopes(frame)
    told = data[data["estimator"].isin(GROWTH)]
    shown = pd.DataFrame({"case": told["case"], "estimator": told["estimator"].map(estimator_label)})
    shown["slope [95 %]"] = [_interval(*row) for row in told[["slope", "low", "high"]].to_numpy()]
    shown["slope of the bound"] = [_number(value) for value in told["bound_slope"]]
    shown["variance / bound at the longest"] = [_number(value) for value in told["share_of_bound"]]
    caption = (
        f"Slope of log variance against log T, from T = {FROM} on, with its 95 % interval, beside the slope of the "
        "theoretical bound, and how much of the bound is used up at the longest trajectory. An exponential has no "
        "slope: there the number is that of the best line. Other signals and baselines: slopes.csv."
    )
    return Table(caption, data, shown)


def crossing_table(frame: pd.DataFrame, a: str, b: str) -> Table:
    """Where one estimator overtakes the other."""
    data = crossings(frame, a, b)
    shown = pd.DataFrame({"case": data["case"]})
    shown["more up to T"] = [_whole(value) for value in data["more_until"]]
    shown["less from T"] = [_whole(value) for value in data["less_from"]]
    shown["ratio at the shortest"] = [_number(value) for value in data["first_ratio"]]
    shown["ratio at the longest"] = [_number(value) for value in data["last_ratio"]]
    one, other = estimator_label(a), estimator_label(b)
    caption = (
        f"Variance of {one} against {other}: up to which length of those measured it is more and from which on it is "
        "less, 95 % intervals apart (–: at none), and the ratio of both."
    )
    return Table(caption, data, shown)


def _interval(value: float, low: float, high: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}g}" if np.isfinite(value) else "–"


def _whole(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.0f}"


def quality_table(frame: pd.DataFrame) -> Table:
    """What an estimator is worth at the longest trajectory: signal to noise, bias, direction."""
    last = frame.loc[frame.groupby(["case", "estimator"], sort=False)["horizon"].idxmax()]
    data = last[["case", "estimator", "horizon", "variance", "snr"]].copy()
    for name in ("bias", "bias_error"):
        data[f"relative_{name}"] = last[name] / last["exact_norm"]
    data["cosine"] = last["cosine"]
    shown = pd.DataFrame({"case": data["case"], "estimator": data["estimator"].map(estimator_label)})
    names = {
        "variance": "variance",
        "snr": "signal / noise",
        "relative_bias": "distance / norm",
        "relative_bias_error": "by chance",
        "cosine": "cosine",
    }
    for name, title in names.items():
        shown[title] = [_number(value, 3) for value in data[name]]
    caption = (
        f"At the longest trajectory, T = {frame['horizon'].max()}: variance of one trajectory's gradient, squared "
        "norm of the mean over it (0: below what can be told from noise), distance of the mean over all trajectories "
        "from the exact gradient, relative to its norm, the distance that sampling alone makes, and the cosine (–: no "
        "exact gradient)."
    )
    return Table(caption, data, shown)


def budget(frame: pd.DataFrame) -> str:
    """What was measured."""
    lengths = sorted(frame["horizon"].unique())
    return f"{frame['count'].min():,} trajectories at each of {len(lengths)} lengths from {lengths[0]} to {lengths[-1]}"


def make_tables(frame: pd.DataFrame) -> dict[str, Table]:
    """Name -> table."""
    pairs = {"crossings": ("s2pg_return", "bptt_return"), "crossings_to_go": ("s2pg_to_go", "bptt_to_go")}
    known = {name: pair for name, pair in pairs.items() if {*pair} <= {*frame["estimator"]}}
    crossing = {name: crossing_table(frame, *pair) for name, pair in known.items()}
    return {"slopes": slope_table(frame)} | crossing | {"quality": quality_table(frame)}


PICTURES, NETWORKS = gradients_figures.PICTURES, gradients_figures.NETWORKS
