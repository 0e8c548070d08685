"""Recording experts, learning from what was recorded, and the expert's episodes as an anchor of scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import stats
from analysis.load import collect, read_scalars, read_tables
from s2pg.build import build
from s2pg.cli import main
from s2pg.commands import record as command
from s2pg.commands.runs import open_run
from s2pg.config import ConfigError, RunConfig, RunId, load_experiment, methods, resolve
from s2pg.data.dataset import Dataset, DatasetError, load
from s2pg.hyperparameters import BCConfig
from s2pg.imitation.distance import MOST, mmd, state_distance
from s2pg.training import loop, worlds
from s2pg.training.checkpoint import RunError
from s2pg.training.evaluate import evaluate
from s2pg.training.record import record, recorded, save
from tests.helpers import tiny

TASK, OPTIONS = "InvertedPendulumV", {"max_episode_steps": 200}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke scale's expert, nearly random; treat it as read-only."""
    folder = tmp_path_factory.mktemp("runs") / "seed_0"
    arguments = ["--experiment", "expert", "--task", TASK, "--method", "oracle", "--scale", "smoke"]
    assert main(["train", *arguments, "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def file(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its dataset, of six episodes; treat it as read-only."""
    path = tmp_path_factory.mktemp("experts") / "smoke" / f"{TASK}.npz"
    assert main(["record", str(trained), "--episodes", "6", "--out", str(path)]) == 0
    return path


def imitation(method: str = "none", episodes: int = 4, seed: int = 0) -> RunConfig:
    """A tiny run that has a dataset: behavioural cloning."""
    config = replace(tiny(method if method != "expert" else "none", TASK, seed, {}), task_options=OPTIONS)
    memory = methods()[method]
    hp = BCConfig(**asdict(config.hparams))
    changed = {"algorithm": "bc", "hparams": hp, "expert_episodes": episodes, "epochs": 1, "method": method}
    return replace(config, memory=memory, **changed)


def train(config: RunConfig, out: Path, dataset: Path | None) -> dict:
    torch.set_num_threads(1)
    return loop.train(config, build, out, progress=False, dataset=dataset)


# --- recording -------------------------------------------------------------------------------------------------------


def test_the_card_says_what_was_recorded_and_where_from(file: Path, trained: Path) -> None:
    dataset = load(file)
    card = dataset.card
    assert (card["task"], card["task_options"], card["mode"], card["episodes"]) == (TASK, OPTIONS, "sample", 6)
    assert card["steps"] == len(dataset) == dataset.lengths.sum()
    assert card["returns"]["mean"] == pytest.approx(dataset.returns.mean())
    assert card["lengths"]["max"] == dataset.lengths.max()
    assert card["run"] == {
        **resolve("expert", TASK, "oracle", 0, "smoke").id._asdict(),
        "algorithm": "sac",
        "steps": 120,
    }
    assert len(card["config_digest"]) == 64
    assert card["trained_at"]["git_revision"] == json.loads((trained / "provenance.json").read_text())["git_revision"]
    assert "mujoco" in card["recorded_at"]["packages"]
    assert (dataset.states.dtype, dataset.actions.dtype, dataset.rewards.dtype) == (np.float32, np.float32, np.float64)


def test_recorded_episodes_are_those_of_an_evaluation(trained: Path) -> None:
    """Seed by seed the same returns, lengths and ends, with as many environments as are at hand."""
    agent = open_run(trained).agent
    envs = [worlds.make(TASK) for _ in range(2)]
    dataset = record(agent, envs, [5, 6, 7], "mean", 1)
    expected = [evaluate(agent, envs[:1], [seed], "mean", 1)[0] for seed in (5, 6, 7)]
    found = recorded(replace(dataset, card={"seeds": [5, 6, 7]}))
    assert [e._replace(success=None) for e in expected] == found
    assert [e.seed for e in recorded(dataset)] == [-1, -1, -1]


def test_the_same_seed_records_the_same_file_and_another_seed_or_mode_another(trained: Path, tmp_path: Path) -> None:
    sums = []
    for number, more in enumerate([[], [], ["--seed", "1"], ["--mode", "mean"]]):
        out = tmp_path / f"{number}.npz"
        assert main(["record", str(trained), "--episodes", "3", "--out", str(out), *more]) == 0
        sums.append(load(out).card["checksum"])
    assert sums[0] == sums[1]
    assert len(set(sums)) == 3


def test_episodes_are_recorded_with_the_options_that_are_asked_for(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "short.npz"
    arguments = ["--episodes", "2", "--task-options", "{max_episode_steps: 3}", "--out", str(out)]
    assert main(["record", str(trained), *arguments]) == 0
    dataset = load(out)
    assert dataset.lengths.max() <= 3
    assert dataset.card["task_options"] == {"max_episode_steps": 3}
    with pytest.raises(DatasetError, match="short.npz: was recorded with task_options .*3.*, the run has .*200"):
        train(imitation(episodes=2), tmp_path / "run", out)
    assert not (tmp_path / "run").exists()


def test_options_that_are_no_mapping_are_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "a.npz")
    said = complains(capsys, "record", str(trained), "--out", out, "--task-options", "200")
    assert "--task-options: '200' is no mapping, e.g. '{max_episode_steps: 200}'" in said
    assert not list(tmp_path.iterdir())


def complains(capsys: pytest.CaptureFixture, *words: str) -> str:
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_what_cannot_be_recorded_is_refused_and_nothing_is_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "new" / "expert.npz"
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    assert "must end in .npz" in complains(capsys, "record", str(run), "--out", str(tmp_path / "expert.csv"))
    assert "not the folder of a run" in complains(capsys, "record", str(tmp_path), "--out", str(out))
    (run / "done.json").write_text('{"status": "failed", "reason": "loss is not finite"}')
    assert "the run has failed (loss is not finite)" in complains(capsys, "record", str(run), "--out", str(out))
    (run / "done.json").unlink()
    assert "has not ended; `s2pg train` goes on" in complains(capsys, "record", str(run), "--out", str(out))
    assert not out.parent.exists()


def test_a_recording_that_is_interrupted_leaves_what_was_there(
    file: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / file.name
    shutil.copy(file, old)
    shutil.copy(file.with_suffix(".json"), old.with_suffix(".json"))

    def stop(*_: object) -> Dataset:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(command, "record", stop)
        assert main(["record", str(trained), "--out", str(old)]) == 130
    assert load(old).card == load(file).card
    assert main(["record", str(trained), "--episodes", "2", "--out", str(old)]) == 0
    assert load(old).card["episodes"] == 2
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".npz"]


# --- runs that have a dataset ----------------------------------------------------------------------------------------


def test_a_run_of_imitation_gets_its_episodes_and_keeps_the_card(file: Path, tmp_path: Path) -> None:
    given = []

    def watched(config: RunConfig, spec: worlds.Spec, expert: Dataset | None) -> object:
        given.append(expert)
        return build(config, spec, expert)

    loop.train(imitation(), watched, tmp_path / "run", progress=False, dataset=file)
    np.testing.assert_array_equal(given[0].states, load(file, 4).states)
    assert json.loads((tmp_path / "run" / "expert.json").read_text()) == load(file).card
    assert open_run(tmp_path / "run").config == imitation()
    assert train(imitation(), tmp_path / "run", file)["status"] == "finished"
    assert not list(tmp_path.glob("*.archived-*"))


def test_a_run_of_another_dataset_is_moved_aside(file: Path, tmp_path: Path) -> None:
    train(imitation(), tmp_path / "run", file)
    other = tmp_path / "other.npz"
    save(load(file, 5), other, {"task": TASK})
    train(imitation(), tmp_path / "run", other)
    old, new = (json.loads((tmp_path / name / "expert.json").read_text()) for name in ("run.archived-1", "run"))
    assert (old["checksum"], new["checksum"]) == (load(file).card["checksum"], load(other).card["checksum"])


def narrow(dataset: Dataset) -> Dataset:
    return replace(dataset, states=dataset.states[:, 1:], next_states=dataset.next_states[:, 1:])


@pytest.mark.parametrize(
    ("episodes", "change", "card", "message"),
    [
        (7, lambda d: d, {}, "holds 6 episodes, 7 are asked for"),
        (4, narrow, {}, "states .* are 3 numbers wide, the task's are 4"),
        (4, lambda d: d, {"task": "HopperV"}, f"was recorded in HopperV, not in {TASK}"),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused_before_anything_is_written(
    episodes: int, change, card: dict, message: str, file: Path, tmp_path: Path
) -> None:
    save(change(load(file)), tmp_path / "it.npz", card)
    with pytest.raises(DatasetError, match=message):
        train(imitation(episodes=episodes), tmp_path / "run", tmp_path / "it.npz")
    assert not (tmp_path / "run").exists()


def test_imitation_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="bc learns from an expert's dataset, and none was given"):
        train(imitation(), tmp_path / "run", None)
    with pytest.raises(DatasetError, match="no such dataset; `s2pg record"):
        train(imitation(), tmp_path / "run", tmp_path / "experts" / "it.npz")
    assert not list(tmp_path.iterdir())


def test_other_algorithms_take_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--experiment", "expert", "--task", TASK, "--method", "oracle", "--scale", "smoke", "--dataset", "x.npz"]
    said = complains(capsys, "train", *words, "--out", str(tmp_path / "run"))
    assert "--dataset: sac learns from no expert; allowed with gail, lsiq, bc" in said
    assert not (tmp_path / "run").exists()


# --- the expert as an anchor -----------------------------------------------------------------------------------------


def test_the_experts_run_is_its_recorded_episodes_in_both_modes(file: Path, tmp_path: Path) -> None:
    done = train(imitation("expert"), tmp_path, file)
    assert (done["status"], done["steps"]) == ("finished", 0)
    episodes, dataset = pd.read_parquet(tmp_path / "episodes.parquet"), load(file, 4)
    for mode in ("sample", "mean"):
        mine = episodes[episodes["mode"] == mode]
        assert mine["return"].tolist() == dataset.returns.tolist()
        assert mine["length"].tolist() == dataset.lengths.tolist()
        assert mine["terminated"].tolist() == dataset.terminated.tolist()
        assert mine["seed"].tolist() == dataset.card["seeds"][:4]
    scalars = read_scalars(tmp_path).set_index("tag")["value"]
    assert scalars["eval/return/mean"] == pytest.approx(dataset.returns.mean())
    with pytest.raises(RunError, match="recorded episodes of an expert; open the run that they were recorded from"):
        open_run(tmp_path)


def test_scores_are_normalised_by_the_anchors_that_the_experiment_names(file: Path, tmp_path: Path) -> None:
    """From run folders to scores: 0 is the random policy, 1 the mean return of the expert's episodes."""
    runs = [
        {"task": TASK, "method": method, "seed": seed} for method in ("random", "expert", "none") for seed in (0, 1, 2)
    ]
    best = replace(load(file), rewards=load(file).rewards * 50)
    save(best, tmp_path / "it.npz", {"task": TASK})
    for run in runs:
        config = imitation(run["method"], seed=run["seed"])
        train(config, tmp_path / config.id.folder, tmp_path / "it.npz")
    spec = {"anchors": {"one": "expert"}, "mode": "mean", "claims": [], "algorithm": "bc"}
    grid = {"experiment": config.experiment, "scale": config.scale, "runs": runs, "spec": spec}
    (tmp_path / "grid.json").write_text(json.dumps(grid))
    collect(tmp_path / "grid.json", tmp_path / "runs", tmp_path / "tables")
    scores = stats.scores(read_tables(tmp_path / "tables"))
    final = scores[scores["score"] == "final"].groupby("method")["normalised"].mean()
    raw = scores[(scores["score"] == "final") & (scores["mode"] == "mean")].groupby("method")["raw"].mean()
    assert raw["expert"] == pytest.approx(best.first(4).returns.mean())
    assert final["expert"] == pytest.approx(1)
    assert final["random"] == pytest.approx(0)
    assert 0 < final["none"] < 1 or raw["none"] <= raw["random"]
    statistics = stats.statistics(read_tables(tmp_path / "tables"), reps=20)
    assert "expert" in set(statistics["method"])


def test_an_expert_is_no_method_of_other_algorithms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree("workflow/config", tmp_path / "config"))
    monkeypatch.setenv("S2PG_CONFIG", str(folder))
    path = folder / "experiments" / "expert.yaml"
    text = path.read_text()
    path.write_text(text.replace("methods: [random, oracle]", "methods: [random, oracle, expert]", 1))
    with pytest.raises(ConfigError, match=r"scales\.smoke\.methods: \['expert'\] are for gail, lsiq, bc only"):
        load_experiment("expert")
    path.write_text(text.replace("mode: sample", "mode: sample\nanchors: {one: best}"))
    with pytest.raises(ConfigError, match=r"anchors\.one: unknown 'best'; allowed: .*oracle"):
        load_experiment("expert")
    path.write_text(text.replace("mode: sample", "mode: sample\nanchors: {one: expert}"))
    with pytest.raises(ConfigError, match=r"scales\.smoke\.methods: the anchors \['expert'\] must be part"):
        load_experiment("expert")


def test_a_runs_dataset_lies_beside_the_runs() -> None:
    assert RunId("gail_small", "demo", "HopperM", "s2pg", 3).dataset == "experts/demo/HopperM.npz"


# --- survival --------------------------------------------------------------------------------------------------------


def test_survival_is_the_share_of_episodes_that_were_truncated(tmp_path: Path) -> None:
    config = replace(tiny("none", TASK, 0, {"max_episode_steps": 5}), epochs=1, eval_episodes=6)
    train(config, tmp_path, None)
    episodes, scalars = pd.read_parquet(tmp_path / "episodes.parquet"), read_scalars(tmp_path)
    assert {*episodes["terminated"]} == {True, False}
    assert (episodes.loc[~episodes["terminated"].astype(bool), "length"] == 5).all()
    for (mode, step), mine in episodes.groupby(["mode", "step"]):
        said = scalars[(scalars["tag"] == f"eval/survival/{mode}") & (scalars["step"] == step)]["value"].item()
        assert said == pytest.approx(1 - mine["terminated"].astype(float).mean())


@pytest.mark.parametrize(("task", "ends"), [("PendulumV", False), ("CueRecall", True)])
def test_tasks_in_which_nobody_falls_say_nothing_about_it(task: str, ends: bool, tmp_path: Path) -> None:
    """A pendulum swings until it is truncated; cue recall ends its episodes itself."""
    train(replace(tiny(task=task), epochs=0), tmp_path, None)
    assert not any(tag.startswith("eval/survival") for tag in read_scalars(tmp_path).tag)
    assert (pd.read_parquet(tmp_path / "episodes.parquet")["terminated"] == ends).all()


# --- distance of states ----------------------------------------------------------------------------------------------


def test_mmd_is_the_mean_distance_across_less_those_within() -> None:
    """By hand: x = {0, 2}, y = {1, 5, 9}: 2 * 26/6 - 2 - 16/3, all pairs within being different ones."""
    x, y = torch.tensor([[0.0], [2.0]]).double(), torch.tensor([[1.0], [5.0], [9.0]]).double()
    assert float(mmd(x, y)) == pytest.approx(2 * 26 / 6 - 2 - 16 / 3)
    a, b = torch.randn(2, 7, 4, dtype=torch.float64)

    def mean(pairs: list[tuple[int, int]], u: torch.Tensor, v: torch.Tensor) -> float:
        return float(np.mean([float((u[i] - v[j]).norm()) for i, j in pairs]))

    every = [(i, j) for i in range(7) for j in range(7)]
    apart = [(i, j) for i, j in every if i != j]
    assert float(mmd(a, b)) == pytest.approx(2 * mean(every, a, b) - mean(apart, a, a) - mean(apart, b, b))


def test_the_same_distribution_is_at_no_distance_and_the_units_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    expert = torch.randn(600, 5, generator=generator)
    same = [state_distance(torch.randn(300, 5, generator=generator), expert) for _ in range(40)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 40**0.5 + 1e-4
    far = state_distance(expert + 1, expert)
    assert far > 10 * max(map(abs, same))
    scaled = torch.tensor([1e-3, 1.0, 10.0, 100.0, 1e4])
    assert state_distance((expert + 1) * scaled, expert * scaled) == pytest.approx(far, rel=1e-5)
    wide = state_distance((expert + 1).repeat(1, 4), expert.repeat(1, 4))
    assert wide == pytest.approx(far, rel=1e-5)


def test_at_most_a_thousand_states_of_each_side_are_compared() -> None:
    expert = torch.arange(5 * MOST, dtype=torch.float32)[:, None]
    thin = expert[torch.linspace(0, 5 * MOST - 1, MOST).round().long()]
    assert state_distance(expert, expert) == pytest.approx(state_distance(thin, thin))


def test_a_component_that_the_expert_never_varies_counts_in_its_own_unit() -> None:
    expert = torch.randn(50, 2) * torch.tensor([1.0, 0.0])
    assert state_distance(expert + torch.tensor([0.0, 1.0]), expert) > 0.5
