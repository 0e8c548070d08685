"""Every experiment file trains: each of its methods, through the configuration that a run of it would have."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.load import read_scalars
from s2pg.build import build
from s2pg.config import RunConfig, list_experiments, load_experiment, resolve
from s2pg.timing.lanes import noise
from s2pg.training import worlds
from s2pg.training.record import save
from tests.helpers import train_here

TINY = {
    "device": "cpu",
    "epochs": 1,
    "steps_per_epoch": 64,
    "eval_episodes": 1,
    "task_options": {"max_episode_steps": 24},
}
ON_POLICY, OFF_POLICY = {"rollout": 64, "passes": 1}, {"replay": 64, "num_envs": 1, "rollout": 1}
SHORT = {
    "ppo": ON_POLICY,
    "gail": ON_POLICY | {"discriminator_batch": 64},
    "bc": ON_POLICY,
    "sac": OFF_POLICY,
    "td3": OFF_POLICY,
    "lsiq": OFF_POLICY,
}

GRID = [(name, method) for name in list_experiments() for method in load_experiment(name).methods]
TASKS = sorted({(name, task) for name in list_experiments() for task in load_experiment(name).tasks})


def expert(config: RunConfig, path: Path) -> Path | None:
    """A dataset of random numbers as wide as the run's task, if the run imitates."""
    if config.expert_episodes:
        save(noise(worlds.spec(config.task, config.task_options), config.expert_episodes, 24), path, {})
        return path
    return None


@pytest.mark.parametrize(("experiment", "method"), GRID, ids=map("-".join, GRID))
def test_every_method_of_every_experiment_trains(experiment: str, method: str, tmp_path: Path) -> None:
    """At smoke scale with its own networks, from the file to episodes and scalars."""
    task = load_experiment(experiment).scale("smoke").tasks[0]
    algorithm = load_experiment(experiment).algorithm
    config = resolve(experiment, task, method, 0, "smoke", {**TINY, "hparams": SHORT[algorithm]})
    dataset = expert(config, tmp_path / "expert.npz")
    assert train_here(config, tmp_path / "run", dataset)["status"] == "finished"
    tmp_path = tmp_path / "run"
    assert RunConfig.load(tmp_path / "config.yaml") == config
    learns = method not in ("random", "expert")
    steps = [0, 64] if learns else [0]
    assert pd.read_parquet(tmp_path / "episodes.parquet").step.unique().tolist() == steps
    tags = set(read_scalars(tmp_path).tag)
    assert ("loss/policy" in tags) == learns
    bounded = config.memory.kind == "recurrent" and config.memory.cell in ("gru", "gru_cleared", "rnn")
    assert ("memory/saturated" in tags) == (bounded and algorithm != "bc")
    assert ("value/bias" in tags) == (learns and algorithm in ("ppo", "sac", "td3")), "of the task's rewards alone"
    if algorithm in ("ppo", "gail", "bc"):
        assert ("policy/kl/memory" in tags) == config.memory.decides
    if algorithm in ("sac", "lsiq"):
        assert ("policy/entropy/memory" in tags) == config.memory.decides


@pytest.mark.parametrize(("experiment", "task"), TASKS, ids=map("-".join, TASKS))
def test_every_task_of_every_experiment_has_agents_that_fit(experiment: str, task: str) -> None:
    """Networks of all methods have the widths of the task's observations and actions, at the scale that names it."""
    spec = load_experiment(experiment)
    scale = next(name for name, grid in spec.scales.items() if task in grid.tasks)
    for method in spec.methods:
        config = resolve(experiment, task, method, 0, scale)
        world = worlds.spec(task, config.task_options)
        agent = build(config, world, noise(world, 2, 30) if config.expert_episodes else None)
        if method == "expert":
            assert agent.policy is None
            continue
        assert agent.policy.actions == world.actions
        width = agent.normalisers[agent.sight[0]].width
        assert width.env == world.widths[agent.sight[0]].env
        assert width.previous_action == config.hparams.previous_action * world.actions or method == "random"
        assert agent.policy.memory.decided == config.memory.decides * config.hparams.memory_size
