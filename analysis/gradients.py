"""A gradient study: measured variances -> slopes, crossing points, verdicts, figures and tables.

    python -m analysis gradients --study results/tables/demo/gradient_variance/study.json \
        --parts results/gradients/demo/gradient_variance --tables results/tables/... --figures results/figures/...

Reads one Parquet file per case (columns: `COLUMNS`), computes nothing from trajectories itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import tables
from analysis.claims import decide
from analysis.errors import AnalysisError
from analysis.figures import variance
from analysis.tables.content import Table

Z95 = 1.959964  # the normal's 97.5 % quantile
COLUMNS = {
    "case": "name of the problem in the study's file",
    "features": "of the policy: bounded or linear",
    "recurrence": "Z, by how much a step of the memory carries the last one on",
    "memory": "units",
    "sigma_memory": "standard deviation of z'",
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
    "seconds": "for sampling and gradients of all trajectories",
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


def read(folder: Path, study: Mapping[str, Any]) -> pd.DataFrame:
    """All parts of a study. AnalysisError names a case whose file is missing or lacks a column."""
    frames = []
    for case in study["cases"]:
        path = folder / f"{case}.parquet"
        if not path.exists():
            raise AnalysisError(f"{path}: missing; `s2pg gradients --case {case}` makes it")
        frames.append(pd.read_parquet(path))
        if lacking := COLUMNS.keys() - frames[-1].columns:
            raise AnalysisError(f"{path}: lacks the columns {sorted(lacking)}")
    return pd.concat(frames, ignore_index=True)


def slope(horizons: np.ndarray, variances: np.ndarray, errors: np.ndarray) -> Fit:
    """By least squares, each log variance weighted by its sampling error.

    The interval has the sampling errors of independent variances only; it does not say that this is a power law.
    """
    x, y, weight = np.log(horizons), np.log(variances), (variances / errors) ** 2
    x = x - np.average(x, weights=weight)
    information = float((weight * x * x).sum())
    return Fit(float((weight * x * y).sum()) / information, information**-0.5)


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
        rows.append((case, last["features"], last["recurrence"], name, *numbers, theory, share))
    columns = ["case", "features", "recurrence", "estimator", "slope", "low", "high", "bound_slope", "share_of_bound"]
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
        rows.append((case, first[0] if first else np.nan, until[-1] if until else np.nan, ratio.iloc[0], ratio.iloc[-1]))
    return pd.DataFrame(rows, columns=["case", "less_from", "more_until", "first_ratio", "last_ratio"])


# --- verdicts --------------------------------------------------------------------------------------------------------


def judge(study: Mapping[str, Any], frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A verdict per claim of the study's file, as `analysis.claims` gives them for runs."""
    return [_judge(claim, frame) for claim in study["spec"]["claims"]]


def _judge(claim: Mapping[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    rule = claim["rule"]
    part = frame[(frame["case"] == rule["case"]) & (frame["horizon"] >= rule["from"])]
    chosen = {key: part[part["estimator"] == rule[key]] for key in ("a", "b") if key in rule}
    found = None if any(rows.empty for rows in chosen.values()) else STATISTICS[rule["statistic"]](rule["from"], **chosen)
    shared = {"id": claim["id"], "text": claim["text"], "statistic": rule["statistic"], "threshold": rule["threshold"]}
    if found is None:
        numbers = {"estimate": None, "low": None, "high": None}
        return shared | numbers | {"verdict": "not enough data", "reason": "too few lengths at this scale"}
    estimate, low, high = found
    verdict, reason = decide(low, high, rule["threshold"])
    return shared | {"estimate": estimate, "low": low, "high": high, "verdict": verdict, "reason": reason}


def _slope(start: int, a: pd.DataFrame) -> tuple[float, float, float] | None:
    found = fit(a, start)
    return found and (found.slope, found.low, found.high)


def _slope_difference(start: int, a: pd.DataFrame, b: pd.DataFrame) -> tuple[float, float, float] | None:
    """Both see the same trajectories, which makes the interval too wide rather than too narrow."""
    one, two = fit(a, start), fit(b, start)
    if one is None or two is None:
        return None
    difference = Fit(one.slope - two.slope, float(np.hypot(one.error, two.error)))
    return difference.slope, difference.low, difference.high


def _log_ratio(start: int, a: pd.DataFrame, b: pd.DataFrame) -> tuple[float, float, float]:
    """log of the ratio of variances, at the length at which its lower end is smallest."""
    both = a.set_index("horizon").join(b.set_index("horizon"), rsuffix="_b")
    estimate = np.log(both["variance"] / both["variance_b"])
    half = Z95 * np.hypot(both["error"] / both["variance"], both["error_b"] / both["variance_b"])
    worst = (estimate - half).idxmin()
    return float(estimate[worst]), float((estimate - half)[worst]), float((estimate + half)[worst])


STATISTICS = {"slope": _slope, "slope_difference": _slope_difference, "log_ratio": _log_ratio}


# --- tables ----------------------------------------------------------------------------------------------------------


def slope_table(frame: pd.DataFrame) -> Table:
    """Measured slopes beside those of the bounds."""
    data = slopes(frame)
    shown = data[["case", "estimator"]].copy()
    shown["slope [95 %]"] = [_interval(*row) for row in data[["slope", "low", "high"]].to_numpy()]
    shown["slope of the bound"] = [_number(value) for value in data["bound_slope"]]
    shown["variance / bound at the longest"] = [_number(value) for value in data["share_of_bound"]]
    caption = (
        f"Slope of log variance against log T, from T = {FROM} on, with its 95 % interval, beside the slope of the theoretical "
        "bound, and how much of the bound is used up at the longest trajectory. An exponential has no slope: there the "
        "number is that of the best line."
    )
    return Table(data, shown, caption)


def crossing_table(frame: pd.DataFrame, a: str, b: str) -> Table:
    """Where one estimator overtakes the other."""
    data = crossings(frame, a, b)
    shown = pd.DataFrame({"case": data["case"]})
    shown[f"{a} has more until T"] = [_whole(value) for value in data["more_until"]]
    shown[f"{a} has less from T"] = [_whole(value) for value in data["less_from"]]
    shown["ratio at the shortest"] = [_number(value) for value in data["first_ratio"]]
    shown["ratio at the longest"] = [_number(value) for value in data["last_ratio"]]
    caption = f"Lengths at which the variance of {a} is above and below that of {b}, 95 % intervals apart; – : at none."
    return Table(data, shown, caption)


def _interval(value: float, low: float, high: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _number(value: float) -> str:
    return f"{value:.2g}" if np.isfinite(value) else "–"


def _whole(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.0f}"


# --- command ---------------------------------------------------------------------------------------------------------


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis gradients`."""
    add = parser.add_argument
    add("--study", type=Path, required=True, help="study.json, as workflow.scripts.study writes it")
    add("--parts", type=Path, required=True, help="folder of the measured cases")
    add("--tables", type=Path, required=True, help="folder for tables and verdicts")
    add("--figures", type=Path, required=True, help="folder for figures")


def main(arguments: argparse.Namespace) -> None:
    """`python -m analysis gradients`."""
    study = json.loads(arguments.study.read_text())
    frame = read(arguments.parts, study)
    arguments.tables.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(arguments.tables / "variance.parquet", index=False)
    tables.write("slopes", slope_table(frame), arguments.tables)
    tables.write("crossings", crossing_table(frame, "s2pg_return", "bptt_return"), arguments.tables)
    verdicts = {"claims": judge(study, frame)}
    (arguments.tables / "claims.json").write_text(json.dumps(verdicts, indent=1, ensure_ascii=False) + "\n")
    for path in variance.write(frame, arguments.figures):
        print(path)
