"""Twin delayed deterministic policy gradient (Fujimoto et al. 2018), once for every memory.

    Q(x, u)  <-  r + gamma (1 - terminated) min_e Q'_e(x', clip(mu'(x') + smoothing noise))
    mu       <-  max E[ mean_e Q_e(x, mu(x)) ], at every `delay`-th step           mu(x) = (a, z')

On the augmented MDP, dQ/dz' is the costate that BPTT would unroll; noise falls on z' as on a, each within its range.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s2pg.algorithms.offpolicy import OffPolicy, Target, Transitions, frozen
from s2pg.critic import Critic
from s2pg.data.replay import Replay
from s2pg.hyperparameters import TD3Config
from s2pg.policy import Decision, Policy


def target_value(reward: Tensor, terminated: Tensor, q: Tensor, gamma: float) -> Tensor:
    """r + gamma (1 - terminated) min_e q, `[n]`; q `[E, n]`."""
    return reward + gamma * ~terminated * q.min(0).values


def smoothed(decision: Decision, sigma: Tensor, limit: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The decision's mean with clipped noise, inside its range, `[n, D]`; sigma and limit `[D]`."""
    noise = sigma * torch.randn(decision.mean.shape, generator=generator, device=decision.mean.device)
    return decision._replace(mean=decision.mean + torch.minimum(torch.maximum(noise, -limit), limit)).mode


class TD3(OffPolicy):
    """The losses above, with `hparams` of `TD3Config`; both targets follow at every step, as in the reference.

    Arguments as `OffPolicy`, and `scale`: half the action range `[A]`, the unit of noise on actions.
    """

    hparams: TD3Config

    def __init__(
        self,
        policy: Policy,
        critic: Critic,
        replay: Replay,
        hparams: TD3Config,
        sight: tuple[str, str],
        loss_on: str = "last",
        scale: Tensor | float = 1.0,
    ) -> None:
        super().__init__(policy, critic, replay, hparams, sight, loss_on)
        self.target_policy = self.targets["policy"] = Target(policy, hparams.tau)
        hp, device = hparams, replay.device
        unit = torch.as_tensor(scale, dtype=torch.float32, device=device).expand(policy.actions)
        one = torch.ones(policy.memory.decided, device=device)
        self.sigma = torch.cat([hp.smoothing_action * unit, hp.smoothing_memory * one])
        self.limit = torch.cat([hp.smoothing_action_clip * unit, hp.smoothing_memory_clip * one])

    def learn(self, batch: Transitions, generator: torch.Generator) -> dict[str, Tensor]:
        """One gradient step of the critic and, every `delay` steps, of the policy."""
        features, logs = self.fit(batch, self.target(batch, generator))
        if self.learned % self.hparams.delay == 0:
            logs |= self._improve(batch, features, generator)
        self.target_critic.follow()
        self.target_policy.follow()
        return logs

    @torch.no_grad()
    def target(self, batch: Transitions, generator: torch.Generator) -> Tensor:
        """What Q should be at the batch's decisions, `[n]`."""
        policy = self.target_policy.module
        carry = batch.u[:, :0] if policy.memory.decided else policy.memory.read(*batch.view)[1]
        u = smoothed(policy(batch.successor(policy, carry)), self.sigma, self.limit, generator)
        q = self.target_critic.module(batch.next_critic_view, u)
        return target_value(batch.reward, batch.terminated, q, self.hparams.gamma)

    def _improve(self, batch: Transitions, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        decision = self.policy(batch.view)
        with frozen(self.critic):
            loss = -self.critic.values(features, decision.mode).mean()
        self.descend("policy", loss)
        if self.hparams.refresh and self.policy.memory.decided:
            fresh = decision.rsample(generator).detach()[:, self.policy.actions :]
            self.replay.relabel(batch.rows, fresh)
        return {"loss/policy": loss}
