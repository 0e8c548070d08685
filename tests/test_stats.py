"""Statistics: rliable's definitions, every attempted run counted, hand-computed values."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rliable import library, metrics

from analysis import bootstrap, curves, schema, stats
from analysis.stats import Sample
from tests.synthetic import FAILED, MISSING, tables_from_returns

REPS = 2000
RNG = np.random.default_rng(0)
SCORES_A = RNG.normal(0.6, 0.3, (7, 3))  # runs x tasks
SCORES_B = RNG.normal(0.4, 0.3, (5, 3))


def sample_of(scores):
    """rliable's matrix [runs, tasks] as a Sample."""
    return Sample({f"task{i}": pd.Series(column) for i, column in enumerate(scores.T)}, ())


def rliable_interval(scores, function, reps=REPS):
    np.random.seed(0)  # rliable 1.2.0 draws its resamples from the global generator
    estimates, intervals = library.get_interval_estimates({"x": scores}, function, reps=reps)
    return estimates["x"], intervals["x"]


# ---- against rliable ------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_point_estimates_are_rliables(runs, tasks, seed):
    scores = np.random.default_rng(seed).normal(0.5, 1.0, (runs, tasks))
    found = {name: rows[0] for name, rows in stats.aggregates(sample_of(scores), reps=1).items()}
    assert found["iqm"] == pytest.approx(metrics.aggregate_iqm(scores), rel=1e-9, abs=1e-12)
    assert found["median"] == pytest.approx(metrics.aggregate_median(scores), rel=1e-9, abs=1e-12)
    assert found["mean"] == pytest.approx(metrics.aggregate_mean(scores), rel=1e-9, abs=1e-12)
    assert found["optimality_gap"] == pytest.approx(metrics.aggregate_optimality_gap(scores), rel=1e-9, abs=1e-12)


def test_intervals_of_aggregates_are_rliables_within_bootstrap_noise():
    functions = (
        metrics.aggregate_iqm,
        metrics.aggregate_median,
        metrics.aggregate_mean,
        metrics.aggregate_optimality_gap,
    )
    _, expected = rliable_interval(SCORES_A, lambda x: np.array([function(x) for function in functions]))
    found = stats.aggregates(sample_of(SCORES_A), REPS)
    for i, name in enumerate(("iqm", "median", "mean", "optimality_gap")):
        low, high = bootstrap.interval(found[name])
        assert (low, high) == pytest.approx(expected[:, i], abs=0.08 * (high - low))


@pytest.mark.parametrize(
    ("a", "b"),
    [(SCORES_A, SCORES_B), (np.round(SCORES_A, 1), np.round(SCORES_B, 1)), (SCORES_A, SCORES_A + 0.01)],
    ids=["unequal numbers of runs", "ties", "runs that rank alike"],
)
def test_probability_of_improvement_is_rliables(a, b):
    poi = metrics.probability_of_improvement
    estimate, expected = rliable_interval([a, b], lambda x, y: np.array([poi(x, y)]), reps=600)  # rliable's is slow
    found = stats.improvement(sample_of(a), sample_of(b), REPS)
    low, high = bootstrap.interval(found)
    assert found[0] == pytest.approx(estimate[0], rel=1e-12)
    assert (low, high) == pytest.approx(expected[:, 0], abs=0.12 * (high - low))


def test_performance_profile_is_rliables():
    taus = np.linspace(-0.2, 1.2, 8)
    np.random.seed(0)
    estimate, expected = library.create_performance_profile({"x": SCORES_A}, taus, reps=REPS)
    mine = sample_of(SCORES_A)
    found = bootstrap.profile(mine.flat, bootstrap.resample(mine.sizes, REPS, 0), taus)
    np.testing.assert_allclose(found[0], estimate["x"], rtol=1e-12)
    np.testing.assert_allclose(np.array(bootstrap.interval(found)), expected["x"], atol=0.06)


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_iqm_by_hand():
    values = np.array([100.0, 1.0, 2.0, 3.0, 6.0, -50.0, 4.0, 5.0])
    assert bootstrap.iqm(values, bootstrap.resample((8,), 1, 0))[0] == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_iqm_of_a_resample_is_the_iqm_of_the_resampled_runs():
    values, weights = RNG.normal(size=6), bootstrap.resample((6,), 50, 3)
    for row, found in zip(np.rint(weights * 6).astype(int), bootstrap.iqm(values, weights), strict=True):
        assert found == pytest.approx(metrics.aggregate_iqm(np.repeat(values, row)[:, None]))


def test_runs_are_resampled_within_their_task():
    weights = bootstrap.resample((6, 4), 50, 3)
    np.testing.assert_allclose(weights[:, :6].sum(axis=1), 0.5)
    np.testing.assert_allclose(weights[:, 6:].sum(axis=1), 0.5)


def test_tasks_weigh_the_same_whatever_their_number_of_runs():
    mine = Sample({"a": pd.Series([1.0] * 9), "b": pd.Series([0.0])}, ())
    assert stats.aggregates(mine, reps=1)["mean"][0] == pytest.approx(0.5)
    assert stats.aggregates(mine, reps=1)["iqm"][0] == pytest.approx(0.5)


def test_probability_of_improvement_by_hand():
    a, b = (Sample({"t": pd.Series(values)}, ()) for values in ([1.0, 2.0, 3.0], [2.0, 0.0]))
    assert stats.improvement(a, b, reps=1)[0] == pytest.approx((0 + 1 + 0.5 + 1 + 1 + 1) / 6)
    assert stats.improvement(a, b, reps=1)[0] + stats.improvement(b, a, reps=1)[0] == pytest.approx(1)


def test_median_of_resampled_runs():
    for n in (1, 4, 5):
        values, weights = RNG.normal(size=n), bootstrap.resample((n,), 30, 1)
        expected = [np.median(np.repeat(values, row)) for row in np.rint(weights * n).astype(int)]
        np.testing.assert_allclose(bootstrap.middle(values, weights), expected)


def test_final_score_is_the_mean_over_the_last_tenth_of_the_evaluations():
    assert stats.final_score(np.arange(1.0, 11.0)) == 10.0
    assert stats.final_score(np.arange(1.0, 31.0)) == 29.0
    assert stats.final_score(np.arange(1.0, 12.0)) == 10.5
    assert stats.final_score(np.array([7.0])) == 7.0


def test_area_score_is_the_mean_height_of_the_learning_curve():
    curve = pd.DataFrame({"step": [0, 10, 30], "return": [0.0, 10.0, 10.0]})
    assert stats.area_score(curve) == pytest.approx((5 * 10 + 10 * 20) / 30)
    assert stats.area_score(curve.iloc[:1]) == 0.0


# ---- runs -----------------------------------------------------------------------------------------------------------

GRID = {
    ("HopperV", "random"): [9.0, 11.0],
    ("HopperV", "oracle"): [100.0, 120.0],
    ("HopperV", "s2pg"): [60.0, 60.0, 60.0],
    ("HopperV", "none"): [30.0, 40.0, 50.0],
}


def pick(frame, statistic, method, mode="mean", score="final", **where):
    found = frame[(frame["statistic"] == statistic) & (frame["method"] == method) & (frame["mode"] == mode)]
    found = found[found["score"] == score]
    for column, value in where.items():
        found = found[found[column] == value]
    return found


def estimate(frame, *args, **where):
    (row,) = pick(frame, *args, **where).to_dict("records")
    return row


def test_random_scores_zero_and_the_oracle_one():
    frame = stats.statistics(tables_from_returns(GRID), reps=20)
    for mode in schema.MODES:
        assert estimate(frame, "mean", "random", mode)["estimate"] == pytest.approx(0)
        assert estimate(frame, "mean", "oracle", mode)["estimate"] == pytest.approx(1)
        assert estimate(frame, "iqm", "s2pg", mode)["estimate"] == pytest.approx(0.5)


def test_failed_run_counts_as_the_random_policy():
    scores = stats.scores(tables_from_returns({**GRID, ("HopperV", "s2pg"): [60.0, FAILED]}))
    failed = scores[scores["status"] == "failed"]
    assert failed["normalised"].tolist() == [0.0] * 4
    assert failed["raw"].tolist() == [10.0] * 4


def test_failed_runs_lower_every_statistic_and_are_counted():
    frame = stats.statistics(tables_from_returns({**GRID, ("HopperV", "s2pg"): [60.0, 60.0, FAILED, FAILED]}), reps=20)
    row = estimate(frame, "mean", "s2pg")
    assert row["estimate"] == pytest.approx(0.25)  # 0.5 over the survivors
    assert (row["attempted"], row["finished"], row["failed"], row["missing"]) == (4, 2, 2, 0)
    assert row["complete"]
    assert estimate(frame, "improvement", "s2pg", versus="none")["estimate"] == pytest.approx(0.5)  # 1 of survivors
    assert estimate(frame, "return_mean", "s2pg", task="HopperV")["estimate"] == pytest.approx(35.0)
    assert pick(frame, "profile", "s2pg", x=0.1)["estimate"].item() == pytest.approx(0.5)


def test_missing_runs_make_every_statistic_incomplete():
    frame = stats.statistics(tables_from_returns({**GRID, ("HopperV", "s2pg"): [60.0, 60.0, MISSING]}), reps=20)
    mine = frame[(frame["method"] == "s2pg") | (frame["versus"] == "s2pg")]
    assert set(mine["statistic"]) == set(schema.STATISTICS) - {"success_rate", "learned", "longest_delay"}
    assert not mine["complete"].any()
    assert mine["note"].str.contains("1 of . runs missing").all()
    assert frame[(frame["method"] == "none") & (frame["versus"] != "s2pg")]["complete"].all()


def test_method_whose_runs_are_all_missing_has_no_estimate_but_a_row():
    frame = stats.statistics(tables_from_returns({**GRID, ("HopperV", "s2pg"): [MISSING, MISSING]}), reps=20)
    row = estimate(frame, "iqm", "s2pg")
    assert np.isnan(row["estimate"])
    assert (row["attempted"], row["missing"], row["complete"]) == (2, 2, False)


def test_single_run_has_an_estimate_but_no_interval():
    frame = stats.statistics(tables_from_returns({**GRID, ("HopperV", "s2pg"): [60.0]}), reps=20)
    mine = frame[frame["method"] == "s2pg"]
    assert mine["estimate"].notna().all()
    assert mine["low"].isna().all()
    assert mine["high"].isna().all()


@pytest.mark.parametrize(
    ("oracle", "reason"),
    [
        ([10.0, 10.0], "not above the random"),
        ([5.0, 5.0], "not above the random"),
        ([10.0, 14.0], r"\(12\) is not above the random policy's \(10\) beyond noise: the difference is 2 ± 4\.38"),
        ([100.0], "only one finished run of `oracle`"),
        ([FAILED, MISSING], "no finished run"),
    ],
)
def test_task_without_a_scale_is_left_out_with_a_warning_and_flagged(oracle, reason):
    swamped = {("PendulumV", method): runs for (_, method), runs in GRID.items()}
    tables = tables_from_returns({**GRID, **swamped, ("PendulumV", "oracle"): oracle})
    with pytest.warns(UserWarning, match=f"task PendulumV.*{reason}"):
        frame = stats.statistics(tables, reps=20)
    row = estimate(frame, "iqm", "s2pg")
    assert row["estimate"] == pytest.approx(0.5)
    assert not row["complete"]
    assert row["note"] == "tasks left out: PendulumV"
    assert estimate(frame, "return_mean", "s2pg", task="PendulumV")["estimate"] == 60.0


def test_without_any_scale_nothing_divides_by_zero():
    tables = tables_from_returns({**GRID, ("HopperV", "oracle"): [10.0, 10.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="task HopperV")
        frame = stats.statistics(tables, reps=20)
    assert np.isnan(estimate(frame, "iqm", "s2pg")["estimate"])
    assert not np.isinf(frame["estimate"]).any()


def test_survivors_alone_are_not_a_sample():
    """Without a random policy a failed run has no score; the return of the others must not stand for all."""
    grid = {("HopperV", "oracle"): [100.0, 100.0], ("HopperV", "s2pg"): [60.0, FAILED]}
    with pytest.warns(UserWarning, match="no finished run of `random`"):
        frame = stats.statistics(tables_from_returns(grid), reps=20)
    row = estimate(frame, "return_mean", "s2pg", task="HopperV")
    assert np.isnan(row["estimate"])
    assert not row["complete"]


def test_same_seed_gives_the_same_statistics():
    tables = tables_from_returns(GRID)
    pd.testing.assert_frame_equal(stats.statistics(tables, 50, seed=1), stats.statistics(tables, 50, seed=1))
    assert not stats.statistics(tables, 50, seed=1).equals(stats.statistics(tables, 50, seed=2))


# ---- curves and time ------------------------------------------------------------------------------------------------


def curve(steps, returns):
    return pd.DataFrame({"step": steps, "seconds": np.array(steps) / 10, "return": returns})


def test_curve_holds_the_last_evaluation_and_is_empty_before_the_first():
    shape = curves.steps_of("finished", curve([10, 20], [1.0, 2.0]), "step", random=0.0, flat=False)
    np.testing.assert_array_equal(curves.held(shape, np.array([5, 10, 15, 20, 99])), [np.nan, 1, 1, 2, 2])


def test_curve_of_a_failed_run_falls_to_the_random_policy():
    shape = curves.steps_of("failed", curve([10, 20], [1.0, 2.0]), "step", random=-7.0, flat=False)
    np.testing.assert_array_equal(curves.held(shape, np.array([10, 20, 21, 99])), [1, 2, -7, -7])
    never = curves.steps_of("failed", None, "step", random=-7.0, flat=False)
    np.testing.assert_array_equal(curves.held(never, np.array([0, 99])), [-7, -7])


def test_curve_over_steps_is_the_iqm_of_the_runs_at_each_step():
    tables = tables_from_returns(GRID, points=4, steps=400)
    found = pick(stats.statistics(tables, reps=20), "return_over_steps", "none", score="curve")
    assert found["x"].tolist() == [100, 200, 300, 400]
    assert found["estimate"].tolist() == pytest.approx([40.0] * 4)


def test_curves_over_seconds_use_training_time_and_end_where_the_method_ends():
    tables = tables_from_returns(GRID, points=4, steps=400, seconds_per_step={"s2pg": 0.1, "none": 1.0, "oracle": 1.0})
    frame = stats.statistics(tables, reps=20)
    fast, slow = (pick(frame, "iqm_over_seconds", m, score="curve")["x"] for m in ("s2pg", "none"))
    assert fast.min() == pytest.approx(10)
    assert 40 <= fast.max() < 44
    assert (slow.min(), slow.max()) == (pytest.approx(100, rel=0.05), pytest.approx(400))


def test_evaluation_time_is_not_training_time():
    tables = tables_from_returns(GRID, points=2, steps=100, seconds_per_step={"s2pg": 0.5})
    tables.timing["evaluation"] = 1000.0
    found = stats.evaluations(tables)
    mine = found[(found["method"] == "s2pg") & (found["mode"] == "mean") & (found["seed"] == 0)]
    assert mine["seconds"].tolist() == pytest.approx([25.0, 50.0])


def test_wall_clock_by_hand():
    tables = tables_from_returns(
        {("HopperV", "s2pg"): [1.0, 1.0, 1.0, MISSING]}, seconds_per_step={"s2pg": [1, 2, 6, 0]}
    )
    (row,) = stats.wall_clock(tables).to_dict("records")
    assert row["training"] == pytest.approx(2000)
    assert row["learning"] == pytest.approx(1200)
    assert row["steps_per_second"] == pytest.approx(0.5)
    assert (row["attempted"], row["finished"], row["missing"]) == (4, 3, 1)


def test_wall_clock_of_runs_without_training_time_is_empty_and_says_nothing():
    tables = tables_from_returns({("HopperV", "random"): [1.0, 1.0], ("HopperV", "none"): [MISSING]})
    tables.timing["step"] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = stats.wall_clock(tables)
    assert table["training"].isna().all()
    assert table["steps_per_second"].isna().all()


def reach_tables():
    """Random policy 0, oracle 100: half of the scale is 50. Two evaluations, at 100 and 200 steps."""
    ends = {("HopperV", "random"): [0.0, 0.0], ("HopperV", "oracle"): [100.0, 100.0]}
    runs = {("HopperV", "s2pg"): [60.0, 60.0, 40.0, MISSING], ("HopperV", "none"): [49.9, FAILED, 50.0]}
    tables = tables_from_returns(ends | runs, points=2, steps=200, seconds_per_step={"s2pg": [0.1, 0.2, 0.1, 0.1]})
    early = (tables.episodes["method"] == "s2pg") & (tables.episodes["seed"] == 1) & (tables.episodes["step"] == 100)
    tables.episodes.loc[early, "return"] = 10.0
    return tables


def test_the_time_to_reach_a_return_is_that_of_the_first_evaluation_that_has_it():
    found = stats.reaching(reach_tables(), 0.5).set_index(["method", "seed"])
    assert found.loc["s2pg", "step"].tolist() == [100, 200, np.inf]
    assert found.loc["s2pg", "seconds"].tolist() == pytest.approx([10.0, 40.0, np.inf])
    assert found["threshold"].tolist() == [50.0] * len(found)


def test_runs_that_end_below_or_fail_never_reach_it_and_missing_ones_are_not_counted():
    found = stats.reaching(reach_tables(), 0.5).set_index(["method", "seed"])
    assert found.loc["none", "step"].tolist() == [np.inf, np.inf, 100]  # below, failed, just there
    assert len(found.loc["s2pg"]) == 3
    assert "random" not in found.index.get_level_values("method")


def test_a_run_that_falls_back_has_reached_it_and_so_has_one_that_fails_later():
    tables = reach_tables()
    late = (tables.episodes["method"] == "s2pg") & (tables.episodes["seed"] == 0) & (tables.episodes["step"] == 200)
    tables.episodes.loc[late, "return"] = 0.0
    tables.runs.loc[(tables.runs["method"] == "s2pg") & (tables.runs["seed"] == 0), "status"] = "failed"
    assert stats.reaching(tables, 0.5).set_index(["method", "seed"]).loc[("s2pg", 0), "step"] == 100


def test_without_a_scale_nothing_is_known_of_reaching_it():
    tables = tables_from_returns(
        {("HopperV", "s2pg"): [60.0, 60.0], ("HopperV", "random"): [0.0], ("HopperV", "oracle"): [100.0]}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = stats.reaching(tables)
    assert found[["threshold", "step", "seconds"]].isna().all(axis=None)


def test_accounting_shows_reasons_and_mixed_configurations():
    tables = tables_from_returns({("HopperV", "s2pg"): [1.0, 2.0, FAILED]})
    tables.runs["config_hash"] = ["a", "b", "a"]
    tables.runs.loc[2, "reason"] = "diverged"
    (row,) = stats.accounting(tables).to_dict("records")
    assert (row["attempted"], row["failed"], row["configurations"], row["reasons"]) == (3, 1, 2, "diverged")


def test_the_first_epoch_of_training_is_not_timed_unless_it_is_the_only_one() -> None:
    """Libraries warm up in it: 9 seconds for the first 10 steps, 1 second for each 10 after them."""
    tables = tables_from_returns({("HopperV", "s2pg"): [1.0], ("HopperV", "none"): [1.0]})
    run = {"experiment": tables.runs["experiment"].iloc[0], "task": "HopperV", "seed": 0}
    spent = {"s2pg": {0: 0.0, 10: 9.0, 20: 1.0, 30: 1.0}, "none": {0: 0.0, 10: 9.0}}
    rows = [
        {**run, "method": m, "step": step, "environment": 0.0, "acting": 0.0, "learning": seconds, "evaluation": 5.0}
        for m, epochs in spent.items()
        for step, seconds in epochs.items()
    ]
    found = stats.seconds_per_step(replace(tables, timing=pd.DataFrame(rows))).set_index("method")["training"]
    assert found.to_dict() == pytest.approx({"s2pg": 2 / 20, "none": 9 / 10})
