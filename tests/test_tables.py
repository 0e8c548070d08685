"""Tables: run counts in every one, the same numbers in every format, no number that is not there."""

import warnings

import pandas as pd
import pytest

from analysis import claims, setting, stats
from analysis.__main__ import main
from analysis.load import collect
from analysis.tables import TABLES, Results, write
from tests.synthetic import FAILED, MISSING, tables_from_returns, write_grid

RETURNS = {
    ("HopperV", "random"): [9.0, 11.0],
    ("HopperV", "oracle"): [100.0, 120.0],
    ("HopperV", "s2pg"): [60.0, 61.0, FAILED],
    ("HopperV", "none"): [30.0, 40.0, MISSING],
    ("HopperV", "window5"): [35.0],
}


@pytest.fixture(scope="module")
def results():
    claim = {
        "id": "above",
        "text": "It is 50% better.",
        "rule": {"statistic": "iqm_difference", "a": "s2pg", "b": "none", "threshold": 0.0, "min_seeds": 2},
    }
    tables = tables_from_returns(RETURNS, claims=[claim])
    return Results(tables, stats.statistics(tables, 100), stats.wall_clock(tables), claims.judge(tables, 100))


@pytest.mark.parametrize("name", TABLES)
def test_every_table_counts_attempted_finished_failed_and_missing_runs(results, name):
    table = TABLES[name](results)
    assert {"attempted", "finished", "failed", "missing"} <= set(table.data)
    if name == "accounting":
        assert {"attempted", "finished", "failed", "missing"} <= set(table.shown)
    else:
        said = " ".join(table.shown["runs"])
        assert "1 failed" in said
        assert "1 missing" in said


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_written_in_three_formats_with_the_same_rows(results, name, tmp_path):
    table = TABLES[name](results)
    write(name, table, tmp_path)
    markdown, latex = ((tmp_path / f"{name}.{kind}").read_text() for kind in ("md", "tex"))
    assert markdown.startswith(table.caption)
    assert sum(line.startswith("|") for line in markdown.splitlines()) == len(table.shown) + 2
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert body.count(r"\\") == len(table.shown)
    assert len(pd.read_csv(tmp_path / f"{name}.csv")) == len(table.data)
    assert " %" not in latex.replace(r" \%", "")  # would comment out the rest of the line


def shown(results, name, **where):
    frame = TABLES[name](results).shown
    for column, value in where.items():
        frame = frame[frame[column] == value]
    (row,) = frame.to_dict("records")
    return row


def test_cells_hold_the_estimate_and_its_interval(results):
    row = shown(results, "returns", method="S2PG")
    (expected,) = results.pick(["return_mean"]).query("method == 's2pg' and mode == 'mean'").to_dict("records")
    assert row["mean (mean mode)"] == f"{expected['estimate']:.1f} [{expected['low']:.1f}, {expected['high']:.1f}]"
    assert row["mean (mean mode)"].startswith("43.7 [")  # (60 + 61 + the random policy's 10) / 3
    assert row["runs"] == "2 of 3 (1 failed)"


def test_single_run_is_shown_without_an_interval(results):
    assert shown(results, "returns", method="Window 5")["IQM (mean mode)"] == "35.0 (no interval)"


def test_incomplete_rows_say_so(results):
    assert shown(results, "aggregates", method="No memory", score="final", mode="mean")["note"] == "1 of 3 runs missing"


def test_experiments_mode_comes_first_and_the_other_is_shown_too(results):
    assert TABLES["aggregates"](results).shown["mode"].drop_duplicates().tolist() == ["mean", "sample"]
    assert {"IQM (mean mode)", "IQM (sample mode)"} <= set(TABLES["returns"](results).shown)


def test_improvement_of_a_over_b_and_of_b_over_a_add_up_to_one(results):
    data = TABLES["improvement"](results).data.query("mode == 'mean'").set_index(["method", "versus"])["estimate"]
    for (a, b), value in data.items():
        assert value + data[b, a] == pytest.approx(1)


def test_last_row_of_the_accounting_sums_all_runs(results):
    total = TABLES["accounting"](results).shown.iloc[-1]
    assert tuple(total[["attempted", "finished", "failed", "missing"]]) == (11, 9, 1, 1)


def test_tables_from_the_command_line(tmp_path):
    folder = tmp_path / "tables"
    collect(write_grid(tmp_path, seeds=2, points=3), tmp_path / "runs", folder)
    for command in ("statistics", "claims", "tables"):
        assert main([command, "--data", str(folder)]) == 0
    assert {path.stem for path in folder.glob("*.md")} == set(TABLES)


def test_tables_without_any_finished_run(tmp_path):
    tables = tables_from_returns({("HopperV", "s2pg"): [MISSING, MISSING], ("HopperV", "none"): [FAILED]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Results(tables, stats.statistics(tables, 10), stats.wall_clock(tables), claims.judge(tables, 10))
    for name, build in TABLES.items():
        write(name, build(found), tmp_path)
    assert "no estimate" in (tmp_path / "returns.md").read_text()
    assert "0 of 3 (1 failed, 2 missing)" in (tmp_path / "aggregates.md").read_text()
    assert "No rows." in (tmp_path / "claims.md").read_text()


def test_without_a_normalised_scale_aggregates_say_why_instead_of_rows_of_nothing():
    tables = tables_from_returns({("HopperV", "s2pg"): [1.0, 2.0], ("HopperV", "none"): [1.0, 2.0]})
    with pytest.warns(UserWarning, match="left out of normalised"):
        found = stats.statistics(tables, 10)
    table = TABLES["aggregates"](Results(tables, found, stats.wall_clock(tables)))
    assert table.shown.to_numpy().tolist() == [["4 of 4", setting.no_scale({})]]
    assert len(table.data) > 1


def test_the_time_to_reach_a_return_counts_runs_that_never_do():
    ends = {("HopperV", "random"): [0.0, 0.0], ("HopperV", "oracle"): [100.0, 100.0]}
    runs = {("HopperV", "s2pg"): [60.0, 60.0, 40.0], ("HopperV", "none"): [60.0, 40.0, FAILED, MISSING]}
    tables = tables_from_returns(ends | runs, steps=200, seconds_per_step={"s2pg": [0.1, 0.2, 0.1]})
    found = Results(tables, stats.statistics(tables, 10), stats.wall_clock(tables))
    table = TABLES["time_to_reach"](found)
    shown, data = (frame.set_index("method") for frame in (table.shown, table.data))
    assert shown.loc["S2PG", ["reached", "training seconds"]].tolist() == ["2 of 3", "40 (20 to never)"]
    assert shown.loc["No memory", ["reached", "environment steps"]].tolist() == ["1 of 3", "never (200 to never)"]
    assert (data.loc["none", "seconds"], data.loc["s2pg", "step"]) == (float("inf"), 200)
    assert data.loc["s2pg", "threshold"] == 50
