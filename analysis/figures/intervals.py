"""Aggregate metrics of the final normalised scores with their intervals (rliable's interval plot)."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import setting, style
from analysis.figures.common import Tidy, empty, interval, method_axis, panels

METRICS = {"iqm": "IQM", "median": "Median", "mean": "Mean", "optimality_gap": "Optimality gap"}

CAPTION = (
    "Final normalised scores over all tasks ({mode}): interquartile mean, median, mean and optimality gap (mean "
    "distance below the {one}). The line is the estimate, the bar its 95 % stratified bootstrap interval. A "
    "failed run counts as 0. {counts}"
)


def draw(data: Tidy) -> Figure:
    """One panel per metric, one row per method."""
    rows = {metric: data.pick(metric, task="all") for metric in METRICS}
    rows = {metric: frame[~frame["method"].isin(setting.UNTRAINED)] for metric, frame in rows.items()}
    methods = style.order_methods(m for frame in rows.values() for m in frame["method"])
    if not methods:
        return empty(setting.no_scale(data.grid))
    fig, axes = panels(len(METRICS), across=4, width=2.5, height=0.9 + 0.3 * len(methods))
    for ax, (metric, frame) in zip(axes, rows.items(), strict=True):
        ax.set_title(METRICS[metric] + (" ↓" if metric == "optimality_gap" else " ↑"))
        for row in frame.itertuples():
            interval(ax, methods.index(row.method), row.low, row.high, row.estimate, row.method)
        method_axis(ax, methods, labels=ax is axes[0])
        ax.margins(x=0.06)
        ax.xaxis.set_major_locator(MaxNLocator(4))
    fig.supxlabel(f"normalised final score ({setting.scale(data.grid)})", fontsize=9.5)
    return fig
