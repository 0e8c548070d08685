"""`s2pg cost`: what an experiment, or all, need, from the times of finished runs or of short trial runs.

Trial runs are made now and remembered in `<results>/cost/`, so that a cost that was interrupted, or is asked for with
another number of cores or seeds, does not make them again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from s2pg.algorithms.offpolicy import OffPolicy
from s2pg.build import build
from s2pg.commands import show
from s2pg.commands.measure import Measured, measured
from s2pg.config import Experiment, RunConfig, list_experiments, load_experiment, resolve
from s2pg.hyperparameters import PPOConfig
from s2pg.timing.lanes import noise
from s2pg.training import checkpoint, loop, worlds
from s2pg.training.checkpoint import RunError
from s2pg.training.provenance import provenance
from s2pg.training.record import save

MOST = 10  # finished runs read per task and method


class Need(NamedTuple):
    """What the runs of one task and method need."""

    task: str
    method: str
    runs: int
    found: Measured
    training: float  # seconds per run
    evaluation: float
    disk: float  # bytes per run
    replay: float  # bytes, part of the memory and, until the run has ended, of the disk
    source: str

    @property
    def memory_mb(self) -> float:
        """The largest resident memory, with a replay as full as the run makes it."""
        return self.found.memory_mb + self.replay / 1e6

    def seconds(self, start: float) -> float:
        """Of one run, with the time that Python takes to start."""
        return self.training + self.evaluation + start


def run(args: Namespace) -> int:
    """Find or measure the times, print what they add up to."""
    torch.set_num_threads(1)
    names = list_experiments() if args.experiment == "all" else [args.experiment]
    experiments = [load_experiment(name) for name in names]
    for experiment in experiments:
        experiment.scale(args.scale)
    if args.json:  # fails now rather than after the measurements
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    start = starting()
    found = {e.name: needed(e, args.scale, Path(args.results)) for e in experiments}
    total = {e.name: totals(found[e.name], start, args.cores, e) for e in experiments}
    if args.experiment == "all":
        print(plan(experiments, total, args.scale, args.cores))
    else:
        print(f"{args.experiment} at scale {args.scale}: {len(experiments[0].runs(args.scale))} runs\n")
        print(report(found[args.experiment], start))
        print("\n" + conclusion(total[args.experiment], experiments[0], args.scale, args.cores))
    if args.json:
        parts = {name: {"total": total[name], "rows": [_row(need) for need in found[name]]} for name in names}
        content = {"experiment": args.experiment, "scale": args.scale, "cores": args.cores, "start_seconds": start}
        content |= {"experiments": parts} if args.experiment == "all" else parts[args.experiment]
        checkpoint.write_json(Path(args.json), content | {"provenance": provenance()})
    return 0


def _row(need: Need) -> dict[str, Any]:
    return need._asdict() | {"found": need.found._asdict()}


def needed(experiment: Experiment, scale: str, results: Path) -> list[Need]:
    """What each task and method of an experiment needs."""
    grid = experiment.scale(scale)
    pairs = [(task, method) for task in grid.tasks for method in grid.methods]
    needs = []
    for index, (task, method) in enumerate(pairs):
        show.progress(f"{experiment.name}, {index + 1} of {len(pairs)}: {method} on {task}")
        needs.append(need(resolve(experiment.name, task, method, 0, scale), grid.seeds, results))
    show.progress("")
    return needs


def plan(experiments: list[Experiment], total: dict[str, dict[str, float]], scale: str, cores: int) -> str:
    """One row per experiment and a sum."""
    rows = []
    for e in experiments:
        t, runs = total[e.name], len(e.runs(scale))
        limit = show.duration(60 * e.resources["minutes"][scale])
        each = [f"{t['core_seconds'] / 3600:,.1f}", show.duration(t["longest_seconds"]), limit]
        rows.append([e.name, f"{runs:,}", *each, f"{t['memory_mb_per_run']:,.0f}", show.size(t["disk_bytes"])])
    add = {key: sum(t[key] for t in total.values()) for key in ("core_seconds", "disk_bytes")}
    longest = max(t["longest_seconds"] for t in total.values())
    memory = max(t["memory_mb_per_run"] for t in total.values())
    runs = sum(len(e.runs(scale)) for e in experiments)
    hours = add["core_seconds"] / 3600
    rows.append(
        [
            "all",
            f"{runs:,}",
            f"{hours:,.1f}",
            show.duration(longest),
            "",
            f"{memory:,.0f}",
            show.size(add["disk_bytes"]),
        ]
    )
    headers = ["experiment", "runs", "core-hours", "longest run", "limit per run", "MB per run", "disk"]
    wall = show.duration(max(longest, add["core_seconds"] / cores))
    lines = [f"all experiments at scale {scale}\n", show.table(rows, headers, ["experiment"])]
    return "\n".join([*lines, f"\nat least {wall} on {cores} cores", *([busy] if (busy := show.busy()) else [])])


def need(config: RunConfig, runs: int, results: Path) -> Need:
    """One task and method: from finished runs with the same hyperparameters, otherwise from a trial run."""
    folders = finished(config, results)
    if folders:
        source, found = f"{len(folders)} finished run{'s' * (len(folders) > 1)}", measured(folders)
    else:
        trial = trial_of(config)
        source, found = f"trial, {trial.epochs} x {trial.steps_per_epoch} steps", tried(trial, results)
    epochs = config.epochs if config.memory.learns else 0
    steps = 2 * (epochs + 1) * config.eval_episodes * episode_length(config, found)
    rows = 2 * (epochs + 1) * config.eval_episodes
    return Need(
        config.task,
        config.method,
        runs,
        found,
        training=found.training * epochs * config.steps_per_epoch,
        evaluation=found.evaluation * steps,
        disk=found.fixed_bytes + found.epoch_bytes * epochs + 2 * found.row_bytes * rows,  # checkpoint and Parquet
        replay=replay_bytes(config),
        source=source,
    )


def tried(trial: RunConfig, results: Path) -> Measured:
    """A trial run's times: those of an earlier one that was the same, or of one made now."""
    same = {key: value for key, value in trial.to_dict().items() if key not in ("experiment", "scale", "seed")}
    path = results / "cost" / f"{hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]}.json"
    if path.exists():
        return Measured(**checkpoint.read_json(path)["measured"])
    with TemporaryDirectory() as folder:
        run = Path(folder, "run")
        loop.train(trial, build, run, progress=False, dataset=imitated(trial, results, Path(folder)))
        found = measured([run])
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(path, {"trial": trial.to_dict(), "measured": found._asdict()})
    return found


def imitated(trial: RunConfig, results: Path, folder: Path) -> Path:
    """The expert's dataset, for imitation; random numbers in `folder` where the workflow has not recorded it yet."""
    path = results / trial.id.dataset
    if trial.expert_episodes and not path.exists():
        path = folder / "expert.npz"
        save(noise(worlds.spec(trial.task, trial.task_options), trial.expert_episodes), path, {})
    return path


def replay_bytes(config: RunConfig) -> float:
    """Of the slots that the run fills; 0 for PPO."""
    if isinstance(config.hparams, PPOConfig) or not config.memory.learns:
        return 0.0
    world = worlds.spec(config.task, config.task_options)
    algorithm = build(config, world, noise(world, 1, 1) if config.expert_episodes else None).algorithm
    assert isinstance(algorithm, OffPolicy)
    replay = algorithm.replay
    slots = replay.slots * replay.streams
    return replay.nbytes * min(1.0, config.epochs * config.steps_per_epoch / slots)


def finished(config: RunConfig, results: Path) -> list[Path]:
    """Folders of finished runs of this task and method, at any scale, whose learning is the same."""
    same = ("memory", "hparams", "task_options", "algorithm")
    found = []
    for path in sorted(results.glob(f"runs/*/{config.experiment}/{config.task}/{config.method}/seed_*/done.json")):
        if not path.parent.name.removeprefix("seed_").isdigit():  # moved aside
            continue
        try:
            other = RunConfig.load(path.parent / "config.yaml")
            usable = checkpoint.read_json(path)["status"] == "finished"
        except (ValueError, RunError, KeyError):  # an unreadable run says nothing about cost
            continue
        if usable and all(getattr(config, key) == getattr(other, key) for key in same):
            found.append(path.parent)
    return found[:MOST]


def trial_of(config: RunConfig) -> RunConfig:
    """The same run, but two short epochs; batches stay, so do times per step; off policy it learns in the second."""
    hp = config.hparams
    if isinstance(hp, PPOConfig):
        steps = max(256, 2 * hp.minibatch, getattr(hp, "discriminator_batch", 0))
        steps = min(hp.rollout, steps + -steps % hp.num_envs)
        hp = dataclasses.replace(hp, rollout=steps)
    else:
        steps = 100 * hp.rollout
        waits: dict[str, Any] = {key: steps for key in ("warmup", "warmup_policy") if hasattr(hp, key)}
        hp = dataclasses.replace(hp, **waits)
    return dataclasses.replace(config, epochs=2, steps_per_epoch=steps, hparams=hp)


def episode_length(config: RunConfig, found: Measured) -> float:
    """Steps of an evaluation episode: all that the time limit allows, as those of a good policy are long."""
    env = worlds.make(config.task, config.task_options)
    limit = env.spec.max_episode_steps
    env.close()
    return limit or found.episode_length


def starting() -> float:
    """Seconds that a training process takes before it begins."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import s2pg.build, s2pg.training.loop"], check=True)
    return time.perf_counter() - began


def totals(needs: list[Need], start: float, cores: int, experiment: Experiment) -> dict[str, float]:
    """Sums over all runs: seconds, bytes, megabytes."""
    each = [need.seconds(start) for need in needs for _ in range(need.runs)]
    width = experiment.resources["cores"]
    together = max(1, cores // width)
    memory = max(need.memory_mb for need in needs)
    return {
        "core_seconds": width * sum(each),
        "training_seconds": sum(need.training * need.runs for need in needs),
        "evaluation_seconds": sum(need.evaluation * need.runs for need in needs),
        "starting_seconds": start * len(each),
        "longest_seconds": max(each),
        "wall_seconds": makespan(each, together),
        "memory_mb_per_run": memory,
        "memory_mb": memory * min(together, len(each)),
        "replay_mb_per_run": max(need.replay for need in needs) / 1e6,
        "disk_bytes": sum(need.disk * need.runs for need in needs),
    }


def makespan(seconds: list[float], places: int) -> float:
    """Time until all runs have ended if each free place takes the longest one that waits."""
    ends = [0.0] * places
    for length in sorted(seconds, reverse=True):
        heapq.heappushpop(ends, ends[0] + length)
    return max(ends)


def report(needs: list[Need], start: float) -> str:
    """One row per task and method."""
    rows = []
    for n in needs:
        each = n.seconds(start)
        times = [f"{1e3 * n.found.training:.3f}" if n.training else "-", f"{1e3 * n.found.evaluation:.3f}"]
        rows.append([n.task, n.method, n.runs, *times, *map(show.duration, (each, n.runs * each)), n.source])
    headers = ["task", "method", "runs", "train [ms/step]", "evaluate [ms/step]", "per run", "all runs", "source"]
    return show.table(rows, headers, ["task", "method", "source"])


def replay_lines(total: dict[str, float]) -> list[str]:
    """What the replays of SAC and TD3 add."""
    if not (mb := total["replay_mb_per_run"]):
        return []
    return [
        f"replay: up to {mb:,.0f} MB of that memory per run; a checkpoint holds it too until its run has ended "
        f"(twice while one is written)"
    ]


def conclusion(total: dict[str, float], experiment: Experiment, scale: str, cores: int) -> str:
    """The sums in words, and what they leave out."""
    hours = {key: total[f"{key}_seconds"] / 3600 for key in ("core", "training", "evaluation", "starting")}
    lines = [
        f"{hours['core']:,.2f} core-hours: training {hours['training']:,.2f}, evaluation {hours['evaluation']:,.2f}, "
        f"starting Python {hours['starting']:,.2f}",
        f"{show.duration(total['wall_seconds'])} on {cores} cores (the longest run: "
        f"{show.duration(total['longest_seconds'])})",
        f"memory: {total['memory_mb_per_run']:,.0f} MB per run at its peak, {total['memory_mb'] / 1e3:,.1f} GB for all "
        f"that run at once; the experiment asks for {experiment.resources['memory_mb']:,} MB per run",
        f"disk: {show.size(total['disk_bytes'])} in results/runs",
        *replay_lines(total),
        "",
        "Not counted: Snakemake itself, statistics, figures, the report. Evaluation episodes are taken to be as long",
        "as the time limit allows. Trial runs act with untrained policies; where episodes get longer with learning,",
        "bptt_full gets slower than it says here.",
    ]
    limit = 60 * experiment.resources["minutes"][scale]
    if total["longest_seconds"] > limit:
        lines.append(f"warning: the longest run exceeds the experiment's time limit per run, {show.duration(limit)}")
    if cores > (os.cpu_count() or cores):
        lines.append(f"These times are of this machine ({os.cpu_count()} cores), taken for one with {cores}.")
    if busy := show.busy():
        lines.append(busy)
    return "\n".join(lines)
