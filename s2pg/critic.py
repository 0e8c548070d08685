"""Critics: V(view) without a decision, Q(view, u) with one; an ensemble of E heads over memories of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2pg.memory import Memory
from s2pg.nets import Encoders, mlp
from s2pg.types import View


class Critic(nn.Module):
    """E independent value functions on top of one memory of the critic's own.

    On the augmented MDP of S2PG the policy's z is part of the observation, so the critic needs no memory; a recurrent
    critic without privilege owns one (`memory`), which the loop carries like the policy's.

    Args:
        memory: how the past reaches the critic.
        head: hidden widths.
        gain: Xavier gain factor of the head.
        decision: D if the critic values decisions (Q), 0 if it values views (V).
        ensemble: E.
        output_gain: Xavier gain of the last layer, `gain` if left out.
        encoder: hidden and output widths of encoders for groups of the inputs (features, then the decision).
        columns: slices of the inputs that each encoder reads.
    """

    def __init__(
        self,
        memory: Memory,
        head: list[int],
        gain: float = 1.0,
        decision: int = 0,
        ensemble: int = 1,
        output_gain: float | None = None,
        encoder: list[int] | None = None,
        columns: list[list[slice]] | None = None,
    ) -> None:
        super().__init__()
        self.memory = memory
        last = gain if output_gain is None else output_gain

        def one() -> nn.Module:
            if encoder and columns:
                return Encoders(columns, encoder, head, gain, last)
            return mlp([memory.features + decision, *head, 1], gain, last)

        self.heads = nn.ModuleList(one() for _ in range(ensemble))

    def forward(self, view: View, u: Tensor | None = None) -> Tensor:
        """`View [*, L, ...], u [*, D] -> [E, *]`, or `[E, n]` at the view's kept steps."""
        return self.values(self.memory.read(*view)[0], u)

    def values(self, x: Tensor, u: Tensor | None = None) -> Tensor:
        """Values of features already read, `x [*, X], u [*, D] -> [E, *]`."""
        x = x if u is None else torch.cat([x, u], -1)
        return torch.stack([head(x).squeeze(-1) for head in self.heads])
