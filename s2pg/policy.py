"""A policy decides on u = (a, z') from a view x = (o, z); without a decided memory, u is just the action."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from s2pg.memory import Memory
from s2pg.nets import mlp
from s2pg.types import Mode, View


class Decision(NamedTuple):
    """A diagonal Gaussian over u = (a, z'), with quantities per group (action, memory).

    mean `[*, D]`, log_sigma `[D]`, actions A, carry `[*, Z]`: the memory's own next state, which is carried on where
    the policy does not decide on it.
    """

    mean: Tensor
    log_sigma: Tensor
    actions: int
    carry: Tensor

    @property
    def mode(self) -> Tensor:
        """The most likely decision `[*, D]`."""
        return self.mean

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """A reparameterised sample `[*, D]`."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.log_sigma.exp() * noise

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density of `u [*, D]` per group, `[*, G]`; the memory's is 0 where nothing is decided about it."""
        scaled = (u - self.mean) * (-self.log_sigma).exp()
        return self._by_group(-0.5 * scaled.square() - (self.log_sigma + 0.5 * math.log(2 * math.pi)))

    def entropy(self) -> Tensor:
        """Entropy per group in nats, `[G]`."""
        return self._by_group(self.log_sigma + 0.5 * math.log(2 * math.pi * math.e))

    def kl(self, other: Decision) -> Tensor:
        """KL(self || other) per group in nats, `[*, G]`."""
        log_ratio = other.log_sigma - self.log_sigma
        scaled = (self.mean - other.mean) * (-other.log_sigma).exp()
        return self._by_group(log_ratio + 0.5 * ((-2 * log_ratio).exp() + scaled.square() - 1))

    def _by_group(self, terms: Tensor) -> Tensor:
        action, memory = terms.split([self.actions, terms.shape[-1] - self.actions], -1)
        return torch.stack([action.sum(-1), memory.sum(-1)], -1)


class Policy(nn.Module):
    """A memory and a linear or MLP head for the action; the mean of a decided z' is the memory's own next state.

    Args:
        memory: how the past reaches the policy.
        actions: A.
        head: hidden widths between the memory's features and the mean action.
        sigma: initial standard deviations (action, memory); learned, independent of the state, log clamped to [-20, 2].
        gain: Xavier gain factor of the head.
    """

    def __init__(
        self, memory: Memory, actions: int, head: list[int], sigma: tuple[float, float], gain: float = 1.0
    ) -> None:
        super().__init__()
        self.memory, self.actions = memory, actions
        self.head = mlp([memory.features, *head, actions], gain)
        initial = [math.log(sigma[0])] * actions + [math.log(sigma[1])] * memory.decided
        self.log_sigma = nn.Parameter(torch.tensor(initial))

    def forward(self, view: View) -> Decision:
        """`View [*, L, ...] -> Decision [*, D]`, or `[n, D]` at the view's kept steps."""
        x, m = self.memory.read(*view)
        mean = self.head(x)
        if self.memory.decided:
            mean = torch.cat([mean, m], -1)
        return Decision(mean, self.spread, self.actions, m)

    @property
    def spread(self) -> Tensor:
        """The log standard deviations in use, `[D]`."""
        return self.log_sigma.clamp(-20.0, 2.0)

    def remember(self, decision: Decision, u: Tensor) -> Tensor:
        """The memory after deciding `u [*, D]`: the decided z' if there is one, else the memory's own, `[*, Z]`."""
        return u[..., self.actions :] if self.memory.decided else decision.carry

    def act(
        self, obs: Tensor, start: Tensor, z: Tensor, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step of N streams: `obs [N,O], start [N], z [N,Z] -> u [N,D], z_next [N,Z]`."""
        decision = self(View(obs.unsqueeze(-2), start.unsqueeze(-1), z))
        u = decision.mode if mode == "mean" else decision.rsample(generator)
        return u, self.remember(decision, u)


class UniformPolicy(nn.Module):
    """Actions uniform in the action space, whatever is seen: the lower anchor of normalised scores. Has no mode."""

    def __init__(self, memory: Memory, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.memory, self.actions = memory, len(low)
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def act(
        self, obs: Tensor, start: Tensor, z: Tensor, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `Policy.act`; both modes sample."""
        uniform = torch.rand(*obs.shape[:-1], self.actions, generator=generator, device=obs.device)
        return self.low + (self.high - self.low) * uniform, z
