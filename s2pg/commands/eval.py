"""`s2pg eval`: a trained policy on episodes that training never used."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
import torch

from s2pg.commands import show
from s2pg.commands.runs import Opened, open_run
from s2pg.training import worlds
from s2pg.training.evaluate import Episode, discount, evaluate, success_rate
from s2pg.training.loop import MODES
from s2pg.training.worlds import derive
from s2pg.types import Mode

TOGETHER = 10  # episodes side by side


def run(args: Namespace) -> int:
    """Evaluate and print a table or JSON."""
    torch.set_num_threads(1)
    run = open_run(args.run)
    modes = MODES if args.mode == "both" else (args.mode,)
    found = {mode: summary(episodes(run, args.episodes, mode, args.seed)) for mode in modes}
    if args.json:
        about = {"run": str(args.run), **run.config.id._asdict(), "steps": run.steps, "evaluation_seed": args.seed}
        print(json.dumps({**about, "modes": found}, indent=2))
        return 0
    print(f"{run}; {args.episodes} fresh episodes per mode (seed {args.seed})\n")
    absent = {key for key in ("success", "bias") if found[modes[0]][key] is None}
    shown = {key: name for key, name in COLUMNS.items() if key not in absent}
    rows = [[mode, *(_cell(found[mode][key]) for key in shown)] for mode in modes]
    print(show.table(rows, ["mode", *shown.values()], ["mode"]))
    print("\nThe interval (bootstrap over episodes) is about this one policy; other seeds train other policies.")
    if "bias" in shown:
        print("The critic's bias is what it expects of an episode in its first step, minus the discounted return.")
    return 0


COLUMNS = {
    "mean": "mean return",
    "interval": "95 % interval",
    "std": "std",
    "min": "min",
    "max": "max",
    "length": "mean length",
    "success": "success rate",  # only of tasks that say what success is
    "bias": "critic's bias",  # only where the critic values the task's rewards
}


def episodes(run: Opened, number: int, mode: Mode, seed: int) -> list[Episode]:
    """`number` episodes, the same initial states for every method and mode; a few environments at a time."""
    seeds = [derive(seed, "fresh evaluation", i) for i in range(number)]
    envs = [worlds.make(run.config.task, run.config.task_options) for _ in range(min(number, TOGETHER))]
    result: list[Episode] = []
    for first in range(0, number, TOGETHER):
        chosen = seeds[first : first + TOGETHER]
        noise = derive(seed, "fresh evaluation noise", first)
        result += evaluate(run.agent, envs[: len(chosen)], chosen, mode, noise, gamma=discount(run.config))
    for env in envs:
        env.close()
    return result


def summary(found: list[Episode]) -> dict:
    """Statistics of the returns, and the returns themselves."""
    returns = np.array([episode.ret for episode in found])
    return {
        "episodes": len(found),
        "mean": returns.mean(),
        "interval": interval(returns),
        "std": returns.std(ddof=1) if len(found) > 1 else None,
        "min": returns.min(),
        "max": returns.max(),
        "length": float(np.mean([episode.length for episode in found])),
        "success": success_rate(found),
        "bias": None if found[0].bias is None else float(np.mean([episode.bias for episode in found])),
        "returns": returns.tolist(),
        "seeds": [episode.seed for episode in found],
    }


def interval(values: np.ndarray, draws: int = 10_000) -> list[float] | None:
    """Percentile bootstrap interval of the mean, 95 %; None for fewer than two values."""
    if len(values) < 2:
        return None
    chosen = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    return np.quantile(values[chosen].mean(1), [0.025, 0.975]).tolist()


def _cell(value: float | list[float] | None) -> str:
    if isinstance(value, list):
        return f"[{value[0]:.2f}, {value[1]:.2f}]"
    return "-" if value is None else f"{value:.2f}"
