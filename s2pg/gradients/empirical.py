"""Gradients of the suite's own networks on any task: where J has no closed form, their variance is measured.

The sum is that of `estimators`, with the derivative of the network in the place of phi_t:

    gradient = sum_t (d p_t / d theta)^T c_t,   p_t = (mu_t, eta_t, log sigma),   theta: all learned parameters

c_t is the credit of mu_t and eta_t as there. Of log sigma it is ((u_t - mu_t)^2 / sigma^2 - 1) w_t where u_t has a
score, and lambda_{t+1} (z_{t+1} - eta_t) where z_{t+1} = eta_t + sigma_z epsilon_t is differentiated through. Given
c_t, no trajectory is unrolled: the derivatives of all steps are taken at once, at the realised memories.

Symbols: N episodes, T horizon, O observation, A action, Z memory, Zd its decided part, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor
from torch.func import functional_call, grad, jacrev, vmap

from s2pg.gradients.estimators import Estimator, costates, returns, subtract_baseline
from s2pg.gradients.variance import summarise
from s2pg.policy import Policy
from s2pg.types import View

JACOBIANS, ROWS = 1024, 8192  # steps whose derivatives by z, or by theta, are computed at once: the fastest


class Trajectories(NamedTuple):
    """The first T steps of N episodes; what follows an earlier end is not `alive` and counts for nothing."""

    obs: Tensor  # [N, T, O] as the policy sees it
    z: Tensor  # [N, T, Z] before the step
    u: Tensor  # [N, T, A+Z] the action and the memory after the step, decided or not
    r: Tensor  # [N, T], 0 after the end
    alive: Tensor  # [N, T] 1 or 0


@torch.no_grad()
def collect(
    policy: Policy,
    envs: VectorEnv,
    observe: Callable[[Tensor], Tensor],
    count: int,
    horizon: int,
    seed: int,
    key: str = "obs",
) -> Trajectories:
    """`count` independent episodes with sampled decisions, `envs.num_envs` side by side, each from its own seed.

    observe: from raw observations to what the policy sees, [n, O]: a `Normaliser`, whose statistics do not move here.
    key: of the observation that the policy reads.
    """
    generator, n = torch.Generator().manual_seed(seed), envs.num_envs
    seeds = np.random.SeedSequence(seed).generate_state(math.ceil(count / n) * n).reshape(-1, n)
    parts = []
    for row in seeds:
        raw, _ = envs.reset(seed=row.tolist())
        steps = _act(policy, envs, lambda raw: observe(torch.from_numpy(raw[key])), raw, horizon, generator)
        parts.append(Trajectories(*(torch.stack(column, 1) for column in zip(*steps, strict=True))))
    return Trajectories(*(torch.cat(column)[:count] for column in zip(*parts, strict=True)))


def _act(
    policy: Policy, envs: VectorEnv, observe: Callable, raw: dict, horizon: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """The steps of one episode in each environment, all of which show the raw observations of a reset."""
    n, actions = envs.num_envs, policy.actions
    z, alive = policy.memory.initial(n), torch.ones(n, dtype=torch.bool)
    for t in range(horizon):
        obs = observe(raw).to(z)
        u, after = policy.act(obs, torch.full((n,), t == 0), z, "sample", generator)
        raw, reward, terminated, truncated, _ = envs.step(u[:, :actions].numpy())
        r = torch.from_numpy(reward).to(z) * alive
        yield obs, z, torch.cat([u[:, :actions], after], -1), r, alive.to(z)
        z, alive = after, alive & ~torch.from_numpy(terminated | truncated)


class _Steps(NamedTuple):
    """What credits are made of."""

    residual: Tensor  # [N, T, A+Z], u less its mean; 0 after the end
    jacobian: Tensor  # [N, T, A+Z, Z], its mean's derivative by z; [N, T, A+Z, 0] where nothing needs it

    def pull_back(self, v: Tensor, t: int | slice) -> Tensor:
        """(d_z m_t)^T v, [*, Z], of v [*, A+Z]."""
        return (self.jacobian[:, t].mT @ v.unsqueeze(-1)).squeeze(-1)


def gradients(estimator: Estimator, policy: Policy, e: Trajectories, discount: float = 1.0) -> Tensor:
    """One gradient per episode by the learned parameters in their order in the policy: [N, P].

    Holds the memory's derivative for BPTT, N T (A + Z) Z numbers. A baseline per time step takes as much time as T
    gradients of one step (S2PG) or of all steps up to it (BPTT). Raises ValueError for a signal that needs a critic,
    for a decision without noise of which a score is asked, and for a policy that squashes its decisions or whose sigma
    depends on what it sees.
    """
    _check(estimator, policy)
    steps = _read(estimator, policy, e)
    weight = returns(estimator.signal, discount ** torch.arange(e.r.shape[1]).to(e.r) * e.r)
    plain = _gradient(estimator, policy, e, steps, weight)
    if estimator.baseline == "none":
        return plain
    result, componentwise = plain, estimator.baseline == "componentwise"
    for part, known, ones in _controls(estimator, e, steps):
        control = _gradient(estimator, policy, part, known, ones).unsqueeze(1)
        result = result - (plain - subtract_baseline(plain, control, componentwise))
    return result


def measure(
    policy: Policy,
    envs: VectorEnv,
    observe: Callable[[Tensor], Tensor],
    estimators: Mapping[str, Estimator],
    horizons: tuple[int, ...],
    episodes: int,
    seed: int,
    discount: float = 0.99,
) -> Iterator[dict[str, Any]]:
    """Rows like those of `s2pg.gradients.problem.measure`; nan where they compare with an exact gradient or a bound.

    All estimators see the same episodes; each length has episodes of its own. `seconds` leaves out collecting them; a
    process's very first gradient takes some seconds more, in which `torch.func` starts. Where episodes end early, as
    those of a hopper that falls, a longer horizon adds little: ask `alive`.
    """
    nan = float("nan")
    for horizon in horizons:
        e = collect(policy, envs, observe, episodes, horizon, seed + horizon)
        for name, estimator in estimators.items():
            started = perf_counter()
            summary = summarise(gradients(estimator, policy, e, discount).double())
            seconds = perf_counter() - started
            row = {"horizon": horizon, "estimator": name, **vars(summary), "exact_norm": nan, "bound": nan}
            yield row | {"seconds": seconds}


def _check(estimator: Estimator, policy: Policy) -> None:
    if estimator.signal not in ("return", "reward_to_go"):
        raise ValueError(f"signal={estimator.signal!r} needs a critic, and networks have no exact one")
    if estimator.decides and policy.memory.size != policy.memory.decided:
        raise ValueError("a decision without noise has no score: this memory is not decided")
    if not policy.shape.plain or "state" in policy.spreads:
        raise ValueError("only Gaussian decisions that are not squashed, with sigma independent of the view")


def _learned(policy: Policy) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in policy.named_parameters() if p.requires_grad}


def _decide(policy: Policy, parameters: Mapping[str, Tensor], obs: Tensor, z: Tensor) -> Tensor:
    """p = (mu, eta, log sigma) of one step, `[O], [Z] -> [A+Z + A+Zd]`."""
    view = View(obs.unsqueeze(-2), torch.zeros(1, dtype=torch.bool, device=obs.device), z)
    decision = functional_call(policy, dict(parameters), (view,))
    return torch.cat([decision.mean[..., : policy.actions], decision.carry, decision.log_sigma], -1)


def _read(estimator: Estimator, policy: Policy, e: Trajectories) -> _Steps:
    """Step by step under `vmap`, which sees single rows; so no layer takes its path for many rows without a batch."""
    parameters, width = _learned(policy), e.u.shape[-1]

    def mean(obs: Tensor, z: Tensor) -> Tensor:
        return _decide(policy, parameters, obs, z)[:width]

    rows, batch = (e.obs.flatten(0, 1), e.z.flatten(0, 1)), e.r.shape
    means = vmap(mean)(*rows).unflatten(0, batch)
    jacobian = means.new_zeros(*means.shape, 0)
    if not estimator.decides and estimator.context != 1:
        jacobian = vmap(jacrev(mean, argnums=1), chunk_size=JACOBIANS)(*rows).unflatten(0, batch)
    return _Steps((e.u - means) * e.alive.unsqueeze(-1), jacobian)


def _gradient(estimator: Estimator, policy: Policy, e: Trajectories, steps: _Steps, weight: Tensor) -> Tensor:
    """For the weights w [N, T], linear in them: [N, P]."""
    credits = _credits(estimator, policy, steps, weight * e.alive)

    def credited(parameters: Mapping[str, Tensor], obs: Tensor, z: Tensor, credit: Tensor) -> Tensor:
        decisions = vmap(lambda o, m: _decide(policy, parameters, o, m))(obs, z)
        return (decisions * credit).sum()

    each = vmap(grad(credited), (None, 0, 0, 0), chunk_size=max(ROWS // e.r.shape[1], 1))
    found = each(_learned(policy), e.obs, e.z, credits)
    return torch.cat([part.flatten(1) for part in found.values()], 1)


def _credits(estimator: Estimator, policy: Policy, steps: _Steps, weight: Tensor) -> Tensor:
    """c_t of (mu, eta, log sigma), [N, T, A+Z + A+Zd], for the weights w [N, T]."""
    actions, decided = policy.actions, policy.memory.decided
    sigma = policy.spread.detach().exp()
    residual, weight = steps.residual, weight.unsqueeze(-1)
    scaled = residual[..., : len(sigma)] / sigma
    score, spread = weight * scaled / sigma, weight * (scaled.square() - 1)
    if estimator.decides:
        return torch.cat([score, spread], -1)
    action = score[..., :actions]
    if estimator.context == 1:
        memory = torch.zeros_like(residual[..., actions:])
    else:
        memory = costates(steps.pull_back, action, policy.memory.size, estimator.context)
    through = (memory * residual[..., actions:])[..., :decided]
    return torch.cat([action, memory, spread[..., :actions], through], -1)


def _controls(estimator: Estimator, e: Trajectories, steps: _Steps) -> Iterator[tuple[Trajectories, _Steps, Tensor]]:
    """The episodes' parts, and weights for them, whose gradients a baseline may subtract multiples of."""
    if estimator.signal == "return":
        yield e, steps, torch.ones_like(e.r)
        return
    for t in range(e.r.shape[1]):
        reach = 1 if estimator.decides else estimator.context or t + 1
        part = slice(max(t + 1 - reach, 0), t + 1)
        cut = Trajectories(*(column[:, part] for column in e))
        last = torch.zeros_like(cut.r)
        last[:, -1] = 1.0
        yield cut, _Steps(*(column[:, part] for column in steps)), last
