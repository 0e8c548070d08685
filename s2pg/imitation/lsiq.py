"""LS-IQ (Al-Hafez et al. 2023) and IQ-Learn (Garg et al. 2021): SAC with another critic loss, once for every memory.

A batch holds steps of the policy (P) and of an expert (E). Rewards are what the critic implies,
r = Q(x, u) - y; a chi-squared regulariser of weight c keeps them in [-1/c, 1/c], so |Q| <= Q_max = 1 / (c (1 - gamma)).

    V'(x') =  min_e Q'_e(x', u') - sum_g w_g alpha_g log pi_g(u'|x'), clipped to +-Q_max;  y = gamma (1 - d) V'(x')
    LS-IQ     E_E[(Q - Q_max)^2] + E_P[(Q - (-1/c + y))^2]      the expert's target "fixed"; "bootstrap": 1/c + y
    IQ        -E_E[Q - y] + E_PE[V - y] + c E_PE[(Q - y)^2]     the value term also on E alone, or (1 - gamma) E_E[V]

A terminal step (d) counts as one that is repeated for ever (`absorbing`): its target is r / (1 - gamma), and in IQ's
regulariser (Q - y)^2 is sum_t gamma^t r^2 = (1 - gamma) Q^2. Policy and temperatures learn as SAC's, the policy from
the states of both, the temperatures from its own. The memory z that goes with an expert's step is the policy's: first
of the initial policy along the expert's episodes (`retrace`), then refreshed with every batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from s2pg.algorithms.offpolicy import Sampler, Transitions
from s2pg.algorithms.sac import SAC, Sample
from s2pg.critic import Critic
from s2pg.data.replay import Replay
from s2pg.hyperparameters import LSIQConfig
from s2pg.imitation.retrace import retrace
from s2pg.policy import Policy
from s2pg.types import View


def lsiq_targets(value: Tensor, terminated: Tensor, own: int, hp: LSIQConfig) -> Tensor:
    """What LS-IQ's Q should be, `[n]`: of the policy's steps, which are the first `own`, and of the expert's.

    `value [n]` is V'(x'), `terminated [n]`.
    """
    reward = torch.full_like(value, 1 / hp.regulariser)
    reward[:own] *= -1
    target = reward + hp.gamma * ~terminated * value
    if hp.absorbing:
        target = torch.where(terminated, reward / (1 - hp.gamma), target)
    if hp.expert_target == "fixed":
        target[own:] = reward[own:] / (1 - hp.gamma)
    return target


def lsiq_loss(q: Tensor, target: Tensor, own: int) -> Tensor:
    """E_E[(Q - target)^2] + E_P[(Q - target)^2], summed over critics; q `[E, n]`, target `[n]`."""
    error = (q - target).square()
    return (error[:, :own].mean(-1) + error[:, own:].mean(-1)).sum()


def iq_loss(q: Tensor, v: Tensor, y: Tensor, terminated: Tensor, own: int, hp: LSIQConfig) -> Tensor:
    """IQ-Learn's loss, summed over critics; q of what was done and v of the policy's own choice `[E, n]`, y `[n]`."""
    reward, later = q - y, (1 - hp.gamma if hp.absorbing else 1.0)
    gain = {"value": v - y, "value_expert": (v - y)[:, own:], "v0": (1 - hp.gamma) * v[:, own:]}[hp.iq_value]
    penalty = torch.where(terminated, later, 1.0) * reward.square()
    penalty = penalty[:, own:] if hp.iq_regularised == "expert" else penalty
    return (-reward[:, own:].mean(-1) + gain.mean(-1) + hp.regulariser * penalty.mean(-1)).sum()


class LSIQ(SAC):
    """SAC whose critic learns from the losses above instead of from rewards.

    Args:
        expert: its episodes, with observations as the networks read them; never overwritten but for its memory.
        hparams: see `LSIQConfig`. Others as `OffPolicy`.
    """

    hparams: LSIQConfig

    def __init__(
        self,
        policy: Policy,
        critic: Critic,
        replay: Replay,
        expert: Replay,
        hparams: LSIQConfig,
        sight: tuple[str, str],
        loss_on: str = "last",
    ) -> None:
        super().__init__(policy, critic, replay, hparams, sight, loss_on)
        self.expert, batch = expert, replace(hparams, batch=hparams.expert_batch)
        self.expert_sampler = Sampler(expert, policy, critic, sight, batch, loss_on)
        if not policy.memory.recalls:
            retrace(policy, expert, sight[0])

    def sample(self, generator: torch.Generator) -> Transitions:
        """Steps of the policy, then steps of the expert, in one batch: the networks run once for both."""
        return joined(self.sampler(generator), self.expert_sampler(generator))

    def judge(self, batch: Transitions, sample: Sample, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """A step of the critic on LS-IQ's or IQ-Learn's loss."""
        hp, own = self.hparams, batch.own
        value, q_max = self.next_value(batch, sample.carry, generator), 1 / (hp.regulariser * (1 - hp.gamma))
        clipped = value.clamp(-q_max, q_max) if hp.clip_target else value
        features = self.critic.memory.read(*batch.critic_view)[0]
        q, y = self.critic.values(features, batch.u), hp.gamma * ~batch.terminated * clipped
        if hp.imitation_loss == "lsiq":
            loss = lsiq_loss(q, lsiq_targets(clipped, batch.terminated, own, hp), own)
        else:
            entropy = -sample.log_prob.detach() @ (self.backup * self.alpha)
            v = self.critic.values(features, sample.u.detach()) + entropy
            loss = iq_loss(q, v, y, batch.terminated, own, hp)
        self.descend("value", loss)
        implied, worth = (q - y).mean(0), q.mean(0)
        logs = {"loss/value": loss, "value/clipped": (value.abs() > q_max).float().mean()}
        for name, part in (("policy", slice(own)), ("expert", slice(own, None))):
            logs |= {f"value/{name}": worth[part].mean(), f"reward/{name}": implied[part].mean()}
        return features.detach(), logs

    def refresh(self, batch: Transitions, z: Tensor) -> None:
        """As `SAC.refresh`; the memory of the expert's steps is renewed also where it is not decided on."""
        super().refresh(batch, z)
        if not self.policy.memory.recalls:
            self.expert.relabel(batch.rows[batch.own :], z[batch.own :])

    def state_dict(self, resumable: bool = True) -> dict:
        """As `SAC.state_dict`, and the memory of the expert's steps if learning is to go on."""
        return super().state_dict(resumable) | ({"expert_z": self.expert.z} if resumable else {})

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        if "expert_z" in state:
            self.expert.z = state["expert_z"].to(self.expert.z, copy=True)


def joined(own: Transitions, expert: Transitions) -> Transitions:
    """One batch of both, the policy's own steps first."""

    def both(a: Any, b: Any) -> Any:
        if isinstance(a, View):
            return View(*map(both, a, b))
        return a if a is None or isinstance(a, int) else torch.cat([a, b])  # the number of own steps stays

    return Transitions(*map(both, own, expert))
