"""A critic learned from episodes: quadratic in what it sees, one least-squares fit for each time step.

Q_t(x) = -(x^T N_t x + d_t), with x = (s, a, z') of a critic that is shown the state, x = (o, z, a, z') of a blind one.
All noise is symmetric and so is the problem, hence no linear terms; with linear features and the quadratic reward, the
conditional means that are fitted have exactly this form, blind or not. What is fitted to decides on the bias:

    return       G_t. A blind critic is unbiased all the same: E[score_t G_t] = E[score_t E[G_t | o, z, a, z']].
    bootstrap    r_t + gamma V_{t+1}. Of the state it is unbiased. Blind, V_{t+1}(o', z') stands for the mean of
                 V_{t+1}(s', z') given (o', z') instead of all that is known, because (o, z) is not Markov: biased by
                 `linear.blind_gradient` less `linear.exact_gradient`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from s2pg.gradients.linear import Episodes, StatefulPolicy, quadratic


class FittedCritic(NamedTuple):
    """The Q_t of a policy, and V_t = E Q_t over that policy's decisions given what it sees."""

    N: Tensor  # [T, X, X]
    d: Tensor  # [T]
    policy: StatefulPolicy
    blind: bool

    def v(self, e: Episodes) -> Tensor:
        """V_t at the visited (s, o, z), of a blind critic (o, z): [N, T]. In closed form, as u is Gaussian."""
        mean = self.policy.mean(self.policy.features(e.o, e.z), e.z)
        variance = self.policy.noise() ** 2
        spread = torch.diagonal(self.N, dim1=1, dim2=2)[:, -len(variance) :] @ variance
        return -quadratic(self._input(e, mean), self.N) - spread - self.d

    def q(self, e: Episodes) -> Tensor:
        """Q_t at the decisions taken: [N, T]."""
        return -quadratic(self._input(e, e.u), self.N) - self.d

    def q_gradient(self, e: Episodes) -> Tensor:
        """d Q_t / d (a, z'): [N, T, D]."""
        return -2 * torch.einsum("ntx,tux->ntu", self._input(e, e.u), self.N[:, -e.u.shape[-1] :])

    def _input(self, e: Episodes, u: Tensor) -> Tensor:
        return _input(e, u, self.blind)


def _input(e: Episodes, u: Tensor, blind: bool) -> Tensor:
    return torch.cat([e.o, e.z, u] if blind else [e.s, u], -1)


def fit_critic(
    e: Episodes, policy: StatefulPolicy, discount: float, blind: bool = False, bootstrap: bool = True
) -> FittedCritic:
    """Backward from the last step; with `bootstrap` the episodes may be those of another, more exploring policy."""
    target, steps = torch.zeros_like(e.r[:, 0]), []
    for t in reversed(range(e.r.shape[1])):
        now = Episodes(*(column[:, t : t + 1] for column in e))
        target = now.r[:, 0] + discount * target
        N, d = _least_squares(_input(now, now.u, blind)[:, 0], -target)
        step = FittedCritic(N.unsqueeze(0), d.unsqueeze(0), policy, blind)
        steps.append(step)
        if bootstrap:
            target = step.v(now)[:, 0]
    N, d = (torch.cat([step[i] for step in reversed(steps)]) for i in (0, 1))
    return FittedCritic(N, d, policy, blind)


def _least_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric N and d of the least |x^T N x + d - y|, of least norm where x [M, X] has constant zeros (z_0)."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1])
    features = torch.cat([x[:, i] * x[:, j], torch.ones_like(y).unsqueeze(1)], 1)
    scale = features.square().mean(0).sqrt().clamp_min(1e-30)
    features = features / scale
    inverse = torch.linalg.pinv(features.T @ features, hermitian=True)
    found = (inverse @ (features.T @ y)) / scale
    N = x.new_zeros(x.shape[1], x.shape[1])
    N[i, j] = found[:-1] / 2
    return N + N.T, found[-1]
