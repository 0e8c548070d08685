"""TD3: equations by hand, noise and ranges per group, S2PG as the plain algorithm on the augmented MDP."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2pg.algorithms.td3 import smoothed, target_value
from s2pg.data.rollout import Stopwatch
from s2pg.hyperparameters import TD3Config
from s2pg.nets import CELLS
from s2pg.policy import Clamp, Decision, Shape
from s2pg.training import worlds
from s2pg.training.agent import Agent
from s2pg.types import View
from tests.helpers import collector, same_bits, seeded, unread
from tests.offpolicy import (
    CLOSE,
    HIGH,
    LOW,
    Augmented,
    Flat,
    agent_of,
    experienced,
    flat,
    held,
    learned,
    played,
    small,
)

HALF = (HIGH - LOW) / 2

# --- the target ------------------------------------------------------------------------------------------------------


def test_the_target_equals_a_hand_computation() -> None:
    """First: 1 + 0.5 min(4, 3); second: terminated, so 2; third: truncated or not, 3 + 0.5 min(-1, 8)."""
    target = target_value(
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([False, True, False]),
        torch.tensor([[4.0, 7.0, -1.0], [3.0, 8.0, 8.0]]),
        gamma=0.5,
    )
    torch.testing.assert_close(target, torch.tensor([2.5, 2.0, 2.5]))


def test_the_target_of_a_terminated_step_is_its_reward_and_a_truncated_one_bootstraps() -> None:
    agent = experienced(small("td3", batch=400))
    algorithm = agent.algorithm
    batch = algorithm.sampler(seeded(0))
    target = algorithm.target(batch, seeded(1))
    assert batch.terminated.any()
    assert torch.equal(target[batch.terminated], batch.reward[batch.terminated])
    truncated = ~algorithm.replay.valid[algorithm.replay.next(batch.rows)] & ~batch.terminated
    assert truncated.any()
    assert (target != batch.reward)[truncated].all()


def test_the_target_is_of_the_target_policy() -> None:
    """Changing the policy moves nothing in it, changing its target does; for every kind of memory."""
    for method in ("none", "window5", "bptt5", "s2pg"):
        agent = experienced(small("td3", method))
        batch = agent.algorithm.sampler(seeded(0))
        before = agent.algorithm.target(batch, seeded(1))
        for parameter in agent.policy.parameters():
            parameter.data += 0.1
        assert torch.equal(agent.algorithm.target(batch, seeded(1)), before)
        for parameter in agent.algorithm.targets["policy"].module.parameters():
            parameter.data += 0.1
        assert not torch.equal(agent.algorithm.target(batch, seeded(1)), before)


# --- noise and ranges ------------------------------------------------------------------------------------------------


def test_smoothing_noise_is_cut_off_per_group_and_ends_inside_the_range() -> None:
    """Noise of a within +-0.2 around 0, of z' within +-0.05; then actions within [-1, 0.1], and z' within [-1, 1]."""
    n = 20_000
    sigma, limit = torch.tensor([0.3, 0.3, 0.1, 0.1]), torch.tensor([0.2, 0.2, 0.05, 0.05])
    shape = Shape(Clamp(torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 0.1])), Clamp(-1.0, 1.0))
    mean = torch.tensor([0.0, 0.0, 0.0, 0.98]).expand(n, -1)
    u = smoothed(Decision(mean, torch.zeros(4), 2, mean[:, 2:], shape), sigma, limit, seeded(0))
    least, most = u.min(0).values, u.max(0).values
    torch.testing.assert_close(least, torch.tensor([-0.2, -0.2, -0.05, 0.93]))
    torch.testing.assert_close(most, torch.tensor([0.2, 0.1, 0.05, 1.0]))
    inside = u[:, 0].abs() < 0.2
    share = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(2 / 3)) * 2 - 1
    assert inside.float().mean().item() == pytest.approx(share.item(), abs=0.02)
    correlation = torch.corrcoef(u[:, [0, 2]].T)[0, 1]
    assert abs(correlation) < 0.03, "noise of every number is its own"


def test_smoothing_and_exploration_are_in_units_of_half_the_action_range() -> None:
    """An action range of [-1, 3] x [0.5, 2.5]; z' has no unit."""
    noise = {
        "smoothing_action": 0.2,
        "smoothing_action_clip": 0.5,
        "smoothing_memory": 0.1,
        "smoothing_memory_clip": 0.3,
    }
    agent = agent_of(small("td3", sigma_action=0.25, sigma_memory=0.4, **noise))
    ones = torch.ones(6)
    torch.testing.assert_close(agent.algorithm.sigma, torch.cat([0.2 * HALF, 0.1 * ones]))
    torch.testing.assert_close(agent.algorithm.limit, torch.cat([0.5 * HALF, 0.3 * ones]))
    torch.testing.assert_close(agent.policy.spread.exp(), torch.cat([0.25 * HALF, 0.4 * ones]))


def views(agent: Agent, n: int = 3000, scale: float = 3.0) -> View:
    generator = seeded(4)
    z = 2 * torch.rand(n, agent.policy.memory.size, generator=generator) - 1
    return View(scale * torch.randn(n, 1, 5, generator=generator), torch.zeros(n, 1, dtype=torch.bool), z)


@pytest.mark.parametrize("cell", CELLS)
def test_every_decision_respects_the_range(cell: str) -> None:
    """Acting with and without noise, and the smoothed target: an action range that is not symmetric, and the cell's.

    A cell without bounds (LSTM, diagonal) has its z' left as it is.
    """
    agent = agent_of(
        small(
            "td3",
            memory={"cell": cell},
            sigma_action=0.5,
            sigma_memory=0.8,
            smoothing_memory=0.8,
            smoothing_memory_clip=0.9,
            smoothing_action=0.5,
        )
    )
    policy, algorithm, view = agent.policy, agent.algorithm, views(agent)
    for parameter in policy.head.parameters():
        parameter.data *= 5.0
    bounded = cell in ("gru", "gru_cleared", "rnn")
    with torch.no_grad():
        decision = policy(view)
        mean, noisy, smooth = (
            policy.act(view.obs[:, 0], view.start[:, 0], view.z, "mean")[0],
            policy.act(view.obs[:, 0], view.start[:, 0], view.z, "sample", seeded(1))[0],
            smoothed(decision, algorithm.sigma, algorithm.limit, seeded(1)),
        )
    for u in (mean, noisy, smooth):
        assert ((u[:, :2] >= LOW) & (u[:, :2] <= HIGH)).all()
    for u in (noisy, smooth):
        assert ((u[:, :2] == LOW) | (u[:, :2] == HIGH)).any(0).all(), "noise led beyond it"
        assert (u[:, 2:].abs().max() <= 1) == bounded
        assert (u[:, 2:].abs() == 1).any() == bounded
    torch.testing.assert_close(mean[:, 2:], decision.carry)
    assert mean[:, 0].min() < LOW[0] + 0.3
    assert mean[:, 0].max() > HIGH[0] - 0.3
    if not bounded:
        torch.testing.assert_close(noisy[:, 2:] - decision.mean[:, 2:], _noise(decision)[:, 2:])


def _noise(decision: Decision) -> Tensor:
    return decision.log_sigma.exp() * torch.randn(decision.mean.shape, generator=seeded(1))


def test_what_is_stored_and_executed_lies_in_the_range() -> None:
    """Acting in a task whose environment would not mind: actions of InvertedPendulumV are within +-3."""
    config = small("td3", task="InvertedPendulumV", sigma_action=2.0, sigma_memory=2.0)
    agent = agent_of(config, worlds.spec(config.task, config.task_options))
    u = collector(agent, config).collect(30, seeded(0), Stopwatch()).u
    assert (u[..., 0].abs() <= 3).all()
    assert (u[..., 0].abs() == 3).any()
    assert (u[..., 1:].abs() <= 1).all()
    assert (u[..., 1:].abs() == 1).any()


@pytest.mark.parametrize("method", ["none", "s2pg"])
def test_exploration_noise_is_fixed(method: str) -> None:
    agent = experienced(small("td3", method, delay=1, lr_policy=0.01))
    before = agent.policy.spread.clone()
    learned(agent, 5)
    assert torch.equal(agent.policy.spread, before)
    assert not agent.policy.log_sigma.requires_grad


# --- the theorem -----------------------------------------------------------------------------------------------------


class Plain:
    """TD3 of a stateless policy, from the equations: none of the suite's targets, noise or clipping."""

    def __init__(self, twin: Augmented, hp: TD3Config, low: Tensor, high: Tensor, bounded: bool) -> None:
        self.policy, self.hp, self.critics = twin.policy, hp, twin.critic.heads
        self.target_policy, self.targets = copy.deepcopy(twin.policy), copy.deepcopy(self.critics)
        self.actions, size, half = len(low), twin.policy.inner.memory.size, (high - low) / 2
        free = torch.full((size,), 1.0 if bounded else torch.inf)
        self.low, self.high = torch.cat([low, -free]).double(), torch.cat([high, free]).double()
        ones = torch.ones(size)
        self.sigma = torch.cat([hp.smoothing_action * half, hp.smoothing_memory * ones])
        self.limit = torch.cat([hp.smoothing_action_clip * half, hp.smoothing_memory_clip * ones])
        self.optimisers = {
            "value": torch.optim.Adam(self.critics.parameters(), hp.lr_value),
            "policy": torch.optim.Adam([p for p in self.policy.parameters() if p.requires_grad], hp.lr_policy),
        }
        self.updates = 0

    def value_loss(self, batch: Flat, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            mean = self.clip(self.target_policy.parts(batch.following)[0])
            noise = self.sigma * torch.randn(mean.shape, generator=generator)
            u = self.clip(mean + torch.where(noise.abs() > self.limit, noise.sign() * self.limit, noise))
            q = torch.minimum(*(self.q(one, batch.following, u) for one in self.targets))
            target = torch.where(batch.terminated, batch.reward, batch.reward + self.hp.gamma * q)
        first, second = (nn.functional.mse_loss(self.q(one, batch.x, batch.u), target) for one in self.critics)
        return first + second

    def policy_loss(self, batch: Flat) -> Tensor:
        u = self.clip(self.policy.parts(batch.x)[0])
        first, second = (self.q(one, batch.x, u).mean() for one in self.critics)
        return -(first + second) / 2

    def learn(self, batch: Flat, generator: torch.Generator) -> None:
        self.updates += 1
        self.step("value", self.value_loss(batch, generator))
        if self.updates % self.hp.delay == 0:
            self.step("policy", self.policy_loss(batch))
        for target, source in ((self.targets, self.critics), (self.target_policy, self.policy)):
            for p, q in zip(target.parameters(), source.parameters(), strict=True):
                p.data = (1 - self.hp.tau) * p.data + self.hp.tau * q.data

    def step(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad()
        loss.backward()
        self.optimisers[name].step()
        for one in self.optimisers.values():
            one.zero_grad()

    def clip(self, u: Tensor) -> Tensor:
        return u.clip(self.low, self.high)

    @staticmethod
    def q(critic: nn.Module, x: Tensor, u: Tensor) -> Tensor:
        return critic(torch.cat([x, u], -1)).squeeze(-1)


VARIANTS: dict[str, dict[str, Any]] = {
    **{f"cell {cell}": {"memory": {"cell": cell}} for cell in CELLS},
    "no delay": {"delay": 1},
    "leak": {"leak": 0.4},
    "encoders": {"value_encoder": (7, 6)},
    "much smoothing": {"smoothing_memory": 0.9, "smoothing_memory_clip": 1.5, "smoothing_action": 1.0},
}


def theorem(variant: str) -> tuple[Agent, Augmented, Plain]:
    noise = {"sigma_action": 1.2, "sigma_memory": 0.3}
    config = small("td3", "s2pg", "InvertedPendulumV", {"max_episode_steps": 5}, **noise, **VARIANTS[variant])
    agent, twin = played(config)
    spec = worlds.spec(config.task, config.task_options)
    low, high = (torch.from_numpy(bound).float() for bound in (spec.low, spec.high))
    return agent, twin, Plain(twin, config.hparams, low, high, config.memory.cell in ("gru", "rnn"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_s2pgs_gradients_are_those_of_plain_td3_on_the_augmented_mdp(variant: str) -> None:
    """Transitions of `AugmentedMDP` in a list, a stateless policy, losses from the equations: the same gradients."""
    agent, twin, plain = theorem(variant)
    batch, algorithm = agent.algorithm.sampler(seeded(5)), agent.algorithm
    algorithm.learned = algorithm.hparams.delay
    with held(algorithm) as found:
        algorithm.learn(batch, seeded(6))
    there = flat(batch, agent, twin)
    losses = {"value": plain.value_loss(there, seeded(6)), "policy": plain.policy_loss(there)}
    for name, network in (("value", plain.critics), ("policy", plain.policy)):
        parameters = [p for p in network.parameters() if p.requires_grad]
        expected = torch.autograd.grad(losses[name], parameters)
        assert len(found[name]) == len(expected)
        for ours, theirs in zip(found[name], expected, strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)
        assert sum(not g.any() for g in expected) == unread(network), "and every other parameter has one"


@pytest.mark.parametrize("variant", VARIANTS)
def test_s2pg_learns_what_plain_td3_learns_on_the_augmented_mdp(variant: str) -> None:
    """Networks and both targets after six updates, of batches that plain TD3 takes from its own lists."""
    agent, twin, plain = theorem(variant)
    algorithm, before = agent.algorithm, copy.deepcopy(agent.policy.state_dict())
    for k in range(6):
        batch = algorithm.sampler(seeded(10 + k))
        plain.learn(flat(batch, agent, twin), seeded(20 + k))
        algorithm.learned += 1
        algorithm.learn(batch, seeded(20 + k))
    for ours, theirs in (
        (agent.policy, plain.policy),
        (agent.critic.heads, plain.critics),
        (algorithm.target_critic.module.heads, plain.targets),
        (algorithm.target_policy.module, plain.target_policy),
    ):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=5e-5)
    moved = max((value - before[key]).abs().max() for key, value in agent.policy.state_dict().items())
    assert moved > 2e-3


# --- delay, refresh --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_the_policy_learns_at_every_so_many_updates_of_the_critic(delay: int) -> None:
    agent, changed = experienced(small("td3", delay=delay)), []
    for _ in range(6):
        before = copy.deepcopy((agent.policy.state_dict(), agent.critic.state_dict()))
        logs = learned(agent)
        changed.append(not same_bits(before[0], agent.policy.state_dict()))
        assert ("loss/policy" in logs) == changed[-1]
        assert not same_bits(before[1], agent.critic.state_dict())
    assert changed == [(k + 1) % delay == 0 for k in range(6)]


def test_refreshing_relabels_the_batch_with_exploring_decisions() -> None:
    """When the policy learns, z' of the batch's steps become its noisy decisions, inside the cell's range."""
    agent = experienced(small("td3", refresh=True, delay=1, sigma_memory=0.6))
    algorithm, replay = agent.algorithm, agent.algorithm.replay
    before, batch, generator = replay.state_dict(), algorithm.sampler(seeded(0)), seeded(1)
    with torch.no_grad():
        torch.randn(batch.u.shape, generator=generator)  # of the target's smoothing
        fresh = agent.policy(batch.view).rsample(generator)[:, 2:]
    algorithm.learned = 1
    algorithm.learn(batch, seeded(1))
    after = replay.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key != "z")
    last = {int(row): i for i, row in enumerate(batch.rows)}
    rows, index = torch.tensor(list(last)), torch.tensor(list(last.values()))
    torch.testing.assert_close(after["z"][replay.next(rows)], fresh[index])
    assert (after["z"].abs() <= 1).all()
    others = torch.ones(len(after["z"]), dtype=torch.bool)
    others[replay.next(rows)] = False
    assert torch.equal(after["z"][others], before["z"][others])


@pytest.mark.parametrize(("method", "refresh"), [("s2pg", False), ("none", True), ("bptt5", True)])
def test_without_refresh_or_without_a_decided_memory_the_replay_is_left_alone(method: str, refresh: bool) -> None:
    agent = experienced(small("td3", method, refresh=refresh, delay=1))
    before = agent.algorithm.replay.state_dict()
    learned(agent, 3)
    assert same_bits(before, agent.algorithm.replay.state_dict())


def test_the_gradient_in_the_next_memory_is_the_critics() -> None:
    """d loss / d z' = -mean_e dQ_e / dz' / n: the learned costate is all that the cell hears, beside the action's."""
    agent = experienced(small("td3", delay=1))
    batch = agent.algorithm.sampler(seeded(0))
    decision = agent.policy(batch.view)
    u = decision.mode.detach().requires_grad_()
    q = agent.critic(batch.critic_view, u).mean()
    costate = torch.autograd.grad(q, u)[0]
    parameters = [p for p in agent.policy.parameters() if p.requires_grad]
    expected = torch.autograd.grad(decision.mode, parameters, -costate)
    agent.algorithm.learned = 1
    with held(agent.algorithm) as found:
        agent.algorithm.learn(batch, seeded(1))
    for ours, theirs in zip(found["policy"], expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
