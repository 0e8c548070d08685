"""What a memory knows of what is hidden: R² of a linear readout without and with it, one dot per run."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import schema, style
from analysis.figures.common import Tidy, columns, empty, method_axis, panels

FLOOR = -0.5
CAPTION = (
    "R² on held-out episodes of a linear readout of the hidden groups, from the observation alone (hollow) and with "
    "the memory beside it (filled): one dot per run, the bar is the median. 1: what is hidden can be read off; 0: no "
    "better than its mean; values below -0.5 are drawn at the left edge as triangles. The oracle and the random "
    "policy have no probe. {counts}"
)


def draw(data: Tidy) -> Figure:
    """One panel per task and hidden group, one row per method."""
    found = data.probe.dropna(subset=["r2"])
    if found.empty:
        return empty("No run has a memory probe.")
    methods = style.order_methods(found["method"])
    pairs = [(t, g) for t in style.order_tasks(found["task"]) for g in found.loc[found["task"] == t, "group"].unique()]
    left = max(FLOOR, min(0.0, found["r2"].min())) - 0.04
    fig, axes = panels(len(pairs), width=3.7, height=1.1 + 0.32 * max(len(methods), 2))
    for i, (ax, (task, group)) in enumerate(zip(axes, pairs, strict=True)):
        alone = sum(t == task for t, _ in pairs) == 1
        ax.set_title(style.task_label(task) if alone else f"{style.task_label(task)}:\n{group}")
        _panel(ax, found[(found["task"] == task) & (found["group"] == group)], methods, labels=i % columns(axes) == 0)
        ax.set_xlim(left, 1.04)
    keys = [Line2D([], [], color="#555555", marker="o", linestyle="", markerfacecolor=c) for c in ("white", "#555555")]
    fig.legend(keys, list(schema.FEATURES), loc="outside lower center", ncols=2)
    return fig


def _panel(ax: Axes, rows: pd.DataFrame, methods: list[str], labels: bool) -> None:
    for (method, features), runs in rows.groupby(["method", "features"]):
        _dots(ax, methods.index(method), runs.sort_values("seed")["r2"].to_numpy(float), method, features)
    ax.axvline(0, color="#999999", linewidth=0.8, zorder=1)
    method_axis(ax, methods, labels)
    ax.set_xlabel("R² of what is hidden")
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _dots(ax: Axes, row: int, r2: np.ndarray, method: str, features: str) -> None:
    """Without memory in the upper half of the row, with it in the lower half."""
    filled, colour = features == schema.FEATURES[1], style.look(method).colour
    centre, low = row + (0.17 if filled else -0.17), r2 < FLOOR
    y = centre + (np.linspace(-0.08, 0.08, len(r2)) if len(r2) > 1 else np.zeros(1))
    looks = {"facecolor": colour if filled else "white", "edgecolor": colour, "linewidth": 0.9, "zorder": 4}
    ax.scatter(r2[~low], y[~low], s=15, **looks)
    ax.scatter(np.full(low.sum(), FLOOR), y[low], s=20, marker="<", **looks)
    ax.plot([max(np.median(r2), FLOOR)] * 2, [centre - 0.15, centre + 0.15], color=colour, linewidth=2, zorder=3)
