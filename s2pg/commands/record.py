"""`s2pg record`: episodes of a trained policy as a dataset for imitation."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from s2pg.build import spec
from s2pg.commands.runs import Opened, open_run
from s2pg.config import ConfigError, RunConfig
from s2pg.data.dataset import Dataset
from s2pg.training import checkpoint, worlds
from s2pg.training.checkpoint import RunError
from s2pg.training.provenance import provenance
from s2pg.training.record import record, save
from s2pg.training.worlds import derive

TOGETHER = 10  # episodes side by side


def run(args: Namespace) -> int:
    """Record, write the file and its card, and say what the expert reached."""
    torch.set_num_threads(1)
    out, folder = Path(args.out), Path(args.run)
    if out.suffix != ".npz":
        raise ConfigError(f"--out: {out} must end in .npz (the card gets the same name, ending in .json)")
    run = open_run(folder)
    _check_finished(folder)
    run = run._replace(config=with_options(run.config, args.task_options))
    seeds = [derive(args.seed, "demonstrations", i) for i in range(args.episodes)]
    envs = [worlds.make(run.config.task, run.config.task_options) for _ in range(min(args.episodes, TOGETHER))]
    dataset = record(run.agent, envs, seeds, args.mode, derive(args.seed, "demonstrations noise"))
    for env in envs:
        env.close()
    card = save(dataset, out, about(run, folder, dataset, args.mode) | {"seed": args.seed, "seeds": seeds})
    print(f"{run}: {args.episodes} episodes ({args.mode}), {len(dataset)} steps, {said(card)} ({out})")
    return 0


def with_options(config: RunConfig, text: str | None) -> RunConfig:
    """The run's configuration with other arguments of its environment, given as YAML. Raises ConfigError for others."""
    given = yaml.safe_load(text) if text else {}
    if not isinstance(given, dict):
        raise ConfigError(f"--task-options: {text!r} is no mapping, e.g. '{{max_episode_steps: 200}}'")
    options = {**config.task_options, **given}
    spec(config.task, options)
    return replace(config, task_options=options)


def said(card: dict[str, Any]) -> str:
    """The returns on a card, in words."""
    returns, lengths = card["returns"], card["lengths"]
    return f"return {returns['mean']:.2f} (std {returns['std']:.2f}), length {lengths['mean']:.1f}"


def about(run: Opened, folder: Path, dataset: Dataset, mode: str) -> dict[str, Any]:
    """The card: what was recorded, how good it is, where the policy comes from and what recorded it."""
    here = provenance()
    trained = checkpoint.read_json(folder / "provenance.json")
    return {
        "task": run.config.task,
        "task_options": run.config.task_options,
        "mode": mode,
        "episodes": int(dataset.last.sum()),
        "steps": len(dataset),
        "returns": _spread(dataset.returns),
        "lengths": _spread(dataset.lengths),
        "survival": float(1 - dataset.terminated.mean()),
        "run": {**run.config.id._asdict(), "algorithm": run.config.algorithm, "steps": run.steps},
        "config_digest": hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest(),
        "trained_at": {key: trained.get(key) for key in ("git_revision", "git_dirty", "packages")},
        "recorded_at": {key: here[key] for key in ("git_revision", "git_dirty", "packages")},
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    """`std` is that of the values themselves, not an estimate of that of others."""
    return {name: float(getattr(np, name)(values)) for name in ("mean", "std", "min", "max")}


def _check_finished(folder: Path) -> None:
    path = folder / "done.json"
    if not path.exists():
        raise RunError(f"{folder}: the run has not ended; `s2pg train` goes on with it")
    done = checkpoint.read_json(path)
    if done["status"] != "finished":
        raise RunError(f"{folder}: the run has failed ({done['reason']}); an expert must have finished")
