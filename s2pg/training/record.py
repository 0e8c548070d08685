"""Recording the episodes of a policy as the dataset that imitation learns from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from s2pg.data.dataset import Dataset, card_path, checksum, packed
from s2pg.training import checkpoint
from s2pg.training.agent import Agent
from s2pg.training.evaluate import Episode, evaluate
from s2pg.types import Mode

Step = tuple[np.ndarray, np.ndarray, float, np.ndarray, bool, bool]  # in the order of a dataset's arrays


class Recorder(gymnasium.Wrapper):
    """Keeps the steps of finished episodes, as a dataset has them."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self._env_part = slice(0, env.unwrapped.layout["state"]["previous_action"].start)
        self.episodes: list[list[Step]] = []

    def reset(self, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin an episode; one that has not ended is dropped."""
        observation, info = self.env.reset(**kwargs)
        self._state, self._steps = observation["state"][self._env_part].copy(), []
        return observation, info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One step; when it ends the episode, the episode is kept."""
        action = np.array(action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        state, following = self._state, observation["state"][self._env_part].copy()
        self._state, done = following, bool(terminated or truncated)
        self._steps.append((state, action, float(reward), following, bool(terminated), done))
        if done:
            self.episodes.append(self._steps)
        return observation, reward, terminated, truncated, info


def record(agent: Agent, envs: Sequence[gymnasium.Env], seeds: Sequence[int], mode: Mode, noise_seed: int) -> Dataset:
    """One episode of a policy per seed, in their order; as many at a time as there are environments."""
    recorders = [Recorder(env) for env in envs]
    episodes: list[list[Step]] = []
    for first in range(0, len(seeds), len(envs)):
        chosen = seeds[first : first + len(envs)]
        evaluate(agent, recorders[: len(chosen)], chosen, mode, noise_seed + first)
        episodes += [recorder.episodes.pop() for recorder in recorders[: len(chosen)]]
    return joined(episodes)


def joined(episodes: Sequence[Sequence[Step]]) -> Dataset:
    """Episodes one after the other."""
    columns = zip(*(step for episode in episodes for step in episode), strict=True)
    states, actions, rewards, next_states, absorbing, last = map(np.array, columns)
    return Dataset(states, actions, rewards, next_states, absorbing, last)


def save(dataset: Dataset, path: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """Write the file and then its card, each whole or not at all; returns the card, which gets the checksum.

    An interruption between the two leaves a file that `load` refuses. Raises RunError where it cannot be written.
    """
    content = packed(dataset)
    complete = {**card, "checksum": checksum(content)}
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(path, lambda partial: partial.write_bytes(content))
    checkpoint.write_json(card_path(path), complete)
    return complete


def recorded(dataset: Dataset) -> list[Episode]:
    """The episodes of a dataset as an evaluation counts them; the seed of one whose card does not tell it is -1."""
    count = int(dataset.last.sum())
    seeds = (dataset.card.get("seeds") or [-1] * count)[:count]
    columns = zip(dataset.returns, dataset.lengths, seeds, dataset.terminated, strict=True)
    return [Episode(float(r), int(n), int(seed), terminated=bool(end)) for r, n, seed, end in columns]
