"""Running mean and variance of observations, updated between rollouts only, so that acting equals rereading."""

from __future__ import annotations

import torch
from torch import Tensor

from s2pg.types import Width


class Normaliser:
    """(obs - mean) / std, clipped, for the env part of an observation; the previous action passes unchanged.

    Statistics are merged batch by batch (Chan et al. 1983) in float64 and never move during a rollout, an update or an
    evaluation (the reference moves them at every step, in evaluation too).

    Args:
        width: of the observation.
        clip: normalised values are clipped to +-clip; None leaves observations as they are.
    """

    def __init__(self, width: Width, clip: float | None, device: torch.device | str = "cpu") -> None:
        self.width = width
        self.count = 0.0
        self.mean = torch.zeros(width.env, dtype=torch.float64)
        self.var = torch.ones(width.env, dtype=torch.float64)
        self.identity = clip is None
        limit = torch.full((width.total,), float("inf"), device=device)
        if clip is not None:
            limit[: width.env] = clip
        self._limit = limit
        self._refresh()

    def __call__(self, obs: Tensor) -> Tensor:
        """`[*, O or more] -> [*, O]`; columns beyond the width (a previous action that nobody reads) are cut off."""
        obs = obs[..., : self.width.total]
        if self.identity:
            return obs
        return torch.clamp((obs - self._shift) * self._scale, -self._limit, self._limit)

    def update(self, obs: Tensor) -> None:
        """Merge the raw observations `[*, O]` into the statistics."""
        if self.identity:
            return
        batch = obs[..., : self.width.env].reshape(-1, self.width.env).double().cpu()
        n, total = batch.shape[0], self.count + batch.shape[0]
        delta = batch.mean(0) - self.mean
        within = self.var * self.count + batch.var(0, correction=0) * n
        self.mean = self.mean + delta * n / total
        self.var = (within + delta.square() * self.count * n / total) / total
        self.count = total
        self._refresh()

    def state_dict(self) -> dict:
        """What a checkpoint must hold."""
        return {"count": self.count, "mean": self.mean, "var": self.var}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.count, self.mean, self.var = state["count"], state["mean"].cpu(), state["var"].cpu()
        self._refresh()

    def _refresh(self) -> None:
        shift, scale = torch.zeros_like(self._limit), torch.ones_like(self._limit)
        shift[: self.width.env] = self.mean.to(shift)
        scale[: self.width.env] = (self.var + 1e-8).rsqrt().to(scale)
        self._shift, self._scale = shift, scale
