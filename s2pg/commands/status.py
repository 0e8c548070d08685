"""`s2pg status`: how far the runs of experiments are, from their folders alone. Needs no SLURM and no torch."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pandas as pd

from s2pg.commands import show
from s2pg.config import Experiment, RunId, expert_run, list_studies, load_experiment, methods, workflow_settings
from s2pg.training import lock

STATES = ("finished", "failed", "running", "interrupted", "waiting")
HEADERS = ["experiment", "runs", *STATES, "done", "spent", "left", "running on"]


class Progress(NamedTuple):
    """One run. Seconds are of training and evaluation; `left` is None where nothing is known yet."""

    run: RunId
    state: str
    spent: float
    left: float | None
    holder: lock.Holder | None = None


def run(args: Namespace) -> int:
    """Print a row per experiment and a sum; with --runs, each run that is not finished."""
    settings = workflow_settings({"scale": args.scale} if args.scale else {})
    names = args.experiments or [name for name in settings["experiments"] if name not in list_studies()]
    experiments = [load_experiment(name) for name in names]
    scale, results = settings["scale"], Path(args.results)
    found = {e.name: progress(e, e.runs(scale), results) for e in experiments}
    if awaited := experts(experiments, scale):
        found["experts"] = [
            one for name, runs in awaited.items() for one in progress(load_experiment(name), runs, results)
        ]
    everything = [one for runs in found.values() for one in runs]
    if args.json:
        print(json.dumps({name: summary(runs) for name, runs in found.items()} | {"all": summary(everything)}))
        return 0
    rows = [row(name, runs) for name, runs in found.items()]
    print(show.table([*rows, row("all", everything)], HEADERS, ["experiment", "running on"]))
    if args.runs:
        print("\n" + unfinished(everything))
    if estimate := remaining(everything):
        print("\n" + estimate)
    return 0


def experts(experiments: Sequence[Experiment], scale: str) -> dict[str, list[RunId]]:
    """The experts that these experiments learn from and do not train themselves, by the experiment that does."""
    tasks = {task: None for e in experiments if e.imitates for task in e.scale(scale).tasks}
    found = defaultdict(list)
    for run in (expert_run(task, scale) for task in tasks):
        if run.experiment not in {e.name for e in experiments}:
            found[run.experiment].append(run)
    return found


def progress(experiment: Experiment, runs: Iterable[RunId], results: Path) -> list[Progress]:
    """Each of these runs of an experiment; what is left of one that has not begun is what the like of it took."""
    scales, known = experiment.scales, methods()
    total = {name: scale.epochs * scale.steps_per_epoch for name, scale in scales.items()}
    found = [look(run, results, total[run.scale] if known[run.method].learns else 0) for run in runs]
    usual = lengths(found)
    return [one if one.left is not None else one._replace(left=guess(one.run, usual)) for one in found]


def look(run: RunId, results: Path, total: int) -> Progress:
    """One run from its folder; `total`: its environment steps."""
    folder = results / run.folder
    if done := _json(folder / "done.json"):
        return Progress(run, done.get("status", "failed"), done.get("seconds", 0.0), 0.0)
    if not folder.exists():
        return Progress(run, "waiting", 0.0, None)
    holder = lock.holder(folder)
    state = "running" if holder else "interrupted" if (folder / "checkpoint.pt").exists() else "waiting"
    steps, seconds = _reached(folder / "timing.parquet")
    left = seconds * max(0, total - steps) / steps if steps else None
    return Progress(run, state, seconds, left, holder)


def lengths(runs: Iterable[Progress]) -> dict[Any, float]:
    """Median seconds of whole runs, by (task, method), by method, and of all (key None); of those that tell."""
    found = defaultdict(list)
    for one in runs:
        if (one.state == "finished" or one.spent) and one.left is not None:
            for key in ((one.run.task, one.run.method), one.run.method, None):
                found[key].append(one.spent + one.left)
    return {key: median(values) for key, values in found.items()}


def guess(run: RunId, usual: dict[Any, float]) -> float | None:
    """Seconds of a run that has not begun, from the nearest of its kind."""
    keys = ((run.task, run.method), run.method, None)
    return next((usual[key] for key in keys if key in usual), None)


def summary(runs: list[Progress]) -> dict[str, Any]:
    """Counts, hours and machines of some runs."""
    counts = {state: sum(one.state == state for one in runs) for state in STATES}
    unknown = sum(one.left is None for one in runs)
    return {
        "runs": len(runs),
        **counts,
        "spent_hours": sum(one.spent for one in runs) / 3600,
        "left_hours": None if unknown else sum(one.left for one in runs) / 3600,
        "hosts": sorted({one.holder.host for one in runs if one.holder}),
        "jobs": sorted({one.holder.job for one in runs if one.holder and one.holder.job}),
    }


def row(name: str, runs: list[Progress]) -> list[Any]:
    """A line of the table."""
    s = summary(runs)
    ended = s["finished"] + s["failed"]
    share = f"{100 * ended / s['runs']:.0f} %" if s["runs"] else "-"
    left = "?" if s["left_hours"] is None else show.duration(3600 * s["left_hours"])
    where = ", ".join(s["hosts"][:3]) + (" ..." if len(s["hosts"]) > 3 else "")
    return [
        name,
        s["runs"],
        *(s[state] for state in STATES),
        share,
        show.duration(3600 * s["spent_hours"]),
        left,
        where,
    ]


def unfinished(runs: list[Progress]) -> str:
    """Each run that is running, interrupted or failed."""
    rows = []
    for one in runs:
        if one.state not in ("finished", "waiting"):
            where = f"{one.holder.host}, job {one.holder.job or '-'}, process {one.holder.pid}" if one.holder else ""
            left = "?" if one.left is None else show.duration(one.left)
            rows.append([one.run.folder.removeprefix("runs/"), one.state, show.duration(one.spent), left, where])
    return show.table(rows, ["run", "state", "spent", "left", "where"], ["run", "state", "where"])


def remaining(runs: list[Progress]) -> str | None:
    """What the runs that have not ended will take at the present pace."""
    s = summary(runs)
    if not s["running"] or s["left_hours"] is None:
        return None
    longest = max(one.left for one in runs)
    wall = max(3600 * s["left_hours"] / s["running"], longest)
    return f"about {show.duration(wall)} at the present pace of {s['running']} runs at a time"


def _reached(path: Path) -> tuple[int, float]:
    """Environment steps and seconds of a run that has not ended."""
    try:
        last = pd.read_parquet(path, columns=["step", "wall"]).iloc[-1]
        return int(last["step"]), float(last["wall"])
    except (OSError, ValueError, IndexError):
        return 0, 0.0


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
        return content if isinstance(content, dict) else {"status": "failed"}
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {"status": "failed"}
