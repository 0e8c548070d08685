"""The diagnostic tasks do what their closed forms say."""

import gymnasium
import numpy as np
import pytest

from analysis import setting
from envs.diagnostics import LinearSystem

SYSTEM = LinearSystem.point_mass()


def recall(policy, delay=3, episodes=200):
    """Returns of `policy(obs, z) -> (action, z)` on cue recall, with z = 0 at the start."""
    env = gymnasium.make("envs:CueRecall-v0", delay=delay)
    returns = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=0 if episode == 0 else None)
        z, total, terminated, steps = 0.0, 0.0, False, 0
        while not terminated:
            action, z = policy(observation["obs"], z)
            observation, reward, terminated, _, info = env.step(np.array([action], np.float32))
            total, steps = total + reward, steps + 1
        assert steps == delay + 1
        assert info["success"] == (total == 1.0)
        returns.append(total)
    return np.array(returns)


@pytest.mark.parametrize("delay", [1, 3, 10])
def test_one_number_of_memory_solves_cue_recall(delay):
    assert (recall(lambda obs, z: (obs[0] + z, obs[0] + z), delay) == 1).all()


def test_passing_the_cue_through_the_own_actions_is_no_way_around_memory():
    """Repeats the previous action, which the first step sets to the cue; with the previous action hidden: chance."""
    returns = recall(lambda obs, z: (obs[0] + obs[3], 0.0))
    assert (returns == -1).all()  # the action asked for is 0, which never counts
    returns = recall(lambda obs, z: (obs[0] + obs[3] + 0.5, 0.0), episodes=1000)
    assert abs(returns.mean()) < 0.15


def test_cue_recall_timeline():
    env = gymnasium.make("envs:CueRecall-v0").unwrapped
    observation, _ = env.reset(seed=0)
    cue = observation["state"][env.layout["state"]["cue"]].item()
    rows = [observation["obs"]]
    for t in range(3):
        observation, reward, terminated, truncated, info = env.step(np.array([1.0]))
        assert (reward, terminated, truncated, info) == (0.0, False, False, {}), t
        assert observation["state"][env.layout["state"]["cue"]] == cue
        rows.append(observation["obs"])
    np.testing.assert_allclose(
        rows, [[cue, 0, 0, 0], [0, 0, 1 / 3, 0], [0, 0, 2 / 3, 0], [0, 1, 1, 0]], rtol=1e-6
    )  # shown cue, question, time, (blank) previous action
    _, reward, terminated, _, info = env.step(np.array([cue]))
    assert (reward, terminated, info) == (1.0, True, {"success": True})


def test_cue_is_a_fair_coin_and_nothing_visible_tells_it_later():
    env = gymnasium.make("envs:CueRecall-v0").unwrapped
    env.reset(seed=0)
    cues, later = [], set()
    for _ in range(400):
        cues.append(env.reset()[0]["obs"][0])
        later.add(tuple(env.step(np.array([cues[-1]]))[0]["obs"].tolist()))
    assert set(cues) == {-1.0, 1.0}
    assert abs(np.mean(cues)) < 0.2
    assert len(later) == 1


def random_gains(memory, horizon=None, seed=0):
    shape = (1 + memory, 2 + memory) if horizon is None else (horizon, 1 + memory, 2 + memory)
    return 0.4 * np.random.default_rng(seed).standard_normal(shape)


def simulate(gains, noise, horizon, episodes, discount=1.0):
    """Discounted returns of a linear policy with memory in the registered task."""
    env = gymnasium.make("envs:LinearGaussian-v0", horizon=horizon)
    factor = np.linalg.cholesky(noise)
    rng = np.random.default_rng(1)
    returns = np.zeros(episodes)
    for episode in range(episodes):
        observation, _ = env.reset(seed=3 if episode == 0 else None)
        z = np.zeros(len(factor) - 1)
        for t in range(horizon):
            u = gains @ np.concatenate([observation["obs"], z]) + factor @ rng.standard_normal(len(factor))
            observation, reward, terminated, *_ = env.step(u[:1])
            z, returns[episode] = u[1:], returns[episode] + discount**t * reward
        assert terminated
    return returns


@pytest.mark.parametrize(("memory", "discount"), [(0, 1.0), (2, 0.9)])
def test_expected_return_is_the_mean_of_simulated_returns(memory, discount):
    gains, noise = random_gains(memory), np.diag([0.3, *[0.2] * memory])
    returns = simulate(gains, noise, horizon=6, episodes=3000, discount=discount)
    exact = SYSTEM.expected_return(gains, 6, noise, discount)
    assert returns.mean() == pytest.approx(exact, abs=4 * returns.std() / np.sqrt(len(returns)))
    assert 4 * returns.std() / np.sqrt(len(returns)) < 0.15 * abs(exact)


def test_expected_return_of_one_step_by_hand():
    """a = k o + e:  J = -(tr(Q P) + R (k^2 (C P C^T + V) + noise))."""
    exact = SYSTEM.expected_return(np.array([[0.5, 0.7]]), 1, noise=np.array([[0.2]]))
    assert exact == pytest.approx(-(1.1 + 0.1 * (0.25 * 1.04 + 0.2)))


def test_optimal_gains_reach_the_separation_principles_optimum():
    """tr(S_0 P) + sum_t tr(S_{t+1} W) + tr(error covariance_t L_t^T (R + B^T S_{t+1} B) L_t), written out anew."""
    s, horizon = SYSTEM, 20
    S = [np.zeros((2, 2))]
    for _ in range(horizon):
        X = S[0]
        S.insert(0, s.Q + s.A.T @ X @ s.A - s.A.T @ X @ s.B @ np.linalg.inv(s.R + s.B.T @ X @ s.B) @ s.B.T @ X @ s.A)
    cost, P = np.trace(S[0] @ s.P), s.P
    for t in range(horizon):
        error = np.linalg.inv(np.linalg.inv(P) + s.C.T @ np.linalg.inv(s.V) @ s.C)
        BSA = s.B.T @ S[t + 1] @ s.A
        cost += np.trace(S[t + 1] @ s.W) + np.trace(error @ BSA.T @ np.linalg.inv(s.R + s.B.T @ S[t + 1] @ s.B) @ BSA)
        P = s.A @ error @ s.A.T + s.W
    assert s.expected_return(s.optimal_gains(horizon), horizon) == pytest.approx(-cost)


def test_no_change_of_the_optimal_gains_improves_them_and_memory_is_needed():
    best, gains = SYSTEM.expected_return(SYSTEM.optimal_gains(10), 10), SYSTEM.optimal_gains(10)
    for seed in range(50):
        for size in (0.01, 0.3):
            assert SYSTEM.expected_return(gains + size * random_gains(2, 10, seed), 10) < best
    grid = [[[k, p]] for k in np.linspace(-4, 4, 41) for p in np.linspace(-1, 1, 21)]
    assert max(SYSTEM.expected_return(np.array(gain), 10) for gain in grid) < best - 1


@pytest.mark.parametrize(("id", "option"), [("CueRecall", "delay"), ("LinearGaussian", "horizon")])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3"])
def test_bad_lengths_are_refused(id, option, value):
    with pytest.raises(ValueError, match=f"{id}: {option}={value!r}"):
        gymnasium.make(f"envs:{id}-v0", **{option: value})


@pytest.mark.parametrize("delay", [1, 2, 4, 8, 16, 32, 64])
def test_a_delay_in_the_name_is_the_delay_and_the_analysis_reads_it(delay):
    env = gymnasium.make(f"envs:CueRecall{delay}-v0")
    env.reset(seed=0)
    steps, ended = 0, False
    while not ended:
        _, _, ended, _, info = env.step(env.action_space.sample())
        steps += 1
    assert steps - 1 == delay == setting.delay(f"CueRecall{delay}")
    assert "success" in info
