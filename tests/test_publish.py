"""What is shipped is small, complete, and says nothing of the machine that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import publish as module
from analysis.errors import AnalysisError
from analysis.load import collect, read_tables
from analysis.publish import publish
from tests.synthetic import write_grid


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


def test_missing_runs_are_not_published(tmp_path: Path) -> None:
    data = write_results(tmp_path, missing={("HopperV", "s2pg", 1)})
    with pytest.raises(AnalysisError, match="1 runs are missing"):
        publish(data, tmp_path / "published")
