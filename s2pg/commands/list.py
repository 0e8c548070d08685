"""`s2pg list`: what there is to train, without torch."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from s2pg.commands import show
from s2pg.config import Experiment, RunId, list_experiments, list_studies, load_experiment, methods
from s2pg.hyperparameters import MethodConfig
from s2pg.study import Study, load_study

if TYPE_CHECKING:
    from s2pg.training.catalogue import Row


def run(args: Namespace) -> int:
    """Print one table, or a few."""
    names = [args.experiment] if args.experiment else list_experiments()
    experiments = [load_experiment(name) for name in names]
    if args.scale:
        for experiment in experiments:
            experiment.scale(args.scale)
    tables = {"experiments": _experiments, "tasks": _tasks, "methods": _methods, "seeds": _seeds}
    print(tables[args.what](experiments, args))
    return 0


def _scales(experiment: Experiment, args: Namespace) -> list[str]:
    return [args.scale] if args.scale else list(experiment.scales)


def _experiments(experiments: list[Experiment], args: Namespace) -> str:
    studies = [] if args.experiment else [_study(load_study(name), args.scale) for name in list_studies()]
    return "\n\n".join([*(_experiment(e, _scales(e, args)) for e in experiments), *studies])


def _study(study: Study, scale: str | None) -> str:
    cases = study.scale(scale)["cases"] if scale else study.cases
    claims = "\n".join(f"  - {claim['text']}" for claim in study.spec["claims"])
    about = "a study, measured without training: s2pg study; claims:"
    return f"{study.name}: {study.spec['title']}\n{about}\n{claims}\n\ncases: {', '.join(cases)}"


def _experiment(experiment: Experiment, scales: list[str]) -> str:
    grid = []
    for name in scales:
        scale = experiment.scale(name)
        runs, steps = experiment.runs(name), scale.epochs * scale.steps_per_epoch
        learning = sum(methods()[run.method].learns for run in runs)
        counts = (len(scale.tasks), len(scale.methods), scale.seeds, len(runs))
        grid.append([name, *counts, f"{steps:,}", f"{steps * learning:,}"])
    headers = ["scale", "tasks", "methods", "seeds", "runs", "steps per run", "steps in all"]
    claims = "\n".join(f"  - {claim['text']}" for claim in experiment.claims)
    title = f"{experiment.name}: {experiment.title}"
    about = f"{experiment.algorithm}, profile {experiment.profile}; claims:"
    return f"{title}\n{about}\n{claims}\n\n{show.table(grid, headers, ['scale'])}"


def _tasks(experiments: list[Experiment], args: Namespace) -> str:
    from s2pg.training.catalogue import catalogue

    used = {t for e in experiments for name in _scales(e, args) for t in e.scale(name).tasks}
    chosen = [row for row in catalogue() if row.id in used or not (args.experiment or args.scale)]
    rows = [(row.id, _visible(row), _groups(row.hidden), row.horizon or "-") for row in chosen]
    table = show.table(rows, ["task", "visible", "hidden", "horizon"], ["task", "visible", "hidden"])
    return f'{table}\n\nNumbers are sizes. gymnasium.make("envs:<task>-v0")'


def _visible(row: Row) -> str:
    return f"needs the extra {row.missing}" if row.missing else _groups(row.visible)


def _groups(sizes: dict[str, int]) -> str:
    """`positions 5, previous action 3`, several to a line."""
    words = [f"{name} {size}" for name, size in sizes.items()]
    return "\n".join(", ".join(words[i : i + 3]) for i in range(0, len(words), 3))


def _methods(experiments: list[Experiment], args: Namespace) -> str:
    used = {m for e in experiments for name in _scales(e, args) for m in e.scale(name).methods}
    chosen = {name: m for name, m in methods().items() if name in used or not (args.experiment or args.scale)}
    rows = [[name, *_method(method)] for name, method in chosen.items()]
    headers = ["method", "memory", "decides on it", "learning unrolls", "loss on", "policy sees", "critic sees"]
    return show.table(rows, headers, headers)


def _method(method: MethodConfig) -> list[str]:
    if method.kind == "random":
        return ["none; uniformly random actions", *"-----"]
    if method.kind == "expert":
        return ["none; the dataset's episodes", *"-----"]
    cell, *note = method.cell.split("_")
    memory = {"window": f"last {method.context} observations", "recurrent": ", ".join([cell.upper(), *note])}.get(
        method.kind, "none"
    )
    unrolled, loss = "-", "every step"
    if method.kind == "recurrent":
        unrolled = "whole episodes" if method.context is None else f"{method.context} step{'s' * (method.context > 1)}"
        loss = "last step" if method.loss_on == "last" and method.context > 1 else loss
    policy = "everything" if method.sight == "oracle" else "visible groups"
    critic = "visible groups" if method.sight == "blind" else "everything"
    return [memory, "yes" if method.decides else "no", unrolled, loss, policy, critic + ", memory" * method.decides]


def _seeds(experiments: list[Experiment], args: Namespace) -> str:
    if args.experiment and args.scale:
        return _states(experiments[0], args.scale, Path(args.results))
    rows = []
    for experiment in experiments:
        for name in _scales(experiment, args):
            runs = experiment.runs(name)
            states = [_state(Path(args.results), run) for run in runs]
            seeds = _seed_list(sorted({run.seed for run in runs}))
            rows.append([experiment.name, name, seeds, len(runs), *_counts(states)])
    headers = ["experiment", "scale", "seeds", "runs", *STATES]
    return show.table(rows, headers, ["experiment", "scale"])


STATES = ("finished", "failed", "begun", "missing")


def _states(experiment: Experiment, scale: str, results: Path) -> str:
    """Which seeds of each task and method are in which state."""
    rows = []
    for task in experiment.scale(scale).tasks:
        for method in experiment.scale(scale).methods:
            runs = [run for run in experiment.runs(scale) if (run.task, run.method) == (task, method)]
            states = {run.seed: _state(results, run) for run in runs}
            rows.append([task, method, *(_seed_list(s for s in states if states[s] == state) for state in STATES)])
    return show.table(rows, ["task", "method", *STATES], ["task", "method", *STATES])


def _state(results: Path, run: RunId) -> str:
    folder = results / run.folder
    try:
        return json.loads((folder / "done.json").read_text())["status"]
    except (OSError, ValueError, KeyError):
        return "begun" if (folder / "config.yaml").exists() else "missing"


def _counts(states: list[str]) -> list[int]:
    return [states.count(state) for state in STATES]


def _seed_list(seeds: Iterable[int]) -> str:
    """`0-4, 7`."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
