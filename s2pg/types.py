"""Shapes and small records that every layer shares.

Symbols: O observation, A action, Z carried memory, Zd decided memory, D = A + Zd decision, L context length,
X features, G = 2 groups (action, memory), `*` any leading batch dimensions.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

Mode = Literal["sample", "mean"]
GROUPS = ("action", "memory")


class Width(NamedTuple):
    """Widths of an observation vector `[env part | previous action]`; O is their sum."""

    env: int
    previous_action: int

    @property
    def total(self) -> int:
        return self.env + self.previous_action


class View(NamedTuple):
    """What a network reads: L consecutive steps of one stream and the memory before the first of them.

    Without `keep` a network answers for the last step, `[*, L, ...] -> [*, ...]`; with `keep` it answers for the n
    marked steps in row-major order, `-> [n, ...]`, so that padding never enters a loss.
    """

    obs: Tensor  # [*, L, O]
    start: Tensor  # [*, L] bool, True at the first step of an episode
    z: Tensor  # [*, Z]
    keep: Tensor | None = None  # [*, L] bool
