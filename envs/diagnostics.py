"""Small tasks in plain NumPy whose optimum is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class CueRecall(gymnasium.Env):
    """Remember a sign. The fully observed base of the task `CueRecall`, which hides the group `cue`.

    An episode has `delay` + 1 steps, t = 0, ..., delay. The observation at t = 0 shows a fair random sign; the one at
    t = delay asks for it: the reward of the action taken there is +1 if its sign is the cue's and -1 if not (0 is
    wrong), and the episode terminates. All other rewards are 0.

    Groups: `signal` [2] = (cue at t = 0 and 0 later, 1 when asked and 0 before), `time` [1] = t / delay, `cue` [1].
    Action [1], of which only the sign matters. `info["success"]` (bool), was it correct, comes with the last step.

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
        return self._observe(), reward, asked, False, {"success": correct} if asked else {}

    def _observe(self) -> np.ndarray:
        t, cue = self._t, self._cue
        return np.array([cue if t == 0 else 0.0, t == self.delay, t / self.delay, cue], np.float32)


@dataclass(frozen=True)
class LinearSystem:
    """s' = A s + B a + w, o = C s + v, reward -(s^T Q s + a^T R a); s_0 ~ N(0, P), w ~ N(0, W), v ~ N(0, V).

    A policy with gains K and memory z is (a, z') = K (o, previous action, z) + N(0, noise): K has shape [A+Z, O+A+Z],
    or [T, A+Z, O+A+Z] with one matrix per time step.
    """

    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    Q: np.ndarray
    R: np.ndarray
    P: np.ndarray
    W: np.ndarray
    V: np.ndarray

    @classmethod
    def point_mass(cls, dt: float = 0.2) -> LinearSystem:
        """Position and velocity (pushed by the action), of which the position is measured, with noise."""
        return cls(
            A=np.array([[1.0, dt], [0.0, 1.0]]),
            B=np.array([[0.0], [dt]]),
            C=np.array([[1.0, 0.0]]),
            Q=np.diag([1.0, 0.1]),
            R=np.diag([0.1]),
            P=np.eye(2),
            W=0.01 * np.eye(2),
            V=0.04 * np.eye(1),
        )

    def expected_return(
        self, gains: np.ndarray, horizon: int, noise: np.ndarray | None = None, discount: float = 1.0
    ) -> float:
        """J of the policy `gains` (class docstring) over `horizon` steps, exact; `noise`: covariance [A+Z, A+Z].

        Follows the second moment of (s, previous action, z), all of which start with mean 0.
        """
        n, m, o = len(self.A), self.B.shape[1], len(self.C)
        gains = np.broadcast_to(gains, (horizon, *np.shape(gains)[-2:]))
        decisions = gains.shape[1]
        F = _embed(self.A, n + decisions)
        H = np.vstack([np.hstack([self.B, np.zeros((n, decisions - m))]), np.eye(decisions)])
        Y, W, J = _embed(self.P, n + decisions), _embed(self.W, n + decisions), 0.0
        for t, K in enumerate(gains):
            M = np.hstack([K[:, :o] @ self.C, K[:, o:]])
            N = K[:, :o] @ self.V @ K[:, :o].T + (0.0 if noise is None else noise)
            U = M @ Y @ M.T + N
            J -= discount**t * (np.trace(self.Q @ Y[:n, :n]) + np.trace(self.R @ U[:m, :m]))
            Y = (F + H @ M) @ Y @ (F + H @ M).T + H @ N @ H.T + W
        return float(J)

    def optimal_gains(self, horizon: int) -> np.ndarray:
        """The best of all policies for `horizon` steps without discount: [T, A+S, O+A+S], memory of the state's size.

        Kalman filter and linear-quadratic regulator: z predicts s from the past, and the action follows its correction.
        """
        m = self.B.shape[1]
        gains = []
        for L, G in zip(self._regulator(horizon), self._filter(horizon), strict=True):
            correct = np.hstack([G, np.zeros((len(self.A), m)), np.eye(len(self.A)) - G @ self.C])  # s given all o's
            gains.append(np.vstack([-L @ correct, (self.A - self.B @ L) @ correct]))
        return np.stack(gains)

    def _regulator(self, horizon: int) -> list[np.ndarray]:
        """a = -L s for full sight, by the Riccati recursion backwards from a value of zero at the end."""
        S, gains = np.zeros_like(self.A), []
        for _ in range(horizon):
            L = np.linalg.solve(self.R + self.B.T @ S @ self.B, self.B.T @ S @ self.A)
            S = self.Q + self.A.T @ S @ (self.A - self.B @ L)
            gains.append(L)
        return gains[::-1]

    def _filter(self, horizon: int) -> list[np.ndarray]:
        """Kalman gains: corrected s = predicted s + G (o - C predicted s)."""
        P, gains = self.P, []
        for _ in range(horizon):
            G = np.linalg.solve(self.C @ P @ self.C.T + self.V, self.C @ P).T
            P = self.A @ (P - G @ self.C @ P) @ self.A.T + self.W
            gains.append(G)
        return gains


def _embed(block: np.ndarray, size: int) -> np.ndarray:
    """A zero matrix [size, size] with `block` in its upper left corner."""
    return np.pad(block, [(0, size - len(block))] * 2)


class LinearGaussian(gymnasium.Env):
    """A point mass seen with noise. The fully observed base of the task `LinearGaussian`, which hides state and time.

    Groups: `measurement` [1], `system_state` [2] = (position, velocity), `time` [1] = t / horizon. Action [1]; its
    range is a hint for exploration, nothing is clipped. The reward of step t is that of (s_t, a_t); the episode
    terminates after `horizon` steps. `system.expected_return` and `system.optimal_gains` are exact.
    """

    metadata = {"render_modes": []}
    groups = {"measurement": 1, "system_state": 2, "time": 1}

    def __init__(self, horizon: int = 20, render_mode: str | None = None):
        """`horizon`: steps of an episode, at least 1."""
        if not isinstance(horizon, int) or horizon < 1:
            raise ValueError(f"LinearGaussian: horizon={horizon!r} must be an integer of at least 1")
        self.horizon, self.render_mode, self.system = horizon, render_mode, LinearSystem.point_mass()
        low, high = np.array([-np.inf] * 3 + [0.0], np.float32), np.array([np.inf] * 3 + [1.0], np.float32)
        self.observation_space, self.action_space = Box(low, high), Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Draw s_0 and measure it."""
        super().reset(seed=seed)
        self._t, self._s = 0, self._normal(self.system.P)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Action [1] at time t; the observation returned is that of t + 1."""
        system, s, a = self.system, self._s, np.asarray(action, float)
        reward = -float(s @ system.Q @ s + a @ system.R @ a)
        self._s = system.A @ s + system.B @ a + self._normal(system.W)
        self._t += 1
        return self._observe(), reward, self._t == self.horizon, False, {}

    def _normal(self, covariance: np.ndarray) -> np.ndarray:
        return np.linalg.cholesky(covariance) @ self.np_random.standard_normal(len(covariance))

    def _observe(self) -> np.ndarray:
        measurement = self.system.C @ self._s + self._normal(self.system.V)
        return np.concatenate([measurement, self._s, [self._t / self.horizon]]).astype(np.float32)
