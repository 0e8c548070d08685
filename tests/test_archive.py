"""An archive holds what the runs hold, and notices when it does not."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis.archive import archive, check, unpack
from analysis.errors import AnalysisError
from analysis.load import DATA, collect
from tests.synthetic import write_grid

SHAPE = {"tasks": ("HopperV",), "methods": ("random", "s2pg"), "seeds": 2}


def packed(root: Path, **shape: object) -> tuple[Path, Path]:
    """A results folder with one experiment, and the archive of it."""
    grid = write_grid(root, **(SHAPE | shape))
    place = root / "runs/demo/ppo_small/grid.json"
    place.write_bytes(grid.read_bytes())
    (path,) = archive(root, "demo", ["ppo_small"], root / "kept")
    return place, path


def test_an_archive_gives_back_every_table(tmp_path: Path) -> None:
    grid, path = packed(tmp_path, missing={("HopperV", "s2pg", 1)})
    original, back = collect(grid, tmp_path / "runs", tmp_path / "tables"), unpack(path, tmp_path / "back")
    for name in DATA:
        one, two = getattr(original, name), getattr(back, name)
        pd.testing.assert_frame_equal(one.reset_index(drop=True), two, check_dtype=False)
        written = [pd.read_parquet(tmp_path / folder / f"{name}.parquet") for folder in ("tables", "back")]
        pd.testing.assert_frame_equal(*written)
    assert back.grid == original.grid


def test_a_row_holds_the_runs_configuration_as_it_was_written(tmp_path: Path) -> None:
    _, path = packed(tmp_path)
    rows = pq.read_table(path).to_pandas()
    for _, row in rows.iterrows():
        folder = tmp_path / f"runs/demo/ppo_small/{row.task}/{row.method}/seed_{row.seed}"
        assert row.config == (folder / "config.yaml").read_text()
        assert row.provenance == (folder / "provenance.json").read_text()


def test_only_what_is_kept_lies_in_the_archive(tmp_path: Path) -> None:
    _, path = packed(tmp_path)
    assert sorted(item.name for item in path.parent.iterdir()) == ["SHA256SUMS", path.name]


@pytest.mark.parametrize("harm", ["changed", "removed"])
def test_harm_is_noticed(harm: str, tmp_path: Path) -> None:
    _, path = packed(tmp_path)
    assert check(path.parent) == [path.name]
    if harm == "changed":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(AnalysisError, match=r"demo-ppo_small\.parquet"):
        check(path.parent)


def test_a_second_experiment_joins_the_first(tmp_path: Path) -> None:
    _, path = packed(tmp_path)
    other = path.with_name("demo-other.parquet")
    other.write_bytes(b"kept earlier")
    archive(tmp_path, "demo", ["ppo_small"], path.parent)
    assert check(path.parent) == [path.name]
