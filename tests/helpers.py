"""Small runs, agents and data shared by the tests of the learning core."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s2pg.build import build
from s2pg.config import RunConfig, resolve
from s2pg.data.rollout import Collector, Rollout, Stopwatch
from s2pg.memory import Memory, NoMemory, Recurrent, Window
from s2pg.nets import GRU, LSTM, ClearedGRU
from s2pg.training import worlds
from s2pg.training.agent import Agent
from s2pg.types import Width

WIDTH = Width(env=3, previous_action=2)

MEMORIES: dict[str, Callable[[], Memory]] = {
    "none": lambda: NoMemory(WIDTH),
    "window1": lambda: Window(WIDTH, 1),
    "window4": lambda: Window(WIDTH, 4),
    "bptt4": lambda: Recurrent(WIDTH, GRU, hidden=5, features=4, context=4),
    "bptt_full": lambda: Recurrent(WIDTH, LSTM, hidden=5, features=4, context=None),
    "s2pg": lambda: Recurrent(WIDTH, GRU, hidden=5, features=4, decides=True),
    "s2pg_lstm": lambda: Recurrent(WIDTH, LSTM, hidden=5, features=4, decides=True),
}

TINY = {
    "device": "cpu",
    "epochs": 3,
    "steps_per_epoch": 64,
    "eval_episodes": 2,
    "hparams": {
        "rollout": 32,
        "num_envs": 2,
        "passes": 2,
        "minibatch": 12,
        "memory_size": 6,
        "features": 5,
        "policy_head": [8],
        "value_head": [8],
        "policy_gain": 1.0,
        "value_gain": 1.0,
        "sigma_memory": 0.5,
    },
}


def tiny(
    method: str = "s2pg", task: str = "PendulumV", seed: int = 0, options: dict[str, Any] | None = None, **hparams: Any
) -> RunConfig:
    """A run of seconds: short episodes (so that some end in every rollout), small networks, three epochs."""
    options = {"max_episode_steps": 11} if options is None and task != "CueRecall" else (options or {})
    config = resolve("ppo_small", "PendulumV", method, seed, "smoke", TINY)
    hp = replace(config.hparams, **hparams)
    steps = max(config.steps_per_epoch, hp.rollout)
    return replace(config, task=task, task_options=options, hparams=hp, steps_per_epoch=steps)


def tiny_agent(config: RunConfig) -> Agent:
    """The agent of a run, built as the suite builds it."""
    return build(config, worlds.spec(config.task, config.task_options))


def collector(agent: Agent, config: RunConfig, seed: int = 0) -> Collector:
    """A collector on the run's environments, reset."""
    envs = worlds.make_vector(config.task, config.task_options, config.hparams.num_envs)
    result = Collector(envs, agent.policy, agent.critic, agent.sight, agent.normalisers, agent.device)
    result.reset(seed)
    return result


def collect(agent: Agent, config: RunConfig, rollouts: int = 1, seed: int = 0) -> Rollout:
    """The last of some rollouts; the statistics of observations have moved after each of the others."""
    loop, generator = collector(agent, config, seed), seeded(seed)
    for _ in range(rollouts):
        rollout = loop.collect(config.hparams.rollout // config.hparams.num_envs, generator, Stopwatch())
    return rollout


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of torch."""
    return torch.Generator().manual_seed(seed)


def stream(steps: int, envs: int, seed: int = 0, ends: float = 0.2) -> tuple[Tensor, Tensor]:
    """Observations `[T, N, O]` and episode starts `[T, N]`, the first step being one."""
    generator = seeded(seed)
    obs = torch.randn(steps, envs, WIDTH.total, generator=generator)
    start = torch.rand(steps, envs, generator=generator) < ends
    start[0] = True
    return obs, start


def act_through(memory: Memory, obs: Tensor, start: Tensor, noise: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Read `obs [T, N, O]` step by step as a rollout does; returns x, z before and m after each step.

    With `noise` the memory that is carried on is not m, but decided: m plus a deviation.
    """
    z, rows = memory.initial(obs.shape[1]), []
    for t in range(len(obs)):
        if t:
            z = torch.where(start[t].unsqueeze(-1), 0.0, z)  # as the loop resets where an episode ended
        x, m = memory.read(obs[t].unsqueeze(1), start[t].unsqueeze(1), z)
        rows.append((x, z, m))
        z = m + noise * torch.randn(m.shape, generator=seeded(t))
    x, z, m = (torch.stack(part) for part in zip(*rows, strict=True))
    return x, z, m


def tensors(tree: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a checkpoint by path."""
    if isinstance(tree, dict):
        items: Any = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    else:
        return {path: tree}
    return {key: leaf for name, part in items for key, leaf in tensors(part, f"{path}/{name}").items()}


def same_bits(one: Any, two: Any) -> bool:
    """Whether two trees have the same leaves, tensors bit for bit."""
    a, b = tensors(one), tensors(two)
    return a.keys() == b.keys() and all(
        torch.equal(x, b[key]) if isinstance(x, Tensor) else x == b[key] for key, x in a.items()
    )


def train_here(config: RunConfig, out: Path, dataset: Path | None = None) -> dict:
    """Train without a progress bar, on one thread."""
    from s2pg.training.loop import train

    torch.set_num_threads(1)
    return train(config, build, out, progress=False, dataset=dataset)


def train_process(config: RunConfig, out: Path, log: Path | None = None) -> None:
    """What a child process runs; `log` gets what it writes to standard error."""
    if log is not None:
        with suppress(OSError):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    train_here(config, out)


def unread(network: nn.Module) -> int:
    """How many parameters can have no gradient: what a cleared GRU would make of its state, of which it reads zeros."""
    return sum(isinstance(module, ClearedGRU) for module in network.modules())
