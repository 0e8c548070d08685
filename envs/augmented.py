"""The theorem as a wrapper: z joins the observation, z' joins the action, and a stateful policy becomes stateless."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict


class AugmentedMDP(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """The augmented MDP of an environment: state (s, z), action (a, z'), next z = z'.

    A stateless policy on it is a stateful policy on `env`, and its policy gradient is S2PG's. So any library that has
    stateless policies has S2PG, by training on `AugmentedMDP(env, memory_size)`.

    Action: Box [A + Z], `env`'s action then z'. z is zero after a reset. z is appended to the observation: to `obs` and
    `state` if it is a dict with these, to the vector itself if it is a Box. Rewards and ends are `env`'s.
    """

    def __init__(self, env: gymnasium.Env, memory_size: int, low: float = -np.inf, high: float = np.inf):
        """`memory_size`: Z >= 0. `low` < 0 < `high`: range of z; z' is clipped to it. ValueError for anything else."""
        gymnasium.utils.RecordConstructorArgs.__init__(self, memory_size=memory_size, low=low, high=high)
        super().__init__(env)
        _check(env, memory_size, low, high)
        self.memory_size, self._low, self._high = memory_size, low, high
        actions: Any = env.action_space
        observations: Any = env.observation_space
        as_dict = isinstance(observations, Dict)
        self._actions = actions.shape[0]
        memory = Box(low, high, (memory_size,))
        self._initial = np.zeros(memory_size, np.float32)
        self.action_space = _join(actions, memory)
        if as_dict:
            self.observation_space = Dict({name: _join(space, memory) for name, space in observations.items()})
        else:
            self.observation_space = _join(observations, memory)

    @property
    def layout(self) -> dict[str, dict[str, slice]]:
        """`env`'s layout with the group `memory` last."""
        layout = self.env.get_wrapper_attr("layout")
        spaces: Any = self.observation_space
        ends = {name: spaces[name].shape[0] for name in layout}
        return {n: {**groups, "memory": slice(ends[n] - self.memory_size, ends[n])} for n, groups in layout.items()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Start an episode with z = 0."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._append(observation, self._initial), info

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict]:
        """Action (a, z') [A + Z]: `env` takes a, and z' is the z of the observation returned."""
        action = np.asarray(action)
        if action.shape != self.action_space.shape:
            raise ValueError(
                f"AugmentedMDP: action shape {action.shape}, expected (A + Z,) = {self.action_space.shape}"
            )
        observation, *rest = self.env.step(action[: self._actions])
        z = np.clip(action[self._actions :], self._low, self._high)
        return self._append(observation, z), *rest

    def _append(self, observation: Any, z: np.ndarray) -> Any:
        if isinstance(observation, Mapping):
            return {name: self._append(part, z) for name, part in observation.items()}
        return np.concatenate([observation, z]).astype(observation.dtype, copy=False)


def _join(first: Box, second: Box) -> Box:
    low, high = (np.concatenate([getattr(first, side), getattr(second, side)]) for side in ("low", "high"))
    return Box(low.astype(first.dtype), high.astype(first.dtype), dtype=first.dtype)


def _check(env: gymnasium.Env, memory_size: int, low: float, high: float) -> None:
    if not isinstance(memory_size, int) or memory_size < 0:
        raise ValueError(f"AugmentedMDP: memory_size={memory_size!r} must be an integer of at least 0")
    if not low < 0 < high:
        raise ValueError(f"AugmentedMDP: low={low}, high={high} must hold 0, the initial memory, between them")
    space = env.observation_space
    parts = list(space.values()) if isinstance(space, Dict) else [space]
    for part in (env.action_space, *parts):
        if not isinstance(part, Box) or len(part.shape) != 1:
            raise ValueError(f"AugmentedMDP: needs flat Box actions and observations (or a Dict of them), not {part}")
