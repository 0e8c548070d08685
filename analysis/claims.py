"""Verdicts: each claim of an experiment is judged by a rule that was written before the runs.

A claim is supported if the whole 95 % interval of its statistic lies above the threshold, not supported if the whole
interval lies at or below it, and otherwise there is not enough data; nor is there if a compared method has fewer than
`min_seeds` finished runs on some task, or a task has no normalised scale. Failed runs count as the random policy.

Scores are `final` (the last tenth of the evaluations), or with `score: area` the mean along the learning curve; 0 and 1
are the anchors' final scores for both.

A rule may compare runs of two experiments: `experiment_a` or `experiment_b` names another experiment, whose runs of
that method are then compared on the tasks, and on the normalised scale, of the experiment that makes the claim.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis import bootstrap, schema, setting, stats, style
from analysis.bootstrap import Array
from analysis.errors import AnalysisError
from analysis.load import DATA, Tables, read_tables
from analysis.stats import REPS, Sample

SUPPORTED, NOT_SUPPORTED, NOT_ENOUGH = "supported", "not supported", "not enough data"


@dataclass(frozen=True)
class Verdict:
    """A claim, its verdict and what the verdict rests on (JSON-ready through `dataclasses.asdict`)."""

    id: str
    text: str
    verdict: str  # supported, not supported or not enough data
    statistic: str
    estimate: float | None
    low: float | None
    high: float | None
    threshold: float
    n_seeds: int  # smallest number of finished runs over the tasks and methods compared
    counts: dict[str, int]  # attempted, finished, failed, missing runs of the methods compared
    budget: dict[str, int]  # task -> environment steps
    reason: str
    score: str = "final"  # or "area"; a time ratio is of neither


@dataclass(frozen=True)
class Rule:
    """How a claim is judged; `b` is empty for a statistic of one method, `task` for a claim on all tasks."""

    statistic: str
    a: str
    b: str
    threshold: float
    min_seeds: int
    task: str = ""  # empty: all tasks of the grid
    elsewhere: tuple[str, ...] = ()  # of the methods, those that are runs of another experiment, see `foreign`
    score: str = "final"  # or "area", of schema.SCORES

    @property
    def methods(self) -> list[str]:
        """The methods compared."""
        return [method for method in (self.a, self.b) if method]


@dataclass(frozen=True)
class Evidence:
    """What the statistics of all rules are computed from, in the experiment's evaluation mode."""

    tables: Tables
    scores: pd.DataFrame  # scores of every kind in that mode
    unusable: dict[str, str]  # task -> why it has no normalised scale
    reps: int
    seed: int

    def on(self, task: str) -> "Evidence":
        """The same of one task alone."""
        runs, timing, scores = (
            frame[frame["task"] == task] for frame in (self.tables.runs, self.tables.timing, self.scores)
        )
        unusable = {name: why for name, why in self.unusable.items() if name == task}
        return replace(self, tables=replace(self.tables, runs=runs, timing=timing), scores=scores, unusable=unusable)


Statistic = Callable[[Sequence[Sample], int, int], Array]  # samples of a (and b), reps, seed -> [1 + reps]


def iqm_difference(samples: Sequence[Sample], reps: int, seed: int) -> Array:
    """IQM of the scores of `a` minus that of `b`; paired by seed where both have the same seeds on every task."""
    a, b = samples
    paired = all(values.index.equals(b.values[task].index) for task, values in a.values.items())
    return iqm([a], reps, seed) - iqm([b], reps, seed if paired else seed + 1)


def iqm(samples: Sequence[Sample], reps: int, seed: int) -> Array:
    """IQM of the scores of `a`."""
    (a,) = samples
    return bootstrap.iqm(a.flat, bootstrap.resample(a.sizes, reps, seed))


def probability_of_improvement(samples: Sequence[Sample], reps: int, seed: int) -> Array:
    """Probability that a run of `a` scores above a run of `b`, mean over tasks."""
    a, b = samples
    return stats.improvement(a, b, reps, seed)


def time_ratio(samples: Sequence[Sample], reps: int, seed: int) -> Array:
    """Training seconds per environment step of `a` over those of `b`: geometric mean over tasks of the ratio of
    medians over runs."""
    a, b = (
        [_log_median(v.to_numpy(), reps, seed + 1000 * i + task) for task, v in enumerate(s.values.values())]
        for i, s in enumerate(samples)
    )
    return np.exp(np.mean(a, axis=0) - np.mean(b, axis=0))


def _log_median(values: Array, reps: int, seed: int) -> Array:
    return np.log(bootstrap.middle(values, bootstrap.resample((len(values),), reps, seed)))


# statistic -> (how it is computed, what of the runs it is computed from)
STATISTICS: dict[str, tuple[Statistic, Literal["normalised", "raw", "training"]]] = {
    "iqm_difference": (iqm_difference, "normalised"),
    "iqm": (iqm, "normalised"),
    "probability_of_improvement": (probability_of_improvement, "raw"),
    "time_ratio": (time_ratio, "training"),
}
SINGLE = ("iqm",)


def judge(tables: Tables, reps: int = REPS, seed: int = 0, others: Sequence[Tables] = ()) -> list[Verdict]:
    """One verdict per claim of the experiment (tables.grid["spec"]["claims"]).

    others: tables of the experiments that claims compare with; without them such a claim has not enough data.
    """
    tables = joined(tables, others)
    scores = stats.scores(tables)
    ends = stats.anchors(tables)
    ends = ends[(ends["mode"] == tables.mode) & ~ends["usable"]]
    scores = scores[scores["mode"] == tables.mode]
    evidence = Evidence(tables, scores, dict(zip(ends["task"], ends["reason"], strict=True)), reps, seed)
    return [_judge(claim, evidence) for claim in tables.grid.get("spec", {}).get("claims", [])]


def _judge(claim: Mapping[str, Any], evidence: Evidence) -> Verdict:
    rule = parse_rule(claim)
    evidence = evidence.on(rule.task) if rule.task else evidence
    runs = evidence.tables.runs[evidence.tables.runs["method"].isin(rule.methods)]
    obstacles, n_seeds = _obstacles(rule, evidence)
    estimate, low, high = _estimate(rule, evidence)
    if not obstacles and (math.isnan(low) or math.isnan(high)):
        obstacles = ["the statistic has no interval"]
    verdict, why = (NOT_ENOUGH, "; ".join(obstacles)) if obstacles else decide(low, high, rule.threshold)
    counts = stats.tally(runs)
    return Verdict(
        id=claim["id"],
        text=claim["text"],
        verdict=verdict,
        statistic=rule.statistic,
        **{k: None if math.isnan(v) else v for k, v in (("estimate", estimate), ("low", low), ("high", high))},
        threshold=rule.threshold,
        n_seeds=n_seeds,
        counts=counts,
        budget={task: int(steps) for task, steps in runs.groupby("task")["steps"].max().dropna().items()},
        reason=why + _remarks(rule, counts),
        score=rule.score,
    )


def parse_rule(claim: Mapping[str, Any]) -> Rule:
    """The rule of a claim; AnalysisError names the claim, the key and what is allowed."""
    where, rule = f"claim {claim.get('id', '?')!r}", dict(claim.get("rule", {}))
    name = rule.get("statistic")
    if name not in STATISTICS:
        raise AnalysisError(f"{where}: rule.statistic is {name!r}, allowed are {', '.join(STATISTICS)}")
    needed = {"statistic", "a", "threshold", "min_seeds"} | (set() if name in SINGLE else {"b"})
    optional = {"task"} | {f"experiment_{key}" for key in needed & {"a", "b"}}
    optional |= set() if STATISTICS[name][1] == "training" else {"score"}
    if set(rule) - optional != needed:
        needs = f"{name} needs {sorted(needed)} and may have {', '.join(sorted(optional))}"
        raise AnalysisError(f"{where}: rule has the keys {sorted(rule)}, {needs}")
    score = rule.get("score", "final")
    if score not in schema.SCORES:
        raise AnalysisError(f"{where}: rule.score is {score!r}, allowed are {', '.join(schema.SCORES)}")
    numbers = {"threshold": float(rule["threshold"]), "min_seeds": int(rule["min_seeds"])}
    names = {key: foreign(rule[key], rule.get(f"experiment_{key}", "")) for key in needed & {"a", "b"}}
    elsewhere = tuple(names[key] for key in sorted(names) if f"experiment_{key}" in rule)
    task = rule.get("task", "")
    return Rule(name, names["a"], names.get("b", ""), **numbers, task=task, elsewhere=elsewhere, score=score)


def foreign(method: str, experiment: str) -> str:
    """What a method's runs in another experiment are called, e.g. `s2pg@sac_blind`; no experiment: this one."""
    return f"{method}@{experiment}" if experiment else method


def counterparts(grid: Mapping[str, Any]) -> list[str]:
    """The other experiments that the claims of an experiment compare with."""
    return sorted({called.split("@")[1] for called in _elsewhere(grid)})


def _elsewhere(grid: Mapping[str, Any]) -> set[str]:
    """The methods of other experiments that the claims of an experiment compare with, see `foreign`."""
    return {called for claim in grid.get("spec", {}).get("claims", []) for called in parse_rule(claim).elsewhere}


def joined(tables: Tables, others: Sequence[Tables]) -> Tables:
    """The tables with those runs of other experiments that claims compare with, on the tasks of this one.

    Raises AnalysisError where a task is not the same in both: bodies and hidden groups change what a return means.
    """
    wanted = _elsewhere(tables.grid)
    parts = [tables]
    for other in others:
        name = other.grid["experiment"]
        for task in tables.runs["task"].unique():
            if setting.options(tables.grid, task) != setting.options(other.grid, task):
                raise AnalysisError(f"claims of {tables.grid['experiment']}: {task} has other task_options in {name}")
        parts += [_renamed(other, called, tables) for called in sorted(wanted) if called.endswith(f"@{name}")]
    frames = {name: pd.concat([getattr(part, name) for part in parts], ignore_index=True) for name in DATA}
    return replace(tables, **frames)


def _renamed(other: Tables, called: str, like: Tables) -> Tables:
    """The runs of one method of another experiment under the name `called`, on the tasks of `like`."""
    frames = {name: getattr(other, name) for name in DATA}
    mine = {n: f[(f["method"] == called.split("@")[0]) & f["task"].isin(like.runs["task"])] for n, f in frames.items()}
    return replace(other, **{name: frame.assign(method=called) for name, frame in mine.items()})


def decide(low: float, high: float, threshold: float) -> tuple[str, str]:
    """Verdict and reason from the ends of an interval."""
    if low > threshold:
        return SUPPORTED, f"the whole 95 % interval lies above {threshold:g}"
    if high <= threshold:
        return NOT_SUPPORTED, f"no part of the 95 % interval lies above {threshold:g}"
    return NOT_ENOUGH, f"the 95 % interval contains {threshold:g}"


def _obstacles(rule: Rule, evidence: Evidence) -> tuple[list[str], int]:
    """What keeps the rule from being applied, and the smallest number of finished runs of any task and method."""
    runs = evidence.tables.runs
    tasks = [rule.task] if rule.task else list(runs["task"].unique())
    done = runs[runs["status"] == "finished"].groupby(["method", "task"]).size()
    finished = {(method, task): int(done.get((method, task), 0)) for method in rule.methods for task in tasks}
    few = [f"{n} of {style.label(m)} on {task}" for (m, task), n in finished.items() if n < rule.min_seeds]
    found = [f"the rule asks for {rule.min_seeds} finished runs, there are {', '.join(few)}"] if few else []
    if STATISTICS[rule.statistic][1] == "normalised":
        found += [f"{task} has no normalised scale: {reason}" for task, reason in evidence.unusable.items()]
    found += _unequal(rule, runs) if rule.elsewhere else []
    lost = {task for sample in _samples(rule, evidence) for task in sample.absent} if not found else set()
    return found + [f"not every run on {task} has a score" for task in sorted(lost)], min(finished.values(), default=0)


def _unequal(rule: Rule, runs: pd.DataFrame) -> list[str]:
    """Tasks on which the methods of a rule were trained for unequal numbers of steps (budgets may differ)."""
    done = runs[runs["method"].isin(rule.methods) & (runs["status"] == "finished")]
    steps = done.groupby("task")["steps"].nunique()
    return [f"runs on {task} are not equally long" for task in steps[steps > 1].index]


def _samples(rule: Rule, evidence: Evidence) -> list[Sample]:
    """What the rule's methods are compared by, on the tasks on which all of them have it."""
    column = STATISTICS[rule.statistic][1]
    if column == "training":
        frame = stats.seconds_per_step(evidence.tables)
    else:
        frame = evidence.scores[evidence.scores["score"] == rule.score]
    samples = [stats.sample(frame, method, column) for method in rule.methods]
    return [one.on([task for task in one.values if all(task in other.values for other in samples)]) for one in samples]


def _estimate(rule: Rule, evidence: Evidence) -> tuple[float, float, float]:
    """Estimate and interval; NaN where there is no score, no interval where a task has fewer than two runs."""
    samples = _samples(rule, evidence)
    sizes = [size for sample in samples for size in sample.sizes]
    if not sizes:
        return (math.nan,) * 3
    distribution = STATISTICS[rule.statistic][0](samples, evidence.reps, evidence.seed)
    low, high = bootstrap.interval(distribution) if min(sizes) > 1 else (math.nan, math.nan)
    return float(distribution[0]), float(low), float(high)


def _remarks(rule: Rule, counts: Mapping[str, int]) -> str:
    failed = (
        "counted with the time until then where it is known"
        if rule.statistic == "time_ratio"
        else "counted as the random policy"
    )
    said = [f"{counts['failed']} of {counts['attempted']} runs failed, {failed}"] if counts["failed"] else []
    said += [f"{counts['missing']} of {counts['attempted']} runs missing"] if counts["missing"] else []
    return "".join(f"; {remark}" for remark in said)


def write_claims(tables: Tables, verdicts: list[Verdict], path: Path) -> None:
    """Writes {"experiment", "scale", "mode", "claims": [Verdict, ...]} as JSON."""
    head = {"experiment": tables.grid["experiment"], "scale": tables.grid["scale"], "mode": tables.mode}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**head, "claims": [asdict(verdict) for verdict in verdicts]}, indent=1) + "\n")


def read_claims(path: Path) -> list[Verdict]:
    """The verdicts of a claims.json."""
    try:
        return [Verdict(**claim) for claim in json.loads(path.read_text())["claims"]]
    except (ValueError, KeyError, TypeError) as error:
        raise AnalysisError(
            f"{path}: not a list of verdicts ({error}); `python -m analysis claims` makes it"
        ) from error


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis claims`."""
    parser.add_argument("--data", type=Path, required=True, help="folder of the tables that `collect` wrote")
    others = "folders of tables of other experiments that claims compare with"
    parser.add_argument("--others", type=Path, nargs="*", default=[], metavar="FOLDER", help=others)
    parser.add_argument("--out", type=Path, help="file for the verdicts (default: claims.json in --data)")
    stats.add_bootstrap(parser)


def main(arguments: argparse.Namespace) -> None:
    """`python -m analysis claims`."""
    tables, out = read_tables(arguments.data), arguments.out or arguments.data / "claims.json"
    verdicts = judge(tables, arguments.reps, arguments.seed, [read_tables(other) for other in arguments.others])
    write_claims(tables, verdicts, out)
    for verdict in verdicts:
        print(f"{verdict.id}: {verdict.verdict} ({verdict.reason})")
