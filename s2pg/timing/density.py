"""What the reference's density of a decision costs beside ours.

The reference gives PPO's S2PG one Gaussian over action and memory with a full covariance matrix, and leaves torch's
validation of arguments on, which factorises that matrix anew for every sample. Ours is diagonal, a sum per group.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from s2pg.build import device, spec
from s2pg.config import RunConfig
from s2pg.hyperparameters import ConfigError, PPOConfig
from s2pg.policy import Decision
from s2pg.timing.lanes import Seconds

Density = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # mean [n, D], log_sigma [D], u [n, D], A -> log p(u) [n]


def diagonal(mean: Tensor, log_sigma: Tensor, u: Tensor, actions: int) -> Tensor:
    """Ours, over both groups."""
    return Decision(mean, log_sigma, actions, mean[:, actions:]).log_prob(u).sum(-1)


def joint(mean: Tensor, log_sigma: Tensor, u: Tensor, actions: int, validate: bool = False) -> Tensor:
    """With a full covariance matrix."""
    covariance = (2 * log_sigma).exp().diag()
    return MultivariateNormal(mean, covariance_matrix=covariance, validate_args=validate).log_prob(u)


def joint_validated(mean: Tensor, log_sigma: Tensor, u: Tensor, actions: int) -> Tensor:
    """The reference's."""
    return joint(mean, log_sigma, u, actions, validate=True)


DENSITIES: dict[str, Density] = {
    "density_joint_validated": joint_validated,
    "density_joint": joint,
    "density_diagonal": diagonal,
}


class DensityLane:
    """A density and its gradient, as often as PPO's S2PG needs them in one update, and nothing else of learning.

    Args:
        config: of PPO with S2PG.
        kind: key of `DENSITIES`.
    """

    def __init__(self, config: RunConfig, kind: str) -> None:
        hp, self.actions = config.hparams, spec(config.task, config.task_options).actions
        if not isinstance(hp, PPOConfig):
            raise ConfigError(f"kinds: {kind!r} is for ppo, not for {config.algorithm}")
        size, where = self.actions + hp.memory_size, device(config.device)
        generator = torch.Generator(where).manual_seed(config.seed)
        self.density, self.steps, self.terms = DENSITIES[kind], hp.rollout, hp.rollout * hp.passes
        self.mean, self.u = torch.randn(2, hp.minibatch, size, generator=generator, device=where)
        self.log_sigma = torch.full((size,), -0.7, device=where)

    def update(self) -> Seconds:
        """Seconds of learning per environment step; nothing acts here."""
        begin = perf_counter()
        for first in range(0, self.terms, len(self.mean)):
            rows = min(len(self.mean), self.terms - first)
            self._gradient(rows)
        if self.mean.is_cuda:
            torch.cuda.synchronize(self.mean.device)
        nan = float("nan")
        return {"environment": nan, "acting": nan, "learning": (perf_counter() - begin) / self.steps}

    def _gradient(self, rows: int) -> None:
        mean, log_sigma = self.mean[:rows].clone().requires_grad_(), self.log_sigma.clone().requires_grad_()
        self.density(mean, log_sigma, self.u[:rows], self.actions).mean().backward()
