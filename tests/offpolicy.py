"""What the tests of SAC and TD3 share: small agents, experience without a task, and the augmented MDP in lists."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from envs.augmented import AugmentedMDP
from s2pg.algorithms.offpolicy import OffPolicy, Transitions
from s2pg.build import build
from s2pg.config import RunConfig, resolve
from s2pg.data.normaliser import Normaliser
from s2pg.data.rollout import Collector, Rollout, Stopwatch
from s2pg.memory import NoMemory
from s2pg.policy import Decision, Policy
from s2pg.training import checkpoint, worlds
from s2pg.training.agent import Agent
from s2pg.training.worlds import Spec
from s2pg.types import View, Width
from tests.helpers import collector, seeded

torch.set_num_threads(1)  # networks as small as these are far slower on several
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
DECIDED = dict.fromkeys(  # S2PG's alone
    ("squash_memory", "sigma_memory", "target_entropy_memory", "temperature_memory", "lr_temperature_memory")
)
METHODS = ("none", "oracle", "window5", "bptt5", "bptt32_all", "s2pg")
BOX = Spec(  # a task of which only widths and an action range that is not symmetric are known
    {"obs": Width(3, 2), "state": Width(5, 2)}, np.array([-1.0, 0.5], np.float32), np.array([3.0, 2.5], np.float32)
)
LOW, HIGH = torch.from_numpy(BOX.low), torch.from_numpy(BOX.high)

TINY = {
    "device": "cpu",
    "epochs": 2,
    "steps_per_epoch": 48,
    "eval_episodes": 2,
    "hparams": {
        "rollout": 4,
        "num_envs": 2,
        "replay": 400,
        "warmup": 12,
        "batch": 48,
        "updates": 1,
        "lr_policy": 1e-3,
        "lr_value": 1e-3,
        "tau": 0.1,
        "refresh": False,
        "memory_size": 6,
        "features": 5,
        "policy_head": [8],
        "value_head": [8],
        "value_encoder": [],
        "policy_gain": 1.0,
        "value_gain": 1.0,
        "value_output_gain": 1.0,
        "previous_action": True,
        "value_previous_action": True,
        "observation_clip": None,
        "sigma_memory": 0.3,
    },
}
ONLY = {
    "sac": {"warmup_policy": 12, "temperature": 0.7, "temperature_memory": 0.2, "squash_memory": False},
    "td3": {"sigma_action": 0.2},
}


def small(
    algorithm: str,
    method: str = "s2pg",
    task: str = "PendulumV",
    options: dict[str, Any] | None = None,
    memory: dict[str, Any] | None = None,
    **hparams: Any,
) -> RunConfig:
    """A run with small networks; `memory` changes the method's point on the memory axis."""
    tiny = {**TINY, "hparams": TINY["hparams"] | ONLY[algorithm]}
    config = resolve(f"{algorithm}_blind", "HopperV", method, 0, "smoke", tiny)
    options = {"max_episode_steps": 11} if options is None else options
    changed = {"memory": replace(config.memory, **(memory or {})), "hparams": replace(config.hparams, **hparams)}
    return replace(config, task=task, task_options=options, **changed)


def agent_of(config: RunConfig, spec: Spec = BOX) -> Agent:
    """The agent of a run, on a task of which only widths are known."""
    return build(config, spec)


def experience(agent: Agent, steps: int = 60, seed: int = 0, ends: float = 0.15, high: float = 1.0) -> Rollout:
    """Random numbers in the shape of a rollout: no policy's, as far as a learner off policy is concerned."""
    streams, generator = agent.algorithm.replay.streams, seeded(seed)
    shape = (steps, streams)
    start = torch.rand(shape, generator=generator) < ends
    start[0] = True
    ended = torch.cat([start[1:], torch.zeros(1, streams, dtype=torch.bool)])
    terminated = ended & (torch.rand(shape, generator=generator) < 0.5)

    def carried(width: int, initial: float) -> tuple[Tensor, Tensor]:
        after = high * (2 * torch.rand(*shape, width, generator=generator) - 1)
        fresh = initial * torch.randn(*shape, width, generator=generator)
        return torch.where(start.unsqueeze(-1), fresh, after.roll(1, 0)), after

    pairs = {key: carried(norm.width.total, 1.0) for key, norm in agent.normalisers.items()}
    obs, next_obs = ({key: pair[i] for key, pair in pairs.items()} for i in range(2))
    z, z_next = carried(agent.policy.memory.size, 0.0)
    action = LOW + (HIGH - LOW) * torch.rand(*shape, 2, generator=generator)
    u = torch.cat([action, z_next[..., : agent.policy.memory.decided]], -1)
    none, reward = torch.zeros(*shape, 0), torch.randn(shape, generator=generator)
    return Rollout(obs, next_obs, start, z, z_next, none, none, u, u, reward, terminated, ended)


def experienced(config: RunConfig, steps: int = 60, **kwargs: Any) -> Agent:
    """An agent whose replay holds `experience`, and that counts it."""
    agent = agent_of(config)
    rollout = experience(agent, steps, **kwargs)
    agent.algorithm.replay.add(rollout)
    agent.algorithm.steps = rollout.reward.numel()
    return agent


def learned(agent: Agent, updates: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """The logs of the last of some gradient steps."""
    algorithm, generator = agent.algorithm, seeded(seed)
    for _ in range(updates):
        algorithm.learned += 1
        logs = algorithm.learn(algorithm.sample(generator), generator)
    return logs


@contextmanager
def held(algorithm: OffPolicy) -> Iterator[dict[str, list[Tensor]]]:
    """Losses are not descended on inside; their gradients are collected by the optimiser's name."""
    found: dict[str, list[Tensor]] = {}

    def record(name: str, loss: Tensor) -> None:
        parameters = [p for group in algorithm.optimisers[name].param_groups for p in group["params"]]
        parameters = [p for p in parameters if p.requires_grad]
        found[name] = list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))

    algorithm.descend = record
    try:
        yield found
    finally:
        del algorithm.descend


def restored(agent: Agent, other: Agent, folder: Path) -> Agent:
    """`other` with the state of `agent`, through a checkpoint file."""
    checkpoint.save(folder / "checkpoint.pt", agent.state_dict())
    other.load_state_dict(checkpoint.load(folder / "checkpoint.pt"))
    return other


def train_epoch(agent: Agent, config: RunConfig, epoch: int) -> list[dict[str, float]]:
    """An epoch as the training loop makes one, its environments and noise seeded by its number."""
    loop, generator, hp = collector(agent, config, seed=epoch), seeded(100 + epoch), config.hparams
    return [
        agent.algorithm.update(loop.collect(hp.rollout // hp.num_envs, generator, Stopwatch()), generator)
        for _ in range(config.steps_per_epoch // hp.rollout)
    ]


# --- the augmented MDP -----------------------------------------------------------------------------------------------


class Stateless(nn.Module):
    """A policy without memory on the augmented MDP: of (o, z) alone, written out for the cell of `inner`."""

    def __init__(self, inner: Policy, width: Width) -> None:
        super().__init__()
        self.inner, self.memory = inner, NoMemory(width)
        self.actions = inner.actions + inner.memory.size

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log sigma of what is decided before it is squashed or clipped, `[n, O + Z] -> 2 x [n, D]`."""
        policy, size, a = self.inner, self.inner.memory.size, self.inner.actions
        obs, z = x[:, :-size], x[:, -size:]
        cell, embed = policy.memory.cell, policy.memory.embed
        eta = cell.step(cell.project(embed(obs)), z)
        out = policy.head(torch.cat([embed.skip(obs), cell.output(eta)], -1))
        mean, rest = out[:, :a], out[:, a:]
        if policy.bound is not None:
            mean = policy.bound.centre + policy.bound.half * torch.tanh(mean)
        base, at = policy.log_sigma.expand(len(x), -1), 0
        columns = []
        for part, kind in zip(base.split([a, size], -1), policy.spreads, strict=True):
            width = part.shape[-1] if kind == "state" else 0
            part = part if kind == "learned" else part.detach()
            columns.append(part + rest[:, at : at + width] if width else part)
            at += width
        eta = torch.atanh(eta) if policy.centred else eta
        return torch.cat([mean, eta], -1), torch.cat(columns, -1)

    def forward(self, view: View) -> Decision:
        x, nothing = self.memory.read(*view)
        return Decision(*self.parts(x), self.inner.actions, nothing, self.inner.shape)

    def remember(self, decision: Decision, u: Tensor) -> Tensor:
        return decision.carry


class Flat(NamedTuple):
    """Transitions of the augmented MDP, x = (o, z), u = (a, z')."""

    x: Tensor
    u: Tensor
    reward: Tensor
    following: Tensor
    terminated: Tensor


class Augmented:
    """A twin of an S2PG agent: the same weights without memory, acting on `AugmentedMDP`, its transitions in lists."""

    def __init__(self, agent: Agent, config: RunConfig) -> None:
        size, key = agent.policy.memory.size, agent.sight[0]
        width = agent.normalisers[key].width
        self.width = Width(width.env, width.previous_action + size)
        self.policy, self.critic = Stateless(copy.deepcopy(agent.policy), self.width), copy.deepcopy(agent.critic)
        makers = [lambda: AugmentedMDP(worlds.make(config.task, config.task_options), size)] * config.hparams.num_envs
        self.loop = Collector(
            SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP),
            self.policy,
            self.critic,
            (key, key),
            {key: Normaliser(self.width, None)},
            torch.device("cpu"),
        )
        self.key, self.steps = key, {}

    def collect(self, steps: int, generator: torch.Generator) -> Rollout:
        """As the agent's own collector; every transition is kept under its name in a replay."""
        rollout = self.loop.collect(steps, generator, Stopwatch())
        for n in range(rollout.reward.shape[1]):
            for t in range(steps):
                self._keep(rollout, t, n)
        return rollout

    def _keep(self, rollout: Rollout, t: int, n: int) -> None:
        time = max((time for time, stream in self.steps if stream == n), default=-2)
        time += 2 if rollout.start[t, n] else 1  # an episode's end has a slot too
        columns = rollout.obs[self.key], rollout.u, rollout.reward, rollout.next_obs[self.key], rollout.terminated
        self.steps[time, n] = Flat(*(column[t, n] for column in columns))

    def named(self, names: list[tuple[int, int]]) -> Flat:
        """The transitions with these names, in double precision."""
        columns = (torch.stack(column) for column in zip(*(self.steps[name] for name in names), strict=True))
        return Flat(*(x if x.dtype == torch.bool else x.double() for x in columns))


def played(config: RunConfig, rollouts: int = 6) -> tuple[Agent, Augmented]:
    """An S2PG agent and its twin after the same steps of the same environments with the same noise."""
    agent = agent_of(config, worlds.spec(config.task, config.task_options))
    twin, loop = Augmented(agent, config), collector(agent, config, seed=3)
    twin.loop.reset(3)
    noise, ended = [seeded(1), seeded(1)], torch.zeros(2)
    for _ in range(rollouts):
        rollout = loop.collect(8, noise[0], Stopwatch())
        other = twin.collect(8, noise[1])
        torch.testing.assert_close(rollout.u, other.u, **CLOSE)
        agent.algorithm.replay.add(rollout)
        agent.algorithm.steps += rollout.reward.numel()
        ended += torch.stack([rollout.terminated.sum(), (rollout.done & ~rollout.terminated).sum()])
    assert (ended > 0).all(), "some episodes terminated and some were truncated"
    twin.policy.double(), twin.critic.double()
    return doubled(agent), twin


def doubled(agent: Agent) -> Agent:
    """The agent in double precision, what it has seen included."""
    algorithm = agent.algorithm
    for module in (agent.policy, agent.critic, *(target.module for target in algorithm.targets.values())):
        module.double()
    replay = algorithm.replay
    replay.obs = {key: column.double() for key, column in replay.obs.items()}
    for name in ("z", "action", "reward"):
        setattr(replay, name, getattr(replay, name).double())
    for parameter in getattr(algorithm, "log_alpha", ()):
        parameter.data = parameter.data.double()
    if hasattr(algorithm, "backup"):
        algorithm.backup = algorithm.backup.double()
    return agent


def flat(batch: Transitions, agent: Agent, twin: Augmented) -> Flat:
    """The batch's transitions out of the twin's lists; they are those that the agent's replay hands out."""
    steps = agent.algorithm.replay.named(batch.rows)
    there = twin.named(list(zip(steps.time.tolist(), steps.stream.tolist(), strict=True)))
    here = Flat(
        torch.cat([batch.view.obs[:, -1], batch.view.z], -1),
        batch.u,
        batch.reward,
        batch.next_critic_view.obs[:, -1],
        batch.terminated,
    )
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    torch.testing.assert_close(batch.critic_view.obs[:, -1], there.x, **CLOSE)
    assert there.terminated.any()
    following = batch.successor(agent.policy, torch.zeros(len(batch.u), 0))
    torch.testing.assert_close(torch.cat([following.obs[:, -1], following.z], -1), there.following, **CLOSE)
    return there
