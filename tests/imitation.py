"""What the tests of imitation share: experts made by hand, and agents that imitate them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2pg.data.replay import Replay
from s2pg.data.rollout import Rollout
from s2pg.training import worlds

Controller = Callable[[np.ndarray], np.ndarray]
GAINS = np.array([0.5, 6.0, 0.7, 1.0])  # of cart, pole and their velocities


def balance(state: np.ndarray) -> np.ndarray:
    """Keeps the pole of InvertedPendulum upright, from all four numbers of its state."""
    return np.clip(state[:4] @ GAINS, -3, 3, dtype=np.float32)[None]


def restless(controller: Controller, sigma: float) -> Controller:
    """The controller with Gaussian noise on its action, within InvertedPendulum's range."""
    noise = np.random.default_rng(0)

    def act(state: np.ndarray) -> np.ndarray:
        return np.clip(controller(state) + sigma * noise.standard_normal(1), -3, 3).astype(np.float32)

    return act


def step(obs: dict, action: np.ndarray, following: dict, start: bool, terminated: bool, ended: bool) -> Rollout:
    """One step of one stream, without a memory."""

    def tensor(x: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.as_tensor(x, dtype=dtype)[None, None]

    flags = (tensor(x, torch.bool) for x in (start, terminated, ended))
    before, then = ({key: tensor(value) for key, value in one.items()} for one in (obs, following))
    start, terminated, ended = flags
    none, u = torch.zeros(1, 1, 0), tensor(action)
    return Rollout(before, then, start, none, none, none, none, u, u, torch.zeros(1, 1), terminated, ended)


def demonstrated(
    task: str, options: dict[str, Any], controller: Controller, episodes: int, seed: int = 0
) -> tuple[Replay, float]:
    """Episodes of a controller that sees the state, and their mean return."""
    env, spec, total, steps = worlds.make(task, options), worlds.spec(task, options), 0.0, []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        ended, start = False, True
        while not ended:
            action = controller(obs["state"])
            following, reward, terminated, truncated, _ = env.step(action)
            ended, total = terminated or truncated, total + float(reward)
            steps.append(step(obs, action, following, start, terminated, ended))
            obs, start = following, False
    replay = Replay(len(steps) + episodes + 1, 1, {k: w.total for k, w in spec.widths.items()}, 0, spec.actions)
    for one in steps:
        replay.add(one)
    return replay, total / episodes
