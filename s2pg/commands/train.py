"""`s2pg train`: one run into one folder."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import torch

from s2pg.build import build, spec
from s2pg.config import ConfigError, RunConfig, load_experiment, parse_overrides, resolve
from s2pg.hyperparameters import IMITATION
from s2pg.kernels import keep_freed_memory
from s2pg.training import loop
from s2pg.training.stop import Stopped

STOPPED = 75  # exit code of a run that SIGTERM stopped: try again (EX_TEMPFAIL)


def run(args: Namespace) -> int:
    """Train; 0 also for a run that diverged, which is a result and not a mistake; 75 for one that was told to stop."""
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    config = configuration(args)
    out = Path(args.out or Path("results", config.id.folder))
    try:
        done = loop.train(config, build, out, progress=not args.quiet, dataset=dataset(args, config))
    except Stopped as stopped:
        print(f"{stopped}; goes on from there when it is started again ({out})", file=sys.stderr)
        return STOPPED
    if done["status"] == "failed":
        print(f"failed: {done['reason']} ({out})")
    elif not args.quiet:
        print(f"{done['status']}: {done['steps']} steps in {done['seconds']:.1f} s ({out})")
    return 0


def dataset(args: Namespace, config: RunConfig) -> Path:
    """The expert's dataset: as given, or the workflow's of the same task and scale."""
    if args.dataset and config.expert_episodes is None:
        raise ConfigError(f"--dataset: {config.algorithm} learns from no expert; allowed with {', '.join(IMITATION)}")
    return Path(args.dataset or Path("results", config.id.dataset))


def configuration(args: Namespace) -> RunConfig:
    """The run that the arguments name, with a task that can be built."""
    overrides = parse_overrides(args.set)
    if args.device:
        overrides["device"] = args.device
    first = load_experiment(args.experiment).scale(args.scale).first_seed
    seed = first if args.seed is None else args.seed
    config = resolve(args.experiment, args.task, args.method, seed, args.scale, overrides)
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device: {config.device!r}, but PyTorch sees no CUDA here; allowed: auto, cpu")
    spec(config.task, config.task_options)
    return config
