"""Scores, aggregates, profiles, comparisons and curves with stratified bootstrap intervals.

Score. The return of an evaluation is the mean over its episodes. A run's `final` score is the mean over the last tenth
of its evaluations (at least one); its `area` score is the area under its learning curve divided by the steps between
its first and last evaluation. On each task and in each mode,

    normalised = (raw - random) / (oracle - random)

with `random` and `oracle` the mean final score of the finished runs of these two methods (the anchors, unless the
experiment names others, as imitation does with `expert`), which the bootstrap holds fixed.

Failed runs count as the random policy (normalised 0): in scores always, in curves from the moment of failing. Missing
runs have no score; a statistic without them is marked incomplete. A task whose oracle is not above its random policy
beyond noise (the normal 95 % interval of the difference of their mean final scores over runs) has no scale: it is left
out of normalised statistics, which are then marked incomplete; its raw returns stay.

Success. Where a task says what success is, a run's success rate is the share of successes among the episodes that its
final score is the mean of; a failed run has the random policy's. A run has learned a task if that is at least 0.95.

Statistics are rliable's (Agarwal et al., "Deep RL at the edge of the statistical precipice", 2021), intervals are 95 %
percentile intervals of 2000 bootstrap resamples of the runs within each task. A method with a single run on some task
has no interval.
"""

import argparse
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import bootstrap, curves, schema, setting
from analysis.bootstrap import Array
from analysis.load import Tables, read_tables, write_table

REPS = 2000
LAST = 0.1
LEARNED = 0.95
AGGREGATES = ("iqm", "median", "mean", "optimality_gap")
TAUS = np.round(np.linspace(-0.25, 1.5, 71), 3)
RUN = ["task", "method", "seed"]


def evaluations(tables: Tables) -> pd.DataFrame:
    """Columns task, method, seed, mode, step, return (mean over the evaluation's episodes) and seconds: training time
    (environment + acting + learning) up to that step, NaN where the run has no timing."""
    mean = tables.episodes.groupby([*RUN, "mode", "step"])["return"].mean().reset_index()
    clocks = {key: _clock(frame) for key, frame in tables.timing.groupby(RUN)}
    mean["seconds"] = np.nan
    for key, rows in mean.groupby(RUN).indices.items():
        if key in clocks:
            mean.loc[rows, "seconds"] = np.interp(mean["step"].to_numpy()[rows], *clocks[key])
    return mean


def _clock(timing: pd.DataFrame) -> tuple[Array, Array]:
    """Steps and training seconds so far, from (0, 0)."""
    timing = timing.sort_values("step")
    seconds = timing[["environment", "acting", "learning"]].sum(axis=1).cumsum()
    return np.r_[0.0, timing["step"]], np.r_[0.0, seconds]


def anchors(tables: Tables, last: float = LAST) -> pd.DataFrame:
    """Columns task, mode, zero, one, usable (bool), reason (str): the ends of each task's normalised scale.

    Warns about each task without a scale: an anchor has fewer than two finished runs, or that of 1 is not above that
    of 0 beyond noise.
    """
    return _anchors(tables, _run_scores(tables, evaluations(tables), last))


def _anchors(tables: Tables, runs: pd.DataFrame) -> pd.DataFrame:
    final = runs[(runs["score"] == "final") & (runs["status"] == "finished")]
    known = {key: values.to_numpy() for key, values in final.groupby(["task", "mode", "method"])["raw"]}
    names = setting.anchors(tables.grid)
    rows = []
    for task in tables.runs["task"].unique():
        for mode in schema.MODES:
            both = [known.get((task, mode, method), np.array([])) for method in names]
            low, high = (float(values.mean()) if len(values) else np.nan for values in both)
            reason = _why_unusable(dict(zip(names, both, strict=True)), setting.ends(tables.grid))
            rows.append({"task": task, "mode": mode, "zero": low, "one": high, "reason": reason})
            if reason:
                warnings.warn(f"task {task}, mode {mode} is left out of normalised statistics: {reason}", stacklevel=3)
    frame = pd.DataFrame(rows)
    return frame.assign(usable=frame["reason"] == "")


def _why_unusable(both: Mapping[str, Array], words: Mapping[str, str]) -> str:
    """What keeps the final scores of the anchors' runs (of 0, of 1) from being a scale; empty: nothing."""
    for method, values in both.items():
        if len(values) < 2:
            return f"{'only one' if len(values) else 'no'} finished run of `{method}`"
    low, high = (values.mean() for values in both.values())
    noise = 1.96 * np.sqrt(sum(values.var(ddof=1) / len(values) for values in both.values()))
    if high - low - noise <= 1e-6 * max(1.0, abs(low), abs(high)):
        text = f"the {words['one']}'s return ({high:.6g}) is not above the {words['zero']}'s ({low:.6g}) beyond noise"
        return f"{text}: the difference is {high - low:.3g} ± {noise:.3g} (95 %)"
    return ""


def scores(tables: Tables, last: float = LAST) -> pd.DataFrame:
    """Table `scores` of analysis/schema.py: one row per attempted run, mode and kind of score.

    last: share of the evaluations that the final score is the mean of (rounded up).
    """
    runs = _run_scores(tables, evaluations(tables), last)
    return _normalise(runs, _anchors(tables, runs))


def _run_scores(tables: Tables, evaluated: pd.DataFrame, last: float) -> pd.DataFrame:
    """Raw scores of the finished runs, and rows without a score for the others."""
    values = {
        key: {"final": final_score(curve["return"].to_numpy(), last), "area": area_score(curve)}
        for key, curve in evaluated.groupby([*RUN, "mode"])
    }
    return pd.DataFrame(
        {**{name: run[name] for name in ("experiment", *RUN)}, "mode": mode, "score": score, "status": run["status"]}
        | {"raw": values[*_key(run), mode][score] if run["status"] == "finished" else np.nan}
        for run in tables.runs.to_dict("records")
        for mode in schema.MODES
        for score in schema.SCORES
    )


def _key(run: Mapping[str, Any]) -> tuple[str, str, int]:
    return run["task"], run["method"], run["seed"]


def final_score(returns: Array, last: float = LAST) -> float:
    """Mean of the last ceil(last * n) evaluations, returns [n] in order of steps."""
    return float(np.mean(returns[-int(np.ceil(last * len(returns))) :]))


def area_score(curve: pd.DataFrame) -> float:
    """Mean of `return` over the steps between the first and the last evaluation (trapezoids)."""
    step, value = curve["step"].to_numpy(float), curve["return"].to_numpy()
    return float(value[0]) if len(step) == 1 else float(np.trapezoid(value, step) / (step[-1] - step[0]))


def _normalise(runs: pd.DataFrame, ends: pd.DataFrame) -> pd.DataFrame:
    frame = runs.merge(ends, on=["task", "mode"], how="left", validate="many_to_one")
    frame["raw"] = frame["raw"].where(frame["status"] != "failed", frame["zero"])
    normalised = (frame["raw"] - frame["zero"]) / (frame["one"] - frame["zero"]).where(frame["usable"])
    return schema.check("scores", frame.assign(normalised=normalised)[schema.TABLES["scores"].names])


def success_rates(tables: Tables, last: float = LAST) -> pd.DataFrame:
    """Columns task, method, seed, mode, status, rate and learned (1 if the rate is at least 0.95, else 0): one row per
    attempted run and mode, on the tasks that say what success is."""
    said = tables.episodes.dropna(subset=["success"])
    shares = said.assign(success=said["success"].astype(float)).groupby([*RUN, "mode", "step"])["success"].mean()
    known = {key: final_score(values.to_numpy(), last) for key, values in shares.groupby([*RUN, "mode"])}
    rows = [
        {**{name: run[name] for name in (*RUN, "status")}, "mode": mode, "rate": known.get((*_key(run), mode), np.nan)}
        for run in tables.runs[tables.runs["task"].isin(said["task"])].to_dict("records")
        for mode in schema.MODES
    ]
    frame = pd.DataFrame(rows, columns=[*RUN, "status", "mode", "rate"])
    finished = frame["rate"].where(frame["status"] == "finished")
    zero = finished.where(frame["method"] == setting.anchors(tables.grid)[0])
    rate = finished.where(frame["status"] != "failed", zero.groupby([frame["task"], frame["mode"]]).transform("mean"))
    return frame.assign(rate=rate, learned=(rate >= LEARNED).astype(float).where(rate.notna()))


@dataclass(frozen=True)
class Sample:
    """The scores of one method: per task, seed -> score. Tasks without a score are in `absent`."""

    values: dict[str, pd.Series]
    absent: tuple[str, ...]

    @property
    def flat(self) -> Array:
        """All scores, ordered by task [N]."""
        return np.concatenate([values.to_numpy() for values in self.values.values()])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of scores per task."""
        return tuple(len(values) for values in self.values.values())

    def on(self, tasks: Sequence[str]) -> "Sample":
        """The same on these tasks only; the others become absent."""
        kept = {task: values for task, values in self.values.items() if task in tasks}
        return Sample(kept, tuple(dict.fromkeys([*self.absent, *(t for t in self.values if t not in kept)])))


def sample(scores: pd.DataFrame, method: str, column: str = "normalised") -> Sample:
    """Scores of one method; `scores` holds one mode and one kind of score. column: normalised or raw.

    A task is absent if it has no score, or if a run that is not missing has none (survivors alone are not a sample).
    """
    mine = scores[scores["method"] == method]
    due = mine[mine["status"] != "missing"] if "status" in mine else mine
    found = {task: due[due["task"] == task].set_index("seed")[column].sort_index() for task in scores["task"].unique()}
    values = {task: runs for task, runs in found.items() if len(runs) and runs.notna().all()}
    return Sample(values, tuple(task for task in found if task not in values))


def shared(a: Sample, b: Sample) -> tuple[Sample, Sample]:
    """Both samples on the tasks on which both have scores."""
    return a.on(list(b.values)), b.on(list(a.values))


def tally(runs: pd.DataFrame) -> dict[str, int]:
    """Numbers of attempted, finished, failed and missing runs."""
    return {"attempted": len(runs), **{status: int((runs["status"] == status).sum()) for status in schema.STATUSES}}


class Support(NamedTuple):
    """What an estimate rests on: whether every task has several runs (else it has no interval); tasks left out."""

    several: bool
    absent: Sequence[str] = ()


def support(*samples: Sample) -> Support:
    """The support of an estimate from these samples, which have scores on the same tasks."""
    return Support(min((size for one in samples for size in one.sizes), default=0) > 1, samples[0].absent)


class Book:
    """Collects the rows of the table `statistics` for one evaluation mode."""

    def __init__(self, tables: Tables, mode: str, reps: int, seed: int):
        self.experiment, self.mode, self.reps, self.seed = str(tables.runs["experiment"].iloc[0]), mode, reps, seed
        self.tasks, self.methods = (list(tables.runs[column].unique()) for column in ("task", "method"))
        self.rows: list[dict[str, Any]] = []
        self._runs = {key: tally(frame) for key, frame in tables.runs.groupby(["task", "method"])}

    def counts(self, task: str, methods: Sequence[str]) -> dict[str, int]:
        """Run counts of the methods on one task, or on `all`."""
        found = [n for (t, m), n in self._runs.items() if m in methods and task in (t, "all")]
        return {name: sum(n[name] for n in found) for name in ("attempted", *schema.STATUSES)}

    def add(
        self,
        statistic: str,
        score: str,
        method: str,
        found: Array | None,
        support: Support,
        *,
        task: str = "all",
        versus: str = "",
        x: Array | None = None,
    ) -> None:
        """Adds an estimate [1 + reps] or a curve of estimates [1 + reps, K] at x [K]; None: nothing could be said."""
        counts = self.counts(task, [method, versus])
        notes = [f"{counts['missing']} of {counts['attempted']} runs missing"] if counts["missing"] else []
        notes += [f"tasks left out: {', '.join(support.absent)}"] if support.absent else []
        head: dict[str, Any] = {"experiment": self.experiment, "statistic": statistic, "mode": self.mode}
        head |= {"score": score, "task": task, "method": method, "versus": versus}
        head |= {**counts, "complete": not notes, "note": "; ".join(notes)}
        for place, estimate, low, high in _points(found, x, support.several):
            self.rows.append({**head, "x": place, "estimate": estimate, "low": low, "high": high})


def _points(found: Array | None, x: Array | None, several: bool) -> Iterator[tuple[float, ...]]:
    if found is None:
        yield (np.nan,) * 4
        return
    estimate = np.atleast_1d(found[0])
    ends = bootstrap.interval(found) if several else (np.nan * found[0],) * 2
    places = np.full(len(estimate), np.nan) if x is None else x
    yield from zip(places, estimate, *map(np.atleast_1d, ends), strict=True)


def statistics(tables: Tables, reps: int = REPS, seed: int = 0) -> pd.DataFrame:
    """Table `statistics` of analysis/schema.py: every estimate with its interval and run counts, in both modes."""
    evaluated = evaluations(tables)
    raw = _run_scores(tables, evaluated, LAST)
    ends = _anchors(tables, raw)
    scored, rates = _normalise(raw, ends), success_rates(tables)
    rows = []
    for mode in schema.MODES:
        book = Book(tables, mode, reps, seed)
        for kind in schema.SCORES:
            part = scored[(scored["mode"] == mode) & (scored["score"] == kind)]
            _aggregates(book, kind, part)
            _improvements(book, kind, part)
            _returns(book, kind, part)
        _successes(book, rates[rates["mode"] == mode])
        limits = ends[ends["mode"] == mode].set_index("task")
        _curves(book, tables, evaluated[evaluated["mode"] == mode], limits)
        rows += book.rows
    return schema.frame("statistics", rows)


def _aggregates(book: Book, kind: str, scores: pd.DataFrame) -> None:
    for method in book.methods:
        mine = sample(scores, method)
        found = aggregates(mine, book.reps, book.seed) if mine.sizes else {}
        for name in AGGREGATES:
            book.add(name, kind, method, found.get(name), support(mine))
        if mine.sizes:
            shares = bootstrap.profile(mine.flat, bootstrap.resample(mine.sizes, book.reps, book.seed), TAUS)
            book.add("profile", kind, method, shares, support(mine), x=TAUS)


def aggregates(mine: Sample, reps: int = REPS, seed: int = 0) -> dict[str, Array]:
    """IQM, median, mean and optimality gap of one method's scores, each [1 + reps] (see analysis/bootstrap.py)."""
    values, weights = mine.flat, bootstrap.resample(mine.sizes, reps, seed)
    return {
        "iqm": bootstrap.iqm(values, weights),
        "median": bootstrap.median(values, weights, mine.sizes),
        "mean": bootstrap.mean(values, weights),
        "optimality_gap": bootstrap.optimality_gap(values, weights),
    }


def _improvements(book: Book, kind: str, scores: pd.DataFrame) -> None:
    samples = {method: sample(scores, method, "raw") for method in book.methods}
    for a, b in itertools.permutations(samples, 2):
        x, y = shared(samples[a], samples[b])
        found = improvement(x, y, book.reps, book.seed) if x.sizes else None
        book.add("improvement", kind, a, found, support(x, y), versus=b)


def improvement(a: Sample, b: Sample, reps: int = REPS, seed: int = 0) -> Array:
    """Probability [1 + reps] that a run of `a` scores above one of `b`; raw or normalised scores give the same."""
    x, y = ([values.to_numpy() for values in one.values.values()] for one in (a, b))
    weights_x, weights_y = bootstrap.resample(a.sizes, reps, seed), bootstrap.resample(b.sizes, reps, seed + 1)
    return bootstrap.improvement(x, y, weights_x, weights_y)


def _returns(book: Book, kind: str, scores: pd.DataFrame) -> None:
    for (task, method), _ in scores.groupby(["task", "method"], sort=False):
        here = sample(scores[scores["task"] == task], method, "raw")
        functions = {"return_mean": bootstrap.mean, "return_iqm": bootstrap.iqm}
        for name, function in functions.items():
            weights = bootstrap.resample(here.sizes, book.reps, book.seed) if here.sizes else None
            found = None if weights is None else function(here.flat, weights)
            book.add(name, kind, method, found, support(here), task=task)


def _successes(book: Book, rates: pd.DataFrame) -> None:
    for (task, method), _ in rates.groupby(["task", "method"], sort=False):
        for name, column in (("success_rate", "rate"), ("learned", "learned")):
            here = sample(rates[rates["task"] == task], method, column)
            weights = bootstrap.resample(here.sizes, book.reps, book.seed) if here.sizes else None
            found = None if weights is None else bootstrap.mean(here.flat, weights)
            book.add(name, "final", method, found, support(here), task=task)
    delays = {task: delay for task in book.tasks if (delay := setting.delay(task)) is not None}
    delayed = rates[rates["task"].isin(delays)]
    for method in delayed["method"].unique():
        mine = sample(delayed, method, "learned")
        absent = [task for task in delays if task not in mine.values]
        found = None if absent else longest_delay(mine, delays, book.reps, book.seed)
        book.add("longest_delay", "final", method, found, Support(support(mine).several, absent))


def longest_delay(mine: Sample, delays: Mapping[str, int], reps: int = REPS, seed: int = 0) -> Array:
    """The longest delay [1 + reps] that a method learns. mine: 1 for every run that has learned, 0 for the others;
    delays: of every task."""
    tasks = sorted(delays, key=delays.__getitem__)
    learned = [mine.values[task].to_numpy() for task in tasks]
    weights = bootstrap.resample(tuple(map(len, learned)), reps, seed)
    return bootstrap.longest(learned, weights, [delays[task] for task in tasks])


def _curves(book: Book, tables: Tables, evaluated: pd.DataFrame, ends: pd.DataFrame) -> None:
    """Curves over steps and over seconds: raw per task, and normalised over all tasks that have a scale."""
    every, runs = dict(iter(evaluated.groupby(RUN))), tables.runs[tables.runs["status"] != "missing"]
    for axis in ("step", "seconds"):
        shapes = {}
        for run in runs.to_dict("records"):
            zero, flat = ends["zero"][run["task"]], run["method"] in setting.UNTRAINED
            shapes[_key(run)] = curves.steps_of(run["status"], every.get(_key(run)), axis, zero, flat)
        for task in [*ends.index, "all"]:
            scope = ends[ends["usable"]] if task == "all" else ends.loc[[task]]
            learning = evaluated[evaluated["task"].isin(scope.index) & ~evaluated["method"].isin(setting.UNTRAINED)]
            places = curves.grid(learning, axis)
            if len(places):
                _curves_on(book, shapes, task, scope, places, axis)


def _curves_on(
    book: Book,
    shapes: Mapping[tuple[str, str, int], curves.Steps],
    task: str,
    ends: pd.DataFrame,
    places: Array,
    axis: str,
) -> None:
    """The curves of all methods at `places` [K], on one task or on `all` tasks of `ends`."""
    name = ("iqm" if task == "all" else "return") + ("_over_steps" if axis == "step" else "_over_seconds")
    for method in book.methods:
        found = {t: [shape for key, shape in shapes.items() if key[:2] == (t, method)] for t in ends.index}
        mine = {t: shapes for t, shapes in found.items() if shapes}
        if not mine:
            continue
        blocks = [np.stack([curves.held(shape, places) for shape in runs]) for runs in mine.values()]
        if task == "all":
            span = ends["one"] - ends["zero"]
            blocks = [(block - ends["zero"][t]) / span[t] for t, block in zip(mine, blocks, strict=True)]
        shown = ~np.isnan(np.vstack(blocks)).any(axis=0) & curves.until([*itertools.chain(*mine.values())], places)
        if shown.any():
            absent = [t for t in book.tasks if t not in mine] if task == "all" else []
            iqm = curves.iqm_curve([block[:, shown] for block in blocks], book.reps, book.seed)
            on = Support(min(map(len, blocks)) > 1, absent)
            book.add(name, "curve", method, iqm, on, task=task, x=places[shown])


# ---- time, memory and run accounting ------------------------------------------------------------------------------


def seconds_per_step(tables: Tables) -> pd.DataFrame:
    """Columns task, method, seed and environment, acting, learning, training: seconds per environment step of every
    run with timing; training is the sum of the three. Evaluation is left out, and so is the first epoch of a run that
    has more than one, in which libraries warm up."""
    parts = ["environment", "acting", "learning"]
    trained = tables.timing[tables.timing["step"] > 0]
    first, last = (trained.groupby(RUN)["step"].transform(end) for end in ("min", "max"))
    begin = first.where(first < last, 0)  # where the measured steps begin
    runs = trained.assign(begin=begin)[trained["step"] > begin].groupby(RUN)
    spent = runs[parts].sum().div(runs["step"].max() - runs["begin"].max(), axis=0)
    spent = spent.reindex(pd.MultiIndex.from_frame(tables.timing[RUN].drop_duplicates()))
    return spent.assign(training=spent.sum(axis=1, skipna=False)).reset_index()


def wall_clock(tables: Tables) -> pd.DataFrame:
    """Table `wall_clock` of analysis/schema.py: medians over runs per task and method. Times per step come from every
    run that has timing, failed ones included; seconds and memory of whole runs from the finished ones."""
    speed = seconds_per_step(tables)
    rows = []
    for (task, method), runs in tables.runs.groupby(["task", "method"], sort=False):
        mine = speed[(speed["task"] == task) & (speed["method"] == method)]
        parts = {name: 1000 * _median(mine[name]) for name in ("environment", "acting", "learning", "training")}
        done = runs[runs["status"] == "finished"]
        whole = {name: _median(done[name]) for name in ("seconds", "peak_memory_mb")}
        rows.append({"experiment": runs["experiment"].iloc[0], "task": task, "method": method, **parts, **whole})
        rows[-1] |= {"steps_per_second": 1000 / parts["training"] if parts["training"] else np.nan, **tally(runs)}
    return schema.frame("wall_clock", rows)


def _median(values: pd.Series) -> float:
    """Median of what is known; NaN, without a warning, if nothing is (the anchors may be untrained)."""
    known = values.dropna()
    return float(known.median()) if len(known) else np.nan


def reaching(tables: Tables, share: float = 0.5) -> pd.DataFrame:
    """Columns task, method, seed, threshold, step, seconds: where a run's evaluated return first reaches a threshold.

    In the mode of `tables`; infinity is never. The threshold lies at `share` of the way from one anchor to the
    other (see `anchors`); NaN on a task without that scale, where nothing is known. Training time is that of
    `evaluations`, NaN in a run without timing. A failed run that has not reached the threshold never does; missing
    runs have no row, nor has a method that is not trained.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `statistics` has told which tasks have no scale
        ends = anchors(tables)
    ends = ends[(ends["mode"] == tables.mode) & ends["usable"]].set_index("task")
    heights = ends["zero"] + share * (ends["one"] - ends["zero"])
    evaluated = evaluations(tables)
    curves_of = dict(iter(evaluated[evaluated["mode"] == tables.mode].sort_values("step").groupby(RUN)))
    attempted = tables.runs[(tables.runs["status"] != "missing") & ~tables.runs["method"].isin(setting.UNTRAINED)]
    rows = [
        (*key, height, *_first(curves_of.get(key), height))
        for key in attempted[RUN].itertuples(index=False, name=None)
        for height in (heights.get(key[0], np.nan),)
    ]
    return pd.DataFrame(rows, columns=[*RUN, "threshold", "step", "seconds"])


def _first(curve: pd.DataFrame | None, height: float) -> tuple[float, float]:
    """Step and seconds of the first evaluation with a return of at least `height`."""
    if np.isnan(height):
        return np.nan, np.nan
    if curve is None or not (above := curve["return"] >= height).any():
        return np.inf, np.inf
    first = curve[above].iloc[0]
    return float(first["step"]), float(first["seconds"])


def probe_scores(tables: Tables) -> pd.DataFrame:
    """Columns task, method, seed, group, alone, memory, gain: R² of the linear readout of a hidden group from the
    observation alone, with the memory beside it, and the difference; one row per run and group."""
    keys = [*RUN, "group"]
    wide = tables.probe.pivot(index=keys, columns="features", values="r2").reindex(columns=list(schema.FEATURES))
    wide.columns = pd.Index(["alone", "memory"])
    return wide.assign(gain=wide["memory"] - wide["alone"]).reset_index()


def difference(
    scores: pd.DataFrame, task: str, a: str, b: str, reps: int = REPS, seed: int = 0
) -> tuple[float, float, float]:
    """Mean score of `a` minus that of `b` on one task: estimate and ends of its 95 % interval, NaN where unknown.

    scores: rows of one mode and kind of score. Paired by seed if both have the same seeds.
    """
    here = scores[scores["task"] == task]
    x, y = (sample(here, method, "raw") for method in (a, b))
    if not x.sizes or not y.sizes:
        return (np.nan,) * 3
    paired = x.values[task].index.equals(y.values[task].index)
    weights = (bootstrap.resample(x.sizes, reps, seed), bootstrap.resample(y.sizes, reps, seed + (not paired)))
    found = bootstrap.mean(x.flat, weights[0]) - bootstrap.mean(y.flat, weights[1])
    low, high = bootstrap.interval(found) if support(x, y).several else (np.nan, np.nan)
    return float(found[0]), float(low), float(high)


def accounting(tables: Tables) -> pd.DataFrame:
    """Columns task, method, attempted, finished, failed, missing, configurations (number of different ones among the
    runs; more than 1 means that the runs are not comparable), reasons (of failed and missing runs)."""
    rows = []
    for (task, method), runs in tables.runs.groupby(["task", "method"], sort=False):
        reasons = "; ".join(dict.fromkeys(runs["reason"].dropna()))
        counted = {**tally(runs), "configurations": runs["config_hash"].nunique(), "reasons": reasons}
        rows.append({"task": task, "method": method, **counted})
    return pd.DataFrame(rows)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis statistics`."""
    parser.add_argument("--data", type=Path, required=True, help="folder of the tables that `collect` wrote")
    parser.add_argument("--out", type=Path, help="folder for scores, statistics and wall_clock (default: --data)")
    add_bootstrap(parser)


def add_bootstrap(parser: argparse.ArgumentParser) -> None:
    """The arguments --reps and --seed."""
    parser.add_argument("--reps", type=_positive, default=REPS, help="bootstrap resamples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: %(default)s)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a positive whole number is needed")
    return int(text)


def main(arguments: argparse.Namespace) -> None:
    """`python -m analysis statistics`."""
    tables, out = read_tables(arguments.data), arguments.out or arguments.data
    found = statistics(tables, arguments.reps, arguments.seed)
    with warnings.catch_warnings():  # said once above
        warnings.simplefilter("ignore")
        write_table("scores", scores(tables), out)
    write_table("statistics", found, out)
    write_table("wall_clock", wall_clock(tables), out)
    print(f"{len(found)} estimates in {out / 'statistics.parquet'}")
