"""What SAC and TD3 learn from, for every memory, against rollouts read step by step; targets, warm-up, resuming."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from s2pg.algorithms.offpolicy import Target, Transitions, frozen
from s2pg.config import ConfigError, RunConfig
from s2pg.data.rollout import Rollout
from s2pg.memory import Memory, NoMemory, Recurrent
from s2pg.nets import GRU
from s2pg.policy import Policy
from s2pg.training import worlds
from s2pg.training.agent import Agent
from s2pg.training.evaluate import discount, evaluate
from s2pg.types import View
from tests.helpers import same_bits, seeded, tiny
from tests.offpolicy import (
    CLOSE,
    METHODS,
    agent_of,
    experience,
    experienced,
    held,
    learned,
    restored,
    small,
    train_epoch,
)

ALGORITHMS = ("sac", "td3")
SIGHTS = ("blind", "privileged")
BEGINS = {"stored": {}, "zero": {"sequence_start": "zero"}, "burn_in": {"sequence_start": "burn_in", "burn_in": 3}}
EXTRA = {"sac": {}, "td3": {"delay": 1}}

# --- transitions -----------------------------------------------------------------------------------------------------


class Story(NamedTuple):
    """An agent, the rollout that its replay holds, a batch, and where each of its terms is in the rollout."""

    agent: Agent
    rollout: Rollout
    batch: Transitions
    terms: list[tuple[int, int]]  # (t, n)
    firsts: list[int]  # t at which the sequence of each term begins

    @property
    def before(self) -> list[int]:
        """Steps of the term's episode before it."""
        return [t - self.episode(t, n) for t, n in self.terms]

    def episode(self, t: int, n: int) -> int:
        """Where the episode of a step begins."""
        return int(self.rollout.start[: t + 1, n].nonzero().max())


def story(config: RunConfig, steps: int = 60) -> Story:
    """Terms and sequences are named by times in the replay: a step of every one, and a slot for each episode's end."""
    agent = experienced(config, steps)
    rollout, replay, sampler = experience(agent, steps), agent.algorithm.replay, agent.algorithm.sampler
    time = torch.arange(steps).unsqueeze(1) + rollout.start.long().cumsum(0) - 1
    place = {(int(time[t, n]), n): t for t in range(steps) for n in range(replay.streams)}
    found = []
    inner = sampler._transitions
    sampler._transitions = lambda rows, terms, keep: found.append((rows, keep)) or inner(rows, terms, keep)
    batch = sampler(seeded(5))
    (rows, keep), named = found[0], replay.named(batch.rows)
    names = zip(named.time.tolist(), named.stream.tolist(), strict=True)
    terms = [(place[name], name[1]) for name in names]
    first = replay.named(rows[:, 0].repeat_interleave(1 if keep is None else keep.sum(-1)))
    firsts = [place[name] for name in zip(first.time.tolist(), first.stream.tolist(), strict=True)]
    return Story(agent, rollout, batch, terms, firsts)


def read(memory: Memory, obs: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Features and memory after reading `obs [T, O]` one step at a time, nothing of it being an episode's start."""
    never = torch.zeros(1, 1, dtype=torch.bool)
    for row in obs:
        x, z = memory.read(row.view(1, 1, -1), never, z)
    return x, z


def remembered(told: Story, first: int, n: int) -> Tensor:
    """The policy's memory before the first step of a sequence, by what `sequence_start` says."""
    policy, hp, rollout = told.agent.policy, told.agent.algorithm.hparams, told.rollout
    zero, birth = policy.memory.initial(1), told.episode(first, n)
    if policy.memory.decided or (hp.sequence_start == "stored" and not policy.memory.recalls):
        return rollout.z[first, n].unsqueeze(0)
    if hp.sequence_start != "burn_in" or policy.memory.recalls or first == birth:
        return zero
    begin = max(first - hp.burn_in, birth)
    z = zero if begin == birth else rollout.z[begin, n].unsqueeze(0)
    return read(policy.memory, rollout.obs[told.agent.sight[0]][begin:first, n], z)[1]


def augmented(told: Story, t: int, n: int, key: str) -> Tensor:
    """Observations up to the successor of step t of what the critic sees, `[t + 2, O (+ Z)]`."""
    rollout = told.rollout
    obs = torch.cat([rollout.obs[key][: t + 1, n], rollout.next_obs[key][t : t + 1, n]])
    if not told.agent.policy.memory.decided:
        return obs
    return torch.cat([obs, torch.cat([rollout.z[: t + 1, n], rollout.z_next[t : t + 1, n]])], -1)


GRID = [
    (algorithm, method, sight, begin)
    for algorithm in ALGORITHMS
    for method in METHODS
    for sight in SIGHTS
    for begin in (BEGINS if method.startswith("bptt") else ["stored"])
    if not (method == "oracle" and sight == "privileged")
]


@pytest.mark.parametrize(("algorithm", "method", "sight", "begin"), GRID, ids=map("-".join, GRID))
@torch.no_grad()
def test_batches_are_rollouts_read_step_by_step(algorithm: str, method: str, sight: str, begin: str) -> None:
    """Decisions and values at a step and at its successor, from nothing but the steps of the episode up to there."""
    memory = {"sight": "oracle" if method == "oracle" else sight}
    if method == "bptt32_all":
        memory["context"] = 6  # shorter than many an episode
    told = story(small(algorithm, method, memory=memory, batch=90, **BEGINS[begin]))
    agent, rollout, batch, terms = told.agent, told.rollout, told.batch, told.terms
    policy, critic, (key, critic_key) = agent.policy, agent.critic, agent.sight
    t, n = (torch.tensor(column) for column in zip(*terms, strict=True))
    for ours, stored in ((batch.u, rollout.u), (batch.reward, rollout.reward), (batch.terminated, rollout.terminated)):
        assert torch.equal(ours, stored[t, n])
    assert batch.terminated.any()
    assert rollout.done[t, n][~batch.terminated].any(), "and truncated episodes are among them"
    decisions, carry = policy(batch.view), policy.memory.read(*batch.view)[1]
    following = policy(batch.successor(policy, carry)).mean
    q, q_next = critic(batch.critic_view, batch.u), critic(batch.next_critic_view, batch.u)
    chunked = agent.algorithm.sampler.chunked
    for i, ((time, stream), first) in enumerate(zip(terms, told.firsts, strict=True)):
        obs = torch.cat([rollout.obs[key][: time + 1, stream], rollout.next_obs[key][time : time + 1, stream]])
        z = remembered(told, first, stream)
        x, m = read(policy.memory, obs[first : time + 1], z)
        assert_mean(policy, x, m, decisions.mean[i])
        after = rollout.z_next[time, stream].unsqueeze(0) if policy.memory.decided else m
        assert_mean(policy, *read(policy.memory, obs[-1:], after), following[i])
        seen, zero, birth = (
            augmented(told, time, stream, critic_key),
            critic.memory.initial(1),
            told.episode(time, stream),
        )
        for ahead, ours in ((0, q), (1, q_next)):
            own = critic.memory.context if critic.memory.size else 1
            begins = first if chunked and own > 1 else max(time + ahead - own + 1, birth)
            x = read(critic.memory, seen[begins : time + 1 + ahead], zero)[0]
            torch.testing.assert_close(critic.values(x, batch.u[i : i + 1])[:, 0], ours[:, i], **CLOSE)


def assert_mean(policy: Policy, x: Tensor, m: Tensor, mean: Tensor) -> None:
    """The mean decision with features x and next memory m."""
    action = policy.head(x)[:, : policy.actions]
    if policy.bound is not None:
        action = policy.bound(action)
    expected = torch.cat([action, m], -1) if policy.memory.decided else action
    torch.testing.assert_close(expected[0], mean, **CLOSE)


def test_sequences_begin_in_three_ways_that_differ() -> None:
    """From the same draws (nothing has left the replay); where an episode begins, all three begin with zeros."""
    views = {begin: story(small("sac", "bptt5", **kwargs)).batch.view for begin, kwargs in BEGINS.items()}
    one, two = views["stored"], views["zero"]
    assert all(torch.equal(view.obs, one.obs) for view in views.values())
    inside = ~one.start[:, 0]
    assert inside.any()
    assert all((view.z[~inside] == 0).all() for view in views.values())
    assert (two.z == 0).all()
    for other in (one, two):
        assert ((views["burn_in"].z - other.z)[inside].abs().amax(-1) > 1e-3).all()
    assert (one.z[inside].abs().amax(-1) > 0).all()


def test_after_a_rollout_of_todays_policy_a_burn_in_gives_what_is_stored() -> None:
    """Beginning from the stored memory of three steps before, the same weights lead to the stored memory of now."""
    config = small("sac", "bptt5", "PendulumV", **BEGINS["burn_in"], warmup=48, warmup_policy=48)
    agent = agent_of(config, worlds.spec(config.task, config.task_options))
    train_epoch(agent, config, 0)
    sampler = agent.algorithm.sampler
    burnt, sampler.begin = sampler(seeded(2)), "stored"
    stored = sampler(seeded(2))
    assert (stored.view.z != 0).any(-1).sum() > 5
    torch.testing.assert_close(burnt.view.z, stored.view.z, **CLOSE)


@pytest.mark.parametrize(
    ("method", "begin", "slots"), [("bptt5", "stored", 5), ("bptt5", "burn_in", 8), ("s2pg", "zero", 1)]
)
def test_contexts_and_their_burn_in_are_stored_whole(method: str, begin: str, slots: int) -> None:
    """In a replay that has wrapped: consecutive slots from the episode's start, or as many as are asked for."""
    agent = experienced(small("sac", method, replay=40, batch=500, **BEGINS[begin]), 60, ends=0.0)
    replay = agent.algorithm.replay
    steps = replay.named(agent.algorithm.sampler(seeded(0)).rows)
    oldest = replay.cursor[steps.stream] - replay.slots + 1
    first = torch.maximum(steps.time - slots + 1, steps.time - replay.position[replay.contexts(steps, 1)[:, 0]])
    assert (first >= oldest).all()
    assert (first == oldest).any(), "and nothing that could be used is left out"


@pytest.mark.parametrize("method", METHODS)
def test_batches_have_as_many_terms_as_they_should(method: str) -> None:
    """`batch` of them; as chunks, `batch` steps' worth of chunks, of which short episodes fill less."""
    agent = experienced(small("sac", method, batch=64))
    batch = agent.algorithm.sampler(seeded(0))
    if method == "bptt32_all":
        assert batch.view.obs.shape[:2] == (2, 32)
        assert len(batch.u) == batch.view.keep.sum()
    else:
        assert len(batch.u) == 64
        assert batch.view.obs.shape[:2] == (64, {"window5": 5, "bptt5": 5}.get(method, 1))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("begin", BEGINS)
def test_a_loss_at_the_last_step_of_a_chunk_is_that_of_a_context(algorithm: str, begin: str) -> None:
    """Full chunks of five with only their last step kept against contexts of five: the same gradients."""
    config = small(algorithm, "bptt5", memory={"sight": "privileged"}, batch=600, **BEGINS[begin], **EXTRA[algorithm])
    agent = experienced(config, 200, ends=0.05)
    sampler, replay = agent.algorithm.sampler, agent.algorithm.replay
    rows, keep = replay.chunks(400, 5, seeded(1), sampler.before)
    rows = rows[keep.all(1)]
    last = torch.zeros_like(rows, dtype=torch.bool)
    last[:, -1] = True
    assert torch.equal(replay.contexts(replay.named(rows[:, -1]), 5), rows)
    results = []
    for batch in (sampler._transitions(rows, rows[:, -1], last), sampler._transitions(rows, rows[:, -1], None)):
        with held(agent.algorithm) as found:
            agent.algorithm.learn(batch, seeded(2))
        results.append(found)
    for name, gradients in results[0].items():
        for chunk, context in zip(gradients, results[1][name], strict=True):
            torch.testing.assert_close(chunk, context, **CLOSE)


def test_chunks_and_contexts_agree_where_an_episode_begins() -> None:
    """Blind: in the first steps of an episode a chunk from its start and a context know the same; so do the critics."""
    agent = experienced(small("sac", "bptt5", memory={"sight": "blind"}, sequence_start="zero"), 200)
    sampler, replay = agent.algorithm.sampler, agent.algorithm.replay
    rows, keep = replay.chunks(400, 5, seeded(1))
    keep = keep & (replay.position[rows[:, :1]] == 0)
    keep[:, -1] = False  # the context of the fifth step's successor no longer holds the first one
    rows, keep = rows[keep.any(1)], keep[keep.any(1)]
    chunks = sampler._transitions(rows, rows[keep], keep)
    contexts = sampler._transitions(replay.contexts(replay.named(rows[keep]), 5), rows[keep], None)
    assert len(chunks.u) == len(contexts.u) > 50
    with torch.no_grad():
        torch.testing.assert_close(agent.policy(chunks.view).mean, agent.policy(contexts.view).mean, **CLOSE)
        for name in ("critic_view", "next_critic_view"):
            values = [agent.critic(getattr(batch, name), batch.u) for batch in (chunks, contexts)]
            torch.testing.assert_close(*values, **CLOSE)


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_of_every_method_learns(algorithm: str, method: str, sight: str) -> None:
    """And gradients of the policy's loss reach no critic: what lies in its parameters is the value loss's alone."""
    memory = {} if method == "oracle" else {"sight": sight}
    agent = experienced(small(algorithm, method, memory=memory, batch=200, **EXTRA[algorithm]))
    batch = agent.algorithm.sampler(seeded(0))
    with held(agent.algorithm) as found:
        agent.algorithm.learned = 1
        agent.algorithm.learn(batch, seeded(1))
    for name in ("value", "policy"):
        assert all((gradient != 0).any() for gradient in found[name])
    agent.algorithm.learn(batch, seeded(1))
    assert same_bits([p.grad for p in agent.critic.parameters()], found["value"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_deciding_on_its_memory_s2pg_is_the_same_network(algorithm: str) -> None:
    """`bptt1`, the control for the size of S2PG's policy: the same weights, the same mean action and next memory."""
    sigma = {"memory_sigma": "fixed"} if algorithm == "sac" else {}  # otherwise the head says that of z' too
    s2pg = agent_of(small(algorithm, **sigma)).policy
    control = agent_of(small(algorithm, memory={"decides": False}, **sigma)).policy
    assert same_bits([*s2pg.memory.parameters()], [*control.memory.parameters()])
    assert same_bits([*s2pg.head.parameters()], [*control.head.parameters()])
    assert (s2pg.memory.decided, control.memory.decided) == (6, 0)
    view = View(torch.rand(7, 1, 5), torch.zeros(7, 1, dtype=torch.bool), torch.rand(7, 6))
    ours, theirs = s2pg(view), control(view)
    assert torch.equal(ours.mean[:, : s2pg.actions], theirs.mean)
    assert torch.equal(ours.carry, theirs.carry)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_with_its_memory_cleared_s2pg_is_the_same_agent_whose_policy_never_sees_z(algorithm: str) -> None:
    """`s2pg_cleared`, the control for what is remembered: the same weights, critic and decisions, but z is not read."""
    s2pg, control = agent_of(small(algorithm)), agent_of(small(algorithm, memory={"cell": "gru_cleared"}))
    assert same_bits([*s2pg.policy.parameters()], [*control.policy.parameters()])
    assert same_bits([*s2pg.critic.parameters()], [*control.critic.parameters()])
    assert s2pg.policy.memory.decided == control.policy.memory.decided == 6
    obs, start, z = torch.rand(7, 1, 5), torch.zeros(7, 1, dtype=torch.bool), torch.rand(7, 6)
    seen = s2pg.policy(View(obs, start, z))
    cleared = control.policy(View(obs, start, z))
    assert torch.equal(cleared.mean, s2pg.policy(View(obs, start, 0 * z)).mean)
    assert not torch.isclose(cleared.mean, seen.mean).all(-1).any()
    again = control.policy(View(obs, start, torch.rand(7, 6)))
    assert torch.equal(again.mean, cleared.mean)
    assert torch.equal(again.log_sigma, cleared.log_sigma)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_with_its_memory_cleared_s2pgs_critic_sees_z_and_the_replay_is_refreshed(algorithm: str) -> None:
    agent = experienced(small(algorithm, memory={"cell": "gru_cleared"}, refresh=True))
    batch, stored = agent.algorithm.sample(seeded(0)), agent.algorithm.replay.z.clone()
    view, u = batch.critic_view, batch.u
    values = agent.critic(view, u)
    for changed in ((view._replace(obs=view.obs + _on_memory(view.obs)), u), (view, u + _on_memory(u))):
        assert not torch.isclose(agent.critic(*changed), values, rtol=1e-6, atol=0).any()
    learned(agent, updates=2)
    assert not torch.equal(agent.algorithm.replay.z, stored)


def test_a_cleared_memory_with_a_leak_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"hparams\.leak: 0\.5 keeps some of z, which memory\.cell: gru_cleared clears"
    ):
        agent_of(small("sac", memory={"cell": "gru_cleared"}, leak=0.5))


def _on_memory(x: torch.Tensor) -> torch.Tensor:
    """Ones on the last 6 numbers, zeros before them."""
    return (torch.arange(x.shape[-1]) >= x.shape[-1] - 6).float()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_blind_recurrent_critics_own_their_memory(algorithm: str) -> None:
    """Blind BPTT's critic has a cell of its own; a sighted critic has none, nor has S2PG's, which sees z instead."""
    blind = agent_of(small(algorithm, "bptt5", memory={"sight": "blind"}))
    assert isinstance(blind.critic.memory, Recurrent)
    shared = {id(p) for p in blind.policy.parameters()} & {id(p) for p in blind.critic.parameters()}
    assert not shared
    assert blind.critic.memory.context == 5
    target = blind.algorithm.target_critic.module.memory
    assert isinstance(target, Recurrent)
    assert target is not blind.critic.memory
    for method, sight, width in (("bptt5", "privileged", 7), ("s2pg", "privileged", 7 + 6), ("s2pg", "blind", 5 + 6)):
        critic = agent_of(small(algorithm, method, memory={"sight": sight})).critic
        assert isinstance(critic.memory, NoMemory)
        assert critic.memory.features == width


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_who_sees_what(algorithm: str) -> None:
    """A blind policy never depends on the state, a privileged critic depends on it and on no observation."""
    agent = experienced(small(algorithm, "s2pg", memory={"sight": "privileged"}))
    batch, replay = agent.algorithm.sampler(seeded(0)), agent.algorithm.replay
    replay.obs["state"] += 1.0
    other = agent.algorithm.sampler(seeded(0))
    assert same_bits(batch.view[:3], other.view[:3])
    assert torch.equal(batch.next_obs, other.next_obs)
    for name in ("critic_view", "next_critic_view"):
        moved = getattr(other, name).obs - getattr(batch, name).obs
        torch.testing.assert_close(moved, torch.cat([torch.ones(48, 1, 7), torch.zeros(48, 1, 6)], -1))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_memory_equals_s2pg_with_zero_memory(algorithm: str) -> None:
    """A cell of no units leaves the skip connection, which is then an MLP's first layer; through whole updates."""
    config = small(
        algorithm, "none", previous_action=False, value_previous_action=False, refresh=True, **EXTRA[algorithm]
    )
    plain = experienced(config)
    width, first, last = plain.normalisers["obs"].width, plain.policy.head[0], plain.policy.head[2]
    memory = Recurrent(width, GRU, hidden=0, features=first.out_features, decides=True)
    policy = Policy(memory, 2, [], (1.0, 1.0), 1.0, plain.policy.spreads, plain.policy.shape, plain.policy.bound)
    assert (memory.size, memory.decided) == (0, 0)
    policy.log_sigma.data.copy_(plain.policy.log_sigma)
    for target, source in ((memory.embed.bypass, first), (policy.head[0], last)):
        target.load_state_dict(source.state_dict())
    critic = copy.deepcopy(plain.critic)
    kwargs = {"scale": plain.algorithm.sigma[:2] / config.hparams.smoothing_action} if algorithm == "td3" else {}
    hp, replay = config.hparams, copy.deepcopy(plain.algorithm.replay)
    twin = type(plain.algorithm)(policy, critic, replay, hp, plain.sight, **kwargs)
    twin.steps = plain.algorithm.steps
    other = Agent(policy, critic, twin, plain.sight, plain.normalisers, plain.device)
    logs = [learned(agent, 5) for agent in (plain, other)]
    assert logs[0].keys() == logs[1].keys()
    for key in logs[0]:
        torch.testing.assert_close(logs[0][key], logs[1][key], **CLOSE)
    torch.testing.assert_close(first.weight, memory.embed.bypass.weight, **CLOSE)
    torch.testing.assert_close(last.weight, policy.head[0].weight, **CLOSE)
    for a, b in zip(plain.critic.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


# --- targets, freezing, warm-up --------------------------------------------------------------------------------------


def test_a_target_moves_by_tau_of_the_way() -> None:
    layer = nn.Linear(2, 2)
    target = Target(layer, 0.25)
    before = copy.deepcopy(target.module.state_dict())
    for parameter in layer.parameters():
        parameter.data += 4.0
    assert same_bits(target.module.state_dict(), before)
    target.follow()
    for key, value in target.module.state_dict().items():
        torch.testing.assert_close(value, before[key] + 1.0)
    assert not any(p.requires_grad for p in target.module.parameters())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_target_follows_at_every_step(algorithm: str) -> None:
    agent = experienced(small(algorithm, tau=0.3))
    targets = {name: copy.deepcopy(target.module) for name, target in agent.algorithm.targets.items()}
    assert set(targets) == ({"critic"} if algorithm == "sac" else {"critic", "policy"})
    learned(agent)
    for name, before in targets.items():
        now, source = agent.algorithm.targets[name].module, getattr(agent, name)
        for p, old, aim in zip(now.parameters(), before.parameters(), source.parameters(), strict=True):
            torch.testing.assert_close(p, old + 0.3 * (aim - old))


def test_a_frozen_module_passes_gradients_and_takes_none() -> None:
    """Also one of its parameters that did not learn before still does not afterwards, and errors leave it as it was."""
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    x = torch.ones(1, 2, requires_grad=True)
    with frozen(layer):
        y = layer(x).sum()
    y.backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    with pytest.raises(ZeroDivisionError), frozen(layer):
        raise ZeroDivisionError
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_is_learned_before_the_warm_up_is_over(algorithm: str) -> None:
    """20 steps of the critic's, and for SAC 28 of the policy's; rollouts are of 4 steps."""
    extra = {"warmup_policy": 28} if algorithm == "sac" else {"delay": 1}
    config = small(algorithm, warmup=20, **extra)
    agent = agent_of(config)
    changed = {"critic": [], "policy": []}
    for k in range(10):
        before = {name: copy.deepcopy(getattr(agent, name).state_dict()) for name in changed}
        logs = agent.algorithm.update(experience(agent, 2, seed=k), seeded(k))
        assert bool(logs) == (4 * k + 4 > 20)
        for name, steps in changed.items():
            if not same_bits(before[name], getattr(agent, name).state_dict()):
                steps.append(4 * k + 4)
    assert changed["critic"] == [24, 28, 32, 36, 40]
    assert changed["policy"] == ([32, 36, 40] if algorithm == "sac" else [24, 28, 32, 36, 40])
    assert agent.algorithm.steps == 40
    assert agent.algorithm.learned == 5


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_updates_are_so_many_gradient_steps(algorithm: str) -> None:
    agent = agent_of(small(algorithm, updates=3))
    agent.algorithm.update(experience(agent, 30), seeded(0))
    assert agent.algorithm.learned == 3
    state = agent.algorithm.optimisers["value"].state
    assert {int(entry["step"]) for entry in state.values()} == {3}


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_agent_learns_on_bit_for_bit(algorithm: str, method: str, tmp_path: Path) -> None:
    """Stopped after the first of two epochs, in a replay that has been full for a while: nothing is lost with it."""
    config = small(algorithm, method, replay=30, refresh=True, sequence_start="burn_in", burn_in=2, batch=20)
    spec = worlds.spec(config.task, config.task_options)
    whole, first, second = (agent_of(config, spec) for _ in range(3))
    logs = [train_epoch(whole, config, epoch) for epoch in range(2)]
    assert train_epoch(first, config, 0) == logs[0]
    resumed = restored(first, second, tmp_path)
    assert train_epoch(resumed, config, 1) == logs[1]
    assert same_bits(resumed.state_dict(), whole.state_dict())
    assert resumed.algorithm.replay._written == 30


@pytest.mark.parametrize("sight", ["blind", "privileged"])
@pytest.mark.parametrize("method", ["none", "s2pg", "bptt5", "window5"])
@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "ppo"])
def test_the_critics_bias_is_its_first_value_minus_the_discounted_return(
    algorithm: str, method: str, sight: str
) -> None:
    """Q of the first decision, the least of two; PPO's is V. S2PG's critic sees the memory before it, which is zero."""
    options = {"max_episode_steps": 11}
    config = tiny(method, options=options, gamma=0.9) if algorithm == "ppo" else small(algorithm, method, gamma=0.9)
    config = replace(config, memory=replace(config.memory, sight=sight))
    agent = agent_of(config, worlds.spec(config.task, config.task_options))
    assert discount(config) == 0.9
    envs = [worlds.make(config.task, config.task_options) for _ in range(2)]
    found = evaluate(agent, envs, [1, 2], "mean", 0, gamma=discount(config))
    policy, critic, (mine, theirs) = agent.policy, agent.critic, agent.sight
    start = torch.ones(1, 1, dtype=torch.bool)
    for env, episode in zip(envs, found, strict=True):
        raw, _ = env.reset(seed=episode.seed)
        state, z, first, rewards, ended = raw[theirs], policy.memory.initial(1), None, [], False
        while not ended:
            seen = agent.normalisers[mine](torch.from_numpy(raw[mine])).view(1, 1, -1)
            with torch.no_grad():
                u, z = policy.act(seen[0], torch.tensor([not rewards]), z, "mean")
            first = u if first is None else first
            raw, reward, terminated, truncated, _ = env.step(u[0, : policy.actions].numpy())
            rewards.append(float(reward))
            ended = terminated or truncated
        seen = agent.normalisers[theirs](torch.from_numpy(state)).view(1, 1, -1)
        seen = torch.cat([seen, torch.zeros(1, 1, policy.memory.decided)], -1)
        with torch.no_grad():
            values = critic(View(seen, start, critic.memory.initial(1)), None if algorithm == "ppo" else first)
        expected = float(values.min()) - sum(0.9**t * reward for t, reward in enumerate(rewards))
        assert episode.bias == pytest.approx(expected, abs=1e-4)
    assert [e.bias for e in evaluate(agent, envs, [1, 2], "mean", 0)] == [None, None]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("method", ["none", "s2pg", "bptt5"])
def test_evaluating_the_mean_is_deterministic_and_sampling_is_not(algorithm: str, method: str) -> None:
    """The reference's "deterministic" evaluation of SAC sampled. Noise has a seed of its own; starts are the same."""
    config = small(algorithm, method)
    agent = agent_of(config, worlds.spec(config.task, config.task_options))
    envs = [worlds.make(config.task, config.task_options) for _ in range(3)]
    returns = {
        (mode, noise): [episode.ret for episode in evaluate(agent, envs, [1, 2, 3], mode, noise)]
        for mode in ("mean", "sample")
        for noise in (1, 2)
    }
    assert returns["mean", 1] == returns["mean", 2]
    assert returns["sample", 1] != returns["sample", 2]
    assert returns["sample", 1] != returns["mean", 1]
