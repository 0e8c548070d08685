"""Cue recall with a linear stateful policy: a second problem whose J has a closed form, for the same estimators.

As the task `CueRecall` (`envs.diagnostics`) without its blank previous action: T = delay + 1 steps, a fair sign is
shown at the first and asked for at the last, where the reward is sign(a) times the cue.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s2pg.gradients.linear import Episodes, StatefulPolicy


@dataclass(frozen=True)
class Cue:
    """State (cue, t / delay); observation (cue at t = 0 and 0 later, 1 when asked and 0 before, t / delay); A = 1."""

    delay: int
    discount: float = 1.0

    def discounts(self, horizon: int) -> Tensor:
        """gamma^t for t < T: [T]."""
        return self.discount ** torch.arange(horizon, dtype=torch.float64)

    def observations(self, cue: Tensor) -> Tensor:
        """Of the signs [N]: [N, T, 3]."""
        t = torch.arange(self.delay + 1, dtype=cue.dtype).expand(len(cue), -1)
        return torch.stack([cue.unsqueeze(1) * (t == 0), (t == self.delay).to(cue), t / self.delay], -1)

    def sample(self, policy: StatefulPolicy, count: int, horizon: int, generator: torch.Generator) -> Episodes:
        """`count` independent episodes. Raises ValueError unless the horizon is delay + 1."""
        if horizon != self.delay + 1:
            raise ValueError(f"an episode has {self.delay + 1} steps, not {horizon}")
        cue = 2.0 * torch.randint(2, (count,), generator=generator).to(policy.theta) - 1
        o, z, memories, decisions = self.observations(cue), policy.theta.new_zeros(count, policy.memory), [], []
        for t in range(horizon):
            noise = torch.randn(count, len(policy.theta), generator=generator, dtype=z.dtype) * policy.noise()
            memories.append(z)
            decisions.append(policy.mean(policy.features(o[:, t], z), z) + noise)
            z = decisions[-1][:, 1:]
        u, r = torch.stack(decisions, 1), torch.zeros_like(o[..., 0])
        r[:, -1] = u[:, -1, 0].sign() * cue
        s = torch.stack([cue.unsqueeze(1).expand_as(r), o[..., 2]], -1)
        return Episodes(s, o, torch.stack(memories, 1), u, r)


def cue_return(task: Cue, policy: StatefulPolicy, context: int | None = None) -> Tensor:
    """J = gamma^delay E[cue sign(a)], which autograd can differentiate: given the cue, the last action is Gaussian.

    With mean m(cue) and the standard deviation s, E[sign(a) | cue] = erf(m(cue) / (s sqrt 2)). A context takes the
    memory before the last `context` steps as data, which is no other value, but another derivative. Raises ValueError
    for bounded features.
    """
    by_z, noise = policy.gains[:, 3:], torch.diag(policy.noise() ** 2)
    cues = torch.tensor([-1.0, 1.0], dtype=noise.dtype)
    o, z, spread = task.observations(cues), noise.new_zeros(2, policy.memory), 0 * noise[1:, 1:]
    for t in range(task.delay + 1):
        if context is not None and t == task.delay + 1 - context:
            z, spread = z.detach(), spread.detach()
        u, covariance = policy.mean(policy.features(o[:, t], z), z), by_z @ spread @ by_z.T + noise
        z, spread = u[:, 1:], covariance[1:, 1:]
    recalled = torch.erf(u[:, 0] / (2 * covariance[0, 0]).sqrt())
    return task.discount**task.delay * (cues * recalled).mean()


def cue_gradient(task: Cue, policy: StatefulPolicy, context: int | None = None) -> Tensor:
    """Of `cue_return`, or what BPTT through `context` steps expects instead: [P].

    Only the last action earns anything, so truncation takes away what reached it from before; with a context of no more
    than the delay that is all that the weights from the cue to the memory ever do.
    """
    theta = policy.theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cue_return(task, replace(policy, theta=theta), context), theta)
    return gradient.flatten()
