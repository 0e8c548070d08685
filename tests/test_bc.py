"""Behavioural cloning: the gradient of the expected likelihood, rollouts along an expert's episodes, what it learns."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from s2pg.build import build
from s2pg.config import RunConfig
from s2pg.config import hparams as profile
from s2pg.data.replay import Replay
from s2pg.data.rollout import Rollout, Stopwatch
from s2pg.data.sequences import Sequences
from s2pg.hyperparameters import BCConfig
from s2pg.imitation.bc import BC
from s2pg.timing.lanes import noise
from s2pg.training import checkpoint, worlds
from s2pg.training.agent import Agent
from s2pg.training.loop import train
from s2pg.training.record import save
from s2pg.training.worlds import Spec
from s2pg.types import View, Width
from tests.helpers import same_bits, seeded, tiny
from tests.offpolicy import CLOSE

ONE = Spec({"obs": Width(1, 0), "state": Width(2, 0)}, np.array([-1.0], np.float32), np.array([1.0], np.float32))
METHODS = ("none", "oracle", "window5", "bptt5", "bptt32_all", "bptt_full", "s2pg")


def cloning(method: str = "s2pg", sight: str = "blind", **hparams: Any) -> RunConfig:
    """A small run of behavioural cloning."""
    config = tiny(method)
    memory = replace(config.memory, sight="oracle" if method == "oracle" else sight)
    values = asdict(config.hparams) | {"observation_clip": None, "previous_action": False} | hparams
    chosen = BCConfig(**values)
    parts = {"algorithm": "bc", "expert_episodes": 1, "memory": memory, "hparams": chosen}
    return replace(config, **parts, steps_per_epoch=chosen.rollout)


def episodes(obs: Tensor, action: Tensor) -> Replay:
    """N episodes of T steps, `obs [T, N]` and `action [T, N]`; the state is the observation and the step's number."""
    steps, number = obs.shape
    replay = Replay((steps + 1) * number + 1, 1, {"obs": 1, "state": 2}, 0, 1)
    x, a = (part.T.reshape(-1, 1, 1) for part in (obs, action))
    state = torch.cat([x, torch.arange(steps).float().repeat(number).reshape(-1, 1, 1)], -1)
    t, none, zero = torch.arange(steps).repeat(number).unsqueeze(-1), torch.zeros(len(x), 1, 0), torch.zeros(len(x), 1)
    seen, then = {"obs": x, "state": state}, {"obs": x.roll(-1, 0), "state": state.roll(-1, 0)}
    ended = t == steps - 1
    replay.add(Rollout(seen, then, t == 0, none, none, none, none, a, a, zero, ended, ended))
    return replay


def random_episodes(steps: int = 7, number: int = 6, seed: int = 0) -> Replay:
    return episodes(*torch.randn(2, steps, number, generator=seeded(seed)))


def cloner(config: RunConfig, expert: Replay | None = None) -> tuple[Agent, BC]:
    agent = build(config, ONE, expert or random_episodes())
    assert isinstance(agent.algorithm, BC)
    return agent, agent.algorithm


# --- the gradient ----------------------------------------------------------------------------------------------------

OBS, ACTION = torch.tensor([[1.0], [-0.5], [0.3]]), torch.tensor([[0.2], [-0.4], [0.9]])


def exact(agent: Agent) -> Tensor:
    """E[sum_t log pi(a_t|o_t, z_t)] of one episode of three steps with one number of memory, on a grid."""
    nodes = torch.linspace(-6, 6, 301, dtype=torch.double)
    weights = (-0.5 * nodes.square()).exp() / (-0.5 * nodes.square()).exp().sum()

    def follow(t: int, z: Tensor) -> Tensor:
        n = len(z)
        view = View(OBS[t].double().expand(n, 1, 1), torch.full((n, 1), t == 0), z)
        decision = agent.policy(view)
        likelihood = decision.log_prob(torch.cat([ACTION[t].double().expand(n, 1), z], -1))[:, 0]
        if t == len(OBS) - 1:
            return likelihood
        after = decision.mean[:, 1:] + decision.log_sigma[1:].exp() * nodes  # [n, nodes]
        return likelihood + follow(t + 1, after.reshape(-1, 1)).reshape(n, -1) @ weights

    return follow(0, torch.zeros(1, 1, dtype=torch.double)).squeeze()


def sampled(agent: Agent, algorithm: BC, rows: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The gradient of the sum over an episode, from one rollout of whole episodes `rows [T, N]`."""
    with torch.no_grad():
        batch, _ = algorithm.prepare(algorithm.follow(rows, generator))
    every = torch.arange(rows.numel()).unsqueeze(-1)
    loss = algorithm.losses(batch.take(Sequences(every, torch.ones_like(every, dtype=torch.bool)))).policy
    parameters = [p for p in agent.policy.parameters() if p.requires_grad]
    return [-len(rows) * g for g in torch.autograd.grad(loss, parameters)]


@pytest.mark.parametrize("lam", [1.0, 0.0])
def test_s2pgs_gradient_is_that_of_the_expected_likelihood(lam: float) -> None:
    """Against a grid of 301 x 301 memories, within five standard errors of every number.

    The baseline is an untrained V, which must not matter; with lambda 0 it does, because then V is what follows.
    """
    number, values = 2000, {"gamma": 1.0, "gae_lambda": lam, "memory_size": 1, "sigma_memory": 0.7, "sigma_action": 0.4}
    agent, algorithm = cloner(
        cloning("s2pg", "privileged", **values), episodes(OBS.expand(-1, number), ACTION.expand(-1, number))
    )
    agent.policy.double(), agent.critic.double()
    replay = algorithm.expert
    replay.obs = {key: value.double() for key, value in replay.obs.items()}
    replay.action, replay.z = replay.action.double(), replay.z.double()
    rows = replay.valid.nonzero().reshape(number, 3).T
    generator = seeded(1)
    found = [torch.cat([g.flatten() for g in sampled(agent, algorithm, rows, generator)]) for _ in range(20)]
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(len(found))
    parameters = [p for p in agent.policy.parameters() if p.requires_grad]
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact(agent), parameters)])
    right = ((mean - expected).abs() < 5 * error + 1e-6).all()
    assert right == (lam == 1.0)
    assert error.norm() < 0.1 * expected.norm()
    direct = -3 * torch.autograd.grad(_likelihood(agent, algorithm, rows, generator), parameters)[0].flatten()
    assert not torch.allclose(direct, expected[: len(direct)], rtol=0.05), "the likelihood's own part is not all of it"


def _likelihood(agent: Agent, algorithm: BC, rows: Tensor, generator: torch.Generator) -> Tensor:
    rollout = algorithm.follow(rows, generator)
    view = View(rollout.obs["obs"].reshape(-1, 1, 1), rollout.start.reshape(-1, 1), rollout.z.flatten(0, 1))
    return -agent.policy(view).log_prob(rollout.u.flatten(0, 1))[:, 0].mean()


@pytest.mark.parametrize("method", ["none", "window5", "bptt5", "bptt32_all", "bptt_full"])
def test_other_memories_descend_the_likelihood_of_what_is_unrolled(method: str) -> None:
    """One episode within every context: the loss is minus the mean log-likelihood, read step by step."""
    agent, algorithm = cloner(cloning(method), random_episodes(5, 1))
    rows = algorithm.expert.valid.nonzero()
    with torch.no_grad():
        rollout = algorithm.follow(rows, seeded(0))
        batch, metrics = algorithm.prepare(rollout)
    z, total = agent.policy.memory.initial(1), torch.zeros(())
    for t in range(5):
        decision = agent.policy(View(rollout.obs[algorithm.sight[0]][t].unsqueeze(1), rollout.start[t].unsqueeze(1), z))
        total, z = total + decision.log_prob(algorithm.expert.action[rows[t]])[0, 0], decision.carry
    assert metrics["likelihood/expert"] == pytest.approx(total.item() / 5, rel=1e-5)
    assert "value/explained_variance" not in metrics
    episode = Sequences(torch.arange(5).unsqueeze(0), torch.ones(1, 5, dtype=torch.bool))
    loss, parameters = algorithm.losses(batch.take(episode)).policy, list(agent.policy.parameters())
    assert loss.item() == pytest.approx(-total.item() / 5, rel=1e-5)
    ours = torch.autograd.grad(loss, parameters, allow_unused=True)
    theirs = torch.autograd.grad(-total / 5, parameters, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


# --- rollouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_rollout_follows_the_experts_episodes_with_the_policys_memory(method: str) -> None:
    """Observations and actions are data; memories follow from one another; rewards are what comes next."""
    agent, algorithm = cloner(cloning(method, rollout=40, num_envs=2))
    rollout, replay = algorithm.collect(20, seeded(3), Stopwatch()), algorithm.expert
    key = algorithm.sight[0]
    for t in range(20):
        for n in range(2):
            here = (replay.obs[key] == rollout.obs[key][t, n]).all(-1) & replay.valid
            row = int(here.nonzero()[0])
            assert torch.equal(rollout.u[t, n, :1], replay.action[row])
            assert bool(rollout.start[t, n]) == (int(replay.position[row]) == 0)
            assert bool(rollout.done[t, n]) == (not replay.valid[row + 1]) == bool(rollout.terminated[t, n])
    decision = agent.policy(View(rollout.obs[key].unsqueeze(-2), rollout.start.unsqueeze(-1), rollout.z))
    torch.testing.assert_close(decision.mean, rollout.mean, **CLOSE)
    torch.testing.assert_close(agent.policy.remember(decision, rollout.u), rollout.z_next, **CLOSE)
    continues = ~rollout.start[1:].unsqueeze(-1)
    assert torch.equal(rollout.z[1:], torch.where(continues, rollout.z_next[:-1], 0.0))
    likelihood = decision.log_prob(rollout.u)[..., 0]
    expected = torch.where(rollout.done[:-1], 0.0, likelihood[1:])
    torch.testing.assert_close(rollout.reward[:-1], expected, **CLOSE)
    assert rollout.done.any()
    assert (rollout.reward[-1] != 0)[~rollout.done[-1]].all()


def test_the_memory_that_a_piece_begins_with_is_that_of_the_last_time() -> None:
    agent, algorithm = cloner(cloning("s2pg", rollout=40, num_envs=2))
    before, rows = algorithm.expert.z.clone(), torch.tensor([[3], [4]])
    rollout = algorithm.follow(rows, seeded(0))
    assert torch.equal(rollout.z[0, 0], before[3])
    assert torch.equal(algorithm.expert.z[4:6], rollout.z_next[:, 0])
    assert not torch.equal(algorithm.expert.z[4:6], before[4:6])
    assert torch.equal(algorithm.expert.z[6:], before[6:])


def test_observations_are_normalised_by_the_experts_statistics() -> None:
    agent, algorithm = cloner(cloning("s2pg", observation_clip=10.0), random_episodes(50, 4))
    seen = algorithm.expert.obs["obs"][algorithm.expert.valid]
    torch.testing.assert_close(seen.mean(0), torch.zeros(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(1))
    assert agent.normalisers["obs"].count == 200


# --- learning --------------------------------------------------------------------------------------------------------


def updated(algorithm: BC, updates: int, seed: int = 0) -> dict[str, float]:
    """Logs of the last of some updates."""
    generator, hp = seeded(seed), algorithm.hparams
    for _ in range(updates):
        logs = algorithm.update(algorithm.collect(hp.rollout // hp.num_envs, generator, Stopwatch()), generator)
    return logs


@pytest.mark.parametrize(("method", "least", "most"), [("s2pg", 0.99, 1.0), ("bptt5", 0.99, 1.0), ("none", 0.3, 0.7)])
def test_what_the_expert_remembers_is_learned_from_its_actions(method: str, least: float, most: float) -> None:
    """It shows the sign of what it saw two steps ago; the share of right signs, with the profile's values."""
    cue = 2.0 * (torch.rand(200, generator=seeded(1)) < 0.5) - 1
    obs, zero = torch.stack([cue, torch.full((200,), 0.5), torch.zeros(200)]), torch.zeros(200)
    values = profile("bc", "matched", method, "CueRecall")
    values |= {"observation_clip": None, "rollout": 512, "policy_head": (64,), "value_head": (64, 64)}
    _, algorithm = cloner(cloning(method, "privileged", **values), episodes(obs, torch.stack([zero, zero, cue])))
    updated(algorithm, 20)
    rollout = algorithm.collect(64, seeded(7), Stopwatch())
    right = (rollout.mean[..., 0] * rollout.u[..., 0] > 0)[rollout.done].float().mean().item()
    assert least <= right <= most


@pytest.mark.parametrize("sight", ["blind", "privileged"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_the_experts_actions_likelier(method: str, sight: str) -> None:
    _, algorithm = cloner(cloning(method, sight, lr_policy=0.01))
    first, last = updated(algorithm, 1), updated(algorithm, 5)
    assert last["likelihood/expert"] > first["likelihood/expert"]


@pytest.mark.parametrize("method", ["none", "bptt5", "s2pg"])
def test_a_resumed_agent_learns_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    agent, algorithm = cloner(cloning(method))
    updated(algorithm, 2)
    checkpoint.save(tmp_path / "checkpoint.pt", agent.state_dict())
    other, resumed = cloner(replace(cloning(method), seed=5))
    other.load_state_dict(checkpoint.load(tmp_path / "checkpoint.pt"))
    for one in (algorithm, resumed):
        updated(one, 2, seed=3)
    assert same_bits(agent.state_dict(), other.state_dict())


def test_the_training_loop_needs_no_environment_to_learn_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs, evaluations and checkpoints are those of every other algorithm; steps are the expert's."""
    options = {"max_episode_steps": 11}
    dataset = tmp_path / "expert.npz"
    save(noise(worlds.spec("PendulumV", options), 3, 11), dataset, {})
    config = replace(cloning(observation_clip=10.0), task="PendulumV", task_options=options, epochs=2)
    monkeypatch.setattr(worlds, "make_vector", None)
    done = train(replace(config, expert_episodes=3), build, tmp_path / "run", progress=False, dataset=dataset)
    assert (done["status"], done["steps"]) == ("finished", 64)
    assert set(pd.read_parquet(tmp_path / "run" / "episodes.parquet").step) == {0, 32, 64}
