"""How often a policy succeeds: per task, and against the delay that its memory has to bridge."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis import setting, stats, style
from analysis.figures.common import Tidy, columns, empty, interval, legend, method_axis, panels

LINE = {"color": "#999999", "linewidth": 0.9, "zorder": 1}
LIMITS = (-0.03, 1.04)
STEP = 0.055  # how far apart, in octaves, the methods of one delay are drawn
CAPTION_DELAY = (
    "Share of correct answers ({mode}, last tenth of the evaluations) against the number of steps between cue and "
    "question: mean over runs with its 95 % bootstrap interval over seeds. Points of one delay lie side by side, so "
    f"that they do not hide each other. Lines: {stats.LEARNED}, from which on a run has learned the delay, and 0.5, "
    "which is chance and the random policy. Every delay has the same budget of environment steps. {counts}"
)
CAPTION_RATES = (
    "Success rates per task ({mode}, last tenth of the evaluations): the line is the mean over runs, the bar its 95 % "
    "bootstrap interval over seeds. A failed run counts with the random policy's rate. {counts}"
)


def has_delays(data: Tidy) -> bool:
    """Whether there are success rates on tasks with a delay."""
    return not _at_delays(data).empty


def has_rates(data: Tidy) -> bool:
    """Whether there are success rates on tasks without a delay."""
    return bool(_tasks(data))


def against_delay(data: Tidy) -> Figure:
    """Success rate against delay, one line per method."""
    rows = _at_delays(data)
    if rows.empty:
        return empty("No run on a task with a delay has a success rate.")
    methods, delays = style.order_methods({*rows["method"]} - {*setting.UNTRAINED}), sorted(rows["x"].unique())
    fig, (ax,) = panels(1, width=6.4, height=3.7)
    for i, method in enumerate(methods):
        shift = 2 ** (STEP * (i - (len(methods) - 1) / 2))
        _line(ax, rows[rows["method"] == method].sort_values("x"), method, shift)
    for height, text in ((0.5, "chance"), (stats.LEARNED, "learned")):
        ax.axhline(height, linestyle=(0, (2, 2)), **LINE)
        ax.text(1.01, height, text, transform=ax.get_yaxis_transform(), fontsize=8, color="#666666", va="center")
    ax.set_xscale("log", base=2)
    ax.set_xticks(delays, [f"{delay:g}" for delay in delays])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="delay from cue to question (steps, log scale)", ylabel="success rate", ylim=LIMITS)
    legend(fig, data, methods)
    return fig


def _line(ax: Axes, rows: pd.DataFrame, method: str, shift: float) -> None:
    """A method's success rates, moved sideways by a factor."""
    x, y = shift * rows["x"].to_numpy(float), rows["estimate"].to_numpy(float)
    bars = np.nan_to_num(np.clip([y - rows["low"], rows["high"] - y], 0, None))
    own = style.look(method)
    ax.errorbar(x, y, yerr=bars, **own.plot, capsize=2, elinewidth=0.9, zorder=4 if method == "s2pg" else 3)


def rates(data: Tidy) -> Figure:
    """One panel per task without a delay, one row per method."""
    tasks = _tasks(data)
    if not tasks:
        return empty("No run has a success rate on a task without a delay.")
    fig, axes = panels(len(tasks), width=3.7, height=1.0 + 0.27 * len(data.methods))
    for i, (ax, task) in enumerate(zip(axes, tasks, strict=True)):
        ax.set_title(style.task_label(task))
        for row in data.pick("success_rate", task=task).itertuples():
            interval(ax, data.methods.index(row.method), row.low, row.high, row.estimate, row.method)
        method_axis(ax, data.methods, labels=i % columns(axes) == 0)
        ax.set(xlabel="success rate", xlim=LIMITS)
    return fig


def _tasks(data: Tidy) -> list[str]:
    return [t for t in style.order_tasks(data.pick("success_rate")["task"]) if setting.delay(t) is None]


def _at_delays(data: Tidy) -> pd.DataFrame:
    """The success rates on tasks with a delay, which is x."""
    rows = data.pick("success_rate")
    return rows.assign(x=rows["task"].map(setting.delay).astype(float)).dropna(subset=["x"])
