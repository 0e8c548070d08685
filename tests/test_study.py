"""Studies: their files, what the command writes, and what the analysis makes of measured variances."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import report
from analysis.__main__ import main as analysis
from analysis.errors import AnalysisError
from analysis.studies import KINDS, judge, read
from analysis.studies.gradients import COLUMNS, crossings, fit, make_tables, slope, slopes
from s2pg.cli import main as s2pg
from s2pg.commands.study import measure_networks
from s2pg.config import ConfigError, list_studies
from s2pg.gradients import problem
from s2pg.gradients.problem import Case, bound
from s2pg.study import load_study
from s2pg.timing import sweep

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (1, 2, 4, 8, 16, 32, 64)


def measured(case: str, laws: dict[str, tuple[float, float]], error: float = 0.02, lengths=LENGTHS) -> pd.DataFrame:
    """Rows as a study's command writes them, of estimators with variance `scale * T^power`."""
    rows = []
    for T in lengths:
        for name, (scale, power) in laws.items():
            value = scale * T**power
            spread = np.exp(1.96 * error)
            row = dict.fromkeys(COLUMNS, 0.0) | {"case": case, "features": "bounded", "recurrence": 0.9, "memory": 1}
            row |= {"sigma_memory": 0.5, "horizon": T, "estimator": name, "count": 1000, "bound": 10 * value}
            row |= {"bias": np.nan, "bias_error": np.nan, "cosine": np.nan, "exact_norm": np.nan}
            rows.append(
                row | {"variance": value, "low": value / spread, "high": value * spread, "error": error * value}
            )
    return pd.DataFrame(rows)


def study(*claims: dict, cases=("one",)) -> dict:
    """A study.json."""
    return {"study": "gradient_variance", "scale": "demo", "cases": [*cases],
            "spec": {"kind": "gradients", "title": "t", "claims": [*claims]}}  # fmt: skip


def claim(**rule) -> dict:
    return {"id": "c", "text": "t", "rule": {"case": "one", "threshold": 0.0, "from": 1, **rule}}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the configuration, to be edited."""
    shutil.copytree(ROOT / "workflow/config", tmp_path / "config")
    monkeypatch.setenv("S2PG_CONFIG", str(tmp_path / "config"))
    return tmp_path / "config/studies/gradient_variance.yaml"


def check_timing(study, scale: str, case: str) -> None:
    what, much = sweep.Case.read(study.case(case)), sweep.Scale.read(study.scale(scale))
    assert [sweep.configure(what, much, cell, "cpu", 0) for cell in sweep.cells(what, much)]


CHECKS = {  # builds what would be measured; generators stop before their first row
    "gradients": lambda study, scale, case: problem.measure_case(study, scale, case, 0),
    "networks": lambda study, scale, case: measure_networks(study, scale, case, 0),
    "timing": check_timing,
}


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_studies())
@pytest.mark.parametrize("scale", ["smoke", "demo", "lite", "paper"])
def test_every_case_of_every_scale_can_be_measured_and_every_claim_is_on_cases_of_the_demo(name, scale):
    found = load_study(name)
    for case in found.scale(scale)["cases"]:
        CHECKS[found.kind](found, scale, case)
    if scale != "smoke":
        assert {c["rule"]["case"] for c in found.spec["claims"] if "case" in c["rule"]} <= {
            *found.scale(scale)["cases"]
        }


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("features: bounded,", "feature: bounded,", "base: unknown key 'feature'.*did you mean 'features'"),
        ("recurrence: 1.1", "recurrence: high", "cases.expanding.recurrence: 'high' is not of type 'number'"),
        ("cases: [contracting, marginal", "cases: [contractin, marginal", "scales.smoke.cases: unknown 'contractin'"),
        (
            "a: bptt_return, b: s2pg_return, case: marginal",
            "a: bppt, b: s2pg_return, case: marginal",
            "rule.a: unknown 'bppt'",
        ),
        ("context: 5}", "context: 5, critic: exat}", "estimators.bptt5_return.critic: unknown 'exat'"),
        ("kind: gradients", "kind: gradient", "kind: unknown 'gradient'.*did you mean 'gradients'"),
    ],
)
def test_a_typo_names_the_file_the_key_and_what_is_allowed(config, old, new, named):
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=f"gradient_variance.yaml: .*{named}"):
        load_study("gradient_variance")


@pytest.mark.parametrize(
    ("name", "old", "new", "named"),
    [
        (
            "gradient_variance",
            "signal: return, context: 5",
            "signal: return, critic: blind",
            "bptt5_return: .*no critic",
        ),
        (
            "gradient_variance_networks",
            "signal: return, context: 5",
            "signal: advantage",
            "bptt5_return.signal: .*no critic",
        ),
    ],
)
def test_an_estimator_that_means_nothing_is_refused_before_anything_is_measured(config, name, old, new, named):
    path = config.with_name(f"{name}.yaml")
    path.write_text(path.read_text().replace(old, new, 1))
    found = load_study(name)
    with pytest.raises(ConfigError, match=f"{name}.yaml: estimators.{named}"):
        CHECKS[found.kind](found, "demo", found.scale("demo")["cases"][0])


def test_what_a_network_measurement_depends_on_changes_with_the_profile(config):
    before = load_study("gradient_variance_networks").settings("demo", "pendulum")
    hparams = config.parents[1] / "hparams/ppo.yaml"
    hparams.write_text(hparams.read_text().replace("    features: 64 #", "    features: 32 #"))
    assert load_study("gradient_variance_networks").settings("demo", "pendulum") != before


def test_what_a_measurement_depends_on_changes_with_its_case_and_not_with_a_claim_or_another_case(config):
    before = load_study("gradient_variance").settings("demo", "marginal")
    text = config.read_text()
    for old, new, same in (
        ("at every length", "at each length", True),
        ("slow: {recurrence: 0.9}", "slow: {recurrence: 0.8}", True),
        ("marginal: {recurrence: 1.0}", "marginal: {recurrence: 0.99}", False),
        ("read: 0.4", "read: 0.5", False),
        ("    episodes: 1000\n", "    episodes: 1001\n", False),
    ):
        assert old in text
        config.write_text(text.replace(old, new))
        assert (load_study("gradient_variance").settings("demo", "marginal") == before) == same


# --- measuring -------------------------------------------------------------------------------------------------------


def test_a_case_has_the_recurrence_and_the_reading_that_it_says_whatever_the_size():
    for units in (1, 8):
        bounds = problem.problem(Case("bounded", 0.9, 0.4, units, 0.5, 0.5, 0.9))[1].bounds()
        assert (pytest.approx(0.9), pytest.approx(0.4)) == (bounds.Z, bounds.K)


def test_the_bound_of_s2pg_is_linear_in_the_length_and_bptts_follows_the_recurrence():
    from s2pg.gradients.estimators import Estimator

    def growth(recurrence: float, estimator: Estimator) -> float:
        case = Case("bounded", recurrence, 0.4, 1, 0.5, 0.5, 0.9)
        return np.log2(bound(case, estimator, 2048) / bound(case, estimator, 1024))

    s2pg, bptt = Estimator(signal="return"), Estimator(decides=False, signal="return")
    assert [growth(z, s2pg) for z in (0.5, 1.0, 1.02)] == [pytest.approx(1, abs=1e-3)] * 3
    assert [growth(0.5, bptt), growth(1.0, bptt)] == [pytest.approx(1, abs=0.02), pytest.approx(3, abs=0.02)]
    assert growth(1.02, bptt) > 40
    assert np.isnan(bound(Case("bounded", 1, 0.4, 1, 0.5, 0.5, 0.9), Estimator(baseline="scalar"), 8))


def test_the_command_measures_the_same_numbers_twice_and_says_what_they_are(tmp_path, capsys):
    out = tmp_path / "marginal.parquet"
    words = ["study", "gradient_variance", "--case", "marginal", "--scale", "smoke"]
    assert s2pg([*words, "--out", str(out)]) == 0
    assert "s2pg_return" in capsys.readouterr().out
    assert s2pg([*words, "--out", str(tmp_path / "again.parquet")]) == 0
    frame, again = (pd.read_parquet(path).drop(columns="seconds") for path in (out, tmp_path / "again.parquet"))
    pd.testing.assert_frame_equal(frame, again)
    assert not COLUMNS.keys() - {*frame.columns, "seconds"}
    assert (frame["variance"] < frame["bound"]).all()
    beside = json.loads(out.with_suffix(".json").read_text())
    assert beside["settings"]["case"]["recurrence"] == 1.0
    assert beside["packages"]["torch"]


def test_rows_of_networks_are_what_the_analysis_reads(tmp_path):
    out = tmp_path / "pendulum.parquet"
    assert (
        s2pg(["study", "gradient_variance_networks", "--case", "pendulum", "--scale", "smoke", "--out", str(out)]) == 0
    )
    frame = read(tmp_path, {**study(cases=["pendulum"]), "spec": {"kind": "networks", "claims": []}})
    assert (frame["task"] == "PendulumV").all()
    assert frame["variance"].gt(0).all()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["gradint", "--case", "slow"], "unknown 'gradint'; allowed: gradient_variance"),
        (["gradient_variance", "--case", "margnal"], "did you mean 'marginal'"),
        (["gradient_variance", "--case", "slow", "--scale", "dem"], "did you mean 'demo'"),
    ],
)
def test_a_typo_on_the_command_line_writes_nothing(tmp_path, capsys, words, named):
    assert s2pg(["study", *words, "--out", str(tmp_path / "x.parquet")]) == 2
    assert named in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


# --- analysing -------------------------------------------------------------------------------------------------------


def test_the_slope_of_a_power_law_is_its_power_and_its_interval_covers_the_noise():
    lengths, rng = np.array(LENGTHS, float), np.random.default_rng(0)
    exact = slope(lengths, 5 * lengths**3, 0.1 * 5 * lengths**3)
    assert exact.slope == pytest.approx(3)
    covered = 0
    for _ in range(500):
        found = slope(lengths, 5 * lengths**3 * np.exp(0.1 * rng.standard_normal(7)), 0.5 * lengths**3)
        covered += found.low < 3 < found.high
    assert 0.92 < covered / 500 < 0.98


def test_the_same_curve_has_the_same_slope_whatever_its_errors():
    """A curve that bends: weighted fits would average other parts of it."""
    lengths = np.array(LENGTHS, float)
    bent = np.exp(np.log(lengths) + 0.1 * np.log(lengths) ** 2)
    errors = np.linspace(0.03, 0.3, 7)
    assert slope(lengths, bent, 0.03 * bent).slope == pytest.approx(slope(lengths, bent, errors * bent).slope)


def test_a_claim_on_every_length_fails_at_the_one_that_is_surely_below():
    frame = measured("one", {"a": (1, 0), "b": (1, 0)}, lengths=(1, 512))
    frame["variance"] = np.where(frame["estimator"] == "a", np.exp([-0.45, -0.45, -0.45, -0.45]), 1.0)
    frame["error"] = frame["variance"] * np.where(frame["horizon"] == 1, 0.01, 1.0)
    (found,) = judge(study(claim(statistic="log_ratio", a="a", b="b")), frame)
    assert found["verdict"] == "not supported"
    assert found["high"] == pytest.approx(-0.45 + 1.96 * 0.01 * 2**0.5, abs=1e-3)


def test_slopes_are_fitted_from_sixteen_steps_on():
    short = measured("one", {"s2pg_return": (1, 5)}, lengths=(1, 2, 4, 8))
    both = pd.concat([short, measured("one", {"s2pg_return": (1, 1)}, lengths=(16, 32, 64))], ignore_index=True)
    assert slopes(both)["slope"].item() == pytest.approx(1)
    assert fit(short) is None


def test_slopes_stand_beside_those_of_the_bounds():
    frame = measured("one", {"s2pg_return": (2, 1.2), "bptt_return": (1, 3)})
    frame.loc[frame["estimator"] == "bptt_return", "bound"] = np.inf
    found = slopes(frame).set_index("estimator")
    assert found.loc["s2pg_return", ["bound_slope", "share_of_bound"]].tolist() == [
        pytest.approx(1.2),
        pytest.approx(0.1),
    ]
    assert found.loc["bptt_return", ["bound_slope", "share_of_bound"]].isna().all()


@pytest.mark.parametrize(
    ("laws", "less_from", "more_until"),
    [
        ({"a": (6.5, 1), "b": (1, 2)}, 8, 4),  # equal at 6.5
        ({"a": (2, 1), "b": (1, 1)}, np.nan, 64),
        ({"a": (1, 1), "b": (2, 1)}, 1, np.nan),
        ({"a": (8, 1), "b": (1, 2)}, 16, 4),  # equal at 8: neither
    ],
)
def test_the_crossing_is_where_the_intervals_are_apart(laws, less_from, more_until):
    found = crossings(measured("one", laws), "a", "b").iloc[0]
    np.testing.assert_equal([found["less_from"], found["more_until"]], [less_from, more_until])


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ({"statistic": "slope", "a": "cubic", "threshold": 2.5}, "supported"),
        ({"statistic": "slope", "a": "cubic", "threshold": 3.5}, "not supported"),
        ({"statistic": "slope", "a": "cubic", "threshold": 3.0}, "not enough data"),
        ({"statistic": "slope_difference", "a": "cubic", "b": "linear"}, "supported"),
        ({"statistic": "slope_difference", "a": "linear", "b": "cubic"}, "not supported"),
        ({"statistic": "slope", "a": "cubic", "from": 64}, "not enough data"),  # one length has no slope
        ({"statistic": "log_ratio", "a": "cubic", "b": "linear"}, "not supported"),  # below it at the shortest
        ({"statistic": "log_ratio", "a": "cubic", "b": "linear", "from": 8}, "supported"),
        ({"statistic": "log_ratio", "a": "cubic", "b": "absent"}, "not enough data"),
        ({"statistic": "slope", "a": "cubic", "case": "absent"}, "not enough data"),
    ],
)
def test_a_verdict_follows_from_the_interval(rule, verdict):
    frame = measured("one", {"cubic": (1, 3), "linear": (20, 1)})
    (found,) = judge(study(claim(**rule)), frame)
    assert found["verdict"] == verdict


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(AnalysisError, match="one.parquet: missing; `s2pg study gradient_variance --case one`"):
        read(tmp_path, study())
    pd.DataFrame({"case": ["one"]}).to_parquet(tmp_path / "one.parquet")
    with pytest.raises(AnalysisError, match="one.parquet: lacks the columns bias, .*variance"):
        read(tmp_path, study())


def test_tables_and_figures_are_made_of_what_is_there_even_of_one_estimator(tmp_path):
    for laws in ({"s2pg_return": (1, 1)}, {"s2pg_return": (6, 1), "bptt_return": (1, 2)}):
        measured("one", laws).to_parquet(tmp_path / "one.parquet")
        (tmp_path / "study.json").write_text(json.dumps(study(claim(statistic="slope", a="s2pg_return"))))
        words = [
            "study",
            "--study",
            f"{tmp_path}/study.json",
            "--cases",
            f"{tmp_path}",
            "--tables",
            f"{tmp_path}/tables",
        ]
        assert analysis([*words, "--figures", f"{tmp_path}/figures"]) == 0
        assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == {*KINDS["gradients"].pictures}
        assert json.loads((tmp_path / "tables/claims.json").read_text())["claims"][0]["estimate"] == pytest.approx(1)
    assert (tmp_path / "tables/tables/crossings.md").exists()


def test_the_quality_of_an_estimator_is_that_at_the_longest_trajectory():
    frame = measured("one", {"s2pg_return": (1, 1)})
    frame["exact_norm"], frame["bias"], frame["cosine"] = 2.0, frame["horizon"] / 64, frame["horizon"] / 100
    table = make_tables(frame)["quality"]
    assert table.shown[["variance", "distance / norm", "cosine"]].to_numpy().tolist() == [["64", "0.5", "0.64"]]
    assert "T = 64" in table.caption


def test_the_table_of_slopes_has_a_row_per_case_and_estimator_with_an_interval():
    laws = {"s2pg_return": (1, 1), "bptt_return": (1, 3)}
    frame = pd.concat([measured(name, laws) for name in ("one", "two")], ignore_index=True)
    shown = make_tables(frame)["slopes"].shown
    assert len(shown) == 4
    assert shown["slope [95 %]"].str.fullmatch(r"\d\.\d\d \[\d\.\d\d, \d\.\d\d\]").all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_data_dictionary_has_every_column(kind):
    text = (ROOT / "results/README.md").read_text()
    assert all(f"| `{name}` | {meaning} |" in text for name, meaning in KINDS[kind].columns.items())


def test_the_report_of_a_study_shows_verdicts_figures_tables_and_what_was_measured(tmp_path):
    folders = {kind: tmp_path / kind / "smoke/gradient_variance" for kind in ("runs", "tables", "figures")}
    for case in ("contracting", "marginal", "expanding", "linear_contracting"):
        words = ["study", "gradient_variance", "--case", case, "--scale", "smoke"]
        assert s2pg([*words, "--out", str(folders["runs"] / f"{case}.parquet")]) == 0
    folders["tables"].mkdir(parents=True)
    listed = [sys.executable, "-m", "workflow.scripts.study", "gradient_variance", "smoke"]
    made = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    (folders["tables"] / "study.json").write_text(made.stdout)
    words = [f"--study={folders['tables']}/study.json", f"--cases={folders['runs']}", f"--tables={folders['tables']}"]
    assert analysis(["study", *words, f"--figures={folders['figures']}"]) == 0
    html = report.write("smoke", ["gradient_variance"], tmp_path, tmp_path / "report.html").read_text()
    assert "100 trajectories at each of 4 lengths from 1 to 32" in html
    assert html.count("<figure") == len(KINDS["gradients"].pictures)
    assert "Slopes</summary>" in html
    assert html.count('class="claim ') == len(load_study("gradient_variance").spec["claims"])
