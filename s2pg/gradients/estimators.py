"""Estimators of grad J, one gradient per trajectory: S2PG and BPTT are one sum with two ways to credit the memory.

    gradient = sum_t c_t phi_t^T

    S2PG    c_t = ( Sigma_a^-1 (a_t - mu_t) w_t,  Sigma_z^-1 (z_{t+1} - eta_t) w_t )      z is data
    BPTT    c_t = ( Sigma_a^-1 (a_t - mu_t) w_t,  lambda_{t+1} )                          z is a function of theta
            lambda_t = (d_z mu_t)^T Sigma_a^-1 (a_t - mu_t) w_t + (d_z eta_t)^T lambda_{t+1},  lambda_T = 0
    critic  c_t = gamma^t ( d_a Q_t,  d_{z'} Q_t )                                        the costate is known

c_t [A+Z] is the credit of the decision u_t = (a_t, z_{t+1}), whose mean is (mu_t, eta_t) = theta phi_t + carry z_t;
w_t is the return J, the reward to go or the advantage. BPTT is as well sum_t (d mu_t / d theta)_tot^T Sigma_a^-1
(a_t - mu_t) w_t with (d mu_t / d theta)_tot = d_theta mu_t + d_z mu_t D_t, D_{t+1} = d_theta eta_t + d_z eta_t D_t,
D_0 = 0; lambda is that sum taken from its other end. BPTT runs on the realised z: with sigma_z = 0 it is that of a
deterministic memory, with sigma_z > 0 the pathwise estimator for the very objective of S2PG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from s2pg.gradients.critic import FittedCritic, fit_critic
from s2pg.gradients.cue import Cue
from s2pg.gradients.linear import Episodes, QuadraticCritic, StatefulPolicy, System, exact_critic

Signal = Literal["return", "reward_to_go", "advantage", "q_gradient"]
Baseline = Literal["none", "scalar", "componentwise"]
Critic = Literal["exact", "learned", "blind"]
AnyCritic = QuadraticCritic | FittedCritic
Task = System | Cue

Pull = Callable[[Tensor, int | slice], Tensor]

CRITIC_STREAM = 0x5A17C  # what a critic's own episodes have in their seed
EXPLORATION = 0.5  # standard deviation


@dataclass(frozen=True)
class Estimator:
    """A point of the lattice memory x signal x baseline.

    decides: True: z' is a decision with a score (S2PG); False: it is differentiated through (BPTT).
    context: BPTT's number of steps, of which the first one's z is data; None: all of them. Truncation is biased.
    signal: w_t = J ("return": REINFORCE), sum_{k>=t} gamma^k r_k ("reward_to_go": GPOMDP), or gamma^t (Q_t - V_t) of
        a critic ("advantage"); "q_gradient": its derivative by the decision instead of scores, which is the
        deterministic theorem where sigma_a = sigma_z = 0 and stays unbiased at decisions sampled with noise.
    baseline: the best constant ("return": one, "reward_to_go": one per time step), over all components of the gradient
        ("scalar") or for each ("componentwise"). Estimated from one half of the episodes and used on the other, in both
        directions, so that it is independent of what it is subtracted from and causes no bias.
    critic: of "advantage" and "q_gradient". "learned": fitted to episodes of its own on (s, a, z'); "blind": on
        (o, z, a, z'), see `s2pg.gradients.critic`.
    bootstrap: does a fitted critic trust its own value of the next step, or the return that was observed?
    """

    decides: bool = True
    context: int | None = None
    signal: Signal = "reward_to_go"
    baseline: Baseline = "none"
    critic: Critic = "exact"
    bootstrap: bool = True

    def __post_init__(self) -> None:
        if self.context is not None and (self.decides or self.context < 1):
            raise ValueError(f"context={self.context!r} is for BPTT, and at least 1")
        if self.signal == "q_gradient" and not self.decides:
            raise ValueError("the derivative of Q by z' takes the place of BPTT: decides=True")
        if self.signal in ("advantage", "q_gradient") and self.baseline != "none":
            raise ValueError(f"signal={self.signal!r} has its baseline already")
        if self.critic != "exact" and self.signal not in ("advantage", "q_gradient"):
            raise ValueError(f"signal={self.signal!r} asks no critic: critic={self.critic!r}")
        if self.critic == "exact" and not self.bootstrap:
            raise ValueError("bootstrap=False is for a critic that is fitted")


BPTT_1 = Estimator(decides=False, context=1)  # z is data and has no score: what is left of BPTT without its past


def gradients(
    estimator: Estimator,
    system: Task,
    policy: StatefulPolicy,
    e: Episodes,
    critic: AnyCritic | None = None,
) -> Tensor:
    """One gradient per episode: [N, P]. A critic that is fitted, see `find_critic`, is to be given.

    Raises ValueError where it is not, and where a score is asked of a decision without noise.
    """
    phi = policy.features(e.o, e.z)
    if critic is None and estimator.critic != "exact":
        raise ValueError(f"critic={estimator.critic!r} must have been fitted, to other episodes")
    if critic is None and estimator.signal in ("advantage", "q_gradient"):
        critic = _exact_critic(system, policy, e.r.shape[1])
    if critic is not None and estimator.signal == "q_gradient":
        return _sum(critic.q_gradient(e) * system.discounts(e.r.shape[1])[:, None], phi)
    credits = decision_credits(policy, e, phi, weights(estimator.signal, system, policy, e, critic), estimator)
    gradient = _sum(credits, phi)
    if estimator.baseline == "none":
        return gradient
    if estimator.signal == "return":
        one = torch.ones_like(e.r)
        controls = _sum(decision_credits(policy, e, phi, one, estimator), phi).unsqueeze(1)
    else:
        controls = scores(policy, e, estimator)
    return subtract_baseline(gradient, controls, estimator.baseline == "componentwise")


def sample_gradients(
    estimators: Mapping[str, Estimator],
    system: Task,
    policy: StatefulPolicy,
    count: int,
    horizon: int,
    seed: int,
    chunk: int = 1000,
    critic_episodes: int = 10_000,
) -> dict[str, Tensor]:
    """[N, P] for each estimator, all from the same `count` episodes.

    A critic that is fitted has `critic_episodes` of its own, so it is a constant for these; its error is part of their
    bias, not of their variance.

    Works through chunks of at most `chunk` episodes of nearly equal sizes; a baseline is of one chunk. Bytes per chunk:
    about 8 chunk T (S + 2 X + 5 D), with a baseline per time step several 8 chunk T P.
    """
    generator, parts = torch.Generator().manual_seed(seed), []
    critics = {
        name: find_critic(estimator, system, policy, horizon, critic_episodes, seed)
        for name, estimator in estimators.items()
    }
    for indices in torch.arange(count).tensor_split(math.ceil(count / chunk)):
        episodes = system.sample(policy, len(indices), horizon, generator)
        parts.append({name: gradients(e, system, policy, episodes, critics[name]) for name, e in estimators.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in estimators}


def find_critic(
    estimator: Estimator, system: Task, policy: StatefulPolicy, horizon: int, episodes: int, seed: int
) -> AnyCritic | None:
    """The estimator's critic, if it has one; where it is fitted, to `episodes` of a stream that no gradient sees.

    A decision without noise is explored with `EXPLORATION` for that, off policy. Raises ValueError where the critic is
    then fitted to returns, which would be those of another policy.
    """
    if estimator.signal not in ("advantage", "q_gradient"):
        return None
    if estimator.critic == "exact":
        return _exact_critic(system, policy, horizon)
    silent = not policy.sigma_a or (policy.memory > 0 and not policy.sigma_z)
    if silent and not estimator.bootstrap:
        raise ValueError("without noise in its decisions, a policy's own returns do not say what decisions are worth")
    exploring = replace(policy, sigma_a=policy.sigma_a or EXPLORATION, sigma_z=policy.sigma_z or EXPLORATION)
    generator = torch.Generator().manual_seed(seed ^ CRITIC_STREAM)
    e = system.sample(exploring, episodes, horizon, generator)
    return fit_critic(e, policy, system.discount, estimator.critic == "blind", estimator.bootstrap)


def _exact_critic(system: Task, policy: StatefulPolicy, horizon: int) -> QuadraticCritic:
    if not isinstance(system, System):
        raise ValueError("only the linear system has an exact critic")
    return exact_critic(system, policy, horizon)


def weights(
    signal: Signal, system: Task, policy: StatefulPolicy, e: Episodes, critic: AnyCritic | None = None
) -> Tensor:
    """w_t: [N, T]; the exact critic's advantages unless one is given."""
    discounts = system.discounts(e.r.shape[1])
    if signal == "advantage":
        critic = critic or _exact_critic(system, policy, e.r.shape[1])
        return discounts * (critic.q(e) - critic.v(e))
    return returns(signal, discounts * e.r)


def returns(signal: Signal, r: Tensor) -> Tensor:
    """w_t of the rewards r [N, T], which have been discounted: [N, T]."""
    return r.sum(1, keepdim=True).expand_as(r) if signal == "return" else r.flip(1).cumsum(1).flip(1)


def decision_credits(policy: StatefulPolicy, e: Episodes, phi: Tensor, weight: Tensor, estimator: Estimator) -> Tensor:
    """c_t for the weights w [N, T], linear in them: [N, T, D]."""
    if not policy.sigma_a or (estimator.decides and policy.memory and not policy.sigma_z):
        raise ValueError("a decision without noise has no score")
    residual = weight.unsqueeze(-1) * (e.u - policy.mean(phi, e.z))
    action, memory = residual.split([policy.actions, policy.memory], -1)
    action = action / policy.sigma_a**2
    if not estimator.decides:
        memory = costates(lambda v, t: policy.pull_back(phi[:, t], v), action, policy.memory, estimator.context)
    elif policy.memory:
        memory = memory / policy.sigma_z**2
    return torch.cat([action, memory], -1)


def costates(pull: Pull, credit: Tensor, memory: int, context: int | None = None) -> Tensor:
    """lambda_{t+1}, t < T, of BPTT: [N, T, Z], from the actions' credits [N, T, A].

    With `pull(v, t)` = (d_z m_t)^T v, where m_t = (mu_t, eta_t) and v [N, D] (or all t: [N, T, D]), the recursion of
    the module's docstring is lambda_t = (d_z m_t)^T (credit_t, lambda_{t+1}), from the end. A context of L steps
    iterates it L - 1 times at all times together, from lambda = 0.
    """
    horizon = credit.shape[1]
    lam = credit.new_zeros(len(credit), horizon + 1, memory)
    if context is None:
        for t in reversed(range(horizon)):
            lam[:, t] = pull(torch.cat([credit[:, t], lam[:, t + 1]], -1), t)
    else:
        for _ in range(min(context, horizon) - 1):
            lam[:, :-1] = pull(torch.cat([credit, lam[:, 1:]], -1), slice(None))
    return lam[:, 1:]


def scores(policy: StatefulPolicy, e: Episodes, estimator: Estimator) -> Tensor:
    """Each step's own score, s_t = d log pi(u_t) or (d mu_t / d theta)_tot^T Sigma_a^-1 (a_t - mu_t): [N, T, P].

    For BPTT lag by lag: what step t owes to the memory written j steps before is one vector [Z], carried backwards.
    Takes T^2 / 2 outer products, so it is for baselines; sum_t w_t s_t alone is cheaper through `decision_credits`.
    """
    phi = policy.features(e.o, e.z)
    own = decision_credits(policy, e, phi, torch.ones_like(e.r), estimator if estimator.decides else BPTT_1)
    out = own.unsqueeze(-1) * phi.unsqueeze(-2)  # [N, T, D, X]
    if not estimator.decides:
        owed = policy.pull_back(phi, own)  # d / d z_t of step t's own log-probability
        for lag in range(1, min(estimator.context or e.r.shape[1], e.r.shape[1])):
            owed = owed[:, 1:]  # d / d z_{t-lag+1}, for t >= lag
            out[:, lag:, policy.actions :] += owed.unsqueeze(-1) * phi[:, :-lag].unsqueeze(-2)
            owed = policy.pull_back(phi[:, :-lag], torch.nn.functional.pad(owed, (policy.actions, 0)))
    return out.flatten(2)


def subtract_baseline(gradient: Tensor, controls: Tensor, componentwise: bool) -> Tensor:
    """gradient [N, P] less sum_k b_k controls_k, with controls [N, K, P] of mean zero that are uncorrelated in k.

    Scores are (martingale differences), so that the b of least variance has a closed form for each k on its own:
    b_k = E<controls_k, gradient> / E|controls_k|^2, the products taken in each component or summed over all of them.
    Each half of the episodes takes the b of the other half.
    """
    halves = [(g, c) for g, c in zip(gradient.tensor_split(2), controls.tensor_split(2), strict=True)]
    over = (0,) if componentwise else (0, 2)
    b = [_ratio((c * g[:, None]).sum(over, keepdim=True), c.square().sum(over, keepdim=True)) for g, c in halves]
    return torch.cat([g - (other * c).sum(1) for (g, c), other in zip(halves, reversed(b), strict=True)])


def _ratio(product: Tensor, square: Tensor) -> Tensor:
    """0 where a score is always 0, as that of z_0's weights."""
    return torch.where(square > 0, product / square, 0.0)


def _sum(credits: Tensor, phi: Tensor) -> Tensor:
    """sum_t c_t phi_t^T by rows: [N, T, D] and [N, T, X] to [N, P]."""
    return (credits.mT @ phi).flatten(1)
