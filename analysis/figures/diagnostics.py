"""How the learner behaved, per decision group (action, memory): what PPO, SAC or TD3 logs about it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import setting, style
from analysis.figures.common import Tidy, empty, legend, panels, steps_axis

CRITIC = {"value/mean": "Q of the batch", "loss/value": "critic loss"}
ROWS = {
    "ppo": {
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
    },
    "sac": {
        "action": {
            **CRITIC,
            "policy/entropy/action": "action entropy\n(nats)",
            "policy/temperature/action": "temperature",
        },
        "memory": {
            "policy/entropy/memory": "memory entropy\n(nats)",
            "policy/temperature/memory": "temperature",
        },
    },
    "td3": {"action": {**CRITIC, "loss/policy": "policy loss\n(mean of −Q)"}, "memory": {}},
}
"""Algorithm -> group -> scalar -> name."""

SHOWN = {
    "ppo": {
        "action": "PPO on the action group: divergence between the policy before and after an update, share of samples "
        "whose ratio was clipped, standard deviation of the action noise, explained variance of the critic.",
        "memory": "PPO on the memory group, where the next memory is part of the decision: divergence, clipping and "
        "noise of the memory. The clip is spent on the memory too, so these should stay near the action's.",
    },
    "sac": {
        "action": "SAC: mean value and loss of the critics on replayed steps, entropy of the actions, and the "
        "temperature that holds it at its target.",
        "memory": "SAC on the memory group, where the next memory is part of the decision: entropy of the next memory, "
        "all units together, and the temperature that holds it at its target.",
    },
    "td3": {
        "action": "TD3: mean value and loss of the critics on replayed steps, and loss of the policy.",
        "memory": "TD3 logs nothing of the memory alone: its noise is fixed.",
    },
}
LINES = {
    "action": "Median over seeds, failed runs as far as they came. {counts}",
    "memory": "Line: median over seeds; band: lowest to highest seed. {counts}",
}


def caption_action(data: Tidy) -> str:
    """What is shown of the action group, by algorithm."""
    return f"{SHOWN[setting.algorithm(data.grid)]['action']} {LINES['action']}"


def caption_memory(data: Tidy) -> str:
    """What is shown of the memory group, by algorithm."""
    return f"{SHOWN[setting.algorithm(data.grid)]['memory']} {LINES['memory']}"


def decided(data: Tidy) -> bool:
    """Whether anything was logged about a decided memory."""
    return bool(data.scalars["tag"].isin(ROWS[setting.algorithm(data.grid)]["memory"]).any())


def action(data: Tidy) -> Figure:
    """Diagnostics of the actions and of the critic, all methods."""
    return _draw(data, "action")


def memory(data: Tidy) -> Figure:
    """Diagnostics of the decided memory: methods whose memory is a decision (S2PG)."""
    return _draw(data, "memory")


def _draw(data: Tidy, group: str) -> Figure:
    tags = ROWS[setting.algorithm(data.grid)][group]
    rows = data.scalars[data.scalars["tag"].isin(tags) & ~data.scalars["method"].isin(setting.UNTRAINED)]
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
    """From zero where nothing is below, so that small changes look small; explained variance starts far below, and that
    is not the point."""
    low, high = ax.get_ylim()
    if tag == "value/explained_variance":
        low, high = max(low, -0.5), max(high, 1.0)
    elif ax.dataLim.y0 >= 0:
        low = 0.0
    ax.set_ylim(low - 0.04 * (high - low), high + 0.06 * (high - low))
