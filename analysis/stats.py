"""Scores, aggregates, profiles, comparisons and curves with stratified bootstrap intervals.

Definitions are rliable's (Agarwal et al., 2021); the bootstrap is vectorised and tested against rliable.
"""

import pandas as pd

from analysis.load import Tables

REPS = 2000
LAST = 0.1


def anchors(tables: Tables) -> pd.DataFrame:
    """Columns task, mode, random, oracle, usable (bool), reason (str): the ends of each task's normalised scale."""
    raise NotImplementedError


def evaluations(tables: Tables) -> pd.DataFrame:
    """Columns task, method, seed, mode, step, return (mean over episodes), seconds (of training so far)."""
    raise NotImplementedError


def scores(tables: Tables, last: float = LAST) -> pd.DataFrame:
    """Table `scores` of analysis/schema.py: one row per attempted run, mode and kind of score."""
    raise NotImplementedError


def statistics(tables: Tables, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """Table `statistics` of analysis/schema.py: every estimate with its interval and run counts, both modes."""
    raise NotImplementedError


def wall_clock(tables: Tables) -> pd.DataFrame:
    """Table `wall_clock` of analysis/schema.py: medians over runs per task and method."""
    raise NotImplementedError


def accounting(tables: Tables) -> pd.DataFrame:
    """Columns task, method, attempted, finished, failed, missing, complete, configurations, reasons."""
    raise NotImplementedError
