"""Interquartile mean of the normalised return over all tasks, against environment steps and against training time."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from analysis import setting, style
from analysis.figures.common import Tidy, curve, empty, legend, panels, seconds_axis, steps_axis

CAPTION_STEPS = (
    "Interquartile mean over all runs and tasks of the normalised evaluation return ({mode}) against environment "
    "steps; bands are 95 % stratified bootstrap intervals. On each task 0 is the {zero} and 1 the {one}'s "
    "final return; a failed run counts as 0. {counts}"
)
CAPTION_SECONDS = (
    "The same returns against training time (environment, acting and learning; evaluation not counted): what a method "
    "buys for its time. A run keeps its last return; a curve ends with the last run of its method. {counts}"
)


def over_steps(data: Tidy) -> Figure:
    """Sample efficiency."""
    return _draw(data, "iqm_over_steps")


def over_seconds(data: Tidy) -> Figure:
    """Time efficiency."""
    return _draw(data, "iqm_over_seconds")


def _draw(data: Tidy, statistic: str) -> Figure:
    rows = data.pick(statistic)
    rows = rows[~rows["method"].isin(setting.UNTRAINED)]
    if rows.empty:
        return empty(setting.no_scale(data.grid))
    fig, (ax,) = panels(1, width=8.2, height=3.9)
    for anchor in (0, 1):
        ax.axhline(anchor, color="#777777", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    for method in style.order_methods(rows["method"])[::-1]:
        curve(ax, rows[rows["method"] == method], method)
    ax.set_ylabel(f"normalised return\n({setting.scale(data.grid)})")
    ax.set_ylim(*_limits(rows["estimate"].to_numpy(float)))
    seconds_axis(ax, list(rows.groupby("method")["x"].max())) if statistic.endswith("seconds") else steps_axis(ax)
    legend(fig, data, rows["method"], beside=True)
    return fig


def _limits(values: np.ndarray) -> tuple[float, float]:
    """From the lowest curve to the highest, anchors included, with room; one wide band may not flatten the rest."""
    low, high = min(values.min(), 0.0), max(values.max(), 1.0)
    room = 0.12 * (high - low)
    return low - room, high + room
