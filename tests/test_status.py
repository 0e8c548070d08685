"""`s2pg status` reads run folders as they are on disk, whoever makes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from s2pg import cli
from s2pg.commands import status
from s2pg.config import RunId, load_experiment
from s2pg.training import lock

EXPERIMENT = "ppo_small"
TOTAL = 800  # environment steps of a run at scale smoke


def folder(root: Path, method: str, seed: int = 0, task: str = "PendulumV") -> Path:
    path = root / RunId(EXPERIMENT, "smoke", task, method, seed).folder
    path.mkdir(parents=True)
    return path


def done(root: Path, method: str, seconds: float, state: str = "finished", **where: object) -> None:
    content = {"status": state, "seconds": seconds}
    (folder(root, method, **where) / "done.json").write_text(json.dumps(content))


def begun(root: Path, method: str, step: int, wall: float, silent: float | None) -> None:
    """A run with a checkpoint, whose process gave its last sign of life some seconds ago (None: never)."""
    path = folder(root, method)
    pd.DataFrame({"step": [0, step], "wall": [0.0, wall]}).to_parquet(path / "timing.parquet")
    (path / "checkpoint.pt").write_bytes(b"")
    if silent is not None:
        file = path / lock.NAME
        file.write_text(json.dumps(lock.Holder("node7", 5, "123")._asdict()))
        os.utime(file, (time.time() - silent,) * 2)


def look(root: Path) -> dict[str, status.Progress]:
    """The runs of PendulumV with seed 0 by method."""
    experiment = load_experiment(EXPERIMENT)
    found = status.progress(experiment, experiment.runs("smoke"), root)
    return {one.run.method: one for one in found if (one.run.task, one.run.seed) == ("PendulumV", 0)}


def test_every_state_is_told_from_the_others(tmp_path: Path) -> None:
    done(tmp_path, "random", 1.0)
    done(tmp_path, "none", 10.0, state="failed")
    begun(tmp_path, "oracle", 400, 6.0, silent=1)
    begun(tmp_path, "window5", 200, 5.0, silent=1000)
    folder(tmp_path, "bptt32_all")
    states = {method: one.state for method, one in look(tmp_path).items()}
    assert states == {
        **{"random": "finished", "none": "failed", "oracle": "running"},
        **{"window5": "interrupted", "bptt32_all": "waiting", "s2pg": "waiting"},
    }


def test_half_a_result_is_not_a_finished_run(tmp_path: Path) -> None:
    (folder(tmp_path, "s2pg") / "done.json").write_text('{"status": "fini')
    assert look(tmp_path)["s2pg"].state == "failed"


def test_what_is_left_follows_from_what_was_reached_and_from_the_like_of_it(tmp_path: Path) -> None:
    begun(tmp_path, "oracle", 200, 5.0, silent=1)
    done(tmp_path, "s2pg", 40.0, seed=1)
    found = look(tmp_path)
    assert found["oracle"].left == pytest.approx(15.0), "600 of 800 steps"
    assert found["s2pg"].left == 40.0, "as the other seed took"
    assert found["none"].left == pytest.approx(30.0), "the median of 20 and 40"
    assert look(tmp_path / "nothing")["none"].left is None


def test_the_table_counts_adds_up_and_says_where_runs_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    done(tmp_path, "random", 3600.0)
    begun(tmp_path, "oracle", 400, 3600.0, silent=1)
    words = ["status", EXPERIMENT, "--scale", "smoke", "--results", str(tmp_path)]
    assert cli.main([*words, "--runs"]) == 0
    out = capsys.readouterr().out
    row = next(line.split() for line in out.splitlines() if line.startswith("all"))
    assert row[1:8] == ["24", "1", "0", "1", "0", "22", "4"]
    assert "node7, job 123, process 5" in out
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["all"]
    assert (found["finished"], found["running"], found["hosts"], found["jobs"]) == (1, 1, ["node7"], ["123"])
    assert found["spent_hours"] == pytest.approx(2.0)


def test_nothing_is_left_of_anchors_that_do_not_learn_once_they_begin(tmp_path: Path) -> None:
    for method in ("random", "expert", "s2pg"):
        path = tmp_path / RunId("imitation_gail", "smoke", "InvertedPendulumV", method, 0).folder
        path.mkdir(parents=True)
        pd.DataFrame({"step": [1], "wall": [2.0]}).to_parquet(path / "timing.parquet")
    experiment = load_experiment("imitation_gail")
    begun = status.progress(experiment, experiment.runs("smoke"), tmp_path)
    left = {one.run.method: one.left for one in begun if one.spent}
    assert (left["random"], left["expert"]) == (0.0, 0.0)
    assert left["s2pg"] == 2.0 * (800 - 1)


def test_experts_that_imitation_waits_for_are_counted_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--scale", "smoke", "--json", "--results", str(tmp_path)]
    assert cli.main(["status", "imitation_gail", "imitation_lsiq", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    tasks = {
        task for name in ("imitation_gail", "imitation_lsiq") for task in load_experiment(name).scale("smoke").tasks
    }
    assert found["experts"]["runs"] == len(tasks) == 2
    assert found["all"]["runs"] == sum(found[name]["runs"] for name in ("imitation_gail", "imitation_lsiq", "experts"))
    assert cli.main(["status", "imitation_gail", "expert", *options]) == 0
    assert "experts" not in json.loads(capsys.readouterr().out), "they are runs of an experiment that is listed"


def test_status_needs_no_torch() -> None:
    code = "import sys; from s2pg import cli; cli.main(['status', '--scale', 'smoke']); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "False"
