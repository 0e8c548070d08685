"""Gradients of networks agree with plain autograd, with each other in the mean, and are measured on real tasks.

Means are compared as in `test_gradients.py`: every component within 4.5 standard errors.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from s2pg import kernels
from s2pg.gradients.empirical import Trajectories, collect, gradients, measure
from s2pg.gradients.estimators import Estimator, returns, subtract_baseline
from s2pg.gradients.variance import total_variance, z_scores
from s2pg.memory import NoMemory, Recurrent
from s2pg.nets import GRU, LSTM
from s2pg.policy import Policy, Shape, Tanh
from s2pg.training import worlds
from s2pg.types import View, Width
from tests.helpers import seeded, tiny, tiny_agent

torch.set_num_threads(1)

SIGMAS = 4.5
WIDTH = Width(2, 1)
S2PG, BPTT = Estimator(), Estimator(decides=False)
MEMORIES = {
    "gru": lambda: Recurrent(WIDTH, GRU, hidden=3, features=2, decides=True),
    "lstm": lambda: Recurrent(WIDTH, LSTM, hidden=2, features=2, decides=True),
    "leaky": lambda: Recurrent(WIDTH, GRU, hidden=3, features=2, decides=True, leak=0.3),
    "deterministic": lambda: Recurrent(WIDTH, GRU, hidden=3, features=2, context=None),
    "none": lambda: NoMemory(WIDTH),
}


def network(memory="gru", actions=2, **options):
    torch.manual_seed(3)
    return Policy(MEMORIES[memory](), actions, [4], (0.5, 0.3) if memory != "none" else (0.5, 1.0), **options)


def trajectories(policy, count=3, horizon=6, seed=0):
    """Acted on random observations and rewards, the second episode ending before the horizon; float64."""
    rng, z, steps = seeded(seed), policy.memory.initial(count).double(), []
    alive = torch.ones(count, horizon, dtype=torch.float64)
    alive[1, horizon - 2 :] = 0
    for t in range(horizon):
        obs = torch.randn(count, WIDTH.total, generator=rng, dtype=torch.float64)
        with torch.no_grad():
            u, after = policy.act(obs, torch.full((count,), t == 0), z, "sample", rng)
        steps.append((obs, z, torch.cat([u[:, : policy.actions], after], -1)))
        z = after
    obs, before, u = (torch.stack(column, 1) for column in zip(*steps, strict=True))
    r = torch.randn(count, horizon, generator=rng, dtype=torch.float64)
    return Trajectories(obs, before, u, alive * r, alive)


def one_step(policy, e, n, t, z):
    decision = policy(View(e.obs[n, t].unsqueeze(0), torch.tensor([t == 0]), z))
    return decision.mean[: policy.actions], decision.carry


def by_autograd(policy, e, n, estimator, weight):
    """sum_t w_t d log pi of episode n, the memory recomputed from the noise that occurred in the last L steps."""
    m, zd, horizon = policy.actions, policy.memory.decided, e.r.shape[1]
    sigma_z, total = policy.spread[m:].exp(), torch.zeros(())
    for t in range(int(e.alive[n].sum())):
        first = t if estimator.decides else max(0, t + 1 - (estimator.context or horizon))
        z = e.z[n, first]
        for k in range(first, t):
            eta, known = one_step(policy, e, n, k, z)[1], one_step(policy, e, n, k, e.z[n, k])[1]
            noise = ((e.u[n, k, m:] - known)[:zd] / sigma_z).detach()
            z = eta + sigma_z * noise if zd else eta
        mean = torch.cat(one_step(policy, e, n, t, z)) if estimator.decides else one_step(policy, e, n, t, z)[0]
        kept = slice(len(mean))
        log_prob = torch.distributions.Normal(mean, policy.spread.exp()[kept]).log_prob(e.u[n, t, kept]).sum()
        total = total + weight[n, t] * log_prob
    learned = [p for p in policy.parameters() if p.requires_grad]
    found = torch.autograd.grad(total, learned, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(learned, found, strict=True)]
    return torch.cat([part.flatten() for part in parts])


PATHS = {"s2pg": S2PG, "bptt": BPTT} | {f"bptt{L}": Estimator(decides=False, context=L) for L in (1, 2, 4)}


@pytest.mark.parametrize("signal", ["return", "reward_to_go"])
@pytest.mark.parametrize(
    ("memory", "path"), [pair for pair in product(MEMORIES, PATHS) if pair != ("deterministic", "s2pg")]
)
def test_gradient_of_each_trajectory_is_that_of_a_plain_loop_with_autograd(memory, path, signal):
    policy = network(memory).double()
    e, estimator = trajectories(policy), replace(PATHS[path], signal=signal)
    found = gradients(estimator, policy, e, 0.9)
    weight = returns(signal, 0.9 ** torch.arange(6, dtype=torch.float64) * e.r)
    for n in range(len(found)):
        torch.testing.assert_close(found[n], by_autograd(policy, e, n, estimator, weight), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("signal", ["return", "reward_to_go"])
@pytest.mark.parametrize("path", ["s2pg", "bptt", "bptt2"])
def test_baselines_take_multiples_of_the_scores_of_all_steps_or_of_each(path, signal):
    policy, estimator = network().double(), replace(PATHS[path], signal=signal)
    e = trajectories(policy, count=4)
    plain, each = gradients(estimator, policy, e), torch.eye(6, dtype=torch.float64)
    weights = each if signal == "reward_to_go" else each.sum(0, keepdim=True)
    scores = [[by_autograd(policy, e, n, estimator, w.expand(4, -1)) for w in weights] for n in range(4)]
    controls = torch.stack([torch.stack(row) for row in scores])
    for baseline in ("scalar", "componentwise"):
        expected = subtract_baseline(plain, controls, baseline == "componentwise")
        found = gradients(replace(estimator, baseline=baseline), policy, e)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_layers_whose_products_have_derivatives_of_their_own_are_read_row_by_row(monkeypatch):
    """`nets.Linear` and `nets.GRU` leave the path that `torch.func` can follow where they see many rows."""
    monkeypatch.setattr(kernels, "MANY_ROWS", 64)
    torch.manual_seed(0)
    policy = Policy(Recurrent(WIDTH, GRU, 96, 64, decides=True), 2, [64], (0.5, 0.3)).double()
    e = trajectories(policy, count=2, horizon=130)
    found, noise = gradients(replace(S2PG, signal="return"), policy, e), policy.spread.exp()
    for n in range(2):
        kept = e.alive[n].bool()
        decision = policy(
            View(e.obs[n, kept].unsqueeze(1), torch.zeros(int(kept.sum()), 1, dtype=torch.bool), e.z[n, kept])
        )
        log_prob = torch.distributions.Normal(decision.mean, noise).log_prob(e.u[n, kept]).sum()
        expected = torch.autograd.grad(log_prob * e.r[n].sum(), list(policy.parameters()), retain_graph=True)
        torch.testing.assert_close(found[n], torch.cat([g.flatten() for g in expected]), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("context", [6, 9])
def test_a_context_of_all_steps_or_more_is_no_truncation(context):
    policy = network().double()
    e = trajectories(policy)
    full, cut = gradients(BPTT, policy, e), gradients(replace(BPTT, context=context), policy, e)
    torch.testing.assert_close(cut, full, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(gradients(replace(BPTT, context=5), policy, e), full)


def test_a_fixed_sigma_is_no_parameter():
    policy = network(spread=("fixed", "fixed")).double()
    e = trajectories(policy)
    learned = gradients(S2PG, network().double(), e)
    assert learned.shape[1] - gradients(S2PG, policy, e).shape[1] == 5


class Echo:
    """N copies at once: a number is shown once, then every step costs (its distance to the action)^2.

    The episodes of odd copies end after two steps.
    """

    num_envs = 10_000

    def reset(self, seed):
        rng = np.random.default_rng(seed[0])
        self.shown, self.t = rng.standard_normal(self.num_envs), 0
        return self._observe(self.shown), {}

    def step(self, action):
        cost = (action[:, 0] - self.shown) ** 2
        self.t += 1
        ended = (np.arange(self.num_envs) % 2 == 1) & (self.t >= 2)
        return self._observe(0 * self.shown), -cost, ended, np.zeros_like(ended), {}

    def _observe(self, shown):
        blank = np.zeros_like(shown)
        return {"obs": np.stack([shown, blank + self.t / 4, blank], 1).astype(np.float32)}


@pytest.fixture(scope="module")
def echo():
    policy = network(actions=1)
    e = collect(policy, Echo(), lambda obs: obs, 20_000, 4, seed=0)
    names = {
        f"{path}/{signal}/{baseline}": replace(PATHS[path], signal=signal, baseline=baseline)
        for path in ("s2pg", "bptt", "bptt2")
        for signal in ("return", "reward_to_go")
        for baseline in ("none", "scalar")
    }
    return {name: gradients(estimator, policy, e).double() for name, estimator in names.items()}


@pytest.mark.parametrize("baseline", ["none", "scalar"])
@pytest.mark.parametrize("signal", ["return", "reward_to_go"])
def test_score_and_pathwise_gradient_have_one_mean_and_the_truncated_one_another(echo, signal, baseline):
    s2pg, bptt, bptt2 = (echo[f"{path}/{signal}/{baseline}"] for path in ("s2pg", "bptt", "bptt2"))
    zeros = torch.zeros(s2pg.shape[1])
    assert z_scores(s2pg - bptt, zeros).abs().max() < SIGMAS
    assert z_scores(s2pg, zeros).abs().max() > 10
    assert z_scores(bptt2 - bptt, zeros).abs().max() > 6


@pytest.mark.parametrize("path", ["s2pg", "bptt", "bptt2"])
def test_baseline_changes_no_mean_and_reduces_the_variance(echo, path):
    for signal in ("return", "reward_to_go"):
        plain, scalar = (echo[f"{path}/{signal}/{b}"] for b in ("none", "scalar"))
        assert z_scores(plain - scalar, torch.zeros(plain.shape[1])).abs().max() < SIGMAS
        assert total_variance(scalar)[0] < 0.8 * total_variance(plain)[0]


# Collecting


def test_steps_after_an_end_count_for_nothing_and_memories_follow_the_decisions():
    envs, policy = worlds.make_vector("CueRecall", {"delay": 2}, 4), network_for("CueRecall", {"delay": 2})
    e = collect(policy, envs, lambda obs: obs, 10, 5, seed=0)
    assert e.alive.tolist() == [[1, 1, 1, 0, 0]] * 10
    assert torch.equal(e.r.abs(), torch.tensor([[0.0, 0, 1, 0, 0]]).expand(10, 5))
    assert not e.z[:, 0].any()
    assert torch.equal(e.z[:, 1:], e.u[:, :-1, 1:])
    assert torch.equal(e.obs[:, 0, 0].abs(), torch.ones(10))
    assert len({tuple(row) for row in e.u[:, 0].tolist()}) == 10
    changed = e._replace(
        obs=torch.where(e.alive.bool().unsqueeze(-1), e.obs, 7.0), u=e.u + 7 * (1 - e.alive)[..., None]
    )
    for estimator in (S2PG, BPTT, Estimator(baseline="scalar")):
        assert torch.equal(gradients(estimator, policy, e), gradients(estimator, policy, changed))


def network_for(task, options=None):
    spec = worlds.spec(task, options)
    torch.manual_seed(0)
    return Policy(Recurrent(spec.widths["obs"], GRU, 4, 3, decides=True), spec.actions, [], (0.5, 0.3))


def test_same_seed_same_gradients_and_the_observation_statistics_stand_still():
    agent = tiny_agent(tiny("s2pg", "HopperV", options={}))
    envs, observe = worlds.make_vector("HopperV", {}, 3), agent.normalisers["obs"]
    one, two, other = (collect(agent.policy, envs, observe, 5, 6, seed) for seed in (1, 1, 2))
    assert observe.count == 0
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.u, other.u)
    assert torch.equal(gradients(BPTT, agent.policy, one), gradients(BPTT, agent.policy, two))


COLUMNS = "horizon estimator count variance low high error snr bias bias_error cosine exact_norm bound seconds"


def test_rows_have_the_columns_of_the_study_with_closed_forms():
    envs, policy = worlds.make_vector("HopperV", {}, 3), network_for("HopperV")
    rows = [*measure(policy, envs, lambda obs: obs, {"s2pg": S2PG, "bptt": BPTT}, (2, 4), 6, seed=0)]
    assert [(row["horizon"], row["estimator"]) for row in rows] == [(2, "s2pg"), (2, "bptt"), (4, "s2pg"), (4, "bptt")]
    for row in rows:
        assert list(row) == COLUMNS.split()
        assert row["count"] == 6
        assert 0 < row["low"] < row["variance"] < row["high"] < math.inf
        assert all(math.isnan(row[name]) for name in ("bias", "cosine", "exact_norm", "bound"))


@pytest.mark.parametrize(
    ("estimator", "policy", "message"),
    [
        (Estimator(signal="advantage"), network(), "critic"),
        (Estimator(signal="q_gradient"), network(), "critic"),
        (S2PG, network("deterministic"), "no score"),
        (BPTT, network(spread=("state", "fixed")), "sigma"),
        (BPTT, network(shape=Shape(Tanh())), "squashed"),
    ],
)
def test_what_means_nothing_here_is_refused(estimator, policy, message):
    with pytest.raises(ValueError, match=message):
        gradients(estimator, policy, trajectories(network().double()))


@pytest.mark.slow
def test_hopper_with_a_memory_of_32_is_measured_in_less_than_2_minutes():
    """Six estimators, 200 trajectories at each of T = 1, 2, 4, ..., 128, on one core."""
    spec = worlds.spec("HopperV")
    policy = Policy(Recurrent(spec.widths["obs"], GRU, 32, 32, decides=True), spec.actions, [32], (0.5, 0.5))
    names = {f"{path}/{signal}": replace(PATHS[path], signal=signal) for path in ("s2pg", "bptt") for signal in SIGNALS}
    names |= {f"bptt5/{signal}": Estimator(False, 5, signal) for signal in SIGNALS}
    start, envs = time.perf_counter(), worlds.make_vector("HopperV", {}, 20)
    rows = [*measure(policy, envs, lambda obs: obs, names, tuple(2**k for k in range(8)), 200, seed=0)]
    took = time.perf_counter() - start
    print(f"\n{took:.1f} s, of which gradients {sum(row['seconds'] for row in rows):.1f} s")
    assert len(rows) == 48
    assert took < 120


SIGNALS = ("return", "reward_to_go")
