"""The bar on the replay: a million steps of AntV in 3 GiB, a batch of 256 contexts of 32 in 5 ms."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import pytest
import torch

from s2pg.build import build
from s2pg.data.replay import Replay
from s2pg.timing.lanes import configuration
from s2pg.training import worlds

STEPS, HORIZON = 1_000_000, 1000


def fill(replay: Replay) -> None:
    """As if episodes of `HORIZON` steps had gone around the ring three times and a bit."""
    for column in (*replay.obs.values(), replay.z, replay.action, replay.reward):
        column.normal_()
    newest = 3 * STEPS + 12_345
    time_of = newest - (newest - torch.arange(STEPS)) % STEPS
    replay.cursor[0] = newest
    replay.position.copy_(time_of % (HORIZON + 1))
    replay.valid.copy_((replay.position != HORIZON) & (time_of != newest))
    replay.terminated.zero_()


@pytest.mark.slow
def test_a_million_steps_of_ant_fit_into_3_gib_and_are_sampled_within_5_ms() -> None:
    """A batch is everything that an update of SAC with BPTT over 32 steps reads, observations and states included."""
    config = configuration("AntV", "bptt32", "reference", "sac")
    config = replace(config, hparams=replace(config.hparams, replay=STEPS, value_previous_action=True))
    algorithm = build(config, worlds.spec(config.task, config.task_options)).algorithm
    assert algorithm.replay.nbytes < 3 * 2**30
    fill(algorithm.replay)
    generator, seconds = torch.Generator().manual_seed(0), []
    for _ in range(100):
        began = time.perf_counter()
        batch = algorithm.sampler(generator)
        seconds.append(time.perf_counter() - began)
    assert batch.view.obs.shape[:2] == (256, 32)
    print(f"{algorithm.replay.nbytes / 2**30:.2f} GiB, {1e3 * median(seconds):.2f} ms per batch")
    assert median(seconds) < 5e-3
