"""How PPO behaved: divergence, clipping and exploration, per decision group (action, memory)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.figures.common import Tidy, empty, legend, panels, steps_axis

ROWS = {
    "action": {
        "policy/kl/action": "KL (nats)",
        "policy/clip_fraction/joint": "clip fraction\n(joint ratio)",
        "policy/sigma/action": "exploration σ",
        "value/explained_variance": "explained variance\nof the return",
    },
    "memory": {
        "policy/kl/memory": "KL (nats)",
        "policy/clip_fraction/memory": "clip fraction\n(memory alone)",
        "policy/sigma/memory": "memory σ",
    },
}

CAPTION_ACTION = (
    "PPO on the action group: divergence between the policy before and after an update, share of samples whose "
    "ratio was clipped, standard deviation of the action noise, explained variance of the critic. Median over "
    "seeds, failed runs as far as they came. {counts}"
)
CAPTION_MEMORY = (
    "PPO on the memory group, where the next memory is part of the decision: divergence, clipping and noise of "
    "the memory. The clip is spent on the memory too, so these should stay near the action's. Line: median over "
    "seeds; band: lowest to highest seed. {counts}"
)


def action(data: Tidy) -> Figure:
    """Diagnostics of the actions and of the critic, all methods."""
    return _draw(data, "action")


def memory(data: Tidy) -> Figure:
    """Diagnostics of the decided memory: methods whose memory is a decision (S2PG)."""
    return _draw(data, "memory")


def _draw(data: Tidy, group: str) -> Figure:
    tags = ROWS[group]
    rows = data.scalars[data.scalars["tag"].isin(tags) & (data.scalars["method"] != "random")]
    rows = rows[np.isfinite(rows["value"].astype(float))]
    tags = {tag: name for tag, name in tags.items() if (rows["tag"] == tag).any()}
    tasks = [task for task in data.tasks if (rows["task"] == task).any()]
    if rows.empty:
        return empty(f"The runs logged no diagnostics of the {group} group.")
    width = min(max(2.3, 9.5 / len(tasks)), 4.5)
    fig, axes = panels(len(tags) * len(tasks), across=len(tasks), width=width, height=1.55 + 1.2 / len(tags))
    for i, (tag, name) in enumerate(tags.items()):
        for j, task in enumerate(tasks):
            ax = axes[i * len(tasks) + j]
            _panel(ax, rows[(rows["tag"] == tag) & (rows["task"] == task)], band=group == "memory")
            _limits(ax, tag)
            ax.set(title=style.task_label(task).replace(" (", "\n(") if i == 0 else "", ylabel=name if j == 0 else "")
            if i < len(tags) - 1:
                ax.set(xlabel="", xticklabels=[])
    legend(fig, data, rows["method"])
    return fig


def _panel(ax: Axes, rows: pd.DataFrame, band: bool) -> None:
    for method in style.order_methods(rows["method"])[::-1]:
        seeds = rows[rows["method"] == method].groupby("step")["value"]
        middle = seeds.median()
        look = style.look(method)
        dot = look.marker if len(middle) <= 3 else None
        ax.plot(middle.index, middle, color=look.colour, linestyle=look.line, marker=dot, linewidth=1.4)
        if band:
            ax.fill_between(middle.index, seeds.min(), seeds.max(), color=look.colour, alpha=0.15, linewidth=0)
    steps_axis(ax)


def _limits(ax: Axes, tag: str) -> None:
    """From zero, so that small changes look small; explained variance starts far below, and that is not the point."""
    low, high = ax.get_ylim()
    low, high = (max(low, -0.5), max(high, 1.0)) if tag == "value/explained_variance" else (0.0, high)
    ax.set_ylim(low - 0.04 * (high - low), high + 0.06 * (high - low))
