"""Generative adversarial imitation (Ho & Ermon 2016): PPO with a reward that is learned, once for every memory.

    D      <-  min  E_{policy and expert}[ BCE(sigma(D), 1 if the expert's) ] - c E[ H(sigma(D)) ]
    pi, V  <-  PPO's update with r = -log(1 - sigma(D) + 1e-8)

D sees (s, a) or (s, s'); s is what the critic observes of the environment, the state where it is privileged. It sees
neither z, which an expert has not got, nor the previous action. S2PG is this file on the augmented MDP, nothing more.

As in the reference, the step that ends an episode has a reward like any other. After it comes V(s') if it was truncated
and nothing if it terminated: no reward is learned for being dead (Kostrikov et al. 2019 learn one). So the sign of r
says whether survival is rewarded, see `imitation_reward`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from s2pg.algorithms.finite import finite
from s2pg.algorithms.ppo import PPO
from s2pg.data.normaliser import Normaliser
from s2pg.data.replay import Replay
from s2pg.data.rollout import Rollout
from s2pg.hyperparameters import GAILConfig
from s2pg.nets import linear
from s2pg.policy import Clamp

Form = Literal["softplus", "log", "logit", "least_squares"]


def bernoulli_entropy(logit: Tensor) -> Tensor:
    """H(sigma(D)) in nats, elementwise."""
    return softplus(logit) - logit * torch.sigmoid(logit)


def discriminator_loss(expert: Tensor, policy: Tensor, entropy: float, form: Form) -> Tensor:
    """What D minimises, of logits `[n]` on steps of the expert and `[n]` on steps of the policy.

    Binary cross-entropy minus `entropy` times the mean entropy; E_expert[(D - 1)^2] + E_policy[(D + 1)^2] for the form
    `least_squares`, which has no use for `entropy`.
    """
    if form == "least_squares":
        return (expert - 1).square().mean() + (policy + 1).square().mean()
    cross_entropy = torch.cat([softplus(-expert), softplus(policy)])
    return cross_entropy.mean() - entropy * bernoulli_entropy(torch.cat([expert, policy])).mean()


def imitation_reward(logit: Tensor, form: Form) -> Tensor:
    """The reward of a step that D says this of, elementwise. An episode's end is worth 0.

    softplus: -log(1 - sigma(D) + 1e-8), the reference's, in (0, 18.5): every step pays, so survival is rewarded.
    log: log(sigma(D) + 1e-8), in (-18.5, 0): every step costs, so a quick end is rewarded.
    logit: D, AIRL's (Fu et al. 2018), of either sign: neither is rewarded where D cannot tell.
    least_squares: max(0, 1 - (D - 1)^2 / 4), in [0, 1]: survival is rewarded.
    """
    if form == "softplus":
        return -torch.log(torch.sigmoid(-logit) + 1e-8)  # 1 - sigma(D) = sigma(-D), without rounding to 0
    if form == "log":
        return torch.log(torch.sigmoid(logit) + 1e-8)
    if form == "logit":
        return logit
    return (1 - (logit - 1).square() / 4).clamp(min=0)


class Discriminator(nn.Module):
    """D, a tanh network, `[*, X] -> [*]`; weights as the reference draws them (the last layer's ten times smaller).

    Args:
        inputs: X, of (s, a) or of (s, s').
        head: hidden widths.
    """

    def __init__(self, inputs: int, head: list[int]) -> None:
        super().__init__()
        hidden = [layer for pair in pairwise([inputs, *head]) for layer in (linear(*pair, gain=5 / 3), nn.Tanh())]
        self.layers = nn.Sequential(*hidden, linear([inputs, *head][-1], 1, gain=0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(-1)


class GAIL:
    """PPO's update on D's rewards, then gradient steps of D on the rollout's steps against the expert's.

    Args:
        ppo: learns from the rollouts; its critic's sight is D's.
        expert: what the expert did, observations as they were.
        normaliser: of the observations that D sees. It moves with the policy's rollouts alone.
        box: the action range. D sees actions as the environment applies them, cut off to it (the reference: as they
            are), so that a policy cannot be told by its noise beyond. So too in LinearGaussian, which cuts nothing off.
    """

    def __init__(self, ppo: PPO, hparams: GAILConfig, expert: Replay, normaliser: Normaliser, box: Clamp) -> None:
        self.ppo, self.hparams, self.expert, self.normaliser, self.box = ppo, hparams, expert, normaliser, box
        self.key, self.updates = ppo.sight[1], 0
        self.acted = copy.deepcopy(normaliser)  # with the statistics that acted; the other one has moved since
        env, actions = normaliser.width.env, ppo.policy.actions
        other = actions if hparams.discriminator_sees == "action" else env
        self.discriminator = Discriminator(env + other, list(hparams.discriminator_head)).to(expert.device)
        self.optimiser = torch.optim.Adam(self.discriminator.parameters(), hparams.lr_discriminator, fused=True)

    def update(self, rollout: Rollout, generator: torch.Generator) -> dict[str, float]:
        """Learn from a rollout, whose own rewards are not read; returns what is worth logging."""
        x = self.of_policy(rollout)
        with torch.no_grad():
            reward = imitation_reward(self.discriminator(x), self.hparams.imitation_reward)
        metrics = self.ppo.update(replace(rollout, reward=reward), generator)
        metrics["imitation/reward"] = reward.mean().item()
        self.updates += 1
        if self.updates % self.hparams.discriminator_every == 0:
            metrics |= self._discriminate(x.flatten(0, 1), generator)
        self.acted.load_state_dict(self.normaliser.state_dict())
        return finite(metrics)

    def of_policy(self, rollout: Rollout) -> Tensor:
        """What D sees of a rollout, `[T, N, X]`."""
        action = rollout.u[..., : self.ppo.policy.actions]
        return self._see(rollout.obs[self.key], action, rollout.next_obs[self.key])

    def of_expert(self, number: int, generator: torch.Generator) -> Tensor:
        """What D sees of so many steps of the expert's, drawn uniformly, `[number, X]`."""
        expert = self.expert
        rows = expert.contexts(expert.sample(number, 1, generator), 1).squeeze(-1)
        obs, next_obs = (self.acted(expert.obs[self.key][at]) for at in (rows, expert.next(rows)))
        return self._see(obs, expert.action[rows], next_obs)

    def _see(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        env = self.normaliser.width.env
        other = self.box(action) if self.hparams.discriminator_sees == "action" else next_obs[..., :env]
        return torch.cat([obs[..., :env], other], -1)

    def _discriminate(self, x: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Gradient steps of D, on the policy's steps `x [M, X]`; what is logged is from before each."""
        hp, logs = self.hparams, []
        for _ in range(hp.discriminator_passes):
            drawn = torch.randperm(len(x), generator=generator, device=x.device)[: hp.discriminator_batch]
            both = torch.stack([self.of_expert(len(drawn), generator), x[drawn]])
            expert, policy = self.discriminator(both)
            loss = discriminator_loss(expert, policy, hp.discriminator_entropy, hp.imitation_reward)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            right = (expert > 0).float().mean(), (policy < 0).float().mean()
            logs.append(torch.stack([loss, *right, expert.mean() - policy.mean()]).detach())
        names = ("loss", "accuracy/expert", "accuracy/policy", "logit_gap")
        values = torch.stack(logs).mean(0).tolist()
        return {f"discriminator/{name}": value for name, value in zip(names, values, strict=True)}

    def state_dict(self, resumable: bool = True) -> dict:
        """What learning changes, beside the networks of the agent and the expert's data, which do not change."""
        return {
            "ppo": self.ppo.state_dict(resumable),
            "discriminator": self.discriminator.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "updates": self.updates,
            "acted": self.acted.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.ppo.load_state_dict(state["ppo"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.updates = state["updates"]
        self.acted.load_state_dict(state["acted"])
