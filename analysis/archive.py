"""Pack the runs of experiments to keep them: one Parquet per experiment, and checksums.

A row is a run: the columns of table `runs`, its `config` and `provenance` as their files have them, and the rows of its
other tables as lists (`scalars`, `episodes`, `timing`, `probe`). `grid` in the file's metadata is grid.json.
Checkpoints are left out. `sha256sum -c SHA256SUMS` checks an archive, too.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis import schema
from analysis.errors import AnalysisError
from analysis.load import DATA, Tables, collect, run_folder, write_table

RUN = ["experiment", "task", "method", "seed"]
FILES = {"config": "config.yaml", "provenance": "provenance.json"}
SUMS = "SHA256SUMS"


def archive(results: Path, scale: str, experiments: Iterable[str], out: Path) -> list[Path]:
    """Write `<scale>-<experiment>.parquet` for each experiment, and the checksums of all of them.

    Raises:
        AnalysisError: an experiment's grid.json is not there, or what was written reads otherwise than the runs.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = [_pack(results / "runs", scale, name, out) for name in experiments]
    sums = _sums(out) | {path.name: _sum(path) for path in paths}
    half = out / f".{SUMS}"
    half.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    half.replace(out / SUMS)
    return paths


def check(out: Path) -> list[str]:
    """Names of the archived files. Raises AnalysisError if one is absent or is not what was written."""
    if not (sums := _sums(out)):
        raise AnalysisError(f"{out / SUMS} is not there or empty")
    for name, digest in sums.items():
        if not (out / name).exists():
            raise AnalysisError(f"{out / name} is gone")
        if _sum(out / name) != digest:
            raise AnalysisError(f"{out / name}: its checksum is not the one in {SUMS}")
    return list(sums)


def unpack(path: Path, out: Path) -> Tables:
    """The tidy tables of an archived experiment, also written to `out`, as `collect` writes them."""
    table = pq.read_table(path)
    grid = json.loads(table.schema.metadata[b"grid"])
    runs = schema.frame("runs", dict(table.drop_columns([*FILES, *DATA[1:]]).to_pandas()))
    frames = {"runs": runs} | {name: _tidy(table, runs, name) for name in DATA[1:]}
    for name in DATA:
        write_table(name, frames[name], out)
    (out / "grid.json").write_text(json.dumps(grid, indent=1) + "\n")
    return Tables(**frames, grid=grid)


def _pack(runs: Path, scale: str, experiment: str, out: Path) -> Path:
    grid = runs / scale / experiment / "grid.json"
    path, work = out / f"{scale}-{experiment}.parquet", out / f".{scale}-{experiment}"
    try:
        tables = collect(grid, runs, work)
        table = pa.Table.from_pandas(tables.runs, preserve_index=False)
        for name, file in FILES.items():
            table = table.append_column(name, pa.array(_texts(runs, tables.runs, file), pa.string()))
        for name in DATA[1:]:
            table = table.append_column(name, _nested(tables.runs, getattr(tables, name)))
        pq.write_table(
            table.replace_schema_metadata({**(table.schema.metadata or {}), b"grid": json.dumps(tables.grid).encode()}),
            work / path.name,
            compression="zstd",
        )
        (work / path.name).replace(path)
    finally:
        for item in work.glob("*"):
            item.unlink()
        if work.exists():
            work.rmdir()
    return path


def _texts(runs: Path, table: pd.DataFrame, file: str) -> list[str | None]:
    folders = [run_folder(runs, row) for row in table.to_dict("records")]
    return [(folder / file).read_text() if (folder / file).exists() else None for folder in folders]


def _nested(runs: pd.DataFrame, frame: pd.DataFrame) -> pa.Array:
    """Per run, the list of its rows in a tidy table."""
    place = pd.MultiIndex.from_frame(runs[RUN]).get_indexer(pd.MultiIndex.from_frame(frame[RUN]))
    order = np.argsort(place, kind="stable")
    offsets = np.concatenate([[0], np.bincount(place, minlength=len(runs)).cumsum()])
    rows = pa.Table.from_pandas(frame.drop(columns=RUN).iloc[order], preserve_index=False)
    columns = [rows[name].combine_chunks() for name in rows.column_names]
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(columns, rows.column_names)
    )


def _tidy(table: pa.Table, runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """The inverse of `_nested`."""
    lists = table[name].combine_chunks()
    rows = pa.Table.from_struct_array(lists.flatten()).to_pandas()
    counts = lists.value_lengths().to_numpy()
    named = runs[RUN].loc[runs.index.repeat(counts)].reset_index(drop=True)
    return schema.frame(name, dict(pd.concat([named, rows], axis=1)))


def _sums(out: Path) -> dict[str, str]:
    path = out / SUMS
    lines = path.read_text().splitlines() if path.exists() else []
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis archive`."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the archive")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of the results (default: results)"
    )
    parser.add_argument("--scale", help="scale to pack")
    parser.add_argument("--experiments", nargs="+", help="experiments to pack (default: all of the scale)")
    parser.add_argument("--check", action="store_true", help="only compare the checksums")
    parser.add_argument("--unpack", type=Path, metavar="FILE", help="write a file's tidy tables to --out instead")


def main(arguments: argparse.Namespace) -> None:
    """Run the subcommand."""
    if arguments.check:
        print(f"{arguments.out}: {len(check(arguments.out))} files are as they were written")
    elif arguments.unpack:
        tables = unpack(arguments.unpack, arguments.out)
        print(f"{arguments.out}: tables of {len(tables.runs)} runs")
    elif not arguments.scale:
        raise AnalysisError("--scale is needed to pack runs")
    else:
        found = sorted(path.parent.name for path in arguments.results.glob(f"runs/{arguments.scale}/*/grid.json"))
        for path in archive(arguments.results, arguments.scale, arguments.experiments or found, arguments.out):
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
