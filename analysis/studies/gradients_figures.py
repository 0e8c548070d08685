"""Figures of a gradient study: variance, bias and direction against the length of the trajectory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.figures.common import empty, panels

KINDS = {"s2pg": ("S2PG", "s2pg"), "bptt": ("BPTT", "bptt_full"), "bptt5": ("BPTT, 5 steps", "bptt5")}
FORMS = {
    "return": ("", "-"),
    "to_go": (", reward to go", (0, (4, 1.5))),
    "baseline": (", best baseline", (0, (1, 1))),
    "critic": (", exact critic", "-"),
    "learned": (", learned critic", (0, (4, 1.5))),
    "blind": (", critic of (o, z)", (0, (1, 1))),
    "slope": (", critic's slope", (0, (3, 1, 1, 1))),
}
BOUND = {"linestyle": (0, (1, 2.5)), "linewidth": 1.1}
EQUAL = 1e-12  # cosines nearer to 1 are 1 but for rounding, as with one parameter
GROWTH = ("s2pg_return", "bptt_return", "bptt5_return")
BIAS = ("s2pg_critic", "bptt_critic", "bptt5_critic", "s2pg_learned", "s2pg_blind", "s2pg_slope")


def look(estimator: str) -> tuple[str, str, object]:
    """Label, colour and line style of an estimator, from its name's two parts."""
    kind, _, form = estimator.partition("_")
    label, method = KINDS.get(kind, (kind, kind))
    more, line = FORMS.get(form, (f", {form}", "-"))
    return label + more, style.look(method).colour, line


def estimator_label(estimator: str) -> str:
    """Display name of an estimator, e.g. `bptt_to_go` -> `BPTT, reward to go`."""
    return look(estimator)[0]


def line(ax: Axes, rows: pd.DataFrame, estimator: str, y: str, ends: tuple[str, str] | None = None) -> None:
    """One estimator's curve over the length, with a band."""
    rows, (_, colour, kind) = rows.sort_values("horizon"), look(estimator)
    ax.plot(rows["horizon"], rows[y], color=colour, linestyle=kind, marker="o", markersize=2.5)
    if ends:
        ax.fill_between(rows["horizon"], rows[ends[0]], rows[ends[1]], color=colour, alpha=0.18, linewidth=0)


def setting(rows: pd.DataFrame) -> str:
    """What a panel's problem is: the recurrence where the theory is about it, the closed loop where it decides."""
    row = rows.iloc[0]
    if "title" in row:
        return row["title"]
    if row["features"] == "linear":
        return f"linear, eigenvalue {row['radius']:.2f}"
    return f"bounded, Z = {row['recurrence']:g}"


def growth(frame: pd.DataFrame) -> Figure:
    """Variance and bound, one panel per case that differs from the problem in features and recurrence alone."""
    return _variances(_main(frame), [name for name in GROWTH if name in set(frame["estimator"])], bounds=True)


def forms(frame: pd.DataFrame) -> Figure:
    """Return, reward to go and baseline, where the features are bounded."""
    rows = _main(frame)
    names = [n for n in dict.fromkeys(frame["estimator"]) if n.partition("_")[0] in ("s2pg", "bptt")]
    return _variances(rows[rows["features"] == "bounded"], names, bounds=False)


def networks(frame: pd.DataFrame) -> Figure:
    """One panel per case, without bounds."""
    return _variances(frame.assign(title=frame["case"]), list(dict.fromkeys(frame["estimator"])), bounds=False)


def _variances(frame: pd.DataFrame, names: Sequence[str], bounds: bool) -> Figure:
    keys = ["case"] if "title" in frame else ["features", "recurrence"]
    cases = [part for _, part in frame.groupby(keys, sort="title" not in frame)]
    if not cases:
        return empty("This scale has no such case.")
    fig, axes = panels(len(cases), across=4, width=2.9, height=2.6)
    for ax, part in zip(axes, cases, strict=True):
        for name in names:
            rows = part[part["estimator"] == name]
            line(ax, rows, name, "variance", ("low", "high"))
            known = rows[np.isfinite(rows["bound"])].sort_values("horizon")
            if bounds and len(known):
                ax.plot(known["horizon"], known["bound"], color=look(name)[1], **BOUND)
        seen = part[part["estimator"].isin(names)]["variance"]
        _log_axes(ax, setting(part), "variance")
        ax.set_ylim(seen.min() / 3, seen.max() * 100)
    _legend(fig, names)
    return fig


def bias(frame: pd.DataFrame) -> Figure:
    """Relative distance from the exact gradient, and cosine, of the cases that have one."""
    rows = _main(frame)
    rows = rows[rows["bias"].notna()]
    if rows.empty:
        return empty("No case of this scale has an exact gradient.")
    names = [name for name in BIAS if name in set(rows["estimator"])]
    cases = [part for _, part in rows.groupby("recurrence")]
    fig, axes = panels(2 * len(cases), across=len(cases), width=2.9, height=2.4)
    for upper, lower, part in zip(axes[: len(cases)], axes[len(cases) :], cases, strict=True):
        for name in names:
            mine = part[part["estimator"] == name]
            mine = mine.assign(
                relative=mine["bias"] / mine["exact_norm"], chance=mine["bias_error"] / mine["exact_norm"]
            )
            line(upper, mine, name, "relative")
            upper.plot(mine["horizon"], mine["chance"], color=look(name)[1], **BOUND)
            line(lower, mine.assign(apart=(1 - mine["cosine"]).where(lambda gap: gap > EQUAL)), name, "apart")
        _log_axes(upper, setting(part), "distance / norm")
        _log_axes(lower, "", "1 − cosine")
    _legend(fig, names)
    return fig


def ratio(frame: pd.DataFrame) -> Figure:
    """Variance of S2PG over that of BPTT, for each noise and size of the memory."""
    rows = frame[(frame["features"] == "bounded") & frame["estimator"].isin(GROWTH[:2])]
    if rows["estimator"].nunique() < 2:
        return empty("This scale does not measure both.")
    usual = rows["recurrence"] == rows["recurrence"].mode().iloc[0]
    fig, axes = panels(2, across=2, width=3.6, height=2.9)
    middle = rows[["sigma_memory", "memory"]].mode().iloc[0]
    for ax, key, other, label in (
        (axes[0], "sigma_memory", "memory", "standard deviation of z'"),
        (axes[1], "memory", "sigma_memory", "memory units"),
    ):
        shown = rows[usual & (rows[other] == middle[other])]
        shades = np.linspace(0.15, 0.85, max(shown[key].nunique(), 2))
        for shade, (value, part) in zip(shades, shown.groupby(key), strict=False):
            wide = part.pivot_table(index="horizon", columns="estimator", values="variance")
            ax.plot(
                wide.index,
                wide[GROWTH[0]] / wide[GROWTH[1]],
                color=style.sequential(shade),
                label=f"{value:g}",
                marker="o",
                markersize=2.5,
            )
        ax.axhline(1, color="#444444", linewidth=0.9)
        _log_axes(ax, label, "S2PG / BPTT")
        ax.legend(title=None, fontsize=8)
    return fig


def _main(frame: pd.DataFrame) -> pd.DataFrame:
    """Cases that differ in features and recurrence alone."""
    usual = frame[["sigma_memory", "memory"]].mode().iloc[0]
    return frame[(frame["sigma_memory"] == usual["sigma_memory"]) & (frame["memory"] == usual["memory"])]


def _log_axes(ax: Axes, title: str, label: str) -> None:
    ax.set(xscale="log", yscale="log", xlabel="steps T", ylabel=label, title=title)


def _legend(fig: Figure, names: Sequence[str]) -> None:
    handles = [Line2D([], [], color=look(n)[1], linestyle=look(n)[2], label=look(n)[0]) for n in names]
    fig.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))


# name -> title, caption, drawing, whether it is folded away in the report
PICTURES: dict[str, tuple[str, str, Callable[[pd.DataFrame], Figure], bool]] = {
    "variance": (
        "Variance of the gradient against the length of the trajectory",
        "Total variance of one trajectory's gradient (trace of the covariance) against the number of steps, with 95 % "
        "intervals; dotted: what theory says it stays below. With bounded features, one panel per recurrence Z of the "
        "memory; with unbounded (linear) ones and learned recurrent weights, where the theory has no bound, one per "
        "largest eigenvalue of the closed loop. Gradients weigh every score with the whole return.",
        growth,
        False,
    ),
    "variance_ratio": (
        "S2PG's variance over BPTT's",
        "Ratio of variances against the length of the trajectory, for other noise on the memory and other sizes of it. "
        "Above 1, BPTT has less variance.",
        ratio,
        False,
    ),
    "gradient_bias": (
        "Bias and direction of the gradient",
        "Where the exact gradient is known: distance of the mean over all trajectories from it, relative to its norm "
        "(thin dots: the distance that sampling alone makes, without the error of a fitted critic), and 1 minus the "
        "cosine between them. Advantages are from a critic that is exact, fitted to (s, a, z'), or fitted to "
        "(o, z, a, z') alone; the critic's slope by the decision takes the place of scores, at sampled decisions. "
        "Truncated BPTT is biased, and so is a critic that bootstraps from (o, z).",
        bias,
        False,
    ),
    "variance_forms": (
        "What signal and baseline change",
        "As above, for the whole return, the reward to go, and the return with the best constant subtracted in every "
        "component (estimated on the other half of the trajectories).",
        forms,
        True,
    ),
}
NETWORKS: tuple[str, str, Callable[[pd.DataFrame], Figure], bool] = (
    "Variance of the gradient of networks",
    "Total variance of one trajectory's gradient by all parameters of an untrained S2PG policy, against the number of "
    "steps, with 95 % intervals: weighed with the whole return, and with the reward to go.",
    networks,
    False,
)
