"""Probability that a run of one method scores above a run of another."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import setting, style
from analysis.figures.common import Tidy, empty, interval, method_axis, panels

PANELS = {"s2pg": "P(S2PG > …)", "none": "P(… > No memory)"}

CAPTION = (
    "Probability that a run of the first method ends with a higher score than a run of the second, mean over "
    "tasks ({mode}); at the dashed line neither is better. The line is the estimate, the bar its 95 % stratified "
    "bootstrap interval. {counts}"
)


def draw(data: Tidy) -> Figure:
    """Left: S2PG against every other method. Right: every method against no memory."""
    rows = data.pick("improvement", task="all")
    rows = rows[~(rows["method"].isin(setting.UNTRAINED) | rows["versus"].isin(setting.UNTRAINED))]
    over = rows[rows["method"] == "s2pg"].assign(row=lambda f: f["versus"])
    above = rows[rows["versus"] == "none"].assign(row=lambda f: f["method"])
    shown = [(title, frame) for title, frame in zip(PANELS.values(), (over, above), strict=True) if len(frame)]
    if not shown:
        return empty("No pair of methods to compare: this figure needs finished runs of S2PG or of no memory.")
    tallest = max(frame["row"].nunique() for _, frame in shown)
    fig, axes = panels(len(shown), across=2, width=4.3, height=1.1 + 0.3 * tallest)
    for ax, (title, frame) in zip(axes, shown, strict=True):
        _panel(ax, title, frame)
    return fig


def _panel(ax: Axes, title: str, frame) -> None:
    methods = style.order_methods(frame["row"])
    for row in frame.itertuples():
        interval(ax, methods.index(row.row), row.low, row.high, row.estimate, row.row)
    method_axis(ax, methods)
    ax.axvline(0.5, color="#444444", linewidth=1, linestyle=(0, (3, 2)), zorder=1)
    ax.set_xlim(-0.03, 1.03)
    ax.set_title(title)
    ax.set_xlabel("probability of improvement")
