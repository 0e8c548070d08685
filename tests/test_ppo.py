"""PPO: the equations by hand, S2PG as the stateless algorithm on the augmented MDP, and gradients that are right."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from envs.augmented import AugmentedMDP
from envs.diagnostics import LinearSystem
from s2pg.algorithms.finite import Diverged
from s2pg.algorithms.ppo import PPO, Batch, Terms, advantages, diagnostics, surrogate
from s2pg.config import ConfigError, RunConfig, load_experiment, methods
from s2pg.critic import Critic
from s2pg.data.normaliser import Normaliser
from s2pg.data.rollout import Collector, Rollout, Stopwatch
from s2pg.data.sequences import Sequences, cut
from s2pg.memory import Memory, NoMemory, Recurrent
from s2pg.nets import CELLS
from s2pg.policy import Decision, Policy
from s2pg.training import worlds
from s2pg.types import View, Width
from tests.helpers import collect, same_bits, seeded, tiny, tiny_agent, unread

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


# --- generalised advantage estimation --------------------------------------------------------------------------------


def gae(terminated: list[int], done: list[int]) -> Tensor:
    """Four steps of one environment with gamma 0.5 and lambda 0.8."""
    reward, value, next_value = (
        torch.tensor(x).unsqueeze(1)
        for x in ([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0], [20.0, 30.0, 100.0, 50.0])
    )
    flags = (torch.tensor(x).bool().unsqueeze(1) for x in (terminated, done))
    return advantages(reward, value, next_value, *flags, gamma=0.5, lam=0.8).squeeze(1)


def test_advantages_equal_a_hand_computation() -> None:
    """delta = (1 + 10 - 10, 2 + 15 - 20, 3 + 50 - 30, 4 + 25 - 40) = (1, -3, 23, -11), factor 0.4.

    A3 = -11;  A2 = 23 - 4.4 = 18.6;  A1 = -3 + 7.44 = 4.44;  A0 = 1 + 1.776 = 2.776.
    """
    torch.testing.assert_close(gae([0, 0, 0, 0], [0, 0, 0, 0]), torch.tensor([2.776, 4.44, 18.6, -11.0]))


def test_truncation_bootstraps_termination_does_not() -> None:
    """The episode ends at t = 2. Truncated: A2 = 3 + 0.5 * 100 - 30 = 23. Terminated: A2 = 3 - 30 = -27.

    Either way nothing of the next episode flows back: A1 = -3 + 0.4 A2 and A3 = -11 is not part of A2.
    """
    truncated, terminated = gae([0, 0, 0, 0], [0, 0, 1, 0]), gae([0, 0, 1, 0], [0, 0, 1, 0])
    torch.testing.assert_close(truncated, torch.tensor([1 + 0.4 * 6.2, 6.2, 23.0, -11.0]))
    torch.testing.assert_close(terminated, torch.tensor([1 - 0.4 * 13.8, -13.8, -27.0, -11.0]))


def test_advantages_of_environments_are_their_own() -> None:
    generator = seeded(0)
    reward, value, next_value = (torch.randn(5, 3, generator=generator) for _ in range(3))
    done = torch.rand(5, 3, generator=generator) < 0.3
    terminated = done & (torch.rand(5, 3, generator=generator) < 0.5)
    columns = (reward, value, next_value, terminated, done)
    together = advantages(*columns, gamma=0.9, lam=0.7)
    for n in range(3):
        alone = advantages(*(x[:, n : n + 1] for x in columns), gamma=0.9, lam=0.7)
        torch.testing.assert_close(together[:, n : n + 1], alone)


def test_with_lambda_one_advantages_are_returns_minus_values() -> None:
    reward, value = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[5.0], [6.0], [7.0]])
    ends = torch.tensor([[False], [False], [True]])
    result = advantages(reward, value, torch.cat([value[1:], torch.full((1, 1), 99.0)]), ends, ends, 0.5, 1.0)
    torch.testing.assert_close(result, torch.tensor([[1 + 1 + 1 - 5.0], [2 + 2 - 6.0], [4 - 7.0]]))


# --- the surrogate ---------------------------------------------------------------------------------------------------


def test_surrogate_equals_a_hand_computation() -> None:
    """Ratios 2, 0.5, 1.1, 2, 0.5 with clip 0.2: min(2*1, 1.2*1), min(.5*1, .8*1), 1.1*2, min(2*-1, 1.2*-1), -.8."""
    ratio, advantage = torch.tensor([2.0, 0.5, 1.1, 2.0, 0.5]), torch.tensor([1.0, 1.0, 2.0, -1.0, -1.0])
    expected = -(1.2 + 0.5 + 2.2 - 2.0 - 0.8) / 5
    assert surrogate(ratio.log(), advantage, 0.2).item() == pytest.approx(expected, rel=1e-5)


def test_surrogate_pairs_each_ratio_with_its_own_advantage() -> None:
    """A product of all ratios with all advantages (B x B, a fault of the reference) would not see this permutation."""
    generator = seeded(0)
    log_ratio, advantage = torch.randn(64, generator=generator) / 9, torch.randn(64, generator=generator)
    paired = torch.stack([surrogate(r.view(1), a.view(1), 0.2) for r, a in zip(log_ratio, advantage, strict=True)])
    assert surrogate(log_ratio, advantage, 0.2).item() == pytest.approx(paired.mean().item(), abs=1e-6)
    assert abs(surrogate(log_ratio, advantage.roll(1), 0.2).item() - paired.mean().item()) > 1e-3


def test_the_losses_use_the_joint_ratio_of_action_and_memory_per_sample() -> None:
    """Of a whole minibatch, written anew: mean of min(r A, clip(r) A) with r = pi_now(a, z') / pi_then(a, z')."""
    config = tiny("s2pg", entropy=0.3)
    agent = tiny_agent(config)
    ppo, rollout = agent.algorithm, collect(agent, config, rollouts=2)
    with torch.no_grad():
        batch, _ = ppo.prepare(rollout)
        before = _log_density(agent.policy, batch)
        for parameter in agent.policy.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=seeded(1))
        now = _log_density(agent.policy, batch)
    terms = ppo.losses(batch.take(cut(rollout.start, 1, "last")))
    assert terms.policy.shape == terms.value.shape == ()
    ratio, clip = (now - before).double().exp(), config.hparams.clip
    assert ((ratio - 1).abs() > clip).any()
    total = sum(min(r * a, min(max(r, 1 - clip), 1 + clip) * a) for r, a in zip(ratio, batch.advantage, strict=True))
    entropy = (agent.policy.log_sigma + 0.5 * np.log(2 * np.pi * np.e)).sum()
    assert terms.policy.item() == pytest.approx((-total / len(ratio) - 0.3 * entropy).item(), abs=1e-4)
    value = agent.critic(View(batch.critic_obs[:, None], batch.start[:, None], batch.critic_z))[0]
    assert terms.value.item() == pytest.approx((value - batch.target).square().mean().item(), rel=1e-5)


def _log_density(policy: Policy, batch: Batch) -> Tensor:
    d = policy(View(batch.obs.unsqueeze(1), batch.start.unsqueeze(1), batch.z))
    return torch.distributions.Normal(d.mean, d.log_sigma.exp().expand_as(d.mean)).log_prob(batch.u).sum(-1)


# --- the first pass --------------------------------------------------------------------------------------------------

LEARNING = [name for name in load_experiment("ppo_small").methods if name != "random"]
VARIANTS = {
    **{name: tiny(name) for name in LEARNING},
    "s2pg privileged": replace(tiny("s2pg"), memory=replace(methods()["s2pg"], sight="privileged")),
    "bptt5 privileged": replace(tiny("bptt5"), memory=replace(methods()["bptt5"], sight="privileged")),
    **{f"s2pg {cell}": replace(tiny("s2pg"), memory=replace(methods()["s2pg"], cell=cell)) for cell in CELLS},
    **{f"bptt5 {cell}": replace(tiny("bptt5"), memory=replace(methods()["bptt5"], cell=cell)) for cell in CELLS},
    **{f"{name} on CueRecall": tiny(name, "CueRecall") for name in LEARNING},
    **{f"{name}, one environment": tiny(name, num_envs=1, previous_action=False) for name in LEARNING},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_pass_reproduces_what_acted(variant: str) -> None:
    """Rereading a rollout with the weights that acted, ratios are 1 and values are those the targets were made of.

    It is the second rollout: observations are normalised by statistics that have moved, and memories come from before.
    """
    config = VARIANTS[variant]
    agent = tiny_agent(config)
    rollout = collect(agent, config, rollouts=2)
    ppo, policy = agent.algorithm, agent.policy
    assert agent.normalisers[agent.sight[0]].count == 2 * config.hparams.rollout
    assert rollout.done[:-1].any()
    assert config.task == "CueRecall" or not rollout.start[0].all(), "the rollout begins inside an episode"
    with torch.no_grad():
        batch, _ = ppo.prepare(rollout)
        value = ppo.values(rollout)[0].flatten()
        sequences = cut(rollout.start, policy.memory.context, ppo.loss_on)
        for chosen in (sequences, *sequences.minibatches(12, seeded(0))):
            rows = chosen.rows[chosen.keep]
            terms = ppo.losses(batch.take(chosen))
            torch.testing.assert_close(terms.decision.mean, batch.mean[rows], rtol=1e-4, atol=1e-5)
            assert terms.log_ratio.abs().max() < 1e-4
            again = ppo.critic(batch.take(chosen).critic_view)[0]
            torch.testing.assert_close(again, value[rows], rtol=1e-4, atol=1e-5)
            assert rows.shape == again.shape


def test_stored_log_probabilities_are_those_of_the_decisions_taken() -> None:
    config = tiny("s2pg")
    agent = tiny_agent(config)
    rollout = collect(agent, config)
    with torch.no_grad():
        batch, _ = agent.algorithm.prepare(rollout)
        torch.testing.assert_close(batch.log_prob.sum(-1), _log_density(agent.policy, batch), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(batch.u, rollout.u.flatten(0, 1))
    torch.testing.assert_close(batch.advantage.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(batch.advantage.std(), torch.tensor(1.0), rtol=0, atol=1e-4)


def test_stored_memory_is_data() -> None:
    """No derivative passes through the z of a rollout, and no gradient of the loss needs one."""
    config = tiny("s2pg")
    agent = tiny_agent(config)
    rollout = collect(agent, config)
    for name in ("z", "z_next", "u", "mean", "critic_z"):
        assert not getattr(rollout, name).requires_grad
    with torch.no_grad():
        batch, _ = agent.algorithm.prepare(rollout)
    assert not any(column.requires_grad for column in batch)
    chosen = cut(rollout.start, 1, "last")
    parameters = list(agent.policy.parameters())
    plain = torch.autograd.grad(agent.algorithm.losses(batch.take(chosen)).policy, parameters)
    tracked = batch._replace(z=batch.z.clone().requires_grad_())
    terms = agent.algorithm.losses(tracked.take(chosen))
    assert same_bits(plain, torch.autograd.grad(terms.policy, parameters))


def test_a_loss_that_is_not_finite_is_reported_by_name() -> None:
    config = tiny("s2pg")
    agent = tiny_agent(config)
    rollout = collect(agent, config)
    rollout.reward[3, 1] = float("nan")
    with pytest.raises(Diverged, match="nan"):
        agent.algorithm.update(rollout, seeded(0))


@pytest.mark.parametrize("sigma", [0.6, 20.0])
def test_divergence_before_any_change_is_zero(sigma: float) -> None:
    """With learning rates of nothing, policy and acting policy are one, whatever their standard deviations."""
    config = tiny("s2pg", sigma_action=sigma, lr_policy=1e-30, lr_value=1e-30)
    agent = tiny_agent(config)
    logs = agent.algorithm.update(collect(agent, config, rollouts=2), seeded(0))
    for group in ("action", "memory"):
        assert logs[f"policy/log_ratio/{group}"] < 1e-5
        assert logs[f"policy/kl/{group}"] == pytest.approx(0.0, abs=1e-5)
        assert logs[f"policy/clip_fraction/{group}"] == 0.0


def test_an_odd_memory_of_an_lstm_is_refused_by_name() -> None:
    config = tiny("s2pg", memory_size=5)
    with pytest.raises(ConfigError, match="memory_size"):
        tiny_agent(replace(config, memory=replace(config.memory, cell="lstm")))


def test_diagnostics_equal_a_hand_computation() -> None:
    """Per group: mean |log ratio|, share of ratios outside the clip, KL(acted || now), sigma, entropy."""
    sigma_then, sigma_now = torch.tensor([0.5, 2.0, 2.0]).log(), torch.tensor([1.0, 2.0, 2.0]).log()
    then = Decision(torch.zeros(2, 3), sigma_then, 1, torch.zeros(2, 2))
    now = Decision(torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 0.0]]), sigma_now, 1, torch.zeros(2, 2))
    log_ratio = torch.tensor([[0.1, -0.3], [-0.5, 0.5]])
    logs = diagnostics(Terms(torch.tensor(3.0), torch.tensor(4.0), log_ratio, now), then, clip=0.2)
    expected = {
        "loss/policy": 3.0,
        "loss/value": 4.0,
        "policy/log_ratio/action": 0.3,
        "policy/log_ratio/memory": 0.4,
        "policy/clip_fraction/action": 0.5,  # e^0.1 - 1 = 0.105 within, e^-0.5 - 1 = -0.39 outside
        "policy/clip_fraction/memory": 1.0,
        "policy/clip_fraction/joint": 0.0,  # e^-0.2 - 1 = -0.18, e^0 - 1 = 0
        "policy/kl/action": np.log(2) + 0.5 * (0.25 - 1) + 0.25 * 1.0,  # half of (1 / 1)^2 / 2
        "policy/kl/memory": 0.25,  # half of (2 / 2)^2 / 2
        "policy/sigma/action": 1.0,
        "policy/sigma/memory": 2.0,
        "policy/entropy/action": 0.5 * np.log(2 * np.pi * np.e),
        "policy/entropy/memory": np.log(4) + np.log(2 * np.pi * np.e),
    }
    assert {key: value.item() for key, value in logs.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", LEARNING)
def test_minibatches_hold_every_step_once_with_all_that_belongs_to_it(method: str) -> None:
    """Whichever way they are cut: decisions, advantages and what is read stay together."""
    config = tiny(method)
    agent = tiny_agent(config)
    ppo, rollout = agent.algorithm, collect(agent, config, rollouts=2)
    with torch.no_grad():
        batch, _ = ppo.prepare(rollout)
        sequences = cut(rollout.start, agent.policy.memory.context, ppo.loss_on)
        parts = list(batch.minibatches(sequences, 12, seeded(0)))
        assert len(parts) > 1
        found = []
        for part in parts:
            rows = torch.tensor([(batch.u == u).all(1).nonzero().item() for u in part.u])
            found += rows.tolist()
            for name in ("mean", "log_prob", "advantage", "target"):
                assert torch.equal(getattr(part, name), getattr(batch, name)[rows])
            assert ppo.losses(part).log_ratio.abs().max() < 1e-4
            torch.testing.assert_close(agent.policy(part.view).mean, batch.mean[rows], rtol=1e-4, atol=1e-5)
    assert sorted(found) == list(range(config.hparams.rollout))


def test_gradients_are_clipped_per_network_and_updates_follow_adam() -> None:
    """One minibatch, one pass: Adam's first step on the clipped gradients, written anew.

    Adam is blind to a gradient's scale but for its epsilon of 1e-8; so the limit is of that size.
    """
    config = tiny("s2pg", max_grad_norm=1e-7, passes=1, minibatch=32)
    agent = tiny_agent(config)
    ppo, rollout = agent.algorithm, collect(agent, config, rollouts=2)
    networks = (agent.policy, config.hparams.lr_policy), (agent.critic, config.hparams.lr_value)
    with torch.no_grad():
        batch, _ = ppo.prepare(rollout)
    terms = ppo.losses(batch.take(cut(rollout.start, 1, "last")))
    before = [copy.deepcopy(network.state_dict()) for network, _ in networks]
    gradients = [
        torch.autograd.grad(loss, list(network.parameters()))
        for loss, (network, _) in zip((terms.policy, terms.value), networks, strict=True)
    ]
    logs = ppo.update(rollout, seeded(0))
    for name, old, gradient, (network, rate) in zip(("policy", "value"), before, gradients, networks, strict=True):
        norm = torch.sqrt(sum(g.square().sum() for g in gradient))
        assert norm > 0.001
        assert logs[f"grad_norm/{name}"] == pytest.approx(norm.item(), rel=1e-3)
        for (key, parameter), g in zip(network.named_parameters(), gradient, strict=True):
            g = g * 1e-7 / norm
            torch.testing.assert_close(parameter, old[key] - rate * g / (g.abs() + 1e-8), rtol=0, atol=rate / 50)


# --- the theorem -----------------------------------------------------------------------------------------------------


class Stateless(nn.Module):
    """A policy without memory on the augmented MDP: the same means, of action (a, z'), from observation (o, z)."""

    def __init__(self, inner: Policy, width: Width) -> None:
        super().__init__()
        self.inner, self.memory = inner, NoMemory(width)
        self.actions = inner.actions + inner.memory.size

    @property
    def spread(self) -> Tensor:
        return self.inner.spread

    def forward(self, view: View) -> Decision:
        x, nothing = self.memory.read(*view)
        obs, z = x.split([x.shape[-1] - self.inner.memory.size, self.inner.memory.size], -1)
        cell, embed = self.inner.memory.cell, self.inner.memory.embed
        eta = cell.step(cell.project(embed(obs)), z)
        mu = self.inner.head(torch.cat([embed.skip(obs), cell.output(eta)], -1))
        return Decision(torch.cat([mu, eta], -1), self.spread, self.actions, nothing)

    def remember(self, decision: Decision, u: Tensor) -> Tensor:
        return decision.carry


def augmented_twin(config: RunConfig, agent) -> tuple[PPO, Collector]:
    """The same weights as a stateless policy and its critic, learning on `AugmentedMDP` of the same task."""
    hp, size = config.hparams, agent.policy.memory.size
    width = worlds.spec(config.task, config.task_options).widths["obs"]
    wide = Width(width.env, width.previous_action + size)  # passes the normaliser untouched, as a previous action does
    policy = Stateless(copy.deepcopy(agent.policy), wide)
    critic = Critic(NoMemory(wide), list(hp.value_head), hp.value_gain)
    critic.load_state_dict(agent.critic.state_dict())
    makers = [lambda: AugmentedMDP(worlds.make(config.task, config.task_options), size)] * hp.num_envs
    envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    sight = ("obs", "obs")
    loop = Collector(envs, policy, critic, sight, {"obs": Normaliser(wide, hp.observation_clip)}, torch.device("cpu"))
    return PPO(policy, critic, hp, sight), loop


@pytest.mark.parametrize("cell", CELLS)
def test_s2pg_is_the_stateless_algorithm_on_the_augmented_mdp(cell: str) -> None:
    """Same rollouts, losses, gradients and parameters after updates, episodes that terminate and are truncated."""
    config = tiny("s2pg", "InvertedPendulumV", options={"max_episode_steps": 7}, entropy=0.01, sigma_action=3.0)
    config = replace(config, memory=replace(config.memory, cell=cell))
    agent = tiny_agent(config)
    ours = (
        agent.algorithm,
        Collector(
            worlds.make_vector(config.task, config.task_options, config.hparams.num_envs),
            *(agent.policy, agent.critic, agent.sight, agent.normalisers, agent.device),
        ),
    )
    theirs, ends = augmented_twin(config, agent), torch.zeros(2)
    for _, loop in (ours, theirs):
        loop.reset(3)
    noise, shuffle = [seeded(1), seeded(1)], [seeded(2), seeded(2)]
    for _ in range(3):
        stateful, stateless = (
            loop.collect(config.hparams.rollout // 2, generator, Stopwatch())
            for (_, loop), generator in zip((ours, theirs), noise, strict=True)
        )
        assert_same_rollout(stateful, stateless)
        ends += torch.stack([stateful.terminated.sum(), (stateful.done & ~stateful.terminated).sum()])
        assert_same_gradients(ours[0], stateful, theirs[0], stateless)
        for (ppo, _), rollout, generator in zip((ours, theirs), (stateful, stateless), shuffle, strict=True):
            ppo.update(rollout, generator)
        for p, q in zip(ours[0].policy.parameters(), theirs[0].policy.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        for p, q in zip(ours[0].critic.parameters(), theirs[0].critic.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert (ends > 0).all(), "some episodes terminated and some were truncated"


def assert_same_rollout(stateful: Rollout, stateless: Rollout) -> None:
    joined = torch.cat([stateful.obs["obs"], stateful.z], -1)
    torch.testing.assert_close(joined, stateless.obs["obs"], rtol=1e-3, atol=1e-4)
    joined = torch.cat([stateful.next_obs["obs"], stateful.z_next], -1)
    torch.testing.assert_close(joined, stateless.next_obs["obs"], rtol=1e-3, atol=1e-4)
    for name in ("u", "mean", "reward", "start", "terminated", "done"):
        torch.testing.assert_close(getattr(stateful, name), getattr(stateless, name), rtol=1e-3, atol=1e-4)


def assert_same_gradients(one: PPO, stateful: Rollout, two: PPO, stateless: Rollout) -> None:
    results = []
    for ppo, rollout in ((one, stateful), (two, stateless)):
        with torch.no_grad():
            batch, _ = ppo.prepare(rollout)
        terms = ppo.losses(batch.take(cut(rollout.start, 1, "last")))
        parameters = [*ppo.policy.parameters(), *ppo.critic.parameters()]
        gradients = torch.autograd.grad(terms.policy + terms.value, parameters)
        assert sum(not g.any() for g in gradients) == unread(ppo.policy)
        results.append((terms.policy, terms.value, terms.log_ratio.sum(-1), *gradients))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_no_memory_equals_s2pg_with_zero_memory() -> None:
    """A cell of no units leaves the skip connection, which is then an MLP's first layer; through whole updates."""
    config = tiny("none", previous_action=False, max_grad_norm=0.5)
    width = Width(worlds.spec(config.task).widths["obs"].env, 0)
    hp = config.hparams
    agent = tiny_agent(config)
    memory = Recurrent(width, CELLS["gru"], hidden=0, features=hp.policy_head[0], decides=True)
    policy = Policy(memory, agent.policy.actions, [], (hp.sigma_action, hp.sigma_memory))
    assert (memory.size, memory.decided) == (0, 0)
    with torch.no_grad():
        for target, source in ((memory.embed.bypass, agent.policy.head[0]), (policy.head[0], agent.policy.head[2])):
            target.weight.copy_(source.weight)
            target.bias.copy_(source.bias)
    critic = copy.deepcopy(agent.critic)
    twin = replace(agent, policy=policy, critic=critic, algorithm=PPO(policy, critic, hp, ("obs", "obs")))
    pair = []
    for one in (agent, twin):
        one.normalisers = {"obs": Normaliser(width, hp.observation_clip)}
        rollout = collect(one, config, rollouts=2)
        with torch.no_grad():
            batch, _ = one.algorithm.prepare(rollout)
        loss = one.algorithm.losses(batch.take(cut(rollout.start, 1, "last"))).policy
        one.algorithm.update(rollout, seeded(0))
        pair.append((rollout.u, loss, rollout.reward, one.policy.head[-1].weight, one.policy.log_sigma, one.critic))
    (*first, value), (*second, other_value) = pair
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)
    torch.testing.assert_close(agent.policy.head[0].weight, memory.embed.bypass.weight, **CLOSE)
    for a, b in zip(value.parameters(), other_value.parameters(), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


# --- gradients against the exact expected return ---------------------------------------------------------------------

SYSTEM, HORIZON, MEMORY = LinearSystem.point_mass(dt=1.0), 5, 2
SIGMA = (0.8, 0.7)  # standard deviations of a and z'


class LinearMemory(Memory):
    """z' = K (o, z), decided (S2PG) or deterministic and unrolled (BPTT); the heads read (o, z)."""

    def __init__(self, width: Width, size: int, decides: bool, context: int | None) -> None:
        super().__init__()
        self.size, self.decided, self.context = size, size if decides else 0, context
        self.features = width.total + size
        self.linear = nn.Linear(width.total + size, size, bias=False)

    def read(self, obs: Tensor, start: Tensor, z: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        steps = []
        for t in range(obs.shape[-2]):
            x = torch.cat([obs[..., t, :], torch.where(start[..., t].unsqueeze(-1), 0.0, z)], -1)
            z = self.linear(x)
            steps.append((x, z))
        x, z = (torch.stack(part, -2) for part in zip(*steps, strict=True))
        return (x[..., -1, :], z[..., -1, :]) if keep is None else (x[keep], z[keep])


def linear_policy(decides: bool, context: int | None) -> tuple[Policy, np.ndarray]:
    """A policy (a, z') = K (o, previous action, z) + noise, and K."""
    gains = 0.6 * SYSTEM.optimal_gains(HORIZON)[1]  # far from the optimum, so that the gradient is not small
    memory = LinearMemory(Width(1, 1), MEMORY, decides, context)
    policy = Policy(memory, 1, [], SIGMA)
    policy.head = nn.Linear(2 + MEMORY, 1, bias=False)
    policy.head.weight.data = torch.tensor(gains[:1], dtype=torch.float32)
    memory.linear.weight.data = torch.tensor(gains[1:], dtype=torch.float32)
    return policy, gains


def exact_gradient(gains: np.ndarray, log_sigma: np.ndarray, decides: bool) -> np.ndarray:
    """Central finite differences of the closed-form return in (K, log sigma of what is noisy)."""

    def value(parameters: np.ndarray) -> float:
        K, log_s = parameters[: gains.size].reshape(gains.shape), parameters[gains.size :]
        variance = np.zeros(1 + MEMORY)
        variance[: len(log_s)] = np.exp(2 * log_s)
        return SYSTEM.expected_return(K, HORIZON, np.diag(variance))

    point, h = np.concatenate([gains.ravel(), log_sigma if decides else log_sigma[:1]]), 1e-5
    return np.array([(value(point + d) - value(point - d)) / (2 * h) for d in h * np.eye(len(point))])


def simulate(policy: Policy, episodes: int, generator: torch.Generator) -> Rollout:
    """`episodes` episodes side by side in the linear system, acted by `policy`."""
    A, B, C, Q, R, P, W, V = (torch.tensor(getattr(SYSTEM, name), dtype=torch.float32) for name in "ABCQRPWV")

    def normal(covariance: Tensor) -> Tensor:
        return torch.randn(episodes, len(covariance), generator=generator) @ torch.linalg.cholesky(covariance).T

    s, a, z = normal(P), torch.zeros(episodes, 1), policy.memory.initial(episodes)
    steps, none, never = [], torch.zeros(episodes, 0), torch.zeros(episodes, dtype=torch.bool)
    for t in range(HORIZON):
        obs = torch.cat([s @ C.T + normal(V), a], -1)
        start = torch.full((episodes,), t == 0)
        decision = policy(View(obs.unsqueeze(1), start.unsqueeze(1), z))
        u = decision.rsample(generator)
        z_next = policy.remember(decision, u)
        a = u[:, :1]
        reward = -((s @ Q * s).sum(-1) + (a @ R * a).sum(-1))
        seen = {"obs": obs}
        steps.append(Rollout(seen, seen, start, z, z_next, none, none, u, decision.mean, reward, never, never))
        s, z = s @ A.T + a @ B.T + normal(W), z_next
    return Rollout.stack(steps)


def score_gradients(decides: bool, context: int | None, episodes: int = 300_000, parts: int = 60) -> np.ndarray:
    """Estimates of grad J from the algorithm's own loss at ratio 1, from as many independent parts, `[parts, P]`.

    With returns as advantages the surrogate's gradient is minus the mean over steps of grad log pi(u_t | x_t) R.
    """
    policy, _ = linear_policy(decides, context)
    ppo = PPO(policy, Critic(NoMemory(Width(1, 1)), []), tiny().hparams, ("obs", "obs"))
    generator, rows = seeded(11), []
    with torch.no_grad():
        baseline = simulate(policy, 1000, seeded(12)).reward.mean(1).flip(0).cumsum(0).flip(0).unsqueeze(1)
    for _ in range(parts):
        with torch.no_grad():
            rollout = simulate(policy, episodes // parts, generator)
            to_go = rollout.reward.flip(0).cumsum(0).flip(0)  # rewards of the past change no expectation
            batch = as_batch(policy, rollout, to_go - baseline)
        loss = ppo.losses(batch.take(cut(rollout.start, context, "last"))).policy
        gradient = torch.autograd.grad(loss, [policy.head.weight, policy.memory.linear.weight, policy.log_sigma])
        rows.append(-HORIZON * torch.cat([g.flatten() for g in gradient]).double().numpy())
    return np.array(rows)


def as_batch(policy: Policy, rollout: Rollout, advantage: Tensor) -> Batch:
    decision = Decision(rollout.mean, policy.log_sigma, 1, rollout.z)
    obs, zero = rollout.obs["obs"], torch.zeros_like(rollout.reward)
    critic_z = rollout.critic_z
    log_prob = decision.log_prob(rollout.u)
    columns = (obs, obs, rollout.start, rollout.z, critic_z, rollout.u, rollout.mean, log_prob, advantage, zero)
    return Batch(*(x.flatten(0, 1) for x in columns))


def deviations(rows: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """(mean - exact) in standard errors."""
    return (rows.mean(0) - exact) / (rows.std(0, ddof=1) / np.sqrt(len(rows)))


def test_score_gradient_is_unbiased_on_the_linear_gaussian_task() -> None:
    """S2PG: sum_t grad log pi(a_t, z'_t | o_t, z_t) R within 4 standard errors of the exact return's gradient.

    One step is unrolled and z is data, yet gains of the memory and its standard deviations get their full gradient.
    """
    _, gains = linear_policy(decides=True, context=1)
    log_sigma = np.log([SIGMA[0], *[SIGMA[1]] * MEMORY])
    exact, rows = exact_gradient(gains, log_sigma, decides=True), score_gradients(decides=True, context=1)
    assert (np.abs(deviations(rows, exact)) < 4).all()
    assert (np.abs(deviations(rows, 0 * exact)) > 5).all(), "errors are small enough to see every component"


def test_unrolled_gradient_is_unbiased_on_the_linear_gaussian_task() -> None:
    """BPTT through whole episodes, memory deterministic: the exact gradient of that policy."""
    _, gains = linear_policy(decides=False, context=HORIZON)
    exact = exact_gradient(gains, np.log([SIGMA[0]]), decides=False)
    rows = score_gradients(decides=False, context=HORIZON)
    assert (np.abs(deviations(rows, exact)) < 4).all()
    assert (np.abs(deviations(rows, 0 * exact)) > 5).all()


def test_cutting_the_unrolling_short_biases_it() -> None:
    """What the proofs above would not survive: two steps unrolled, and nothing decided about z'."""
    _, gains = linear_policy(decides=False, context=2)
    exact = exact_gradient(gains, np.log([SIGMA[0]]), decides=False)
    assert np.abs(deviations(score_gradients(decides=False, context=2), exact)).max() > 10


def cue_return(policy: Policy) -> Tensor:
    """The exact expected return on cue recall with delay 1, by quadrature over the one number z' that is remembered.

    J = E over cue c of E over z' ~ N(eta(o_0, 0), sigma_z) of c (2 Phi(mu(o_1, z') / sigma_a) - 1).
    """
    nodes, weights = (torch.tensor(x) for x in np.polynomial.hermite_e.hermegauss(80))
    sigma_a, sigma_z = policy.log_sigma.exp()
    total = torch.tensor(0.0, dtype=torch.float64)
    for cue in (-1.0, 1.0):
        shown, asked = (torch.tensor([row], dtype=torch.float64) for row in ([cue, 0, 0, 0], [0, 1, 1, 0]))
        none = torch.zeros(1, 1, dtype=torch.bool)
        eta = policy(View(shown.unsqueeze(1), ~none, torch.zeros(1, 1, dtype=torch.float64))).mean[:, 1:]
        z = eta + sigma_z * nodes.unsqueeze(1)
        mu = policy(View(asked.expand(80, 1, 4), none.expand(80, 1), z)).mean[:, 0]
        right = torch.special.ndtr(mu / sigma_a)
        total = total + cue / 2 * ((2 * right - 1) * weights).sum() / weights.sum()
    return total


@torch.no_grad()
def finite_differences(policy: Policy, h: float = 1e-5) -> Tensor:
    """The gradient of `cue_return` in all parameters of the policy."""
    rows = []
    for parameter in policy.parameters():
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            values = []
            for shift in (h, -2 * h):
                flat[i] += shift
                values.append(cue_return(policy))
            flat[i] += h
            rows.append((values[0] - values[1]) / (2 * h))
    return torch.stack(rows)


@torch.no_grad()
def remember_the_cue(policy: Policy) -> None:
    """Weights that recall the cue more often than not, so that gradients of the memory are there to be seen."""
    memory = policy.memory
    memory.embed.observation.weight[:2, 0] = torch.tensor([1.0, -1.0])
    memory.cell.input.weight[-1, :2] = torch.tensor([1.0, -1.0])
    memory.cell.recurrent.weight[-1] = 1.0
    policy.head[-1].weight[0, -1] = 1.0


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_score_gradient_is_unbiased_on_cue_recall(cell: str) -> None:
    """The suite's own S2PG on its own task: its cell, rollouts and loss, against the exact return's gradient."""
    shape = {"num_envs": 500, "rollout": 40_000, "memory_size": 1, "features": 3, "policy_head": ()}
    config = tiny("s2pg", "CueRecall", options={"delay": 1}, **shape)
    agent = tiny_agent(replace(config, memory=replace(config.memory, cell=cell)))
    policy, ppo, T, N = agent.policy, agent.algorithm, 80, 500
    remember_the_cue(policy)
    rollout = collect(agent, config)
    assert rollout.start[::2].all()
    returns = rollout.reward[1::2].repeat_interleave(2, 0).flatten()  # of the whole episode, at each of its steps
    with torch.no_grad():
        batch = ppo.prepare(rollout)[0]._replace(advantage=returns)
    rows, estimates = torch.arange(T * N).view(T, N), []
    for part in rows.chunk(50, 1):
        chosen = part.reshape(-1, 1)
        loss = ppo.losses(batch.take(Sequences(chosen, torch.ones_like(chosen, dtype=torch.bool)))).policy
        gradient = torch.autograd.grad(loss, list(policy.parameters()))
        estimates.append(-2 * torch.cat([g.flatten() for g in gradient]).numpy())
    exact = finite_differences(copy.deepcopy(policy).double()).numpy()
    error = np.std(estimates, 0, ddof=1) / np.sqrt(len(estimates))
    assert (np.abs(np.mean(estimates, 0) - exact) <= 4 * error + 1e-7).all()
    assert (np.abs(exact) > 5 * error + 1e-7).mean() > 0.3, "errors are small enough to see the gradient"
