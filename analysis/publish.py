"""Make a small copy of an experiment's tidy tables that can be shipped with the suite."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from analysis import schema
from analysis.claims import counterparts
from analysis.errors import AnalysisError
from analysis.load import read_grid, read_table

LARGEST = 3_000_000  # bytes of a published experiment
TEXTS = ("grid.json", "claims.json", "evidence.json", "*.md")  # to read without any program
LEFT_OUT = {"cpu": "", "started": ""}  # facts about the machine that others have no use for


def publish(data: Path, out: Path) -> int:
    """Copy the tidy tables in `data` to `out`, compressed, without facts about the machine; returns their bytes.

    Raises:
        AnalysisError: a run is missing, claims compare with an experiment that is not published beside `out`, `out`
            holds something else than tidy tables, or the copy is larger than 3 MB; what was in `out` is then left as
            it was.
    """
    if out.resolve() == data.resolve() or (out.exists() and any(out.iterdir()) and not (out / "runs.parquet").exists()):
        raise AnalysisError(f"{out}: not a folder of published tables, and publishing would replace all of it")
    runs = read_table(data, "runs")
    if (runs["status"] == "missing").any():
        raise AnalysisError(f"{data / 'runs.parquet'}: {(runs['status'] == 'missing').sum()} runs are missing")
    for name in counterparts(read_grid(data / "grid.json")):
        if not (out.resolve().parent / name / "runs.parquet").exists():
            raise AnalysisError(f"{data}: claims compare with {name}; publish it first, to {out.parent / name}")
    fresh = out.with_name(f"{out.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name in schema.TABLES:
        if (data / f"{name}.parquet").exists():
            table = read_table(data, name)
            table = table.assign(**{key: value for key, value in LEFT_OUT.items() if key in table and name == "runs"})
            table.to_parquet(fresh / f"{name}.parquet", compression="zstd", compression_level=19)
    for pattern in TEXTS:
        for path in data.glob(pattern):
            shutil.copy(path, fresh)
    size = sum(path.stat().st_size for path in fresh.iterdir())
    if size > LARGEST:
        shutil.rmtree(fresh)
        raise AnalysisError(f"{data}: {size / 1e6:.1f} MB compressed, more than {LARGEST / 1e6:.0f} MB; publish less")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    return size


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis publish`."""
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of tidy tables, results/tables/SCALE/EXPERIMENT"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, results/published/EXPERIMENT")


def main(arguments: argparse.Namespace) -> None:
    """Run the subcommand."""
    size = publish(arguments.data, arguments.out)
    print(f"{arguments.out}: {size / 1e6:.2f} MB")
