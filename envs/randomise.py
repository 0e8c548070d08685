"""What is drawn anew at the start of every episode, from the environment's seeded generator."""

from __future__ import annotations

from typing import Any

import numpy as np


class Randomisation:
    """One hidden cause per episode. The numbers drawn form the group `group` of the state.

    `View.reset` calls `draw`, then the base task's reset, then `apply`. Changes of the model belong into `draw` (the
    base task's reset then computes with them), forces into `apply` (the base task's reset clears them).
    """

    group: str
    low: np.ndarray
    high: np.ndarray

    @property
    def size(self) -> int:
        """How many numbers are drawn."""
        return len(self.low)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw this episode's numbers [size]; they are shown in the state for the whole episode."""
        raise NotImplementedError

    def apply(self) -> None:
        """Act on the freshly reset simulation. Default: nothing."""

    def reward(self, reward: float, info: dict[str, Any]) -> float:
        """The step's reward, given the base task's. Default: unchanged."""
        return reward


class Wind(Randomisation):
    """A constant force along world x on the torso; the direction in which running is rewarded follows its sign.

    The sign is drawn per episode with equal probability and is the group `wind` (one number, -1 or +1). Source: the
    reference's windy option (reference facts, section 7.2).

    The force acts through the root's translation, i.e. at the origin of the torso's frame. The reference writes
    `xfrc_applied`; current MuJoCo counts that among the external forces (`cfrc_ext`), which Ant and Humanoid observe,
    so that the policy would read off what it has to infer.
    """

    group, low, high = "wind", -np.ones(1), np.ones(1)
    forward_terms = ("forward_reward", "reward_forward", "reward_run", "reward_linvel")

    def __init__(self, env: Any, strength: float):
        """`env`: unwrapped Gymnasium MuJoCo task whose step info has `x_velocity`; `strength`: force in newtons."""
        self._data, self._strength = env.data, strength
        self._root_x = env.model.jnt_dofadr[env.model.body("torso").jntadr[0]]
        self._weight = getattr(env, "_forward_reward_weight", 1.0)  # Ant has none: it counts the velocity itself
        self.sign = 1.0

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A fair coin."""
        self.sign = float(rng.choice((-1.0, 1.0)))
        return np.array([self.sign])

    def apply(self) -> None:
        """Set the force; it stays until the base task resets its simulation."""
        self._data.qfrc_applied[self._root_x] = self.sign * self._strength

    def reward(self, reward: float, info: dict[str, Any]) -> float:
        """Replace w * v by sign * w * v, in the reward and where `info` reports the term."""
        if self.sign > 0:
            return reward
        for term in self.forward_terms:
            if term in info:
                info[term] = -info[term]
        return reward - 2 * self._weight * info["x_velocity"]
