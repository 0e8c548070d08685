"""What the folders of runs say about time, memory and disk."""

from __future__ import annotations

import pickle
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pandas as pd

from s2pg.training import checkpoint


class Measured(NamedTuple):
    """Medians over runs (memory: their maximum)."""

    training: float  # seconds per environment step: environment, acting and learning
    evaluation: float  # seconds per step of an evaluation episode
    episode_length: float  # steps of an evaluation episode
    memory_mb: float  # largest resident memory
    fixed_bytes: float  # of all files, but for what grows with the number of epochs
    epoch_bytes: float  # of event files, per epoch
    row_bytes: float  # of an evaluation episode


def measured(folders: list[Path]) -> Measured:
    """Read finished runs. The first epoch, in which libraries warm up, does not count where there is another."""
    runs = [_read(folder) for folder in folders]
    middle = Measured(*(median(column) for column in zip(*runs, strict=True)))
    return middle._replace(memory_mb=max(run.memory_mb for run in runs))


def _read(folder: Path) -> Measured:
    timing, episodes = (pd.read_parquet(folder / f"{name}.parquet") for name in ("timing", "episodes"))
    epochs = len(timing) - 1
    spent = timing[["environment", "acting", "learning"]].sum(axis=1) / timing["step"].diff()
    steps = episodes.groupby("step")["length"].sum()
    evaluating = timing.set_index("step")["evaluation"] / steps
    row = len(pickle.dumps(episodes.to_dict("records"))) / len(episodes)
    events = sum(path.stat().st_size for path in folder.glob("events.out.tfevents.*"))
    everything = sum(path.stat().st_size for path in folder.iterdir())
    return Measured(
        training=float(spent.iloc[min(2, epochs) :].median()) if epochs else 0.0,
        evaluation=float(evaluating.iloc[min(1, epochs) :].median()),
        episode_length=float(episodes["length"].mean()),
        memory_mb=checkpoint.read_json(folder / "done.json")["peak_memory_mb"],
        fixed_bytes=everything - events - 2 * row * len(episodes),
        epoch_bytes=events / max(epochs, 1),
        row_bytes=row,
    )
