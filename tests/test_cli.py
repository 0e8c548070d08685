"""Every command as a user calls it, at the smallest budget."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pandas as pd
import pytest

from s2pg.cli import COMMANDS, main, parser
from s2pg.commands import cost, doctor, film, rendering
from s2pg.commands import eval as evaluation
from s2pg.commands.runs import open_run
from s2pg.commands.train import configuration
from s2pg.commands.watch import record, replay
from s2pg.config import RunConfig, list_experiments, load_experiment, methods, resolve
from s2pg.timing.lanes import ACTIVITIES
from s2pg.training import worlds

TINY = [
    "--set=hparams.rollout=50",
    "--set=hparams.minibatch=25",
    "--set=hparams.num_envs=2",
    "--set=steps_per_epoch=100",
    "--set=hparams.passes=1",
]
FILES = {
    "config.yaml",
    "provenance.json",
    "episodes.parquet",
    "timing.parquet",
    "checkpoint.pt",
    "train.log",
    "done.json",
}


def train(out: Path, task: str = "InvertedPendulumV", method: str = "s2pg", *more: str) -> int:
    run = ["--experiment", "ppo_small", "--task", task, "--method", method, "--scale", "smoke", "--out", str(out)]
    return main(["train", *run, "--quiet", *(TINY if method != "random" else []), *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; treat it as read-only."""
    folder = tmp_path_factory.mktemp("run") / "s2pg"
    assert train(folder) == 0
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A finished run to damage."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def says(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """What a command prints when it succeeds."""
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def complains(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line that a command prints on stderr when its user made a mistake."""
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


# --- help and lists --------------------------------------------------------------------------------------------------


def test_help_and_lists_need_no_torch() -> None:
    code = "import sys; from s2pg.cli import main; main(['list', 'tasks']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    code = "import sys; from s2pg.cli import parser; parser().format_help(); assert 'yaml' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert COMMANDS[command][0].split(".")[0] in " ".join(capsys.readouterr().out.split())


def test_list_names_every_experiment_with_its_claims_and_every_method(capsys: pytest.CaptureFixture) -> None:
    out = says(capsys, "list")
    for experiment in map(load_experiment, list_experiments()):
        assert f"{experiment.name}: {experiment.title}" in out
        assert all(claim["text"] in out for claim in experiment.claims)
    table = says(capsys, "list", "methods").splitlines()
    assert [line.split()[0] for line in table[2:]] == list(methods())


def test_list_tasks_shows_hidden_and_visible_groups(capsys: pytest.CaptureFixture) -> None:
    out = says(capsys, "list", "tasks", "--experiment", "ppo_pomdp", "--scale", "smoke")
    row = next(line for line in out.splitlines() if line.startswith("HopperV"))
    assert " ".join(row.split()) == "HopperV positions 5, previous_action 3 velocities 6 1000"
    assert "HalfCheetahV" not in out  # not in this scale


def test_the_help_keeps_the_case_of_names() -> None:
    assert "MINARI_DATASETS_PATH" in parser().format_help()


def test_a_run_without_a_seed_has_the_first_of_its_experiment() -> None:
    words = ["train", "--experiment", "sac_cheetah", "--task", "HalfCheetahV", "--method", "none"]
    assert configuration(parser().parse_args(words)).seed == 7
    assert configuration(parser().parse_args([*words, "--seed", "0"])).seed == 0


def test_list_seeds_says_where_they_begin(capsys) -> None:
    table = [line.split() for line in says(capsys, "list", "seeds", "--experiment", "sac_cheetah").splitlines()]
    assert {row[1]: row[2] for row in table[2:]}["demo"] == "7-14"


def test_list_seeds_tells_finished_from_failed_begun_and_missing_runs(tmp_path: Path, capsys) -> None:
    spec = load_experiment("ppo_small")
    runs = [run for run in spec.runs("demo") if (run.task, run.method) == ("HopperV", "s2pg")]
    for run, status in zip(runs, ["finished", "finished", "failed", None], strict=False):
        folder = tmp_path / run.folder
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        if status:
            (folder / "done.json").write_text(json.dumps({"status": status}))
    where = ["--experiment", "ppo_small", "--scale", "demo", "--results", str(tmp_path)]
    table = [line.split() for line in says(capsys, "list", "seeds", *where).splitlines()]
    row = next(words for words in table if words[:2] == ["HopperV", "s2pg"])
    assert row == ["HopperV", "s2pg", "0-1", "2", "3", "4"]


# --- train -----------------------------------------------------------------------------------------------------------


def test_train_writes_the_files_of_a_run(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= FILES
    assert len(list(trained.glob("events.out.tfevents.*"))) == 1
    done = json.loads((trained / "done.json").read_text())
    assert (done["status"], done["reason"], done["steps"]) == ("finished", None, 200)
    config = RunConfig.load(trained / "config.yaml")
    assert (config.hparams.rollout, config.steps_per_epoch, config.method) == (50, 100, "s2pg")


def test_a_finished_run_is_left_alone(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir() if path.name != ".lock"}
    assert train(trained) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_that_diverges_is_a_result_and_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert (
        train(tmp_path / "run", "InvertedPendulumV", "none", "--set=hparams.lr_value=1e30", "--set=hparams.passes=5")
        == 0
    )
    assert json.loads((tmp_path / "run" / "done.json").read_text())["status"] == "failed"
    assert "failed: diverged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["--experiment", "ppo_smal"],
            "experiment: unknown 'ppo_smal'; allowed: cue_recall_blind, cue_recall_privileged, expert, ",
        ),
        (["--task", "HoperV"], "task: unknown 'HoperV'; allowed: HopperV"),
        (["--method", "s2p"], "method: unknown 's2p'; allowed: "),
        (["--scale", "dem"], "scale: unknown 'dem'; allowed: demo, lite, paper, smoke"),
        (["--seed", "-1"], "seed: -1 is less than the minimum of 0"),
        (["--set", "hparams.clipp=1"], "hparams: unknown key 'clipp'; allowed: "),
        (["--set", "steps_per_epoch=123"], "steps_per_epoch: 123 is not a multiple of hparams.rollout"),
        (["--set", "task_options.gravity=0"], "task InvertedPendulumV with task_options {'gravity': 0}"),
        (["--set", "task_options.hidden=[speed]"], "names unknown groups ['speed']"),
    ],
)
def test_a_mistake_is_one_line_that_names_what_is_allowed(change, message, tmp_path, capsys) -> None:
    run = ["--experiment", "ppo_small", "--task", "InvertedPendulumV", "--method", "s2pg", "--scale", "smoke"]
    error = complains(capsys, "train", *run, "--out", str(tmp_path / "out"), *change)
    assert error.startswith("s2pg train: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert train(tmp_path / "file") == 2
    assert "file" in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2pg.commands.list.list_experiments", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["list"])


# --- eval ------------------------------------------------------------------------------------------------------------


def test_eval_is_reproducible_and_reports_what_it_ran(trained: Path, capsys: pytest.CaptureFixture) -> None:
    first, second = (json.loads(says(capsys, "eval", str(trained), "--episodes", "3", "--json")) for _ in range(2))
    assert first == second
    assert (first["method"], first["steps"], set(first["modes"])) == ("s2pg", 200, {"sample", "mean"})
    for found in first["modes"].values():
        assert len(found["returns"]) == found["episodes"] == 3
        assert found["mean"] == pytest.approx(np.mean(found["returns"]))
        assert found["interval"][0] <= found["mean"] <= found["interval"][1]
    other = json.loads(says(capsys, "eval", str(trained), "--episodes", "3", "--json", "--seed", "1"))
    assert other["modes"]["sample"]["seeds"] != first["modes"]["sample"]["seeds"]


def test_eval_uses_none_of_the_seeds_of_training(trained: Path) -> None:
    used = set(pd.read_parquet(trained / "episodes.parquet")["seed"])
    assert not used & {episode.seed for episode in evaluation.episodes(open_run(trained), 12, "mean", 0)}


def test_eval_prints_mean_interval_and_number_of_episodes(trained: Path, capsys: pytest.CaptureFixture) -> None:
    out = says(capsys, "eval", str(trained), "--episodes", "2", "--mode", "mean")
    assert "s2pg on InvertedPendulumV, seed 0, after 200 steps; 2 fresh episodes" in out
    assert "95 % interval" in out
    assert "sample" not in out


def test_the_interval_of_one_episode_is_unknown_and_of_many_narrow() -> None:
    assert evaluation.interval(np.array([3.0])) is None
    low, high = evaluation.interval(np.random.default_rng(1).normal(5.0, 1.0, 400))
    assert 4.7 < low < 5.0 < high < 5.3
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_a_folder_that_holds_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "nowhere: not the folder of a run" in complains(capsys, "eval", str(tmp_path / "nowhere"))


def test_a_run_without_checkpoint_is_named(copy: Path, capsys: pytest.CaptureFixture) -> None:
    (copy / "checkpoint.pt").unlink()
    assert "no checkpoint here" in complains(capsys, "eval", str(copy))


def test_a_damaged_checkpoint_is_named(copy: Path, capsys: pytest.CaptureFixture) -> None:
    content = (copy / "checkpoint.pt").read_bytes()
    (copy / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    for command in ("eval", "watch"):
        assert "checkpoint.pt: the checkpoint is damaged" in complains(capsys, command, str(copy))


def test_a_checkpoint_of_another_configuration_is_named(copy: Path, capsys: pytest.CaptureFixture) -> None:
    path = copy / "config.yaml"
    path.write_text(path.read_text().replace("memory_size: 32", "memory_size: 16"))
    assert "does not fit the config.yaml beside it" in complains(capsys, "eval", str(copy))


def test_a_damaged_configuration_is_named(copy: Path, capsys: pytest.CaptureFixture) -> None:
    (copy / "config.yaml").write_text("task: [")
    assert main(["eval", str(copy)]) == 2
    assert "config.yaml: not YAML" in capsys.readouterr().err


# --- watch -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_watch_films_the_memory_where_nothing_can_be_rendered(suffix, trained, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "off")
    out = tmp_path / "new" / f"episode{suffix}"
    printed = says(capsys, "watch", str(trained), "--out", str(out), "--steps", "4")
    assert "memory, observation and action only: nothing renders here (off: " in printed
    with imageio.get_reader(out) as reader:
        pictures = list(reader.iter_data())
    assert len(pictures) == len(record(open_run(trained), 0, "mean", 4).reward)
    assert pictures[0].shape[:2] == (560, 1280)
    assert not np.array_equal(pictures[0], pictures[-1])
    assert list(out.parent.iterdir()) == [out]


def test_watch_shows_the_task_where_it_can_be_rendered(trained: Path, tmp_path: Path, capsys) -> None:
    if rendering.first_that_works()[0] is None:
        pytest.skip("nothing renders on this machine")
    blank, full = tmp_path / "blank.gif", tmp_path / "full.gif"
    assert "rendered with" in says(capsys, "watch", str(trained), "--out", str(full), "--steps", "2")
    run = open_run(trained)
    trace = record(run, 0, "mean", 2)
    film.write(blank, trace, None, film.schedule(2, 25.0, ".gif"), "")
    left = [imageio.get_reader(path).get_data(1)[100:500, :350].std() for path in (full, blank)]
    assert left[0] != pytest.approx(left[1], rel=0.05)


def test_watch_refuses_another_format(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    error = complains(capsys, "watch", str(trained), "--out", str(tmp_path / "episode.avi"))
    assert "must end in .mp4 or .gif" in error


def test_the_episode_watched_is_the_first_one_evaluated(trained: Path) -> None:
    run = open_run(trained)
    trace, evaluated = record(run, 5, "mean"), evaluation.episodes(run, 1, "mean", 5)[0]
    assert (trace.reward.sum(), len(trace.reward)) == pytest.approx((evaluated.ret, evaluated.length))
    assert trace.memory.shape == (len(trace.reward), 32)
    assert trace.obs.shape[1] == sum(part.stop - part.start for part in trace.groups.values())


def test_the_pictures_show_the_recorded_episode(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, make = open_run(trained), worlds.make
    trace = record(run, 0, "sample")

    def spied(task, options, render_mode):
        env = make(task, options)
        monkeypatch.setattr(env.unwrapped, "render", lambda: env.unwrapped.base.data.qpos.copy()[None], raising=False)
        return env

    monkeypatch.setattr(worlds, "make", spied)
    seen = [float(picture[0, 0]) for picture in replay(run, trace, list(range(len(trace.reward))))]
    positions = trace.obs[:, 0]  # normalised: an increasing affine function of the cart's position
    assert np.corrcoef(positions, seen)[0, 1] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("steps", "rate"), [(4, 10.0), (20, 125.0), (1000, 125.0), (1000, 20.0)])
def test_a_film_plays_in_real_time_or_at_least_four_seconds(steps: int, rate: float) -> None:
    shots = film.schedule(steps, rate, ".mp4")
    assert len(shots.steps) / shots.fps == pytest.approx(max(steps / rate, 4.0))
    assert shots.fps <= 30
    assert (shots.steps[0], shots.steps[-1]) == (0, steps - 1)
    assert len(set(shots.steps)) == len(shots.steps)
    assert shots.speed == pytest.approx(min(1.0, steps / rate / 4))


# --- bench and cost --------------------------------------------------------------------------------------------------


def test_bench_times_activities_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--task", "InvertedPendulumV", "--profile", "matched", "--methods", "none", "s2pg", "--updates", "1"]
    out = says(capsys, "bench", *arguments, "--json", str(tmp_path / "bench.json"))
    found = json.loads((tmp_path / "bench.json").read_text())
    assert list(found["methods"]) == ["none", "s2pg"]
    for name, result in found["methods"].items():
        assert set(result["ms_per_step"]) == set(ACTIVITIES)
        assert sum(result["ms_per_step"].values()) == pytest.approx(result["total_ms_per_step"])  # of one round
        assert result["steps_per_second"] == pytest.approx(1000 / result["total_ms_per_step"])
        assert f"\n{name} " in out
        assert 0 < result["products_ms_per_step"] < result["total_ms_per_step"]
    *_, against_s2pg, alone, others = next(line for line in out.splitlines() if line.startswith("s2pg ")).split()
    result = found["methods"]["s2pg"]
    assert (against_s2pg, alone) == ("1.00", f"{result['products_ms_per_step']:.3f}")
    assert others == f"{result['other_operations_per_step']:,.0f}"
    machine = f"{found['provenance']['cpu']}: {found['benchmark']['gflops']:.0f} GFLOP/s"
    assert machine in out
    assert 0 < found["benchmark"]["call_us"] < 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "HoperV"], "unknown task 'HoperV' (did you mean 'HopperV'?)"),
        (["--methods", "random"], "'random' cannot be timed with ppo; allowed: none, oracle"),
        (
            ["--algorithm", "sac", "--methods", "bptt_full"],
            "'bptt_full' cannot be timed with sac; allowed: none, oracle",
        ),
        (["--profile", "best"], "profile: unknown 'best'; allowed: matched, reference"),
    ],
)
def test_bench_names_what_is_allowed(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert message in complains(capsys, "bench", *arguments)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid of one task and three methods."""
    spec = load_experiment("ppo_small")
    grid = {"tasks": ("InvertedPendulumV",), "methods": ("random", "none", "s2pg")}
    object.__setattr__(spec.scales["smoke"], "tasks", grid["tasks"])
    object.__setattr__(spec.scales["smoke"], "methods", grid["methods"])
    monkeypatch.setattr(cost, "load_experiment", lambda name: spec)


@pytest.mark.usefixtures("short")
def test_cost_says_what_is_needed_and_where_each_figure_comes_from(tmp_path: Path, capsys) -> None:
    experiment = ["--experiment", "ppo_small", "--scale", "smoke"]
    run = resolve("ppo_small", "InvertedPendulumV", "none", 0, "smoke")
    folder = tmp_path / "results" / run.id.folder
    assert main(["train", *experiment, "--task", run.task, "--method", "none", "--quiet", "--out", str(folder)]) == 0
    options = ["--results", str(tmp_path / "results"), "--json", str(tmp_path / "cost.json"), "--cores", "2"]
    out = says(capsys, "cost", *experiment, *options)
    found = json.loads((tmp_path / "cost.json").read_text())
    rows = {row["method"]: row for row in found["rows"]}
    assert rows["none"]["source"] == "1 finished run"
    assert rows["s2pg"]["source"] == "trial, 2 x 200 steps"
    assert rows["random"]["training"] == 0
    assert rows["s2pg"]["training"] == pytest.approx(800 * rows["s2pg"]["found"]["training"])
    assert rows["s2pg"]["evaluation"] == pytest.approx(2 * 3 * 2 * 1000 * rows["s2pg"]["found"]["evaluation"])
    sizes = sum(path.stat().st_size for path in folder.iterdir())
    assert rows["none"]["disk"] == pytest.approx(sizes, rel=0.01)
    total = found["total"]
    rounding = 1 + 1e-9  # two sums of the same numbers in another order
    assert 2 * total["wall_seconds"] * rounding >= total["core_seconds"] > total["training_seconds"] > 0
    assert "core-hours" in out
    assert "asks for 1,500 MB per run" in out


@pytest.mark.usefixtures("short")
def test_cost_of_all_adds_up_and_makes_no_trial_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "list_experiments", lambda: ["ppo_small"])
    options = [
        "--experiment",
        "all",
        "--scale",
        "smoke",
        "--results",
        str(tmp_path),
        "--json",
        str(tmp_path / "cost.json"),
    ]
    out = says(capsys, "cost", *options)
    found = json.loads((tmp_path / "cost.json").read_text())["experiments"]["ppo_small"]
    row, last = (
        next(line.split() for line in out.splitlines() if line.startswith(name)) for name in ("ppo_small", "all  ")
    )
    assert row[1] == last[1] == "6", "runs"
    assert row[2] == last[2] == f"{found['total']['core_seconds'] / 3600:,.1f}"
    monkeypatch.setattr(cost.loop, "train", lambda *_, **__: pytest.fail("tried again"))
    says(capsys, "cost", *options)
    again = json.loads((tmp_path / "cost.json").read_text())["experiments"]["ppo_small"]
    assert again["rows"] == found["rows"]


def test_runs_share_the_cores() -> None:
    assert cost.makespan([3.0, 3.0, 2.0, 2.0, 2.0], 2) == 7.0  # longest first: 3 + 2 + 2 and 3 + 2
    assert cost.makespan([1.0] * 10, 5) == 2.0
    assert cost.makespan([4.0], 16) == 4.0


@pytest.mark.parametrize("experiment", ["imitation_gail", "imitation_lsiq", "imitation_bc"])
def test_imitation_has_a_cost_before_an_expert_has_been_recorded(experiment: str, tmp_path: Path) -> None:
    config = resolve(experiment, "InvertedPendulumV", "s2pg", 0, "smoke")
    need = cost.need(config, 3, tmp_path)
    assert need.training > 0
    assert (need.replay > 0) == (experiment == "imitation_lsiq")
    assert not (tmp_path / "experts").exists()
    assert cost.need(resolve(experiment, "InvertedPendulumV", "expert", 0, "smoke"), 3, tmp_path).training == 0


@pytest.mark.parametrize("experiment", list_experiments())
def test_every_run_has_a_trial_run_that_learns(experiment: str) -> None:
    scale = load_experiment(experiment).scale("paper")
    for task, method in itertools.product(scale.tasks, scale.methods):
        config = resolve(experiment, task, method, 0, "paper")
        trial = cost.trial_of(config)
        assert trial.hparams.rollout <= config.hparams.rollout
        assert trial.steps_per_epoch % trial.hparams.rollout == 0
        assert trial.epochs * trial.steps_per_epoch <= config.epochs * config.steps_per_epoch


def test_a_run_with_other_hyperparameters_says_nothing_about_cost(copy: Path, tmp_path: Path) -> None:
    config = RunConfig.load(copy / "config.yaml")
    folder = tmp_path / "results" / config.id.folder
    shutil.copytree(copy, folder)
    assert cost.finished(config, tmp_path / "results") == [folder]
    assert cost.finished(resolve("ppo_small", config.task, "s2pg", 0, "smoke"), tmp_path / "results") == []


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_finds_this_installation_well(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = says(capsys, "doctor", "--results", str(tmp_path))
    checks = {line.split()[1]: line.split()[0] for line in out.splitlines() if line.startswith(("ok", "warn", "fail"))}
    assert {"python", "packages", "torch", "mujoco", "tasks", "training", "git", "disk"} <= checks.keys()
    assert "fail" not in checks.values()


def test_doctor_fails_on_what_does_not_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)  # as if it were not installed
    monkeypatch.setattr(doctor, "mujoco_steps", lambda: __import__("mujoco"))
    for check in ("tasks", "training", "rendering", "packages"):
        monkeypatch.setattr(doctor, check, lambda: doctor.Finding("ok", "skipped"))
    assert main(["doctor"]) == 1
    assert "fail  mujoco" in capsys.readouterr().out


def test_doctor_names_packages_that_differ_from_their_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.lock").write_text("# pins\nnumpy==0.1\nno-such-package==1.0\nPyYAML==6.0\n")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    found = doctor.packages()
    assert found.status == "warn"
    assert "missing: no-such-package" in found.text
    assert "(pinned: 0.1)" in found.text
