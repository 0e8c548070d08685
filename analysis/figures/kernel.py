"""The kernel of the memory: what z' is drawn from, how noisy it is, how large it is, and what cell makes it.

What a variant of S2PG is, is read from the hyperparameters in grid.json, not from its name: a new row of methods.yaml
that changes one of these is drawn too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis import style
from analysis.figures.common import (
    Tidy,
    curve,
    empty,
    interval,
    legend,
    method_axis,
    panels,
    short,
    steps_axis,
)

BASE, REFERENCES = "s2pg", ("none", "oracle")
PARTS = ("memory_sigma", "sigma_memory", "memory_noise", "squash_memory", "leak", "memory_size", "cell")
FAMILIES = {
    "distribution": ("distribution of z'", ("memory_sigma", "memory_noise", "squash_memory", "leak")),
    "noise": ("standard deviation of z'", ("sigma_memory",)),
    "size": ("size of the memory", ("memory_size",)),
    "cell": ("cell", ("cell",)),
}
"""Family -> title, and the hyperparameters that may differ within it."""
NORMALISED = "normalised {}\n(random policy 0, oracle 1)"
PANELS = {
    "noise on the memory": ("noise",),
    "size of the memory": ("size",),
    "distribution and cell": ("distribution", "cell"),
}
"""Panel -> its families."""
PLACES = {
    "noise on the memory": ("sigma_memory", "σ of z', fixed"),
    "size of the memory": ("memory_size", "memory units"),
}
"""Panel with a numeric axis -> the hyperparameter on it, and its label."""
NONE_LINE = {"color": style.look("none").colour, "linestyle": (0, (3, 2)), "linewidth": 1.2}
_NONE = "No kernel study: this figure needs S2PG with other noise, sizes or cells in the same experiment."

CAPTION = (
    "Final score of S2PG ({mode}) against the fixed standard deviation of the next memory z', against the number of "
    "memory units, and for each distribution of z' and each cell; everything else is as in S2PG, which has a Gaussian "
    "z' with a fixed standard deviation, squashed once, and a GRU; the target of the entropy of z' goes with the "
    "noise. Interquartile mean and its 95 % bootstrap interval. "
    "The score is normalised over all tasks, or the return of each task where there is no "
    "normalised scale. {counts}"
)
CAPTION_CURVES = (
    "Interquartile mean of the evaluation return ({mode}) against environment steps, one panel per thing that was "
    "changed, with 95 % bootstrap intervals; normalised over all tasks, or per task where there is no normalised "
    "scale. S2PG, no memory and the oracle are the same curves in every panel. {counts}"
)


def families(data: Tidy) -> dict[str, list[str]]:
    """Family -> its methods in display order, S2PG among them."""
    known = _known(data.grid.get("methods", {}), data.methods)
    if BASE not in known:
        return {}
    found = {}
    for family, (_, may) in FAMILIES.items():
        mine = [m for m, own in known.items() if all(own[k] in (known[BASE][k], None) for k in PARTS if k not in may)]
        if len(mine) > 1:
            found[family] = mine
    return found


def _known(settings: Mapping[str, Mapping[str, Any]], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Method -> its `PARTS`, of methods that decide on their memory by drawing it. A sigma that learns is None."""
    rows = {m: settings.get(m, {}) for m in methods}
    rows = {m: row for m, row in rows.items() if row.get("decides") and set(PARTS) <= set(row)}
    moved = {m: {} if row["memory_sigma"] == "fixed" else {"sigma_memory": None} for m, row in rows.items()}
    return {m: {k: row[k] for k in PARTS} | moved[m] for m, row in rows.items()}


def applies(data: Tidy) -> bool:
    """Whether the experiment varies the kernel."""
    return bool(families(data))


def _scope(data: Tidy, normalised: str, raw: str, what: str) -> list[tuple[str, str, pd.DataFrame]]:
    """Rows of panels: (row title, axis label, rows of `statistics`): all tasks normalised, or else each task raw."""
    rows = data.pick(normalised, task="all")
    if len(rows):
        title = style.task_label(data.tasks[0]) if len(data.tasks) == 1 else "all tasks"
        return [(title, NORMALISED.format(what), rows)]
    return [(style.task_label(task), f"episode {what}", data.pick(raw, task=task)) for task in data.tasks]


def scores(data: Tidy) -> Figure:
    """Final score against noise and size, and of each distribution and cell; one row of panels per task."""
    found, shown = families(data), _scope(data, "iqm", "return_iqm", "final return")
    if not found or all(rows.empty for *_, rows in shown):
        return empty(_NONE)
    parts = {name: [m for family in names for m in found.get(family, [])] for name, names in PANELS.items()}
    parts = {name: methods for name, methods in parts.items() if methods}
    fig, axes = panels(len(parts) * len(shown), across=len(parts), width=3.6, height=3.1)
    for i, (task, label, rows) in enumerate(shown):
        here = axes[i * len(parts) : (i + 1) * len(parts)]
        for ax, (name, methods) in zip(here, parts.items(), strict=True):
            _panel(ax, rows, name, {m: data.grid["methods"][m] for m in methods}, label)
            ax.set_title(f"{name}\n{task}")
        _level([ax for ax, name in zip(here, parts, strict=True) if name in PLACES])
    fig.legend([Line2D([], [], **NONE_LINE)], [style.label("none")], loc="outside lower center")
    return fig


def _panel(ax: Axes, rows: pd.DataFrame, name: str, settings: Mapping[str, Mapping[str, Any]], label: str) -> None:
    if name not in PLACES:
        _kinds(ax, rows, settings, label.replace("\n", " "))
        return
    parameter, axis = PLACES[name]
    _against(ax, rows, {method: own[parameter] for method, own in settings.items()}, axis)
    ax.set_ylabel(label)


def _against(ax: Axes, rows: pd.DataFrame, places: Mapping[str, float], label: str) -> None:
    """One point with its interval per method at its place on a logarithmic axis."""
    here = rows[rows["method"].isin(places)]
    here = here.assign(x=here["method"].map(places)).sort_values("x")
    ax.plot(here["x"], here["estimate"], color="#999999", linewidth=1, zorder=2)
    for row in here.itertuples():
        bars = np.nan_to_num([[row.estimate - row.low], [row.high - row.estimate]])
        look = style.look(row.method)
        ax.errorbar(row.x, row.estimate, yerr=bars, color=look.colour, marker=look.marker, capsize=3, zorder=3)
    _none_line(ax.axhline, rows)
    ax.set_xscale("log")
    ax.set_xticks(here["x"], [short(x) for x in here["x"]])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.15)
    ax.set_xlabel(label + " (log scale)")


def _kinds(ax: Axes, rows: pd.DataFrame, methods: Iterable[str], label: str) -> None:
    """One bar per distribution and cell."""
    methods = style.order_methods(methods)
    for row in rows[rows["method"].isin(methods)].itertuples():
        interval(ax, methods.index(row.method), row.low, row.high, row.estimate, row.method)
    _none_line(ax.axvline, rows)
    method_axis(ax, methods)
    ax.margins(x=0.06)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_xlabel(label)


def _none_line(across: Callable, rows: pd.DataFrame) -> None:
    """Where no memory ends: `across` draws a line over the whole panel."""
    for value in rows.loc[rows["method"] == "none", "estimate"]:
        across(value, zorder=1, **NONE_LINE)


def _level(axes: Sequence[Axes]) -> None:
    """The same y limits, so that the panels can be compared."""
    limits = [ax.get_ylim() for ax in axes]
    for ax in axes:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def curves(data: Tidy) -> Figure:
    """Learning curves, one panel per family and row of tasks."""
    found, shown = families(data), _scope(data, "iqm_over_steps", "return_over_steps", "return")
    if not found or all(rows.empty for *_, rows in shown):
        return empty(_NONE)
    fig, axes = panels(len(found) * len(shown), across=len(found), width=max(3.2, 7 / len(found)), height=2.9)
    for i, (task, label, rows) in enumerate(shown):
        for j, (family, methods) in enumerate(found.items()):
            ax = axes[i * len(found) + j]
            for method in style.order_methods([*methods, BASE, *REFERENCES])[::-1]:
                curve(ax, rows[rows["method"] == method], method)
            ax.set(title=f"{FAMILIES[family][0]}\n{task}", ylabel=label if j == 0 else "")
            steps_axis(ax)
    everything = {m for methods in found.values() for m in methods} | {BASE, *REFERENCES}
    legend(fig, data, everything & {m for *_, rows in shown for m in rows["method"]})
    return fig
