"""Evidence: what stands beside a claim of a memory that is not above no memory, and what the probe says of it."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import claims, schema, stats
from analysis.__main__ import main
from analysis.load import collect
from analysis.tables import TABLES, Results, evidence
from analysis.tables.evidence import CONCERNED, FEW, PROOFS, QUESTION, proofs
from tests.synthetic import FAILED, MISSING, tables_from_returns, write_grid

ROOT = Path(__file__).resolve().parents[1]
LOW, HIGH = [20.0, 25.0, 30.0, 22.0, 28.0], [80.0, 85.0, 90.0, 82.0, 88.0]
ANCHORS = {"random": [0.0] * 5, "oracle": [100.0] * 5}
RULE = {"statistic": "iqm_difference", "a": "s2pg", "b": "none", "threshold": 0.0, "min_seeds": 5}


def pieces(methods, gain=0.5, rule=None):
    """Evidence on one task; methods: method -> returns of its runs; gain: R² that the memory of S2PG adds."""
    claim = {"id": "claim", "text": "A claim.", "rule": {**RULE, **(rule or {})}}
    returns = {("HopperV", m): runs for m, runs in {**ANCHORS, **methods}.items()}
    tables = tables_from_returns(returns, claims=[claim])
    tables.probe.loc[tables.probe["features"] == schema.FEATURES[1], "r2"] += gain - 0.5
    results = Results(tables, stats.statistics(tables, 20), stats.wall_clock(tables), claims.judge(tables, 20))
    return evidence(results, stats.scores(tables))


def line(found, method, claim=None):
    (piece,) = [item for item in found if item["title"] == QUESTION and item.get("claim") == claim]
    (row,) = [row for row in piece["table"] if row["method"] == method]
    return row


def beside(found):
    return [item["claim"] for item in found if "claim" in item]


def test_memory_above_none_needs_no_evidence_beside_its_claim_but_the_experiment_has_it():
    found = pieces({"none": LOW, "s2pg": HIGH})
    assert beside(found) == []
    assert line(found, "S2PG")["what it says"] == "above no memory"
    assert line(found, "Oracle")["what it says"] == "above no memory: there is something to gain"
    assert [item["title"] for item in found] == [QUESTION, "Memory probe", "What tests prove"]


def test_memory_not_above_none_has_its_evidence_beside_the_claim():
    found = pieces({"none": LOW, "s2pg": LOW, "bptt32": HIGH})
    assert beside(found) == ["claim"]
    says = line(found, "S2PG", "claim")["what it says"]
    assert says.startswith("not above no memory, though the oracle is; the memory holds more than the observation")
    assert "in 5 of 5 probes" in says
    assert line(found, "Oracle", "claim")["normalised return"] == "1.00"
    with pytest.raises(ValueError, match="not enough values"):
        line(found, "BPTT 32", "claim")


def test_memory_that_holds_nothing_is_told_from_one_that_is_not_used():
    says = line(pieces({"none": LOW, "s2pg": LOW}, gain=-0.1), "S2PG")["what it says"]
    assert "the memory adds nothing to the observation (R² rises with it in 0 of 5 probes)" in says


def test_hidden_groups_are_read_one_by_one():
    claim = {"id": "claim", "text": "A claim.", "rule": RULE}
    returns = {("HopperV", m): runs for m, runs in {**ANCHORS, "none": LOW, "s2pg": LOW}.items()}
    tables = tables_from_returns(returns, claims=[claim])
    bodies = tables.probe.assign(group="bodies", r2=-0.25)
    tables = dataclasses.replace(tables, probe=pd.concat([tables.probe, bodies]))
    results = Results(tables, stats.statistics(tables, 20), stats.wall_clock(tables), claims.judge(tables, 20))
    row = line(evidence(results, stats.scores(tables)), "S2PG")
    assert row["R², with memory"] == "bodies -0.25 (-0.25 to -0.25); velocities 0.72 (0.70 to 0.74)"
    assert "adds nothing to the observation on bodies (R² rises with it in 0 of 5 probes)" in row["what it says"]
    assert "holds more than the observation on velocities (R² rises with it in 5 of 5 probes)" in row["what it says"]


def test_where_the_oracle_is_not_above_none_the_task_says_nothing():
    found = pieces({"none": [100.0] * 5, "s2pg": LOW})
    assert line(found, "Oracle", "claim")["what it says"].endswith("no gain from seeing everything at this budget")
    assert line(found, "S2PG", "claim")["what it says"].startswith("below no memory, nor is the oracle")


@pytest.mark.parametrize("runs", [LOW[:4], [*LOW[:4], FAILED], [*LOW[:4], MISSING]])
def test_fewer_finished_runs_than_five_are_shown_and_not_read(runs):
    assert FEW == 5
    row = line(pieces({"none": LOW, "s2pg": runs}), "S2PG", "claim")
    assert row["what it says"] == "only 4 finished runs: too few to say"
    assert row["R², with memory"] != "–"


def test_failed_runs_count_as_the_random_policy_in_the_difference():
    row = line(pieces({"none": LOW, "s2pg": [*HIGH, FAILED]}), "S2PG")
    assert float(row["return − no memory"].split()[0]) == pytest.approx(sum(HIGH) / 6 - sum(LOW) / 5, abs=0.06)


def test_difference_is_paired_by_seed():
    base = np.array([10.0, 30.0, 50.0, 70.0, 90.0])
    tables = tables_from_returns({("HopperV", "s2pg"): list(base + 5), ("HopperV", "none"): list(base)})
    with pytest.warns(UserWarning, match="left out of normalised"):
        scores = stats.scores(tables).query("mode == 'mean' and score == 'final'")
    assert stats.difference(scores, "HopperV", "s2pg", "none") == pytest.approx((5, 5, 5))
    assert np.isnan(stats.difference(scores, "HopperV", "s2pg", "oracle")).all()


def test_claim_on_one_task_has_the_evidence_of_that_task():
    claim = {"id": "hopper", "text": "A claim.", "rule": {**RULE, "task": "HopperV"}}
    tasks = {"HopperV": LOW, "AntV": HIGH}
    returns = {(t, m): r for t, own in tasks.items() for m, r in {**ANCHORS, "none": LOW, "s2pg": own}.items()}
    tables = tables_from_returns(returns, claims=[claim])
    found = evidence(Results(tables, stats.statistics(tables, 20), stats.wall_clock(tables)), stats.scores(tables))
    (piece,) = [item for item in found if item.get("claim") == "hopper"]
    assert {row["task"] for row in piece["table"]} == {"HopperV"}


def test_claims_that_are_not_about_memory_against_none_have_no_evidence_beside_them():
    assert beside(pieces({"none": LOW, "s2pg": LOW}, rule={"a": "oracle"})) == []
    assert beside(pieces({"none": LOW, "s2pg": LOW, "bptt32": LOW}, rule={"b": "bptt32"})) == []


def test_every_named_proof_is_a_test_that_exists():
    assert all(proofs(algorithm) for algorithm in CONCERNED)
    for proof in itertools.chain(*PROOFS.values()):
        file, name = proof.split("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), proof


def test_memory_probe_by_hand():
    tables = tables_from_returns({("HopperV", "s2pg"): [1.0, 2.0, 3.0, FAILED, MISSING]})
    tables.probe["r2"] = [0.1, 0.9, 0.3, 0.5, 0.2, 0.8]  # without, with memory; seed after seed
    with pytest.warns(UserWarning, match="left out of normalised"):
        found = stats.statistics(tables, 10)
    table = TABLES["memory_probe"](Results(tables, found, stats.wall_clock(tables)))
    (row,) = table.data.to_dict("records")
    assert (row["alone"], row["memory"], row["n"]) == (0.2, 0.8, 3)
    assert row["gain"] == pytest.approx(0.6)
    (shown,) = table.shown.to_dict("records")
    assert shown["R², with memory"] == "0.80 (0.50 to 0.90)"
    assert shown["runs"] == "3 of 5 (1 failed, 1 missing)"


def test_tables_command_writes_evidence_and_works_without_any_probe(tmp_path):
    grid = write_grid(tmp_path, seeds=2, points=3)
    for path in tmp_path.glob("runs/**/probe.parquet"):
        path.unlink()
    collect(grid, tmp_path / "runs", tmp_path / "tables")
    for command in ("statistics", "claims", "tables"):
        assert main([command, "--data", str(tmp_path / "tables")]) == 0
    found = json.loads((tmp_path / "tables" / "evidence.json").read_text())
    (table,) = [item["table"] for item in found if item["title"] == QUESTION and "claim" not in item]
    assert {row["R², with memory"] for row in table} == {"–"}
    assert pd.read_csv(tmp_path / "tables" / "memory_probe.csv").empty
    assert "No rows." in (tmp_path / "tables" / "memory_probe.md").read_text()
