"""How the past reaches the policy. This file is the paper.

Backpropagation through time unrolls the cell over L steps to learn how the memory mattered. S2PG unrolls one step and
treats the next memory z' as part of the decision. In code: `Recurrent(cell, context=L)` against
`Recurrent(cell, context=1, decides=True)`; nothing else changes.

    NoMemory             Z = 0        Zd = 0    L = 1    also the oracle, with another sight
    Window(k)            Z = (k-1)O   Zd = 0    L = k
    Recurrent(cell, L)   Z = cell's   Zd = 0    L        BPTT, truncated after L steps (None: whole episodes)
    Recurrent(decides)   Z = cell's   Zd = Z    L = 1    S2PG

A memory holds parameters and no state: z is passed in and handed back. It starts at zero in every episode, and a step
marked `start` forgets what was before it, in acting and in learning alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from s2pg.nets import Cell, Embedding, Leaky
from s2pg.types import Width


class Memory(nn.Module):
    """Reads L steps and the memory before them into features and the memory after them."""

    size: int = 0  # Z, numbers carried from step to step
    decided: int = 0  # Zd, how many of them the policy decides on
    context: int | None = 1  # L, steps that learning unrolls; None: whole episodes
    features: int  # X
    recalls: bool = False  # does a whole context say all that the memory before it could
    bounded: bool = True  # does the memory stay in [-1, 1]

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_place", torch.empty(0), persistent=False)  # moves with the module, also without weights

    def initial(self, *batch: int) -> Tensor:
        """The memory at the start of an episode, zeros `[*batch, Z]` on the module's device."""
        return self._place.new_zeros(*batch, self.size)

    def read(self, obs: Tensor, start: Tensor, z: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`obs [*,L,O], start [*,L], z [*,Z] -> x [*,X], m [*,Z]` at the last step, or `[n,X], [n,Z]` where kept.

        x are the features that the heads see, m is the memory after the step: the next z, or its mean if z' is decided.
        """
        raise NotImplementedError


class NoMemory(Memory):
    """Features are the observation itself."""

    recalls = True

    def __init__(self, width: Width) -> None:
        super().__init__()
        self.features = width.total

    def read(self, obs: Tensor, start: Tensor, z: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = _at(obs, keep)
        return x, x[..., :0]


class Window(Memory):
    """The last `length` observations, oldest first, zeros where the episode is younger; z holds all but the newest."""

    recalls, bounded = True, False

    def __init__(self, width: Width, length: int) -> None:
        super().__init__()
        self.width, self.context = width.total, length
        self.size = (length - 1) * width.total
        self.features = length * width.total

    def read(self, obs: Tensor, start: Tensor, z: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        past = z.unflatten(-1, (-1, self.width)) if self.size else z.new_zeros(*z.shape[:-1], 0, self.width)
        episode = torch.cat([start.new_zeros(*start.shape[:-1], past.shape[-2]), start], -1).cumsum(-1)
        stack = torch.cat([past, obs], -2).unfold(-2, self.context, 1).transpose(-1, -2)  # [*, L, k, O]
        episode = episode.unfold(-1, self.context, 1)  # [*, L, k]
        stack, episode = _at(stack, keep, 2), _at(episode, keep)
        x = torch.where((episode == episode[..., -1:]).unsqueeze(-1), stack, 0.0).flatten(-2)
        return x, x[..., self.width :]


class Recurrent(Memory):
    """A recurrent cell behind the reference's embeddings; features are [skip connection of the observation, output].

    Args:
        width: of the observation.
        cell: class of the recurrent cell.
        hidden: units of the cell; an LSTM carries twice as many numbers.
        features: width of each embedding.
        context: steps that learning unrolls, None for whole episodes. 1 with `decides`.
        decides: True makes z' a decision (S2PG), False a deterministic function of the past (BPTT).
        gain: Xavier gain factor of the embeddings.
        leak: rate at which the state moves to what the cell says, z' = (1 - leak) z + leak h.
    """

    def __init__(
        self,
        width: Width,
        cell: type[Cell],
        hidden: int,
        features: int,
        context: int | None = 1,
        decides: bool = False,
        gain: float = 1.0,
        leak: float = 1.0,
    ) -> None:
        super().__init__()
        self.embed = Embedding(width, features, gain)
        self.cell = cell(self.embed.outputs, hidden)
        if leak != 1.0:
            self.cell = Leaky(self.cell, leak)
        self.size, self.bounded = self.cell.size, self.cell.bounded
        self.decided = self.size if decides else 0
        self.context = context
        self.features = features + hidden

    def read(self, obs: Tensor, start: Tensor, z: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        states = self._unroll(obs, start, z)
        if keep is None:
            m = states[-1]
        else:
            used = keep.flatten(0, -2).any(0).nonzero().flatten().tolist()  # steps at which anything is kept
            m = torch.stack([states[t] for t in used], -2)[keep[..., used]]
        return torch.cat([self.embed.skip(_at(obs, keep)), self.cell.output(m)], -1), m

    def _unroll(self, obs: Tensor, start: Tensor, z: Tensor) -> Sequence[Tensor]:
        """The memory after each of the L steps, `L x [*, Z]`."""
        if obs.shape[-2] == 1:
            gates = self.cell.project(self.embed(obs.squeeze(-2)))
            return [self.cell.step(gates, z.masked_fill(start, 0.0))]
        gates = self.cell.project(self.embed(obs.movedim(-2, 0)))  # time first: the steps lie together in memory
        return self.cell.unroll(gates, start.unsqueeze(-1).movedim(-2, 0), z)


def _at(x: Tensor, keep: Tensor | None, dims: int = 1) -> Tensor:
    """The last step of `x [*, L, dims...]`, or its kept steps `[n, dims...]`."""
    return x.select(-1 - dims, -1) if keep is None else x[keep]
