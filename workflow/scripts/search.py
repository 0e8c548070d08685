"""Search the hyperparameters that all methods share, with equal weight for every method.

    python workflow/scripts/search.py workflow/config/search/ppo_matched.yaml --jobs 2

Successive halving: every candidate is tried with the seeds of the first stage, the best of them with those of the next,
and so on. A trial is one `s2pg train`; started again, the search goes on where it stopped. Rule and scores are written
in the search file, `standing` computes them.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from s2pg.config import ConfigError, RunConfig, list_experiments, load_checked, load_experiment, resolve

RANDOM = "random"  # the zero of the scale, tried once per seed
Candidate = dict[str, Any]  # hyperparameter -> value


class SearchError(Exception):
    """Something that the user can mend; the message says where."""


@dataclass(frozen=True)
class Stage:
    """Seeds to try, and how many of the last stage's candidates (None: all)."""

    seeds: tuple[int, ...]
    keep: int | None = None


@dataclass(frozen=True)
class Search:
    """A search file. `space`: hyperparameter -> choices; `first`: candidate 0; `last`: evaluations in a return."""

    name: str
    experiment: str
    scale: str
    tasks: list[str]
    methods: list[str]
    overrides: dict[str, Any]
    last: int
    candidates: int
    draw_seed: int
    stages: list[Stage]
    space: dict[str, list[Any]]
    first: Candidate

    @functools.cached_property
    def drawn(self) -> list[Candidate]:
        """All candidates."""
        return draw(self)


class Trial(NamedTuple):
    """One run; the random policy has no candidate and stage 0."""

    stage: int
    candidate: int | None
    task: str
    method: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where its run lies."""
        name = RANDOM if self.candidate is None else f"candidate_{self.candidate}"
        return out / name / self.task / self.method / f"seed_{self.seed}"

    def __str__(self) -> str:
        who = "" if self.candidate is None else f"candidate {self.candidate}, "
        return f"{who}{self.method} on {self.task}, seed {self.seed}"


# --- the search file -------------------------------------------------------------------------------------------------


def load(path: Path) -> Search:
    """Read and check a search file. Raises ConfigError, which names the file and the key."""
    raw = load_checked(path, "search.yaml")
    stages = [Stage(tuple(stage["seeds"]), stage.get("keep")) for stage in raw["stages"]]
    search = Search(path.stem, **{**raw, "stages": stages})
    for problem in _problems(search):
        raise ConfigError(f"{path}: {problem}")
    for trial in [*random_trials(search), *trials(search, 1, range(search.candidates))]:
        configuration(search, trial)
    return search


def _problems(search: Search) -> Iterator[str]:
    """What is wrong with a search file beyond its schema."""
    if set(search.first) != set(search.space):
        yield f"first: its keys must be those of space, not {', '.join(search.first) or 'none'}"
    seeds = [seed for stage in search.stages for seed in stage.seeds]
    taken = max(s.first_seed + s.seeds for name in list_experiments() for s in load_experiment(name).scales.values())
    if min(seeds) < taken or len(seeds) != len(set(seeds)):
        yield f"stages: seeds {seeds} must differ and be at least {taken}: experiments use those below"
    sizes = [search.candidates if s.keep is None else s.keep for s in search.stages]
    if search.stages[0].keep is not None or sizes != sorted(sizes, reverse=True):
        yield "stages: the first has no keep, the later ones keep no more than the one before"
    if RANDOM in search.methods:
        yield f"methods: {RANDOM} has nothing to choose; it is always tried, as the zero of the scale"
    if search.candidates > (most := math.prod(map(len, search.space.values()))):
        yield f"candidates: {search.candidates}, but the space has {most} points"


def draw(search: Search) -> list[Candidate]:
    """`first`, then distinct points of the space, every choice with the same probability."""
    found, generator = [search.first], random.Random(search.draw_seed)
    while len(found) < search.candidates:
        point = {key: generator.choice(choices) for key, choices in search.space.items()}
        if point not in found:
            found.append(point)
    return found


# --- trials ----------------------------------------------------------------------------------------------------------


def random_trials(search: Search) -> list[Trial]:
    """The random policy on every task, with every seed."""
    seeds = [seed for stage in search.stages for seed in stage.seeds]
    return [Trial(0, None, task, RANDOM, seed) for task in search.tasks for seed in seeds]


def trials(search: Search, stage: int, candidates: Iterable[int]) -> list[Trial]:
    """The runs of a stage (counted from 1): seed by seed, candidate by candidate."""
    grid = itertools.product(search.stages[stage - 1].seeds, candidates, search.tasks, search.methods)
    return [Trial(stage, candidate, task, method, seed) for seed, candidate, task, method in grid]


def settings(search: Search, trial: Trial) -> dict[str, Any]:
    """What a trial changes in its experiment."""
    values = {} if trial.candidate is None else search.drawn[trial.candidate]
    return {**search.overrides, "hparams": {**search.overrides.get("hparams", {}), **values}}


def configuration(search: Search, trial: Trial) -> RunConfig:
    """A trial's complete configuration."""
    return resolve(search.experiment, trial.task, trial.method, trial.seed, search.scale, settings(search, trial))


def command(search: Search, trial: Trial, out: Path) -> list[str]:
    """The command line of a trial."""
    named = {"experiment": search.experiment, "task": trial.task, "method": trial.method, "seed": trial.seed}
    named |= {"scale": search.scale, "out": trial.folder(out)}
    words = [f"--{key}={value}" for key, value in named.items()]
    words += [f"--set={key}={json.dumps(value)}" for key, value in _flat(settings(search, trial))]
    return [sys.executable, "-m", "s2pg.cli", "train", *words, "--quiet"]


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def train(search: Search, trial: Trial, out: Path) -> None:
    """Run a trial to its end in a process of its own. Raises SearchError if the process fails."""
    done = subprocess.run(command(search, trial, out), capture_output=True, text=True)
    if done.returncode:
        raise SearchError(f"{trial}: {' '.join(done.stderr.split())[-500:] or f'exit code {done.returncode}'}")


def ended(search: Search, trial: Trial, out: Path) -> bool:
    """Whether this very trial has been run to its end."""
    folder = trial.folder(out)
    if not (folder / "done.json").exists():
        return False
    return (folder / "config.yaml").read_text() == configuration(search, trial).to_yaml()


def result(search: Search, trial: Trial, out: Path) -> dict[str, Any]:
    """A trial's row of the table; `return` is empty if it diverged."""
    folder = trial.folder(out)
    done, origin = (json.loads((folder / f"{name}.json").read_text()) for name in ("done", "provenance"))
    finished = done["status"] == "finished"
    return {
        **_blank(search, trial),
        "status": done["status"],
        "return": final_return(folder, search.last) if finished else None,
        "steps": done["steps"],
        "seconds": done["seconds"],
        "revision": (origin["git_revision"] or "")[:12],
    }


def _blank(search: Search, trial: Trial) -> dict[str, Any]:
    values = dict.fromkeys(search.space) if trial.candidate is None else search.drawn[trial.candidate]
    keys = {key: values[key] for key in search.space}
    place = {"task": trial.task, "method": trial.method, "seed": trial.seed}
    return {"stage": trial.stage, "candidate": trial.candidate, **keys, **place}


def final_return(folder: Path, last: int) -> float:
    """Mean return in mode mean over the last `last` evaluations of a run."""
    episodes = pd.read_parquet(folder / "episodes.parquet")
    by_step = episodes[episodes["mode"] == "mean"].groupby("step")["return"].mean()
    return round(float(by_step.sort_index().iloc[-last:].mean()), 4)


# --- scores ----------------------------------------------------------------------------------------------------------


def scored(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `score`: per task 0 = random policy's mean return, 1 = best return of any trial; diverged: 0."""
    parts = []
    for task, part in rows.groupby("task", sort=False):
        low, high = part.loc[part["method"] == RANDOM, "return"].mean(), part["return"].max()
        if not high > low:
            raise SearchError(f"{task}: no trial was better than the random policy ({low:.4g}); train longer")
        parts.append(part.assign(score=((part["return"] - low) / (high - low)).fillna(0.0)))
    return pd.concat(parts).sort_index()


def standing(rows: pd.DataFrame, stage: int) -> pd.DataFrame:
    """Mean score [candidate, method and `all`] of those in a stage, best first, from their trials up to this stage.

    The mean is taken over seeds, then over tasks (a method's column), then over methods (`all`).
    """
    known = scored(rows[rows["stage"] <= stage])
    mine = known[known["candidate"].isin(known.loc[known["stage"] == stage, "candidate"].dropna())]
    over_seeds = mine.groupby(["candidate", "task", "method"], sort=False)["score"].mean()
    table = over_seeds.groupby(["candidate", "method"], sort=False).mean().unstack()
    table["all"] = table.mean(axis="columns").round(9)
    return table.sort_index().sort_values("all", ascending=False, kind="stable")


def entrants(search: Search, rows: pd.DataFrame, stage: int) -> list[int]:
    """The candidates that a stage tries: all, or the best of the stage before."""
    if stage == 1:
        return list(range(search.candidates))
    return [int(number) for number in standing(rows, stage - 1).index[: search.stages[stage - 1].keep]]


def check(search: Search, rows: pd.DataFrame) -> None:
    """Raise SearchError unless these are all trials of the search, with the values that it draws."""
    for stage in range(len(search.stages) + 1):
        due = trials(search, stage, entrants(search, rows, stage)) if stage else random_trials(search)
        columns = ["stage", "candidate", *search.space, "task", "method", "seed"]
        found = {tuple(row) for row in _plain(rows[rows["stage"] == stage], columns)}
        expected = {tuple(row) for row in _plain(pd.DataFrame(_blank(search, trial) for trial in due), columns)}
        if found != expected or len(found) != (rows["stage"] == stage).sum():
            raise SearchError(f"stage {stage}: the table does not hold the trials of the search file {search.name}")


def _plain(rows: pd.DataFrame, columns: list[str]) -> list[list[Any]]:
    return rows[columns].astype(object).where(rows[columns].notna(), None).to_numpy().tolist()


def winner(search: Search, rows: pd.DataFrame) -> int:
    """The best candidate of the last stage."""
    return int(standing(rows, len(search.stages)).index[0])


# --- the whole search, and what is said of it ------------------------------------------------------------------------


def run(search: Search, out: Path, jobs: int, say: Callable[[str], None] = print) -> pd.DataFrame:
    """Make all trials below `out` that are not there yet; returns the table, one row per trial."""
    rows = _train_all(search, random_trials(search), out, jobs, say)
    for stage in range(1, len(search.stages) + 1):
        chosen = entrants(search, _table(rows), stage)
        say(f"stage {stage}: candidates {', '.join(map(str, chosen))}")
        rows += _train_all(search, trials(search, stage, chosen), out, jobs, say)
    return scored(_table(rows))


def _train_all(search: Search, due: list[Trial], out: Path, jobs: int, say: Callable[[str], None]) -> list[dict]:
    """Rows of these trials, in order; those that have not ended are trained, `jobs` at a time."""
    open_trials = [trial for trial in due if not ended(search, trial, out)]
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(train, search, trial, out): trial for trial in open_trials}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                future.result()
                row = result(search, futures[future], out)
                outcome = "diverged" if row["return"] is None else f"{row['return']:.4g}"
                say(f"[{number}/{len(futures)}] {futures[future]}: {outcome} ({row['seconds']:.0f} s)")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [result(search, trial, out) for trial in due]


def _table(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"candidate": "Int64", "return": float})


def write(rows: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}")
    rows.assign(score=rows["score"].round(4)).to_csv(half, index=False)
    half.replace(path)


def read(search: Search, path: Path) -> pd.DataFrame:
    """Read a table that `write` wrote. Raises SearchError if it is not this search's."""
    if not path.exists():
        raise SearchError(f"{path}: not there; the search writes it when all trials have ended")
    whole = [key for key, choices in search.space.items() if all(isinstance(choice, int) for choice in choices)]
    try:
        rows = pd.read_csv(path, float_precision="round_trip").astype({"candidate": "Int64", "return": float})
        rows = rows.astype(dict.fromkeys(whole, "Int64"))
        check(search, rows)
    except (KeyError, ValueError, TypeError) as error:
        raise SearchError(f"{path}: not the table of a search ({error})") from error
    return rows


def summary(search: Search, rows: pd.DataFrame) -> str:
    """Markdown: for every stage the candidates, best first, with their values and scores per method."""
    parts = [f"# Search `{search.name}`\n\nScores: 0 = random policy, 1 = the best return of any trial on a task."]
    seeds: list[int] = []
    for number, stage in enumerate(search.stages, start=1):
        scores = standing(rows, number)
        values = pd.DataFrame([search.drawn[index] for index in scores.index], index=scores.index).astype(str)
        table = values.join(scores[[*search.methods, "all"]].round(3)).to_markdown()
        seeds += stage.seeds
        parts.append(f"Stage {number}, seeds {', '.join(map(str, seeds))}:\n\n{table}")
    best = winner(search, rows)
    chosen = ", ".join(f"{key} {value}" for key, value in search.drawn[best].items())
    failed = int((rows["status"] == "failed").sum())
    parts.append(f"Trials: {len(rows)}, of which {failed} diverged. Winner: candidate {best} ({chosen}).")
    return "\n\n".join(parts) + "\n"


def jobs(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        "search.py",
        description="Search hyperparameters that all methods share, by successive halving. Every method and task has "
        "the same weight. Started again, the search goes on where it stopped.",
        epilog="The rule and the space stand in the search file, e.g. workflow/config/search/ppo_matched.yaml.",
    )
    add = top.add_argument
    add("search", metavar="FILE", type=Path, help="the search file (YAML)")
    add("--jobs", metavar="N", type=jobs, default=1, help="trials at a time, one thread each (default: 1)")
    add("--out", metavar="DIR", type=Path, help="folder of the trials (default: results/runs/search/NAME)")
    add("--record", metavar="CSV", type=Path, help="the table (default: results/published/search/NAME.csv)")
    add("--summary", action="store_true", help="train nothing: print the standings and the winner from the table")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, or summarise; 2: a user's mistake, 130: interrupted."""
    args = parser().parse_args(arguments)
    name = args.search.stem
    record = args.record or Path("results/published/search", f"{name}.csv")
    try:
        search = load(args.search)
        if not args.summary:
            write(run(search, args.out or Path("results/runs/search", name), args.jobs), record)
        text = summary(search, read(search, record))
    except (ConfigError, SearchError, OSError) as error:
        print(f"search.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the search goes on where it stopped when it is started again", file=sys.stderr)
        return 130
    if not args.summary:
        record.with_suffix(".md").write_text(text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
