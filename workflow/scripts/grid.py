"""Print the attempted runs of an experiment at a scale, with the experiment file, as JSON.

    python -m workflow.scripts.grid EXPERIMENT SCALE

What is compared is fixed here, from the experiment file, and not by what happens to lie on disk: a run that left
nothing behind is counted as missing.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from s2pg.config import ConfigError, Experiment, load_experiment, resolve


def grid(name: str, scale: str) -> dict[str, Any]:
    """`{"experiment", "scale", "runs": [{"task", "method", "seed"}, ...], "methods", "spec": the experiment file}`."""
    experiment = load_experiment(name)
    runs = [{"task": run.task, "method": run.method, "seed": run.seed} for run in experiment.runs(scale)]
    return {
        "experiment": name,
        "scale": scale,
        "runs": runs,
        "methods": settings(experiment, scale),
        "spec": experiment.spec,
    }


def settings(experiment: Experiment, scale: str) -> dict[str, dict[str, Any]]:
    """Method -> its place on the memory axis, and its hyperparameters as far as all tasks of the scale share them."""
    grid = experiment.scale(scale)
    found = {}
    for method in grid.methods:
        runs = [resolve(experiment.name, task, method, 0, scale).to_dict() for task in grid.tasks]
        (first, *others) = [run["memory"] | run["hparams"] for run in runs]
        found[method] = {key: value for key, value in first.items() if all(o[key] == value for o in others)}
    return found


def main() -> None:
    try:
        print(json.dumps(grid(*sys.argv[1:]), indent=1))
    except ConfigError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
