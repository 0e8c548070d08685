"""How much memory an update needs, measured in a process that has done nothing else.

A process that has run other updates would fill their freed memory first. So a server that has loaded the libraries and
no more is copied for each measurement.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from s2pg.config import RunConfig
from s2pg.timing.lanes import Lane

UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in which the system counts


def peaks(configs: Sequence[RunConfig]) -> list[float]:
    """By how many MB one update of each run makes the process grow."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # every first optimiser loads the second
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return list(pool.map(peak, configs))


def peak(config: RunConfig) -> float:
    """Growth of this process in MB by one update (on a GPU: of what torch has taken there).

    A small update before it loads what every update needs.
    """
    torch.set_num_threads(1)
    small = Lane(_small(config))
    small.learn(small.collect())
    lane = Lane(config)
    rollouts = [lane.collect() for _ in range(getattr(config.hparams, "delay", 1))]  # TD3's policy learns in the last
    before = _reset(lane.device)
    for rollout in rollouts:
        lane.learn(rollout)
    return (_highest(lane.device) - before) / 1e6


def _small(config: RunConfig) -> RunConfig:
    """The same networks on two loss terms at a time."""
    hp, envs = config.hparams, config.hparams.num_envs
    few: dict[str, Any] = {"batch": 2}
    if config.algorithm == "ppo":
        few = {"rollout": 2 * envs, "passes": 1, "minibatch": 2}
    hp = replace(hp, **few)
    return replace(config, hparams=hp, steps_per_epoch=hp.rollout)


def _reset(device: torch.device) -> float:
    """Bytes in use now, from where the highest is counted anew; on a CPU the highest so far."""
    if device.type != "cuda":
        return _highest(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _highest(device: torch.device) -> float:
    """Most bytes in use so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return UNIT * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
