"""What SAC and TD3 share: transitions out of a replay for every memory, and targets that follow slowly."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from s2pg.algorithms.finite import finite
from s2pg.critic import Critic
from s2pg.data.replay import Replay
from s2pg.data.rollout import Rollout
from s2pg.hyperparameters import OffPolicyConfig
from s2pg.policy import Policy
from s2pg.types import View


class Transitions(NamedTuple):
    """n loss terms. The views are of n steps (`keep` is None), or of sequences with n kept steps."""

    view: View
    critic_view: View
    u: Tensor  # [n, D]
    reward: Tensor  # [n]
    terminated: Tensor  # [n] bool
    next_obs: Tensor  # [n, O] of the policy
    next_critic_view: View
    rows: Tensor  # [n] in the replay
    own: int  # so many of them, the first ones, are the policy's own; the others are an expert's

    def successor(self, policy: Policy, carry: Tensor) -> View:
        """What the policy sees next: with the z' decided on, or with `carry [n, Z]`, its memory's own next state."""
        z = self.u[:, policy.actions :] if policy.memory.decided else carry
        return View(self.next_obs.unsqueeze(-2), torch.zeros_like(self.terminated).unsqueeze(-1), z)


class Sampler:
    """Reads a replay as a policy with its memory, and a critic with its own, need it.

    The policy's memory begins a sequence from what was stored with its first step, from zeros, or after a burn-in; a
    critic's own memory begins from zeros (as the reference's).

    Args:
        sight: observation keys that (policy, critic) read.
        loss_on: "last" (a context per loss term, the reference's BPTT) or "all" (chunks, a loss at every step).
    """

    def __init__(
        self, replay: Replay, policy: Policy, critic: Critic, sight: tuple[str, str], hp: OffPolicyConfig, loss_on: str
    ) -> None:
        self.replay, self.policy, self.critic, self.sight, self.hp = replay, policy, critic, sight, hp
        self.length, self.critic_length = (part.memory.context or 1 for part in (policy, critic))
        self.chunked = loss_on == "all" and self.length > 1
        memory = policy.memory
        self.begin = "stored" if memory.decided else "zero" if memory.recalls else hp.sequence_start
        self.before = hp.burn_in if self.begin == "burn_in" else 0

    def __call__(self, generator: torch.Generator) -> Transitions:
        """A batch of `hp.batch` loss terms (about as many, with a loss at every step)."""
        if self.chunked:
            number = -(-self.hp.batch // self.length)
            rows, keep = self.replay.chunks(number, self.length, generator, self.before)
            return self._transitions(rows, rows[keep], keep)
        steps = self.replay.sample(self.hp.batch, max(self.length + self.before, self.critic_length), generator)
        rows = self.replay.contexts(steps, self.length)
        return self._transitions(rows, rows[:, -1], None)

    def _transitions(self, rows: Tensor, terms: Tensor, keep: Tensor | None) -> Transitions:
        replay, following = self.replay, self.replay.next(terms)
        u = replay.action[terms]
        if self.policy.memory.decided:
            u = torch.cat([u, replay.z[following]], -1)
        obs, start = replay.obs[self.sight[0]], replay.position[rows] == 0
        if keep is not None and self.critic_length > 1:  # the critic's own memory reads the chunks too
            now, later = rows, torch.cat([rows[:, :1], replay.next(rows)], 1)
            kept, later_kept = keep, torch.cat([torch.zeros_like(keep[:, :1]), keep], 1)
        else:
            here, kept, later_kept = replay.named(terms), None, None
            now, later = (replay.contexts(steps, self.critic_length) for steps in (here, here.after(1)))
        return Transitions(
            View(obs[rows], start, self._before(rows[:, 0]), keep),
            self._critic_view(now, kept),
            u,
            replay.reward[terms],
            replay.terminated[terms],
            obs[following],
            self._critic_view(later, later_kept),
            terms,
            len(terms),
        )

    def _critic_view(self, rows: Tensor, keep: Tensor | None) -> View:
        obs = self.replay.obs[self.sight[1]][rows]
        if self.policy.memory.decided:  # on the augmented MDP, z is part of the state
            obs = torch.cat([obs, self.replay.z[rows]], -1)
        return View(obs, self.replay.position[rows] == 0, self.critic.memory.initial(len(rows)), keep)

    def _before(self, first: Tensor) -> Tensor:
        """The policy's memory before the slots in rows `first [n]`."""
        if self.begin == "stored":
            return self.replay.z[first]
        if self.begin == "zero":
            return self.policy.memory.initial(len(first))
        return self._burnt_in(first)

    @torch.no_grad()
    def _burnt_in(self, first: Tensor) -> Tensor:
        """Today's memory after the last `hp.burn_in` steps before `first`, or as many as the episode has."""
        replay = self.replay
        rows = replay.contexts(replay.named(first).after(-1), self.before)
        view = View(replay.obs[self.sight[0]][rows], replay.position[rows] == 0, replay.z[rows[:, 0]])
        return torch.where((replay.position[first] == 0).unsqueeze(-1), 0.0, self.policy.memory.read(*view)[1])


class Target:
    """A copy of a module that moves to it by `tau` at every call."""

    def __init__(self, module: nn.Module, tau: float) -> None:
        self.module, self.source, self.tau = copy.deepcopy(module).requires_grad_(False), module, tau
        self._pairs = list(self.module.parameters()), list(module.parameters())

    @torch.no_grad()
    def follow(self) -> None:
        """target <- (1 - tau) target + tau source."""
        torch._foreach_lerp_(*self._pairs, self.tau)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No gradient enters the module's parameters inside."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class OffPolicy:
    """Adam on the losses that a subclass defines, `updates` batches per rollout.

    Args:
        policy, critic: separate networks; the critic values decisions, and sees z if the policy decides on it.
        replay: where experience goes.
        hparams: see `OffPolicyConfig`.
        sight: observation keys that (policy, critic) read.
        loss_on: "last" (a context per loss term, the reference's BPTT) or "all" (chunks, a loss at every step).
    """

    def __init__(
        self,
        policy: Policy,
        critic: Critic,
        replay: Replay,
        hparams: OffPolicyConfig,
        sight: tuple[str, str],
        loss_on: str = "last",
    ) -> None:
        self.policy, self.critic, self.replay, self.hparams = policy, critic, replay, hparams
        self.sampler = Sampler(replay, policy, critic, sight, hparams, loss_on)
        self.target_critic = Target(critic, hparams.tau)
        self.targets = {"critic": self.target_critic}
        self.optimisers = {
            "policy": torch.optim.Adam(policy.parameters(), hparams.lr_policy, fused=True),
            "value": torch.optim.Adam(critic.parameters(), hparams.lr_value, fused=True),
        }
        self.steps = self.learned = 0  # environment steps seen, gradient steps taken

    def learn(self, batch: Transitions, generator: torch.Generator) -> dict[str, Tensor]:
        """One gradient step; returns what is worth logging."""
        raise NotImplementedError

    def update(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        """Store a rollout and, after `warmup` steps, learn from `updates` batches; returns averages worth logging."""
        self.replay.add(rollout)
        self.steps += rollout.reward.numel()
        if self.steps <= self.hparams.warmup:
            return {}
        logs: dict[str, list[Tensor]] = {}
        for _ in range(self.hparams.updates):
            self.learned += 1
            for key, value in self.learn(self.sample(generator), generator).items():
                logs.setdefault(key, []).append(value.detach())
        return finite({key: float(torch.stack(values).mean()) for key, values in logs.items()})

    def sample(self, generator: torch.Generator) -> Transitions:
        """What the next gradient step learns from."""
        return self.sampler(generator)

    def fit(self, batch: Transitions, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A step of the critic towards `target [n]`; what its memory made of the views `[n, X]`, and what to log."""
        features = self.critic.memory.read(*batch.critic_view)[0]
        q = self.critic.values(features, batch.u)
        loss = (q - target).square().mean(-1).sum()
        self.descend("value", loss)
        return features.detach(), {"loss/value": loss, "value/mean": q.mean()}

    def descend(self, name: str, loss: Tensor) -> None:
        """A step of one of the optimisers."""
        self.optimisers[name].zero_grad()
        loss.backward()
        self.optimisers[name].step()

    def state_dict(self, resumable: bool = True) -> dict:
        """What learning changes, beside the networks of the agent; the replay only if learning is to go on."""
        state = {
            "optimisers": {name: one.state_dict() for name, one in self.optimisers.items()},
            "targets": {name: one.module.state_dict() for name, one in self.targets.items()},
            "counts": (self.steps, self.learned),
        }
        return state | ({"replay": self.replay.state_dict()} if resumable else {})

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        for name, one in self.optimisers.items():
            one.load_state_dict(state["optimisers"][name])
        for name, one in self.targets.items():
            one.module.load_state_dict(state["targets"][name])
        if "replay" in state:
            self.replay.load_state_dict(state["replay"])
        self.steps, self.learned = state["counts"]
