"""Estimators of the gradient agree with closed forms, with autograd and with each other; variances obey their bounds.

An estimator is called unbiased where every component of its mean is within 4.5 standard errors of the exact gradient:
for unbiased normal errors, one of the about 60 comparisons would fail with a probability of 4e-4. Seeds are fixed.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.studies.gradients import Fit, slope
from envs.diagnostics import LinearSystem
from s2pg.gradients.estimators import (
    Estimator,
    gradients,
    sample_gradients,
    scores,
    subtract_baseline,
    weights,
)
from s2pg.gradients.linear import StatefulPolicy, System, exact_critic, exact_gradient, expected_return, sample
from s2pg.gradients.variance import (
    batch_cosine,
    bptt_score_bound,
    s2pg_score_bound,
    summarise,
    total_variance,
    variance_bound,
    z_scores,
)

torch.set_num_threads(1)

SIGMAS = 4.5
SCALAR = {
    "A": [[0.9]],
    "B": [[0.4]],
    "C": [[1.0]],
    "Q": [[1.0]],
    "R": [[0.1]],
    "P": [[1.0]],
    "W": [[0.04]],
    "V": [[0.09]],
}
SYSTEM = System.of(**SCALAR, discount=0.9)
POLICY = StatefulPolicy.linear([[-0.3, -0.6], [0.6, 0.8]], memory=1, sigma_a=0.5, sigma_z=0.5)
HORIZON = 5
PATHS = {"s2pg": Estimator(), "bptt": Estimator(decides=False)}


def fit(x, summaries) -> Fit:
    """Slope of log variance against log x."""
    return slope(np.array(x), np.array([s.variance for s in summaries]), np.array([s.error for s in summaries]))


def linear_policy(memory=2, sigma_z=0.3, seed=0):
    """For the point mass, which shows its position and the previous action: gains [1+Z, 2+Z] and the policy."""
    gains = 0.4 * np.random.default_rng(seed).standard_normal((1 + memory, 2 + memory))
    return gains, StatefulPolicy.linear(gains, memory, 0.5, sigma_z)


def with_previous_action(system, discount):
    """The previous action made part of state and observation, as `LinearSystem.expected_return` has it."""
    n, m = system.B.shape
    pad = {"Q": m, "P": m, "W": m}
    matrices = {k: np.pad(v, [(0, pad.get(k, 0))] * 2) for k, v in vars(system).items() if k in "QRPW"}
    matrices |= {"A": np.pad(system.A, [(0, m)] * 2), "B": np.vstack([system.B, np.eye(m)])}
    matrices |= {"C": np.block([[system.C, np.zeros((len(system.C), m))], [np.zeros((m, n)), np.eye(m)]])}
    return System.of(**matrices, V=np.pad(system.V, [(0, m)] * 2), discount=discount)


def bounded_policy(recurrence, read=0.4, sigma=0.5):
    """|phi| <= 1, d_z mu = `read` and d_z eta = `recurrence`: F = H = 1, K and Z are these."""
    theta = torch.tensor([[-0.6, 0.0], [0.6, 0.0]], dtype=torch.float64)
    return StatefulPolicy(theta, torch.tensor([[read], [recurrence]], dtype=torch.float64), sigma, sigma, bounded=True)


def tanh_policy(seed=0, sigma_z=0.3):
    """A = 1, O = 1, Z = 2, recurrent weights learned and fixed ones, bounded features."""
    rng = torch.Generator().manual_seed(seed)
    theta, carry = (torch.randn(3, n, generator=rng, dtype=torch.float64) for n in (3, 2))
    return StatefulPolicy(theta, 0.3 * carry, 0.5, sigma_z, bounded=True)


def episodes(system, policy, count, horizon, seed=0):
    return sample(system, policy, count, horizon, torch.Generator().manual_seed(seed))


# The exact values


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("memory", [0, 1, 3])
def test_backward_values_equal_the_forward_moments_of_the_environment(memory, discount):
    point_mass = LinearSystem.point_mass()
    gains, policy = linear_policy(memory)
    noise = np.diag(policy.noise().numpy() ** 2)
    forward = point_mass.expected_return(gains, 7, noise, discount)
    assert float(expected_return(with_previous_action(point_mass, discount), policy, 7)) == pytest.approx(
        forward, rel=1e-12
    )


@pytest.mark.parametrize("memory", [0, 1, 3])
def test_exact_gradient_equals_finite_differences_of_the_expected_return(memory):
    point_mass = LinearSystem.point_mass()
    gains, policy = linear_policy(memory)
    noise, step, differences = np.diag(policy.noise().numpy() ** 2), 1e-5, np.zeros_like(gains)
    for place in np.ndindex(*gains.shape):
        change = np.zeros_like(gains)
        change[place] = step
        up, down = (point_mass.expected_return(gains + sign * change, 7, noise, 0.9) for sign in (1, -1))
        differences[place] = (up - down) / (2 * step)
    exact = exact_gradient(with_previous_action(point_mass, 0.9), policy, 7)
    np.testing.assert_allclose(exact.reshape(gains.shape), differences, rtol=1e-6, atol=1e-8)


def test_the_policy_gradient_theorem_in_closed_form_is_the_derivative_of_the_value_recursion():
    gains, policy = linear_policy()
    system = with_previous_action(LinearSystem.point_mass(), 0.95)
    theta = policy.theta.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(expected_return(system, replace(policy, theta=theta), 12), theta)
    torch.testing.assert_close(exact_gradient(system, policy, 12), derivative.flatten(), rtol=1e-9, atol=1e-12)


def test_gradient_through_all_steps_is_the_exact_one_and_through_fewer_is_not():
    exact = exact_gradient(SYSTEM, POLICY, HORIZON)
    errors = [float((exact_gradient(SYSTEM, POLICY, HORIZON, L) - exact).norm()) for L in range(1, HORIZON + 2)]
    assert errors[:-2] == sorted(errors[:-2], reverse=True)
    assert min(errors[:-2]) > 1e-3
    assert max(errors[-2:]) < 1e-12


def test_critic_solves_the_bellman_equations_on_the_sampled_episodes():
    e = episodes(SYSTEM, POLICY, 100_000, HORIZON)
    critic = exact_critic(SYSTEM, POLICY, HORIZON)
    q, v = critic.q(e), critic.v(e)
    v_next = torch.cat([v[:, 1:], torch.zeros_like(v[:, :1])], 1)
    for error in (e.r + SYSTEM.discount * v_next - q, q - v):  # the dynamics' surprise, the decision's surprise
        for known in (torch.ones_like(error), e.s[..., 0] ** 2, e.z[..., 0] ** 2, e.s[..., 0] * e.z[..., 0]):
            assert z_scores(error * known, torch.zeros(HORIZON)).abs().max() < SIGMAS
    assert (q - v).abs().mean() > 0.1


# Single trajectories against autograd


def score_by_autograd(policy, e, n, estimator, weight):
    """sum_t w_t d log pi of episode n: z as data, or recomputed from the noise that occurred in the last L steps."""
    theta = policy.theta.clone().requires_grad_()
    live = replace(policy, theta=theta)
    horizon, m, total = e.r.shape[1], policy.actions, torch.zeros(())
    noise = (e.u - policy.mean(policy.features(e.o, e.z), e.z))[n, :, m:]
    for t in range(horizon):
        first = t if estimator.decides else max(0, t + 1 - (estimator.context or horizon))
        z = e.z[n, first]
        for k in range(first, t):
            z = live.mean(live.features(e.o[n, k], z), z)[m:] + noise[k]
        mean = live.mean(live.features(e.o[n, t], z), z)
        kept = slice(None) if estimator.decides else slice(m)
        log_prob = torch.distributions.Normal(mean[kept], policy.noise()[kept]).log_prob(e.u[n, t, kept]).sum()
        total = total + weight[n, t] * log_prob
    return torch.autograd.grad(total, theta)[0].flatten()


@pytest.mark.parametrize("policy", [tanh_policy(), linear_policy(2)[1]], ids=["bounded", "linear"])
@pytest.mark.parametrize("signal", ["return", "reward_to_go"])
@pytest.mark.parametrize(
    "estimator",
    [PATHS["s2pg"], PATHS["bptt"], *(Estimator(decides=False, context=n) for n in (1, 2, 4, 9))],
    ids=["s2pg", "bptt", "bptt1", "bptt2", "bptt4", "bptt9"],
)
def test_gradient_of_each_trajectory_is_that_of_a_plain_loop_with_autograd(policy, signal, estimator):
    system = SYSTEM if policy.bounded else with_previous_action(LinearSystem.point_mass(), 0.9)
    estimator = replace(estimator, signal=signal)
    e = episodes(system, policy, 3, 6)
    found, weight = gradients(estimator, system, policy, e), weights(signal, system, policy, e)
    for n in range(3):
        torch.testing.assert_close(found[n], score_by_autograd(policy, e, n, estimator, weight), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "estimator", [*PATHS.values(), Estimator(decides=False, context=3)], ids=["s2pg", "bptt", "bptt3"]
)
def test_weighted_scores_of_the_steps_sum_to_the_gradient(estimator):
    policy = tanh_policy()
    e = episodes(SYSTEM, policy, 4, 7)
    weight = weights("reward_to_go", SYSTEM, policy, e)
    sum_of_scores = (weight.unsqueeze(-1) * scores(policy, e, estimator)).sum(1)
    torch.testing.assert_close(sum_of_scores, gradients(estimator, SYSTEM, policy, e), rtol=1e-10, atol=1e-12)


def test_rewards_to_go_count_no_reward_of_the_past():
    e = episodes(SYSTEM, POLICY, 2, 3)
    r = e.r * torch.tensor([1, 0.9, 0.81], dtype=torch.float64)
    expected = torch.stack([r[:, 0] + r[:, 1] + r[:, 2], r[:, 1] + r[:, 2], r[:, 2]], 1)
    torch.testing.assert_close(weights("reward_to_go", SYSTEM, POLICY, e), expected)
    torch.testing.assert_close(weights("return", SYSTEM, POLICY, e), expected[:, :1].expand(-1, 3))


# Bias


UNBIASED = {
    f"{path}/{signal}/{baseline}": Estimator(path == "s2pg", None, signal, baseline)
    for path in ("s2pg", "bptt")
    for signal in ("return", "reward_to_go")
    for baseline in ("none", "scalar", "componentwise")
} | {
    "s2pg/advantage": Estimator(signal="advantage"),
    "bptt/advantage": Estimator(decides=False, signal="advantage"),
    "q_gradient": Estimator(signal="q_gradient"),
}


@pytest.fixture(scope="module")
def many():
    """200,000 trajectories, and what every estimator makes of them."""
    truncated = {f"bptt{L}/{b}": Estimator(False, L, baseline=b) for L in (1, 2, 3) for b in ("none", "componentwise")}
    return sample_gradients(UNBIASED | truncated, SYSTEM, POLICY, 200_000, HORIZON, seed=0, chunk=4000)


@pytest.mark.parametrize("name", UNBIASED)
def test_estimator_is_unbiased(many, name):
    exact = exact_gradient(SYSTEM, POLICY, HORIZON)
    assert z_scores(many[name], exact).abs().max() < SIGMAS
    assert summarise(many[name], exact).bias_error < 0.1 * exact.norm()  # or the test would prove little


@pytest.mark.parametrize("baseline", ["none", "componentwise"])
@pytest.mark.parametrize("context", [1, 2, 3])
def test_truncated_bptt_is_off_by_the_predicted_amount(many, context, baseline):
    found, full = many[f"bptt{context}/{baseline}"], many[f"bptt/reward_to_go/{baseline}"]
    exact = exact_gradient(SYSTEM, POLICY, HORIZON)
    predicted = exact_gradient(SYSTEM, POLICY, HORIZON, context)
    assert z_scores(found, predicted).abs().max() < SIGMAS
    assert z_scores(found - full, predicted - exact).abs().max() < SIGMAS  # less noise: the same trajectories
    assert z_scores(found - full, torch.zeros(4)).abs().max() > 10


def test_score_gradient_of_a_bounded_policy_has_the_mean_of_the_pathwise_one():
    """No closed form: two unbiased estimators on the same trajectories differ by noise of mean zero."""
    system, policy = replace(SYSTEM, bounded=True), tanh_policy()
    found = sample_gradients(PATHS, system, policy, 100_000, 6, seed=1)
    difference = found["s2pg"] - found["bptt"]
    assert z_scores(difference, torch.zeros(9)).abs().max() < SIGMAS
    assert z_scores(found["s2pg"], torch.zeros(9)).abs().max() > 20


def test_deterministic_theorem_needs_no_noise_in_the_policy():
    silent = replace(POLICY, sigma_a=0.0, sigma_z=0.0)
    found = sample_gradients({"q": Estimator(signal="q_gradient")}, SYSTEM, silent, 50_000, HORIZON, seed=2)["q"]
    exact = exact_gradient(SYSTEM, silent, HORIZON)
    assert z_scores(found, exact).abs().max() < SIGMAS
    assert z_scores(found, exact_gradient(SYSTEM, POLICY, HORIZON)).abs().max() > 20  # noise makes another objective


def test_bptt_with_a_deterministic_memory_is_unbiased_for_its_own_objective():
    silent = replace(POLICY, sigma_z=0.0)
    found = sample_gradients(
        {"bptt": Estimator(False, baseline="scalar")}, SYSTEM, silent, 200_000, HORIZON, seed=3, chunk=4000
    )["bptt"]
    assert z_scores(found, exact_gradient(SYSTEM, silent, HORIZON)).abs().max() < SIGMAS
    assert z_scores(found, exact_gradient(SYSTEM, POLICY, HORIZON)).abs().max() > SIGMAS


@pytest.mark.parametrize("estimator", [Estimator(), Estimator(signal="advantage")])
def test_a_memory_without_noise_has_no_score(estimator):
    silent = replace(POLICY, sigma_z=0.0)
    with pytest.raises(ValueError, match="no score"):
        gradients(estimator, SYSTEM, silent, episodes(SYSTEM, silent, 2, 3))


def test_baseline_from_the_other_half_is_unbiased_where_its_own_half_is_not():
    """4 episodes of a return that is the score's square: fitted in place, the baseline takes the signal away."""
    score = torch.randn(40_000, 4, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = score[..., 0] * (1 + score[..., 0])  # mean 1
    b = (gradient * score[..., 0]).sum(1, keepdim=True) / score[..., 0].square().sum(1, keepdim=True)
    in_place = (gradient - b * score[..., 0]).mean(1)
    crossed = torch.stack([subtract_baseline(g, c, False).mean(0) for g, c in zip(gradient, score, strict=True)])
    assert z_scores(crossed, torch.ones(1)).abs().max() < SIGMAS
    assert z_scores(in_place, torch.ones(1)).abs().max() > 20


# Variance


@pytest.mark.parametrize("signal", ["return", "reward_to_go"])
@pytest.mark.parametrize("path", PATHS)
def test_baselines_reduce_the_variance(many, path, signal):
    plain, scalar, componentwise = (
        total_variance(many[f"{path}/{signal}/{b}"])[0] for b in ("none", "scalar", "componentwise")
    )
    assert scalar < 0.7 * plain
    assert componentwise < 1.02 * scalar


@pytest.mark.parametrize("path", PATHS)
def test_each_better_signal_has_less_variance(many, path):
    names = [f"{path}/return/none", f"{path}/reward_to_go/none", f"{path}/reward_to_go/scalar", f"{path}/advantage"]
    variances = [total_variance(many[name])[0] for name in names]
    assert all(later < 0.7 * earlier for earlier, later in zip(variances, variances[1:], strict=False))


@pytest.mark.parametrize("componentwise", [False, True])
def test_baseline_is_the_best_constant(componentwise):
    """No multiple of it does better by more than the noise of its estimate."""
    e = episodes(SYSTEM, POLICY, 20_000, HORIZON)
    plain, control = gradients(PATHS["s2pg"], SYSTEM, POLICY, e), scores(POLICY, e, PATHS["s2pg"])
    removed = plain - subtract_baseline(plain, control, componentwise)
    variances = [total_variance(plain - scale * removed)[0] for scale in (0.8, 0.9, 1.0, 1.1, 1.2)]
    assert min(variances) == variances[2]


def test_componentwise_baseline_fits_each_component_and_the_scalar_one_their_mean():
    score = torch.randn(10_000, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = score[:, 0] * torch.tensor([1.0, 5.0], dtype=torch.float64)
    assert total_variance(subtract_baseline(gradient, score, componentwise=True))[0] < 1e-20
    assert total_variance(subtract_baseline(gradient, score, componentwise=False))[0] == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("policy", [tanh_policy(seed) for seed in range(3)])
def test_jacobian_bounds_hold_and_are_not_far(policy):
    e = episodes(SYSTEM, policy, 200, 20)
    phi, bounds = policy.features(10 * e.o, e.z), policy.bounds()
    rows = [policy.pull_back(phi, row.expand(200, 20, 3)) for row in torch.eye(3, dtype=torch.float64)]
    mu, eta = torch.stack(rows, -2).split([1, 2], -2)
    assert bounds.F / 2 < float(phi.norm(dim=-1).max()) <= bounds.F
    assert math.isclose(bounds.H, math.sqrt(2))
    assert bounds.K / 3 < float(torch.linalg.matrix_norm(mu, 2).max()) <= bounds.K
    assert bounds.Z / 3 < float(torch.linalg.matrix_norm(eta, 2).max()) <= bounds.Z


HORIZONS = (8, 16, 32, 64, 128)
RECURRENCES = (0.5, 0.9, 1.0, 1.1)
FORMS = {
    f"{path}/{signal}": replace(PATHS[path], signal=signal) for path in PATHS for signal in ("return", "reward_to_go")
}


@pytest.fixture(scope="module")
def growth():
    """Summaries at (form, Z, T) of the policy with bounded features, rewards in [-1, 0] and gamma = 0.9."""
    system, found = replace(SYSTEM, bounded=True), {}
    for Z in RECURRENCES:
        for T in HORIZONS:
            sampled = sample_gradients(FORMS, system, bounded_policy(Z), 3000, T, seed=T)
            found |= {(form, Z, T): summarise(g) for form, g in sampled.items()}
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("Z", RECURRENCES)
def test_variance_is_below_its_bound_and_of_its_order(growth, form, Z):
    bounds = bounded_policy(Z).bounds()
    assert bounds == (1, 1, pytest.approx(0.4), pytest.approx(Z))
    for T in HORIZONS:
        steps = s2pg_score_bound(bounds, T, 0.5, 0.5) if "s2pg" in form else bptt_score_bound(bounds, T, 0.5)
        share = growth[form, Z, T].high / variance_bound(steps, 1.0, 0.9, reward_to_go="to_go" in form)
        assert share < 1
        assert "to_go" in form or share > 0.01


def test_bounds_have_their_three_regimes():
    def bptt(Z, T):
        return variance_bound(bptt_score_bound(bounded_policy(Z).bounds(), T, 0.5), 1.0, 0.9)

    def s2pg(Z, T):
        return variance_bound(s2pg_score_bound(bounded_policy(Z).bounds(), T, 0.5, 0.5), 1.0, 0.9)

    assert all(s2pg(Z, 2048) / s2pg(Z, 1024) == pytest.approx(2) for Z in RECURRENCES)
    assert bptt(0.5, 2048) / bptt(0.5, 1024) == pytest.approx(2, rel=0.01)
    assert bptt(1.0, 2048) / bptt(1.0, 1024) == pytest.approx(8, rel=0.01)
    assert bptt(1.1, 257) / bptt(1.1, 256) == pytest.approx(1.1**2, rel=0.01)
    T = 10  # the sum in closed form
    cubic = T + 0.4 * T * (T - 1) + 0.16 * (T - 1) * T * (2 * T - 1) / 6
    assert bptt(1.0, T) == pytest.approx(4 * cubic * ((1 - 0.9**T) / 0.1) ** 2)


def test_rewards_to_go_have_the_lower_bound_and_with_a_discount_a_finite_one():
    ones = torch.ones(6, dtype=torch.float64)
    assert variance_bound(ones, 2.0, 1.0) == pytest.approx(4 * 6**3)
    assert variance_bound(ones, 2.0, 1.0, reward_to_go=True) == pytest.approx(4 * 6 * (1 + 2 + 3 + 4 + 5 + 6))
    limit = (1 / 0.1) * (1 / 0.1) ** 2  # sum gamma^t times sum gamma^t (t + 1)
    assert variance_bound(torch.ones(1000, dtype=torch.float64), 1.0, 0.9, reward_to_go=True) == pytest.approx(limit)


def test_truncation_bounds_what_bptt_can_add():
    bounds = bounded_policy(1.1).bounds()
    full, short = bptt_score_bound(bounds, 50, 0.5), bptt_score_bound(bounds, 50, 0.5, context=4)
    assert torch.equal(short[:4], full[:4])
    assert torch.equal(short[4:], short[3].expand(46))
    assert torch.equal(bptt_score_bound(bounds, 50, 0.5, context=1), torch.full((50,), 4.0, dtype=torch.float64))


def test_bptt_grows_faster_with_the_recurrence_and_s2pg_does_not(growth):
    """Slopes of log variance against log T from T = 32; the bounds' are 1 for S2PG, and 3 for BPTT at Z = 1."""
    slopes = {
        (path, Z): fit(HORIZONS[2:], [growth[f"{path}/return", Z, T] for T in HORIZONS[2:]])
        for path in PATHS
        for Z in RECURRENCES
    }
    assert all(0.8 < slopes["s2pg", Z].slope < 1.6 for Z in RECURRENCES)
    assert 0.8 < slopes["bptt", 0.5].slope < 1.6
    assert slopes["bptt", 0.9].low > slopes["s2pg", 0.9].high
    assert 2.5 < slopes["bptt", 1.0].low < slopes["bptt", 1.0].high < 4.5
    assert slopes["bptt", 1.1].low > 8


def test_at_a_short_memory_bptt_has_less_variance_and_at_a_long_one_s2pg(growth):
    for T in HORIZONS:
        assert growth["bptt/return", 0.5, T].high < growth["s2pg/return", 0.5, T].low
        if T >= 16:
            assert all(growth["s2pg/return", Z, T].high < growth["bptt/return", Z, T].low for Z in RECURRENCES[1:])


def test_with_unbounded_features_s2pg_is_not_linear_in_the_horizon():
    system, ratios = replace(SYSTEM, bounded=True), {}
    for Z in RECURRENCES:
        policy = StatefulPolicy.linear([[-0.3, 0.4], [0.6, Z]], 1, 0.5, 0.5)
        assert policy.bounds().F == policy.bounds().H == math.inf
        assert variance_bound(s2pg_score_bound(policy.bounds(), 8, 0.5, 0.5), 1.0, 0.9) == math.inf
        assert torch.isinf(bptt_score_bound(policy.bounds(), 8, 0.5)).all()
        short, long = (
            sample_gradients({"s2pg": FORMS["s2pg/return"]}, system, policy, 2000, T, seed=T)["s2pg"] for T in (32, 64)
        )
        ratios[Z] = total_variance(long)[0] / total_variance(short)[0]
    assert ratios[0.5] < 4
    assert min(ratios[1.0], ratios[1.1]) > 100


# The limit of a memory without noise


NOISES = (0.2, 0.1, 0.05, 0.02)


def test_exact_gradient_tends_to_that_of_bptt_with_the_variance_of_the_memory():
    limit = exact_gradient(SYSTEM, replace(POLICY, sigma_z=0.0), HORIZON)
    ratios = [(exact_gradient(SYSTEM, replace(POLICY, sigma_z=n), HORIZON) - limit) / n**2 for n in NOISES]
    assert ratios[0].norm() > 0.1
    for ratio in ratios[1:]:
        torch.testing.assert_close(ratio, ratios[0])


def test_pathwise_gradient_of_each_trajectory_tends_to_that_of_deterministic_bptt():
    """The same seed draws the same noise, so that trajectories correspond."""

    def found(sigma_z):
        return sample_gradients({"": PATHS["bptt"]}, SYSTEM, replace(POLICY, sigma_z=sigma_z), 500, HORIZON, seed=0)[""]

    distances = [float((found(n) - found(0.0)).norm()) for n in NOISES]
    assert distances[0] / distances[2] == pytest.approx(4, rel=0.3)
    assert distances[0] / distances[3] == pytest.approx(10, rel=0.3)


def test_s2pg_pays_for_a_silent_memory_with_the_inverse_square_of_its_noise_and_pathwise_does_not():
    def variance(path, sigma_z, seed):
        policy = replace(POLICY, sigma_z=sigma_z)
        return summarise(sample_gradients({path: PATHS[path]}, SYSTEM, policy, 20_000, HORIZON, seed)[path])

    found = fit(NOISES[1:], [variance("s2pg", n, seed=i) for i, n in enumerate(NOISES[1:])])
    assert -2.2 < found.low < found.high < -1.8
    for n in NOISES[1:]:  # one seed, so that the noise of the estimates is common
        assert variance("bptt", n, seed=0).variance == pytest.approx(variance("bptt", 0.0, seed=0).variance, rel=0.05)


# Statistics


def test_interval_of_the_variance_covers_it():
    """400 intervals of 200 trajectories each, of a skewed law with the variance 3; the binomial's 4.5 sigma are 5 %."""
    g = torch.randn(400, 200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).square() / math.sqrt(
        2
    )
    intervals = [summarise(sample) for sample in g]
    assert np.mean([s.low < 3 < s.high for s in intervals]) > 0.88
    assert np.mean([s.low < 3 < s.high for s in intervals]) < 0.99


def test_jackknife_is_the_one_that_leaves_each_trajectory_out():
    g = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, error = total_variance(g)
    without = torch.stack([torch.cat([g[:i], g[i + 1 :]]).var(0).sum() for i in range(12)])
    assert value == pytest.approx(float(g.var(0).sum()))
    assert error == pytest.approx(math.sqrt(11 / 12 * float((without - without.mean()).square().sum())))


def test_summary_of_a_known_law():
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    noise = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = summarise(exact + 2 * noise, exact)
    assert s.low < 8 < s.high
    assert s.snr == pytest.approx(25 / 8, rel=0.02)
    assert s.bias < 4 * s.bias_error == pytest.approx(4 * math.sqrt(8e-5), rel=0.01)
    assert s.cosine == pytest.approx(1, abs=1e-4)
    assert summarise(exact + 1 + 2 * noise, exact).bias == pytest.approx(math.sqrt(2), rel=0.02)
    assert batch_cosine(exact + 2 * noise, exact, 1) < 0.95 < batch_cosine(exact + 2 * noise, exact, 100)


def test_signal_to_noise_ratio_does_not_count_noise_as_signal():
    """10 trajectories, 100 components: the squared mean alone would say 0.35."""
    noise = torch.randn(300, 10, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert np.mean([summarise(0.5 + sample).snr for sample in noise]) == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"context": 2},
        {"decides": False, "context": 0},
        {"decides": False, "signal": "q_gradient"},
        {"signal": "advantage", "baseline": "scalar"},
    ],
)
def test_estimators_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="context|takes the place|baseline already"):
        Estimator(**wrong)


def test_closed_forms_are_refused_where_there_are_none():
    for system, policy in ((replace(SYSTEM, bounded=True), POLICY), (SYSTEM, tanh_policy())):
        with pytest.raises(ValueError, match="closed form"):
            exact_gradient(system, policy, 3)


def test_chunks_have_nearly_equal_sizes_so_that_no_baseline_is_of_two_trajectories():
    found = sample_gradients({"": Estimator(baseline="scalar")}, SYSTEM, POLICY, 1001, HORIZON, seed=0, chunk=1000)[""]
    assert found.shape == (1001, 4)
    generator = torch.Generator().manual_seed(0)
    first = gradients(Estimator(baseline="scalar"), SYSTEM, POLICY, sample(SYSTEM, POLICY, 501, HORIZON, generator))
    assert torch.equal(found[:501], first)


# Speed


@pytest.mark.slow
def test_gradients_of_100000_trajectories_of_128_steps_take_less_than_10_seconds():
    """On one core, memory of 8 numbers, P = 81; the sampling is timed apart. The least of three gradients of a chunk
    counts, because other processes may share the core."""
    count, chunk, horizon = 100_000, 1000, 128
    system = System.of(**vars(LinearSystem.point_mass()), discount=0.95)
    gains = 0.2 * np.random.default_rng(0).standard_normal((9, 9))
    policy, generator = StatefulPolicy.linear(gains, 8, 0.5, 0.5), torch.Generator().manual_seed(0)
    sampling = learning = 0.0
    for _ in range(count // chunk):
        start = time.perf_counter()
        e = sample(system, policy, chunk, horizon, generator)
        sampling += time.perf_counter() - start
        times = []
        for _ in range(3):
            start = time.perf_counter()
            found = gradients(PATHS["s2pg"], system, policy, e)
            times.append(time.perf_counter() - start)
        assert found.shape == (chunk, 81)
        learning += min(times)
    print(f"\n{count} trajectories of {horizon} steps: sampled in {sampling:.1f} s, S2PG gradients in {learning:.1f} s")
    assert learning < 10
