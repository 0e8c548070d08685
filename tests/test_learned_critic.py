"""A critic fitted to episodes: what it is fitted to, not what it is shown, decides whether its gradient is biased.

The mean over folds, each with a critic and trajectories of its own, is compared with the exact gradient: a fitted
critic's error is shared by all trajectories that it judges, so only folds are independent.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from s2pg.gradients.critic import fit_critic
from s2pg.gradients.estimators import Estimator, find_critic, gradients, sample_gradients
from s2pg.gradients.linear import StatefulPolicy, System, blind_gradient, exact_critic, exact_gradient, sample
from s2pg.gradients.variance import total_variance, z_scores

torch.set_num_threads(1)

SCALAR = {"A": [[0.9]], "B": [[0.4]], "C": [[1.0]], "Q": [[1.0]], "R": [[0.1]], "P": [[1.0]], "W": [[0.04]]}
SYSTEM = System.of(**SCALAR, V=[[0.09]], discount=0.9)
POLICY = StatefulPolicy.linear([[-0.3, -0.6], [0.6, 0.8]], memory=1, sigma_a=0.5, sigma_z=0.5)
SILENT = replace(POLICY, sigma_a=0.0, sigma_z=0.0)
HORIZON, FOLDS, EPISODES = 5, 30, 4000
SIGMAS = 4.5
SIGNALS = ("advantage", "q_gradient")
FITTED = [("learned", True), ("learned", False), ("blind", False)]


def episodes(system, policy, count, seed=0):
    return sample(system, policy, count, HORIZON, torch.Generator().manual_seed(seed))


def folds(estimator, policy=POLICY):
    """The mean gradient of each fold: [FOLDS, P]."""
    means = [
        sample_gradients({"": estimator}, SYSTEM, policy, EPISODES, HORIZON, seed, EPISODES, EPISODES)[""].mean(0)
        for seed in range(FOLDS)
    ]
    return torch.stack(means)


# Bias


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(("critic", "bootstrap"), FITTED)
def test_gradient_is_unbiased_with_the_state_or_without_bootstrapping(critic, bootstrap, signal):
    found = folds(Estimator(signal=signal, critic=critic, bootstrap=bootstrap))
    assert z_scores(found, exact_gradient(SYSTEM, POLICY, HORIZON)).abs().max() < SIGMAS
    assert z_scores(found, blind_gradient(SYSTEM, POLICY, HORIZON)).abs().max() > 20  # or this would prove little


@pytest.mark.parametrize("signal", SIGNALS)
def test_blind_bootstrapping_is_off_by_the_predicted_amount(signal):
    found = folds(Estimator(signal=signal, critic="blind"))
    assert z_scores(found, blind_gradient(SYSTEM, POLICY, HORIZON)).abs().max() < SIGMAS
    assert z_scores(found, exact_gradient(SYSTEM, POLICY, HORIZON)).abs().max() > 20


def test_deterministic_theorem_holds_with_a_critic_learned_from_exploration():
    found = folds(Estimator(signal="q_gradient", critic="learned"), SILENT)
    assert z_scores(found, exact_gradient(SYSTEM, SILENT, HORIZON)).abs().max() < SIGMAS
    assert z_scores(found, exact_gradient(SYSTEM, POLICY, HORIZON)).abs().max() > 20


def test_blindness_does_no_harm_where_observations_are_the_state():
    seen = System.of(**SCALAR, V=[[0.0]], discount=0.9)
    exact = exact_gradient(seen, POLICY, HORIZON)
    torch.testing.assert_close(blind_gradient(seen, POLICY, HORIZON), exact, rtol=1e-9, atol=1e-12)


def test_blindness_does_no_harm_where_there_is_no_next_step():
    torch.testing.assert_close(blind_gradient(SYSTEM, POLICY, 1), exact_gradient(SYSTEM, POLICY, 1))
    bias = [float((blind_gradient(SYSTEM, POLICY, T) - exact_gradient(SYSTEM, POLICY, T)).norm()) for T in (2, 5, 20)]
    assert 0.01 < bias[0] < bias[1] < bias[2]


def test_critic_is_fitted_to_episodes_that_its_gradients_do_not_see():
    estimator = Estimator(signal="advantage", critic="learned")
    critic = find_critic(estimator, SYSTEM, POLICY, HORIZON, 50, seed=7)
    reused = fit_critic(episodes(SYSTEM, POLICY, 50, seed=7), POLICY, SYSTEM.discount)
    assert not torch.allclose(critic.N, reused.N)
    found = sample_gradients({"": estimator}, SYSTEM, POLICY, 50, HORIZON, 7, critic_episodes=50)[""]
    expected = gradients(estimator, SYSTEM, POLICY, episodes(SYSTEM, POLICY, 50, seed=7), critic)
    assert torch.equal(found, expected)


# The fit


@pytest.mark.parametrize("bootstrap", [True, False])
def test_critic_of_the_state_tends_to_the_exact_one(bootstrap):
    fitted = fit_critic(episodes(SYSTEM, POLICY, 200_000), POLICY, SYSTEM.discount, bootstrap=bootstrap)
    exact = exact_critic(SYSTEM, POLICY, HORIZON)
    torch.testing.assert_close(fitted.N, exact.N, rtol=0.02, atol=0.02)
    torch.testing.assert_close(fitted.d, exact.d, rtol=0.02, atol=0.02)


def test_bootstrapping_from_the_state_needs_no_episodes_of_the_policy_itself():
    exploring = replace(POLICY, theta=0.5 * POLICY.theta, sigma_a=1.0, sigma_z=1.0)
    fitted = fit_critic(episodes(SYSTEM, exploring, 200_000), POLICY, SYSTEM.discount)
    torch.testing.assert_close(fitted.N, exact_critic(SYSTEM, POLICY, HORIZON).N, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("blind", [False, True])
def test_value_is_the_mean_of_q_over_decisions_and_the_gradient_its_derivative(blind):
    e = episodes(SYSTEM, POLICY, 3)
    critic = fit_critic(episodes(SYSTEM, POLICY, 200, seed=1), POLICY, SYSTEM.discount, blind)
    mean = POLICY.mean(POLICY.features(e.o, e.z), e.z)
    points = [mean + 0.5 * 2**0.5 * torch.tensor(side) for side in ([1, 0], [-1, 0], [0, 1], [0, -1])]
    values = torch.stack([critic.q(e._replace(u=u)) for u in points]).mean(0)  # exact for quadratics
    torch.testing.assert_close(critic.v(e), values)
    u = e.u.clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic.q(e._replace(u=u)).sum(), u)
    torch.testing.assert_close(critic.q_gradient(e), slope)


def test_learned_critic_has_hardly_more_variance_than_the_exact_one_and_less_than_returns():
    e = episodes(SYSTEM, POLICY, 20_000)

    def variance(estimator):
        critic = find_critic(estimator, SYSTEM, POLICY, HORIZON, 20_000, seed=1)
        return total_variance(gradients(estimator, SYSTEM, POLICY, e, critic))[0]

    exact, learned = (variance(Estimator(signal="advantage", critic=critic)) for critic in ("exact", "learned"))
    assert learned < 1.05 * exact
    assert learned < 0.7 * variance(Estimator(signal="reward_to_go", baseline="scalar"))


def test_a_bounded_policy_has_a_learned_critic_where_it_has_no_exact_one():
    system, policy = replace(SYSTEM, bounded=True), replace(POLICY, bounded=True)
    found = {
        name: Estimator(signal=signal, critic=critic)
        for name, signal, critic in (("returns", "reward_to_go", "exact"), ("learned", "advantage", "learned"))
    }
    found = sample_gradients(found, system, policy, 20_000, HORIZON, seed=0)
    assert total_variance(found["learned"])[0] < 0.7 * total_variance(found["returns"])[0]


# What means nothing


@pytest.mark.parametrize(
    "wrong",
    [{"critic": "learned"}, {"signal": "return", "critic": "blind"}, {"signal": "advantage", "bootstrap": False}],
)
def test_critics_that_nothing_asks_or_fits_are_refused(wrong):
    with pytest.raises(ValueError, match="asks no critic|is fitted"):
        Estimator(**wrong)


def test_a_critic_that_was_not_fitted_and_returns_without_exploration_are_refused():
    with pytest.raises(ValueError, match="must have been fitted"):
        gradients(Estimator(signal="advantage", critic="learned"), SYSTEM, POLICY, episodes(SYSTEM, POLICY, 3))
    with pytest.raises(ValueError, match="own returns"):
        find_critic(Estimator(signal="q_gradient", critic="learned", bootstrap=False), SYSTEM, SILENT, 2, 10, 0)
