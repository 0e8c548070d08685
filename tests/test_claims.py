"""Verdicts: the pre-written rule decides, failed runs weigh on it, and too little data decides nothing."""

import json

import numpy as np
import pytest

from analysis import claims
from analysis.__main__ import main
from analysis.errors import AnalysisError
from analysis.load import collect
from tests.synthetic import FAILED, MISSING, tables_from_returns, write_grid

ANCHORS = {"random": [0.0, 0.0], "oracle": [100.0, 100.0]}
RULE = {"statistic": "iqm_difference", "a": "s2pg", "b": "none", "threshold": 0.0, "min_seeds": 3}


def judged(methods, rule=None, *, tasks=("HopperV",), seconds=None, anchors=None):
    """The one verdict on s2pg against none; methods: method -> returns of its runs, on every task."""
    rule = {**RULE, **(rule or {})}
    rule = {key: value for key, value in rule.items() if value is not None}
    returns = {(task, m): runs for task in tasks for m, runs in {**(anchors or ANCHORS), **methods}.items()}
    claim = {"id": "claim", "text": "A claim.", "rule": rule}
    (verdict,) = claims.judge(tables_from_returns(returns, seconds_per_step=seconds, claims=[claim]), reps=500)
    return verdict


HIGH, LOW = [80.0, 85.0, 90.0, 82.0, 88.0], [20.0, 25.0, 30.0, 22.0, 28.0]


def test_interval_above_the_threshold_supports_the_claim():
    verdict = judged({"s2pg": HIGH, "none": LOW})
    assert verdict.verdict == "supported"
    assert verdict.estimate == pytest.approx(0.6)
    assert verdict.threshold < verdict.low <= verdict.estimate <= verdict.high
    assert (verdict.n_seeds, verdict.budget) == (5, {"HopperV": 1000})
    assert verdict.counts == {"attempted": 10, "finished": 10, "failed": 0, "missing": 0}


def test_interval_below_the_threshold_does_not_support_the_claim():
    assert judged({"s2pg": LOW, "none": HIGH}).verdict == "not supported"


def test_interval_across_the_threshold_is_not_enough_data():
    verdict = judged({"s2pg": [20.0, 80.0, 30.0, 90.0], "none": [25.0, 85.0, 28.0, 88.0]})
    assert verdict.verdict == "not enough data"
    assert verdict.reason == "the 95 % interval contains 0"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.2, "supported"), (0.0, 0.2, "not enough data"), (-0.1, 0.0, "not supported"), (0.0, 0.0, "not supported")],
)
def test_ends_of_the_interval_at_the_threshold(low, high, verdict):
    assert claims.decide(low, high, 0.0)[0] == verdict


def test_threshold_moves_the_verdict():
    methods = {"s2pg": HIGH, "none": LOW}
    assert judged(methods, {"threshold": 0.5}).verdict == "supported"
    assert judged(methods, {"threshold": 0.7}).verdict == "not supported"


def test_dropping_failed_runs_would_turn_the_verdict_round():
    survivors = {"s2pg": [60.0, 62.0, 61.0], "none": [40.0, 41.0, 42.0, 40.0, 41.0, 42.0, 40.0, 41.0]}
    with_failures = {**survivors, "s2pg": [*survivors["s2pg"], *[FAILED] * 5]}
    assert judged(survivors).verdict == "supported"
    verdict = judged(with_failures)
    assert verdict.verdict != "supported"
    assert verdict.estimate < 0
    assert "5 of 16 runs failed, counted as the random policy" in verdict.reason
    assert verdict.n_seeds == 3


def test_too_few_finished_runs_on_one_task_are_not_enough_data():
    claim = {"id": "claim", "text": "A claim.", "rule": RULE}
    returns = {
        (task, m): runs for task in ("HopperV", "AntV") for m, runs in {**ANCHORS, "s2pg": HIGH, "none": LOW}.items()
    }
    returns["AntV", "none"] = [20.0, 21.0, FAILED, MISSING]
    (verdict,) = claims.judge(tables_from_returns(returns, claims=[claim]), reps=100)
    assert verdict.verdict == "not enough data"
    assert "the rule asks for 3 finished runs, there are 2 of No memory on AntV" in verdict.reason
    assert verdict.n_seeds == 2
    assert "1 of 19 runs missing" in verdict.reason
    assert verdict.estimate is not None


def test_method_outside_the_grid_is_not_enough_data():
    verdict = judged({"s2pg": HIGH})
    assert verdict.verdict == "not enough data"
    assert "there are 0 of No memory on HopperV" in verdict.reason
    assert (verdict.estimate, verdict.low, verdict.n_seeds) == (None, None, 0)


@pytest.mark.filterwarnings("ignore:task HopperV")
def test_task_without_a_scale_is_not_enough_data():
    verdict = judged({"s2pg": HIGH, "none": LOW}, anchors={"random": [50.0, 50.0], "oracle": [40.0, 40.0]})
    assert verdict.verdict == "not enough data"
    assert "HopperV has no normalised scale: the oracle's return (40) is not above" in verdict.reason


@pytest.mark.filterwarnings("ignore:task HopperV")
def test_failed_run_that_cannot_be_scored_is_not_enough_data():
    rule = {"statistic": "probability_of_improvement", "threshold": 0.5}
    verdict = judged({"s2pg": [*HIGH, FAILED], "none": LOW}, rule, anchors={"oracle": [100.0, 100.0]})
    assert verdict.verdict == "not enough data"
    assert "not every run on HopperV has a score" in verdict.reason


def test_difference_is_paired_by_seed():
    """Runs whose score depends on the seed alone: their paired difference has no spread at all."""
    base = np.array([10.0, 30.0, 50.0, 70.0, 90.0])
    paired = judged({"s2pg": list(base + 5), "none": list(base)})
    assert paired.verdict == "supported"
    assert paired.high - paired.low == pytest.approx(0, abs=1e-9)
    other_seeds = judged({"s2pg": list(base + 5), "none": [*base, MISSING, 50.0]})
    assert other_seeds.verdict == "not enough data"


def test_probability_of_improvement_rule():
    rule = {"statistic": "probability_of_improvement", "threshold": 0.5}
    assert judged({"s2pg": HIGH, "none": LOW}, rule).estimate == 1.0
    assert judged({"s2pg": HIGH, "none": LOW}, rule).verdict == "supported"
    assert judged({"s2pg": HIGH, "none": HIGH}, rule).verdict == "not enough data"


def test_single_method_rule():
    rule = {"statistic": "iqm", "b": None, "threshold": 0.9}
    assert judged({"s2pg": HIGH, "none": LOW}, rule).verdict == "not supported"
    assert judged({"s2pg": HIGH, "none": LOW}, {**rule, "threshold": 0.7}).verdict == "supported"


def test_time_ratio_is_the_geometric_mean_of_ratios_of_medians():
    seconds = {"s2pg": [1.0, 2.0, 9.0], "none": [4.0, 8.0, 36.0]}
    rule = {"statistic": "time_ratio", "a": "none", "b": "s2pg", "threshold": 1.0}
    verdict = judged({"s2pg": HIGH[:3], "none": LOW[:3]}, rule, seconds=seconds, tasks=("HopperV", "AntV"))
    assert verdict.estimate == pytest.approx(4.0)


def test_time_ratio_verdicts():
    rule = {"statistic": "time_ratio", "a": "none", "b": "s2pg", "threshold": 1.0, "min_seeds": 2}
    methods = {"s2pg": HIGH[:3], "none": LOW[:3]}
    for fast, slow, verdict in (("s2pg", "none", "supported"), ("none", "s2pg", "not supported")):
        seconds = {fast: [0.1, 0.11, 0.12], slow: [0.2, 0.21, 0.22]}
        assert judged(methods, rule, seconds=seconds).verdict == verdict
    mixed = {"s2pg": [0.1, 0.2, 0.3], "none": [0.11, 0.21, 0.31]}
    assert judged(methods, rule, seconds=mixed).verdict == "not enough data"


def test_time_ratio_resamples_tasks_independently():
    """The same times on more tasks shrink the interval; tasks that share their resamples would leave it as it is."""
    rule = {"statistic": "time_ratio", "a": "none", "b": "s2pg", "threshold": 1.0}
    seconds = {"s2pg": [1.0, 1.2, 1.4, 1.6, 1.8], "none": [2.0, 2.5, 3.0, 3.5, 4.0]}
    widths = []
    for tasks in (("HopperV",), ("HopperV", "AntV", "Walker2dV", "HalfCheetahV")):
        verdict = judged({"s2pg": HIGH, "none": LOW}, rule, seconds=seconds, tasks=tasks)
        assert verdict.estimate == pytest.approx(3.0 / 1.4)
        widths.append(np.log(verdict.high / verdict.low))
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.2)


def test_rule_with_a_task_looks_at_that_task_alone():
    """S2PG is above on one task, below on the other, and has a failed run there."""
    returns = {(task, m): runs for task in ("HopperV", "AntV") for m, runs in ANCHORS.items()}
    returns |= {("HopperV", "s2pg"): HIGH, ("HopperV", "none"): LOW}
    returns |= {("AntV", "s2pg"): [*LOW, FAILED], ("AntV", "none"): [*HIGH, 90.0]}
    rules = {task: {**RULE, **({"task": task} if task else {})} for task in ("HopperV", "AntV", "")}
    listed = [{"id": task or "both", "text": "A claim.", "rule": rule} for task, rule in rules.items()]
    tables = tables_from_returns(returns, claims=listed)
    hopper, ant, both = claims.judge(tables, reps=500)
    assert (hopper.verdict, hopper.budget, hopper.counts["attempted"]) == ("supported", {"HopperV": 1000}, 10)
    assert "failed" not in hopper.reason
    assert (ant.verdict, ant.budget, ant.counts["attempted"]) == ("not supported", {"AntV": 1000}, 12)
    assert "1 of 12 runs failed" in ant.reason
    assert both.counts["attempted"] == 22
    alone = judged({"s2pg": HIGH, "none": LOW})
    assert (hopper.estimate, hopper.low, hopper.high) == (alone.estimate, alone.low, alone.high)


def test_rule_with_a_task_measures_time_on_that_task_alone():
    rule = {"statistic": "time_ratio", "a": "none", "b": "s2pg", "threshold": 1.0, "task": "HopperV"}
    seconds = {"s2pg": [1.0, 1.0, 1.0], "none": [4.0, 4.0, 4.0]}
    verdict = judged({"s2pg": HIGH[:3], "none": LOW[:3]}, rule, seconds=seconds, tasks=("HopperV", "AntV"))
    assert verdict.estimate == pytest.approx(4.0)
    assert verdict.counts["attempted"] == 6


@pytest.mark.filterwarnings("ignore:task AntV")
def test_task_without_a_scale_does_not_touch_a_claim_on_another_task():
    returns = {("HopperV", m): runs for m, runs in {**ANCHORS, "s2pg": HIGH, "none": LOW}.items()}
    returns |= {("AntV", "random"): [5.0, 5.0], ("AntV", "oracle"): [1.0, 1.0]}
    claim = {"id": "claim", "text": "A claim.", "rule": {**RULE, "task": "HopperV"}}
    (verdict,) = claims.judge(tables_from_returns(returns, claims=[claim]), reps=100)
    assert verdict.verdict == "supported"


@pytest.mark.parametrize(
    ("score", "verdict"), [(None, "not supported"), ("final", "not supported"), ("area", "supported")]
)
def test_a_rule_may_be_about_the_learning_curve(score, verdict):
    tables = tables_from_returns(
        {("HopperV", method): runs for method, runs in {**ANCHORS, "s2pg": LOW, "none": HIGH}.items()},
        points=10,
        claims=[{"id": "claim", "text": "A claim.", "rule": RULE | ({"score": score} if score else {})}],
    )
    early = (tables.episodes["method"] == "s2pg") & (tables.episodes["step"] < 1000)
    tables.episodes.loc[early, "return"] = 200.0  # ahead all the way, and behind at the end
    (found,) = claims.judge(tables, reps=200)
    assert (found.verdict, found.score) == (verdict, score or "final")


def test_task_outside_the_grid_of_this_scale_is_not_enough_data():
    verdict = judged({"s2pg": HIGH, "none": LOW}, {"task": "AntV"})
    assert verdict.verdict == "not enough data"
    assert "there are 0 of S2PG on AntV, 0 of No memory on AntV" in verdict.reason
    assert (verdict.estimate, verdict.counts["attempted"]) == (None, 0)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"statistic": "mean"}, "rule.statistic is 'mean', allowed are iqm_difference"),
        ({"b": None}, "rule has the keys"),
        ({"treshold": 1}, "rule has the keys.*treshold"),
        ({"score": "finl"}, "rule.score is 'finl', allowed are final, area"),
        ({"statistic": "time_ratio", "score": "area"}, "rule has the keys.*score"),
    ],
)
def test_bad_rule_is_an_error_that_names_the_claim(rule, message):
    with pytest.raises(AnalysisError, match=f"claim 'claim'.*{message}"):
        judged({"s2pg": HIGH, "none": LOW}, rule)


def test_claims_file_holds_every_verdict(tmp_path, capsys):
    grid = write_grid(tmp_path, failed={("HopperV", "s2pg", 0)}, missing={("HopperV", "bptt32", 0)})
    tables = collect(grid, tmp_path / "runs", tmp_path / "tables")
    assert main(["claims", "--data", str(tmp_path / "tables")]) == 0
    read = claims.read_claims(tmp_path / "tables" / "claims.json")
    assert read == claims.judge(tables)
    assert [verdict.id for verdict in read] == ["s2pg_above_none", "s2pg_faster_than_bptt32"]
    assert read[0].counts["failed"] == 1
    assert read[1].counts["missing"] == 1
    assert json.loads((tmp_path / "tables" / "claims.json").read_text())["mode"] == "mean"
    assert "s2pg_above_none: " in capsys.readouterr().out


def test_unreadable_claims_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "claims.json").write_text('{"claims": [{"id": 1}]}')
    with pytest.raises(AnalysisError, match=r"claims\.json: not a list of verdicts"):
        claims.read_claims(tmp_path / "claims.json")


# --- the same method in two experiments ---

PRIVILEGE = {"a": "s2pg", "b": "s2pg", "experiment_b": "sac_blind"}


def twice(mine, other, rule=PRIVILEGE, *, steps=1000, options=None, given=True):
    """The verdict on S2PG in this experiment against S2PG in `sac_blind`."""
    claim = {"id": "claim", "text": "A claim.", "rule": {**RULE, **rule}}
    anchors = {("HopperV", method): runs for method, runs in ANCHORS.items()}
    here = tables_from_returns({**anchors, ("HopperV", "s2pg"): mine}, claims=[claim])
    there = tables_from_returns({("HopperV", "random"): [-1e6, -1e6], ("HopperV", "s2pg"): other}, steps=steps)
    there.grid["experiment"] = "sac_blind"
    there.grid["spec"]["task_options"] = options or {}
    (verdict,) = claims.judge(here, reps=500, others=[there] if given else [])
    return verdict


def test_the_same_method_is_compared_between_experiments_on_the_scale_of_the_claims_own():
    verdict = twice(HIGH, LOW)
    assert verdict.verdict == "supported"
    assert verdict.estimate == pytest.approx(0.6)
    assert verdict.counts["attempted"] == 10
    assert twice(LOW, HIGH).verdict == "not supported"
    assert twice(LOW, HIGH, {"a": "s2pg", "experiment_a": "sac_blind", "b": "s2pg"}).verdict == "supported"


def test_without_the_other_experiment_there_is_not_enough_data():
    verdict = twice(HIGH, LOW, given=False)
    assert verdict.verdict == "not enough data"
    assert "0 of S2PG (sac_blind) on HopperV" in verdict.reason


def test_runs_of_unequal_length_are_not_compared_between_experiments():
    assert twice(HIGH, LOW, steps=500).reason == "runs on HopperV are not equally long"


def test_experiments_with_other_bodies_are_not_compared():
    with pytest.raises(AnalysisError, match="HopperV has other task_options in sac_blind"):
        twice(HIGH, LOW, options={"*": {"bodies": "reference"}})


def test_the_command_compares_with_the_tables_of_another_experiment(tmp_path):
    claim = {"id": "claim", "text": "A claim.", "rule": {**RULE, **PRIVILEGE, "min_seeds": 2}}
    for name in ("ppo_small", "sac_blind"):
        grid = write_grid(tmp_path, seeds=2, points=3, experiment=name, claims=[claim] if name == "ppo_small" else [])
        collect(grid, tmp_path / "runs", tmp_path / name)
    assert main(["claims", "--data", str(tmp_path / "ppo_small"), "--others", str(tmp_path / "sac_blind")]) == 0
    (verdict,) = claims.read_claims(tmp_path / "ppo_small" / "claims.json")
    assert verdict.counts == {"attempted": 8, "finished": 8, "failed": 0, "missing": 0}
    assert verdict.estimate == pytest.approx(0.0)
