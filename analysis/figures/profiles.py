"""Performance profiles: the share of runs above each normalised score."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis import setting, style
from analysis.figures.common import Tidy, curve, empty, legend, panels

CAPTION = (
    "Performance profiles of the final normalised scores ({mode}), all tasks together. Higher and further right "
    "is better; a curve above another everywhere is better whatever the metric. Bands are 95 % stratified "
    "bootstrap intervals. {counts}"
)


def draw(data: Tidy) -> Figure:
    """One curve per method."""
    rows = data.pick("profile")
    rows = rows[~rows["method"].isin(setting.UNTRAINED)]
    if rows.empty:
        return empty(setting.no_scale(data.grid))
    fig, (ax,) = panels(1, width=8.2, height=3.9)
    for method in style.order_methods(rows["method"])[::-1]:
        curve(ax, rows[rows["method"] == method], method)
    ax.set_xlabel(f"normalised final score τ ({setting.scale(data.grid)})")
    ax.set_ylabel("share of runs with a score above τ")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_ylim(-0.03, 1.03)
    ax.margins(x=0.01)
    legend(fig, data, rows["method"], beside=True)
    return fig
