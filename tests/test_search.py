"""The search of shared hyperparameters: drawn reproducibly, scored evenly, resumed after a kill, recorded in full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from s2pg.cli import main as s2pg
from s2pg.config import ConfigError, hparams, list_experiments, load_experiment
from workflow.scripts import search as module
from workflow.scripts.search import SearchError, Trial, draw, load, main, random_trials, run, standing, trials, winner

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "workflow/config/search").glob("*.yaml"))
MATCHED = ROOT / "workflow/config/search/ppo_matched.yaml"
TINY: dict[str, Any] = {
    "experiment": "ppo_small",
    "scale": "smoke",
    "tasks": ["InvertedPendulumV"],
    "methods": ["none", "s2pg"],
    "overrides": {"epochs": 1, "steps_per_epoch": 40, "hparams": {"rollout": 40, "passes": 1, "num_envs": 2}},
    "last": 1,
    "candidates": 3,
    "draw_seed": 3,
    "stages": [{"seeds": [100]}, {"seeds": [101], "keep": 1}],
    "space": {"lr_policy": [1e-4, 1e-3], "minibatch": [10, 20, 40]},
    "first": {"lr_policy": 2e-4, "minibatch": 10},
}
Return = Callable[[Trial], float | None]


def file(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return path


def fake(monkeypatch: pytest.MonkeyPatch, returns: Return) -> list[Trial]:
    """Trials that train nothing but write what a run writes; the list grows with each."""
    trained: list[Trial] = []

    def train(search: module.Search, trial: Trial, out: Path) -> None:
        trained.append(trial)
        value, folder = returns(trial), trial.folder(out)
        folder.mkdir(parents=True)
        done = {"status": "failed" if value is None else "finished", "steps": 40, "seconds": 0.1}
        (folder / "done.json").write_text(json.dumps(done))
        (folder / "provenance.json").write_text(json.dumps({"git_revision": "0" * 40}))
        (folder / "config.yaml").write_text(module.configuration(search, trial).to_yaml())
        rows = {"step": [0, 40, 40], "mode": ["mean", "mean", "sample"], "return": [0.0, value or 0.0, 9e9]}
        pd.DataFrame(rows).to_parquet(folder / "episodes.parquet")

    monkeypatch.setattr(module, "train", train)
    return trained


def table(returns: dict[tuple[int, str, str], float | None], random: dict[str, float]) -> pd.DataFrame:
    """Rows of one stage from {(candidate, task, method): return}."""
    rows: list[tuple] = [(0, None, task, "random", value) for task, value in random.items()]
    rows += [(1, *key, value) for key, value in returns.items()]
    frame = pd.DataFrame(rows, columns=["stage", "candidate", "task", "method", "return"])
    return frame.astype({"candidate": "Int64", "return": float})


# --- the draw --------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_candidates_and_another_seed_others(tmp_path: Path) -> None:
    first, again = (load(file(tmp_path)).drawn for _ in range(2))
    assert first == again
    assert draw(load(file(tmp_path, draw_seed=4))) != first


def test_candidates_are_the_first_and_distinct_points_of_the_space() -> None:
    search = load(MATCHED)
    assert search.drawn[0] == search.first
    assert all(point[key] in search.space[key] for point in search.drawn[1:] for key in search.space)
    assert len({tuple(point.items()) for point in search.drawn}) == search.candidates


def test_every_choice_is_drawn_about_equally_often(tmp_path: Path) -> None:
    space = {"lr_policy": [1e-4, 1e-3], "minibatch": list(range(1, 5001))}
    search = replace(load(file(tmp_path, space=space)), candidates=401)
    share = np.mean([point["lr_policy"] == 1e-4 for point in draw(search)[1:]])
    assert share == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(400))


# --- scores ----------------------------------------------------------------------------------------------------------


def test_a_score_is_zero_at_the_random_policy_and_one_at_the_best_trial_of_the_task() -> None:
    returns = {(0, "A", "none"): -50.0, (0, "B", "none"): 4.0, (1, "A", "none"): -100.0, (1, "B", "none"): 2.0}
    rows = module.scored(table(returns, {"A": -100.0, "B": 0.0}))
    scores = rows.set_index(["candidate", "task"])["score"]
    assert [scores[0, "A"], scores[1, "A"], scores[0, "B"], scores[1, "B"]] == [1.0, 0.0, 1.0, 0.5]


def test_a_diverged_trial_scores_like_the_random_policy() -> None:
    rows = table({(0, "A", "none"): None, (1, "A", "none"): 3.0}, {"A": 1.0})
    assert list(standing(rows, 1)["all"]) == [1.0, 0.0]


def test_every_method_and_task_has_the_same_weight() -> None:
    """Permuting methods or tasks leaves a candidate's score, and one cell moves it by 1 / cells, whichever it is."""
    tasks, methods = ("A", "B"), ("none", "s2pg", "oracle")
    base = {(c, t, m): float(c) for c in (0, 1) for t in tasks for m in methods}  # candidate 1 has 1 everywhere
    for cell in [(0, t, m) for t in tasks for m in methods]:
        scores = standing(table({**base, cell: 1.0}, {"A": 0.0, "B": 0.0}), 1)["all"]
        assert scores[0] == pytest.approx(1 / 6)


def test_a_candidate_that_is_better_on_average_wins_although_s2pg_fails_with_it() -> None:
    good = {(1, "A", m): 0.9 for m in ("none", "window5", "oracle")} | {(1, "A", "s2pg"): 0.0}
    even = {(0, "A", m): 0.6 for m in ("none", "window5", "oracle")} | {(0, "A", "s2pg"): 1.0}
    assert standing(table({**good, **even}, {"A": 0.0}), 1).index[0] == 0  # 0.7 against 0.675
    good[1, "A", "none"] = 1.0
    assert standing(table({**good, **even}, {"A": 0.0}), 1)["all"].tolist() == [0.7, 0.7]
    good[1, "A", "oracle"] = 1.0
    assert standing(table({**good, **even}, {"A": 0.0}), 1).index[0] == 1


def test_on_a_tie_the_lower_number_wins() -> None:
    rows = table({(c, "A", "none"): 1.0 for c in (2, 0, 1)}, {"A": 0.0})
    assert list(standing(rows, 1).index) == [0, 1, 2]


def test_a_task_without_any_success_is_an_error() -> None:
    with pytest.raises(SearchError, match="A: no trial was better than the random policy"):
        standing(table({(0, "A", "none"): 1.0}, {"A": 1.0}), 1)


# --- the halving -----------------------------------------------------------------------------------------------------


def test_the_best_of_a_stage_go_on_and_the_last_stage_counts_all_their_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates 1 and 2 go on; 2 wins with 0.8 + 1.0 against 1.0 + 0.6, and the dropped 0 is tried no more."""
    values = {(0, 100): 0.1, (1, 100): 1.0, (2, 100): 0.8, (1, 101): 0.6, (2, 101): 1.0}
    trained = fake(monkeypatch, lambda t: 0.0 if t.candidate is None else values[t.candidate, t.seed])
    search = load(file(tmp_path, stages=[{"seeds": [100]}, {"seeds": [101], "keep": 2}]))
    rows = run(search, tmp_path / "out", 2, say=lambda line: None)
    assert winner(search, rows) == 2
    assert standing(rows, 2)["all"].to_dict() == pytest.approx({2: 0.9, 1: 0.8})
    assert len(trained) == len(rows) == 2 + 3 * 2 + 2 * 2


def test_the_return_is_the_mean_of_the_last_evaluations_in_mode_mean(tmp_path: Path) -> None:
    mean, sample = ({"step": [2, 0, 1], "mode": mode} for mode in ("mean", "sample"))
    frames = [pd.DataFrame(mean | {"return": [8.0, 1.0, 4.0]}), pd.DataFrame(sample | {"return": 99.0})]
    pd.concat(frames).to_parquet(tmp_path / "episodes.parquet")
    assert module.final_return(tmp_path, 2) == 6.0


# --- resuming --------------------------------------------------------------------------------------------------------


def test_a_stopped_search_trains_only_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search, out, stop = load(file(tmp_path)), tmp_path / "out", [5]

    def returns(trial: Trial) -> float:
        stop[0] -= 1
        if stop[0] == 0:
            raise KeyboardInterrupt
        return 0.0 if trial.candidate is None else 1.0 + trial.candidate

    trained = fake(monkeypatch, returns)
    with pytest.raises(KeyboardInterrupt):
        run(search, out, 1, say=lambda line: None)
    before = {trial for trial in trained if module.ended(search, trial, out)}
    assert len(before) >= 4
    trained.clear()
    rows = run(search, out, 1, say=lambda line: None)
    assert not before & set(trained)
    assert len(before) + len(trained) == len(rows)


def test_a_trial_with_other_values_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, lambda trial: 0.0)
    search, out = load(file(tmp_path)), tmp_path / "out"
    trial = trials(search, 1, [0])[0]
    module.train(search, trial, out)
    assert module.ended(search, trial, out)
    other = load(file(tmp_path, first={"lr_policy": 3e-4, "minibatch": 10}))
    assert not module.ended(other, trial, out)


def test_a_trial_whose_process_fails_stops_the_search_with_its_message(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    trial = random_trials(load(file(tmp_path)))[0]
    trial.folder(out).parent.mkdir(parents=True)
    trial.folder(out).write_text("not a folder")
    assert main([str(file(tmp_path)), "--out", str(out), "--record", str(tmp_path / "t.csv")]) == 2
    assert "search.py: random on InvertedPendulumV, seed 100: s2pg train:" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_search_resumes_and_records_what_an_undisturbed_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path, out = file(tmp_path, methods=["none"], candidates=2), tmp_path / "out"
    words = ["--out", str(out), "--record", str(tmp_path / "killed.csv")]
    script = [sys.executable, str(ROOT / "workflow/scripts/search.py"), str(path), *words]
    process = subprocess.Popen(script, stdout=subprocess.DEVNULL, start_new_session=True)
    while not list(out.glob("candidate_0/**/done.json")):
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ended = {done: done.stat().st_mtime_ns for done in out.glob("**/done.json")}
    assert main([str(path), *words]) == 0
    assert {done: done.stat().st_mtime_ns for done in ended} == ended

    monkeypatch.setattr(module, "train", lambda *arguments: s2pg(module.command(*arguments)[3:]))
    assert main([str(path), "--out", str(tmp_path / "calm"), "--record", str(tmp_path / "calm.csv")]) == 0
    killed, calm = (pd.read_csv(tmp_path / f"{name}.csv").drop(columns="seconds") for name in ("killed", "calm"))
    pd.testing.assert_frame_equal(killed, calm)


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": []}, "unknown key 'stage'; .*did you mean 'stages'"),
        ({"tasks": ["PendulumX"]}, "unknown 'PendulumX'; .*did you mean 'PendulumV'"),
        ({"methods": ["s2pq"]}, "unknown 's2pq'; .*did you mean 's2pg'"),
        ({"methods": ["random"]}, "methods: random has nothing to choose"),
        ({"first": {"lr_policy": 1e-3}}, "first: its keys must be those of space, not lr_policy"),
        ({"space": {"lr_polic": [1.0]}, "first": {"lr_polic": 1.0}, "candidates": 1}, "did you mean 'lr_policy'"),
        ({"candidates": 7}, "candidates: 7, but the space has 6 points"),
        ({"stages": [{"seeds": [3]}]}, "seeds .3. must differ and be at least 40"),
        ({"stages": [{"seeds": [100]}, {"seeds": [100], "keep": 1}]}, "must differ"),
        ({"stages": [{"seeds": [100]}, {"seeds": [101], "keep": 4}]}, "keep no more than the one before"),
        ({"overrides": {"epoch": 1}}, "unknown key 'epoch'"),
    ],
)
def test_a_mistake_in_a_search_file_is_named(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load(file(tmp_path, **changes))


def test_a_summary_needs_the_table_of_this_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    fake(monkeypatch, lambda trial: 0.0 if trial.candidate is None else 1.0 + trial.candidate)
    path, record = file(tmp_path), tmp_path / "tiny.csv"
    words = ["--out", str(tmp_path / "out"), "--record", str(record)]
    assert main([str(path), "--summary", *words]) == 2
    assert "not there" in capsys.readouterr().err
    assert main([str(path), *words]) == 0
    said = capsys.readouterr().out
    assert main([str(path), "--summary", *words]) == 0
    assert said.endswith(capsys.readouterr().out)

    whole = record.read_text().splitlines(keepends=True)
    for damaged in (whole[:-1], [*whole, whole[-1]], [whole[0].replace("stage", "step"), *whole[1:]]):
        record.write_text("".join(damaged))
        assert main([str(path), "--summary", *words]) == 2
        assert str(record) in (error := capsys.readouterr().err) or "stage 2: the table does not hold" in error
    record.write_text("".join(whole))
    assert main([str(file(tmp_path, draw_seed=4)), "--summary", *words]) == 2
    assert "stage 1: the table does not hold the trials" in capsys.readouterr().err


# --- what was searched -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_search_seeds_are_used_by_no_experiment(path: Path) -> None:
    seeds = {seed for stage in load(path).stages for seed in stage.seeds}
    for experiment in map(load_experiment, list_experiments()):
        assert not seeds & {run.seed for scale in experiment.scales for run in experiment.runs(scale)}


def test_the_recorded_table_reproduces_the_values_of_the_profile_matched() -> None:
    """For every task and method of the experiment: no rule of the profile changes one of them."""
    search = load(MATCHED)
    rows = module.read(search, ROOT / "results/published/search/ppo_matched.csv")
    chosen = search.drawn[winner(search, rows)]
    experiment = load_experiment(search.experiment)
    for task in experiment.tasks:
        for method in experiment.methods:
            values = hparams("ppo", experiment.profile, method, task)
            assert {key: values[key] for key in search.space} == chosen


def test_the_published_summary_is_that_of_the_recorded_table() -> None:
    search, record = load(MATCHED), ROOT / "results/published/search/ppo_matched.csv"
    assert record.with_suffix(".md").read_text() == module.summary(search, module.read(search, record))
    assert record.stat().st_size < 100_000


def test_the_recorded_scores_are_those_of_the_recorded_returns() -> None:
    record = ROOT / "results/published/search/ppo_matched.csv"
    scores = module.scored(module.read(load(MATCHED), record))["score"]
    np.testing.assert_allclose(pd.read_csv(record)["score"], scores, atol=6e-5)
