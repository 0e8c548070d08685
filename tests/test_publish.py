"""What is shipped is small, complete, and says nothing of the machine that made it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import claims
from analysis import publish as module
from analysis.errors import AnalysisError
from analysis.load import collect, read_tables
from analysis.publish import publish
from tests.synthetic import write_grid

SHIPPED = [path.parent for path in sorted(Path(__file__).parents[1].glob("results/published/*/grid.json"))]


def write_results(root: Path, **shape: Any) -> Path:
    """Tidy tables of synthetic runs."""
    collect(write_grid(root, tasks=("HopperV",), methods=("random", "s2pg"), **shape), root / "runs", root / "tables")
    return root / "tables"


def test_published_tables_are_the_tables_without_the_machine(tmp_path: Path) -> None:
    data = write_results(tmp_path)
    publish(data, tmp_path / "published")
    original, copy = read_tables(data), read_tables(tmp_path / "published")
    for name in ("scalars", "episodes", "timing"):
        pd.testing.assert_frame_equal(getattr(copy, name), getattr(original, name))
    assert set(copy.runs["cpu"]) == {""}
    assert copy.grid == original.grid


def test_too_large_a_copy_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = write_results(tmp_path), tmp_path / "published"
    publish(data, out)
    before = sorted(path.stat().st_mtime_ns for path in out.iterdir())
    monkeypatch.setattr(module, "LARGEST", 10)
    with pytest.raises(AnalysisError, match="MB compressed"):
        publish(data, out)
    assert sorted(path.stat().st_mtime_ns for path in out.iterdir()) == before


@pytest.mark.parametrize("place", ["tables", "."])
def test_nothing_but_an_earlier_copy_is_replaced(place: str, tmp_path: Path) -> None:
    data = write_results(tmp_path / "results")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AnalysisError, match="would replace all of it"):
        publish(data, (tmp_path / "results" / place).resolve())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_what_is_shipped_is_small_and_has_the_verdicts_of_this_code(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < module.LARGEST
    assert not any(re.search(rb"/(home|root|tmp|work|Users)/", path.read_bytes()) for path in folder.iterdir())
    tables = read_tables(folder)
    assert "missing" not in set(tables.runs["status"])
    others = [read_tables(folder.parent / name) for name in claims.counterparts(tables.grid)]
    said, found = claims.read_claims(folder / "claims.json"), claims.judge(tables, others=others)
    assert [(v.id, v.verdict, v.counts) for v in said] == [(v.id, v.verdict, v.counts) for v in found]
    assert [v.estimate for v in said] == [v.estimate and pytest.approx(v.estimate) for v in found]


def test_missing_runs_are_not_published(tmp_path: Path) -> None:
    data = write_results(tmp_path, missing={("HopperV", "s2pg", 1)})
    with pytest.raises(AnalysisError, match="1 runs are missing"):
        publish(data, tmp_path / "published")


def test_what_claims_compare_with_is_published_first(tmp_path: Path) -> None:
    rule = {"statistic": "iqm_difference", "a": "s2pg", "experiment_a": "there", "b": "s2pg"}
    claim = {"id": "helps", "text": "It helps.", "rule": rule | {"threshold": 0.0, "min_seeds": 2}}
    here = write_results(tmp_path / "here", claims=[claim])
    there = write_results(tmp_path / "there", experiment="there", claims=[])
    with pytest.raises(AnalysisError, match="compare with there; publish it first"):
        publish(here, tmp_path / "published" / "here")
    publish(there, tmp_path / "published" / "there")
    publish(here, tmp_path / "published" / "here")
    others = [read_tables(tmp_path / "published" / "there")]
    (verdict,) = claims.judge(read_tables(tmp_path / "published" / "here"), reps=50, others=others)
    assert verdict.counts["finished"] == 2 * 3
