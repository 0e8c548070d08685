"""A policy decides on u = (a, z') from a view x = (o, z); without a decided memory, u is just the action."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from s2pg.memory import Memory
from s2pg.nets import mlp
from s2pg.types import Mode, View

Spread = Literal["fixed", "learned", "state"]
Noise = Literal["gaussian", "uniform"]


INSIDE = 1 - 1e-6  # keeps atanh finite, and its slope from vanishing where a cell's state is exactly +-1


class Tanh(NamedTuple):
    """Into the box centre +- half, `[A]` each, smoothly."""

    centre: Tensor | float = 0.0
    half: Tensor | float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return self.centre + self.half * torch.tanh(x)

    def inverse(self, u: Tensor) -> Tensor:
        """The x whose image is u; the box's border is moved inside by 1e-6 of its width."""
        return torch.atanh(((u - self.centre) / self.half).clamp(-1 + 1e-6, 1 - 1e-6))

    def log_slope(self, x: Tensor) -> Tensor:
        """log |du / dx|."""
        half = torch.as_tensor(self.half, dtype=x.dtype, device=x.device)
        return half.log() + 2 * (math.log(2) - x - nn.functional.softplus(-2 * x))


class Clamp(NamedTuple):
    """Into the box [low, high], by cutting: for exploration noise. Has no density."""

    low: Tensor | float
    high: Tensor | float

    def __call__(self, x: Tensor) -> Tensor:
        low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in self)
        return torch.minimum(torch.maximum(x, low), high)

    def inverse(self, u: Tensor) -> Tensor:
        """Some x whose image is u."""
        return u

    def log_slope(self, x: Tensor) -> Tensor:
        """Raises: what is cut off lies on the border with a probability of its own."""
        raise NotImplementedError("a decision that is cut off to its range has no density")


class Shape(NamedTuple):
    """How a decision is made of its mean and of noise: the noise of z', and what a and z' pass through at the end."""

    action: Tanh | Clamp | None = None
    memory: Tanh | Clamp | None = None
    memory_noise: Noise = "gaussian"

    @property
    def plain(self) -> bool:
        return self == (None, None, "gaussian")


PLAIN = Shape()


class Decision(NamedTuple):
    """u = T(x), x ~ N(mean, sigma^2) diagonal over (a, z'); quantities per group (action, memory).

    mean `[*, D]`, log_sigma `[D]` or `[*, D]`, actions A, carry `[*, Z]`: the memory's own next state, which is carried
    on where the policy does not decide on it. T is the identity unless `shape` says otherwise (squash, clamp); the
    noise of z' may be uniform with the same sigma, x ~ U(mean +- sqrt(3) sigma).
    """

    mean: Tensor
    log_sigma: Tensor
    actions: int
    carry: Tensor
    shape: Shape = PLAIN

    @property
    def mode(self) -> Tensor:
        """The decision without noise `[*, D]`."""
        return self._through(self.mean)

    def rsample(self, generator: torch.Generator | None = None) -> Tensor:
        """A reparameterised sample `[*, D]`."""
        return self._through(self._before(generator))

    def rsample_with_log_prob(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """A reparameterised sample `[*, D]` and its log density per group `[*, G]`, exact where tanh is flat."""
        x = self._before(generator)
        return self._through(x), self._log_density(x)

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density of `u [*, D]` per group, `[*, G]`; the memory's is 0 where nothing is decided about it."""
        if self.shape.plain:
            return self._log_density(u)
        parts = zip(self.shape[:2], self._split(u), strict=True)
        return self._log_density(torch.cat([part if t is None else t.inverse(part) for t, part in parts], -1))

    def entropy(self) -> Tensor:
        """Entropy per group in nats, `[G]`, of a decision that is not squashed."""
        return self._by_group(self.log_sigma + 0.5 * math.log(2 * math.pi * math.e))

    def kl(self, other: Decision) -> Tensor:
        """KL(self || other) per group in nats, `[*, G]`, of Gaussians."""
        log_ratio = other.log_sigma - self.log_sigma
        scaled = (self.mean - other.mean) * (-other.log_sigma).exp()
        return self._by_group(log_ratio + 0.5 * ((-2 * log_ratio).exp() + scaled.square() - 1))

    def _before(self, generator: torch.Generator | None) -> Tensor:
        """x, the sample before it passes through T."""
        options = {"generator": generator, "device": self.mean.device, "dtype": self.mean.dtype}
        noise = torch.randn(self.mean.shape, **options)
        if self.shape.memory_noise == "uniform":
            uniform = 2 * torch.rand(self.mean.shape, **options) - 1
            noise[..., self.actions :] = math.sqrt(3) * uniform[..., self.actions :]
        return self.mean + self.log_sigma.exp() * noise

    def _through(self, x: Tensor) -> Tensor:
        if self.shape.plain:
            return x
        parts = zip(self.shape[:2], self._split(x), strict=True)
        return torch.cat([part if t is None else t(part) for t, part in parts], -1)

    def _log_density(self, x: Tensor) -> Tensor:
        """Of u = T(x)."""
        scaled = (x - self.mean) * (-self.log_sigma).exp()
        terms = -0.5 * scaled.square() - (self.log_sigma + 0.5 * math.log(2 * math.pi))
        if self.shape.plain:
            return self._by_group(terms)
        action, memory = self._split(terms)
        if self.shape.memory_noise == "uniform":
            inside = self._split(scaled)[1].abs() <= math.sqrt(3) * (1 + 1e-5)
            level = -self._split(self.log_sigma)[1] - math.log(2 * math.sqrt(3))
            memory = torch.where(inside, level, -math.inf)
        parts = zip((action, memory), self.shape[:2], self._split(x), strict=True)
        return torch.stack([(p if t is None else p - t.log_slope(part)).sum(-1) for p, t, part in parts], -1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        action, memory = x.split([self.actions, x.shape[-1] - self.actions], -1)
        return action, memory

    def _by_group(self, terms: Tensor) -> Tensor:
        action, memory = self._split(terms)
        return torch.stack([action.sum(-1), memory.sum(-1)], -1)


class Policy(nn.Module):
    """A memory and a linear or MLP head for the action; the mean of a decided z' is the memory's own next state.

    Args:
        memory: how the past reaches the policy.
        actions: A.
        head: hidden widths between the memory's features and the mean action.
        sigma: initial standard deviations (action, memory); their logarithms are held in [-20, 2].
        gain: Xavier gain factor of the head.
        spread: of (action, memory): `fixed` at `sigma`, `learned` from there, or a function of the `state`.
        shape: what noise a decision has and what it passes through.
        bound: what the mean action passes through before noise is added (TD3).
        centred: the memory's own next state m is z' without noise: the mean before `shape.memory`, a tanh, is atanh(m).
    """

    def __init__(
        self,
        memory: Memory,
        actions: int,
        head: list[int],
        sigma: tuple[float, float],
        gain: float = 1.0,
        spread: tuple[Spread, Spread] = ("learned", "learned"),
        shape: Shape = PLAIN,
        bound: Tanh | None = None,
        centred: bool = False,
    ) -> None:
        super().__init__()
        self.memory, self.actions, self.spreads, self.shape, self.bound = memory, actions, spread, shape, bound
        self.centred = centred
        sizes = (actions, memory.decided)
        dependent = sum(size for size, kind in zip(sizes, spread, strict=True) if kind == "state")
        self.head = mlp([memory.features, *head, actions + dependent], gain)
        initial = [math.log(one) for one, size in zip(sigma, sizes, strict=True) for _ in range(size)]
        self.log_sigma = nn.Parameter(torch.tensor(initial), requires_grad="learned" in spread)

    def forward(self, view: View) -> Decision:
        """`View [*, L, ...] -> Decision [*, D]`, or `[n, D]` at the view's kept steps."""
        x, m = self.memory.read(*view)
        mean, dependent = self.head(x).tensor_split([self.actions], -1)
        if self.bound is not None:
            mean = self.bound(mean)
        if self.memory.decided:
            mean = torch.cat([mean, torch.atanh(INSIDE * m) if self.centred else m], -1)
        return Decision(mean, self._log_sigma(dependent), self.actions, m, self.shape)

    @property
    def spread(self) -> Tensor:
        """The log standard deviations in use, `[D]`, as far as they do not depend on the state."""
        return self._base.clamp(-20.0, 2.0)

    @property
    def _base(self) -> Tensor:
        if self.spreads == ("learned", "learned"):
            return self.log_sigma
        parts = zip(self.spreads, self.log_sigma.split([self.actions, self.memory.decided]), strict=True)
        return torch.cat([part if kind == "learned" else part.detach() for kind, part in parts])

    def _log_sigma(self, dependent: Tensor) -> Tensor:
        """`[D]`, or `[*, D]` with what the head says of the groups whose sigma depends on the state."""
        if "state" not in self.spreads:
            return self.spread
        sizes = (self.actions, self.memory.decided)
        missing = [0 if kind == "state" else size for kind, size in zip(self.spreads, sizes, strict=True)]
        return (self._base + nn.functional.pad(dependent, missing)).clamp(-20.0, 2.0)

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
