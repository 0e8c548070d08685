"""Evaluation on environments of its own, with seeds of its own, that changes nothing in the agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import gymnasium
import numpy as np
import torch

from s2pg.config import RunConfig
from s2pg.training.agent import Agent
from s2pg.types import Mode


class Episode(NamedTuple):
    """One evaluation episode; `ret` is the undiscounted return."""

    ret: float
    length: int
    seed: int
    success: bool | None = None  # `info["success"]` of its last step; None where the task does not say
    terminated: bool = False  # by the task, e.g. after a fall; False: it lasted until it was truncated
    bias: float | None = None  # what the critic expected of it in its first step, minus its discounted return


@torch.inference_mode()
def evaluate(
    agent: Agent,
    envs: Sequence[gymnasium.Env],
    seeds: Sequence[int],
    mode: Mode,
    noise_seed: int,
    visited: list[np.ndarray] | None = None,
    gamma: float | None = None,
) -> list[Episode]:
    """One episode in each environment, side by side; finished ones are no longer stepped.

    The bias of a critic is not error alone: SAC's values hold the entropies of the actions to come, and no return has
    what would follow a truncation. A target network lags behind too, for about 1 / (tau (1 - gamma)) updates, and more
    behind a policy that improves faster: compare biases where returns are alike.

    Args:
        seeds: of the initial states, one per environment; the same for every method, so that comparisons are paired.
        mode: "sample" draws decisions, "mean" takes the distribution's mean.
        noise_seed: of the sampled decisions.
        visited: is given the states `[n, S]` that followed the steps, n at a time.
        gamma: discount of the critic's values, see `discount`; without it, episodes have no `bias`.
    """
    generator = torch.Generator(agent.device).manual_seed(noise_seed)
    key, n = agent.sight[0], len(envs)
    first = [env.reset(seed=int(seed))[0] for env, seed in zip(envs, seeds, strict=True)]
    obs = np.stack([one[key] for one in first])
    start, z = torch.ones(n, dtype=torch.bool, device=agent.device), agent.policy.memory.initial(n)
    returns, lengths, alive = np.zeros(n), np.zeros(n, dtype=int), np.arange(n)
    success: list[bool | None] = [None] * n
    fallen = np.zeros(n, dtype=bool)
    expected, discounted = np.full(n, np.nan), np.zeros(n)
    while len(alive):
        seen = agent.normalisers[key](torch.from_numpy(obs).to(agent.device))
        u, z = agent.policy.act(seen, start, z, mode, generator)
        if gamma is not None and start.all():
            expected = agent.first_value(np.stack([one[agent.sight[1]] for one in first]), u)
        steps = [envs[int(i)].step(a) for i, a in zip(alive, u[:, : agent.policy.actions].cpu().numpy(), strict=True)]
        rewards = np.array([step[1] for step in steps])
        returns[alive] += rewards
        discounted[alive] += (gamma or 0.0) ** lengths[alive] * rewards
        lengths[alive] += 1
        if visited is not None:
            visited.append(np.stack([step[0]["state"] for step in steps]))
        for i, step in zip(alive, steps, strict=True):
            success[i], fallen[i] = step[4].get("success"), step[2]
        go = np.array([not (step[2] or step[3]) for step in steps])
        obs = np.stack([step[0][key] for step in steps])
        if not go.all():
            alive, obs, z = alive[go], obs[go], z[torch.from_numpy(go)]
        start = torch.zeros(len(alive), dtype=torch.bool, device=agent.device)
    won = [None if one is None else bool(one) for one in success]
    bias = [None] * n if gamma is None else (expected - discounted).tolist()
    columns = zip(returns.tolist(), lengths.tolist(), map(int, seeds), won, fallen.tolist(), bias, strict=True)
    return [Episode(*column) for column in columns]


def discount(config: RunConfig) -> float | None:
    """The discount of the critic's values; None without a critic, and where it values what imitation learns."""
    return config.hparams.gamma if config.memory.learns and config.expert_episodes is None else None


def survival(episodes: Sequence[Episode]) -> float:
    """Share of the episodes that lasted until they were truncated."""
    return float(np.mean([not episode.terminated for episode in episodes]))


def success_rate(episodes: Sequence[Episode]) -> float | None:
    """Share of successes among the episodes of one task; None where it does not say."""
    said = [episode.success for episode in episodes if episode.success is not None]
    return float(np.mean(said)) if said else None
