"""Time and memory of an update against the context and against how much is done in parallel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.studies import timing_figures
from analysis.studies.timing_figures import ACTIVITIES, CELL, QUANTITIES, WITH_CONTEXT, kind_label, order_kinds
from analysis.tables.content import Table

COLUMNS = {
    "case": "name in the study's file",
    "algorithm": "ppo, sac or td3",
    "task": "environment",
    "device": "cpu or cuda",
    "kind": "of memory, or density_*: a density of S2PG's decisions alone",
    "context": "L, steps that learning unrolls the memory; 1 for kinds that have no context",
    "environments": "that act together",
    "samples": "loss terms per gradient step (about)",
    "usual_environments": "whether that is the case's usual number",
    "usual_samples": "whether that is the case's usual number",
    "round": "from 0; in a round all cells take turns",
    "environment": "seconds per environment step",
    "acting": "seconds per environment step",
    "learning": "seconds per environment step",
    "steps": "environment steps of a turn",
    "terms": "loss terms of a turn, counted",
    "gradient_steps": "of a turn, counted",
    "peak_memory_mb": "by which one update makes a process of its own grow (on a GPU: its memory there), measured once",
    "gflops": "1e9 operations per second in a matrix product before the round: the machine's yardstick",
    "call_us": "microseconds of a call of torch on 32 numbers before the round",
}
Interval = tuple[float, float, float]  # estimate, low, high


def per_term(frame: pd.DataFrame) -> pd.Series:
    """Learning time in seconds per 1000 loss terms, of every row."""
    return 1000 * frame["learning"] * frame["steps"] / frame["terms"]


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per case, device and cell: median, `_low` and `_high` (quartiles) over rounds of every quantity.

    The activities are in milliseconds per environment step, `total` is their sum, `per_term` is in seconds per 1000
    loss terms.
    """
    rows = frame.assign(per_term=per_term(frame), **{name: 1000 * frame[name] for name in ACTIVITIES})
    rows["total"] = rows[list(ACTIVITIES)].sum(axis=1, skipna=False)
    groups = rows.groupby(list(CELL), sort=False)
    found = groups[
        ["usual_environments", "usual_samples", "steps", "terms", "gradient_steps", "peak_memory_mb"]
    ].first()
    found["rounds"] = groups.size()
    for name in QUANTITIES:
        for suffix, share in (("", 0.5), ("_low", 0.25), ("_high", 0.75)):
            found[name + suffix] = groups[name].quantile(share)
    return found.reset_index()


# --- statistics of claims --------------------------------------------------------------------------------------------


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Ends between which the median lies with a probability of at least `level`, from the order of the values alone.

    None if there are too few values (fewer than 6 for 95 %).
    """
    ordered, n, outside, cut = np.sort(values), len(values), 0.0, 0
    while 2 * (outside + math.comb(n, cut) / 2**n) <= 1 - level:
        outside += math.comb(n, cut) / 2**n
        cut += 1
    return (float(ordered[cut - 1]), float(ordered[n - cut])) if cut else None


def _usual(frame: pd.DataFrame, rule: Mapping[str, Any], kind: str) -> pd.DataFrame:
    """Seconds per 1000 loss terms, rounds x contexts, on the CPU with the usual numbers of the rule's case."""
    chosen = (frame["case"] == rule["case"]) & (frame["kind"] == kind) & (frame["device"] == "cpu")
    rows = frame[chosen & frame["usual_environments"] & frame["usual_samples"]]
    return rows.assign(value=per_term(rows)).pivot(index="round", columns="context", values="value")


def slope(frame: pd.DataFrame, rule: Mapping[str, Any]) -> Interval | None:
    """d log time / d log L of `a` from the context `from` on, of the best line in every round."""
    wide = _usual(frame, rule, rule["a"])
    wide = wide[[context for context in wide.columns if context >= rule["from"]]]
    if wide.shape[1] < 2:
        return None
    x = np.log(wide.columns.to_numpy(float))
    return _median(np.polyfit(x, np.log(wide.to_numpy().T), 1)[0])


def negative_slope(frame: pd.DataFrame, rule: Mapping[str, Any]) -> Interval | None:
    """Minus that, for claims that something grows no faster than so."""
    found = slope(frame, rule)
    return found and (-found[0], -found[2], -found[1])


def ratio(frame: pd.DataFrame, rule: Mapping[str, Any]) -> Interval | None:
    """Time of `a` over that of `b` in every round, at the context `at` of those that have one."""
    sides = []
    for key in ("a", "b"):
        wide = _usual(frame, rule, rule[key])
        columns = [L for L in wide.columns if rule[key] not in WITH_CONTEXT or rule["at"] == L]
        if len(columns) != 1:
            return None
        sides.append(wide[columns[0]])
    return _median((sides[0] / sides[1]).dropna().to_numpy())


def _median(values: np.ndarray) -> Interval | None:
    ends = median_interval(list(values))
    return ends and (float(np.median(values)), *ends)


STATISTICS = {"slope": slope, "negative_slope": negative_slope, "ratio": ratio}
WORDS = {
    "slope": "slope of log learning time per loss term against log L of {a}, L from {from}",
    "negative_slope": "minus the slope of log learning time per loss term against log L of {a}, L from {from}",
    "ratio": "learning time per loss term of {a} over that of {b}, L = {at}",
}
LABEL = kind_label


# --- tables ----------------------------------------------------------------------------------------------------------


def context_table(data: pd.DataFrame) -> Table:
    """Seconds per 1000 loss terms, a column per context."""
    data = data[data["usual_environments"] & data["usual_samples"]]
    caption = (
        "Learning time in seconds per 1000 loss terms, median over rounds (quartiles), against the context L, with the "
        "usual numbers of environments and of loss terms per gradient step. Kinds without a context stand under 1."
    )
    return Table(caption, data, _wide(data, "per_term"))


def memory_table(data: pd.DataFrame) -> Table:
    """Peak memory, a column per context."""
    data = data[data["usual_environments"] & data["usual_samples"] & data["peak_memory_mb"].notna()]
    caption = (
        "MB by which one update makes a process of its own grow (on a GPU: the growth there), against the "
        "context L, measured once."
    )
    return Table(caption, data, _wide(data, "peak_memory_mb"))


def split_table(data: pd.DataFrame) -> Table:
    """Where a step's time goes, of every cell."""
    data = data[data["total"].notna()]
    shown = _head(data)
    shown["L"], shown["environments"], shown["samples"] = (
        data[name].to_numpy() for name in ("context", "environments", "samples")
    )
    for name in (*ACTIVITIES, "total"):
        shown[f"{name} (ms/step)"] = _cells(data, name)
    shown["loss terms / step"] = [f"{value:.3g}" for value in data["terms"] / data["steps"]]
    shown["loss terms / gradient step"] = [f"{value:.0f}" for value in data["terms"] / data["gradient_steps"]]
    shown["hours / million steps"] = [f"{value / 3.6:.2f}" for value in data["total"]]
    caption = (
        "Milliseconds per environment step, median over rounds (quartiles), what it is made of, and what a run of a "
        "million steps would take at as many loss terms per step."
    )
    return Table(caption, data, shown)


def density_table(data: pd.DataFrame) -> Table:
    """What the reference's density adds to S2PG's learning time."""
    usual = data[data["usual_environments"] & data["kind"].str.startswith("density_")]
    learns = data[(data["kind"] == "s2pg") & data["usual_environments"]]
    both = usual.merge(
        learns[["case", "device", "samples", "per_term"]],
        on=["case", "device", "samples"],
        how="left",
        suffixes=("", "_s2pg"),
    )
    shown = _head(both)
    shown["loss terms / gradient step"] = both["samples"]
    shown["s / 1000 loss terms"] = _cells(both, "per_term")
    shown["share of S2PG's learning time (ours)"] = [
        f"{value:.0%}" for value in both["per_term"] / both["per_term_s2pg"]
    ]
    caption = (
        "Density of a decision and its gradient alone, for as many loss terms as an update has, beside the whole "
        "learning time of our S2PG. The reference's is the joint one with validated arguments."
    )
    return Table(caption, both, shown)


def _wide(data: pd.DataFrame, name: str) -> pd.DataFrame:
    """Formatted cells, a row per case, device and kind."""
    cells = data.assign(cell=_cells(data, name))
    wide = cells.pivot(index=["case", "device", "kind"], columns="context", values="cell")
    wide = wide.reindex(data[["case", "device", "kind"]].drop_duplicates().itertuples(index=False, name=None))
    wide.columns = [f"L = {context}" for context in wide.columns]
    return _labelled(wide.fillna("").reset_index())


def _head(data: pd.DataFrame) -> pd.DataFrame:
    return _labelled(data[["case", "device", "kind"]].reset_index(drop=True))


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(kind=frame["kind"].map(kind_label)).rename(columns={"kind": "memory"})


def _cells(data: pd.DataFrame, name: str) -> list[str]:
    """E.g. `0.54 (0.49 to 0.59)`; without quartiles where there are none."""
    if name + "_low" not in data:
        return [f"{value:.3g}" for value in data[name]]
    return [f"{m:.3g} ({a:.3g} to {b:.3g})" for m, a, b in data[[name, name + "_low", name + "_high"]].to_numpy()]


def make_tables(frame: pd.DataFrame) -> dict[str, Table]:
    """Name -> table."""
    data = summarise(frame).sort_values(
        ["case", "device", "kind", "context", "environments", "samples"],
        key=lambda column: column.map(order_kinds(column).index) if column.name == "kind" else column,
        ignore_index=True,
    )
    made = {"timing_context": context_table, "timing_split": split_table, "timing_memory": memory_table}
    found = {name: make(data) for name, make in made.items()}
    if data["kind"].str.startswith("density_").any():
        found["timing_density"] = density_table(data)
    return found


PICTURES = {
    name: (title, caption, lambda frame, draw=draw: draw(summarise(frame)), detail)
    for name, (title, caption, draw, detail) in timing_figures.PICTURES.items()
}


def budget(frame: pd.DataFrame) -> str:
    """What was timed."""
    return f"{frame['round'].nunique()} rounds on {', '.join(frame['device'].unique())}"
