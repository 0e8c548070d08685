"""Verdicts: each claim of an experiment judged by the rule that was written before running."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from analysis.load import Tables
from analysis.stats import REPS

SUPPORTED, NOT_SUPPORTED, NOT_ENOUGH = "supported", "not supported", "not enough data"


@dataclass(frozen=True)
class Verdict:
    """A claim, its verdict and what the verdict rests on (JSON-ready through `dataclasses.asdict`)."""

    id: str
    text: str
    verdict: Literal["supported", "not supported", "not enough data"]
    statistic: str
    estimate: float | None
    low: float | None
    high: float | None
    threshold: float
    n_seeds: int  # smallest number of finished runs over the tasks and methods compared
    counts: dict[str, int]  # attempted, finished, failed, missing runs of the methods compared
    budget: dict[str, int]  # task -> environment steps
    reason: str


def judge(tables: Tables, reps: int = REPS, seed: int = 0) -> list[Verdict]:
    """One verdict per claim of the experiment (tables.grid["spec"]["claims"])."""
    raise NotImplementedError


def write_claims(verdicts: list[Verdict], path: Path) -> None:
    """Writes {"experiment", "scale", "claims": [Verdict, ...]} as JSON."""
    raise NotImplementedError


def read_claims(path: Path) -> list[Verdict]:
    """The verdicts of a claims.json."""
    raise NotImplementedError
