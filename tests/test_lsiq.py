"""LS-IQ and IQ-Learn: losses by hand, whose steps are whose, the expert's memory, what each memory learns from."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from s2pg.algorithms.offpolicy import Transitions
from s2pg.build import build
from s2pg.config import RunConfig, hparams
from s2pg.data.replay import Replay
from s2pg.data.rollout import Stopwatch
from s2pg.hyperparameters import LSIQConfig
from s2pg.imitation.lsiq import LSIQ, iq_loss, lsiq_loss, lsiq_targets
from s2pg.imitation.retrace import retrace
from s2pg.timing.lanes import configuration
from s2pg.training import worlds
from s2pg.training.agent import Agent
from s2pg.training.evaluate import evaluate
from s2pg.types import View
from tests.helpers import collector, same_bits, seeded
from tests.imitation import balance, demonstrated, restless
from tests.offpolicy import BOX, CLOSE, DECIDED, METHODS, agent_of, experience, held, learned, restored, small

IMITATION = {
    "imitation_loss": "lsiq",
    "critics": 1,
    "expert_batch": 40,
    "regulariser": 0.5,
    "expert_target": "fixed",
    "clip_target": True,
    "absorbing": True,
    "iq_value": "value",
    "iq_regularised": "both",
}
SIGHTS = ("blind", "privileged")


def imitating(method: str = "s2pg", sight: str | None = None, **hparams: Any) -> RunConfig:
    """A small run of LS-IQ."""
    of_sac = {key: value for key, value in hparams.items() if key not in IMITATION}
    config = small("sac", method, memory={"sight": sight} if sight else None, **of_sac)
    chosen = {key: hparams.get(key, value) for key, value in IMITATION.items()}
    return replace(config, algorithm="lsiq", expert_episodes=9, hparams=LSIQConfig(**asdict(config.hparams), **chosen))


def expert(steps: int = 70, seed: int = 9) -> Replay:
    """Random episodes of one stream, without a memory."""
    lent = agent_of(small("sac", "none", memory={"sight": "privileged"}, num_envs=1))
    replay = Replay(3 * steps, 1, {key: width.total for key, width in BOX.widths.items()}, 0, 2)
    replay.add(experience(lent, steps, seed))
    return replay


def imitator(config: RunConfig, steps: int = 60) -> Agent:
    """An agent with random experience, and a random expert."""
    agent = build(config, BOX, expert())
    rollout = experience(agent, steps)
    agent.algorithm.replay.add(rollout)
    agent.algorithm.steps = rollout.reward.numel()
    return agent


def hp(**changes: Any) -> LSIQConfig:
    """Hyperparameters with gamma 0.5 and c 0.25: rewards within 4, values within 8."""
    return replace(imitating().hparams, **{"gamma": 0.5, "regulariser": 0.25, **changes})


# --- the losses ------------------------------------------------------------------------------------------------------

VALUE, ENDED = torch.tensor([6.0, 2.0, -6.0, 2.0]), torch.tensor([False, True, False, True])
TARGETS = {
    ("fixed", True): [-4 + 3.0, -8.0, 8.0, 8.0],
    ("fixed", False): [-4 + 3.0, -4.0, 8.0, 8.0],
    ("bootstrap", True): [-4 + 3.0, -8.0, 4 - 3.0, 8.0],
    ("bootstrap", False): [-4 + 3.0, -4.0, 4 - 3.0, 4.0],
}


@pytest.mark.parametrize(("kind", "absorbing"), TARGETS)
def test_targets_equal_a_hand_computation(kind: str, absorbing: bool) -> None:
    """Two steps of the policy, two of the expert, the second of each terminal: -4 or 4 for ever is -8 or 8."""
    target = lsiq_targets(VALUE, ENDED, 2, hp(expert_target=kind, absorbing=absorbing))
    assert target.tolist() == TARGETS[kind, absorbing]


def test_the_loss_is_the_mean_over_the_experts_steps_plus_the_mean_over_the_policys() -> None:
    """Three of the policy's with errors 1, 2, 3 and one of the expert's with 4; the second critic has none but 1."""
    q, target = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0]]), torch.zeros(4)
    assert lsiq_loss(q, target, 3).item() == pytest.approx((1 + 4 + 9) / 3 + 16 + 1)


def test_on_a_table_the_least_loss_is_the_bounded_reward_of_the_two_densities() -> None:
    """With targets r + y kept fixed, Q - y is (1/c) (d_E - d_P) / (d_E + d_P): three states, their steps counted."""
    own, theirs = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 1, 1])
    table, values = hp(expert_target="bootstrap", regulariser=0.5), torch.tensor([3.0, -2.0, 1.0])
    rows = torch.cat([own, theirs])
    target = lsiq_targets(values[rows], torch.zeros(12, dtype=torch.bool), 6, table)
    q = torch.zeros(3, requires_grad=True)
    for _ in range(300):
        (gradient,) = torch.autograd.grad(lsiq_loss(q[rows].unsqueeze(0), target, 6), q)
        q = (q - 0.5 * gradient).detach().requires_grad_()
    d_own, d_theirs = (torch.bincount(part, minlength=3) / 6 for part in (own, theirs))
    torch.testing.assert_close(q.detach() - 0.5 * values, 2 * (d_theirs - d_own) / (d_theirs + d_own))


IQ = {
    ("value", "both", True): 0.875 + 0.25 * (1 + 0.5 * 4 + 9 + 0.5 * 16) / 4,
    ("value_expert", "both", True): 2.0 + 0.25 * 20 / 4,
    ("v0", "both", True): 0.5 * 2.0 + 0.25 * 20 / 4,
    ("value", "expert", True): 0.875 + 0.25 * (9 + 0.5 * 16) / 2,
    ("value", "both", False): 0.875 + 0.25 * 30 / 4,
}


@pytest.mark.parametrize(("gain", "regularised", "absorbing"), IQ)
def test_the_loss_of_iq_learn_equals_a_hand_computation(gain: str, regularised: str, absorbing: bool) -> None:
    """Rewards 1, 2 of the policy and 3, 4 of the expert; values less what follows -1, 0.5 and 1.5, 2.5."""
    y = torch.tensor([1.0, 0.0, -1.0, 1.0])
    q, v = (y + torch.tensor([part]) for part in ([1.0, 2.0, 3.0, 4.0], [-1.0, 0.5, 1.5, 2.5]))
    assert v[0, 2:].tolist() == [0.5, 3.5]
    chosen = hp(iq_value=gain, iq_regularised=regularised, absorbing=absorbing)
    assert iq_loss(q, v, y, ENDED, 2, chosen).item() == pytest.approx(-3.5 + IQ[gain, regularised, absorbing])
    twice = iq_loss(q.expand(2, -1), v.expand(2, -1), y, ENDED, 2, chosen).item()
    assert twice == pytest.approx(2 * (-3.5 + IQ[gain, regularised, absorbing]))


# --- the critic's step -----------------------------------------------------------------------------------------------


def slow(batch: Transitions, agent: Agent, seed: int) -> dict[str, Tensor]:
    """What the losses are made of, from the batch's halves one after the other, with the noise of one batch."""
    algorithm: Any = agent.algorithm
    generator, policy = seeded(seed), agent.policy
    with torch.no_grad():
        decision = policy(batch.view)
        u, log_prob = decision.rsample_with_log_prob(generator)
        then, later = policy(batch.successor(policy, decision.carry)).rsample_with_log_prob(generator)
    value = algorithm.target_critic.module(batch.next_critic_view, then).min(0).values - 0.7 * later[:, 0]
    return {
        "value": value,
        "q": agent.critic(batch.critic_view, batch.u),
        "v": agent.critic(batch.critic_view, u) - 0.7 * log_prob[:, 0],
    }


@pytest.mark.parametrize("loss", ["lsiq", "iq"])
@pytest.mark.parametrize("method", ["none", "bptt5", "s2pg"])
def test_the_critics_gradient_is_that_of_the_loss_on_both_halves(method: str, loss: str) -> None:
    config = imitating(method, imitation_loss=loss, critics=2)
    agent = imitator(config)
    batch = agent.algorithm.sample(seeded(0))
    with held(agent.algorithm) as found:
        logs = agent.algorithm.learn(batch, seeded(1))
    parts = slow(batch, agent, 1)
    y = 0.99 * torch.where(batch.terminated, 0.0, parts["value"])
    own = slice(48)
    assert batch.own == 48
    assert len(batch.u) == 88
    assert batch.terminated[:48].any()
    assert batch.terminated[48:].any()
    if loss == "lsiq":
        low = torch.where(batch.terminated, -200.0, -2 + y)[own]
        expected = (parts["q"][:, own] - low).square().mean(1) + (parts["q"][:, 48:] - 200).square().mean(1)
    else:
        reward, weight = parts["q"] - y, torch.where(batch.terminated, 0.01, 1.0)
        expected = (parts["v"] - y).mean(1) - reward[:, 48:].mean(1) + 0.5 * (weight * reward**2).mean(1)
    assert logs["loss/value"].item() == pytest.approx(expected.sum().item(), rel=1e-4)
    gradients = torch.autograd.grad(expected.sum(), list(agent.critic.parameters()), allow_unused=True)
    assert config.hparams.regulariser == 0.5
    for ours, theirs in zip(found["value"], gradients, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("clip", [True, False])
def test_the_value_of_what_follows_is_clipped(clip: bool) -> None:
    """A target critic that says 1000 everywhere: targets of the policy's steps are -2 + 0.99 * 200, or of 1000."""
    agent = imitator(imitating(clip_target=clip, temperature=1e-6))
    with torch.no_grad():
        for critic in (agent.algorithm.target_critic.module, agent.critic):
            critic.heads[0][-1].weight.zero_()
            critic.heads[0][-1].bias.fill_(1000.0)
    batch = agent.algorithm.sample(seeded(0))
    logs = agent.algorithm.learn(batch._replace(terminated=torch.zeros_like(batch.terminated)), seeded(1))
    follows = 0.99 * (200.0 if clip else 1000.0)
    assert logs["value/clipped"] == 1
    assert logs["value/policy"].item() == pytest.approx(1000.0, abs=0.1)
    assert logs["reward/expert"].item() == pytest.approx(1000.0 - follows, abs=0.1)
    assert logs["loss/value"].item() == pytest.approx(800.0**2 + (1000 + 2 - follows) ** 2, rel=1e-4)


def test_rewards_are_not_read() -> None:
    agents = [imitator(imitating()) for _ in range(2)]
    agents[1].algorithm.replay.reward.fill_(1e6)
    for agent in agents:
        learned(agent, 3)
    assert same_bits(agents[0].critic.state_dict(), agents[1].critic.state_dict())


# --- policy and temperatures -----------------------------------------------------------------------------------------


def test_the_policy_learns_from_the_states_of_both_and_the_temperatures_from_its_own() -> None:
    agent = imitator(imitating())
    batch = agent.algorithm.sample(seeded(0))
    with held(agent.algorithm) as found:
        agent.algorithm.learn(batch, seeded(1))
    u, log_prob = agent.policy(batch.view).rsample_with_log_prob(seeded(1))
    loss = 0.7 * log_prob[:, 0] + 0.2 * log_prob[:, 1] - agent.critic(batch.critic_view, u)[0]
    parameters = [p for p in agent.policy.parameters() if p.requires_grad]
    for ours, theirs in zip(found["policy"], torch.autograd.grad(loss.mean(), parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    expected = -(log_prob[:48].detach().mean(0) + agent.algorithm.target_entropy)
    torch.testing.assert_close(torch.stack(found["temperature"]), expected, **CLOSE)


@pytest.mark.parametrize("loss", ["lsiq", "iq"])
@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("method", [*METHODS, "bptt32"])
def test_every_parameter_of_every_method_learns(method: str, sight: str, loss: str) -> None:
    """And the policy's loss reaches no critic."""
    sight = "oracle" if method == "oracle" else sight
    agent = imitator(imitating(method, sight, imitation_loss=loss, batch=150, expert_batch=150))
    batch = agent.algorithm.sample(seeded(0))
    with held(agent.algorithm) as found:
        logs = agent.algorithm.learn(batch, seeded(1))
    for name in ("value", "policy"):
        assert all((gradient != 0).any() for gradient in found[name])
    agent.algorithm.learn(batch, seeded(1))
    assert same_bits([p.grad for p in agent.critic.parameters()], found["value"])
    assert all(value.isfinite() for value in logs.values())


# --- the expert's steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_holds_the_policys_steps_and_then_the_experts(method: str) -> None:
    """As if each half had been read by itself; the expert's actions are those of its episodes."""
    algorithm: Any = imitator(imitating(method, None if method == "oracle" else "blind")).algorithm
    assert isinstance(algorithm, LSIQ)
    batch, generator = algorithm.sample(seeded(0)), seeded(0)
    halves = [algorithm.sampler(generator), algorithm.expert_sampler(generator)]
    own = batch.own
    assert own == len(halves[0].u)
    for name in ("u", "reward", "terminated", "next_obs", "rows"):
        assert torch.equal(getattr(batch, name), torch.cat([getattr(half, name) for half in halves]))
    for name in ("view", "critic_view", "next_critic_view"):
        for i, part in enumerate(View._fields):
            column = getattr(batch, name)[i]
            if column is not None:
                assert torch.equal(column, torch.cat([getattr(half, name)[i] for half in halves])), (name, part)
    assert torch.equal(batch.u[own:, :2], algorithm.expert.action[batch.rows[own:]])
    assert 30 < len(batch.u) - own <= 80


def test_to_s2pg_a_step_of_the_experts_is_one_of_the_augmented_mdp() -> None:
    """x = (o, z), u = (a, z'), x' = (o', z'), with the memory that its policy has there."""
    agent = imitator(imitating("s2pg", "privileged"))
    batch, replay = agent.algorithm.sample(seeded(0)), agent.algorithm.expert
    rows = batch.rows[batch.own :]
    assert torch.equal(batch.u[batch.own :], torch.cat([replay.action[rows], replay.z[rows + 1]], -1))
    for view, at in ((batch.critic_view, rows), (batch.next_critic_view, rows + 1)):
        assert torch.equal(view.obs[batch.own :, 0], torch.cat([replay.obs["state"][at], replay.z[at]], -1))
    assert torch.equal(batch.view.obs[batch.own :, 0], replay.obs["obs"][rows])
    assert torch.equal(batch.view.z[batch.own :], replay.z[rows])
    following = batch.successor(agent.policy, torch.zeros(len(batch.u), 0))
    assert torch.equal(following.obs[batch.own :, 0], replay.obs["obs"][rows + 1])
    assert torch.equal(following.z[batch.own :], replay.z[rows + 1])


@pytest.mark.parametrize("method", ["s2pg", "bptt5", "bptt32_all"])
def test_the_initial_memory_of_the_experts_steps_is_the_policys_along_its_episodes(method: str) -> None:
    """Read step by step, one episode after the other; noise is too small to matter."""
    agent = build(imitating(method, memory_sigma="fixed", sigma_memory=1e-9), BOX, expert())
    replay: Replay = agent.algorithm.expert
    z, episodes = agent.policy.memory.initial(1), 0
    for row in replay.valid.nonzero().flatten():
        start = replay.position[row : row + 1] == 0
        episodes += int(start)
        z = torch.where(start, 0.0, z)
        torch.testing.assert_close(replay.z[row : row + 1], z, rtol=1e-4, atol=1e-5)
        z = agent.policy.act(replay.obs["obs"][row : row + 1], start, z, "mean")[1]
        torch.testing.assert_close(replay.z[row + 1 : row + 2], z, rtol=1e-4, atol=1e-5)
    assert episodes > 3
    assert replay.z.abs().max() > 0.1


def test_what_is_handed_in_is_not_changed() -> None:
    """Two agents may learn from one expert; each has a memory of its own in it."""
    lent = expert()
    before = lent.state_dict()
    one, two = (build(imitating(), BOX, lent) for _ in range(2))
    one.algorithm.expert.relabel(torch.tensor([3]), torch.ones(1, 6))
    assert same_bits(before, lent.state_dict())
    assert not torch.equal(one.algorithm.expert.z, two.algorithm.expert.z)


@pytest.mark.parametrize("method", ["s2pg", "bptt5", "bptt32_all", "none", "window5"])
@pytest.mark.parametrize("refresh", [True, False])
def test_refreshing_renews_the_memory_of_the_experts_steps_and_nothing_else(method: str, refresh: bool) -> None:
    """With what today's policy makes of them: decided anew, or its memory's next state. Starts stay at zero."""
    agent = imitator(imitating(method, refresh=refresh))
    algorithm: Any = agent.algorithm
    replay: Replay = algorithm.expert
    batch, before = algorithm.sample(seeded(0)), replay.state_dict()
    with torch.no_grad():
        decision = agent.policy(batch.view)
        fresh = agent.policy.remember(decision, decision.rsample(seeded(1)))
    algorithm.learn(batch, seeded(1))
    after = replay.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key != "z")
    if not refresh or method in ("none", "window5"):
        assert torch.equal(after["z"], before["z"])
        return
    last = {int(row): i for i, row in enumerate(batch.rows) if i >= batch.own}  # a step may be drawn twice
    rows, index = torch.tensor(list(last)), torch.tensor(list(last.values()))
    torch.testing.assert_close(replay.z[rows + 1], fresh[index], **CLOSE)
    others = torch.ones(len(after["z"]), dtype=torch.bool)
    others[rows + 1] = False
    assert torch.equal(after["z"][others], before["z"][others])
    starts = replay.valid & (replay.position == 0)
    assert (replay.z[starts] == 0).all()


def test_refreshing_leaves_the_policys_own_memory_alone_where_it_is_not_decided_on() -> None:
    agent = imitator(imitating("bptt5", refresh=True))
    before = agent.algorithm.replay.state_dict()
    learned(agent, 3)
    assert same_bits(before, agent.algorithm.replay.state_dict())


# --- in training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_agent_learns_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    config = imitating(method, refresh=True)
    agent = imitator(config)
    learned(agent, 4)
    other = restored(agent, build(replace(config, seed=5), BOX, expert()), tmp_path)
    for one in (agent, other):
        learned(one, 4, seed=3)
    assert same_bits(agent.state_dict(), other.state_dict())
    assert "expert_z" not in agent.state_dict(resumable=False)["algorithm"]


def test_retracing_is_repeatable_and_follows_the_policy() -> None:
    agent = imitator(imitating())
    replay, found = agent.algorithm.expert, []
    for seed in (4, 4, 5):
        retrace(agent.policy, replay, "obs", seeded(seed))
        found.append(replay.z)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("method", "lr_policy", "previous_action", "critic"),
    [
        ("s2pg", 1e-4, False, [[256, 128], [128]]),
        ("bptt5", 3e-5, True, [[], [256, 256]]),
        ("none", 1e-4, False, [[], [256, 256]]),
    ],
)
def test_profile_reference_has_the_launchers_values(
    method: str, lr_policy: float, previous_action: bool, critic: list[list[int]]
) -> None:
    values = hparams("lsiq", "reference", method, "HopperV")
    assert (values["lr_policy"], values["previous_action"]) == (lr_policy, previous_action)
    assert [values["value_encoder"], values["value_head"]] == critic
    shared = {"regulariser": 0.5, "batch": 256, "expert_batch": 256, "warmup_policy": 26000, "tau": 0.005, "critics": 1}
    assert {key: values[key] for key in shared} == shared


def test_profile_matched_differs_in_the_policys_head_and_in_what_s2pg_alone_reads() -> None:
    found = {m: hparams("lsiq", "matched", m, "HopperV") for m in METHODS}
    same = {"policy_head": [128], **DECIDED}
    assert all({**values, **same} == {**found["s2pg"], **same} for values in found.values())
    sac = hparams("sac", "matched", "s2pg", "HopperV")
    assert {key: found["s2pg"][key] for key in sac} == sac


# --- it learns -------------------------------------------------------------------------------------------------------

STEPS, OPTIONS = 4500, {"max_episode_steps": 200}
QUICK = {  # of the profile `matched`, with networks and batches that a test has time for
    "gamma": 0.95,
    "tau": 0.01,
    "num_envs": 2,
    "rollout": 4,
    "updates": 2,
    "warmup": 500,
    "warmup_policy": 500,
    "batch": 64,
    "expert_batch": 64,
    "temperature": 0.1,
    "target_entropy": -1.0,
    "temperature_memory": 0.3,  # as SAC's
    "target_entropy_memory": -1.0,
    "lr_policy": 1e-3,
    "lr_value": 1e-3,
    "lr_temperature": 1e-3,
    "memory_size": 16,
    "features": 64,
    "policy_head": [64],
    "value_head": [64, 64],
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_s2pg_imitates_an_expert_that_sees_velocities(seed: int) -> None:
    """InvertedPendulum balanced from positions: at least 0.8 of the return of five episodes' expert."""
    task, method = "InvertedPendulumV", "s2pg"
    expert, best = demonstrated(task, OPTIONS, restless(balance, 0.5), 5)
    config = configuration(task, method, "matched", "lsiq", "privileged", changes=QUICK, seed=seed)
    config = replace(config, task_options=OPTIONS)
    agent, generator = build(config, worlds.spec(task, OPTIONS), expert), seeded(seed)
    loop = collector(agent, config, seed)
    for _ in range(STEPS // config.hparams.rollout):
        agent.algorithm.update(loop.collect(2, generator, Stopwatch()), generator)
    envs = [worlds.make(task, OPTIONS) for _ in range(10)]
    found = evaluate(agent, envs, range(1000, 1010), "mean", 7)
    assert best == 200
    assert sum(episode.ret for episode in found) / len(found) >= 0.8 * best
