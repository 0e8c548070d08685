"""What the tables say: tidy rows for CSV, formatted cells for Markdown and LaTeX, run counts in every one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import claims, schema, setting, stats, style
from analysis.load import Tables, read_table, read_tables

COUNTS = ("attempted", "finished", "failed", "missing")
NO_SUCCESS = "No task of this experiment says what success is."
NO_DELAY = "No task of this experiment has a delay."
REACHED = 0.5  # share of the normalised scale in the table `time_to_reach`


@dataclass(frozen=True)
class Results:
    """Everything that tables are made from."""

    tables: Tables
    statistics: pd.DataFrame
    wall_clock: pd.DataFrame
    verdicts: Sequence[claims.Verdict] = ()

    def pick(self, statistics: Iterable[str], scores: Iterable[str] = ("final",)) -> pd.DataFrame:
        """Rows of `statistics`, the experiment's evaluation mode first."""
        found = self.statistics[
            self.statistics["statistic"].isin(list(statistics)) & self.statistics["score"].isin(list(scores))
        ]
        return found.sort_values("mode", key=lambda mode: mode != self.tables.mode, kind="stable")


@dataclass(frozen=True)
class Table:
    """A table: `data` goes to CSV, `shown` to Markdown and LaTeX under `caption`."""

    caption: str
    data: pd.DataFrame
    shown: pd.DataFrame


def returns(results: Results) -> Table:
    """Raw returns per task and method in both evaluation modes."""
    data = results.pick(["return_mean", "return_iqm"])
    shown = _spread(data, ["task", "method"], ["statistic", "mode"], "z.1f")
    caption = "Returns of the last tenth of the evaluations, mean and interquartile mean over runs, 95 % interval"
    return Table(f"{caption}. Failed runs count with the random policy's return.", data, shown)


def aggregates(results: Results) -> Table:
    """Normalised scores over all tasks, both modes; the area score beside the final one."""
    data = results.pick(["iqm", "median", "mean", "optimality_gap"], schema.SCORES)
    shown = _spread(data, ["score", "mode", "method"], ["statistic"], "z.3f")
    if data["estimate"].isna().all():
        shown = _none(results, setting.no_scale(results.tables.grid))
    return Table(
        f"Normalised scores ({setting.scale(results.tables.grid)}) over all tasks, 95 % interval.", data, shown
    )


def improvement(results: Results) -> Table:
    """Probability of improvement of the row's method over the column's."""
    data = results.pick(["improvement"])
    main = data[data["mode"] == results.tables.mode]
    cells = main.assign(cell=[cell(row, "z.2f") for row in main.to_dict("records")])
    methods = style.order_methods(main["method"].unique())
    shown = cells.pivot(index="method", columns="versus", values="cell").reindex(index=methods, columns=methods)
    shown = shown.fillna("").rename(columns=style.label).reset_index().rename(columns={"method": "above"})
    counts = results.tables.runs.groupby("method")["status"].agg(list)
    shown["runs"] = [_runs(_count(counts[method])) for method in methods]
    shown["above"] = shown["above"].map(style.label)
    caption = "Probability that a run of the row's method ends with a higher score than a run of the column's"
    return Table(f"{caption}, mean over tasks, {results.tables.mode} mode, 95 % interval.", data, shown)


def wall_clock(results: Results) -> Table:
    """Where the time goes: seconds per 1000 environment steps, and what a run needs."""
    data = _sorted(results.wall_clock, ["task", "method"])
    shown = _labelled(data[["task", "method"]])
    for name in ("environment", "acting", "learning", "training"):
        shown[f"{name} (s / 1000 steps)"] = _numbers(data[name], ".3f")
    shown["steps / s"] = _numbers(data["steps_per_second"], ".0f")
    shown["seconds per run"] = _numbers(data["seconds"], ".1f")
    shown["peak memory (MB)"] = _numbers(data["peak_memory_mb"], ".0f")
    shown["runs"] = [_runs(row) for row in data.to_dict("records")]
    caption = (
        "Medians over runs; times per step leave out evaluation and a run's first epoch. Training is environment, "
        "acting and learning together; the seconds of a run include everything."
    )
    return Table(caption, data, shown)


def time_to_reach(results: Results) -> Table:
    """How long a run trains until its return first reaches half of the normalised scale; never counts as infinite."""
    found, ends = stats.reaching(results.tables, REACHED), setting.ends(results.tables.grid)
    runs = results.tables.runs[~results.tables.runs["method"].isin(setting.UNTRAINED)]
    rows = []
    for (task, method), group in runs.groupby(["task", "method"], sort=False):
        mine = found[(found["task"] == task) & (found["method"] == method) & found["threshold"].notna()]
        row = {"task": task, "method": method, "n": len(mine), "reached": int(np.isfinite(mine["step"]).sum())}
        row["threshold"] = mine["threshold"].iloc[0] if len(mine) else np.nan
        for name in ("seconds", "step"):
            known = np.sort(mine[name].dropna())
            row |= {name: np.median(known) if len(known) else np.nan, f"{name}_runs": _until(known)}
        rows.append({**row, **stats.tally(group)})
    names = ["task", "method", "threshold", "n", "reached", "seconds", "seconds_runs", "step", "step_runs", *COUNTS]
    data = _sorted(pd.DataFrame(rows, columns=names), ["task", "method"])
    shown = _labelled(data[["task", "method"]]).assign(threshold=_numbers(data["threshold"], "z.1f"))
    shown["reached"] = [
        f"{row['reached']} of {row['n']}" if row["n"] else "no scale" for row in data.to_dict("records")
    ]
    shown["training seconds"], shown["environment steps"] = data["seconds_runs"], data["step_runs"]
    shown["runs"] = [_runs(row) for row in data.to_dict("records")]
    caption = (
        f"Training until the return of an evaluation first reaches {REACHED:.0%} of the way from the {ends['zero']} to "
        f"the {ends['one']} ({results.tables.mode} mode): median over runs (soonest to latest). A run that never gets "
        "there, or fails before, counts as never. Time of evaluation is not counted."
    )
    return Table(caption, data.drop(columns=["seconds_runs", "step_runs"]), shown)


def _until(values: Sequence[float]) -> str:
    """Median and range, e.g. `12 (9 to never)`; an en dash for none."""
    if not len(values):
        return "–"
    middle, low, high = (
        "never" if np.isinf(v) else f"{v:,.3g}" if v < 100 else f"{v:,.0f}"
        for v in (np.median(values), values[0], values[-1])
    )
    return f"{middle} ({low} to {high})"


def accounting(results: Results) -> Table:
    """Every attempted run: finished, failed or missing, and why."""
    data = _sorted(stats.accounting(results.tables), ["task", "method"])
    shown = _labelled(data[["task", "method"]]).join(data[[*COUNTS, "configurations", "reasons"]])
    total = {"task": "all", "method": "", **data[list(COUNTS)].sum(), "configurations": "", "reasons": ""}
    shown = pd.concat([shown, pd.DataFrame([total])], ignore_index=True)
    caption = (
        "Attempted runs. Missing runs have no result yet; statistics without them are marked incomplete. More than"
    )
    return Table(f"{caption} one configuration in a row means that its runs are not comparable.", data, shown)


def memory_probe(results: Results) -> Table:
    """What a linear readout finds of the hidden groups: in the observation alone, and with the memory beside it."""
    probed = stats.probe_scores(results.tables)
    rows = []
    for (task, method, group), runs in probed.groupby(["task", "method", "group"], sort=False):
        row = {"task": task, "method": method, "group": group, "n": len(runs)}
        for name in ("alone", "memory", "gain"):
            known = runs[name].dropna()
            row |= {name: known.median() if len(known) else None, f"{name}_runs": spread_of(known)}
        mine = results.tables.runs[(results.tables.runs["task"] == task) & (results.tables.runs["method"] == method)]
        rows.append({**row, **stats.tally(mine)})
    names = {"alone_runs": "R², observation", "memory_runs": "R², with memory", "gain_runs": "gained"}
    data = pd.DataFrame(rows, columns=["task", "method", "group", "n", "alone", "memory", "gain", *names, *COUNTS])
    data = _sorted(data, ["task", "method"])
    shown = _labelled(data[["task", "method", "group", *names, "n"]]).rename(columns={**names, "group": "hidden"})
    shown["runs"] = [_runs(row) for row in data.to_dict("records")]
    caption = (
        "R² of a linear readout of what is hidden, on held-out episodes of the trained policy, from the observation "
        "alone and with the memory beside it: median over the n probed runs (lowest to highest). A window's memory is "
        "the window."
    )
    return Table(caption, data.drop(columns=list(names)), shown)


def spread_of(values: pd.Series) -> str:
    """Median and range of a few runs, e.g. `0.54 (0.49 to 0.59)`; an en dash for none."""
    known = values.dropna()
    if known.empty:
        return "–"
    return f"{known.median():z.2f} ({known.min():z.2f} to {known.max():z.2f})"


def verdicts(results: Results) -> Table:
    """Each claim with its verdict and the numbers behind it."""
    found = results.verdicts
    counts = [{name: verdict.counts[name] for name in COUNTS} for verdict in found]
    names = [field.name for field in fields(claims.Verdict) if field.name not in ("counts", "budget")]
    data = pd.DataFrame([{f: getattr(v, f) for f in names} | n for v, n in zip(found, counts, strict=True)])
    data = data.reindex(columns=[*names, *COUNTS])
    shown = data[["text", "verdict"]].assign(
        statistic=data["statistic"] + data["score"].map({"area": " of area"}).fillna(""),
        estimate=[cell(row, "z.3f") for row in data.to_dict("records")],
        threshold=_numbers(data["threshold"], "g"),
        runs=[_runs(n) for n in counts],
        reason=data["reason"],
    )
    shown = shown.rename(columns={"text": "claim"})
    known = "unless the experiment's notes say otherwise"
    return Table(f"Claims and verdicts; the rules were written before the runs that they judge, {known}.", data, shown)


def success_rate(results: Results) -> Table:
    """Success rates per task and method in both evaluation modes."""
    data = results.pick(["success_rate"])
    shown = (
        _spread(data, ["task", "method"], ["statistic", "mode"], "z.2f") if len(data) else _none(results, NO_SUCCESS)
    )
    caption = (
        "Share of successes among the episodes of the last tenth of the evaluations, mean over runs, 95 % interval. "
        "Failed runs count with the random policy's."
    )
    return Table(caption, data, shown)


def longest_delay(results: Results) -> Table:
    """The longest delay that each method learns, and how many of its runs learned each delay."""
    data = results.pick(["longest_delay", "learned"])
    data = data[(data["statistic"] == "longest_delay") | data["task"].map(setting.delay).notna()]
    main = data[data["mode"] == results.tables.mode]
    longest = _sorted(main[main["statistic"] == "longest_delay"], ["method"])
    shown = pd.DataFrame({"method": longest["method"]})
    shown["longest delay (steps)"] = [cell(row, "z.0f") for row in longest.to_dict("records")]
    for task in style.order_tasks(main.loc[main["statistic"] == "learned", "task"]):
        rows = {row["method"]: row for row in main[main["task"] == task].to_dict("records")}
        shown[f"{setting.delay(task)}"] = [_learned(rows.get(method)) for method in shown["method"]]
    shown["runs"] = [_runs(row) for row in longest.to_dict("records")]
    shown["note"] = longest["note"]
    caption = (
        "Longest delay learned: the largest delay d such that at d and at every shorter delay of the grid at least "
        f"half of the seeds end with a success rate of at least {stats.LEARNED} (last tenth of the evaluations, "
        f"{results.tables.mode} mode; 0: not even the shortest), with the 95 % interval over seeds. Beside it, per "
        "delay, how many runs did. Every delay has the same budget of environment steps."
    )
    return Table(caption, data, _labelled(shown) if len(data) else _none(results, NO_DELAY))


def _learned(row: Mapping[str, float] | None) -> str:
    """How many of the runs that left a result have learned, e.g. `2 of 3`."""
    if row is None or pd.isna(row["estimate"]):
        return "–"
    runs = row["attempted"] - row["missing"]
    return f"{row['estimate'] * runs:.0f} of {runs}"


def _none(results: Results, why: str) -> pd.DataFrame:
    """What a table shows that has nothing to say of an experiment."""
    return pd.DataFrame({"runs": [_runs(stats.tally(results.tables.runs))], "note": [why]})


TABLES = {
    "returns": returns,
    "success_rate": success_rate,
    "longest_delay": longest_delay,
    "aggregates": aggregates,
    "improvement": improvement,
    "wall_clock": wall_clock,
    "time_to_reach": time_to_reach,
    "accounting": accounting,
    "memory_probe": memory_probe,
    "claims": verdicts,
}


NEEDS = {"success_rate": "success_rate", "longest_delay": "longest_delay"}
"""Table -> the statistic without which it says nothing, and the report leaves it out."""


def read(data: Path) -> Results:
    """The results in a folder of tables; verdicts are absent if claims.json is."""
    found = claims.read_claims(data / "claims.json") if (data / "claims.json").exists() else []
    return Results(read_tables(data), read_table(data, "statistics"), read_table(data, "wall_clock"), found)


def _spread(data: pd.DataFrame, rows: list[str], columns: list[str], form: str) -> pd.DataFrame:
    """One row per combination of `rows`, one formatted cell per combination of `columns`, run counts and notes."""
    records = data.to_dict("records")
    cells = data.assign(column=[_heading([row[c] for c in columns]) for row in records])
    cells["cell"] = [cell(row, form) for row in records]
    order = list(dict.fromkeys(cells["column"]))
    shown = cells.pivot(index=rows, columns="column", values="cell")[order].reset_index()
    first = data.drop_duplicates(rows).assign(runs=lambda d: [_runs(row) for row in d.to_dict("records")])
    shown = shown.merge(first[[*rows, "runs", "note"]], on=rows).rename_axis(columns=None)
    return _labelled(_sorted(shown, rows, data))


def _sorted(frame: pd.DataFrame, by: list[str], like: pd.DataFrame | None = None) -> pd.DataFrame:
    """Rows in the fixed order of tasks and methods; other columns in the order of appearance in `like`."""
    source = frame if like is None else like
    orders = {"task": style.order_tasks, "method": style.order_methods}
    ranks = {name: orders.get(name, lambda values: list(values))(source[name].unique()) for name in by}
    return frame.sort_values(by, key=lambda c: c.map(ranks[c.name].index), ignore_index=True, kind="stable")


def _heading(parts: Sequence[str]) -> str:
    """E.g. (`return_iqm`, `mean`) -> `IQM (mean mode)`."""
    statistic, *mode = (part.removeprefix("return_").replace("_", " ").replace("iqm", "IQM") for part in parts)
    return statistic + "".join(f" ({name} mode)" for name in mode)


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(method=frame["method"].map(style.label))


def cell(row: Mapping[str, float], form: str) -> str:
    """Estimate and interval, e.g. `0.54 [0.49, 0.59]`."""
    if pd.isna(row["estimate"]):
        return "no estimate"
    if pd.isna(row["low"]):
        return f"{row['estimate']:{form}} (no interval)"
    return f"{row['estimate']:{form}} [{row['low']:{form}}, {row['high']:{form}}]"


def _numbers(values: pd.Series, form: str) -> list[str]:
    return ["" if pd.isna(value) else f"{value:{form}}" for value in values]


def _count(statuses: Sequence[str]) -> dict[str, int]:
    return {"attempted": len(statuses), **{status: statuses.count(status) for status in schema.STATUSES}}


def _runs(counts: dict) -> str:
    """E.g. `4 of 6 (1 failed, 1 missing)`."""
    lost = ", ".join(f"{counts[status]} {status}" for status in ("failed", "missing") if counts[status])
    return f"{counts['finished']} of {counts['attempted']}" + (f" ({lost})" if lost else "")
