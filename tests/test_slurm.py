"""The SLURM profile: what it asks of a cluster, and, where there is a real SLURM, that it works.

The tests marked `slurm` need root, Debian's packages and no other SLURM: `make slurm` installs them, starts a SLURM of
one node, and runs them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from s2pg.config import list_experiments, load_experiment
from tests.slurm import cluster
from tests.test_workflow import ROOT, common, copy, plan, runs, snakemake
from workflow.scripts import unlock

PROFILE = yaml.safe_load((ROOT / "workflow/profiles/slurm/profile.yaml").read_text())
SCALES = ["smoke", "demo", "lite", "paper"]


def of(experiment: str, scale: str) -> SimpleNamespace:
    return SimpleNamespace(experiment=experiment, scale=scale)


# --- what is asked of a cluster --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_the_notice_comes_before_the_limit_and_leaves_time_for_an_epoch(scale: str) -> None:
    rules = common()
    for name in list_experiments():
        experiment = load_experiment(name)
        limit, epochs = 60 * experiment.resources["minutes"][scale], experiment.scale(scale).epochs
        seconds = int(re.fullmatch(r"--signal=TERM@(\d+)", rules.notice(of(name, scale)))[1])
        assert 60 <= seconds <= limit / 2
        if rules.packing(of(name, scale)).startswith("days"):
            assert seconds >= min(limit / epochs, limit / 2)


@pytest.mark.parametrize("scale", SCALES)
def test_runs_that_share_a_job_have_the_same_notice(scale: str) -> None:
    """Snakemake refuses a group whose texts differ."""
    rules, sizes = common(), PROFILE["group-components"]
    for pack, size in sizes.items():
        found = {rules.notice(of(n, scale)) for n in list_experiments() if rules.packing(of(n, scale)) == pack}
        assert len(found) <= 1 or size == 1


def test_every_packing_has_a_size() -> None:
    packs = common().PACKS
    assert PROFILE["group-components"].keys() == {*packs, *(f"{name}_imitating" for name in packs)}


def test_short_runs_share_a_job_and_long_ones_do_not(tmp_path: Path) -> None:
    words = ["--nolock", "--profile", "slurm", "--config", "experiments=ppo_small", f"results={tmp_path}"]
    jobs = {}
    for scale in ("smoke", "paper"):
        dry = snakemake(ROOT, "runs", "--dry-run", *words, f"scale={scale}")
        assert dry.returncode == 0, dry.stderr
        jobs[scale] = (dry.stdout + dry.stderr).count("Group job")
    size = PROFILE["group-components"]["minutes"]
    assert jobs["smoke"] == -(-len(load_experiment("ppo_small").runs("smoke")) // size)
    assert jobs["paper"] == len(load_experiment("ppo_small").runs("paper"))


def test_a_gpu_is_asked_for_and_used_only_if_the_settings_say_so(tmp_path: Path) -> None:
    words = ["runs", "--dry-run", "--nolock", "--printshellcmds", "--config", "scale=smoke", "experiments=ppo_pomdp"]
    said = {device: snakemake(ROOT, *words, f"results={tmp_path}", f"device={device}") for device in ("cpu", "cuda")}
    texts = {device: dry.stdout + dry.stderr for device, dry in said.items()}
    assert "--device cuda" in texts["cuda"]
    assert "--device" not in texts["cpu"]


def test_the_jobs_of_a_killed_snakemake_are_those_of_this_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "1|RUNNING|s2pg_a|/suite|rule_days_wildcards_train",
        "2|PENDING|s2pg_a|/suite|rule_days_wildcards_train",
        "3|RUNNING|s2pg_a|/suite|rule_minutes_wildcards_train",
        "4|RUNNING|s2pg_b|/elsewhere|rule_days_wildcards_train",
        "5|RUNNING|mine|/suite|(null)",
    ]
    calls = []

    def run(words: list[str], **_: object) -> SimpleNamespace:
        calls.append(words)
        return SimpleNamespace(stdout="\n".join(lines) + "\n")

    monkeypatch.setattr(unlock.shutil, "which", lambda name: name)
    monkeypatch.setattr(unlock.subprocess, "run", run)
    found = unlock.orphans(Path("/suite"))
    assert [job.id for job in found] == ["1", "2", "3"]
    unlock.stop(found)
    assert calls[1:] == [["scancel", "--signal=TERM", "1"], ["scancel", "2", "3"]]


def test_without_slurm_there_are_no_jobs_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlock.shutil, "which", lambda name: None)
    assert unlock.orphans(Path("/suite")) == []


# --- the throw-away cluster ------------------------------------------------------------------------------------------


def test_another_slurm_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slurm.conf").write_text("ClusterName=real\n")
    monkeypatch.setattr(cluster, "ETC", tmp_path)
    monkeypatch.setattr(cluster.os, "geteuid", lambda: 0)
    with pytest.raises(cluster.Refused, match="belongs to another SLURM"):
        cluster.start()
    assert (tmp_path / "slurm.conf").read_text() == "ClusterName=real\n"


def test_without_root_or_packages_the_refusal_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ETC", tmp_path)
    monkeypatch.setattr(cluster.os, "geteuid", lambda: 1000)
    assert "only root" in cluster.reason_against()
    monkeypatch.setattr(cluster.os, "geteuid", lambda: 0)
    monkeypatch.setattr(cluster.shutil, "which", lambda name: None)
    assert "--install" in cluster.reason_against()
    assert "no apt-get" in cluster.reason_against(install=True)


# --- a real SLURM ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slurm():
    """A running SLURM of one node; skipped where `S2PG_SLURM` does not ask for one, or it is impossible."""
    if not os.environ.get("S2PG_SLURM"):
        pytest.skip("starts daemons and writes to /etc/slurm: `make slurm`")
    if reason := cluster.reason_against():
        pytest.skip(reason)
    already = cluster.process("slurmctld")
    cluster.start()
    yield
    if not already:
        cluster.stop()


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_the_whole_suite_is_made_by_a_real_slurm(tmp_path: Path) -> None:
    folder = copy(tmp_path / "suite")
    quick = ["--slurm-init-seconds-before-status-checks", "5"]
    made = snakemake(folder, "--profile", "slurm", *quick, "--config", "scale=smoke")
    assert made.returncode == 0, made.stdout[-4000:] + made.stderr[-12000:]
    status = [json.loads(p.read_text())["status"] for p in folder.glob("results/runs/smoke/*/*/*/*/done.json")]
    assert status == ["finished"] * runs("smoke")
    assert (folder / "results/report/smoke.html").exists()
    assert plan(folder, "--config", "scale=smoke") == {}
    said = subprocess.run(
        [sys.executable, "-m", "s2pg.cli", "status", "--scale", "smoke", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(said.stdout)["all"]["finished"] == runs("smoke")


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_a_gpu_of_the_cluster_is_given_to_a_job_that_asks_for_one() -> None:
    words = ["sbatch", "--wait", "--parsable", "--gpus=1", "--time=1", "--output=/dev/null", "--wrap=true"]
    job = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True).stdout
    assert "gres/gpu=1" in shown or "gres:gpu:1" in shown
