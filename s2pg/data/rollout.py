"""Collecting on-policy experience, with the memories of every step."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    def empty(
        cls, shape: tuple[int, int], widths: dict[str, int], z: int, critic_z: int, u: int, device: Any
    ) -> Rollout:
        """Uninitialised storage for `shape = (T, N)`."""

        def new(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(*shape, *size, dtype=dtype, device=device)

        return cls(
            obs={key: new(width) for key, width in widths.items()},
            next_obs={key: new(width) for key, width in widths.items()},
            start=new(dtype=torch.bool),
            z=new(z),
            z_next=new(z),
            critic_z=new(critic_z),
            critic_z_next=new(critic_z),
            u=new(u),
            mean=new(u),
            reward=new(),
            terminated=new(dtype=torch.bool),
            done=new(dtype=torch.bool),
        )


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
        n = self.envs.num_envs
        widths = {key: norm.width.total for key, norm in self.normalisers.items()}
        decision = self.policy.actions + self.policy.memory.decided
        rollout = Rollout.empty(
            (steps, n), widths, self.policy.memory.size, self.critic.memory.size, decision, self.device
        )
        raw = {key: np.empty((steps, n, width), np.float32) for key, width in widths.items()}
        watch.start()
        with torch.inference_mode():
            self.obs = self._observe(self.raw)
            for t in range(steps):
                self._step(t, rollout, raw, generator, watch)
        for key, norm in self.normalisers.items():
            norm.update(torch.from_numpy(raw[key]))
        watch.lap("acting")
        return rollout

    def _step(self, t: int, rollout: Rollout, raw: dict, generator: torch.Generator, watch: Stopwatch) -> None:
        obs, start = self.obs, self.start.unsqueeze(-1)
        decision = self.policy(View(obs[self.sight[0]].unsqueeze(-2), start, self.z))
        u = decision.rsample(generator)
        z_next, critic_z_next = self.policy.remember(decision, u), self.critic_z
        if self.critic.memory.size:
            critic_z_next = self.critic.memory.read(obs[self.sight[1]].unsqueeze(-2), start, self.critic_z)[1]
        action = u[:, : self.policy.actions].cpu().numpy()
        watch.lap("acting")
        nxt, reward, terminated, truncated, info = self.envs.step(action)
        watch.lap("environment")
        done = terminated | truncated
        next_obs = self._observe(nxt)
        successor = self._observe(_last_observations(nxt, done, info)) if done.any() else next_obs
        for key in raw:
            raw[key][t] = self.raw[key][:, : raw[key].shape[-1]]
            rollout.obs[key][t], rollout.next_obs[key][t] = obs[key], successor[key]
        rollout.start[t], rollout.u[t], rollout.mean[t] = self.start, u, decision.mean
        rollout.z[t], rollout.z_next[t] = self.z, z_next
        rollout.critic_z[t], rollout.critic_z_next[t] = self.critic_z, critic_z_next
        rollout.reward[t] = torch.from_numpy(reward)
        rollout.terminated[t], rollout.done[t] = torch.from_numpy(terminated), torch.from_numpy(done)
        self._count(reward, done)
        self.raw, self.obs, self.start, self.z, self.critic_z = nxt, next_obs, rollout.done[t], z_next, critic_z_next
        if done.any():
            self.z, self.critic_z = (torch.where(self.start.unsqueeze(-1), 0.0, z) for z in (self.z, self.critic_z))
        watch.lap("acting")

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
