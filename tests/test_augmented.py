"""The augmented MDP: a stateful policy on the environment is a stateless one on the wrapper."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.wrappers import RescaleAction

from envs import AugmentedMDP
from envs.diagnostics import LinearSystem


def test_spaces_are_products():
    env = gymnasium.make("envs:HopperV-v0")
    wide = AugmentedMDP(env, 4, low=-2.0, high=3.0)
    for part in ("obs", "state"):
        size = env.observation_space[part].shape[0]
        assert wide.observation_space[part].shape == (size + 4,)
        assert wide.layout[part] == {**env.unwrapped.layout[part], "memory": slice(size, size + 4)}
    np.testing.assert_array_equal(wide.action_space.low, [-1, -1, -1, -2, -2, -2, -2])
    np.testing.assert_array_equal(wide.action_space.high, [1, 1, 1, 3, 3, 3, 3])


def test_decided_memory_comes_back_as_memory_and_is_zero_after_a_reset():
    env = AugmentedMDP(gymnasium.make("envs:HopperV-v0"), 2)
    start, _ = env.reset(seed=0)
    after = env.step(np.array([0.1, 0.2, 0.3, 7.0, -9.0], np.float32))[0]
    again, _ = env.reset()
    for part in ("obs", "state"):
        memory = env.layout[part]["memory"]
        np.testing.assert_array_equal(start[part][memory], [0, 0])
        np.testing.assert_array_equal(after[part][memory], [7, -9])
        np.testing.assert_array_equal(again[part][memory], [0, 0])
        np.testing.assert_allclose(after[part][env.layout[part]["previous_action"]], [0.1, 0.2, 0.3], rtol=1e-6)


def test_memory_is_clipped_to_its_range():
    env = AugmentedMDP(gymnasium.make("Pendulum-v1"), 2, low=-1.0, high=1.0)
    env.reset(seed=0)
    observation = env.step(np.array([0.0, 5.0, -5.0]))[0]
    np.testing.assert_array_equal(observation[-2:], [1, -1])
    assert observation in env.observation_space


def test_memory_of_size_zero_changes_nothing():
    env, plain = (gymnasium.make("envs:HopperV-v0") for _ in range(2))
    wide = AugmentedMDP(env, 0)
    assert data_equivalence(wide.reset(seed=0), plain.reset(seed=0), exact=True)
    action = plain.action_space.sample()
    assert data_equivalence(wide.step(action), plain.step(action), exact=True)


@pytest.mark.parametrize("id", ["envs:HalfCheetahV-v0", "Pendulum-v1"])
def test_stateful_policy_is_a_stateless_policy_on_the_augmented_mdp(id):
    """An arbitrary recurrent policy, its z kept by hand on one side and by the wrapper on the other: same episode."""
    env, wide = gymnasium.make(id), AugmentedMDP(gymnasium.make(id), 5)
    actions = env.action_space.shape[0]
    rng = np.random.default_rng(0)
    weights = 0.3 * rng.standard_normal((actions + 5, visible(wide.reset(seed=2)[0]).size)).astype(np.float32)

    def policy(x):
        return np.tanh(weights @ x)

    z, observation = np.zeros(5, np.float32), env.reset(seed=2)[0]
    augmented = wide.reset(seed=2)[0]
    for _ in range(50):
        u = policy(np.concatenate([visible(observation), z]))
        observation, reward, *ends, _ = env.step(u[:actions])
        z = u[actions:]
        augmented, same_reward, *same_ends, _ = wide.step(policy(visible(augmented)))
        assert (reward, ends) == (same_reward, same_ends)
    np.testing.assert_array_equal(visible(augmented), np.concatenate([visible(observation), z]))


def visible(observation):
    return observation["obs"] if isinstance(observation, dict) else observation


def test_stateless_optimal_gains_reach_the_optimal_return_on_the_augmented_mdp():
    """With z in the observation, one matrix per step suffices for the best of all policies with memory."""
    system, horizon = LinearSystem.point_mass(), 8
    env = AugmentedMDP(gymnasium.make("envs:LinearGaussian-v0", horizon=horizon), 2)
    gains, returns = system.optimal_gains(horizon), []
    for episode in range(2000):
        observation, _ = env.reset(seed=0 if episode == 0 else None)
        returns.append(0.0)
        for gain in gains:
            observation, reward, terminated, *_ = env.step(gain @ observation["obs"])
            returns[-1] += reward
        assert terminated
    error = np.std(returns) / np.sqrt(len(returns))
    assert np.mean(returns) == pytest.approx(system.expected_return(gains, horizon), abs=4 * error)


def test_wrapper_can_be_made_again_from_its_spec():
    env = AugmentedMDP(gymnasium.make("envs:HopperV-v0"), 3, low=-1.0, high=1.0)
    again = gymnasium.make(env.spec)
    assert isinstance(again, AugmentedMDP)
    assert again.action_space == env.action_space
    assert again.observation_space == env.observation_space


def test_works_under_and_over_other_wrappers():
    env = AugmentedMDP(RescaleAction(gymnasium.make("Pendulum-v1"), np.float32(-1), np.float32(1)), 1, -1.0, 1.0)
    env = RescaleAction(env, np.float32(-0.5), np.float32(0.5))
    env.reset(seed=0)
    assert env.step(np.array([0.0, 0.5], np.float32))[0][-1] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_size": -1}, "memory_size=-1"),
        ({"memory_size": 1.5}, "memory_size=1.5"),
        ({"memory_size": 2, "low": 0.5, "high": 1.0}, "low=0.5"),
        ({"memory_size": 2, "low": 1.0, "high": -1.0}, "low=1.0"),
    ],
)
def test_bad_memory_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentedMDP(gymnasium.make("Pendulum-v1"), **options)


def test_discrete_actions_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="flat Box.*Discrete"):
        AugmentedMDP(gymnasium.make("CartPole-v1"), 2)
    env = AugmentedMDP(gymnasium.make("Pendulum-v1"), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"\(1,\).*\(3,\)"):
        env.step(np.zeros(1))
