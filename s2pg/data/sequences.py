"""Cutting a rollout of T steps of N environments into sequences, as row numbers t * N + n.

    contexts (loss on the last step, L = 3)     chunks (loss on every step, L = 3)     episodes (whole, padded)
    t: 0 1 2 3 4                                t: 0 1 2 3 4                           t: 0 1 2|3 4     | start
       x . .          x = the step that            x x x                                  x x x
       . x .              counts, `keep`                 x x -   - = padding                    x x -
       . . x
         . . x
           . . x

One sequence per step and a loss at its last one is the reference's BPTT (L recurrent steps for one loss term); chunks
count every step. Episode starts inside a sequence need no cut: a memory forgets at `start`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Sequences(NamedTuple):
    """`rows [n, L]` point into a rollout flattened to `[T * N, ...]`; `keep [n, L]` marks the steps that count."""

    rows: Tensor
    keep: Tensor

    @property
    def padding(self) -> float:
        """Steps read per step that counts; 1 is no waste."""
        return self.keep.numel() / int(self.keep.sum())

    def minibatches(self, terms: int, generator: torch.Generator | None = None) -> Iterator[Sequences]:
        """Shuffled minibatches of about `terms` loss terms, without padding beyond their longest sequence."""
        order = shuffled(self, generator)
        before = self.keep.sum(1)[order].cumsum(0) - self.keep.sum(1)[order]
        sizes = torch.unique_consecutive(before // terms, return_counts=True)[1].tolist()
        lengths = self.keep.shape[1] - self.keep.flip(1).int().argmax(1)
        for chosen in order.split(sizes):
            length = int(lengths[chosen].max())
            yield Sequences(self.rows[chosen, :length], self.keep[chosen, :length])


def shuffled(sequences: Sequences, generator: torch.Generator | None = None) -> Tensor:
    """A random order of the sequences, `[n]`."""
    return torch.randperm(len(sequences.rows), generator=generator, device=sequences.rows.device)


def contexts(steps: int, envs: int, length: int) -> Sequences:
    """For every step the `length` steps that end there (fewer at the rollout's beginning), counting the last one."""
    t = torch.arange(steps).repeat_interleave(envs)
    first = (t - length + 1).clamp(min=0)
    return _rows(first, t, length, steps, envs, torch.arange(envs).repeat(steps), only_last=True)


def chunks(steps: int, envs: int, length: int) -> Sequences:
    """The rollout of each environment in pieces of `length` steps, counting every step."""
    first = torch.arange(0, steps, length).repeat_interleave(envs)
    last = (first + length - 1).clamp(max=steps - 1)
    env = torch.arange(envs).repeat(len(first) // envs)
    return _rows(first, last, length, steps, envs, env)


def episodes(start: Tensor) -> Sequences:
    """One sequence per episode or fragment of one in `start [T, N]`, counting every step."""
    steps, envs = start.shape
    begins = start.cpu().clone()
    begins[0] = True
    env, first = begins.T.nonzero(as_tuple=True)
    last = torch.where(env == env.roll(-1), first.roll(-1), steps) - 1
    last[-1] = steps - 1
    return _rows(first, last, int((last - first).max()) + 1, steps, envs, env)


def cut(start: Tensor, context: int | None, loss_on: str) -> Sequences:
    """The sequences that a memory with this context learns from, on the device of `start [T, N]`."""
    steps, envs = start.shape
    if context is None:
        sequences = episodes(start)
    else:
        sequences = (contexts if loss_on == "last" else chunks)(steps, envs, min(context, steps))
    return Sequences(*(x.to(start.device) for x in sequences))


def _rows(
    first: Tensor, last: Tensor, length: int, steps: int, envs: int, env: Tensor, only_last: bool = False
) -> Sequences:
    t = first[:, None] + torch.arange(length)
    keep = (t == last[:, None]) if only_last else (t <= last[:, None])
    return Sequences(t.clamp(max=steps - 1) * envs + env[:, None], keep)
