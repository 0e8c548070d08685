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

NOT_TRAINED = ("experiment", "scale", "task", "method", "seed", "device")  # which run it is, and where


def grid(name: str, scale: str) -> dict[str, Any]:
    """The attempted runs with what they must have been trained with.

    `{"experiment", "scale", "runs": [{"task", "method", "seed"}, ...], "methods": settings that all tasks share,
    "configs": task -> method -> its configuration, "spec": the experiment file}`.
    """
    experiment = load_experiment(name)
    runs = [{"task": run.task, "method": run.method, "seed": run.seed} for run in experiment.runs(scale)]
    configs = configurations(experiment, scale)
    return {
        "experiment": name,
        "scale": scale,
        "runs": runs,
        "methods": {
            method: shared([configs[task][method] for task in configs]) for method in experiment.scale(scale).methods
        },
        "configs": configs,
        "spec": experiment.spec,
    }


def configurations(experiment: Experiment, scale: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Task -> method -> what a run of any seed is trained with."""

    def one(task: str, method: str) -> dict[str, Any]:
        content = resolve(experiment.name, task, method, 0, scale).to_dict()
        return {key: value for key, value in content.items() if key not in NOT_TRAINED}

    grid = experiment.scale(scale)
    return {task: {method: one(task, method) for method in grid.methods} for task in grid.tasks}


def shared(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A method's place on the memory axis, and its hyperparameters as far as the runs agree."""
    start, *others = [run["memory"] | run["hparams"] for run in runs]
    return {key: value for key, value in start.items() if all(other[key] == value for other in others)}


def main() -> None:
    try:
        print(json.dumps(grid(*sys.argv[1:]), indent=1))
    except ConfigError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
