"""Cue recall, whose objective is not smooth in the action but has a closed form: the same estimators hold there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from s2pg.gradients.cue import Cue, cue_gradient, cue_return
from s2pg.gradients.estimators import Estimator, sample_gradients
from s2pg.gradients.linear import StatefulPolicy
from s2pg.gradients.variance import z_scores
from s2pg.training import worlds

torch.set_num_threads(1)

SIGMAS = 4.5
TASK = Cue(delay=3, discount=0.95)
GAINS = [[0.2, -0.1, 0.3, 0.5, -0.8], [0.9, 0.1, 0.0, 0.8, 0.2], [-0.4, 0.0, 0.2, 0.1, 0.7]]
POLICY = StatefulPolicy.linear(GAINS, memory=2, sigma_a=0.5, sigma_z=0.4)
WRITES = torch.tensor([5, 10])  # d z / d cue, of theta [3, 5] by rows
UNBIASED = {
    f"{path}/{signal}/{baseline}": Estimator(path == "s2pg", signal=signal, baseline=baseline)
    for path in ("s2pg", "bptt")
    for signal in ("return", "reward_to_go")
    for baseline in ("none", "scalar")
}
TRUNCATED = {context: Estimator(decides=False, context=context) for context in (1, 2, 3)}


@pytest.fixture(scope="module")
def many():
    named = UNBIASED | {f"bptt{context}": estimator for context, estimator in TRUNCATED.items()}
    return sample_gradients(named, TASK, POLICY, 100_000, 4, seed=0, chunk=4000)


def test_episodes_are_those_of_the_task():
    """The policy's own actions, played in the environment that the networks are trained on."""
    e = TASK.sample(POLICY, 4, 4, torch.Generator().manual_seed(0))
    for n in range(4):
        env = worlds.make("CueRecall", {"delay": 3})
        seed = next(i for i in range(50) if env.reset(seed=i)[0]["obs"][0] == e.o[n, 0, 0])
        obs, rewards = env.reset(seed=seed)[0]["obs"], []
        for t in range(4):
            np.testing.assert_allclose(obs[:3], e.o[n, t], atol=1e-6)
            step = env.step(e.u[n, t, :1].numpy())
            obs = step[0]["obs"]
            rewards.append(step[1])
        assert rewards == e.r[n].tolist()
        assert step[2]


def test_expected_return_is_the_mean_of_the_sampled_returns():
    e = TASK.sample(POLICY, 400_000, 4, torch.Generator().manual_seed(1))
    found = (e.r * TASK.discounts(4)).sum(1, keepdim=True)
    expected = cue_return(TASK, POLICY)
    assert 0.2 < expected < 0.8
    assert z_scores(found, expected.reshape(1)).abs().max() < SIGMAS


def test_gradient_is_the_difference_quotient_of_the_expected_return():
    step, gradient = 1e-5, cue_gradient(TASK, POLICY)
    for place in range(15):
        change = torch.zeros(15, dtype=torch.float64)
        change[place] = step
        up, down = (cue_return(TASK, replace(POLICY, theta=POLICY.theta + s * change.view(3, 5))) for s in (1, -1))
        assert float(gradient[place]) == pytest.approx(float(up - down) / (2 * step), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", UNBIASED)
def test_estimator_is_unbiased(many, name):
    exact = cue_gradient(TASK, POLICY)
    assert z_scores(many[name], exact).abs().max() < SIGMAS
    assert z_scores(many[name], torch.zeros(15))[WRITES].abs().max() > 10


@pytest.mark.parametrize("context", TRUNCATED)
def test_truncated_bptt_expects_nothing_of_writing_a_cue_that_lies_before_its_context(many, context):
    predicted = cue_gradient(TASK, POLICY, context)
    assert z_scores(many[f"bptt{context}"], predicted).abs().max() < SIGMAS
    assert not predicted[WRITES].any()
    assert predicted.any()


@pytest.mark.parametrize("delay", [1, 3, 8])
def test_a_context_just_longer_than_the_delay_is_no_truncation(delay):
    task = Cue(delay)
    exact = cue_gradient(task, POLICY)
    assert torch.equal(cue_gradient(task, POLICY, delay + 1), exact)
    assert exact[WRITES].all()
    assert not cue_gradient(task, POLICY, delay)[WRITES].any()


def test_without_memory_nothing_is_recalled():
    forgetful = StatefulPolicy.linear([[0.2, -0.1, 0.3]], memory=0, sigma_a=0.5, sigma_z=0.0)
    assert abs(float(cue_return(TASK, forgetful))) < 1e-12


def test_another_horizon_is_refused():
    with pytest.raises(ValueError, match="4 steps, not 5"):
        TASK.sample(POLICY, 2, 5, torch.Generator())


def test_an_exact_critic_is_refused():
    with pytest.raises(ValueError, match="only the linear system"):
        sample_gradients({"": Estimator(signal="advantage")}, TASK, POLICY, 2, 4, seed=0)
