"""Return against environment steps, and against training time, per task."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import setting, style
from analysis.figures.common import Tidy, columns, curve, legend, nothing, panels, seconds_axis, steps_axis

CAPTION_STEPS = (
    "Interquartile mean over seeds of the evaluation return ({mode}) against environment steps; bands are 95 % "
    "bootstrap intervals over seeds. A failed run counts as the random policy. {counts}"
)
CAPTION_OTHER_MODE = "As the learning curves above, with the {other} instead of the {mode}. {counts}"
CAPTION_SECONDS = (
    "Interquartile mean over seeds of the evaluation return ({mode}) against training time (environment, acting "
    "and learning; evaluation not counted); bands are 95 % bootstrap intervals over seeds. {counts}"
)


def over_steps(data: Tidy) -> Figure:
    """Learning curves in the experiment's evaluation mode."""
    return _draw(data, "return_over_steps", data.mode)


def over_steps_other_mode(data: Tidy) -> Figure:
    """Learning curves in the other evaluation mode."""
    return _draw(data, "return_over_steps", data.other_mode)


def over_seconds(data: Tidy) -> Figure:
    """The same returns against seconds of training: what a method buys for the time it takes."""
    return _draw(data, "return_over_seconds", data.mode)


def _draw(data: Tidy, statistic: str, mode: str) -> Figure:
    rows = data.pick(statistic, mode)
    fig, axes = panels(len(data.tasks))
    for ax, task in zip(axes, data.tasks, strict=False):
        ax.set_title(style.task_label(task))
        here = rows[rows["task"] == task]
        if here.empty:
            nothing(ax, "no evaluation yet")
        else:
            _panel(ax, here, in_seconds=statistic.endswith("seconds"))
    for ax in axes[:: columns(axes)]:
        ax.set_ylabel("episode return")
    legend(fig, data, rows["method"])
    return fig


def _panel(ax: Axes, rows: pd.DataFrame, in_seconds: bool) -> None:
    ends = rows.groupby("method")["x"].max()
    for method in style.order_methods(rows["method"])[::-1]:
        curve(ax, rows[rows["method"] == method], method, float(ends.max()) if method in setting.UNTRAINED else None)
    seconds_axis(ax, list(ends.drop(list(setting.UNTRAINED), errors="ignore"))) if in_seconds else steps_axis(ax)
