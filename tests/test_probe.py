"""The probe: it finds what a memory holds, and only that."""

from __future__ import annotations

import math

import numpy as np
import pytest

from s2pg.training import worlds
from s2pg.training.probe import _r2, probe
from tests.helpers import collect, same_bits, tiny, tiny_agent


def scores(method: str, task: str, episodes: int, **options: int) -> dict[tuple[str, str], float]:
    config = tiny(method, task, options=options)
    agent = tiny_agent(config)
    collect(agent, config)
    before = agent.state_dict()
    envs = [worlds.make(task, options) for _ in range(episodes)]
    rows = probe(agent, envs, list(range(episodes)), 0)
    assert same_bits(before, agent.state_dict())
    assert repr(rows) == repr(probe(agent, envs, list(range(episodes)), 0))  # NaN is not equal to itself
    return {(row["group"], row["features"]): row["r2"] for row in rows}


def test_a_window_of_positions_holds_the_velocities() -> None:
    """Differences of positions are velocities; one observation with its previous action tells them less well."""
    found = scores("window5", "InvertedPendulumV", episodes=20, max_episode_steps=100)
    assert set(found) == {("velocities", "observation"), ("velocities", "observation + memory")}
    unexplained = {features: 1 - r2 for (_, features), r2 in found.items()}
    assert unexplained["observation + memory"] < 0.02
    assert unexplained["observation"] > 5 * unexplained["observation + memory"]


def test_without_memory_there_is_nothing_to_find() -> None:
    found = scores("none", "PendulumV", episodes=4, max_episode_steps=50)
    assert len(set(found.values())) == 1


def test_an_oracle_hides_nothing_and_the_random_anchor_has_no_memory() -> None:
    for method in ("oracle", "random"):
        config = tiny(method)
        assert probe(tiny_agent(config), [worlds.make(config.task)] * 2, [0, 1], 0) == []


def test_a_score_is_one_minus_the_share_that_is_not_explained() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((4000, 3)), rng.standard_normal((4000, 2))
    y = 5 + 7 * x[:, :2] + [1, 2] * x[:, 2:]
    fit, rest = slice(0, 2000), slice(2000, None)
    assert _r2(x[fit], y[fit], x[rest], y[rest]) == pytest.approx(1.0, abs=1e-4)
    assert _r2(x[fit], noise[fit], x[rest], noise[rest]) == pytest.approx(0.0, abs=0.01)
    half = x[:, :2] + noise
    assert _r2(x[fit], half[fit], x[rest], half[rest]) == pytest.approx(0.5, abs=0.03)


def test_a_group_that_does_not_vary_has_no_score() -> None:
    """One episode to fit, one to predict, one cue in each: nothing can be said, or at least nothing like -1e25."""
    for value in scores("s2pg", "CueRecall", episodes=2, delay=3).values():
        assert math.isnan(value) or value > -100


def test_a_constant_that_single_precision_does_not_hold_exactly_does_not_vary() -> None:
    """Its standard deviation in single precision is above zero; the other dimension is still scored."""
    x = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    y = np.stack([np.full(400, 130 / 75, np.float32), x[:, 0]], 1)
    assert y.std(0)[0] > 1e-6
    assert _r2(x[:200], y[:200], x[200:], y[200:]) == pytest.approx(1.0, abs=1e-4)
