"""Collecting on-policy experience, with the memories of every step."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from time import perf_counter
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from s2pg.data.normaliser import Normaliser
from s2pg.types import View


@dataclass
class Rollout:
    """T steps of N environments; observations are normalised with the statistics that acted."""

    obs: dict[str, Tensor]  # [T, N, O] by key ("obs", "state")
    next_obs: dict[str, Tensor]  # [T, N, O], the true successor also where an episode ends
    start: Tensor  # [T, N] bool, first step of an episode
    z: Tensor  # [T, N, Z] the policy's memory before the step
    z_next: Tensor  # [T, N, Z] and after it
    critic_z: Tensor  # [T, N, Zc] the critic's own memory before the step
    critic_z_next: Tensor  # [T, N, Zc] and after it
    u: Tensor  # [T, N, D] decision
    mean: Tensor  # [T, N, D] its mean
    reward: Tensor  # [T, N]
    terminated: Tensor  # [T, N] bool: no bootstrap
    done: Tensor  # [T, N] bool: terminated or truncated

    @classmethod
    def stack(cls, steps: list[Rollout]) -> Rollout:
        """T steps of shape `[N, ...]` as one record."""
        columns = {part.name: [getattr(step, part.name) for step in steps] for part in fields(cls)}
        return cls(**{name: _stack(column) for name, column in columns.items()})


def _stack(column: list) -> Any:
    if isinstance(column[0], dict):
        return {key: torch.stack([value[key] for value in column]) for key in column[0]}
    return torch.stack(column)


@dataclass
class Stopwatch:
    """Seconds spent per activity."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=perf_counter)

    def lap(self, activity: str) -> None:
        """Book the time since the last call under `activity`."""
        now = perf_counter()
        self.seconds[activity] = self.seconds.get(activity, 0.0) + now - self._last
        self._last = now

    def start(self) -> None:
        """Begin a lap without booking what went before."""
        self._last = perf_counter()


class Collector:
    """Acts in N environments and carries what outlives a rollout: observation, memories, episode returns.

    The loop of the suite: `u, z' = policy(o, z)`; step with the action part of u; store; `z = 0` where an episode
    ended. A critic with a memory of its own has it carried alongside.

    Args:
        envs: vector environment with SAME_STEP autoreset and `Dict(obs, state)` observations.
        policy: reads observation `sight[0]`.
        critic: reads observation `sight[1]`.
        normalisers: one per observation key that a network reads.
    """

    def __init__(
        self,
        envs: gymnasium.vector.VectorEnv,
        policy: Any,
        critic: Any,
        sight: tuple[str, str],
        normalisers: dict[str, Normaliser],
        device: torch.device,
    ) -> None:
        self.envs, self.policy, self.critic, self.sight = envs, policy, critic, sight
        self.normalisers, self.device = normalisers, device
        self.finished: list[tuple[float, int]] = []  # (return, length) of episodes since the list was last emptied

    def reset(self, seed: int) -> None:
        """Begin new episodes in every environment, from seeds derived from `seed`."""
        n = self.envs.num_envs
        seeds = np.random.SeedSequence(seed).generate_state(n)
        self.raw, _ = self.envs.reset(seed=[int(s) for s in seeds])
        self.start = torch.ones(n, dtype=torch.bool, device=self.device)
        self.z, self.critic_z = self.policy.memory.initial(n), self.critic.memory.initial(n)
        self._returns, self._lengths = np.zeros(n), np.zeros(n, dtype=int)

    def collect(self, steps: int, generator: torch.Generator, watch: Stopwatch) -> Rollout:
        """`steps` steps per environment; the observation statistics move only after the last one."""
        watch.start()
        with torch.inference_mode():
            self.obs = self._observe(self.raw)
            seen, taken = zip(*(self._step(generator, watch) for _ in range(steps)), strict=True)
        for key, norm in self.normalisers.items():
            norm.update(torch.from_numpy(np.stack([raw[key] for raw in seen])))
        rollout = Rollout.stack(list(taken))
        watch.lap("acting")
        return rollout

    def _step(self, generator: torch.Generator, watch: Stopwatch) -> tuple[dict[str, np.ndarray], Rollout]:
        """The raw observation of a step, and the step."""
        raw, obs, start, z, critic_z = self.raw, self.obs, self.start, self.z, self.critic_z
        begins = start.unsqueeze(-1)
        decision = self.policy(View(obs[self.sight[0]].unsqueeze(-2), begins, z))
        u = decision.rsample(generator)
        z_next, critic_z_next = self.policy.remember(decision, u), critic_z
        if self.critic.memory.size:
            critic_z_next = self.critic.memory.read(obs[self.sight[1]].unsqueeze(-2), begins, critic_z)[1]
        action = u[:, : self.policy.actions].cpu().numpy()
        watch.lap("acting")
        self.raw, reward, terminated, truncated, info = self.envs.step(action)
        watch.lap("environment")
        ended = terminated | truncated
        self.obs = next_obs = self._observe(self.raw)
        self.start, self.z, self.critic_z = torch.from_numpy(ended).to(self.device), z_next, critic_z_next
        if ended.any():
            next_obs = self._observe(_last_observations(self.raw, ended, info))
            self.z, self.critic_z = (torch.where(self.start.unsqueeze(-1), 0.0, m) for m in (z_next, critic_z_next))
        self._count(reward, ended)
        reward = torch.from_numpy(reward.astype(np.float32)).to(self.device)
        terminated = torch.from_numpy(terminated).to(self.device)
        step = Rollout(
            obs, next_obs, start, z, z_next, critic_z, critic_z_next, u, decision.mean, reward, terminated, self.start
        )
        watch.lap("acting")
        return raw, step

    def _observe(self, raw: dict[str, np.ndarray]) -> dict[str, Tensor]:
        return {key: norm(torch.from_numpy(raw[key]).to(self.device)) for key, norm in self.normalisers.items()}

    def _count(self, reward: np.ndarray, done: np.ndarray) -> None:
        self._returns += reward
        self._lengths += 1
        for n in np.flatnonzero(done):
            self.finished.append((float(self._returns[n]), int(self._lengths[n])))
            self._returns[n], self._lengths[n] = 0.0, 0


def _last_observations(nxt: dict[str, np.ndarray], done: np.ndarray, info: dict) -> dict[str, np.ndarray]:
    """What followed the step, before autoreset replaced it where an episode ended."""
    nxt = {key: value.copy() for key, value in nxt.items()}
    for n in np.flatnonzero(done):
        for key in nxt:
            nxt[key][n] = info["final_obs"][n][key]
    return nxt
