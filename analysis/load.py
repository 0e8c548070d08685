"""From the run folders of a grid to tidy Parquet tables, and back from the tables to frames.

One bad run never takes the collection down and is never hidden: it becomes a row of `runs` with status "failed"
(its files cannot be read; the reason names the file) or "missing" (no result yet).
"""

import argparse
import functools
import hashlib
import json
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event

from analysis import schema
from analysis.errors import AnalysisError

RETRAIN = "trained before that changed; `s2pg train` moves this run aside and trains it anew"
DATA = ("runs", "scalars", "episodes", "timing", "probe")


@dataclass(frozen=True)
class Tables:
    """The tidy tables (see analysis/schema.py) of one grid, and the grid itself (the content of grid.json)."""

    runs: pd.DataFrame
    scalars: pd.DataFrame
    episodes: pd.DataFrame
    timing: pd.DataFrame
    probe: pd.DataFrame = field(default_factory=functools.partial(schema.frame, "probe"))
    grid: dict[str, Any] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """The evaluation mode that the experiment's statistics use; the other one is shown too."""
        return self.grid.get("spec", {}).get("mode", "mean")


def collect(grid: Path, runs: Path, out: Path) -> Tables:
    """Reads every attempted run of `grid` below `runs` and writes the tables `DATA` as .parquet and a copy of grid.json
    to `out`.

    `runs` is results/runs: a run lies in <scale>/<experiment>/<task>/<method>/seed_<n>. A run whose done.json does
    not exist is "missing" and its half-made files are left out, and so is one that was trained with other settings than
    the grid's; a run with an unreadable file is "failed".
    """
    content = read_grid(Path(grid))
    if not Path(runs).is_dir():
        raise AnalysisError(f"{runs} is not a folder; it should hold <scale>/<experiment>/<task>/<method>/seed_<n>")
    rows, parts = [], {name: [schema.frame(name)] for name in DATA[1:]}
    for run in content["runs"]:
        identity = {"experiment": content["experiment"], **run, "scale": content["scale"]}
        wanted = content.get("configs", {}).get(run["task"], {}).get(run["method"], {})
        row, frames = collect_run(run_folder(Path(runs), identity), identity, wanted)
        rows.append(row)
        for name, frame in frames.items():
            parts[name].append(frame)
    data = {name: pd.concat(frames[1:] or frames, ignore_index=True) for name, frames in parts.items()}
    tables = Tables(schema.frame("runs", rows), **data, grid=content)
    _write(tables, Path(out))
    return tables


def run_folder(runs: Path, identity: Mapping[str, Any]) -> Path:
    """Folder of the run with keys scale, experiment, task, method and seed below `runs`."""
    parts = [str(identity[key]) for key in ("scale", "experiment", "task", "method")]
    return runs.joinpath(*parts, f"seed_{identity['seed']}")


def collect_run(
    folder: Path, identity: Mapping[str, Any], wanted: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """The row of `runs` and the other tables of `DATA` of one run; never raises for a bad run.

    Args:
        identity: experiment, task, method, seed and scale as the grid has them.
        wanted: what it must have been trained with, by the keys of `config.yaml`.
    """
    row = {**dict.fromkeys(schema.TABLES["runs"].names), **identity}
    if not (folder / "done.json").exists():
        state = "done.json is not there (unfinished)" if folder.exists() else "its folder is not there (not started)"
        return {**row, "status": "missing", "reason": state}, {}
    if other := _differences(folder / "config.yaml", wanted or {}):
        return {**row, "status": "missing", "reason": f"{'; '.join(other)}: {RETRAIN}"}, {}
    read, faults = _read_parts(folder, identity)
    done, frames = read.get("done.json", {"status": "failed"}), read.get("frames", {})
    row |= {**read.get("config.yaml", {}), **read.get("provenance.json", {}), **done}
    if faults and done["status"] == "finished":
        row |= {"status": "failed", "reason": "; ".join(faults)}
    row["reason"] = row["reason"] or ("; ".join(faults) if row["status"] == "failed" else None)
    return row, frames


def read_tables(folder: Path) -> Tables:
    """The tables that `collect` wrote to `folder`; AnalysisError if a file is absent or breaks its schema."""
    folder = Path(folder)
    tables = Tables(**{name: read_table(folder, name) for name in DATA}, grid=read_grid(folder / "grid.json"))
    finished = tables.runs[tables.runs["status"] == "finished"]
    evaluated = set(tables.episodes.groupby(["task", "method", "seed"]).groups)
    lacking = [
        key for key in zip(finished["task"], finished["method"], finished["seed"], strict=True) if key not in evaluated
    ]
    if lacking:
        raise AnalysisError(f"{folder}: runs.parquet has finished runs without episodes, the first is {lacking[0]}")
    return tables


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """Table `name` of analysis/schema.py from `folder`/`name`.parquet."""
    path = Path(folder) / f"{name}.parquet"
    if not path.exists():
        maker = "collect" if name in DATA else "statistics"
        raise AnalysisError(f"{path} does not exist; `python -m analysis {maker}` makes it")
    try:
        return schema.check(name, _parquet(path))
    except (schema.SchemaError, Unreadable) as error:
        raise AnalysisError(f"{path}: {error}") from error


def read_grid(path: Path) -> dict[str, Any]:
    """The content of grid.json: experiment, scale, runs (list of task, method, seed) and spec."""
    if not path.exists():
        raise AnalysisError(f"{path} does not exist; it lists the runs that were attempted")
    try:
        grid = json.loads(path.read_text())
        lacking = [key for key in ("experiment", "scale", "runs") if not grid[key]]
        lacking += [f"runs[{i}]" for i, run in enumerate(grid["runs"]) if {*run} != {"task", "method", "seed"}]
    except (ValueError, KeyError, TypeError) as error:
        raise AnalysisError(f"{path}: not a grid ({type(error).__name__}: {error})") from error
    if lacking:
        raise AnalysisError(f"{path}: empty or malformed: {', '.join(lacking[:3])} (a run has task, method and seed)")
    return grid


def read_scalars(folder: Path) -> pd.DataFrame:
    """Columns tag, step, value, wall_time from all event files of a run folder, last value per (tag, step).

    A resumed run leaves several files with overlapping steps; files count in the order in which they were begun.
    A truncated file (the run was killed) is read up to the last whole record, with a warning.
    """
    files = [_events(path) for path in sorted(folder.glob("events.out.tfevents.*"))]
    files.sort(key=lambda file: file[0])
    rows = [row for _, rows in files for row in rows]
    scalars = pd.DataFrame(rows, columns=["tag", "step", "value", "wall_time"])
    return scalars.drop_duplicates(["tag", "step"], keep="last", ignore_index=True)


class Unreadable(Exception):
    """A file cannot be read; the message says why, the caller knows which."""


def _events(path: Path) -> tuple[float, list[tuple[str, int, float, float]]]:
    """When the file was begun, and its scalars (tag, step, value, wall time). Only `simple_value`, as torch writes."""
    begun, rows = float("inf"), []
    for record in _records(path):
        try:
            event = Event.FromString(record)
        except DecodeError:
            warnings.warn(f"{path}: a record cannot be decoded; read up to there", stacklevel=2)
            break
        begun = min(begun, event.wall_time)
        for value in event.summary.value:
            if value.HasField("simple_value"):
                rows.append((value.tag, event.step, value.simple_value, event.wall_time))
    return begun, rows


def _records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file: length (8 bytes), checksum (4), data, checksum (4); checksums are not read."""
    data, at = path.read_bytes(), 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        if at + 16 + length > len(data):
            break
        yield data[at + 12 : at + 12 + length]
        at += 16 + length
    if at != len(data):
        warnings.warn(f"{path}: truncated after byte {at}; read up to there", stacklevel=2)


def _read_parts(folder: Path, identity: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What could be read of a run folder, by file ("frames": the data tables), and what could not."""
    data = {"scalars": _scalars, "episodes": _episodes, "timing": _timing, "probe": _probe}
    readers: dict[str, Callable[[], Any]] = {
        "done.json": lambda: _done(folder / "done.json"),
        "config.yaml": lambda: _config(folder / "config.yaml", identity),
        "provenance.json": lambda: _provenance(folder / "provenance.json"),
        **{name: functools.partial(_tidy, name, read, folder, identity) for name, read in data.items()},
    }
    parts: dict[str, Any] = {}
    faults: list[str] = []
    for name, reader in readers.items():
        try:
            parts[name] = reader()
        except Exception as error:  # whatever a file holds, it must not stop the collection of the others
            faults.append(_fault(folder, name, error))
    parts["frames"] = {name: parts.pop(name) for name in data if name in parts}
    return parts, faults


def _fault(folder: Path, name: str, error: Exception) -> str:
    file = "event files" if name == "scalars" else f"{name}.parquet" if name in DATA else name
    text = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
    return " ".join(f"{file}: {text}".replace(f"{folder}/", "").split())


def _done(path: Path) -> dict[str, Any]:
    done = json.loads(path.read_text())
    if done["status"] not in ("finished", "failed"):
        raise Unreadable(f"status {done['status']!r}, allowed are finished and failed")
    numbers = {"steps": int, "seconds": float, "peak_memory_mb": float}
    return {
        "status": done["status"],
        "reason": _text(done.get("reason")),
        **{k: kind(done[k]) for k, kind in numbers.items()},
    }


def _config(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    config = yaml.safe_load(path.read_text())
    for key, value in identity.items():
        if config[key] != value:
            raise Unreadable(f"{key} is {config[key]!r}, the grid says {value!r}")
    shared = json.dumps({key: value for key, value in config.items() if key != "seed"}, sort_keys=True, default=str)
    return {"profile": _text(config.get("profile")), "config_hash": hashlib.sha256(shared.encode()).hexdigest()[:12]}


def _differences(path: Path, wanted: Mapping[str, Any]) -> list[str]:
    """What a run was trained with other than wanted, in words; a key that only one of them knows came or went since.

    Nothing where the file cannot be read: that is a fault of another kind.
    """
    try:
        had, want = _flat(yaml.safe_load(path.read_text())), _flat(wanted)
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return []
    keys = [key for key in want if key in had and had[key] != want[key]]
    return [f"{key} is {had[key]!r}, the experiment file says {want[key]!r}" for key in keys]


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the memory and of the algorithm beside the others, by dotted names."""
    parts = {f"{part}.{key}": value for part in ("memory", "hparams") for key, value in config.get(part, {}).items()}
    return {key: value for key, value in config.items() if key not in ("memory", "hparams")} | parts


def _provenance(path: Path) -> dict[str, Any]:
    provenance = json.loads(path.read_text())
    dirty = provenance["git_dirty"]
    texts = {key: _text(provenance.get(key)) for key in ("git_revision", "cpu", "started")}
    return {**texts, "git_dirty": None if dirty is None else bool(dirty)}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _scalars(folder: Path) -> pd.DataFrame:
    scalars = read_scalars(folder)
    if scalars.empty:
        raise Unreadable("there is none with a scalar")
    return scalars.astype({"step": "int64"})


def _episodes(folder: Path) -> pd.DataFrame:
    frame = _parquet(folder / "episodes.parquet").rename(columns={"seed": "episode_seed"})
    frame = frame.drop_duplicates(["step", "mode", "episode"], keep="last", ignore_index=True)
    if set(frame["mode"]) != set(schema.MODES):
        raise Unreadable(f"holds evaluation modes {sorted(set(frame['mode']))}, not both of {list(schema.MODES)}")
    if not np.isfinite(frame["return"].to_numpy(float)).all():
        raise Unreadable("holds a return that is not finite")
    return frame


def _timing(folder: Path) -> pd.DataFrame:
    frame = _parquet(folder / "timing.parquet")
    if frame.empty:
        raise Unreadable("holds no epoch")
    return frame.drop_duplicates("step", keep="last", ignore_index=True)


def _probe(folder: Path) -> pd.DataFrame:
    """No rows if the run has no file: nothing was trained, nothing is hidden, or the run diverged."""
    path = folder / "probe.parquet"
    found = _parquet(path) if path.exists() else pd.DataFrame()
    return schema.frame("probe") if found.empty else found


def _parquet(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise Unreadable("does not exist")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
        raise Unreadable(f"cannot be read ({' '.join(str(error).split())[:80]})") from error


def _tidy(name: str, read: Callable[[Path], pd.DataFrame], folder: Path, identity: Mapping[str, Any]) -> pd.DataFrame:
    """A run's rows of table `name`; columns that the table does not know are left out."""
    named = read(folder).assign(**{key: identity[key] for key in ("experiment", "task", "method", "seed")})
    return schema.check(name, named[[column for column in named if column in schema.TABLES[name].names]])


def _write(tables: Tables, out: Path) -> None:
    for name in DATA:
        write_table(name, getattr(tables, name), out)
    (out / "grid.json").write_text(json.dumps(tables.grid, indent=1) + "\n")


def write_table(name: str, frame: pd.DataFrame, out: Path) -> None:
    """Writes a checked table to `out`/`name`.parquet; a reader never sees half a file."""
    out.mkdir(parents=True, exist_ok=True)
    half = out / f".{name}.parquet"
    schema.check(name, frame).to_parquet(half, compression="zstd", index=False)
    half.replace(out / f"{name}.parquet")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis collect`."""
    parser.add_argument("--grid", type=Path, required=True, help="grid.json: the runs that were attempted")
    parser.add_argument("--runs", type=Path, required=True, help="folder of all run folders: results/runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")


def main(arguments: argparse.Namespace) -> None:
    """`python -m analysis collect`."""
    tables = collect(arguments.grid, arguments.runs, arguments.out)
    counts = tables.runs["status"].value_counts()
    said = ", ".join(f"{counts.get(status, 0)} {status}" for status in schema.STATUSES)
    print(f"{len(tables.runs)} runs attempted: {said}; tables in {arguments.out}")
