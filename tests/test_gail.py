"""GAIL: D's loss and reward by hand, PPO's own update on that reward, and what D sees of policy and expert."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from s2pg.build import build
from s2pg.config import RunConfig
from s2pg.config import hparams as profile
from s2pg.data.dataset import Dataset
from s2pg.data.replay import Replay
from s2pg.data.rollout import Rollout
from s2pg.hyperparameters import ConfigError, GAILConfig
from s2pg.imitation.gail import GAIL, bernoulli_entropy, discriminator_loss, imitation_reward
from s2pg.training import worlds
from s2pg.training.agent import Agent
from s2pg.training.evaluate import evaluate
from tests.helpers import collect, same_bits, seeded, tiny
from tests.imitation import demonstrated
from tests.offpolicy import restored, train_epoch

SMALL = {
    "value_previous_action": True,
    "discriminator_sees": "action",
    "discriminator_head": (16,),
    "discriminator_batch": 24,
    "discriminator_every": 1,
    "discriminator_passes": 2,
    "discriminator_entropy": 1e-3,
    "lr_discriminator": 1e-2,
    "imitation_reward": "softplus",
}


def small(method: str = "s2pg", sight: str = "privileged", task: str = "PendulumV", **changes: Any) -> RunConfig:
    """A run of seconds: episodes of 11 steps, rollouts of 32."""
    config = tiny(method, task)
    hp = GAILConfig(**{**asdict(config.hparams), **SMALL, **changes})
    memory = config.memory if config.memory.sight == "oracle" else replace(config.memory, sight=sight)
    return replace(config, algorithm="gail", expert_episodes=3, hparams=hp, memory=memory)


def steps(obs: dict[str, Tensor], next_obs: dict[str, Tensor], action: Tensor, start: Tensor, end: Tensor) -> Rollout:
    """What one stream did, `[T, ...]`, as a rollout `[T, 1, ...]` without memory; its episodes are truncated."""
    obs, next_obs = ({key: value.unsqueeze(1) for key, value in part.items()} for part in (obs, next_obs))
    nothing, none = torch.zeros(len(action), 1, 0), torch.zeros(len(action), 1)
    u = action.unsqueeze(1)
    flags = start.unsqueeze(1), nothing, nothing, nothing, nothing, u, u, none, none.bool(), end.unsqueeze(1)
    return Rollout(obs, next_obs, *flags)


def filled(rollout: Rollout) -> Replay:
    """One stream's steps in a replay that holds them all."""
    widths = {key: value.shape[-1] for key, value in rollout.obs.items()}
    replay = Replay(2 * len(rollout.reward) + 2, 1, widths, 0, rollout.u.shape[-1])
    replay.add(rollout)
    return replay


def swing_up(state: np.ndarray) -> np.ndarray:
    """The pendulum's energy is pumped up to that of standing, and a linear feedback holds it there."""
    cos, sin, speed = state[:3]
    if cos > 0.9:
        return np.clip([-10 * np.arctan2(sin, cos) - 2 * speed], -2, 2)
    return np.clip([(15 - speed**2 / 2 - 15 * cos) * np.sign(speed or 1)], -2, 2)


def learner(config: RunConfig, expert: Dataset | Replay | None = None) -> Agent:
    """The agent of a run that imitates three swing-ups."""
    if expert is None:
        expert, _ = demonstrated(config.task, config.task_options, swing_up, 3, seed=1000)
    return build(config, worlds.spec(config.task, config.task_options), expert)


def synthetic(number: int, shift: float, episode: int = 10, seed: int = 0) -> Rollout:
    """Steps of PendulumV's shape in which everything, actions too, is Gaussian noise around `shift`."""
    noise = torch.randn(number, 6, generator=seeded(seed)) / 2 + shift
    obs = {"obs": noise[:, :3], "state": noise[:, :4]}
    position = torch.arange(number) % episode
    return steps(obs, copy.deepcopy(obs), noise[:, 4:5], position == 0, position == episode - 1)


# --- losses and rewards ----------------------------------------------------------------------------------------------


def test_the_discriminators_loss_equals_a_hand_computation() -> None:
    """Logits 2 and -1 of the expert, 0.5 and -3 of the policy, an entropy coefficient of 0.3.

    -log sigma(2) = 0.126928, -log sigma(-1) = 1.313262, -log(1 - sigma(0.5)) = 0.974077, -log(1 - sigma(-3)) =
    0.048587, their mean is 0.615714. Entropies -p log p - q log q: 0.365334, 0.582203, 0.662847, 0.190865, their
    mean is 0.450312.
    """
    expert, policy = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    entropies = [0.365334, 0.582203, 0.662847, 0.190865]
    assert bernoulli_entropy(torch.cat([expert, policy])).tolist() == pytest.approx(entropies, abs=1e-5)
    for form in ("softplus", "log", "logit"):
        loss = discriminator_loss(expert, policy, 0.3, form)
        assert loss.item() == pytest.approx(0.615714 - 0.3 * 0.450312, abs=1e-5)


def test_the_least_squares_loss_equals_a_hand_computation() -> None:
    """(1 + 4) / 2 around the expert's 1, and (2.25 + 4) / 2 around the policy's -1."""
    loss = discriminator_loss(torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0]), 0.3, "least_squares")
    assert loss.item() == pytest.approx(2.5 + 3.125)


@pytest.mark.parametrize(
    ("form", "rewards"),
    [  # at D = 0, 2 and -2, where sigma = 0.5, 0.880797 and 0.119203; and far out on both sides
        ("softplus", [0.693147, 2.126928, 0.126928, 18.420681, 0.0]),
        ("log", [-0.693147, -0.126928, -2.126928, 0.0, -18.420681]),
        ("logit", [0.0, 2.0, -2.0, 60.0, -60.0]),
        ("least_squares", [0.75, 0.75, 0.0, 0.0, 0.0]),
    ],
)
def test_rewards_equal_a_hand_computation(form: str, rewards: list[float]) -> None:
    """Every step of `softplus` and `least_squares` pays, every step of `log` costs; only `logit` has both signs."""
    found = imitation_reward(torch.tensor([0.0, 2.0, -2.0, 60.0, -60.0]), form)
    assert found.tolist() == pytest.approx(rewards, abs=1e-5)


# --- PPO's own update ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["s2pg", "bptt5", "bptt32_all", "window5", "none", "oracle"])
def test_the_policys_update_is_ppos_on_the_learned_rewards(method: str) -> None:
    """Bit for bit; the rollout's own rewards are not read (they are not numbers), and the rollout is not changed."""
    config = small(method)
    agent, twin = learner(config), learner(config)
    rollout = collect(agent, config, rollouts=2)
    rollout.reward.fill_(torch.nan)
    before = copy.deepcopy(rollout)
    gail = agent.algorithm
    with torch.no_grad():
        logit = gail.discriminator(gail.of_policy(rollout)).double().numpy()
        reward = imitation_reward(gail.discriminator(gail.of_policy(rollout)), "softplus")
    np.testing.assert_allclose(reward, -np.log(1 - 1 / (1 + np.exp(-logit)) + 1e-8), rtol=1e-5)
    theirs = twin.algorithm.ppo.update(replace(rollout, reward=reward), seeded(3))
    ours = gail.update(rollout, seeded(3))
    assert same_bits(agent.policy.state_dict(), twin.policy.state_dict())
    assert same_bits(agent.critic.state_dict(), twin.critic.state_dict())
    assert {key: ours[key] for key in theirs} == theirs
    assert same_bits([rollout.obs, rollout.u, rollout.z], [before.obs, before.u, before.z])
    assert rollout.reward.isnan().all()
    assert ours["imitation/reward"] == pytest.approx(reward.mean().item())


def test_a_step_of_the_discriminator_is_adams_on_its_loss() -> None:
    """On all steps of the rollout, and as many of an expert that has only one."""
    config = small(discriminator_batch=32, discriminator_passes=1, discriminator_entropy=0.1)
    expert = filled(synthetic(1, 0.5))
    agent = learner(config, expert)
    rollout, gail = collect(agent, config), agent.algorithm
    x = torch.cat([rollout.obs["state"][..., :3], rollout.u[..., :1].clamp(-2, 2)], -1).flatten(0, 1)
    stored = torch.cat([expert.obs["state"][0, :3].clamp(-10, 10), expert.action[0].clamp(-2, 2)])
    logit, of_expert = gail.discriminator(x), gail.discriminator(stored.expand(32, -1))
    p = torch.sigmoid(torch.cat([logit, of_expert]))
    truth = torch.cat([torch.zeros(32), torch.ones(32)])
    loss = (
        -(truth * p.log() + (1 - truth) * (1 - p).log()).mean() + 0.1 * (p * p.log() + (1 - p) * (1 - p).log()).mean()
    )
    gradients = torch.autograd.grad(loss, list(gail.discriminator.parameters()))
    old = copy.deepcopy(list(gail.discriminator.parameters()))
    logs = gail.update(rollout, seeded(1))
    for parameter, was, g in zip(gail.discriminator.parameters(), old, gradients, strict=True):
        torch.testing.assert_close(parameter, was - 0.01 * g / (g.abs() + 1e-8), rtol=0, atol=1e-4)
    assert logs["discriminator/loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert logs["discriminator/logit_gap"] == pytest.approx((of_expert.mean() - logit.mean()).item(), rel=1e-4)
    assert logs["discriminator/accuracy/expert"] == (of_expert > 0).float().mean().item()
    assert logs["discriminator/accuracy/policy"] == pytest.approx((logit < 0).float().mean().item())


def test_the_discriminator_learns_after_every_third_update() -> None:
    config = small(discriminator_every=3)
    agent = learner(config)
    gail, learned = agent.algorithm, []
    rollout = collect(agent, config)
    for update in range(1, 8):
        before = copy.deepcopy(gail.discriminator.state_dict())
        logs = gail.update(rollout, seeded(update))
        assert "imitation/reward" in logs
        assert ("discriminator/loss" in logs) == (update % 3 == 0)
        if not same_bits(before, gail.discriminator.state_dict()):
            learned.append(update)
    assert learned == [3, 6]
    assert {int(entry["step"]) for entry in gail.optimiser.state.values()} == {2 * 2}


# --- what the discriminator sees -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sees", ["action", "next"])
def test_memory_and_previous_action_never_reach_the_discriminator(sees: str) -> None:
    config = small("s2pg", discriminator_sees=sees)
    agent = learner(config)
    gail, rollout = agent.algorithm, collect(agent, config, rollouts=2)
    x = gail.of_policy(rollout)
    assert x.shape == (16, 2, 3 + (1 if sees == "action" else 3))
    for name in ("z", "z_next", "critic_z", "critic_z_next", "mean"):
        getattr(rollout, name).add_(1.0)
    rollout.u[..., 1:] += 1.0
    for part in (rollout.obs, rollout.next_obs):
        part["state"][..., 3:] += 1.0
        part["obs"] += 1.0
    assert torch.equal(gail.of_policy(rollout), x)
    rollout.obs["state"][..., 2] += 1.0
    assert not torch.equal(gail.of_policy(rollout), x)


@pytest.mark.parametrize(("sight", "key"), [("privileged", "state"), ("blind", "obs")])
@pytest.mark.parametrize("sees", ["action", "next"])
def test_the_discriminator_sees_what_the_critic_sees_of_the_environment(sight: str, key: str, sees: str) -> None:
    """Of the policy as it is normalised, of the expert by the statistics that acted. A blind one needs no state."""
    config = small("s2pg", sight, discriminator_sees=sees)
    agent = learner(config)
    gail, env = agent.algorithm, 3 if key == "state" else 2
    rollout = collect(agent, config)
    gail.update(rollout, seeded(0))
    statistics = copy.deepcopy(agent.normalisers[key])
    other = rollout.u[..., :1].clamp(-2, 2) if sees == "action" else rollout.next_obs[key][..., :env]
    assert torch.equal(gail.of_policy(rollout), torch.cat([rollout.obs[key][..., :env], other], -1))
    if sight == "blind":
        assert "state" not in rollout.obs
        del gail.expert.obs["state"]
    collect(agent, config)  # the statistics move on, but not those of the last update
    assert statistics.count == 32 < agent.normalisers[key].count
    stored = gail.expert.obs[key][:, :env].double().numpy()
    stored = np.clip((stored - statistics.mean.numpy()) / np.sqrt(statistics.var.numpy() + 1e-8), -10, 10)
    x = gail.of_expert(400, seeded(1)).numpy()
    row = np.abs(x[:, None, :env] - stored).sum(-1).argmin(1)
    np.testing.assert_allclose(x[:, :env], stored[row], rtol=1e-4, atol=1e-5)
    right = gail.expert.action[row].numpy() if sees == "action" else stored[row + 1]
    np.testing.assert_allclose(x[:, env:], right, rtol=1e-4, atol=1e-5)
    assert set(row) == set(gail.expert.valid.nonzero().flatten().tolist()), "every step, and nothing but steps"


def test_an_episodes_last_step_is_followed_by_its_own_last_observation() -> None:
    """Of the policy and of the expert, whose next episode lies beside it: (episode, t) -> (episode, t + 1)."""
    config = small(discriminator_sees="next", observation_clip=None)
    count, rollout = torch.arange(56.0), synthetic(56, 0.0, episode=7)
    now = torch.stack([count // 7, count % 7, count, count], -1).unsqueeze(1)
    rollout.obs["state"], rollout.next_obs["state"] = now, now + torch.tensor([0.0, 1.0, 1.0, 1.0])
    gail = learner(config, filled(rollout)).algorithm
    for x in (gail.of_policy(rollout)[:, 0], gail.of_expert(500, seeded(0))):
        assert torch.equal(x[:, 3:], x[:, :3] + torch.tensor([0.0, 1.0, 1.0]))
        assert set(x[:, 2].tolist()) == set(range(56))


def test_actions_are_seen_as_the_environment_applies_them() -> None:
    """PendulumV cuts torques off at 2: a policy beyond is not told by that, and neither is an expert."""
    config = small(observation_clip=None)
    rollout = synthetic(40, 0.0)
    rollout.u.copy_(torch.linspace(-5, 5, 40).view(40, 1, 1))
    gail = learner(config, filled(rollout)).algorithm
    action = gail.of_policy(rollout)[:, 0, -1]
    torch.testing.assert_close(action, torch.linspace(-5, 5, 40).clamp(-2, 2))
    drawn = gail.of_expert(400, seeded(0))[:, -1]
    assert (drawn.min().item(), drawn.max().item()) == (-2.0, 2.0)
    assert {round(a, 4) for a in drawn.tolist()} == {round(a, 4) for a in action.tolist()}


def test_learning_does_not_move_the_statistics_of_observations() -> None:
    config = small()
    agent = learner(config)
    rollout = collect(agent, config)
    before = copy.deepcopy({key: norm.state_dict() for key, norm in agent.normalisers.items()})
    for update in range(3):
        agent.algorithm.update(rollout, seeded(update))
    assert same_bits(before, {key: norm.state_dict() for key, norm in agent.normalisers.items()})


@pytest.mark.parametrize("form", ["softplus", "log", "logit", "least_squares"])
@pytest.mark.parametrize("sight", ["privileged", "blind"])
def test_it_tells_a_policy_from_an_expert_and_rewards_the_experts_steps_more(sight: str, form: str) -> None:
    """Two Gaussians, two standard deviations from each other's middle."""
    config = small("none", sight, observation_clip=None, imitation_reward=form, lr_discriminator=3e-3, passes=1)
    policy, expert = synthetic(32, -0.5), synthetic(200, 0.5, seed=1)
    gail: GAIL = learner(config, filled(expert)).algorithm
    logs = [gail.update(policy, seeded(update)) for update in range(60)]
    for side in ("policy", "expert"):
        assert logs[-1][f"discriminator/accuracy/{side}"] > 0.9
    assert logs[-1]["discriminator/logit_gap"] > 1 > logs[0]["discriminator/logit_gap"]
    assert logs[-1]["discriminator/loss"] < 0.6 * logs[0]["discriminator/loss"]
    with torch.no_grad():
        theirs, ours = (gail.discriminator(x) for x in (gail.of_expert(500, seeded(0)), gail.of_policy(policy)))
    assert imitation_reward(theirs, form).mean() > imitation_reward(ours, form).mean() + 0.3
    assert logs[-1]["imitation/reward"] < logs[0]["imitation/reward"]


# --- it learns -------------------------------------------------------------------------------------------------------


def damped(state: np.ndarray) -> np.ndarray:
    """A spring and a damper hold the point of LinearGaussian, of which position and velocity are seen without noise."""
    return np.array([-0.5 * state[1] - 0.9 * state[2]])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_s2pg_imitates_an_expert_that_sees_velocities(seed: int) -> None:
    """Four fifths of the way from random actions to the expert, from noisy positions and 50 of its episodes.

    Episodes of LinearGaussian are all of one length, so that surviving earns nothing. 90,000 steps, in less than 100
    seconds of one core.
    """
    changes = {"sigma_action": 0.3, "imitation_reward": "logit"}
    hp = GAILConfig(**(profile("gail", "matched", "s2pg", "LinearGaussian") | changes))
    budget = {"hparams": hp, "steps_per_epoch": 45 * hp.rollout}
    config = replace(small(), task="LinearGaussian", task_options={}, seed=seed, **budget)
    torch.set_num_threads(1)
    expert, best = demonstrated(config.task, {}, damped, 50, seed=1000)
    noise = np.random.default_rng(0)
    _, worst = demonstrated(config.task, {}, lambda state: noise.uniform(-1, 1, 1), 200, seed=1000)
    agent, began = learner(config, expert), time.process_time()
    train_epoch(agent, config, seed)
    assert time.process_time() - began < 100
    envs: list[gymnasium.Env] = [worlds.make(config.task, {}) for _ in range(200)]
    reached = np.mean([episode.ret for episode in evaluate(agent, envs, range(500, 700), "mean", 0)])
    assert (reached - worst) / (best - worst) > 0.8


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "every"), [("s2pg", 1), ("s2pg", 3), ("bptt32_all", 1)])
def test_a_resumed_run_learns_on_bit_for_bit(method: str, every: int, tmp_path: Path) -> None:
    """Stopped after four updates: D learns by the statistics of then in the next one, or in the next one but one."""
    config = replace(small(method, discriminator_every=every), steps_per_epoch=32 * 4)
    whole, first, second = (learner(config) for _ in range(3))
    logs = [train_epoch(whole, config, epoch) for epoch in range(2)]
    assert train_epoch(first, config, 0) == logs[0]
    resumed = restored(first, second, tmp_path)
    assert train_epoch(resumed, config, 1) == logs[1]
    assert same_bits(resumed.state_dict(), whole.state_dict())
    assert resumed.algorithm.updates == 8


def test_a_discriminators_batch_is_at_most_the_rollout() -> None:
    with pytest.raises(ConfigError, match="hparams.rollout: 32 is less than hparams.discriminator_batch: 33"):
        small(discriminator_batch=33)


@pytest.mark.parametrize(
    ("method", "lr", "clip", "every", "head"),
    [
        ("s2pg", 1e-4, 0.2, 3, []),
        ("bptt5", 1e-5, 0.005, 1, []),
        ("bptt32", 1e-5, 0.005, 1, []),
        ("none", 1e-5, 0.2, 3, [128, 128]),
    ],
)
def test_profile_reference_is_that_of_its_launchers(
    method: str, lr: float, clip: float, every: int, head: list[int]
) -> None:
    """Facts of the launchers of GAIL, S2PG's with the larger of its two learning rates."""
    values = profile("gail", "reference", method, "HumanoidV")
    expected = {"lr_policy": lr, "lr_value": lr, "clip": clip, "discriminator_every": every, "policy_head": head}
    expected |= {"rollout": 1000, "num_envs": 1, "passes": 10, "minibatch": 32, "gamma": 0.99, "gae_lambda": 0.95}
    expected |= {"discriminator_head": [512, 256], "discriminator_batch": 1000, "lr_discriminator": 3e-4}
    expected |= {"discriminator_entropy": 1e-3, "discriminator_passes": 1, "imitation_reward": "softplus"}
    expected |= {"value_head": [128, 128], "value_previous_action": False, "memory_size": 32, "sigma_action": 0.5}
    assert {key: values[key] for key in expected} == expected
    assert values["previous_action"] == (method != "none")
