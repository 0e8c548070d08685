"""Success: rates and the longest delay learned, by hand; shown where a task says what success is, and only there."""

from dataclasses import replace

import numpy as np
import pytest

from analysis import bootstrap, report, schema, stats, style
from analysis.figures import FIGURES
from analysis.figures.common import Tidy
from analysis.load import DATA
from analysis.tables import NEEDS, TABLES, Results, write
from tests.synthetic import FAILED, MISSING, tables_from_returns

DELAYS = (1, 4, 16)
ANCHORS = {"random": [[0.5, 0.5]] * 3, "oracle": [[1.0, 1.0]] * 3}
OF_SUCCESS = ["success_rate", "learned", "longest_delay"]


def recall(rates):
    """Tables of cue recall: method -> per delay the success rates of its runs, or FAILED or MISSING."""
    rates = {**ANCHORS, **rates}
    runs = {(f"CueRecall{d}", m): own for m, all_of in rates.items() for d, own in zip(DELAYS, all_of, strict=True)}
    returns = {key: [r if isinstance(r, str) else 2 * r - 1 for r in own] for key, own in runs.items()}
    return tables_from_returns(returns, success=runs, points=3)


def found(tables, statistic, method, task="all", mode="mean"):
    frame = stats.statistics(tables, reps=200)
    keep = (frame["statistic"] == statistic) & (frame["method"] == method) & (frame["task"] == task)
    (row,) = frame[keep & (frame["mode"] == mode)].to_dict("records")
    return row


def results(tables):
    return Results(tables, stats.statistics(tables, 200), stats.wall_clock(tables))


def tidy(tables):
    frames = {name: getattr(tables, name) for name in DATA}
    derived = {"statistics": stats.statistics(tables, 50), "scores": stats.scores(tables)}
    return Tidy({**frames, **derived, "wall_clock": stats.wall_clock(tables)}, tables.grid)


MEMORY = {"s2pg": [[1.0, 1.0, 0.95], [1.0, 0.95, 0.5], [0.5, 0.55, 1.0]], "none": [[0.5] * 3] * 3}
SILENT = {("HopperV", "random"): [0.0, 1.0], ("HopperV", "oracle"): [9.0, 10.0], ("HopperV", "s2pg"): [5.0, FAILED]}
POINTS = {("PointMass3", m): own for m, own in {"random": [0.0, 0.1], "oracle": [1.0, 0.9], "s2pg": [0.2, 0.8]}.items()}


def points():
    """Tables of a point-mass task, whose success rates are its returns."""
    return tables_from_returns(POINTS, success=POINTS)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_a_success_rate_is_the_share_of_successful_episodes_mean_over_runs():
    row = found(recall(MEMORY), "success_rate", "s2pg", "CueRecall4")
    assert row["estimate"] == pytest.approx((1.0 + 0.95 + 0.5) / 3)
    assert 0.5 <= row["low"] < row["estimate"] < row["high"] <= 1.0


def test_only_the_last_tenth_of_the_evaluations_counts():
    tables = recall(MEMORY)
    first = tables.episodes["step"] < tables.episodes["step"].max()
    worse = tables.episodes.assign(success=tables.episodes["success"] & ~first)
    assert found(replace(tables, episodes=worse), "success_rate", "oracle", "CueRecall1")["estimate"] == 1.0
    last = tables.episodes.assign(success=tables.episodes["success"] & first)
    assert found(replace(tables, episodes=last), "success_rate", "oracle", "CueRecall1")["estimate"] == 0.0


def test_evaluation_modes_are_told_apart():
    tables = recall(MEMORY)
    won = tables.episodes["success"] & (tables.episodes["mode"] == "mean")
    changed = replace(tables, episodes=tables.episodes.assign(success=won))
    assert found(changed, "longest_delay", "oracle", mode="mean")["estimate"] == 16.0
    assert found(changed, "longest_delay", "oracle", mode="sample")["estimate"] == 0.0


def test_a_failed_run_has_the_random_policys_success_rate():
    tables = recall({**MEMORY, "s2pg": [[1.0, FAILED], [1.0, 1.0], [1.0, 1.0]]})
    row = found(tables, "success_rate", "s2pg", "CueRecall1")
    assert (row["estimate"], row["failed"], row["complete"]) == (pytest.approx((1.0 + 0.5) / 2), 1, True)
    assert found(tables, "learned", "s2pg", "CueRecall1")["estimate"] == 0.5


def test_a_missing_run_makes_a_success_rate_incomplete():
    row = found(
        recall({**MEMORY, "s2pg": [[1.0, MISSING], [1.0, 1.0], [1.0, 1.0]]}), "success_rate", "s2pg", "CueRecall1"
    )
    assert (row["estimate"], row["missing"], row["complete"]) == (1.0, 1, False)


def test_a_run_has_learned_from_a_rate_of_95_percent_on():
    assert found(recall(MEMORY), "learned", "s2pg", "CueRecall1")["estimate"] == 1.0
    assert found(recall(MEMORY), "learned", "s2pg", "CueRecall4")["estimate"] == pytest.approx(2 / 3)
    assert found(recall({"s2pg": [[0.9, 0.9]] * 3}), "learned", "s2pg", "CueRecall1")["estimate"] == 0.0


@pytest.mark.parametrize(
    ("rates", "longest"),
    [
        ([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], 16),
        ([[1.0, 1.0], [1.0, 1.0], [0.5, 0.5]], 4),
        ([[1.0, 1.0], [0.5, 0.5], [1.0, 1.0]], 1),  # a shorter one is not learned
        ([[0.5, 0.9], [1.0, 1.0], [1.0, 1.0]], 0),
        ([[1.0, 0.5], [0.5, 1.0], [0.5, 0.5]], 4),  # half of the seeds are enough
        ([[1.0, 1.0, 0.5], [1.0, 0.5, 0.5], [1.0, 1.0, 1.0]], 1),  # a third is not
    ],
)
def test_the_longest_delay_is_the_last_before_the_first_that_is_not_learned(rates, longest):
    assert found(recall({"s2pg": rates}), "longest_delay", "s2pg")["estimate"] == longest


def test_the_longest_delay_of_a_resample_is_that_of_the_resampled_runs():
    learned = [np.array(runs, float) for runs in ([1, 1, 0, 1], [0, 1, 1], [1, 0, 1, 0, 1])]
    sizes = tuple(map(len, learned))
    weights = bootstrap.resample(sizes, 300, 1)
    expected = []
    for row in weights:
        parts = np.split(row * 3, np.cumsum(sizes)[:-1])
        enough = [own @ won >= 0.5 - 1e-9 for own, won in zip(parts, learned, strict=True)]
        expected.append([0, *DELAYS][next((i for i, yes in enumerate(enough) if not yes), 3)])
    assert set(expected) == {0, *DELAYS}
    np.testing.assert_array_equal(bootstrap.longest(learned, weights, DELAYS), expected)


def test_a_delay_without_results_leaves_the_longest_one_open():
    tables = recall({"s2pg": [[1.0, 1.0], [MISSING, MISSING], [1.0, 1.0]]})
    row = found(tables, "longest_delay", "s2pg")
    assert np.isnan(row["estimate"])
    assert "tasks left out: CueRecall4" in row["note"]


def test_a_delay_of_which_no_run_has_ended_leaves_the_longest_one_open():
    lost = {m: [*runs[:2], [MISSING, MISSING]] for m, runs in {**ANCHORS, "s2pg": [[1.0, 1.0]] * 3}.items()}
    with pytest.warns(UserWarning, match="no finished run"):
        row = found(recall(lost), "longest_delay", "s2pg")
    assert np.isnan(row["estimate"])
    assert "tasks left out: CueRecall16" in row["note"]


def test_tasks_that_do_not_say_what_success_is_have_no_such_statistic():
    with pytest.warns(UserWarning, match="left out"):
        silent = stats.statistics(tables_from_returns({("HopperV", "s2pg"): [5.0, FAILED]}), reps=20)
    assert not silent["statistic"].isin(OF_SUCCESS).any()
    named = set(stats.statistics(points(), reps=20)["statistic"])
    assert named & set(OF_SUCCESS) == {"success_rate", "learned"}
    assert set(OF_SUCCESS) < set(schema.STATISTICS)


# --- tables, figures, report -----------------------------------------------------------------------------------------


def test_the_table_of_delays_shows_the_longest_and_how_many_runs_learned_each():
    shown = TABLES["longest_delay"](results(recall(MEMORY))).shown.set_index("method")
    assert list(shown) == ["longest delay (steps)", "1", "4", "16", "runs", "note"]
    assert shown.loc["S2PG"].tolist()[1:5] == ["3 of 3", "2 of 3", "1 of 3", "9 of 9"]
    assert shown.loc["S2PG"].iloc[0].startswith("4 [")
    assert shown.loc["No memory"].tolist()[:4] == ["0 [0, 0]", "0 of 3", "0 of 3", "0 of 3"]


def test_failed_and_missing_runs_are_no_successes_in_the_table_of_delays():
    tables = recall({"s2pg": [[1.0, FAILED, MISSING], [1.0, 1.0, 1.0], [MISSING] * 3]})
    (row,) = TABLES["longest_delay"](results(tables)).shown.query("method == 'S2PG'").to_dict("records")
    assert (row["1"], row["4"], row["16"]) == ("1 of 2", "3 of 3", "–")
    assert row["longest delay (steps)"] == "no estimate"
    assert row["runs"] == "4 of 9 (1 failed, 4 missing)"


def test_the_table_of_success_rates_has_a_row_per_task_and_method_in_both_modes():
    shown = TABLES["success_rate"](results(recall(MEMORY))).shown
    assert list(shown["task"].unique()) == ["CueRecall1", "CueRecall4", "CueRecall16"]
    (row,) = shown.query("task == 'CueRecall16' and method == 'Oracle'").to_dict("records")
    assert row["success rate (mean mode)"] == row["success rate (sample mode)"] == "1.00 [1.00, 1.00]"


def test_success_is_drawn_against_the_delay():
    data = tidy(recall(MEMORY))
    (ax,) = FIGURES["success_against_delay"].draw(data).axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "4", "16"]
    drawn = {line.get_color(): line.get_xydata() for line in ax.lines if line.get_marker() not in ("None", "_")}
    x, y = drawn[style.look("s2pg").colour].T
    np.testing.assert_allclose(y, [59 / 60, 2.45 / 3, 2.05 / 3])
    assert np.abs(np.log2(x / DELAYS)).max() < 0.1
    places = [tuple(xy[:, 0]) for xy in drawn.values()]
    assert len(set(places)) == len(places) == 3  # the random policy is the line at 0.5; nothing hides behind another


def test_the_longest_delay_of_the_caption_is_the_definition():
    caption = TABLES["longest_delay"](results(recall(MEMORY))).caption
    for part in ("largest delay d", "every shorter delay of the grid", "half of the seeds", "at least 0.95"):
        assert part in caption


def test_success_rates_of_other_tasks_have_a_panel_each():
    data = tidy(points())
    (ax,) = FIGURES["success_rates"].draw(data).axes
    assert ax.get_title() == "Point mass 3"
    assert sorted(line.get_xdata()[0] for line in ax.lines) == pytest.approx([0.05, 0.5, 0.95])


def test_figures_of_success_apply_where_there_is_success_only():
    kinds = {"delays": recall(MEMORY), "points": points(), "silent": tables_from_returns(SILENT)}
    applies = {
        kind: [FIGURES[name].applies(tidy(tables)) for name in ("success_against_delay", "success_rates")]
        for kind, tables in kinds.items()
    }
    assert applies == {"delays": [True, False], "points": [False, True], "silent": [False, False]}


def test_the_report_shows_tables_of_success_where_there_is_success_only(tmp_path):
    kinds = {"delays": recall(MEMORY), "points": points(), "silent": tables_from_returns(SILENT)}
    titles = {}
    for kind, tables in kinds.items():
        made = results(tables)
        for name in ("returns", *NEEDS):
            write(name, TABLES[name](made), tmp_path / kind)
        shown = report.result_tables(tmp_path / kind, set(made.statistics["statistic"]))
        titles[kind] = [table["title"] for table in shown]
    assert titles["delays"] == ["Returns", "Success rate", "Longest delay"]
    assert titles["points"] == ["Returns", "Success rate"]
    assert titles["silent"] == ["Returns"]


def test_tasks_are_ordered_by_their_delay():
    names = ["PointMassDoor", "CueRecall16", "CueRecall2", "CueRecall", "PointMass3", "HopperV"]
    ordered = ["HopperV", "CueRecall", "CueRecall2", "CueRecall16", "PointMass3", "PointMassDoor"]
    assert style.order_tasks(names) == ordered
    assert style.task_label("CueRecall16") == "Cue recall, delay 16"
