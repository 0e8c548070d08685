"""Synthetic results: complete run folders as the trainer writes them, and tidy tables without files.

grid = write_grid(tmp_path, tasks=("HopperV",), methods=("random", "oracle", "s2pg"), seeds=3)
collect(grid, tmp_path / "runs", tmp_path / "tables")

tables = tables_from_returns({("HopperV", "s2pg"): [10.0, 20.0, FAILED, MISSING], ...})
"""

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from analysis import schema
from analysis.load import Tables

EXPERIMENT, SCALE, START = "ppo_small", "demo", 1_700_000_000.0
TASKS = ("PendulumV", "HopperV")
METHODS = ("random", "oracle", "none", "bptt32", "s2pg")
TAGS = (
    "eval/return/sample", "eval/return/mean", "train/return", "loss/policy", "loss/value",
    "policy/kl/action", "policy/kl/memory", "policy/sigma/action", "policy/clip_fraction/joint", "grad_norm/policy",
)  # fmt: skip
# where a method's learning curve ends between the random policy (0) and the oracle (1); seconds per environment step
SKILL = {"random": 0.0, "none": 0.3, "window5": 0.4, "window32": 0.5, "bptt5": 0.6, "bptt32": 0.7, "s2pg": 0.85}
COST = {"random": 1e-4, "bptt32": 5e-3, "bptt_full": 8e-3, "window32": 2e-3}
CLAIMS = (
    {
        "id": "s2pg_above_none",
        "text": "PPO with S2PG reaches a higher return than PPO without memory.",
        "rule": {"statistic": "iqm_difference", "a": "s2pg", "b": "none", "threshold": 0.0, "min_seeds": 2},
    },
    {
        "id": "s2pg_faster_than_bptt32",
        "text": "A step of training takes less time with S2PG than with BPTT over 32 steps.",
        "rule": {"statistic": "time_ratio", "a": "bptt32", "b": "s2pg", "threshold": 1.0, "min_seeds": 2},
    },
)
FAILED, MISSING = "failed", "missing"
Key = tuple[str, str, int]  # task, method, seed


def write_grid(
    root: Path,
    *,
    tasks: Sequence[str] = TASKS,
    methods: Sequence[str] = METHODS,
    seeds: int = 3,
    points: int = 10,
    tags: Sequence[str] = TAGS[:4],
    episodes: int = 4,
    steps: int = 10_000,
    failed: Collection[Key] = (),
    missing: Collection[Key] = (),
    claims: Sequence[Mapping[str, Any]] = CLAIMS,
    mode: str = "mean",
    experiment: str = EXPERIMENT,
    scale: str = SCALE,
) -> Path:
    """Writes `root/grid.json` and the run folders below `root/runs`; returns the path of grid.json.

    points: evaluations (= epochs) per run; episodes: per evaluation and mode; failed runs diverge half way;
    missing runs leave no folder. The same arguments write the same numbers.
    """
    grid = make_grid(tasks, methods, seeds, claims=claims, mode=mode, experiment=experiment, scale=scale)
    for run in grid["runs"]:
        key = (run["task"], run["method"], run["seed"])
        if key not in missing:
            folder = Path(root, "runs", scale, experiment, key[0], key[1], f"seed_{key[2]}")
            shape = {"points": points, "tags": tags, "episodes": episodes, "steps": steps}
            write_run(folder, *key, failed=key in failed, experiment=experiment, scale=scale, **shape)
    path = Path(root, "grid.json")
    path.write_text(json.dumps(grid))
    return path


def make_grid(
    tasks: Sequence[str],
    methods: Sequence[str],
    seeds: int,
    *,
    claims: Sequence[Mapping[str, Any]] = CLAIMS,
    mode: str = "mean",
    experiment: str = EXPERIMENT,
    scale: str = SCALE,
) -> dict[str, Any]:
    """The content of grid.json."""
    runs = [{"task": t, "method": m, "seed": s} for t in tasks for m in methods for s in range(seeds)]
    at_scale = {scale: {"tasks": list(tasks), "methods": list(methods), "seeds": seeds}}
    spec = {"name": experiment, "title": "Synthetic", "claims": list(claims), "algorithm": "ppo", "mode": mode}
    return {"experiment": experiment, "scale": scale, "runs": runs, "spec": {**spec, "scales": at_scale}}


def write_run(
    folder: Path,
    task: str,
    method: str,
    seed: int,
    *,
    points: int = 10,
    tags: Sequence[str] = TAGS[:4],
    episodes: int = 4,
    steps: int = 10_000,
    failed: bool = False,
    experiment: str = EXPERIMENT,
    scale: str = SCALE,
) -> None:
    """Writes one complete run folder; a failed run stops half way through its epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(_digest(task, method, str(seed)))
    at = np.linspace(0, steps, points + 1).astype(int)[1:]
    returns = _learning_curve(rng, task, method, at / steps)
    if failed:
        at, returns = at[: max(1, points // 2)], returns[: max(1, points // 2)]
    timing = _timing(rng, method, at)
    config = {"experiment": experiment, "task": task, "method": method, "seed": seed, "scale": scale}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "algorithm": "ppo", "profile": "matched"}))
    (folder / "provenance.json").write_text(json.dumps(_provenance(task, method, seed)))
    write_events(folder / f"events.out.tfevents.{int(START)}.host.1.0", tags, at, returns)
    _episodes(rng, at, returns, episodes).to_parquet(folder / "episodes.parquet")
    timing.to_parquet(folder / "timing.parquet")
    if not failed:
        pd.DataFrame(_probe(rng, method)).to_parquet(folder / "probe.parquet")
    reason = "loss/policy is not finite" if failed else None
    done = {"status": FAILED if failed else "finished", "reason": reason, "steps": int(at[-1])}
    cost = {"seconds": float(timing.wall.iloc[-1]), "peak_memory_mb": 400.0 + 10 * seed}
    (folder / "done.json").write_text(json.dumps({**done, **cost}))


def write_events(
    path: Path, tags: Sequence[str], steps: Sequence[int], values: Sequence[float], start: float = START
) -> None:
    """Writes an event file as TensorBoard's SummaryWriter does: one event per scalar; tag i holds value + i."""
    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=start, file_version="brain.Event:2").SerializeToString())
        for step, value in zip(steps, values, strict=True):
            for offset, tag in enumerate(tags):
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=float(value) + offset)])
                event = Event(wall_time=start + 1 + int(step) / 1000, step=int(step), summary=summary)
                writer.write(event.SerializeToString())


def tables_from_returns(
    returns: Mapping[tuple[str, str], Sequence[float | str]],
    *,
    seconds_per_step: Mapping[str, float | Sequence[float]] | None = None,
    points: int = 1,
    steps: int = 1000,
    claims: Sequence[Mapping[str, Any]] = (),
    success: Mapping[tuple[str, str], Sequence[float]] | None = None,
) -> Tables:
    """Tidy tables in memory in which run i of (task, method) ends at exactly returns[task, method][i], in both modes.

    An entry is a return, FAILED or MISSING; seconds_per_step is per method (one number, or one per seed); success is
    per run the share of its episodes, in twentieths, that are successes (empty on tasks that are not named).
    """
    parts: dict[str, list[dict]] = {"runs": [], "episodes": [], "timing": [], "probe": []}
    at = np.linspace(0, steps, points + 1).astype(int)[1:]
    for (task, method), outcomes in returns.items():
        for seed, outcome in enumerate(outcomes):
            run = {"experiment": EXPERIMENT, "task": task, "method": method, "seed": seed}
            cost = (seconds_per_step or {}).get(method, 1e-3)
            cost = cost if isinstance(cost, float | int) else cost[seed]
            rate = (success or {}).get((task, method), {seed: None})[seed]
            _add_run(parts, run, outcome, at, cost, rate)
    pairs = list(returns)
    grid = make_grid(_unique(t for t, _ in pairs), _unique(m for _, m in pairs), 1, claims=claims)
    runs = [{k: run[k] for k in ("task", "method", "seed")} for run in parts["runs"]]
    frames = {name: schema.frame(name, rows) for name, rows in parts.items()}
    return Tables(**frames, scalars=schema.frame("scalars"), grid={**grid, "runs": runs})


def _add_run(
    parts: dict[str, list[dict]], run: dict, outcome: float | str, at: np.ndarray, cost: float, rate: float | None
) -> None:
    status = outcome if isinstance(outcome, str) else "finished"
    steps = None if status == MISSING else int(at[-1])
    memory = None if status == MISSING else 500.0
    seconds = None if status == MISSING else cost * at[-1]
    known = {"steps": steps, "seconds": seconds, "peak_memory_mb": memory}
    parts["runs"].append({**run, "scale": SCALE, "status": status, **known})
    if status != "finished":
        return
    if run["method"] not in ("random", "oracle"):
        alone, more = 0.2 + 0.01 * run["seed"], 0.0 if run["method"] == "none" else 0.5
        shape = {**run, "group": "velocities", "dimensions": 6, "steps": 500}
        parts["probe"] += [
            {**shape, "features": f, "r2": r} for f, r in zip(schema.FEATURES, (alone, alone + more), strict=True)
        ]
    epoch = cost * at[-1] / len(at)
    for i, step in enumerate(at):
        split = {"environment": 0.2 * epoch, "acting": 0.2 * epoch, "learning": 0.6 * epoch, "evaluation": 0.0}
        parts["timing"].append({**run, "step": step, **split, "wall": epoch * (i + 1)})
        for mode in ("sample", "mean"):
            episode = {"return": float(outcome), "length": 10, "episode_seed": 0}
            won = [None] if rate is None else [i < round(20 * rate) for i in range(20)]
            parts["episodes"] += [
                {**run, "step": step, "mode": mode, "episode": i, **episode, "success": w} for i, w in enumerate(won)
            ]


def _learning_curve(rng: np.random.Generator, task: str, method: str, progress: np.ndarray) -> np.ndarray:
    low = float(_digest(task) % 50)
    gain = SKILL.get(method, 1.0) + (0.0 if method == "random" else rng.normal(0, 0.05))
    return low + 100.0 * gain * (1 - np.exp(-4 * progress)) / (1 - np.exp(-4)) + rng.normal(0, 1.0, len(progress))


def _episodes(rng: np.random.Generator, at: np.ndarray, returns: np.ndarray, episodes: int) -> pd.DataFrame:
    modes, numbers = np.array(["sample", "mean"]), np.arange(episodes)
    step, mode, number = (a.ravel() for a in np.meshgrid(at, modes, numbers, indexing="ij"))
    value = np.repeat(returns, 2 * episodes) + np.where(mode == "mean", 2.0, 0.0) + rng.normal(0, 2.0, len(step))
    columns = {"step": step, "mode": mode, "episode": number, "return": value}
    return pd.DataFrame({**columns, "length": np.full(len(step), 1000), "seed": 10_000 + number})


def _timing(rng: np.random.Generator, method: str, at: np.ndarray) -> pd.DataFrame:
    seconds = np.diff(at, prepend=0) * COST.get(method, 1e-3) * rng.uniform(0.95, 1.05, len(at))
    split = {"environment": 0.2 * seconds, "acting": 0.2 * seconds, "learning": 0.6 * seconds}
    evaluation = np.full(len(at), 0.1)
    return pd.DataFrame({"step": at, **split, "evaluation": evaluation, "wall": np.cumsum(seconds + evaluation)})


def _probe(rng: np.random.Generator, method: str) -> dict[str, Any]:
    """As of a policy whose memory tells a share of its skill; empty where nothing is hidden or nothing was trained."""
    if method in ("random", "oracle"):
        return {"group": [], "features": [], "r2": [], "dimensions": [], "steps": []}
    alone = rng.uniform(0.2, 0.3)
    gain = 0.0 if method == "none" else 0.6 * SKILL.get(method, 1.0)
    shape = {"group": ["velocities"] * 2, "dimensions": [6, 6], "steps": [500, 500]}
    return {**shape, "features": list(schema.FEATURES), "r2": [alone, alone + gain]}


def _provenance(task: str, method: str, seed: int) -> dict[str, Any]:
    command = f"s2pg train --task {task} --method {method} --seed {seed}"
    machine = {"platform": "Linux", "cpu": "synthetic", "cores": 2, "gpu": None, "host": "synthetic"}
    packages = {"torch": "0", "numpy": np.__version__}
    code = {"git_revision": "0" * 40, "git_dirty": False, "packages": packages, "python": "3.11"}
    return {**code, **machine, "command": command, "started": "2023-11-14T22:13:20+00:00"}


def _digest(*words: str) -> int:
    return zlib.crc32("/".join(words).encode())


def _unique(values: Any) -> list[str]:
    return list(dict.fromkeys(values))
