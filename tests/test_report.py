"""The report: one file that needs nothing but itself, hides no run and shows every verdict with what it rests on."""

import base64
import json
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

from analysis import report
from analysis.__main__ import main
from analysis.report import cell, duration, number, with_interval
from tests.synthetic import CLAIMS, write_grid

EVIDENCE = [
    {
        "title": "Memory probe",
        "text": "A readout of the memory predicts the **hidden velocities** where a < b.",
        "table": [{"task": "HopperV", "R²": 0.81234}, {"task": "PendulumV", "R²": 0.5, "note": "short"}],
    }
]
MORE_CLAIMS = [
    {
        "id": "false",
        "text": "No memory <beats> the oracle & everything else.",
        "rule": {"statistic": "iqm_difference", "a": "none", "b": "oracle", "threshold": 0.0, "min_seeds": 2},
    },
    {
        "id": "untested",
        "text": "S2PG beats BPTT.",
        "rule": {"statistic": "iqm_difference", "a": "s2pg", "b": "bptt32", "threshold": 0.0, "min_seeds": 9},
    },
]


class Page(HTMLParser):
    """What a page loads, links to, names and says."""

    LOADS = {"src", "srcset", "data", "poster", "action", "xlink:href"}

    def __init__(self, html):
        super().__init__()
        self.loads, self.links, self.ids, self.tags, self.text = [], [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            self.ids += [value] if key == "id" else []
            self.links += [value] if (tag, key) == ("a", "href") else []
            self.loads += [value] if key in self.LOADS or (key == "href" and tag != "a") else []

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of two experiments at demo scale, one with a failed and a missing run, the other without figures."""
    root = tmp_path_factory.mktemp("report")
    lost = {"failed": {("HopperV", "s2pg", 1)}, "missing": {("HopperV", "none", 2)}}
    for name, claims, shape in (("ppo_small", [*CLAIMS, *MORE_CLAIMS], lost), ("ppo_pomdp", [], {})):
        grid = write_grid(root, tasks=("HopperV",), seeds=3, points=4, experiment=name, claims=claims, **shape)
        tables = root / "tables" / "demo" / name
        assert main(["collect", "--grid", str(grid), "--runs", str(root / "runs"), "--out", str(tables)]) == 0
        assert main(["statistics", "--data", str(tables), "--reps", "200"]) == 0
        assert main(["claims", "--data", str(tables), "--reps", "200"]) == 0
        assert main(["tables", "--data", str(tables)]) == 0
    figures = root / "figures" / "demo" / "ppo_small"
    chosen = ["timing", "sample_efficiency", "diagnostics_action"]
    assert (
        main(["figures", "--data", str(figures).replace("figures", "tables"), "--out", str(figures), "--only", *chosen])
        == 0
    )
    (root / "tables/demo/ppo_small/evidence.json").write_text(json.dumps(EVIDENCE))
    (root / "tables/demo/ppo_small/evidence_gradients.md").write_text(
        "Gradient test: **passed** <script>alert(1)</script>\n"
    )
    return root


@pytest.fixture(scope="module")
def html(results):
    command = ["report", "--scale", "demo", "--experiments", "ppo_small", "ppo_pomdp", "--results", str(results)]
    assert main(command) == 0
    return (results / "report" / "demo.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_report_loads_nothing_from_anywhere(html, page):
    assert page.loads
    assert all(source.startswith("data:") for source in page.loads)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "@import" not in html
    assert "url(" not in html


def test_every_link_of_the_report_leads_to_a_place_in_it(page):
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_verdicts_come_before_everything_else(html):
    verdicts, first = html.index('<section id="verdicts">'), html.index('<section id="ppo_small"')
    assert verdicts < first < html.index("<figure")


def test_every_claim_shows_its_verdict_estimate_interval_threshold_seeds_runs_and_budget(results, html):
    judged = json.loads((results / "tables/demo/ppo_small/claims.json").read_text())["claims"]
    assert {claim["verdict"] for claim in judged} == set(report.BADGES)
    for claim in judged:
        card = Page(html[html.index(f'id="ppo_small-{claim["id"]}"') :].split("</article>")[0]).text
        assert claim["verdict"] in card
        assert claim["text"] in card
        assert with_interval(claim) in card
        assert f"threshold {number(claim['threshold'])}" in card
        assert f"at least {claim['n_seeds']} finished seeds" in card
        counts = claim["counts"]
        assert f"{counts['attempted']} attempted, {counts['finished']} finished, {counts['failed']} failed" in card
        assert "10,000 environment steps per run" in card
        assert report.typeset(claim["reason"]) in card


def test_failed_and_missing_runs_are_counted_and_listed_with_their_reasons(page):
    text = " ".join(page.text.split())
    assert "15 runs attempted: 13 finished, 1 failed, 1 missing." in text
    assert "of 15 attempted runs 1 failed and 1 are missing" in text
    assert "loss/policy is not finite" in text
    assert "ppo_pomdp: of" not in text


def test_the_report_says_algorithm_and_what_the_critics_see(page):
    assert "PPO; critics see what their policies see (blind)." in page.text


def test_the_report_says_its_scale_and_that_the_budget_is_below_the_papers(page):
    assert "Scale: demo." in page.text
    assert "far below the paper's" in " ".join(page.text.split())


def test_steps_and_seeds_stand_beside_those_of_the_paper_scale():
    scales = {s: {"epochs": e, "steps_per_epoch": 1000, "seeds": n} for s, e, n in (("demo", 5, 3), ("paper", 900, 25))}
    said = report.share_of_paper("demo", {"scales": scales})
    assert said == "5,000 environment steps per run and 3 seeds; the paper scale has 900,000 and 25"
    assert report.share_of_paper("paper", {"scales": scales}) == ""
    assert report.share_of_paper("demo", {}) == ""


def test_figures_are_embedded_with_their_captions_and_details_are_folded(results, html, page):
    images = [source for source in page.loads if source.startswith("data:image/png")]
    drawn = {p.read_bytes() for p in (results / "figures/demo/ppo_small").glob("*.png")}
    assert {base64.b64decode(image.split(",")[1]) for image in images} == drawn
    for path in (results / "figures/demo/ppo_small").glob("*.json"):
        assert json.loads(path.read_text())["caption"] in page.text
    assert html.rindex("<details>", 0, html.index('id="ppo_small-diagnostics_action"')) > html.index(
        'id="ppo_small-timing"'
    )


def test_evidence_stands_beside_the_claims_and_cannot_run_anything(html, page):
    text = " ".join(page.text.split())
    assert "Memory probe" in text
    assert "0.812" in text
    assert "where a < b." in text
    assert "Gradient test: passed <script>alert(1)</script>" in text
    assert (
        html.index('id="ppo_small-claims"')
        < html.index('id="ppo_small-evidence"')
        < html.index('id="ppo_small-figures"')
    )


def test_evidence_of_a_claim_stands_in_its_card_and_nowhere_else(results, tmp_path):
    folder = tmp_path / "tables/demo/ppo_small"
    shutil.copytree(results / "tables/demo/ppo_small", folder)
    table = [{"method": "S2PG", "return − no memory": "-1.5 [-2.0, -1.0]"}]
    pieces = [{"title": "Why not?", "claim": "untested", "text": "Of *this* claim.", "table": table}, *EVIDENCE]
    (folder / "evidence.json").write_text(json.dumps(pieces))
    html = report.write("demo", ["ppo_small"], tmp_path, tmp_path / "report.html").read_text(encoding="utf-8")
    cards = {part.split('"')[0]: part.split("</article>")[0] for part in html.split('id="ppo_small-')}
    assert [name for name, card in cards.items() if "Why not?" in card] == ["untested"]
    assert html.count("Why not?") == 1
    assert "−1.5 [−2.0,\u00a0−1.0]" in Page(cards["untested"]).text
    assert 'href="#ppo_small-evidence"' in cards["untested"]


def test_the_suites_own_evidence_is_in_the_report(html, page):
    section = Page(html[html.index('id="ppo_pomdp-evidence"') : html.index('id="ppo_pomdp-budget"')]).text
    for piece in ("Is it our error?", "Memory probe", "What tests prove", "tests/test_ppo.py::"):
        assert piece in section


def test_a_command_is_shown_without_the_folders_of_its_machine():
    runs = "results/runs/demo/ppo_small/HopperV/s2pg/seed_0"
    assert report.as_typed(f"cli.py train --seed 0 --out /data/suite/{runs}") == f"s2pg train --seed 0 --out {runs}"
    assert report.as_typed("s2pg train --out /data/some/where") == "s2pg train --out where"
    assert report.as_typed("s2pg train --out results/x --set a=b/c") == "s2pg train --out results/x --set a=b/c"


def test_numbers_have_minus_signs_and_intervals_do_not_break():
    assert report.typeset("-1.0 [-2.0, 3.0]") == "−1.0 [−2.0,\u00a03.0]"
    assert report.typeset("0.5 (-0.1 to 0.9), 3 of 5") == "0.5 (−0.1\u00a0to\u00a00.9), 3\u00a0of\u00a05"
    assert report.typeset("s2pg-small, 2026-01-02, tests/x-1") == "s2pg-small, 2026-01-02, tests/x-1"


def test_a_claim_on_one_task_says_so():
    rule = {"statistic": "iqm_difference", "a": "s2pg", "b": "none", "task": "HopperV"}
    claim = {"verdict": "supported", "statistic": "iqm_difference", "reason": ""}
    assert report.described(claim, rule)["what"].endswith("S2PG minus No memory, on Hopper (velocities hidden) alone")
    del rule["task"]
    assert report.described(claim, rule)["what"].endswith("S2PG minus No memory")


def test_a_claim_says_by_which_score():
    rule = {"statistic": "iqm_difference", "a": "s2pg", "b": "none"}
    claim = {"verdict": "supported", "statistic": "iqm_difference", "reason": ""}
    words = [report.described(claim, rule | score)["what"] for score in ({}, {"score": "final"}, {"score": "area"})]
    final, area = ("IQM of the normalised " + what for what in ("final scores", "areas under the learning curves"))
    assert words == [f"{what}, S2PG minus No memory" for what in (final, final, area)]


def test_evidence_without_a_title_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "evidence.json").write_text('[{"text": "x"}]')
    with pytest.raises(report.AnalysisError, match=r"evidence\.json: every piece of evidence is a mapping with title"):
        report.evidence(tmp_path)
    (tmp_path / "evidence.json").write_text("{")
    with pytest.raises(report.AnalysisError, match=r"evidence\.json: not JSON"):
        report.evidence(tmp_path)


def test_provenance_and_budget_are_those_of_the_runs(results, page):
    text = " ".join(page.text.split())
    assert "000000000000" in text
    assert "s2pg train --task HopperV" in text
    data = report.Tidy.read(results / "tables/demo/ppo_small")
    spent = report.budget(data.runs, {"resources": {"cores": 2}})
    assert spent["core_hours"].startswith(f"{number(2 * data.runs['seconds'].sum() / 3600)} core-hours")
    assert report.budget(data.runs, {})["core_hours"] in text


def test_uncommitted_changes_are_said(results):
    runs = report.Tidy.read(results / "tables/demo/ppo_small").runs.assign(git_dirty=True)
    assert report.origin(runs, [])["Code revision"] == "000000000000 (with uncommitted changes)"
    unknown = runs.assign(git_dirty=pd.array([None] * len(runs), dtype="boolean"))
    assert report.origin(unknown, [])["Code revision"] == "000000000000 (uncommitted changes: unknown)"
    assert report.origin(runs.assign(git_revision=None), [])["Code revision"] == "unknown"


def test_runs_resumed_with_other_code_or_elsewhere_are_counted(results):
    runs = report.Tidy.read(results / "tables/demo/ppo_small").runs
    begun = {"git_revision": "a", "host": "one"}
    parts = ([], [begun], [{**begun, "host": "two"}], [{"git_revision": "b", "host": "two"}, begun])
    kept = [{**begun, "packages": {}, "resumed": again} for again in parts]
    said = report.origin(runs, kept)["Resumed"]
    assert said.startswith("3 of 4 runs went on after an interruption: 1 at another revision, 2 on another host")
    assert report.origin(runs, kept[:1])["Resumed"] == ""


def test_provenance_is_of_the_runs_of_the_grid_and_not_of_archived_ones(results, tmp_path):
    runs = report.Tidy.read(results / "tables/demo/ppo_small").runs
    shutil.copytree(results / "runs", tmp_path / "runs")
    folder = tmp_path / "runs/demo/ppo_small/HopperV/s2pg"
    for other in ("seed_0.archived-1", "seed_99"):
        shutil.copytree(folder / "seed_0", folder / other)
        (folder / other / "provenance.json").write_text('{"python": "2.7"}')
    found = report.provenance(runs, tmp_path / "runs")
    assert len(found) == (runs["status"] != "missing").sum()
    assert report.origin(runs, found)["Python"] == "3.11"


def test_notes_stand_between_the_heading_of_the_claims_and_the_first_verdict(results, tmp_path):
    folder = tmp_path / "tables/demo/ppo_small"
    shutil.copytree(results / "tables/demo/ppo_small", folder)
    grid = json.loads((folder / "grid.json").read_text())
    grid["spec"]["notes"] = ["Tuned for <S2PG> only."]
    (folder / "grid.json").write_text(json.dumps(grid))
    html = report.write("demo", ["ppo_small"], tmp_path, tmp_path / "report.html").read_text(encoding="utf-8")
    between = html[html.index('id="ppo_small-claims"') : html.index('<article class="claim')]
    assert "Tuned for <S2PG> only." in Page(between).text
    assert "details" not in Page(between).tags


def test_the_same_results_give_the_same_report(results, html, tmp_path):
    again = report.write("demo", ["ppo_small", "ppo_pomdp"], results, tmp_path / "again.html")
    assert again.read_text(encoding="utf-8") == html


def test_an_experiment_without_tables_is_an_error_that_names_the_folder(tmp_path, capsys):
    assert main(["report", "--scale", "demo", "--experiments", "ppo_small", "--results", str(tmp_path)]) == 2
    assert "tables/demo/ppo_small" in capsys.readouterr().err


def test_numbers_are_written_for_readers():
    assert [number(x) for x in (0.12345, -3.14159, 123.4, 1_234_567, None, float("nan"), 0)] == [
        "0.123", "−3.14", "123", "1,234,567", "–", "–", "0",
    ]  # fmt: skip
    assert [duration(s) for s in (30, 90, 7200)] == ["30 s", "1.5 min", "2 h"]
    assert [cell(x) for x in (0.5, True, None, "a")] == ["0.5", "True", "", "a"]
    assert with_interval({"estimate": -0.1312, "low": -0.2101, "high": -0.0612}) == "−0.13 [−0.21, −0.06]"
    assert with_interval({"estimate": 1234.5, "low": 1000.0, "high": 1500.2}) == "1,234 [1,000, 1,500]"
    assert with_interval({"estimate": 0.5, "low": None, "high": None}) == "0.5"
    assert with_interval({"estimate": None}) == "–"
