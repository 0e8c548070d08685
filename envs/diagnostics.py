"""Small tasks in plain NumPy whose optimum is known in closed form."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class CueRecall(gymnasium.Env):
    """Remember a sign. The fully observed base of the task `CueRecall`, which hides the group `cue`.

    An episode has `delay` + 1 steps, t = 0, ..., delay. The observation at t = 0 shows a fair random sign; the one at
    t = delay asks for it: the reward of the action taken there is +1 if its sign is the cue's and -1 if not (an action of
    0 is wrong), and the episode terminates. All other rewards are 0.

    Groups: `signal` [2] = (cue at t = 0 and 0 later, 1 when asked and 0 before), `time` [1] = t / delay, `cue` [1].
    Action [1], of which only the sign matters. `info["correct"]` (bool) comes with the last step.

    The best expected return is 1, reached with one bit of memory; without memory every policy has 0. The task does not
    show the previous action: with it, a policy without memory could pass the cue on in its own actions.
    """

    metadata = {"render_modes": []}
    groups = {"signal": 2, "time": 1, "cue": 1}

    def __init__(self, delay: int = 3, render_mode: str | None = None):
        """`delay`: steps from the cue to the question, at least 1."""
        if not isinstance(delay, int) or delay < 1:
            raise ValueError(f"CueRecall: delay={delay!r} must be an integer of at least 1")
        self.delay, self.render_mode = delay, render_mode
        low, high = np.array([-1, 0, 0, -1], np.float32), np.ones(4, np.float32)
        self.observation_space, self.action_space = Box(low, high), Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Draw the cue and show it."""
        super().reset(seed=seed)
        self._t, self._cue = 0, float(self.np_random.choice((-1.0, 1.0)))
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Action [1] at time t; the observation returned is that of t + 1 (after the last step: the question again)."""
        asked = self._t == self.delay
        correct = bool(np.sign(action[0]) == self._cue)
        self._t = min(self._t + 1, self.delay)
        reward = (1.0 if correct else -1.0) if asked else 0.0
        return self._observe(), reward, asked, False, {"correct": correct} if asked else {}

    def _observe(self) -> np.ndarray:
        t, cue = self._t, self._cue
        return np.array([cue if t == 0 else 0.0, t == self.delay, t / self.delay, cue], np.float32)
