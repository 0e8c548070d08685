"""It learns: S2PG remembers a cue for three steps, which no policy without memory can do better than by chance."""

from __future__ import annotations

import time
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from s2pg.build import build
from s2pg.config import RunConfig, resolve
from s2pg.config import hparams as profile
from s2pg.data.rollout import Collector, Stopwatch
from s2pg.hyperparameters import PPOConfig
from s2pg.training import worlds
from s2pg.training.agent import Agent
from s2pg.training.evaluate import evaluate
from tests.helpers import seeded

SEEDS = range(5)
UPDATES = 60  # of 1024 steps each


def recall(method: str, seed: int) -> RunConfig:
    """What the profile `matched` says of this method and task."""
    config = resolve("ppo_small", "PendulumV", method, seed, "demo")
    hparams = PPOConfig(**profile("ppo", "matched", method, "CueRecall"))
    return replace(
        config, task="CueRecall", task_options={"delay": 3}, hparams=hparams, steps_per_epoch=hparams.rollout
    )


def learn(config: RunConfig) -> Agent:
    """`UPDATES` updates, without the logs and evaluations of the training loop."""
    torch.set_num_threads(1)
    agent, hp = build(config, worlds.spec(config.task, config.task_options)), config.hparams
    envs = worlds.make_vector(config.task, config.task_options, hp.num_envs)
    loop = Collector(envs, agent.policy, agent.critic, agent.sight, agent.normalisers, agent.device)
    loop.reset(config.seed)
    generator = seeded(config.seed)
    for _ in range(UPDATES):
        agent.algorithm.update(loop.collect(hp.rollout // hp.num_envs, generator, Stopwatch()), generator)
    return agent


def correct(agent: Agent, config: RunConfig, mode: str, episodes: int = 1000) -> float:
    """The share of questions answered correctly, in episodes that were not trained on."""
    envs: list[gymnasium.Env] = [worlds.make(config.task, config.task_options) for _ in range(episodes)]
    results = evaluate(agent, envs, range(10**6, 10**6 + episodes), mode, 7)
    return float(np.mean([(episode.ret + 1) / 2 for episode in results]))


@pytest.mark.parametrize("seed", SEEDS)
def test_s2pg_recalls_a_cue_of_three_steps_ago(seed: int) -> None:
    """At least 99 % correct answers, in every seed, in less than a minute on one core."""
    config, began = recall("s2pg", seed), time.process_time()
    agent = learn(config)
    assert time.process_time() - began < 60
    assert correct(agent, config, "mean") >= 0.99


def test_without_memory_answers_stay_at_chance() -> None:
    """The same learner, task and budget: no better than a fair coin by 4 standard errors."""
    config = recall("none", 0)
    agent = learn(config)
    for mode in ("sample", "mean"):
        assert correct(agent, config, mode) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(1000))
