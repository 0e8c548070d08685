"""From the run folders of a grid to tidy Parquet tables, and back from the tables to frames.

One bad run never takes the collection down and is never hidden: it becomes a row of `runs` with status "failed"
(its files cannot be read; the reason names the file) or "missing" (no result yet).
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Tables:
    """The tidy tables (see analysis/schema.py) of one grid, and the grid itself (the content of grid.json)."""

    runs: pd.DataFrame
    scalars: pd.DataFrame
    episodes: pd.DataFrame
    timing: pd.DataFrame
    grid: dict[str, Any] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """The evaluation mode that the experiment's statistics use; the other one is shown too."""
        return self.grid.get("spec", {}).get("mode", "mean")


def collect(grid: Path, runs: Path, out: Path) -> Tables:
    """Reads every attempted run of `grid` below `runs` and writes runs, scalars, episodes and timing .parquet and
    a copy of grid.json to `out`.

    `runs` is results/runs: a run lies in <scale>/<experiment>/<task>/<method>/seed_<n>.
    """
    raise NotImplementedError


def read_tables(folder: Path) -> Tables:
    """The tables that `collect` wrote to `folder`; AnalysisError if a file is absent or breaks its schema."""
    raise NotImplementedError


def read_scalars(folder: Path) -> pd.DataFrame:
    """Columns tag, step, value, wall_time from all event files of a run folder, last value per (tag, step)."""
    raise NotImplementedError


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis collect`."""
    parser.add_argument("--grid", type=Path, required=True, help="grid.json: the runs that were attempted")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders, e.g. results/runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables, e.g. results/tables/demo/ppo")


def main(arguments: argparse.Namespace) -> None:
    """`python -m analysis collect`."""
    collect(arguments.grid, arguments.runs, arguments.out)
