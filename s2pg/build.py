"""From a configuration to an agent: the lattice algorithm x memory x sight, as a few lines."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s2pg.algorithms.offpolicy import OffPolicy
from s2pg.algorithms.ppo import PPO
from s2pg.algorithms.sac import SAC
from s2pg.algorithms.td3 import TD3
from s2pg.config import RunConfig
from s2pg.critic import Critic
from s2pg.data.dataset import Dataset
from s2pg.data.demonstrations import demonstrations
from s2pg.data.normaliser import Normaliser
from s2pg.data.replay import Replay
from s2pg.hyperparameters import (
    BCConfig,
    ConfigError,
    GAILConfig,
    Hparams,
    LSIQConfig,
    MethodConfig,
    OffPolicyConfig,
    PPOConfig,
    SACConfig,
)
from s2pg.imitation.bc import BC
from s2pg.imitation.gail import GAIL
from s2pg.imitation.lsiq import LSIQ
from s2pg.imitation.retrace import observed
from s2pg.memory import Memory, NoMemory, Recurrent, Window
from s2pg.nets import CELLS, ClearedGRU
from s2pg.policy import Clamp, Policy, Shape, Spread, Tanh, UniformPolicy
from s2pg.training import worlds
from s2pg.training.agent import Agent
from s2pg.training.worlds import Spec, derive
from s2pg.types import Width

SIGHTS = {"blind": ("obs", "obs"), "privileged": ("obs", "state"), "oracle": ("state", "state")}


def build(config: RunConfig, spec: Spec, expert: Dataset | Replay | None = None) -> Agent:
    """The agent of a run, its weights drawn from the run's seed; torch's global generator is left as it was.

    Imitation learns from `expert`, a dataset or what `demonstrations` makes of one; without it, what was learned can be
    loaded and acts.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "weights"))
        return _build(config, spec, expert)


def spec(task: str, options: dict[str, Any]) -> Spec:
    """Widths and action range of a task. Raises ConfigError for an unknown task or option."""
    try:
        return worlds.spec(task, options)
    except (TypeError, ValueError) as error:
        about = f" with task_options {options}" if options else ""
        raise ConfigError(f"task {task}{about}: {error}") from error


def device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def memory(width: Width, method: MethodConfig, hparams: Hparams, gain: float) -> Memory:
    """The memory that a method names."""
    if method.kind == "window":
        return Window(width, method.context)
    if method.kind == "recurrent":
        cell = CELLS[method.cell]
        if hparams.memory_size % cell.states:
            raise ConfigError(
                f"hparams.memory_size: {hparams.memory_size} must be a multiple of {cell.states} with "
                f"memory.cell: {method.cell}, which carries {cell.states} vectors"
            )
        if cell is ClearedGRU and hparams.leak != 1:
            raise ConfigError(f"hparams.leak: {hparams.leak} keeps some of z, which memory.cell: {method.cell} clears")
        hidden, features = hparams.memory_size // cell.states, hparams.features
        return Recurrent(width, cell, hidden, features, method.context, method.decides, gain, hparams.leak)
    return NoMemory(width)


def critic_memory(width: Width, method: MethodConfig, hparams: Hparams) -> Memory:
    """A blind critic needs a memory of its own, unless z is part of what it observes; a sighted one needs none."""
    if method.decides:
        return NoMemory(Width(width.env, width.previous_action + hparams.memory_size))
    if method.sight != "blind":
        return NoMemory(width)
    return memory(width, method, hparams, hparams.value_gain)


def _build(config: RunConfig, spec: Spec, expert: Dataset | Replay | None) -> Agent:
    method, hp, where = config.memory, config.hparams, device(config.device)
    sight = SIGHTS[method.sight]
    widths = _widths(spec, sight, hp)
    normalisers = {key: Normaliser(width, hp.observation_clip, device=where) for key, width in widths.items()}
    if method.kind == "expert":
        return Agent(None, None, None, sight, {}, where)
    box = Box(*(torch.as_tensor(bound, dtype=torch.float32, device=where) for bound in (spec.low, spec.high)))
    if method.kind == "random":
        return Agent(UniformPolicy(NoMemory(widths["obs"]), *box).to(where), None, None, sight, normalisers, where)
    seen = memory(widths[sight[0]], method, hp, hp.policy_gain)
    policy = _policy(seen, box, hp).to(where)
    critic = _critic(critic_memory(widths[sight[1]], method, hp), method, hp, policy, widths[sight[1]]).to(where)
    agent = Agent(policy, critic, None, sight, normalisers, where)
    if config.expert_episodes is None:
        agent.algorithm = _learner(agent, method.loss_on, hp, box)
    elif expert is not None:
        shown = expert if isinstance(expert, Replay) else demonstrations(expert, spec, device=where)
        agent.algorithm = _imitator(agent, method.loss_on, hp, box, shown)
    return agent


def _learner(agent: Agent, loss_on: str, hp: Hparams, box: Box) -> PPO | OffPolicy:
    """What learns from rewards."""
    how = agent.policy, agent.critic
    if isinstance(hp, PPOConfig):
        return PPO(*how, hp, agent.sight, loss_on)
    replay = _replay(agent, hp)
    if isinstance(hp, SACConfig):
        return SAC(*how, replay, hp, agent.sight, loss_on)
    return TD3(*how, replay, hp, agent.sight, loss_on, box.half)


def _imitator(agent: Agent, loss_on: str, hp: Hparams, box: Box, expert: Replay) -> GAIL | BC | LSIQ:
    """What learns from an expert's episodes; LS-IQ and cloning read them as the networks do, GAIL by itself."""
    how = agent.policy, agent.critic
    if isinstance(hp, GAILConfig):
        ppo = PPO(*how, hp, agent.sight, loss_on)
        return GAIL(ppo, hp, expert, agent.normalisers[agent.sight[1]], Clamp(*box))
    if isinstance(hp, LSIQConfig):
        return LSIQ(*how, _replay(agent, hp), observed(expert, agent.normalisers), hp, agent.sight, loss_on)
    assert isinstance(hp, BCConfig), f"{type(hp).__name__} is not of imitation"
    return BC(*how, observed(expert, agent.normalisers), hp, agent.sight, loss_on)


def _replay(agent: Agent, hp: OffPolicyConfig) -> Replay:
    """Room for `hp.replay` steps, with the memory where a context does not tell it."""
    memory, widths = agent.policy.memory, {key: norm.width.total for key, norm in agent.normalisers.items()}
    slots = hp.replay // hp.num_envs * hp.num_envs
    return Replay(slots, hp.num_envs, widths, 0 if memory.recalls else memory.size, agent.policy.actions, agent.device)


class Box(NamedTuple):
    """The action range `[A]`."""

    low: Tensor
    high: Tensor

    @property
    def half(self) -> Tensor:
        return (self.high - self.low) / 2

    @property
    def tanh(self) -> Tanh:
        return Tanh((self.high + self.low) / 2, self.half)


def _widths(spec: Spec, sight: tuple[str, str], hp: Hparams) -> dict[str, Width]:
    """Of the observations by key. Where policy and critic read the same one, they see the same of it."""
    previous = {sight[1]: getattr(hp, "value_previous_action", hp.previous_action), sight[0]: hp.previous_action}
    return {key: spec.widths[key] if seen else Width(spec.widths[key].env, 0) for key, seen in previous.items()}


def _policy(memory: Memory, box: Box, hp: Hparams) -> Policy:
    """Gaussian as it is (PPO), squashed (SAC), or a bounded mean with noise that is cut off (TD3)."""
    actions, head, sigma = len(box.low), list(hp.policy_head), (hp.sigma_action, hp.sigma_memory)
    if isinstance(hp, PPOConfig):
        return Policy(memory, actions, head, sigma, hp.policy_gain)
    if isinstance(hp, SACConfig):
        once = (
            hp.squash_memory == "once" and memory.bounded
        )  # there is no need to squash, and no m to centre on, elsewhere
        shape = Shape(box.tanh, Tanh() if once or hp.squash_memory == "twice" else None, hp.memory_noise)
        spread: tuple[Spread, Spread] = ("state", hp.memory_sigma)
        return Policy(memory, actions, head, sigma, hp.policy_gain, spread, shape, centred=once)
    shape = Shape(Clamp(*box), Clamp(-1.0, 1.0) if memory.bounded else None)
    policy = Policy(memory, actions, head, sigma, hp.policy_gain, ("fixed", "fixed"), shape, box.tanh)
    policy.log_sigma.data[:actions] += box.half.log().cpu()  # noise in units of half the action range
    return policy


def _critic(memory: Memory, method: MethodConfig, hp: Hparams, policy: Policy, width: Width) -> Critic:
    """V for PPO; Q for the others, S2PG's with the reference's encoders where `value_encoder` names them."""
    head = list(hp.value_head)
    if isinstance(hp, PPOConfig):
        return Critic(memory, head, hp.value_gain)
    actions, z = policy.actions, policy.memory.decided
    encoder = list(hp.value_encoder) if method.decides else []
    columns = encoder_columns(width, actions, z) if encoder else None
    ensemble = getattr(hp, "critics", 2)
    return Critic(memory, head, hp.value_gain, actions + z, ensemble, hp.value_output_gain, encoder, columns)


def encoder_columns(width: Width, actions: int, z: int) -> list[list[slice]]:
    """Of [s, a-, z, a, z'], what the reference's encoders read: (z, z'), (s, a, a-), (a, a-)."""
    sizes = (width.env, width.previous_action, z, actions, z)
    parts = [slice(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]
    state, previous, now, action, then = parts
    return [[now, then], [state, action, previous], [action, previous]]
