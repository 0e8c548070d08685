"""What does a memory know? A linear probe from what the policy has at hand to what is hidden from it.

If a policy with memory is no better than one without, this tells whether the memory fails to hold the hidden
quantities (a fault of learning the memory) or holds them unused (a fault of learning to act).
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np
import torch

from s2pg.policy import Policy
from s2pg.training.agent import Agent
from s2pg.types import View

EPISODES, ENOUGH, STEPS = 40, 4000, 500  # at most; steps that suffice; steps of an episode
RIDGE = 1e-3


def probe(agent: Agent, envs: Sequence[gymnasium.Env], seeds: Sequence[int], noise_seed: int) -> list[dict]:
    """R^2 on held-out episodes of a ridge regression of each hidden group on the observation, without and with memory.

    The policy samples its decisions, in episodes of at most 500 steps, until there are 4,000 steps or no more `seeds`.
    The first half of the episodes is fitted, the second half predicted. R^2 is NaN with fewer than 5 fitted steps per
    regressor, or where the group does not vary. Returns rows
    `{group, features: "observation" | "observation + memory", r2, dimensions, steps}`.
    """
    if not isinstance(agent.policy, Policy):
        return []
    layout = envs[0].unwrapped.layout
    hidden = {name: where for name, where in layout["state"].items() if name not in layout[agent.sight[0]]}
    episodes: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for i, (env, seed) in enumerate(zip(envs, seeds, strict=True)):
        if hidden and (len(episodes) < 4 or sum(len(state) for _, _, state in episodes) < ENOUGH):
            episodes.append(_episode(agent.policy, agent, env, seed, noise_seed + i))
    half = len(episodes) // 2
    if not half:
        return []
    fit, held_out = (tuple(map(np.concatenate, zip(*part, strict=True))) for part in (episodes[:half], episodes[half:]))
    rows = []
    for name, where in hidden.items():
        for features, columns in (("observation", [0]), ("observation + memory", [0, 1])):
            data = [(np.hstack([part[c] for c in columns]), part[2][:, where]) for part in (fit, held_out)]
            r2 = _r2(*data[0], *data[1])
            rows.append(
                {
                    "group": name,
                    "features": features,
                    "r2": r2,
                    "dimensions": where.stop - where.start,
                    "steps": len(data[1][0]),
                }
            )
    return rows


@torch.inference_mode()
def _episode(
    policy: Policy, agent: Agent, env: gymnasium.Env, seed: int, noise_seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations, memories after reading them, and true states of one episode, `[steps, ...]` each."""
    generator = torch.Generator(agent.device).manual_seed(noise_seed)
    key = agent.sight[0]
    raw, _ = env.reset(seed=int(seed))
    start, z, rows = torch.ones(1, 1, dtype=torch.bool, device=agent.device), policy.memory.initial(1), []
    for _ in range(STEPS):
        obs = agent.normalisers[key](torch.from_numpy(raw[key]).to(agent.device))
        decision = policy(View(obs.view(1, 1, -1), start, z))
        u = decision.rsample(generator)
        rows.append((obs.cpu().numpy(), decision.carry[0].cpu().numpy(), raw["state"].copy()))
        z, start = policy.remember(decision, u), torch.zeros_like(start)
        raw, _, terminated, truncated, _ = env.step(u[0, : policy.actions].cpu().numpy())
        if terminated or truncated:
            break
    obs, memory, state = map(np.stack, zip(*rows, strict=True))
    return obs, memory, state


def _r2(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> float:
    """R^2 on the test rows over the target dimensions that vary, in units of their standard deviation when fitting.

    NaN where none varies: a constant has no variance to explain.
    """
    x, x_test, y, y_test = (np.asarray(part, np.float64) for part in (x, x_test, y, y_test))
    varies = (y.std(0) > 1e-6) & (y_test.std(0) > 1e-6)
    if not varies.any() or len(x) < 5 * x.shape[1]:
        return float("nan")
    y, y_test = y[:, varies], y_test[:, varies]
    shift, scale, centre, spread = x.mean(0), x.std(0) + 1e-6, y.mean(0), y.std(0)
    a, b = (x - shift) / scale, (y - centre) / spread
    weights = np.linalg.solve(a.T @ a + RIDGE * len(a) * np.eye(a.shape[1]), a.T @ b)
    error = (y_test - centre) / spread - (x_test - shift) / scale @ weights
    total = ((y_test - y_test.mean(0)) / spread) ** 2
    return float(1 - (error**2).sum() / total.sum())
