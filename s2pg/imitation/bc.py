"""Behavioural cloning, once for every memory: the expert's actions are made likely given what the policy remembers.

With a_t the expert's actions, o_t what was observed, and memories z_{t+1} ~ pi(.|o_t, z_t) of the policy,

    J      = E[ sum_t log pi(a_t|o_t, z_t) ]
    grad J = E[ sum_t grad log pi(a_t|o_t, z_t) + sum_t grad log pi(z_{t+1}|o_t, z_t) (R_t - b(s_t, z_t)) ]
    R_t    = sum_{k > t} log pi(a_k|o_k, z_k)

Nothing but the memories is random: (o, a) are data. The gradient of an expectation is that of its argument, and the
argument times the score of what is random, sum_t grad log pi(z_{t+1}|.); the score at t has no covariance with terms
up to t, nor with b, because its mean given (o_t, z_t) is zero. So what to remember is a decision whose reward is how
likely the expert's next action becomes: PPO's machinery, with the surrogate on the memory's ratio and V(s, z) as b,
beside the likelihood of the actions. A memory that is not decided on has no score, and the gradient of the first sum
passes through the steps that learning unrolls (BPTT).
"""

from __future__ import annotations

import torch
from torch import Tensor

from s2pg.algorithms.ppo import PPO, Batch, Minibatch, Terms, surrogate
from s2pg.critic import Critic
from s2pg.data.replay import Replay
from s2pg.data.rollout import Rollout, Stopwatch
from s2pg.hyperparameters import BCConfig
from s2pg.imitation.retrace import retrace
from s2pg.policy import Decision, Policy
from s2pg.types import View


class BC(PPO):
    """PPO on rollouts along the expert's episodes; needs no environment.

    Args:
        expert: its episodes, with observations as the networks read them; never overwritten but for its memory.
        hparams: see `BCConfig`. Others as `PPO`; the critic learns only where the policy decides on its memory.
    """

    hparams: BCConfig

    def __init__(
        self,
        policy: Policy,
        critic: Critic,
        expert: Replay,
        hparams: BCConfig,
        sight: tuple[str, str],
        loss_on: str = "last",
    ) -> None:
        super().__init__(policy, critic, hparams, sight, loss_on)
        self.expert, self.decides = expert, policy.memory.decided > 0
        self._rows = expert.valid.nonzero().flatten()  # of the expert's steps, in order
        retrace(policy, expert, sight[0])

    def collect(self, steps: int, generator: torch.Generator, watch: Stopwatch) -> Rollout:
        """`num_envs` pieces of the expert's episodes, of `steps` steps each, that begin at steps drawn uniformly."""
        watch.start()
        first = torch.randint(len(self._rows), (self.hparams.num_envs,), generator=generator, device=self._rows.device)
        ahead = torch.arange(steps, device=self._rows.device).unsqueeze(-1)
        rollout = self.follow(self._rows[(first + ahead) % len(self._rows)], generator)
        watch.lap("acting")
        return rollout

    @torch.no_grad()
    def follow(self, rows: Tensor, generator: torch.Generator) -> Rollout:
        """The expert's steps in `rows [T, N]`, with memories of today's policy after the first of them.

        A column may end one episode and begin the next. The reward of a step is the log-likelihood of the action after
        it; with an episode's last step it ends.
        """
        expert, path = self.expert, torch.cat([rows, self.expert.next(rows[-1:])])
        z, trace = expert.z[rows[0]], []
        for here in path:
            start = (expert.position[here] == 0).unsqueeze(-1)
            z = z.masked_fill(start, 0.0)
            decision = self.policy(View(expert.obs[self.sight[0]][here].unsqueeze(-2), start, z))
            trace.append((z, decision.mean, self.policy.remember(decision, decision.rsample(generator))))
            z = trace[-1][-1]
        before, mean, after = (torch.stack(column) for column in zip(*trace, strict=True))
        expert.relabel(rows, after[:-1])
        u = torch.cat([expert.action[path], after[..., : self.policy.memory.decided]], -1)
        likelihood = Decision(mean, self.policy.spread, self.policy.actions, after).log_prob(u)[..., 0]
        following, none = expert.next(rows), self.critic.memory.initial(*rows.shape)
        ended = ~expert.valid[following]
        return Rollout(
            obs={key: column[rows] for key, column in expert.obs.items()},
            next_obs={key: column[following] for key, column in expert.obs.items()},
            start=expert.position[rows] == 0,
            z=before[:-1],
            z_next=after[:-1],
            critic_z=none,
            critic_z_next=none,
            u=u[:-1],
            mean=mean[:-1],
            reward=torch.where(ended, 0.0, likelihood[1:]),
            terminated=ended,
            done=ended,
        )

    def scaled(self, advantage: Tensor) -> Tensor:
        """As they are: the likelihood of the actions is in the same units."""
        return advantage

    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """As `PPO.prepare`; also how likely the expert's actions are."""
        batch, metrics = super().prepare(rollout)
        metrics = metrics if self.decides else {}
        return batch, metrics | {"likelihood/expert": float(batch.log_prob[:, 0].mean())}

    def losses(self, part: Minibatch) -> Terms:
        """Minus the log-likelihood of the actions, the surrogate of the memory, and the error of V."""
        decision = self.policy(part.view)
        log_prob = decision.log_prob(part.u)
        log_ratio, loss, value = log_prob - part.log_prob, -log_prob[:, 0].mean(), torch.zeros(())
        if self.decides:
            loss = loss + surrogate(log_ratio[:, 1], part.advantage, self.hparams.clip)
            value = (self.critic(part.critic_view) - part.target).square().mean()
        return Terms(loss, value, log_ratio, decision)

    def state_dict(self, resumable: bool = True) -> dict:
        """As `PPO.state_dict`, and the memory of the expert's steps if learning is to go on."""
        state = {"ppo": super().state_dict(resumable)}
        return state | ({"expert_z": self.expert.z} if resumable else {})

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state["ppo"])
        if "expert_z" in state:
            self.expert.z = state["expert_z"].to(self.expert.z, copy=True)
