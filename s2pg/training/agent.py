"""What is trained: policy, critic, algorithm and the observation statistics they act with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from s2pg.algorithms.offpolicy import OffPolicy
from s2pg.algorithms.ppo import PPO
from s2pg.critic import Critic
from s2pg.data.normaliser import Normaliser
from s2pg.imitation.gail import GAIL
from s2pg.types import View


@dataclass
class Agent:
    """A policy and what trains it: nothing for the random anchor, and for imitation that has no expert at hand.

    Where episodes were recorded, nobody acts.
    """

    policy: Any  # Policy, UniformPolicy, what acts like one; None: an expert's recorded episodes
    critic: Critic | None
    algorithm: PPO | OffPolicy | GAIL | None
    sight: tuple[str, str]  # observation keys that (policy, critic) read
    normalisers: dict[str, Normaliser]
    device: torch.device

    def first_value(self, raw: np.ndarray, u: torch.Tensor) -> np.ndarray:
        """What the critic expects of episodes, `[n]`: V of their first step, or Q of what is decided there.

        Of an ensemble, the least. raw: what the critic observes `[n, O]`; u: decisions `[n, D]`.
        """
        obs = self.normalisers[self.sight[1]](torch.from_numpy(raw).to(self.device))
        if self.policy.memory.decided:
            obs = torch.cat([obs, self.policy.memory.initial(len(raw))], -1)
        start = torch.ones(len(raw), 1, dtype=torch.bool, device=self.device)
        view = View(obs.unsqueeze(-2), start, self.critic.memory.initial(len(raw)))
        return self.critic(view, u if isinstance(self.algorithm, OffPolicy) else None).min(0).values.cpu().numpy()

    def state_dict(self, resumable: bool = True) -> dict:
        """Everything that learning changes; without what only further learning needs if not `resumable`."""
        if self.algorithm is None:
            return {}
        return {
            "policy": self.policy.state_dict(),
            "critic": self.critic.state_dict(),
            "algorithm": self.algorithm.state_dict(resumable),
            "normalisers": {key: norm.state_dict() for key, norm in self.normalisers.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned; of what nothing trains here, policy and critic alone."""
        if self.critic is None:
            return
        self.policy.load_state_dict(state["policy"])
        self.critic.load_state_dict(state["critic"])
        if self.algorithm is not None:
            self.algorithm.load_state_dict(state["algorithm"])
        for key, norm in self.normalisers.items():
            norm.load_state_dict(state["normalisers"][key])
