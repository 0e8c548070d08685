"""Rollouts: what is stored is what acted, and nothing crosses the end of an episode."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from s2pg.data.normaliser import Normaliser
from s2pg.data.rollout import Collector, Rollout, Stopwatch
from s2pg.memory import Recurrent
from s2pg.nets import GRU
from s2pg.policy import Decision, Policy
from s2pg.training import worlds
from s2pg.training.evaluate import evaluate, success_rate
from s2pg.types import View, Width
from tests.helpers import collect, collector, seeded, tiny, tiny_agent

WIDTH = Width(env=3, previous_action=1)


class Clock(gymnasium.Env):
    """Observes (stream, episode, time) and the previous action; ends after `lengths[episode]` steps.

    Even episodes are truncated, odd ones terminate. The reward of a step is its time plus 1.
    """

    def __init__(self, stream: int, lengths: tuple[int, ...]) -> None:
        space = Box(-np.inf, np.inf, (4,), np.float32)
        self.observation_space, self.action_space = Dict(obs=space, state=space), Box(-1, 1, (1,), np.float32)
        self.stream, self.lengths, self.episode = stream, lengths, -1
        self.actions: list[float] = []  # every action ever received

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return self._observe(0.0), {}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        self.actions.append(float(action[0]))
        self.time += 1
        ended = self.time == self.lengths[self.episode % len(self.lengths)]
        odd = self.episode % 2 == 1
        return self._observe(float(action[0])), float(self.time), ended and odd, ended and not odd, {}

    def _observe(self, previous: float) -> dict[str, np.ndarray]:
        row = np.array([self.stream, self.episode, self.time, previous], np.float32)
        return {"obs": row, "state": row + 100}


LENGTHS = ((3, 5, 1, 2), (4, 4))


class Recording(Policy):
    """A policy that keeps every view it is shown while it acts and what it decided."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[View, Decision]] = []

    def forward(self, view: View) -> Decision:
        decision = super().forward(view)
        self.seen.append((View(*(None if x is None else x.clone() for x in view)), decision))
        return decision


class RecurrentCritic(nn.Module):
    """A critic of which rollouts only need its memory."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Recurrent(WIDTH, GRU, hidden=3, features=2, context=4)


def clocks(decides: bool = True, clip: float = 1e9) -> Collector:
    torch.manual_seed(0)
    policy = Recording(Recurrent(WIDTH, GRU, hidden=4, features=3, decides=decides), 1, [], (0.6, 0.4))
    envs = SyncVectorEnv([lambda n=n: Clock(n, LENGTHS[n]) for n in range(2)], autoreset_mode=AutoresetMode.SAME_STEP)
    normalisers = {key: Normaliser(WIDTH, clip) for key in ("obs", "state")}
    loop = Collector(envs, policy, RecurrentCritic(), ("obs", "state"), normalisers, torch.device("cpu"))
    loop.reset(0)
    return loop


@pytest.fixture(params=[True, False], ids=["decided memory", "carried memory"])
def recorded(request: pytest.FixtureRequest) -> tuple[Collector, Rollout]:
    """Twelve steps of two clocks, in one rollout, with observations as they are."""
    loop = clocks(request.param)
    return loop, loop.collect(12, seeded(1), Stopwatch())


def ends(lengths: tuple[int, ...], steps: int) -> list[int]:
    """Steps at which a clock's episodes end."""
    cumulated = np.cumsum([lengths[i % len(lengths)] for i in range(steps)]) - 1
    return [int(t) for t in cumulated if t < steps]


def test_episodes_end_and_start_where_the_environment_says(recorded: tuple[Collector, Rollout]) -> None:
    _, rollout = recorded
    for n in range(2):
        done = ends(LENGTHS[n], 12)
        assert rollout.done[:, n].nonzero().flatten().tolist() == done
        assert rollout.start[:, n].nonzero().flatten().tolist() == [0, *(t + 1 for t in done if t < 11)]
        assert rollout.terminated[:, n].nonzero().flatten().tolist() == done[1::2], "odd episodes terminate"


def test_the_successor_of_an_episodes_last_step_is_its_own_last_observation(
    recorded: tuple[Collector, Rollout],
) -> None:
    """Not the first of the next episode, which autoreset has already put in its place."""
    _, rollout = recorded
    for key, offset in (("obs", 0), ("state", 100)):
        obs, successor = rollout.obs[key], rollout.next_obs[key]
        stream, episode, time = (obs[..., i] - offset for i in range(3))
        assert (stream == torch.tensor([0.0, 1.0])).all()
        torch.testing.assert_close(successor[..., 1] - offset, episode, rtol=0, atol=1e-4)
        torch.testing.assert_close(successor[..., 2] - offset, time + 1, rtol=0, atol=1e-4)
        torch.testing.assert_close(rollout.reward, time + 1, rtol=0, atol=1e-4)
        torch.testing.assert_close(successor[:-1][~rollout.done[:-1]], obs[1:][~rollout.done[:-1]], rtol=0, atol=1e-4)
    assert rollout.done[:-1].any()


def test_memories_are_carried_within_and_reset_between_episodes(recorded: tuple[Collector, Rollout]) -> None:
    """The policy's and the critic's: z_{t+1} is z'_t, exactly, or zero where a new episode begins."""
    _, rollout = recorded
    for now, following in ((rollout.z, rollout.z_next), (rollout.critic_z, rollout.critic_z_next)):
        assert (now[rollout.start] == 0).all()
        assert (following != 0).any(-1).all(), "the memory after an episode's last step is kept for its value"
        goes_on = ~rollout.done[:-1]
        assert torch.equal(now[1:][goes_on], following[:-1][goes_on])


def test_what_is_stored_is_what_acted(recorded: tuple[Collector, Rollout]) -> None:
    """z[t] and obs[t] produced mean[t], of which u[t] is a sample, of which the environment got the action."""
    loop, rollout = recorded
    assert len(loop.policy.seen) == 12
    for t, (view, decision) in enumerate(loop.policy.seen):
        assert torch.equal(view.obs[:, 0], rollout.obs["obs"][t])
        assert torch.equal(view.z, rollout.z[t])
        assert torch.equal(view.start[:, 0], rollout.start[t])
        assert torch.equal(decision.mean, rollout.mean[t])
        carried = rollout.u[t][:, 1:] if loop.policy.memory.decided else decision.carry
        assert torch.equal(rollout.z_next[t], carried)
    for n, env in enumerate(loop.envs.envs):
        np.testing.assert_array_equal(env.unwrapped.actions, rollout.u[:, n, 0].numpy())
    assert not torch.equal(rollout.u, rollout.mean)


def test_memories_are_what_the_stored_observations_say(recorded: tuple[Collector, Rollout]) -> None:
    """Recomputed from storage alone: the critic's memory follows its own key, the policy's mean its own."""
    loop, rollout = recorded
    for t in range(12):
        start = rollout.start[t].unsqueeze(1)
        critic = loop.critic.memory.read(rollout.obs["state"][t].unsqueeze(1), start, rollout.critic_z[t])[1]
        torch.testing.assert_close(critic, rollout.critic_z_next[t])
        mean = loop.policy(View(rollout.obs["obs"][t].unsqueeze(1), start, rollout.z[t])).mean
        torch.testing.assert_close(mean, rollout.mean[t])


def test_the_previous_action_is_the_last_one_of_the_episode_and_is_not_normalised() -> None:
    """Zero at a start, else the action that was taken, also after the observations' statistics have moved."""
    loop = clocks()
    before = loop.collect(9, seeded(1), Stopwatch())
    rollout = loop.collect(9, seeded(2), Stopwatch())
    previous = rollout.obs["obs"][..., 3]
    assert (previous[rollout.start] == 0).all()
    goes_on = ~rollout.start[1:]
    assert torch.equal(previous[1:][goes_on], rollout.u[:-1, :, 0][goes_on])
    assert torch.equal(previous[0][~rollout.start[0]], before.u[-1, :, 0][~rollout.start[0]])
    assert not torch.equal(loop.normalisers["obs"].mean, torch.zeros(3))


def test_rollouts_go_on_where_the_last_one_stopped() -> None:
    """Two rollouts of 5 and 7 steps are one of 12 while the statistics are held still."""
    whole, parts = clocks(), clocks()
    for loop in (whole, parts):
        for norm in loop.normalisers.values():
            norm.update = lambda raw: None
    one = whole.collect(12, seeded(1), Stopwatch())
    generator = seeded(1)
    two = [parts.collect(steps, generator, Stopwatch()) for steps in (5, 7)]
    for name in ("start", "z", "z_next", "critic_z", "u", "mean", "reward", "done"):
        assert torch.equal(getattr(one, name), torch.cat([getattr(part, name) for part in two])), name
    assert torch.equal(one.obs["obs"], torch.cat([part.obs["obs"] for part in two]))
    assert whole.finished == parts.finished


def test_returns_and_lengths_of_finished_episodes_are_counted() -> None:
    loop = clocks()
    loop.collect(12, seeded(1), Stopwatch())
    lengths = [LENGTHS[n][i % len(LENGTHS[n])] for n in range(2) for i in range(len(ends(LENGTHS[n], 12)))]
    assert sorted(loop.finished) == sorted((k * (k + 1) / 2, k) for k in lengths)


def test_a_reset_begins_anew_and_its_seed_decides_how() -> None:
    config = tiny("bptt5")
    agent = tiny_agent(config)
    loop = collector(agent, config)
    loop.collect(7, seeded(1), Stopwatch())
    assert loop.z.any()
    firsts = []
    for seed in (5, 5, 6):
        loop.reset(seed)
        assert loop.start.all()
        assert not loop.z.any()
        assert not loop.critic_z.any()
        firsts.append(loop.raw["obs"].copy())
    np.testing.assert_array_equal(firsts[0], firsts[1])
    assert not np.array_equal(firsts[0], firsts[2])
    assert not np.array_equal(firsts[0][0], firsts[0][1]), "environments begin differently"


# --- acting forgets, learning forgets --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["window5", "bptt5", "bptt_full", "s2pg"])
def test_nothing_of_an_episode_reaches_the_next_one(method: str) -> None:
    """Acting: a policy whose first episode differs decides alike in the second. (Learning: test_memory.py.)"""
    config = tiny(method)
    agent = tiny_agent(config)
    means = []
    for first in (1, 2):  # noise of the first episode
        loop = collector(agent, config, seed=0)
        rollout = loop.collect(11, seeded(first), Stopwatch())
        assert rollout.done[-1].all()
        assert loop.start.all()
        loop.raw = {key: np.full_like(value, 0.25) for key, value in loop.raw.items()}
        loop.normalisers = agent.normalisers = copy.deepcopy(tiny_agent(config).normalisers)
        means.append(loop.collect(1, seeded(9), Stopwatch()).mean)
    assert torch.equal(*means)


# --- statistics of observations --------------------------------------------------------------------------------------


def test_statistics_move_after_a_rollout_and_never_within() -> None:
    """Every observation of a rollout is normalised alike, with the statistics of the rollouts before."""
    config = tiny("none", previous_action=False)
    agent = tiny_agent(config)
    loop, raw = collector(agent, config), []
    step = loop.envs.step
    raw.append(loop.raw["obs"])
    loop.envs.step = lambda action: (result := step(action), raw.append(result[0]["obs"]))[0]
    norm = agent.normalisers["obs"]
    for _ in range(3):
        before = copy.deepcopy(norm)
        rollout = loop.collect(16, seeded(1), Stopwatch())
        seen = torch.from_numpy(np.stack(raw[-17:-1]))
        torch.testing.assert_close(rollout.obs["obs"], before(seen), rtol=0, atol=0)
        assert norm.count == before.count + 32
    everything = np.stack(raw[:-1])[..., :2].reshape(-1, 2)
    np.testing.assert_allclose(norm.mean, everything.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(norm.var, everything.var(0), rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_merged_statistics_are_those_of_all_data(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = [rng.normal(5, 3, (size, WIDTH.total)).astype(np.float32) for size in sizes]
    norm = Normaliser(WIDTH, clip=10.0)
    for batch in data:
        norm.update(torch.from_numpy(batch))
    everything = np.concatenate(data)[:, :3].astype(float)
    np.testing.assert_allclose(norm.mean, everything.mean(0), rtol=1e-9)
    np.testing.assert_allclose(norm.var, everything.var(0), rtol=1e-9, atol=1e-12)


def test_normalised_observations_are_standard_clipped_and_leave_the_previous_action_alone() -> None:
    norm = Normaliser(WIDTH, clip=2.0)
    data = torch.randn(5000, WIDTH.total, generator=seeded(0)) * 4 + 7
    norm.update(data)
    result = norm(data)
    assert torch.equal(result[:, 3], data[:, 3])
    expected = ((data[:, :3] - data[:, :3].mean(0)) / data[:, :3].std(0)).clamp(-2, 2)
    torch.testing.assert_close(result[:, :3], expected, rtol=1e-3, atol=1e-3)
    assert (result[:, :3].abs() == 2).any()
    narrow = Normaliser(Width(3, 0), clip=2.0)
    narrow.update(data)
    assert torch.equal(narrow(data), result[:, :3]), "a previous action that nobody reads is cut off"


def test_evaluation_changes_nothing() -> None:
    """Neither weights, nor statistics of observations, nor any stream of random numbers."""
    config = tiny("s2pg")
    agent = tiny_agent(config)
    collect(agent, config)
    before, numbers = copy.deepcopy(agent.state_dict()), (torch.get_rng_state(), np.random.get_state()[1].copy())
    envs = [worlds.make(config.task, config.task_options) for _ in range(3)]
    evaluate(agent, envs, [1, 2, 3], "sample", 7)
    assert str(before) == str(agent.state_dict())
    assert torch.equal(numbers[0], torch.get_rng_state())
    np.testing.assert_array_equal(numbers[1], np.random.get_state()[1])


# --- evaluation ------------------------------------------------------------------------------------------------------


def test_evaluation_plays_one_episode_each_and_forgets_between_them() -> None:
    """Against a plain loop, episode by episode, in mean mode; environments end at different times, not in order."""
    config = tiny("s2pg", "HopperV", options={})
    agent, seeds = tiny_agent(config), list(range(11, 19))
    collect(agent, config)
    with torch.no_grad():
        agent.policy.head[0].weight.mul_(10.0)  # actions depend on the memory, and returns on actions
    envs = [worlds.make(config.task, {}) for _ in seeds]
    for _ in range(2):  # the second time in environments that have been used
        result = evaluate(agent, envs, seeds, "mean", 0)
        expected = [by_hand(agent, worlds.make(config.task, {}), seed) for seed in seeds]
        assert [(e.length, e.seed) for e in result] == [(length, seed) for _, length, seed in expected]
        np.testing.assert_allclose([e.ret for e in result], [ret for ret, *_ in expected], rtol=1e-4)
    lengths = [e.length for e in result]
    assert len(set(lengths)) > 2
    assert lengths != sorted(lengths, reverse=True)


@torch.no_grad()
def by_hand(agent: Any, env: gymnasium.Env, seed: int) -> tuple[float, int, int]:
    obs, _ = env.reset(seed=seed)
    z, total, length, ended = agent.policy.memory.initial(1), 0.0, 0, False
    while not ended:
        seen = agent.normalisers["obs"](torch.from_numpy(obs["obs"])).view(1, 1, -1)
        u = agent.policy(View(seen, torch.tensor([[length == 0]]), z)).mean
        z = u[:, agent.policy.actions :]
        obs, reward, terminated, truncated, _ = env.step(u[0, : agent.policy.actions].numpy())
        total, length, ended = total + float(reward), length + 1, terminated or truncated
    return total, length, seed


def test_the_mean_mode_is_deterministic_and_the_sample_mode_follows_its_seed() -> None:
    config = tiny("s2pg")
    agent = tiny_agent(config)
    envs = [worlds.make(config.task, config.task_options) for _ in range(2)]
    mean = [evaluate(agent, envs, [1, 2], "mean", noise) for noise in (0, 1)]
    sample = [evaluate(agent, envs, [1, 2], "sample", noise) for noise in (0, 0, 1)]
    assert mean[0] == mean[1]
    assert sample[0] == sample[1]
    assert sample[0] != sample[2]
    assert sample[0] != mean[0]


def test_evaluation_hands_on_the_success_of_an_episodes_last_step() -> None:
    """Whatever was said before; nothing where the task says nothing."""
    config = tiny("s2pg", "PointMass3")
    envs = [Told(worlds.make(config.task, {"max_episode_steps": n})) for n in (3, 1, 2)]
    episodes = evaluate(tiny_agent(config), envs, [1, 2, 3], "mean", 0)
    assert [env.told for env in envs] == [[True, False, True], [True], [True, False]]
    assert [(e.success, e.length) for e in episodes] == [(True, 3), (True, 1), (False, 2)]
    assert success_rate(episodes) == pytest.approx(2 / 3)
    silent = evaluate(tiny_agent(tiny()), [worlds.make("PendulumV", {"max_episode_steps": 2})], [1], "mean", 0)
    assert (silent[0].success, success_rate(silent)) == (None, None)


class Told(gymnasium.Wrapper):
    """Says success at every other step."""

    def reset(self, **options: Any) -> tuple:
        self.told: list[bool] = []
        return self.env.reset(**options)

    def step(self, action: Any) -> tuple:
        *step, info = self.env.step(action)
        self.told.append(len(self.told) % 2 == 0)
        return *step, {**info, "success": np.bool_(self.told[-1])}


def test_both_sights_are_stored_where_policy_and_critic_differ() -> None:
    config = tiny("s2pg")
    config = replace(config, memory=replace(config.memory, sight="privileged"))
    rollout = collect(tiny_agent(config), config)
    assert {key: x.shape[-1] for key, x in rollout.obs.items()} == {"obs": 3, "state": 4}


def test_the_stopwatch_books_each_second_once() -> None:
    config = tiny("s2pg")
    watch = Stopwatch()
    collector(tiny_agent(config), config).collect(8, seeded(1), watch)
    assert set(watch.seconds) == {"acting", "environment"}
    assert all(seconds > 0 for seconds in watch.seconds.values())
