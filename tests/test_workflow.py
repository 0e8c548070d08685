"""The graph of jobs: what is planned, what an edit starts again, what a kill costs; and the smoke run, for real."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from s2pg.config import ConfigError, expert_run, list_experiments, list_studies, load_experiment, workflow_settings
from s2pg.data.dataset import load
from s2pg.study import load_study
from tests.synthetic import write_grid
from workflow.scripts.grid import grid

ROOT = Path(__file__).resolve().parents[1]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".snakemake", "results", "__pycache__", ".*_cache", ".hypothesis")
SMOKE = ["--cores", "2", "--config", "scale=smoke"]
RULES = ["common.smk", "train.smk", "expert.smk", "analyse.smk", "study.smk", "report.smk"]


def snakemake(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in a folder; the suite is imported from there."""
    command = [sys.executable, "-m", "snakemake", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def plan(folder: Path, *words: str) -> dict[str, int]:
    """Rule -> jobs that Snakemake would run."""
    dry = snakemake(folder, "--dry-run", *words)
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert "Exception" not in dry.stdout + dry.stderr  # of a rule that was tried and dropped: it reads like a failure
    table = re.search(r"^job +count\n-+ +-+\n(.*?)\n\n", dry.stdout + dry.stderr, re.MULTILINE | re.DOTALL)
    rows = [line.split() for line in table[1].splitlines()] if table else []
    return {rule: int(count) for rule, count in rows if rule != "total"}


def common() -> SimpleNamespace:
    """What common.smk defines; it is plain Python but for the name `config`."""
    space: dict = {"config": {}}
    exec(compile((ROOT / "workflow/rules/common.smk").read_text(), "common.smk", "exec"), space)
    return SimpleNamespace(**space)


def chosen() -> list[str]:
    return [name for name in workflow_settings()["experiments"] if name in list_experiments()]


def studied() -> list[str]:
    return [name for name in workflow_settings()["experiments"] if name in list_studies()]


def runs(scale: str, names: Iterable[str] = ()) -> int:
    """Of these experiments (of all that are chosen if none is named), and of the experts that they learn from."""
    names = list(names) or chosen()
    return sum(len(load_experiment(name).runs(scale)) for name in names) + len(experts(scale, names))


def experts(scale: str, names: list[str]) -> set[str]:
    """Tasks whose expert is a run of an experiment that is not named."""
    imitated = {
        task for name in names if load_experiment(name).imitates for task in load_experiment(name).scale(scale).tasks
    }
    return {task for task in imitated if expert_run(task, scale).experiment not in names}


def cases(scale: str) -> int:
    return sum(len(load_study(name).scale(scale)["cases"]) for name in studied())


def copy(folder: Path) -> Path:
    """The repository as it is on disk, without what was built."""
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED, symlinks=True)
    if (ROOT / "results/published").exists():
        shutil.copytree(ROOT / "results/published", folder / "results/published")
    return folder


def edit(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1, f"{path} no longer holds {pattern!r}: change this test"
    path.write_text(text)


# --- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["smoke", "demo", "lite", "paper"])
def test_every_scale_plans_one_job_per_run_and_per_case_of_a_study(scale: str, tmp_path: Path) -> None:
    jobs = plan(ROOT, "--config", f"scale={scale}", f"results={tmp_path}")
    assert (jobs["train"], jobs["measure_case"]) == (runs(scale), cases(scale))


def test_demo_is_what_snakemake_makes_when_nothing_is_said(tmp_path: Path) -> None:
    assert plan(ROOT, "--config", f"results={tmp_path}")["train"] == runs("demo")


@pytest.mark.parametrize("target", ["all", "runs", "figures", "tables", "notebooks", "report"])
def test_every_named_target_can_be_planned(target: str, tmp_path: Path) -> None:
    needed = len(load_experiment(chosen()[0]).runs("smoke")) if target == "notebooks" else runs("smoke")
    assert plan(ROOT, target, "--config", "scale=smoke", f"results={tmp_path}")["train"] == needed


def test_a_partial_report_waits_for_no_run(tmp_path: Path) -> None:
    jobs = plan(ROOT, "--config", "scale=smoke", "partial=true", f"results={tmp_path}")
    assert not {"train", "measure_case"} & jobs.keys()
    assert jobs["collect"] == len(chosen())
    assert jobs["write_report"] == 1


@pytest.mark.parametrize("name", list_experiments())
def test_every_experiment_is_a_target(name: str, tmp_path: Path) -> None:
    jobs = plan(ROOT, name, "--config", "scale=smoke", f"results={tmp_path}")
    rules = [claim["rule"] for claim in load_experiment(name).claims]
    compared = {rule[key] for rule in rules for key in ("experiment_a", "experiment_b") if key in rule}
    made = {name, *(compared & {*chosen()})}
    assert jobs["train"] == runs("smoke", made)
    assert jobs["draw_figures"] == jobs["write_tables"] == 1


@pytest.mark.parametrize("name", list_studies())
def test_every_study_is_a_target(name: str, tmp_path: Path) -> None:
    jobs = plan(ROOT, name, "--config", "scale=smoke", f"results={tmp_path}")
    assert jobs["measure_case"] == len(load_study(name).scale("smoke")["cases"])
    assert jobs["analyse_study"] == 1
    assert "train" not in jobs


def test_a_study_alone_has_a_report_and_no_notebooks(tmp_path: Path) -> None:
    jobs = plan(ROOT, "--config", "scale=smoke", f"experiments={list_studies()[0]}", f"results={tmp_path}")
    assert jobs["write_report"] == 1
    assert not {"train", "execute_notebooks"} & jobs.keys()


def test_one_file_is_a_target_at_any_scale() -> None:
    jobs = plan(ROOT, "--forceall", "results/figures/lite/ppo_small/timing.pdf")
    assert jobs["train"] == len(load_experiment("ppo_small").runs("lite"))


def test_slurm_profile_resolves_as_typed(tmp_path: Path) -> None:
    assert plan(ROOT, "--profile", "slurm", "--config", f"results={tmp_path}")["train"] == runs("demo")


@pytest.mark.parametrize("link", ["slurm", "profiles"])
def test_profiles_are_found_through_tracked_links(link: str) -> None:
    listed = subprocess.run(["git", "ls-files", "-s", link], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert listed.stdout.startswith("120000 ")
    assert (ROOT / link).resolve().is_relative_to(ROOT / "workflow/profiles")


def test_a_retry_gets_more_time_and_memory_within_the_experiments_budget() -> None:
    rules, run = common(), SimpleNamespace(experiment="ppo_small", scale="lite")
    budget = load_experiment("ppo_small").resources
    assert [rules.minutes(run, attempt) for attempt in (1, 2)] == [budget["minutes"]["lite"] * k for k in (1, 2)]
    assert rules.megabytes(run, 1) == budget["memory_mb"] < rules.megabytes(run, 2)
    assert rules.cores(run) == budget["cores"]


def test_no_rule_retries_by_itself_or_runs_python_inline() -> None:
    text = "\n".join((ROOT / "workflow/rules" / name).read_text() for name in RULES)
    assert re.findall(r"^\s*(retries:|run:|checkpoint )", text, re.MULTILINE) == []


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("scal=smoke", "did you mean 'scale'"),
        ("scale=smok", "did you mean 'smoke'"),
        ("experiments=ppo_smal", "ppo_small"),
    ],
)
def test_a_typo_in_the_settings_names_the_key_and_what_is_allowed(setting: str, named: str) -> None:
    dry = snakemake(ROOT, "--dry-run", "--config", setting)
    assert dry.returncode != 0
    assert named in dry.stdout + dry.stderr


def test_a_typo_in_an_experiment_file_names_file_and_key(tmp_path: Path) -> None:
    folder = copy(tmp_path / "suite")
    edit(folder / "workflow/config/experiments/ppo_small.yaml", "eval_episodes", "eval_episode")
    dry = snakemake(folder, "--dry-run")
    assert dry.returncode != 0
    assert "ppo_small.yaml" in dry.stdout + dry.stderr
    assert "eval_episode" in dry.stdout + dry.stderr


def test_the_workflow_knows_every_figure_table_and_notebook_that_analysis_makes() -> None:
    from analysis.figures import FIGURES
    from analysis.notebooks import NOTEBOOKS
    from analysis.tables import TABLES

    assert sorted(common().FIGURES) == sorted(FIGURES)
    assert sorted(common().TABLES) == sorted(TABLES)
    assert sorted(common().NOTEBOOKS) == sorted(NOTEBOOKS)


def test_a_fingerprint_changes_with_the_run_and_with_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "workflow/config", tmp_path / "config")
    monkeypatch.setenv("S2PG_CONFIG", str(tmp_path / "config"))
    run = ("ppo_small", "PendulumV", "s2pg", "smoke")
    before = common().fingerprint(*run)
    edit(tmp_path / "config/experiments/ppo_small.yaml", "^title: .*", "title: Another title")
    assert common().fingerprint(*run) == before
    edit(tmp_path / "config/hparams/ppo.yaml", r"^    clip: 0\.5", "    clip: 0.25")
    assert common().fingerprint(*run) != before


def test_claims_are_judged_beside_the_other_experiments_that_they_name_and_that_are_made() -> None:
    rules = common()
    rules.compared.__globals__["EXPERIMENTS"] = {
        "one": SimpleNamespace(claims=[{"rule": {"a": "s2pg", "b": "s2pg", "experiment_b": "two"}}]),
        "two": SimpleNamespace(claims=[{"rule": {"a": "s2pg", "b": "none", "experiment_b": "three"}}]),
    }
    rules.compared.__globals__["CHOSEN"] = ["one", "two"]
    assert (rules.compared("one"), rules.compared("two")) == (["two"], [])


def test_the_grid_says_what_each_method_is() -> None:
    listed = grid("kernel", "lite")["methods"]
    assert [listed[m]["sigma_memory"] for m in ("s2pg_sigma002", "s2pg_sigma1")] == [0.02, 1.0]
    assert (listed["s2pg_size8"]["memory_size"], listed["s2pg_rnn"]["cell"]) == (8, "rnn")
    assert "clip" not in grid("ppo_pomdp", "paper")["methods"]["s2pg"], "the profile has a clip per task"


# --- experts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "task", "experiment"),
    [
        ("smoke", "HopperM", "expert"),
        ("demo", "InvertedPendulumV", "ppo_small"),
    ],
)
def test_an_expert_is_recorded_from_one_run(scale: str, task: str, experiment: str, tmp_path: Path) -> None:
    target = f"{tmp_path}/experts/{scale}/{task}.npz"
    assert plan(ROOT, target, "--config", f"results={tmp_path}") == {"train": 1, "record_expert": 1}
    assert common().expert(task, scale) == f"<results>/runs/{scale}/{experiment}/{task}/oracle/seed_0/done.json"


def test_only_imitation_waits_for_an_expert() -> None:
    rules = common()
    assert not any(rules.dataset(name, "HopperV", "demo") for name in ("ppo_small", "sac_small", "expert"))
    rules.dataset.__globals__["EXPERIMENTS"] = {"gail": SimpleNamespace(imitates=True)}
    assert rules.dataset("gail", "HopperM", "demo") == ["<results>/experts/demo/HopperM.npz"]


def test_a_task_without_an_expert_is_named_with_those_that_have_one() -> None:
    with pytest.raises(ConfigError, match="AntV: no expert at scale demo; allowed: .*HopperM.*InvertedPendulumV"):
        common().expert("AntV", "demo")


@pytest.mark.slow
def test_an_expert_is_trained_and_recorded_at_the_smoke_scale(tmp_path: Path) -> None:
    target = tmp_path / "experts/smoke/HopperM.npz"
    made = snakemake(ROOT, str(target), "--cores", "1", "--nolock", "--config", f"results={tmp_path}")
    assert made.returncode == 0, made.stdout + made.stderr
    card = load(target, 25).card
    assert (card["task"], card["episodes"], card["run"]["experiment"]) == ("HopperM", 25, "expert")


# --- a kill ----------------------------------------------------------------------------------------------------------


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "Snakemake ended before it could be killed"
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_snakemake_loses_nothing(tmp_path: Path) -> None:
    folder = copy(tmp_path / "suite")
    experiment = folder / "workflow/config/experiments/ppo_small.yaml"
    edit(experiment, r"(smoke:\n    tasks: ).*\n    methods: .*\n    seeds: 2\n    epochs: 2", r"\1[PendulumV]\n"
         r"    methods: [random, none, oracle, s2pg]\n    seeds: 1\n    epochs: 8")  # fmt: skip
    edit(experiment, "a: bptt.*b: s2pg", "a: none, b: s2pg")
    words = ["runs", "--cores", "1", "--config", "scale=smoke", "experiments=ppo_small"]
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    root = folder / "results/runs/smoke/ppo_small/PendulumV"
    trained = lambda: [p for p in root.glob("*/*/checkpoint.pt") if p.parts[-3] != "random"]  # noqa: E731
    unfinished = lambda: [p for p in trained() if not p.with_name("done.json").exists()]  # noqa: E731
    try:
        wait_for(lambda: list(root.glob("*/*/done.json")) and unfinished(), process)
        unlock = [sys.executable, "-m", "workflow.scripts.unlock"]
        refused = subprocess.run(unlock, cwd=folder, capture_output=True, text=True)
        assert refused.returncode != 0
        assert "already running" in refused.stderr
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finished = {path: path.stat().st_mtime_ns for path in root.glob("*/*/done.json")}
    interrupted = unfinished()
    assert "LockException" in snakemake(folder, *words).stderr
    subprocess.run(unlock, cwd=folder, check=True)
    again = snakemake(folder, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(root.glob("*/*/done.json"))) == 4
    assert all("resumed after epoch" in path.with_name("train.log").read_text() for path in interrupted)


# --- a crash ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_crashed_is_missing_in_a_partial_report_until_it_has_ended(tmp_path: Path) -> None:
    folder, grid = copy(tmp_path / "suite"), load_experiment("ppo_small").scale("smoke")
    crashed = (grid.tasks[0], "s2pg", 1)
    shape = {"tasks": grid.tasks, "methods": grid.methods, "seeds": grid.seeds, "scale": "smoke", "points": 3}
    write_grid(folder / "results", **shape, missing={crashed})
    words = ["--config", "scale=smoke", "experiments=ppo_small", "partial=true"]
    made = snakemake(folder, "report", "--cores", "1", *words)
    assert made.returncode == 0, made.stdout + made.stderr
    table = pd.read_parquet(folder / "results/tables/smoke/ppo_small/runs.parquet")
    lost = table[table["status"] == "missing"]
    assert list(lost[["task", "method", "seed"]].itertuples(index=False, name=None)) == [crashed]
    assert "1 missing" in (folder / "results/report/smoke.html").read_text()
    assert plan(folder, "report", *words) == {}
    write_grid(folder / "results", **shape)
    again = plan(folder, "report", *words)
    assert again["collect"] == again["write_report"] == 1
    assert "train" not in again


# --- the smoke run, for real -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the suite in which everything has been made at smoke scale, by one worker for all tests."""
    shared = tmp_path_factory.getbasetemp()
    (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared).joinpath("smoke_run_is_made").touch(
        exist_ok=False
    )
    folder = copy(tmp_path_factory.mktemp("smoke") / "suite")
    made = snakemake(folder, *SMOKE)
    assert made.returncode == 0, made.stdout[-4000:] + made.stderr[-12000:]
    return folder


@pytest.fixture
def restored(smoke: Path):
    """The smoke run, to be edited: files that a test edits are put back with their times."""
    kept: dict[Path, tuple[str, os.stat_result]] = {}

    def change(name: str, pattern: str, replacement: str) -> Path:
        path = smoke / name
        kept[path] = (path.read_text(), path.stat())
        edit(path, pattern, replacement)
        return smoke

    yield change
    for path, (text, stat) in kept.items():
        path.write_text(text)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.slow
@pytest.mark.xdist_group("smoke")
class TestSmoke:
    def test_every_run_finished(self, smoke: Path) -> None:
        status = [json.loads(p.read_text())["status"] for p in smoke.glob("results/runs/smoke/*/*/*/*/done.json")]
        assert status == ["finished"] * runs("smoke")

    def test_the_report_needs_no_network(self, smoke: Path) -> None:
        html = (smoke / "results/report/smoke.html").read_text()
        assert re.findall(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?https?:""", html) == []

    def test_nothing_is_left_to_do(self, smoke: Path) -> None:
        assert plan(smoke, *SMOKE) == {}

    def test_editing_a_plot_redraws_and_trains_nothing(self, restored) -> None:
        jobs = plan(restored("analysis/figures/timing.py", r"\Z", "\n# edited\n"), *SMOKE)
        assert jobs.get("draw_figures") == len(chosen())
        assert not {"train", "collect", "compute_statistics", "measure_case"} & jobs.keys()

    def test_changing_one_case_of_a_study_measures_that_case_again(self, restored) -> None:
        folder = restored(
            "workflow/config/studies/gradient_variance.yaml",
            "marginal: {recurrence: 1.0}",
            "marginal: {recurrence: 0.99}",
        )
        jobs = plan(folder, *SMOKE)
        assert (jobs.get("measure_case"), jobs.get("analyse_study")) == (1, 1)
        assert not {"train", "draw_figures"} & jobs.keys()

    def test_editing_a_claim_judges_again_and_trains_nothing(self, restored) -> None:
        folder = restored("workflow/config/experiments/ppo_small.yaml", "Hiding the velocities hurts", "It hurts")
        jobs = plan(folder, *SMOKE)
        assert jobs.get("judge_claims") == 1
        assert "train" not in jobs

    def test_changing_one_method_trains_that_method_again(self, restored) -> None:
        jobs = plan(restored("workflow/config/methods.yaml", "(s2pg: .*cell: )gru", r"\1lstm"), *SMOKE)
        experiments = [load_experiment(name) for name in chosen()]
        assert jobs["train"] == sum(run.method == "s2pg" for e in experiments for run in e.runs("smoke"))

    def test_a_lost_result_is_made_again_alone(self, smoke: Path) -> None:
        done = next(smoke.glob("results/runs/smoke/*/*/s2pg/seed_0/done.json"))
        kept = done.rename(done.with_suffix(".kept"))
        try:
            assert plan(smoke, "runs", *SMOKE)["train"] == 1
        finally:
            kept.rename(done)
