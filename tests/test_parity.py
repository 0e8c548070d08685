"""Stateless SAC and TD3 against Stable-Baselines3's, an independent implementation: the same task, networks and values.

Pendulum-v1, fully observed (ours through the sight `oracle`), two layers of 64 drawn as torch draws them.
What differs: TD3's policy loss (ours the mean of both critics, theirs the first) and its targets (ours follow at every
step, theirs at every second one). Until it learns, Stable-Baselines3 acts at random; ours with its untrained policy,
TD3's here with noise over the whole range.

TD3's setting (8000 steps, weights drawn alike, wide noise at first) was chosen on the seeds 0 to 3, after runs of 5000
steps had failed the rule below there with the lower mean for ours; the seeds of the test had no part in that choice. So
it shows that ours gets to the same return, not as soon.

Stable-Baselines3 is no pinned dependency, since it asks for an older Gymnasium; without it these tests are skipped:
`pip install --no-deps stable-baselines3==2.7.1`, then `pytest tests/test_parity.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from scipy import stats

from s2pg.build import build
from s2pg.config import RunConfig
from s2pg.data.rollout import Stopwatch
from s2pg.training import worlds
from s2pg.training.agent import Agent
from s2pg.training.evaluate import evaluate
from tests.helpers import collector, seeded
from tests.offpolicy import small

SEEDS, EPISODES, WIDTHS = range(10, 14), range(100, 120), [64, 64]
STEPS = {"sac": 5000, "td3": 8000}
SHARED: dict[str, Any] = {"gamma": 0.98, "tau": 0.01, "batch": 64, "warmup": 200, "replay": 8000}
OURS: dict[str, dict[str, Any]] = {
    "sac": {
        "warmup_policy": 200,
        "temperature": 1.0,
        "lr_temperature": 1e-3,
        "target_entropy": -1.0,
        "sigma_action": 1.0,
    },
    "td3": {"delay": 2, "sigma_action": 0.1, "smoothing_action": 0.2, "smoothing_action_clip": 0.5},
}


def config(algorithm: str, seed: int) -> RunConfig:
    network = {"policy_head": tuple(WIDTHS), "value_head": tuple(WIDTHS), "previous_action": False}
    run = {"rollout": 1, "num_envs": 1, "lr_policy": 1e-3, "lr_value": 1e-3, "value_previous_action": False}
    values = SHARED | OURS[algorithm] | network | run
    return replace(small(algorithm, "oracle", options={}, **values), seed=seed)


def redraw(agent: Agent, seed: int) -> None:
    """Weights as torch draws them, in place of Xavier's."""
    torch.manual_seed(seed)
    for module in (*agent.policy.modules(), *agent.critic.modules()):
        if isinstance(module, torch.nn.Linear):
            module.reset_parameters()
    for target in agent.algorithm.targets.values():
        target.module.load_state_dict(target.source.state_dict())


def ours(algorithm: str, seed: int) -> float:
    """Mean return of the mean action after training."""
    run = config(algorithm, seed)
    agent = build(run, worlds.spec(run.task, run.task_options))
    redraw(agent, seed)
    loop, generator, watch = collector(agent, run, seed), seeded(seed), Stopwatch()
    quiet, wide = agent.policy.log_sigma.data.clone(), agent.policy.log_sigma.data.clamp(min=math.log(2.0))
    for step in range(STEPS[algorithm]):
        if algorithm == "td3":
            agent.policy.log_sigma.data = wide if step < SHARED["warmup"] else quiet
        agent.algorithm.update(loop.collect(1, generator, watch), generator)
    envs = [worlds.make(run.task, run.task_options) for _ in EPISODES]
    return float(np.mean([episode.ret for episode in evaluate(agent, envs, list(EPISODES), "mean", 0)]))


def theirs(algorithm: str, seed: int) -> float:
    """The same of Stable-Baselines3."""
    from stable_baselines3 import SAC, TD3
    from stable_baselines3.common.noise import NormalActionNoise

    shared: dict[str, Any] = {
        "learning_rate": 1e-3,
        "gamma": SHARED["gamma"],
        "tau": SHARED["tau"],
        "batch_size": SHARED["batch"],
        "learning_starts": SHARED["warmup"],
        "buffer_size": SHARED["replay"],
        "train_freq": 1,
        "gradient_steps": 1,
        "policy_kwargs": {"net_arch": WIDTHS},
        "seed": seed,
        "device": "cpu",
    }
    env = gymnasium.make("Pendulum-v1")
    if algorithm == "sac":
        model = SAC("MlpPolicy", env, ent_coef="auto_1.0", target_entropy=-1.0, **shared)
    else:
        noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
        model = TD3("MlpPolicy", env, policy_delay=2, action_noise=noise, **shared)
    model.learn(STEPS[algorithm])
    return returns(lambda obs: model.predict(obs, deterministic=True)[0])


def returns(act: Any) -> float:
    """Mean return on the episodes that ours is evaluated on."""
    env, total = gymnasium.make("Pendulum-v1"), 0.0
    for seed in EPISODES:
        obs, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            obs, reward, terminated, truncated, _ = env.step(act(obs))
            total, ended = total + float(reward), terminated or truncated
    return total / len(EPISODES)


def interval(values: list[float]) -> tuple[float, float]:
    """Of the mean over seeds, 95 %, by Student's t."""
    reach = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - reach), float(np.mean(values) + reach)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_returns_agree_with_stable_baselines(algorithm: str) -> None:
    """The intervals of both means over seeds overlap, means are near, and every seed of both is far above random.

    A policy that has learned returns about -150 here, a random one about -1200.
    """
    pytest.importorskip("stable_baselines3")
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    floor = returns(lambda obs: random.uniform(-2, 2, 1))
    one, two = ([train(algorithm, seed) for seed in SEEDS] for train in (ours, theirs))
    print(f"{algorithm}: random {floor:.0f}, ours {np.round(one)}, theirs {np.round(two)}")
    (low, high), (other_low, other_high) = interval(one), interval(two)
    assert low <= other_high
    assert other_low <= high
    assert abs(np.mean(one) - np.mean(two)) < 0.1 * abs(floor)
    assert min(*one, *two) > 0.5 * floor
