"""From a configuration to an agent: the lattice algorithm x memory x sight, as a few lines."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s2pg.algorithms.ppo import PPO
from s2pg.algorithms.sac import SAC
from s2pg.algorithms.td3 import TD3
from s2pg.config import RunConfig
from s2pg.critic import Critic
from s2pg.data.normaliser import Normaliser
from s2pg.data.replay import Replay
from s2pg.hyperparameters import ConfigError, GAILConfig, Hparams, MethodConfig, PPOConfig, SACConfig
from s2pg.imitation.gail import GAIL
from s2pg.memory import Memory, NoMemory, Recurrent, Window
from s2pg.nets import CELLS
from s2pg.policy import Clamp, Policy, Shape, Tanh, UniformPolicy
from s2pg.training import worlds
from s2pg.training.agent import Agent
from s2pg.training.worlds import Spec, derive
from s2pg.types import Width

SIGHTS = {"blind": ("obs", "obs"), "privileged": ("obs", "state"), "oracle": ("state", "state")}


def build(config: RunConfig, spec: Spec, expert: Replay | None = None) -> Agent:
    """The agent of a run, its weights drawn from the run's seed; torch's global generator is left as it was.

    `expert`: what the expert did, for algorithms that imitate it.
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


def _build(config: RunConfig, spec: Spec, expert: Replay | None) -> Agent:
    method, hp, where = config.memory, config.hparams, device(config.device)
    sight = SIGHTS[method.sight]
    widths = _widths(spec, sight, hp)
    normalisers = {key: Normaliser(width, hp.observation_clip, device=where) for key, width in widths.items()}
    box = Box(*(torch.as_tensor(bound, dtype=torch.float32, device=where) for bound in (spec.low, spec.high)))
    if method.kind == "random":
        return Agent(UniformPolicy(NoMemory(widths["obs"]), *box).to(where), None, None, sight, normalisers, where)
    seen = memory(widths[sight[0]], method, hp, hp.policy_gain)
    policy = _policy(seen, box, hp).to(where)
    critic = _critic(critic_memory(widths[sight[1]], method, hp), method, hp, policy, widths[sight[1]]).to(where)
    if isinstance(hp, PPOConfig):
        ppo = PPO(policy, critic, hp, sight, method.loss_on)
        learner = GAIL(ppo, hp, expert, normalisers[sight[1]], Clamp(*box)) if isinstance(hp, GAILConfig) else ppo
        return Agent(policy, critic, learner, sight, normalisers, where)
    stored = {key: width.total for key, width in widths.items()}
    slots = hp.replay // hp.num_envs * hp.num_envs
    replay = Replay(slots, hp.num_envs, stored, 0 if seen.recalls else seen.size, len(box.low), where)
    if isinstance(hp, SACConfig):
        return Agent(policy, critic, SAC(policy, critic, replay, hp, sight, method.loss_on), sight, normalisers, where)
    algorithm = TD3(policy, critic, replay, hp, sight, method.loss_on, box.half)
    return Agent(policy, critic, algorithm, sight, normalisers, where)


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
        shape = Shape(box.tanh, Tanh() if hp.squash_memory else None, hp.memory_noise)
        return Policy(memory, actions, head, sigma, hp.policy_gain, ("state", hp.memory_sigma), shape)
    shape = Shape(Clamp(*box), Clamp(-1.0, 1.0) if memory.bounded else None)
    policy = Policy(memory, actions, head, sigma, hp.policy_gain, ("fixed", "fixed"), shape, box.tanh)
    policy.log_sigma.data[:actions] += box.half.log().cpu()  # noise in units of half the action range
    return policy


def _critic(memory: Memory, method: MethodConfig, hp: Hparams, policy: Policy, width: Width) -> Critic:
    """V for PPO; twin Q for SAC and TD3, S2PG's with the reference's encoders where `value_encoder` names them."""
    head = list(hp.value_head)
    if isinstance(hp, PPOConfig):
        return Critic(memory, head, hp.value_gain)
    actions, z = policy.actions, policy.memory.decided
    encoder = list(hp.value_encoder) if method.decides else []
    columns = encoder_columns(width, actions, z) if encoder else None
    return Critic(memory, head, hp.value_gain, actions + z, 2, hp.value_output_gain, encoder, columns)


def encoder_columns(width: Width, actions: int, z: int) -> list[list[slice]]:
    """Of [s, a-, z, a, z'], what the reference's encoders read: (z, z'), (s, a, a-), (a, a-)."""
    sizes = (width.env, width.previous_action, z, actions, z)
    parts = [slice(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]
    state, previous, now, action, then = parts
    return [[now, then], [state, action, previous], [action, previous]]
