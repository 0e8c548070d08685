"""What the commands share: opening the folder of a run, and a task that a user named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from s2pg.build import build, spec
from s2pg.config import RunConfig
from s2pg.training import checkpoint
from s2pg.training.agent import Agent
from s2pg.training.checkpoint import RunError


class Opened(NamedTuple):
    """A run as its checkpoint holds it."""

    config: RunConfig
    agent: Agent
    steps: int

    def __str__(self) -> str:
        return f"{self.config.method} on {self.config.task}, seed {self.config.seed}, after {self.steps:,} steps"


def open_run(folder: str | Path) -> Opened:
    """The agent of a run folder, on the CPU where the run's device is not there.

    Raises:
        RunError: no run there, or its files are damaged or do not fit together.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").exists():
        raise RunError(f"{folder}: not the folder of a run (no config.yaml there); `s2pg train` makes one")
    config = RunConfig.load(folder / "config.yaml")
    if config.memory.kind == "expert":
        raise RunError(f"{folder}: holds the recorded episodes of an expert; open the run that they were recorded from")
    if not torch.cuda.is_available():
        config = replace(config, device="cpu")
    agent = build(config, spec(config.task, config.task_options))
    path = folder / "checkpoint.pt"
    state = checkpoint.load(path, agent.device)
    try:
        agent.load_state_dict(state["agent"])
        return Opened(config, agent, max(state["epoch"], 0) * config.steps_per_epoch)
    except (KeyError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: the checkpoint does not fit the config.yaml beside it ({reason})") from error
