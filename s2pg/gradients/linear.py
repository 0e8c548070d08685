"""The problem: a linear system, a policy with memory, and the closed form of everything that is estimated.

Symbols: s state [S], o observation [O], a action [A], z memory [Z], z_0 = 0; u = (a, z') decision [D], D = A + Z;
phi features [X], X = O + Z; T horizon, N episodes, gamma discount. All tensors share one dtype, best float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class System:
    """s' = A s + B a + w, o = C s + v, s_0 ~ N(0, P), w ~ N(0, W), v ~ N(0, V); J = E sum_{t<T} gamma^t r(s_t, a_t).

    With the cost c = s^T Q s + a^T R a, the reward is r = -c, or r = exp(-c) - 1 in [-1, 0] where `bounded`. The
    previous action is seen by a policy if it is part of s and o.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    Q: Tensor
    R: Tensor
    P: Tensor
    W: Tensor
    V: Tensor
    discount: float = 1.0
    bounded: bool = False

    @classmethod
    def of(cls, discount: float = 1.0, bounded: bool = False, **matrices: Any) -> System:
        """From the matrices as array-likes by name, e.g. `System.of(**vars(linear_system))`, in float64."""
        tensors = {name: torch.as_tensor(matrix, dtype=torch.float64) for name, matrix in matrices.items()}
        return cls(**tensors, discount=discount, bounded=bounded)

    def reward(self, s: Tensor, a: Tensor) -> Tensor:
        """r(s, a) of s [*, S], a [*, A]: [*]."""
        cost = ((s @ self.Q) * s).sum(-1) + ((a @ self.R) * a).sum(-1)
        return torch.expm1(-cost) if self.bounded else -cost

    def discounts(self, horizon: int) -> Tensor:
        """gamma^t for t < T: [T]."""
        return self.discount ** torch.arange(horizon, dtype=self.A.dtype)

    def sample(self, policy: StatefulPolicy, count: int, horizon: int, generator: torch.Generator) -> Episodes:
        """`count` independent episodes."""
        return sample(self, policy, count, horizon, generator)


class Bounds(NamedTuple):
    """For all o and z: |d_theta mu|_F <= F, |d_theta eta|_F <= H, |d_z mu|_2 <= K, |d_z eta|_2 <= Z."""

    F: float
    H: float
    K: float
    Z: float


@dataclass(frozen=True)
class StatefulPolicy:
    """u = (a, z') ~ N(m, diag(sigma_a^2, sigma_z^2)) with mean m = (mu, eta) = theta phi(o, z) + carry z.

    theta [D, X] are the parameters (flattened by rows where a gradient has P = D X components); carry [D, Z] is fixed.
    phi(o, z) = (o, z), or tanh(o, z) / sqrt(X) where `bounded`, so that |phi| <= 1.
    """

    theta: Tensor
    carry: Tensor
    sigma_a: float
    sigma_z: float
    bounded: bool = False

    def __post_init__(self) -> None:
        (decisions, width), (rows, memory) = self.theta.shape, self.carry.shape
        if rows != decisions or memory >= decisions or memory > width:
            raise ValueError(
                f"theta {[*self.theta.shape]} and carry {[*self.carry.shape]} must be [A+Z, O+Z] and [A+Z, Z]"
            )
        if self.sigma_a < 0 or self.sigma_z < 0:
            raise ValueError(f"sigma_a={self.sigma_a} and sigma_z={self.sigma_z} must not be negative")

    @classmethod
    def linear(cls, gains: Any, memory: int, sigma_a: float, sigma_z: float) -> StatefulPolicy:
        """(a, z') = K (o, z) + noise with all gains K [A+Z, O+Z] learned."""
        theta = torch.as_tensor(gains, dtype=torch.float64)
        return cls(theta, theta.new_zeros(len(theta), memory), sigma_a, sigma_z)

    @property
    def memory(self) -> int:
        """Z."""
        return self.carry.shape[1]

    @property
    def actions(self) -> int:
        """A."""
        return len(self.theta) - self.memory

    @property
    def theta_z(self) -> Tensor:
        """The columns of theta that read z: [D, Z]."""
        return self.theta[:, self.theta.shape[1] - self.memory :]

    @property
    def gains(self) -> Tensor:
        """d m / d (o, z) [D, X] of linear features."""
        if self.bounded:
            raise ValueError("a policy with bounded features has no constant gains")
        fixed = self.theta.new_zeros(len(self.theta), self.theta.shape[1] - self.memory)
        return self.theta + torch.cat([fixed, self.carry], 1)

    def features(self, o: Tensor, z: Tensor) -> Tensor:
        """phi [*, X] of o [*, O], z [*, Z]."""
        x = torch.cat([o, z], -1)
        return x.tanh() / math.sqrt(x.shape[-1]) if self.bounded else x

    def mean(self, phi: Tensor, z: Tensor) -> Tensor:
        """m [*, D]."""
        return phi @ self.theta.T + z @ self.carry.T

    def pull_back(self, phi: Tensor, v: Tensor) -> Tensor:
        """(d m / d z)^T v, [*, Z], of v [*, D]."""
        width = phi.shape[-1]
        phi_z = phi[..., width - self.memory :]
        slope = (1 - width * phi_z**2) / math.sqrt(width) if self.bounded else 1.0
        return slope * (v @ self.theta_z) + v @ self.carry

    def noise(self) -> Tensor:
        """Standard deviations of u: [D]."""
        return torch.tensor([self.sigma_a] * self.actions + [self.sigma_z] * self.memory, dtype=self.theta.dtype)

    def bounds(self) -> Bounds:
        """d_theta mu = I (x) phi has the norm sqrt(A) |phi|; F and H are infinite if the features are unbounded."""
        scale = 1 / math.sqrt(self.theta.shape[1]) if self.bounded else 1.0
        phi = 1.0 if self.bounded else math.inf
        norms = torch.stack([self._row_norms(self.carry), scale * self._row_norms(self.theta_z)]).sum(0)
        K, Z = norms.tolist()
        return Bounds(math.sqrt(self.actions) * phi, math.sqrt(self.memory) * phi, K, Z)

    def _row_norms(self, m: Tensor) -> Tensor:
        return torch.stack([torch.linalg.matrix_norm(rows, 2) for rows in m.split([self.actions, self.memory])])


class Episodes(NamedTuple):
    """N episodes of T steps."""

    s: Tensor  # [N, T, S]
    o: Tensor  # [N, T, O]
    z: Tensor  # [N, T, Z] before the step
    u: Tensor  # [N, T, D], of which the last Z are the next step's z
    r: Tensor  # [N, T]


def sample(system: System, policy: StatefulPolicy, count: int, horizon: int, generator: torch.Generator) -> Episodes:
    """`count` independent episodes."""

    def normal(root: Tensor, steps: int = horizon) -> Tensor:
        return torch.randn(steps, count, len(root), generator=generator, dtype=root.dtype) @ root.T

    s, z = normal(_root(system.P), 1)[0], policy.theta.new_zeros(count, policy.memory)
    noises = zip(normal(_root(system.W)), normal(_root(system.V)), normal(torch.diag(policy.noise())), strict=True)
    steps = []
    for w, v, epsilon in noises:
        o = s @ system.C.T + v
        u = policy.mean(policy.features(o, z), z) + epsilon
        steps.append((s, o, z, u))
        s, z = s @ system.A.T + u[:, : policy.actions] @ system.B.T + w, u[:, policy.actions :]
    s, o, z, u = (torch.stack(column, 1) for column in zip(*steps, strict=True))
    return Episodes(s, o, z, u, system.reward(s, u[..., : policy.actions]))


def _root(covariance: Tensor) -> Tensor:
    """M with M M^T = covariance, which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()


class _Closed(NamedTuple):
    """The linear policy in the linear system, with y = (s, z), x = (s, a, z') and phi = (o, z)."""

    see: Tensor  # [X, S+Z]: E[phi | y]
    decide: Tensor  # [S+D, S+Z]: E[x | y]
    move: Tensor  # [S+Z, S+D]: E[y_{t+1} | x_t]
    seen: Tensor  # [X, X]: Cov[phi | y]
    spread: Tensor  # [D, D]: Cov[u | y]


def _close(system: System, policy: StatefulPolicy) -> _Closed:
    if system.bounded or policy.bounded:
        raise ValueError("only a linear policy with the quadratic reward has a closed form")
    eye = torch.eye(policy.memory, dtype=system.A.dtype)
    see = torch.block_diag(system.C, eye)
    state = torch.eye(len(system.A), len(system.A) + policy.memory, dtype=system.A.dtype)
    move = torch.block_diag(torch.cat([system.A, system.B], 1), eye)
    seen = torch.block_diag(system.V, 0 * eye)
    spread = policy.gains @ seen @ policy.gains.T + torch.diag(policy.noise() ** 2)
    return _Closed(see, torch.cat([state, policy.gains @ see]), move, seen, spread)


def spectral_radius(system: System, policy: StatefulPolicy) -> float:
    """Largest absolute eigenvalue of E[y_{t+1} | y_t], y = (s, z): above 1, the loop of both expands."""
    closed = _close(system, policy)
    return float(torch.linalg.eigvals(closed.move @ closed.decide).abs().max())


class QuadraticCritic(NamedTuple):
    """V_t(s, z) = -(y^T S_t y + c_t), y = (s, z), and Q_t(s, z, a, z') = -(x^T N_t x + d_t), x = (s, a, z'); exact."""

    S: Tensor  # [T, S+Z, S+Z]
    c: Tensor  # [T]
    N: Tensor  # [T, S+D, S+D]
    d: Tensor  # [T]

    def v(self, e: Episodes) -> Tensor:
        """V_t at the visited (s, z): [N, T]."""
        return -quadratic(torch.cat([e.s, e.z], -1), self.S) - self.c

    def q(self, e: Episodes) -> Tensor:
        """Q_t at the decisions taken: [N, T]. Given z', it does not depend on z."""
        return -quadratic(torch.cat([e.s, e.u], -1), self.N) - self.d

    def q_gradient(self, e: Episodes) -> Tensor:
        """d Q_t / d (a, z'): [N, T, D]."""
        return -2 * torch.einsum("ntx,tux->ntu", torch.cat([e.s, e.u], -1), self.N[:, e.s.shape[-1] :])


def quadratic(x: Tensor, form: Tensor) -> Tensor:
    """x_t^T M_t x_t of x [N, T, X], M [T, X, X]: [N, T]."""
    return (torch.einsum("ntx,txy->nty", x, form) * x).sum(-1)


def exact_critic(system: System, policy: StatefulPolicy, horizon: int) -> QuadraticCritic:
    """Backward from S_T = 0: N_t = diag(Q, R, 0) + gamma E^T S_{t+1} E and S_t = X^T N_t X, where E[y'|x] = E x and
    E[x|y] = X y."""
    closed, rows = _close(system, policy), []
    cost = torch.block_diag(system.Q, system.R, 0 * torch.eye(policy.memory, dtype=system.A.dtype))
    n, S, c = len(system.A), torch.zeros_like(closed.decide.T @ closed.decide), system.A.new_zeros(())
    for _ in range(horizon):
        N = cost + system.discount * closed.move.T @ S @ closed.move
        d = system.discount * (c + torch.trace(S[:n, :n] @ system.W))
        S, c = closed.decide.T @ N @ closed.decide, d + torch.trace(N[n:, n:] @ closed.spread)
        rows.append((S, c, N, d))
    return QuadraticCritic(*(torch.stack(column) for column in zip(*reversed(rows), strict=True)))


def expected_return(system: System, policy: StatefulPolicy, horizon: int) -> Tensor:
    """J = E V_0(s_0, 0), a scalar that autograd can differentiate."""
    critic, n = exact_critic(system, policy, horizon), len(system.A)
    return -torch.trace(critic.S[0, :n, :n] @ system.P) - critic.c[0]


def exact_gradient(system: System, policy: StatefulPolicy, horizon: int, context: int | None = None) -> Tensor:
    """The policy gradient theorem in closed form, sum_t gamma^t E[d_u Q_t phi_t^T], or what BPTT through `context`
    steps expects instead: [P].

    Truncation replaces gamma^t d_{z'} Q_t, which is the expected costate, by its first terms: lambda_t = (d_z mu)^T
    gamma^t d_a Q_t + (d_z eta)^T lambda_{t+1}, iterated `context - 1` times from lambda = 0. As functions of y_t, the
    costates are linear: E[lambda_t | y_t] = L_t y_t.
    """
    closed, n, m = _close(system, policy), len(system.A), policy.actions
    critic, discounts = exact_critic(system, policy, horizon), system.discounts(horizon)
    slopes = -2 * discounts[:, None, None] * critic.N[:, n:]  # gamma^t E[d_u Q_t | x_t] = slopes_t x_t: [T, D, S+D]
    gradient = torch.zeros_like(policy.theta)
    costates = None if context is None else _truncated_costates(policy, closed, slopes[:, :m], context)
    for t, moment in enumerate(_cross_moments(system, policy, closed, horizon)):
        credit = slopes[t] @ moment
        if costates is not None:
            credit[m:] = costates[t + 1] @ closed.move @ moment
        gradient += credit
    return gradient.flatten()


def blind_gradient(system: System, policy: StatefulPolicy, horizon: int) -> Tensor:
    """What S2PG expects instead with a critic of (o, z, a, z') that bootstraps from itself: [P].

    With x = (phi, u) and G = Cov(s, x) Cov(x)^-1, the fitted value is Q_t = -(x^T N_t x + d_t), N_t = G^T Q G +
    diag(0, R, 0) + gamma M^T S_{t+1} M, where E[phi'|x] = M x and S_t = E^T N_t E, E[x|phi] = E phi. The exact
    critic knows s, and its S_{t+1} is that of (s', z').
    """
    closed, n, m, width = _close(system, policy), len(system.A), policy.actions, policy.theta.shape[1]
    decide = torch.cat([torch.eye(width, dtype=system.A.dtype), policy.gains])
    noise = torch.block_diag(0 * closed.seen, torch.diag(policy.noise() ** 2))
    cost = torch.block_diag(0 * closed.seen, system.R, 0 * torch.eye(policy.memory, dtype=system.A.dtype))
    S, gradient = torch.zeros_like(closed.seen), torch.zeros_like(policy.theta)
    for t, Y in reversed([*enumerate(_moments(system, policy, closed, horizon))]):
        seen = closed.see @ Y @ closed.see.T + closed.seen
        G = Y[:n] @ closed.see.T @ decide.T @ torch.linalg.pinv(decide @ seen @ decide.T + noise, hermitian=True)
        u = torch.eye(len(cost), dtype=system.A.dtype)[width:]
        M = torch.cat([system.C @ (system.A @ G + system.B @ u[:m]), u[m:]])
        N = G.T @ system.Q @ G + cost + system.discount * M.T @ S @ M
        S = decide.T @ N @ decide
        gradient -= 2 * system.discount**t * N[width:] @ decide @ seen
    return gradient.flatten()


def _cross_moments(system: System, policy: StatefulPolicy, closed: _Closed, horizon: int) -> list[Tensor]:
    """E[x_t phi_t^T] for t < T: [S+D, X] each."""
    n, moments = len(system.A), []
    for Y in _moments(system, policy, closed, horizon):
        moments.append(closed.decide @ Y @ closed.see.T)
        moments[-1][n:] += policy.gains @ closed.seen
    return moments


def _moments(system: System, policy: StatefulPolicy, closed: _Closed, horizon: int) -> list[Tensor]:
    """E[y_t y_t^T] for t < T: [S+Z, S+Z] each."""
    n, moments = len(system.A), []
    zero = policy.theta.new_zeros(policy.memory, policy.memory)
    Y, noise = torch.block_diag(system.P, zero), torch.block_diag(system.W, zero)
    for _ in range(horizon):
        moments.append(Y)
        x = closed.decide @ Y @ closed.decide.T
        x[n:, n:] += closed.spread
        Y = closed.move @ x @ closed.move.T + noise
    return moments


def _truncated_costates(policy: StatefulPolicy, closed: _Closed, slopes: Tensor, context: int) -> Tensor:
    """L_t for t <= T: [T+1, Z, S+Z], from the slopes gamma^t d_a Q_t [T, A, S+D]."""
    jacobian = policy.theta_z + policy.carry
    direct = jacobian[: policy.actions].T @ slopes @ closed.decide
    costates = direct.new_zeros(len(direct) + 1, *direct.shape[1:])
    for _ in range(min(context, len(direct)) - 1):
        costates[:-1] = direct + jacobian[policy.actions :].T @ costates[1:] @ closed.move @ closed.decide
    return costates
