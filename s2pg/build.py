"""From a configuration to an agent: the lattice algorithm x memory x sight, as a few lines."""

from __future__ import annotations

import torch

from s2pg.algorithms.ppo import PPO
from s2pg.config import ConfigError, MethodConfig, PPOConfig, RunConfig
from s2pg.critic import Critic
from s2pg.data.normaliser import Normaliser
from s2pg.memory import Memory, NoMemory, Recurrent, Window
from s2pg.nets import CELLS
from s2pg.policy import Policy, UniformPolicy
from s2pg.training.agent import Agent
from s2pg.training.worlds import Spec, derive
from s2pg.types import Width

SIGHTS = {"blind": ("obs", "obs"), "privileged": ("obs", "state"), "oracle": ("state", "state")}


def build(config: RunConfig, spec: Spec) -> Agent:
    """The agent of a run, its weights drawn from the run's seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "weights"))
        return _build(config, spec)


def device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def memory(width: Width, method: MethodConfig, hparams: PPOConfig, gain: float) -> Memory:
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
        return Recurrent(width, cell, hidden, features, method.context, method.decides, gain)
    return NoMemory(width)


def critic_memory(width: Width, method: MethodConfig, hparams: PPOConfig) -> Memory:
    """A blind critic needs a memory of its own, unless z is part of what it observes; a sighted one needs none."""
    if method.decides:
        return NoMemory(Width(width.env, width.previous_action + hparams.memory_size))
    if method.sight != "blind":
        return NoMemory(width)
    return memory(width, method, hparams, hparams.value_gain)


def _build(config: RunConfig, spec: Spec) -> Agent:
    method, hp, where = config.memory, config.hparams, device(config.device)
    sight = SIGHTS[method.sight]
    widths = {key: w if hp.previous_action else Width(w.env, 0) for key, w in spec.widths.items()}
    normalisers = {key: Normaliser(widths[key], hp.observation_clip, device=where) for key in dict.fromkeys(sight)}
    if method.kind == "random":
        bounds = [torch.as_tensor(bound, dtype=torch.float32) for bound in (spec.low, spec.high)]
        return Agent(UniformPolicy(NoMemory(widths["obs"]), *bounds).to(where), None, None, sight, normalisers, where)
    seen = memory(widths[sight[0]], method, hp, hp.policy_gain)
    sigma = (hp.sigma_action, hp.sigma_memory)
    policy = Policy(seen, spec.actions, list(hp.policy_head), sigma, hp.policy_gain).to(where)
    critic = Critic(critic_memory(widths[sight[1]], method, hp), list(hp.value_head), hp.value_gain).to(where)
    algorithm = PPO(policy, critic, hp, sight, method.loss_on)
    return Agent(policy, critic, algorithm, sight, normalisers, where)
