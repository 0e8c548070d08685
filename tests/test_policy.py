"""A decision on u = (a, z') is a diagonal Gaussian, and its quantities come per group."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution, kl_divergence

from s2pg.nets import CELLS
from s2pg.policy import Decision, Policy, Shape, Tanh, UniformPolicy
from s2pg.types import View
from tests.helpers import MEMORIES, WIDTH, seeded

A, ZD, BATCH = 3, 4, (6, 2)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}

every_memory = pytest.mark.parametrize("name", MEMORIES)


def decision(seed: int = 0, decided: int = ZD) -> Decision:
    generator = seeded(seed)
    mean = torch.randn(*BATCH, A + decided, generator=generator)
    return Decision(mean, torch.randn(A + decided, generator=generator) / 2, A, mean[..., A:])


def normals(d: Decision) -> list[Independent]:
    """torch's distributions of the two groups."""
    sigma = d.log_sigma.exp().expand_as(d.mean)
    return [Independent(Normal(d.mean[..., part], sigma[..., part]), 1) for part in (slice(0, A), slice(A, None))]


def policy(name: str, actions: int = 2) -> Policy:
    torch.manual_seed(3)
    return Policy(MEMORIES[name](), actions, [7], (0.6, 0.3))


def view(memory_size: int, n: int = 5, length: int = 1) -> View:
    generator = seeded(4)
    obs = torch.randn(n, length, WIDTH.total, generator=generator)
    z = torch.randn(n, memory_size, generator=generator)
    return View(obs, torch.zeros(n, length, dtype=torch.bool), z)


# --- the distribution ------------------------------------------------------------------------------------------------


def test_log_probability_per_group_is_torchs() -> None:
    d = decision()
    u = d.rsample(seeded(1))
    expected = [group.log_prob(part) for group, part in zip(normals(d), u.split([A, ZD], -1), strict=True)]
    torch.testing.assert_close(d.log_prob(u), torch.stack(expected, -1), **CLOSE)


def test_entropy_per_group_is_torchs() -> None:
    d = decision()
    expected = torch.stack([group.entropy()[0, 0] for group in normals(d)])
    torch.testing.assert_close(d.entropy(), expected, **CLOSE)


def test_divergence_per_group_is_torchs_and_not_symmetric() -> None:
    p, q = decision(0), decision(1)
    expected = [kl_divergence(one, two) for one, two in zip(normals(p), normals(q), strict=True)]
    torch.testing.assert_close(p.kl(q), torch.stack(expected, -1), **CLOSE)
    assert (p.kl(q) - q.kl(p)).abs().max() > 0.1
    torch.testing.assert_close(p.kl(p), torch.zeros(*BATCH, 2), **CLOSE)


def test_the_groups_add_up_to_the_joint_decision() -> None:
    d = decision()
    u = d.rsample(seeded(1))
    joint = Independent(Normal(d.mean, d.log_sigma.exp().expand_as(d.mean)), 1)
    torch.testing.assert_close(d.log_prob(u).sum(-1), joint.log_prob(u), **CLOSE)
    torch.testing.assert_close(d.entropy().sum(), joint.entropy()[0, 0], **CLOSE)


def test_the_covariance_is_diagonal() -> None:
    """A deviation of one component changes the log density by the same amount, wherever the others are."""
    d = decision()
    u, other = d.rsample(seeded(1)), d.rsample(seeded(2))
    for i in range(A + ZD):
        moved, moved_other = u.clone(), other.clone()
        moved_other[..., i] = u[..., i]
        moved[..., i] += 0.7
        shifted_other = moved_other.clone()
        shifted_other[..., i] += 0.7
        change = (d.log_prob(moved) - d.log_prob(u)).sum(-1)
        change_other = (d.log_prob(shifted_other) - d.log_prob(moved_other)).sum(-1)
        torch.testing.assert_close(change, change_other, rtol=1e-4, atol=1e-4)


def test_samples_have_the_mean_and_covariance_they_should() -> None:
    """Within 5 standard errors, and components are independent of each other."""
    n = 200_000
    one = decision()
    d = one._replace(mean=one.mean[0, 0].expand(n, -1))
    u = d.rsample(seeded(7))
    sigma = d.log_sigma.exp()
    assert ((u.mean(0) - one.mean[0, 0]).abs() < 5 * sigma / math.sqrt(n)).all()
    scaled = (u - d.mean) / sigma
    assert ((scaled.T @ scaled / n - torch.eye(A + ZD)).abs() < 5 * math.sqrt(2 / n)).all()
    assert torch.equal(d.mode, d.mean)


def test_samples_follow_the_generator_alone() -> None:
    d = decision()
    one = d.rsample(seeded(1))
    torch.manual_seed(99)
    assert torch.equal(one, d.rsample(seeded(1)))
    assert not torch.equal(one, d.rsample(seeded(2)))


def test_the_score_is_right() -> None:
    """d log p / d mean = delta / sigma^2 and d log p / d log sigma = -1 + delta^2 / sigma^2, per component."""
    d = decision()
    mean, log_sigma = d.mean.clone().requires_grad_(), d.log_sigma.clone().requires_grad_()
    u = d.rsample(seeded(1))
    total = d._replace(mean=mean, log_sigma=log_sigma).log_prob(u).sum()
    to_mean, to_log_sigma = torch.autograd.grad(total, [mean, log_sigma])
    delta, sigma = u - d.mean, d.log_sigma.exp()
    torch.testing.assert_close(to_mean, delta / sigma**2, **CLOSE)
    torch.testing.assert_close(to_log_sigma, (-1 + delta**2 / sigma**2).sum((0, 1)), rtol=1e-4, atol=1e-4)


def test_without_a_decided_memory_its_group_is_exactly_zero() -> None:
    d, other = decision(decided=0), decision(1, decided=0)
    for value in (d.log_prob(d.rsample(seeded(1))), d.entropy(), d.kl(other)):
        assert (value[..., 1] == 0).all()
        assert (value[..., 0] != 0).all()


# --- the policy ------------------------------------------------------------------------------------------------------


@every_memory
def test_the_policy_decides_on_actions_and_on_the_memory_it_may_decide_on(name: str) -> None:
    p = policy(name)
    d = p(view(p.memory.size))
    assert d.mean.shape == (5, 2 + p.memory.decided)
    torch.testing.assert_close(
        d.log_sigma.exp(), torch.tensor([0.6] * 2 + [0.3] * p.memory.decided), rtol=1e-5, atol=1e-6
    )
    assert (d.log_prob(d.mean)[..., 1] == 0).all() == (p.memory.decided == 0)


@pytest.mark.parametrize("name", ["s2pg", "s2pg_lstm"])
def test_the_mean_of_the_decided_memory_is_the_cells_next_state(name: str) -> None:
    p = policy(name)
    seen = view(p.memory.size)
    cell, e = p.memory.cell, p.memory.embed(seen.obs[:, 0])
    assert type(cell) in CELLS.values()
    torch.testing.assert_close(p(seen).mean[:, 2:], cell.step(cell.project(e), seen.z))


def test_a_memory_squashed_once_is_the_cells_next_state_with_noise_that_never_leaves_its_range() -> None:
    """z' = tanh(x), x ~ N(atanh(m), sigma^2): without noise it is m; its density is torch's."""
    memory = MEMORIES["s2pg"]()
    squashed = Policy(memory, 2, [7], (0.6, 0.3), shape=Shape(Tanh(), Tanh()), centred=True)
    seen = view(memory.size)
    d = squashed(seen._replace(z=seen.z.tanh()))
    torch.testing.assert_close(d.mode[:, 2:], d.carry, rtol=1e-5, atol=1e-6)
    u, log_prob = d.rsample_with_log_prob(seeded(1))
    assert u[:, 2:].abs().max() < 1
    density = TransformedDistribution(Normal(torch.atanh(d.carry), 0.3), TanhTransform()).log_prob(u[:, 2:]).sum(-1)
    torch.testing.assert_close(log_prob[:, 1], density, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["s2pg", "s2pg_lstm"])
def test_the_action_follows_the_mean_of_the_next_memory_and_not_its_sample(name: str) -> None:
    """Making z' noisier, or drawing it anew, leaves the distribution of a as it is; moving its mean does not."""
    p = policy(name)
    seen = view(p.memory.size)
    quiet = p(seen)
    noise = seeded(1)
    u = quiet.rsample(noise)
    p.log_sigma.data[2:] += 2.0
    noisy = p(seen)
    assert torch.equal(noisy.mean, quiet.mean)
    assert torch.equal(noisy.rsample(seeded(1))[:, :2], u[:, :2])
    to_cell = torch.autograd.grad(quiet.mean[:, :2].sum(), p.memory.cell.recurrent.weight)[0]
    assert (to_cell != 0).any(), "the action's gradient reaches the cell through the mean of z'"


@every_memory
def test_what_is_carried_on_is_decided_or_the_memorys_own(name: str) -> None:
    p = policy(name)
    seen = view(p.memory.size)
    d = p(seen)
    for mode in ("sample", "mean"):
        u, z = p.act(seen.obs[:, 0], seen.start[:, 0], seen.z, mode, seeded(1))
        expected = d.mean if mode == "mean" else d.rsample(seeded(1))
        torch.testing.assert_close(u, expected)
        carried = expected[:, 2:] if p.memory.decided else p.memory.read(*seen[:3])[1]
        torch.testing.assert_close(z, carried)


@every_memory
def test_a_start_makes_the_policy_forget(name: str) -> None:
    p = policy(name)
    seen = view(p.memory.size)
    begun = seen._replace(start=torch.ones_like(seen.start))
    assert torch.equal(p(begun).mean, p(begun._replace(z=torch.zeros_like(seen.z))).mean)


@pytest.mark.parametrize(("log_sigma", "bound"), [(9.0, 2.0), (-50.0, -20.0)])
def test_standard_deviations_stay_in_range(log_sigma: float, bound: float) -> None:
    p = policy("s2pg")
    p.log_sigma.data[:] = log_sigma
    assert (p(view(p.memory.size)).log_sigma == bound).all()


def test_the_random_anchor_is_uniform_in_the_action_space() -> None:
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([1.0, 4.0])
    p = UniformPolicy(MEMORIES["none"](), low, high)
    n = 20_000
    obs = torch.zeros(n, WIDTH.total)
    u, z = p.act(obs, torch.zeros(n, dtype=torch.bool), torch.zeros(n, 0), "mean", seeded(1))
    assert z.shape == (n, 0)
    assert ((low <= u) & (u <= high)).all()
    quantiles = torch.quantile((u - low) / (high - low), torch.tensor([0.25, 0.5, 0.75]), dim=0)
    torch.testing.assert_close(quantiles, _column([0.25, 0.5, 0.75]).expand(3, 2), rtol=0, atol=0.02)


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values).unsqueeze(1)
