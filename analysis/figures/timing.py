"""What an environment step of training costs, and on what: environment, acting, learning."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis import setting, style
from analysis.figures.common import Tidy, columns, method_axis, nothing, panels

PARTS = {"environment": ("#BBBBBB", ""), "acting": ("#6699CC", "////"), "learning": ("#EE8866", "")}

CAPTION = (
    "Wall-clock time of training per environment step and where it goes (medians over runs); behind each bar its "
    "sum and the environment steps per second. Evaluation and a run's first epoch are not counted. Runs that shared "
    "their machine take longer than alone. {counts}"
)


def draw(data: Tidy) -> Figure:
    """One panel per task, one stacked bar per method, its sum and its environment steps per second at its end."""
    rows = data.wall_clock[~data.wall_clock["method"].isin(setting.UNTRAINED)].dropna(subset=["training"])
    methods = style.order_methods(rows["method"])
    fig, axes = panels(len(data.tasks), height=1.0 + 0.3 * max(len(methods), 2), width=3.7)
    for i, (ax, task) in enumerate(zip(axes, data.tasks, strict=False)):
        ax.set_title(style.task_label(task))
        _panel(ax, rows[rows["task"] == task], methods, labels=i % columns(axes) == 0)
    handles = [Patch(facecolor=c, hatch=h, edgecolor="white", label=part) for part, (c, h) in PARTS.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def _panel(ax: Axes, rows: pd.DataFrame, methods: list[str], labels: bool) -> None:
    if rows.empty:
        nothing(ax, "no timing yet")
        return
    for row in rows.itertuples():
        y, left = methods.index(row.method), 0.0
        for part, (colour, hatch) in PARTS.items():
            width = getattr(row, part)
            ax.barh(y, width, left=left, height=0.62, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4)
            left += width
        spent = f"{row.training:,.0f}" if row.training >= 99.5 else f"{row.training:.2g}"
        text = f" {spent} ms ({row.steps_per_second:,.0f}/s)"
        ax.text(row.training, y, text, va="center", fontsize=8, color="#333333")
    ax.set_xlim(0, 1.55 * rows["training"].max())
    method_axis(ax, methods, labels)
    ax.set_xlabel("ms per environment step")
    ax.xaxis.set_major_locator(MaxNLocator(4))
