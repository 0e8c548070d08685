"""The training loop: the same bits however often it is interrupted, nothing lost, failures that say what they are."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.load import read_scalars
from s2pg.config import RunConfig, resolve
from s2pg.data.rollout import Collector, Rollout, Stopwatch
from s2pg.training import checkpoint, lock, worlds
from s2pg.training.checkpoint import RunError
from s2pg.training.log import Log
from s2pg.training.stop import Stopped
from tests.helpers import same_bits, tensors, tiny, train_here, train_process

# Children are forked by a fresh server that has loaded the suite: real processes, to be killed, without its start-up.
PROCESSES = multiprocessing.get_context("forkserver")
SLOW_TO_LOAD = ["torch._dynamo", "torch.utils.tensorboard", "tensorboard.compat", "pyarrow.parquet", "mujoco"]
PROCESSES.set_forkserver_preload(["s2pg.build", "s2pg.training.loop", "tests.helpers", *SLOW_TO_LOAD])


def child(target: Callable, *args: object) -> BaseProcess:
    process = PROCESSES.Process(target=target, args=args)
    process.start()
    return process


def learned(out: Path) -> dict:
    """What a run's checkpoint holds, but for seconds."""
    state = checkpoint.load(out / "checkpoint.pt")
    return {**state["agent"], "epoch": state["epoch"], "episodes": state["rows"]["episodes"]}


def scalars(out: Path) -> pd.DataFrame:
    """Scalars of all event files, the last value of each (tag, step), but for times."""
    frame = read_scalars(out)
    frame = frame[~frame.tag.str.startswith("time/")]
    return frame.sort_values(["tag", "step"])[["tag", "step", "value"]].reset_index(drop=True)


def assert_same_run(one: Path, two: Path) -> None:
    assert same_bits(learned(one), learned(two))
    pd.testing.assert_frame_equal(*(pd.read_parquet(out / "episodes.parquet") for out in (one, two)), check_exact=True)
    pd.testing.assert_frame_equal(scalars(one), scalars(two), check_exact=True)
    steps = [pd.read_parquet(out / "timing.parquet").step.tolist() for out in (one, two)]
    assert steps[0] == steps[1]
    results = [json.loads((out / "done.json").read_text()) for out in (one, two)]
    assert [{k: r[k] for k in ("status", "reason", "steps")} for r in results] == [
        {"status": "finished", "reason": None, "steps": results[0]["steps"]}
    ] * 2


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `tiny()`."""
    out = tmp_path_factory.mktemp("reference") / "seed_0"
    train_here(tiny(), out)
    return out


# --- the same bits ---------------------------------------------------------------------------------------------------


def test_same_seed_same_bits(reference: Path, tmp_path: Path) -> None:
    """Also in another process, and whatever torch's and numpy's global generators are at."""
    torch.manual_seed(123)
    np.random.seed(5)
    train_here(tiny(), tmp_path / "again")
    assert_same_run(reference, tmp_path / "again")
    process = child(train_process, tiny(), tmp_path / "elsewhere")
    process.join()
    assert_same_run(reference, tmp_path / "elsewhere")


def test_different_seeds_differ(reference: Path, tmp_path: Path) -> None:
    """In initial weights, training and evaluation."""
    train_here(tiny(seed=1), tmp_path)
    one, two = (tensors(learned(out)) for out in (reference, tmp_path))
    assert not any(torch.equal(x, two[key]) for key, x in one.items() if key.endswith("weight"))
    first = [pd.read_parquet(out / "episodes.parquet") for out in (reference, tmp_path)]
    assert not set(first[0].seed) & set(first[1].seed)
    assert not np.isin(first[0]["return"], first[1]["return"]).any()


def test_training_moves_every_parameter_and_the_statistics(reference: Path, tmp_path: Path) -> None:
    train_here(replace(tiny(), epochs=1), tmp_path)
    one, two = (
        tensors({k: learned(out)[k] for k in ("policy", "critic", "normalisers")}) for out in (tmp_path, reference)
    )
    assert not [key for key, x in one.items() if isinstance(x, torch.Tensor) and torch.equal(x, two[key])]


RESUMED = {
    "ppo s2pg": replace(tiny("s2pg"), epochs=12),
    "ppo bptt32_all": replace(tiny("bptt32_all"), epochs=12),
    "sac s2pg": replace(resolve("sac_privileged", "HopperV", "s2pg", 0, "smoke"), epochs=6),
    "td3 bptt32_all": replace(resolve("td3_privileged", "HopperV", "bptt32_all", 0, "smoke"), epochs=6),
}


@pytest.mark.parametrize("name", RESUMED)
def test_resume_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    """Killed with SIGKILL at three random moments: the same weights, replay, episodes and scalars bit for bit."""
    config = RESUMED[name]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    child(int).join()  # the server of processes is up
    began = time.monotonic()
    child(train_process, config, undisturbed).join()
    duration = time.monotonic() - began
    moments, kills = random.Random(name), 0
    while kills < 3 or not (killed / "checkpoint.pt").exists():
        process = child(train_process, config, killed)
        process.join(moments.uniform(0.2, 0.6) * duration)
        if process.exitcode is None:
            process.kill()  # may come too late
            process.join()
        if process.exitcode == 0:  # faster than before: let it have died between its last checkpoint and its end
            (killed / "done.json").unlink()
        else:
            assert process.exitcode == -signal.SIGKILL
        kills += 1
    child(train_process, config, killed).join()
    assert_same_run(undisturbed, killed)
    assert not list(tmp_path.glob("*.archived-*"))


MOMENTS = {  # where a run dies, each in the middle of something
    "an update": ("s2pg.algorithms.ppo.PPO._descend", 9),
    "a rollout": ("s2pg.data.rollout.Collector._step", 40),
    "an evaluation": ("s2pg.training.loop.evaluate", 3),
    "before the tables": ("s2pg.training.log.Log.tables", 2),
    "between the tables": ("s2pg.training.checkpoint.write", 7),
    "before a checkpoint": ("s2pg.training.checkpoint.save", 2),
    "writing a checkpoint": ("s2pg.training.checkpoint.os.replace", 5),
    "before the end": ("s2pg.training.checkpoint.write_json", 2),
}


def die_at(config: RunConfig, out: Path, name: str, call: int) -> None:
    """Train until the given call of a function, and be killed there."""
    path, _, attribute = name.rpartition(".")
    owner = _owner(path)
    original, calls = getattr(owner, attribute), 0

    def counting(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, attribute, counting)
    train_here(config, out)


def _owner(path: str) -> object:
    import importlib

    for depth in range(path.count(".") + 1, 0, -1):
        parts = path.split(".")
        try:
            owner = importlib.import_module(".".join(parts[:depth]))
        except ImportError:
            continue
        for part in parts[depth:]:
            owner = getattr(owner, part)
        return owner
    raise AssertionError(path)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_in_the_middle_of_anything_changes_nothing(moment: str, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "seed_0"
    process = child(die_at, tiny(), out, *MOMENTS[moment])
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "done.json").exists()
    train_here(tiny(), out)
    assert_same_run(reference, out)


def test_a_kill_before_the_configuration_is_written_archives_nothing(tmp_path: Path) -> None:
    out = tmp_path / "seed_0"
    process = child(die_at, tiny(), out, "s2pg.training.checkpoint.write", 2)
    process.join()
    assert not (out / "config.yaml").exists()
    train_here(replace(tiny(), epochs=1), out)
    assert [path.name for path in tmp_path.iterdir()] == ["seed_0"]


# --- a folder's contents ---------------------------------------------------------------------------------------------


def test_a_finished_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = replace(tiny(), epochs=1)
    done = train_here(config, tmp_path)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir() if path.name != ".lock"}
    assert train_here(config, tmp_path) == done
    assert "already finished" in capsys.readouterr().err
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir() if path.name != ".lock"}
    assert before == after


def test_another_configuration_moves_the_run_aside_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, config = tmp_path / "seed_0", replace(tiny(), epochs=1)
    train_here(config, out)
    old = {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}
    for k in (1, 2):
        train_here(replace(config, hparams=replace(config.hparams, clip=0.2 + k / 10)), out)
        assert f"another configuration, moved to {out}.archived-{k}" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "seed_0.archived-1").iterdir()} == old
    assert RunConfig.load(out / "config.yaml").hparams.clip == 0.4
    assert RunConfig.load(tmp_path / "seed_0.archived-2" / "config.yaml").hparams.clip == pytest.approx(0.3)
    assert pd.read_parquet(out / "timing.parquet").step.tolist() == [0, 64]


def test_a_run_leaves_the_files_of_the_data_dictionary(reference: Path) -> None:
    names = {path.name for path in reference.iterdir() if not path.name.startswith(".")}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert names - events >= {
        *("config.yaml", "provenance.json", "episodes.parquet", "timing.parquet"),
        *("checkpoint.pt", "train.log", "done.json"),
    }
    assert RunConfig.load(reference / "config.yaml") == tiny()
    episodes, timing = (pd.read_parquet(reference / f"{name}.parquet") for name in ("episodes", "timing"))
    assert episodes.columns.tolist() == ["step", "mode", "episode", "return", "length", "seed", "success", "terminated"]
    assert len(episodes) == 4 * 2 * 2, "epochs 0..3, two modes, two episodes"
    assert (episodes.length == 11).all()
    assert episodes.success.isna().all(), "the pendulum does not say what success is"
    assert timing.step.tolist() == [0, 64, 128, 192]
    parts = timing[["environment", "acting", "learning", "evaluation"]]
    assert (timing.wall.diff().iloc[1:] >= 0.9 * parts.sum(axis=1).iloc[1:]).all()
    assert (parts.iloc[1:] > 0).all(axis=None)


def test_scalars_bear_the_contracts_tags(reference: Path) -> None:
    groups = ("action", "memory")
    per_group = {f"policy/{n}/{g}" for n in ("log_ratio", "clip_fraction", "kl", "sigma", "entropy") for g in groups}
    modes = {f"eval/{n}/{m}" for n in ("return", "length") for m in ("sample", "mean")}
    times = {f"time/{n}" for n in ("environment", "acting", "learning", "steps_per_second")}
    other = {"train/return", "train/length", "loss/policy", "loss/value", "value/explained_variance", "data/padding"}
    other |= {"policy/clip_fraction/joint", "grad_norm/policy", "grad_norm/value", "memory/saturated"}
    other |= {"value/bias"}
    frame = read_scalars(reference)
    assert set(frame.tag) == per_group | modes | times | other
    assert np.isfinite(frame.value).all()
    first = frame[frame.step == 0].tag
    assert set(first) == modes | times | {"value/bias"}, "before training there is only evaluation"


def test_the_logged_returns_are_those_of_the_episodes(reference: Path) -> None:
    episodes = pd.read_parquet(reference / "episodes.parquet")
    means = episodes.groupby(["mode", "step"])["return"].mean()
    frame = scalars(reference).set_index(["tag", "step"]).value
    for (mode, step), value in means.items():
        assert frame[f"eval/return/{mode}", step] == pytest.approx(value, rel=1e-5)


def test_the_bias_of_the_critic_is_logged_where_it_values_the_tasks_rewards(reference: Path) -> None:
    """Nothing has been learned at first: it is minus the discounted return, but for a value near zero."""
    bias = scalars(reference).set_index(["tag", "step"]).value["value/bias"]
    assert bias.index.tolist() == [0, 64, 128, 192]
    assert bias[0] > 20, "a pendulum that nobody holds loses reward"


def test_success_is_logged_where_the_task_says_what_it_is(tmp_path: Path) -> None:
    """On cue recall it is a return of 1."""
    train_here(replace(tiny(task="CueRecall"), epochs=1, eval_episodes=10), tmp_path)
    episodes = pd.read_parquet(tmp_path / "episodes.parquet")
    assert episodes.success.dtype == "boolean"
    assert (episodes.success == (episodes["return"] == 1)).all()
    assert 0 < episodes.success.mean() < 1, "it can tell the two apart"
    logged = scalars(tmp_path).set_index(["tag", "step"]).value
    for (mode, step), value in episodes.groupby(["mode", "step"]).success.mean().items():
        assert logged[f"eval/success/{mode}", step] == pytest.approx(float(value))


def test_saturation_counts_every_step_also_where_every_episode_ends_with_the_rollout(tmp_path: Path) -> None:
    """With so much noise a third of the units or so is beyond 0.95, in episodes of 4 steps and rollouts of 16."""
    config = tiny(options={"max_episode_steps": 4}, sigma_memory=1.0)
    train_here(replace(config, epochs=1), tmp_path / "s2pg")
    logged = scalars(tmp_path / "s2pg").set_index("tag").value
    assert 0.25 < logged["memory/saturated"] < 0.5
    train_here(replace(tiny("none"), epochs=1), tmp_path / "none")
    assert "memory/saturated" not in set(scalars(tmp_path / "none").tag)


def test_episodes_of_a_checkpoint_from_before_there_was_success_are_kept(tmp_path: Path) -> None:
    old = {"step": 0, "mode": "mean", "episode": 0, "return": 1.0, "length": 4, "seed": 7}
    log = Log(tmp_path, {"episodes": [old, {**old, "step": 64, "success": True}], "timing": []}, 0)
    log.tables()
    log.close()
    assert pd.read_parquet(tmp_path / "episodes.parquet").success.tolist() == [pd.NA, True]


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_moved_aside_and_the_run_begins_anew(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "seed_0"
    train_here(tiny(), out)
    path, whole = out / "checkpoint.pt", (out / "checkpoint.pt").read_bytes()
    for k, damaged in enumerate((whole[:1000], b"", b"not a checkpoint"), start=1):
        (out / "done.json").unlink()
        path.write_bytes(damaged)
        train_here(tiny(), out)
        said = "checkpoint.pt: the checkpoint is damaged"
        assert said in (err := capsys.readouterr().err)
        assert f"moved to {out}.archived-{k}" in err
        assert (tmp_path / f"seed_0.archived-{k}" / "checkpoint.pt").read_bytes() == damaged, "the evidence is kept"
        assert_same_run(reference, out)


def test_a_checkpoint_that_cannot_be_read_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not answer says nothing about the file."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    config = replace(tiny(), epochs=1)
    train_here(config, tmp_path)
    (tmp_path / "done.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fail)
        with pytest.raises(RunError, match=r"checkpoint\.pt: cannot be read \(Input/output error\)"):
            train_here(config, tmp_path)
    assert train_here(config, tmp_path)["status"] == "finished"
    assert not list(tmp_path.parent.glob("*.archived-*"))


# --- asked to stop ---------------------------------------------------------------------------------------------------


def terminate_at(config: RunConfig, out: Path, log: Path, name: str, call: int, times: int) -> None:
    """Train, and get SIGTERM at the given call of a function."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    path, _, attribute = name.rpartition(".")
    owner, calls = _owner(path), 0
    original = getattr(owner, attribute)

    def counting(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        for _ in range(times if calls == call else 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    setattr(owner, attribute, counting)
    try:
        train_here(config, out)
    except Stopped:
        os._exit(75)


@pytest.mark.parametrize("moment", ["an update", "an evaluation", "writing a checkpoint"])
def test_sigterm_ends_the_epoch_and_loses_nothing(moment: str, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "seed_0"
    name, call = MOMENTS[moment]
    process = child(terminate_at, tiny(), out, tmp_path / "log", name, call, 1)
    process.join()
    assert process.exitcode == 75
    assert "asked to stop" in (tmp_path / "log").read_text()
    text = (out / "train.log").read_text()
    last = [line.split("epoch ")[1].split(",")[0] for line in text.splitlines() if ", step " in line][-1]
    assert f"stopped on request after {last} of 3 epochs" in text
    assert checkpoint.load(out / "checkpoint.pt")["epoch"] == int(last)
    train_here(tiny(), out)
    assert_same_run(reference, out)


def test_a_second_sigterm_ends_a_run_at_once(tmp_path: Path) -> None:
    process = child(terminate_at, tiny(), tmp_path, tmp_path / "log", *MOMENTS["an update"], 2)
    process.join()
    assert process.exitcode == -signal.SIGTERM


def test_sigterm_means_what_it_meant_before_once_a_run_has_ended(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train_here(replace(tiny(), epochs=1), tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_however_often_it_is_resumed_a_run_leaves_the_same_files(reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "seed_0"
    for call in (2, 2, 2):
        child(die_at, tiny(), out, "s2pg.training.checkpoint.save", call).join()
        assert len(list(out.glob("events.out.tfevents.*"))) <= 2
        (events, *_) = sorted(out.glob("events.out.tfevents.*"))
        with events.open("ab") as file:
            file.write((10**6).to_bytes(8, "little") + b"half a record")
    train_here(tiny(), out)
    names = [{path.name.split(".tfevents")[0] for path in folder.iterdir()} for folder in (reference, out)]
    assert names[0] == names[1]
    assert len(list(out.iterdir())) == len(list(reference.iterdir()))
    assert_same_run(reference, out)


def test_the_peak_memory_of_a_run_is_that_of_all_its_processes(tmp_path: Path) -> None:
    config = replace(tiny(), epochs=1)
    train_here(config, tmp_path)
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, checkpoint.load(path) | {"peak_memory_mb": 1e6})
    (tmp_path / "done.json").unlink()
    assert train_here(config, tmp_path)["peak_memory_mb"] == 1e6


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"checkpoint\.pt: no checkpoint here"):
        checkpoint.load(tmp_path / "checkpoint.pt")


def test_a_damaged_done_file_is_named(tmp_path: Path) -> None:
    config = replace(tiny(), epochs=1)
    train_here(config, tmp_path)
    (tmp_path / "done.json").write_text("{")
    with pytest.raises(RunError, match=r"done\.json: not JSON"):
        train_here(config, tmp_path)


def save_on_a_full_disk(path: Path, what: str, report: Path) -> None:
    """Try to write a large file where only 64 kB fit; note what was raised."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    big = {"x": torch.randn(100_000)}
    try:
        if what == "checkpoint":
            checkpoint.save(path, big)
        else:
            checkpoint.write_json(path, {"x": "y" * 10**6})
    except RunError as error:
        report.write_text(str(error))
    except BaseException as error:
        report.write_text(f"{type(error)} instead of RunError: {error}")


@pytest.mark.parametrize("what", ["checkpoint", "json"])
def test_a_full_disk_is_an_error_that_names_the_file_and_spares_the_old_one(what: str, tmp_path: Path) -> None:
    path, report = tmp_path / "file", tmp_path / "report.txt"
    path.write_text("old")
    process = child(save_on_a_full_disk, path, what, report)
    process.join()
    assert process.exitcode == 0
    assert report.read_text().startswith(f"{path}: could not be written")
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "report.txt"]


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moving the finished file into place fails in the middle of a run; the run can go on later."""
    config, replace_file = tiny(), os.replace

    def refuse(source: Path, target: Path) -> None:
        if target.name == "checkpoint.pt" and target.exists():
            raise PermissionError(13, "Permission denied")
        replace_file(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", refuse)
    with pytest.raises(RunError, match=r"checkpoint\.pt: could not be written \(Permission denied\)"):
        train_here(config, tmp_path)
    assert checkpoint.load(tmp_path / "checkpoint.pt")["epoch"] == 0
    assert not (tmp_path / "done.json").exists()
    assert not list(tmp_path.glob("*.partial"))
    monkeypatch.undo()
    assert train_here(config, tmp_path)["status"] == "finished"


@pytest.mark.parametrize("method", ["s2pg", "bptt5"])
def test_a_run_that_diverges_is_a_result(method: str, tmp_path: Path) -> None:
    """Status "failed" with a reason, success of the process, and the episodes before are kept."""
    config = tiny(method, lr_policy=1e20, lr_value=1e20, max_grad_norm=None)
    process = child(train_process, config, tmp_path)
    process.join()
    assert process.exitcode == 0
    done = json.loads((tmp_path / "done.json").read_text())
    assert done["status"] == "failed"
    assert "diverged after" in done["reason"]
    assert done["steps"] < 192
    assert len(pd.read_parquet(tmp_path / "episodes.parquet")) >= 4
    assert train_here(config, tmp_path) == done, "and it is not tried again"


def test_a_reward_that_is_not_a_number_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = worlds.make_vector

    def poisoned(*args: object) -> object:
        envs, calls = make(*args), []
        step = envs.step

        def bad(action: np.ndarray) -> tuple:
            calls.append(1)
            obs, reward, *rest = step(action)
            return obs, np.where(len(calls) > 70, np.nan, reward), *rest

        envs.step = bad
        return envs

    monkeypatch.setattr(worlds, "make_vector", poisoned)
    done = train_here(replace(tiny(), epochs=4), tmp_path)
    assert (done["status"], done["steps"]) == ("failed", 128), "two epochs of 32 steps in two environments were fine"
    assert "nan" in done["reason"]


# --- evaluation and anchors ------------------------------------------------------------------------------------------


def test_evaluation_does_not_touch_training(reference: Path, tmp_path: Path) -> None:
    """More episodes of it: the same weights bit for bit."""
    train_here(replace(tiny(), eval_episodes=5), tmp_path)
    one, two = learned(reference), learned(tmp_path)
    for name in ("policy", "critic", "algorithm", "normalisers"):
        assert same_bits(one[name], two[name]), name
    assert len(two["episodes"]) == 4 * 2 * 5


def test_evaluation_pairs_methods_by_their_seeds(reference: Path, tmp_path: Path) -> None:
    """All methods, epochs and modes meet the same initial states."""
    train_here(replace(tiny("none"), epochs=1), tmp_path)
    seeds = {
        out: pd.read_parquet(out / "episodes.parquet").groupby(["step", "mode"]).seed.agg(tuple)
        for out in (reference, tmp_path)
    }
    assert len({pair for row in seeds.values() for pair in row}) == 1


def test_the_random_anchor_is_evaluated_and_not_trained(tmp_path: Path) -> None:
    done = train_here(tiny("random"), tmp_path)
    assert (done["status"], done["steps"]) == ("finished", 0)
    episodes = pd.read_parquet(tmp_path / "episodes.parquet")
    assert episodes.step.unique().tolist() == [0]
    assert episodes.groupby("mode").size().to_dict() == {"mean": 2, "sample": 2}
    assert train_here(tiny("random"), tmp_path) == done


def test_training_and_evaluation_environments_have_streams_of_their_own() -> None:
    """Seeds for different purposes, epochs and runs differ."""
    paths = [("environments", e) for e in range(5)] + [("evaluation", e) for e in range(5)] + [("weights",)]
    seeds = {worlds.derive(seed, *path) for seed in range(20) for path in paths}
    assert len(seeds) == 20 * len(paths)
    assert worlds.derive(3, "weights") == worlds.derive(3, "weights")


def test_every_epoch_has_initial_states_and_noise_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every epoch would begin with the same episodes."""
    seeds, noise, reset, gather = [], [], Collector.reset, Collector.collect
    monkeypatch.setattr(Collector, "reset", lambda self, seed: (seeds.append(seed), reset(self, seed))[1])

    def collect(self: Collector, steps: int, generator: torch.Generator, watch: Stopwatch) -> Rollout:
        noise.append(generator.initial_seed())
        return gather(self, steps, generator, watch)

    monkeypatch.setattr(Collector, "collect", collect)
    train_here(tiny(), tmp_path)
    assert len(seeds) == len(set(seeds)) == 3
    assert len(noise) == 6, "two rollouts per epoch"
    assert len(set(noise)) == 3
    assert not set(seeds) & set(noise)


# --- two processes ---------------------------------------------------------------------------------------------------


def test_a_second_process_on_a_folder_waits(reference: Path, tmp_path: Path) -> None:
    """It says so, then finds the run finished; nothing is trained twice."""
    out, log = tmp_path / "seed_0", tmp_path / "log"
    with lock.only_one(out, lambda: None):
        second = child(train_process, tiny(), out, log)
        deadline = time.monotonic() + 30
        while not (log.exists() and "another process trains this run" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert second.exitcode is None
        assert not (out / "config.yaml").exists()
    second.join()
    assert second.exitcode == 0
    assert_same_run(reference, out)


def test_two_processes_on_a_folder_train_one_run(reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "seed_0"
    pair = [child(train_process, tiny(), out, tmp_path / f"log{i}") for i in range(2)]
    for process in pair:
        process.join()
        assert process.exitcode == 0
    assert_same_run(reference, out)
    assert len(list(out.glob("events.out.tfevents.*"))) == 1
    said = "".join((tmp_path / f"log{i}").read_text() for i in range(2) if (tmp_path / f"log{i}").exists())
    assert "already finished" in said
