"""What the tests of imitation share: experts made by hand, and agents that imitate them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from s2pg.data.dataset import Dataset
from s2pg.training import worlds
from s2pg.training.record import Recorder, joined

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


def demonstrated(
    task: str, options: dict[str, Any], controller: Controller, episodes: int, seed: int = 0
) -> tuple[Dataset, float]:
    """Episodes of a controller that sees the state, and their mean return."""
    env = Recorder(worlds.make(task, options))
    for episode in range(episodes):
        obs, ended = env.reset(seed=seed + episode)[0], False
        while not ended:
            obs, _, terminated, truncated, _ = env.step(controller(obs["state"]).astype(np.float32))
            ended = terminated or truncated
    dataset = joined(env.episodes)
    return dataset, float(dataset.returns.mean())
