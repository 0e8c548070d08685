"""How the learner behaved: what the algorithms log about the action, the memory and, in imitation, the expert."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import setting, style
from analysis.figures.common import Tidy, empty, legend, panels, steps_axis

SATURATED = {"memory/saturated": "share of units\nbeyond ±0.95"}
BIAS = {"value/bias": "critic's bias"}
CRITIC = {"value/mean": "Q of the batch", **BIAS, "loss/value": "critic loss"}
PPO = {
    "action": {
        "policy/kl/action": "KL (nats)",
        "policy/clip_fraction/joint": "clip fraction\n(joint ratio)",
        "policy/sigma/action": "exploration σ",
        "value/explained_variance": "explained variance\nof the return",
        **BIAS,
    },
    "memory": {
        "policy/kl/memory": "KL (nats)",
        "policy/clip_fraction/memory": "clip fraction\n(memory alone)",
        "policy/sigma/memory": "memory σ",
        **SATURATED,
    },
    "imitation": {},
}
SAC = {
    "action": {
        **CRITIC,
        "policy/entropy/action": "action entropy\n(nats)",
        "policy/temperature/action": "temperature",
    },
    "memory": {
        "policy/entropy/memory": "memory entropy\n(nats)",
        "policy/temperature/memory": "temperature",
        **SATURATED,
    },
    "imitation": {},
}
DISTANCE = {"eval/state_distance/mean": "distance to the\nexpert's states"}
ROWS: dict[str, dict[str, dict[str, str]]] = {
    "ppo": PPO,
    "sac": SAC,
    "td3": {"action": {**CRITIC, "loss/policy": "policy loss\n(mean of −Q)"}, "memory": SATURATED, "imitation": {}},
    "gail": PPO
    | {
        "imitation": {
            "discriminator/accuracy/policy": "accuracy on\nthe policy",
            "discriminator/accuracy/expert": "accuracy on\nthe expert",
            "discriminator/logit_gap": "gap of logits",
            "imitation/reward": "learned reward",
            **DISTANCE,
        }
    },
    "lsiq": SAC
    | {
        "imitation": {
            "value/policy": "Q of the policy",
            "value/expert": "Q of the expert",
            "reward/policy": "implied reward\nof the policy",
            "reward/expert": "implied reward\nof the expert",
            "value/clipped": "share of targets\nclipped",
            **DISTANCE,
        }
    },
    "bc": PPO | {"imitation": {"likelihood/expert": "log-likelihood of\nthe expert's actions", **DISTANCE}},
}
"""Algorithm -> group -> scalar -> name."""

DEAD = (
    "Units of a bounded memory near ±1 (with its noise, where it is decided on) hardly depend on what was seen: "
    "a memory of nothing else is dead."
)
EXPECTED = (
    "The critic's bias is what it expects of evaluation episodes (mode `sample`) in their first step, minus their "
    "discounted returns: above 0, it promises what does not come."
)
ON_PPO = {
    "action": "PPO on the action group: divergence between the policy before and after an update, share of samples "
    f"whose ratio was clipped, standard deviation of the action noise, explained variance of the critic. {EXPECTED}",
    "memory": "PPO on the memory group, where the next memory is part of the decision: divergence, clipping and "
    f"noise of the memory. The clip is spent on the memory too, so these should stay near the action's. {DEAD}",
}
ON_SAC = {
    "action": "SAC: mean value and loss of the critics on replayed steps, entropy of the actions, and the "
    f"temperature that holds it at its target. {EXPECTED} (SAC's values hold the entropies to come, times the "
    "temperature.)",
    "memory": "SAC on the memory group, where the next memory is part of the decision: entropy of the next memory, "
    f"all units together, and the temperature that holds it at its target. {DEAD}",
}
NOTHING = "The algorithm learns from rewards; there is no expert."
FAR = (
    "Below, the energy distance between the states of evaluation episodes and those of the expert, 0 if they are alike."
)
SHOWN = {
    "ppo": ON_PPO,
    "sac": ON_SAC,
    "td3": {
        "action": f"TD3: mean value and loss of the critics on replayed steps, and loss of the policy. {EXPECTED}",
        "memory": f"TD3's noise is fixed. {DEAD}",
    },
    "gail": ON_PPO
    | {
        "imitation": "The discriminator: share of steps that it takes for whose they are, and how far apart it puts "
        f"them, before each of its gradient steps; the reward that it makes for the policy. {FAR}"
    },
    "lsiq": ON_SAC
    | {
        "imitation": "The critic's values of the policy's steps and of the expert's, the rewards that they imply (Q of "
        f"a step minus the discounted value of what follows), and the share of targets cut off at the bounds. {FAR}"
    },
    "bc": ON_PPO | {"imitation": f"How likely the policy makes the expert's actions. {FAR}"},
}
LINES = {
    "action": "Median over seeds, failed runs as far as they came. {counts}",
    "memory": "Line: median over seeds; band: lowest to highest seed. {counts}",
    "imitation": "Median over seeds, failed runs as far as they came. {counts}",
}


def caption(group: str) -> Callable[[Tidy], str]:
    """What is shown of a group, by algorithm."""
    return lambda data: f"{SHOWN[setting.algorithm(data.grid)].get(group, NOTHING)} {LINES[group]}"


def logged(group: str) -> Callable[[Tidy], bool]:
    """Whether anything was logged about a group."""
    return lambda data: bool(data.scalars["tag"].isin(ROWS[setting.algorithm(data.grid)][group]).any())


def action(data: Tidy) -> Figure:
    """Diagnostics of the actions and of the critic, all methods."""
    return _draw(data, "action")


def memory(data: Tidy) -> Figure:
    """Diagnostics of the memory: of a decided one (S2PG), and how far it, or a recurrent one, is saturated."""
    return _draw(data, "memory")


def imitation(data: Tidy) -> Figure:
    """Diagnostics of imitation: how the expert's steps are told from the policy's."""
    return _draw(data, "imitation")


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
    elif tag == "value/bias":
        low, high = min(low, 0.0), max(high, 0.0)
    elif ax.dataLim.y0 >= 0:
        low = 0.0
    ax.set_ylim(low - 0.04 * (high - low), high + 0.06 * (high - low))
