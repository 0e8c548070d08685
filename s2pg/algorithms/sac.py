"""Soft actor-critic (Haarnoja et al. 2018), once for every memory, with a temperature per group (action, memory).

    Q(x, u)       <-  r + gamma (1 - terminated) [ min_e Q'_e(x', u') - sum_g w_g alpha_g log pi_g(u'|x') ]
    pi            <-  min E[ sum_g alpha_g log pi_g(u|x) - min_e Q_e(x, u) ]      u = (a, z') reparameterised
    log alpha_g   <-  min E[ -log alpha_g (log pi_g + H_g) ]

S2PG is this file on the augmented MDP; w is `backup`, (1, 0) in the reference: z' earns no entropy in the target.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from s2pg.algorithms.offpolicy import OffPolicy, Transitions, frozen
from s2pg.critic import Critic
from s2pg.data.replay import Replay
from s2pg.hyperparameters import SACConfig
from s2pg.policy import Policy
from s2pg.types import GROUPS


def soft_value(q: Tensor, log_prob: Tensor, alpha: Tensor, backup: Tensor) -> Tensor:
    """min_e q - sum_g backup_g alpha_g log_prob_g, `[n]`; q `[E, n]`, log_prob `[n, G]`."""
    return q.min(0).values - log_prob @ (backup * alpha)


def soft_target(reward: Tensor, terminated: Tensor, value: Tensor, gamma: float) -> Tensor:
    """r + gamma (1 - terminated) V(x'), `[n]`."""
    return reward + gamma * ~terminated * value


def policy_loss(q: Tensor, log_prob: Tensor, alpha: Tensor) -> Tensor:
    """E[ sum_g alpha_g log_prob_g - min_e q ]; q `[E, n]`, log_prob `[n, G]`, alpha `[G]`."""
    return (log_prob @ alpha - q.min(0).values).mean()


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: Tensor) -> Tensor:
    """Lowers alpha_g where the entropy of group g is above its target; all `[*, G]`."""
    return -(log_alpha * (log_prob + target_entropy).detach()).sum(-1).mean()


class Sample(NamedTuple):
    """A decision of today's policy in every view of a batch."""

    u: Tensor  # [n, D], reparameterised
    log_prob: Tensor  # [n, G]
    carry: Tensor  # [n, Z] the memory's own next state


class SAC(OffPolicy):
    """The losses above, with `hparams` of `SACConfig`; arguments as `OffPolicy`."""

    hparams: SACConfig

    def __init__(
        self,
        policy: Policy,
        critic: Critic,
        replay: Replay,
        hparams: SACConfig,
        sight: tuple[str, str],
        loss_on: str = "last",
    ) -> None:
        super().__init__(policy, critic, replay, hparams, sight, loss_on)
        hp, device = hparams, replay.device
        self.log_alpha = [
            nn.Parameter(torch.tensor(math.log(one), device=device)) for one in (hp.temperature, hp.temperature_memory)
        ]
        self.backup = torch.tensor(hp.backup, device=device)
        sizes = (policy.actions, policy.memory.decided)
        per_dimension = (hp.target_entropy, hp.target_entropy_memory)
        self.target_entropy = torch.tensor([a * b for a, b in zip(sizes, per_dimension, strict=True)], device=device)
        rates = zip(self.log_alpha, (hp.lr_temperature, hp.lr_temperature_memory), strict=True)
        groups = [{"params": [p], "lr": lr} for p, lr in rates]
        self.optimisers["temperature"] = torch.optim.Adam(groups, fused=True)

    @property
    def alpha(self) -> Tensor:
        """Temperatures `[G]`."""
        return torch.stack([one.detach() for one in self.log_alpha]).exp()

    def learn(self, batch: Transitions, generator: torch.Generator) -> dict[str, Tensor]:
        """One gradient step of the critic and, after `warmup_policy`, of policy and temperatures."""
        decision = self.policy(batch.view)
        u, log_prob = decision.rsample_with_log_prob(generator)
        sample = Sample(u, log_prob, decision.carry.detach())
        features, logs = self.judge(batch, sample, generator)
        if self.steps > self.hparams.warmup_policy:
            logs |= self._improve(features, sample, batch.own)
        if self.hparams.refresh:
            self.refresh(batch, self.policy.remember(decision, u).detach())
        self.target_critic.follow()
        return logs

    def judge(self, batch: Transitions, sample: Sample, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """A step of the critic; what its memory made of the views `[n, X]`, and what to log."""
        return self.fit(batch, self.target(batch, sample.carry, generator))

    def target(self, batch: Transitions, carry: Tensor, generator: torch.Generator) -> Tensor:
        """What Q should be at the batch's decisions, `[n]`."""
        value = self.next_value(batch, carry, generator)
        return soft_target(batch.reward, batch.terminated, value, self.hparams.gamma)

    @torch.no_grad()
    def next_value(self, batch: Transitions, carry: Tensor, generator: torch.Generator) -> Tensor:
        """V(x') of the target critics, entropies included, `[n]`; `carry [n, Z]` as in `Transitions.successor`."""
        u, log_prob = self.policy(batch.successor(self.policy, carry)).rsample_with_log_prob(generator)
        return soft_value(self.target_critic.module(batch.next_critic_view, u), log_prob, self.alpha, self.backup)

    def refresh(self, batch: Transitions, z: Tensor) -> None:
        """Replace the stored z' of the policy's own steps in the batch by `z [n, Z]`, where it decides on z'."""
        if self.policy.memory.decided:
            self.replay.relabel(batch.rows[: batch.own], z[: batch.own])

    def _improve(self, features: Tensor, sample: Sample, own: int) -> dict[str, Tensor]:
        with frozen(self.critic):
            loss = policy_loss(self.critic.values(features, sample.u), sample.log_prob, self.alpha)
        self.descend("policy", loss)
        log_prob = sample.log_prob[:own]
        self.descend("temperature", temperature_loss(torch.stack(self.log_alpha), log_prob, self.target_entropy))
        logs, entropy, alpha = {"loss/policy": loss}, -log_prob.detach().mean(0), self.alpha
        for index, group in enumerate(GROUPS):
            if index == 0 or self.policy.memory.decided:
                logs |= {f"policy/entropy/{group}": entropy[index], f"policy/temperature/{group}": alpha[index]}
        return logs

    def state_dict(self, resumable: bool = True) -> dict:
        """As `OffPolicy.state_dict`, and the temperatures."""
        return super().state_dict(resumable) | {"log_alpha": [one.detach() for one in self.log_alpha]}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        for parameter, value in zip(self.log_alpha, state["log_alpha"], strict=True):
            parameter.data.copy_(value)
