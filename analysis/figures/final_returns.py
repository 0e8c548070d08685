"""Every single run's final return, per task: with few seeds there is no reason to hide them behind an interval."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import style
from analysis.figures.common import Tidy, columns, interval, method_axis, nothing, panels, short

CAPTION = (
    "Final returns per task ({mode}, mean over the last tenth of the evaluations): one dot per run; the line is "
    "the interquartile mean, the bar its 95 % bootstrap interval over seeds. A red cross is a failed run, drawn "
    "and counted at the random policy's return. {counts}"
)


def draw(data: Tidy) -> Figure:
    """One panel per task, one row per method: a dot per run, a cross per failed run, bar and line as elsewhere."""
    fig, axes = panels(len(data.tasks), width=3.7, height=1.0 + 0.27 * len(data.methods))
    for i, (ax, task) in enumerate(zip(axes, data.tasks, strict=False)):
        ax.set_title(style.task_label(task))
        _panel(ax, data, task, labels=i % columns(axes) == 0)
    return fig


def _panel(ax: Axes, data: Tidy, task: str, labels: bool) -> None:
    scores = data.scores
    here = scores[(scores["task"] == task) & (scores["mode"] == data.mode) & (scores["score"] == data.score)]
    here = here[here["raw"].notna()]
    if here.empty:
        nothing(ax, "no evaluation yet")
        return
    for row in data.pick("return_iqm", task=task).itertuples():
        interval(ax, data.methods.index(row.method), row.low, row.high, row.estimate, row.method)
    for method, runs in here.groupby("method"):
        _dots(ax, data.methods.index(method), runs, style.look(method).colour)
    method_axis(ax, data.methods, labels)
    ax.set_xlabel("final episode return")
    ax.margins(x=0.06)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(FuncFormatter(short))


def _dots(ax: Axes, row: int, runs, colour: str) -> None:
    """Runs side by side in the order of their seeds, so that dots do not hide each other; the same place every time."""
    runs = runs.sort_values("seed")
    y = row + np.linspace(-0.2, 0.2, len(runs)) if len(runs) > 1 else np.array([row])
    failed = (runs["status"] == "failed").to_numpy()
    raw = runs["raw"].to_numpy(float)
    ax.scatter(raw[~failed], y[~failed], s=13, color=colour, edgecolor="white", linewidth=0.5, zorder=4)
    ax.scatter(raw[failed], y[failed], s=22, color="#C00000", marker="x", linewidth=1.2, zorder=5)
