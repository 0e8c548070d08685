"""An expert's episodes as a learner's networks read them, with the memory that its policy has in them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from s2pg.data.normaliser import Normaliser
from s2pg.data.replay import Replay
from s2pg.hyperparameters import ConfigError
from s2pg.policy import Policy


def observed(expert: Replay | None, normalisers: Mapping[str, Normaliser]) -> Replay:
    """The expert's steps with observations as the networks read them, normalised by their own statistics.

    `expert` is left as it is, its memory too. Raises ConfigError without one.
    """
    if expert is None:
        raise ConfigError("imitation needs an expert's episodes")
    replay = copy.copy(expert)
    for key, norm in normalisers.items():
        norm.update(expert.obs[key][expert.valid])
    replay.obs = {key: norm(expert.obs[key]) for key, norm in normalisers.items()}
    return replay


@torch.no_grad()
def retrace(policy: Policy, expert: Replay, key: str, generator: torch.Generator | None = None) -> None:
    """Give every step of the expert's the memory that `policy` has there, all episodes side by side.

    A decided z' is sampled. The memory of `expert` is replaced by one of the policy's size.

    Args:
        expert: whole episodes, none of them overwritten.
        key: of the observations that the policy reads.
    """
    expert.z = policy.memory.initial(len(expert.z))
    rows = expert.valid.nonzero().flatten()
    position = expert.position[rows]
    for t in range(int(position.max()) + 1 if policy.memory.size else 0):
        here = rows[position == t]
        start = torch.full_like(here, t == 0, dtype=torch.bool)
        expert.relabel(here, policy.act(expert.obs[key][here], start, expert.z[here], "sample", generator)[1])
