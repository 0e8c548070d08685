"""Proximal policy optimisation (Schulman et al. 2017), once for every memory.

The ratio is that of the joint decision u = (a, z'), so S2PG is this file on the augmented MDP and nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from s2pg.algorithms.finite import finite
from s2pg.critic import Critic
from s2pg.data.rollout import Rollout
from s2pg.data.sequences import Sequences, cut, shuffled
from s2pg.hyperparameters import PPOConfig
from s2pg.policy import Decision, Policy
from s2pg.types import GROUPS, View


def advantages(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, done: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016), all `[T, N]`.

    delta_t = r_t + gamma (1 - terminated_t) V(x_{t+1}) - V(x_t);  A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}.
    Truncation ends the sum over deltas but keeps the bootstrap; termination ends both.
    """
    delta = reward + gamma * next_value * ~terminated - value
    decay = gamma * lam * ~done
    result, following = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        following = result[t] = delta[t] + decay[t] * following
    return result


def surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped objective as a loss, `[n], [n] -> []`."""
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


class Batch(NamedTuple):
    """A rollout ready to learn from, flattened to rows `[M = T * N, ...]`."""

    obs: Tensor
    critic_obs: Tensor
    start: Tensor
    z: Tensor
    critic_z: Tensor
    u: Tensor
    mean: Tensor
    log_prob: Tensor  # [M, G] of u when acting
    advantage: Tensor
    target: Tensor  # of the value

    def minibatches(self, sequences: Sequences, terms: int, generator: torch.Generator) -> Iterator[Minibatch]:
        """Shuffled sequences with about `terms` loss terms at a time."""
        if sequences.rows.shape[1] == 1:  # steps of their own: shuffle every column once, then slice
            rows = sequences.rows[shuffled(sequences, generator), 0]
            for part in zip(*(column[rows].split(terms) for column in self), strict=True):
                yield Batch(*part).minibatch()
        else:
            for chosen in sequences.minibatches(terms, generator):
                yield self.take(chosen)

    def take(self, chosen: Sequences) -> Minibatch:
        """What the losses need of these sequences."""
        first, start = chosen.rows[:, 0], self.start[chosen.rows]
        view = View(self.obs[chosen.rows], start, self.z[first], chosen.keep)
        critic_view = View(self.critic_obs[chosen.rows], start, self.critic_z[first], chosen.keep)
        rows = chosen.rows[chosen.keep]
        return Minibatch(view, critic_view, *(column[rows] for column in self[5:]))

    def minibatch(self) -> Minibatch:
        """Every row as a sequence of one step."""
        start = self.start.unsqueeze(-1)
        view = View(self.obs.unsqueeze(-2), start, self.z)
        return Minibatch(view, View(self.critic_obs.unsqueeze(-2), start, self.critic_z), *self[5:])


class Minibatch(NamedTuple):
    """Sequences to read and, for the n steps that count, what was done and came of it."""

    view: View
    critic_view: View
    u: Tensor
    mean: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor


class PPO:
    """Adam on the surrogate and on the squared error of V, several passes over each rollout.

    Args:
        policy, critic: separate networks; the critic sees z if the policy decides on it (augmented MDP).
        hparams: see `PPOConfig`.
        sight: observation keys that (policy, critic) read.
        loss_on: "last" (a sequence per step, the reference's BPTT) or "all" (chunks, a loss at every step).
    """

    def __init__(
        self, policy: Policy, critic: Critic, hparams: PPOConfig, sight: tuple[str, str], loss_on: str = "last"
    ) -> None:
        self.policy, self.critic, self.hparams, self.sight, self.loss_on = policy, critic, hparams, sight, loss_on
        groups: dict[float, list[Tensor]] = {}  # by learning rate: one fused step does for both where they agree
        for module, lr in ((policy, hparams.lr_policy), (critic, hparams.lr_value)):
            groups.setdefault(lr, []).extend(module.parameters())
        self.optimiser = torch.optim.Adam([{"params": p, "lr": lr} for lr, p in groups.items()], fused=True)

    def update(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        """Learn from a rollout; returns what is worth logging, averaged over the last pass."""
        with torch.no_grad():
            batch, metrics = self.prepare(rollout)
        acted = Decision(batch.mean, self.policy.spread.detach().clone(), self.policy.actions, batch.z)
        sequences = cut(rollout.start, self.policy.memory.context, self.loss_on)
        logs: list[dict[str, Tensor]] = []
        for index in range(self.hparams.passes):
            last = index == self.hparams.passes - 1
            for part in batch.minibatches(sequences, self.hparams.minibatch, generator):
                terms = self.losses(part)
                norms = self._descend(terms.policy + terms.value, measure=last)
                if last:
                    logs.append(diagnostics(terms, acted._replace(mean=part.mean), self.hparams.clip) | norms)
        metrics |= {key: torch.stack([log[key] for log in logs]).mean().item() for key in logs[0]}
        metrics["data/padding"] = sequences.padding
        return finite(metrics)

    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """Values, advantages and log-probabilities of the policy that acted."""
        value, next_value = self.values(rollout)
        hp = self.hparams
        raw = advantages(rollout.reward, value, next_value, rollout.terminated, rollout.done, hp.gamma, hp.gae_lambda)
        target = raw + value
        acted = Decision(rollout.mean, self.policy.spread, self.policy.actions, rollout.z)
        columns = (
            rollout.obs[self.sight[0]],
            self.critic_obs(rollout.obs[self.sight[1]], rollout.z),
            rollout.start,
            rollout.z,
            rollout.critic_z,
            rollout.u,
            rollout.mean,
            acted.log_prob(rollout.u),
            self.scaled(raw),
            target,
        )
        explained = 1 - (target - value).var() / target.var().clamp(min=1e-8)
        return Batch(*(x.flatten(0, 1) for x in columns)), {"value/explained_variance": float(explained)}

    def scaled(self, advantage: Tensor) -> Tensor:
        """Advantages as the surrogate takes them: with mean 0 and standard deviation 1."""
        return (advantage - advantage.mean()) / (advantage.std() + 1e-8)

    def critic_obs(self, obs: Tensor, z: Tensor) -> Tensor:
        """What the critic observes, `[*, O], [*, Z] -> [*, Oc]`: z too where it is part of the augmented state."""
        return torch.cat([obs, z], -1) if self.policy.memory.decided else obs

    def values(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """V at every step and at its true successor, `[T, N]` each, read with the memories that the loop carried."""
        here = self.critic_obs(rollout.obs[self.sight[1]], rollout.z).unsqueeze(-2)
        there = self.critic_obs(rollout.next_obs[self.sight[1]], rollout.z_next).unsqueeze(-2)
        start = rollout.start.unsqueeze(-1)
        value = self.critic(View(here, start, rollout.critic_z))[0]
        next_value = self.critic(View(there, torch.zeros_like(start), rollout.critic_z_next))[0]
        return value, next_value

    def losses(self, part: Minibatch) -> Terms:
        """The two losses of a minibatch; policy and critic share no parameter."""
        decision = self.policy(part.view)
        log_ratio = decision.log_prob(part.u) - part.log_prob
        policy = surrogate(log_ratio.sum(-1), part.advantage, self.hparams.clip)
        if self.hparams.entropy:
            policy = policy - self.hparams.entropy * decision.entropy().sum()
        value = (self.critic(part.critic_view) - part.target).square().mean()
        return Terms(policy, value, log_ratio, decision)

    def _descend(self, loss: Tensor, measure: bool) -> dict[str, Tensor]:
        self.optimiser.zero_grad()
        loss.backward()
        limit, norms = self.hparams.max_grad_norm, {}
        if limit or measure:
            for name, module in (("policy", self.policy), ("value", self.critic)):
                norms[f"grad_norm/{name}"] = torch.nn.utils.clip_grad_norm_(module.parameters(), limit or float("inf"))
        self.optimiser.step()
        return norms

    def state_dict(self, resumable: bool = True) -> dict:
        """What learning changes, beside the networks of the agent; the same whether or not learning is to go on."""
        return self.optimiser.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.optimiser.load_state_dict(state)


class Terms(NamedTuple):
    """Losses of a minibatch, with what diagnostics need."""

    policy: Tensor
    value: Tensor
    log_ratio: Tensor  # [n, G]
    decision: Decision


@torch.no_grad()
def diagnostics(terms: Terms, acted: Decision, clip: float) -> dict[str, Tensor]:
    """Log ratio, clip fraction, KL(acted || now), sigma and entropy per group: does the clip get spent on z'?"""
    clipped = (terms.log_ratio.exp() - 1).abs() > clip
    joint = (terms.log_ratio.sum(-1).exp() - 1).abs() > clip
    kl, entropy = acted.kl(terms.decision).mean(0), terms.decision.entropy()
    logs = {"loss/policy": terms.policy, "loss/value": terms.value, "policy/clip_fraction/joint": joint.float().mean()}
    sigma = terms.decision.log_sigma.exp().split([acted.actions, len(acted.log_sigma) - acted.actions])
    for index, group in enumerate(GROUPS):
        if not len(sigma[index]):
            continue
        logs[f"policy/log_ratio/{group}"] = terms.log_ratio[:, index].abs().mean()
        logs[f"policy/clip_fraction/{group}"] = clipped[:, index].float().mean()
        logs[f"policy/kl/{group}"] = kl[index]
        logs[f"policy/entropy/{group}"] = entropy[index]
        logs[f"policy/sigma/{group}"] = sigma[index].mean()
    return logs
