"""Notebooks: they run without torch and without network on whatever tables there are, and say which."""

import json

import pytest

from analysis import notebooks
from analysis.__main__ import main
from analysis.errors import AnalysisError
from analysis.load import collect
from analysis.notebooks import NOTEBOOKS, VARIABLE, find_tables, run
from tests.synthetic import write_grid
from tests.test_report import Page


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Tables of runs of which one failed and one is missing; a tenth of 11 evaluations is 2, rounded up, and not 1."""
    root = tmp_path_factory.mktemp("notebooks")
    tags = ("policy/kl/action", "value/explained_variance", "loss/value")
    lost = {"failed": {("HopperV", "s2pg", 0)}, "missing": {("HopperV", "none", 1)}}
    grid = write_grid(root, tasks=("HopperV",), seeds=3, points=11, tags=tags, **lost)
    collect(grid, root / "runs", root / "tables")
    return root / "tables"


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_notebook_runs_and_becomes_html_that_loads_nothing(name, tables, tmp_path):
    source, page = run(name, tmp_path, tables)
    cells = json.loads(source.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    assert f"Showing {tables} (named by {VARIABLE})." in "".join(str(cell["outputs"]) for cell in code)
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"])
    seen = Page(page.read_text(encoding="utf-8"))
    assert all(source.startswith("data:") for source in seen.loads)
    assert "script" not in seen.tags


def test_every_notebook_source_is_listed():
    assert sorted(path.stem for path in notebooks.HERE.glob("*.py") if path.stem != "__init__") == sorted(NOTEBOOKS)


def test_a_failing_cell_is_an_error_that_names_the_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "HERE", tmp_path)
    (tmp_path / "broken.py").write_text("# %%\n1 / 0\n")
    with pytest.raises(AnalysisError, match=r"notebook broken failed[\s\S]*ZeroDivisionError"):
        run("broken", tmp_path / "out")


@pytest.fixture
def results(tables, tmp_path, monkeypatch):
    """A results folder with the given subfolders holding tables."""
    monkeypatch.delenv(VARIABLE, raising=False)

    def make(*folders):
        for folder in folders:
            (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder).symlink_to(tables)
        return tmp_path

    return make


def test_own_runs_come_before_the_shipped_ones_and_larger_scales_before_smaller(results, capsys):
    root = results("published/ppo_small", "tables/smoke/ppo_small", "tables/demo/ppo_small")
    assert find_tables(results=root) == root / "tables/demo/ppo_small"
    assert "(your own runs, scale demo)" in capsys.readouterr().out


def test_without_own_runs_the_shipped_ones_are_shown_and_said_to_be(results, capsys):
    root = results("published/ppo_small", "tables/demo/ppo_pomdp")
    assert find_tables(results=root) == root / "published/ppo_small"
    assert "(example results shipped with the suite)" in capsys.readouterr().out


def test_the_environment_variable_decides_alone(results, tables, monkeypatch):
    root = results("tables/demo/ppo_small")
    monkeypatch.setenv(VARIABLE, str(tables))
    assert find_tables(results=root) == tables
    monkeypatch.setenv(VARIABLE, str(root))
    with pytest.raises(AnalysisError, match="no tidy tables"):
        find_tables(results=root)


def test_no_tables_at_all_is_an_error_that_says_where_it_looked(results):
    root = results()
    with pytest.raises(AnalysisError, match="tables/paper/ppo_small.*published/ppo_small"):
        find_tables(results=root)


def test_an_unknown_notebook_is_an_error_that_lists_the_notebooks(tmp_path, capsys):
    assert main(["notebooks", "--out", str(tmp_path), "--only", "x"]) == 2
    assert "unknown notebook x; notebooks: explore_a_run" in capsys.readouterr().err
