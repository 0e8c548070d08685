"""Everything that goes wrong on a cluster, done to a real SLURM: python -m tests.slurm.faults [--only NAME ...]

Each fault strikes while runs are trained through `snakemake --profile slurm`. Afterwards every run must be complete,
with the bits of an undisturbed one, and no epoch that a checkpoint holds may have been trained twice. Prints a table
and ends with "all survived", or with exit code 1. Starts the SLURM of tests/slurm/cluster.py where none runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
from tabulate import tabulate

from analysis.load import read_scalars
from s2pg.training import lock
from tests.slurm import cluster
from tests.test_workflow import copy
from workflow.scripts import unlock

HERE = Path(__file__).resolve().parent
METHODS = ["random", "oracle", "s2pg"]
PATIENCE = 400.0  # seconds that anything may take


class Lost(AssertionError):
    """A fault cost something; the message says what."""


@dataclass
class Site:
    """A copy of the suite whose experiment `faults` is made into a results folder of its own."""

    suite: Path
    results: Path
    seen: list[str] = field(default_factory=list)

    def run(self, method: str) -> Path:
        """Folder of a run."""
        return self.results / "runs/smoke/faults/PendulumV" / method / "seed_0"

    def command(self, *words: str, python: str = sys.executable) -> list[str]:
        """Snakemake, as on any cluster but that it asks for the state of jobs more often."""
        quick = ["--slurm-init-seconds-before-status-checks", "2", "--group-components", "minutes=2", *words]
        settings = ["--config", "scale=smoke", "experiments=faults", f"results={self.results}"]
        return [python, "-m", "snakemake", "runs", "--profile", "slurm", *quick, *settings]

    def start(self, *words: str) -> subprocess.Popen:
        """A controller in the background; its output goes beside the results."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            return subprocess.Popen(self.command(*words), cwd=self.suite, stdout=log, stderr=log)

    @property
    def log(self) -> Path:
        """What the controllers said."""
        return self.results.with_suffix(".log")

    def finish(self, *controllers: subprocess.Popen) -> None:
        """Wait for controllers to make everything."""
        for controller in controllers:
            try:
                if controller.wait(PATIENCE):
                    raise Lost(f"Snakemake failed: {self.log}")
            except subprocess.TimeoutExpired:
                controller.kill()
                raise Lost(f"Snakemake does not end: {self.log}") from None

    def unlock(self) -> None:
        """As after a kill."""
        subprocess.run([sys.executable, "-m", "workflow.scripts.unlock"], cwd=self.suite, check=True)

    def training(self) -> tuple[Path, lock.Holder]:
        """A run that has a checkpoint and is being trained, and who trains it; waits for one."""
        found: list[tuple[Path, lock.Holder]] = []

        def look() -> bool:
            for folder in map(self.run, METHODS[1:]):
                holder = lock.holder(folder)
                if holder and (folder / "checkpoint.pt").exists() and not (folder / "done.json").exists():
                    found.append((folder, holder))
            return bool(found)

        until(look, "a run in training")
        return found[0]

    def note(self, text: str) -> None:
        """Something that was seen to happen."""
        self.seen.append(text)


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; Lost if it does not come."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Lost(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.1)


def slurm(*words: str) -> str:
    """Output of one of SLURM's commands."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


# --- faults ----------------------------------------------------------------------------------------------------------


def nothing(site: Site) -> None:
    """Nothing: what all others are compared with."""
    site.finish(site.start())


def cancelled(site: Site) -> None:
    """A job is cancelled."""
    controller = site.start()
    folder, holder = site.training()
    slurm("scancel", holder.job)
    site.finish(controller)
    expect_resumed(site, folder)


def out_of_time(site: Site) -> None:
    """A job reaches its time limit."""
    experiment = site.suite / "workflow/config/experiments/faults.yaml"
    text = experiment.read_text()
    experiment.write_text(text.replace("minutes: {smoke: 5", "minutes: {smoke: 1").replace("epochs: 8", "epochs: 100"))
    try:
        site.finish(site.start())
    finally:
        experiment.write_text(text)
    expect_said(site, site.run("s2pg") / "train.log", "stopped on request after")


def node_restarted(site: Site) -> None:
    """The node's daemon stops and starts again."""
    away(site, "slurmd", cluster.start_node)


def controller_restarted(site: Site) -> None:
    """SLURM's controller stops and starts again."""
    away(site, "slurmctld", cluster.start_controller)


def away(site: Site, daemon: str, start: Callable[[], object]) -> None:
    """One of SLURM's daemons is not there for a while."""
    controller = site.start()
    site.training()
    cluster.stop_daemon(daemon)
    time.sleep(8)
    start()
    site.note(f"{daemon} away for 8 s")
    site.finish(controller)


def node_lost(site: Site) -> None:
    """The node crashes with all its processes, and comes back."""
    controller = site.start()
    folder, _ = site.training()
    cluster.stop_daemon("slurmd", signal.SIGKILL)
    for process in jobs_processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    slurm("scontrol", "update", "NodeName=node1", "State=DOWN", "Reason=crashed")  # as after SlurmdTimeout
    cluster.start_node(rebooted=True)
    site.finish(controller)
    expect_resumed(site, folder)


def jobs_processes() -> list[psutil.Process]:
    """SLURM's step daemons and all that they started."""
    daemons = [each for each in psutil.process_iter(["name"]) if each.info["name"].startswith("slurmstepd")]
    return [process for daemon in daemons for process in (daemon, *daemon.children(recursive=True))]


def snakemake_killed(site: Site) -> None:
    """Snakemake is killed and started again."""
    controller = site.start()
    folder, holder = site.training()
    controller.kill()
    controller.wait()
    refused = subprocess.run(site.command(), cwd=site.suite, capture_output=True, text=True)
    if "LockException" not in refused.stderr + refused.stdout:
        raise Lost("a second start should have been refused")
    site.unlock()
    site.finish(site.start())
    expect_resumed(site, folder)


def orphan(site: Site) -> None:
    """Snakemake is killed, and a new one submits what orphaned jobs still train."""
    controller = site.start()
    folder, holder = site.training()
    controller.kill()
    controller.wait()
    subprocess.run([sys.executable, "-m", "snakemake", "--unlock"], cwd=site.suite, check=True, capture_output=True)
    site.finish(site.start())
    epochs = re.findall(r"epoch (\d+), step", (folder / "train.log").read_text())
    if len(epochs) != len(set(epochs)):
        raise Lost(f"{folder}: trained by two jobs")
    site.note(f"{len(epochs)} epochs, each trained once, by job {holder.job}")


def disk_full(site: Site) -> None:
    """The disk is full when a checkpoint is written."""
    site.results.mkdir(parents=True)
    slurm("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(site.results))
    controller = site.start()
    folder, _ = site.training()
    ballast = site.results / "ballast"
    fill(ballast)
    until(lambda: not lock.holder(folder), "the end of the run")
    if (folder / "done.json").exists():
        raise Lost("the disk was not full in time")
    site.note("could not write a checkpoint")
    ballast.unlink()
    site.finish(controller)
    expect_resumed(site, folder)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 2**8):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def two_refused(site: Site) -> None:
    """A second Snakemake is started in the same folder."""
    first = site.start()
    site.training()
    second = subprocess.run(site.command(), cwd=site.suite, capture_output=True, text=True)
    if "LockException" not in second.stderr + second.stdout:
        raise Lost("the second was not refused")
    site.note("the second was refused")
    site.finish(first)


def two_at_once(site: Site) -> None:
    """Two Snakemakes, neither of which knows of the other, make the same runs."""
    first, second = site.start("--nolock"), site.start("--nolock")
    site.finish(first, second)
    for method in METHODS:
        text = (site.run(method) / "train.log").read_text()
        if text.count("started") != 1:
            raise Lost(f"{method}: begun {text.count('started')} times")
    site.note("each run was trained by one of them")


def corrupt_checkpoint(site: Site) -> None:
    """A checkpoint is damaged while the run is interrupted."""
    controller = site.start("--retries", "0")
    folder, holder = site.training()
    slurm("scancel", holder.job)
    controller.wait(PATIENCE)
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    site.finish(site.start())
    if not folder.with_name("seed_0.archived-1").exists():
        raise Lost(f"{folder}: what was damaged is gone")
    site.note("trained from the beginning, the damaged one kept aside")


def half_an_event(site: Site) -> None:
    """A job is killed in the middle of writing to its event file."""
    controller = site.start()
    folder, holder = site.training()
    os.kill(holder.pid, signal.SIGKILL)
    (events,) = folder.glob("events.out.tfevents.*")  # before the next job begins a second one
    with events.open("ab") as file:
        file.write((1000).to_bytes(8, "little") + b"half")
    site.finish(controller)
    expect_resumed(site, folder)


FAULTS = {
    function.__name__: function
    for function in (
        *(nothing, cancelled, out_of_time, node_restarted, node_lost, controller_restarted, snakemake_killed, orphan),
        *(disk_full, two_refused, two_at_once, corrupt_checkpoint, half_an_event),
    )
}


# --- what must hold afterwards ---------------------------------------------------------------------------------------


def expect_resumed(site: Site, folder: Path) -> None:
    """The run was interrupted and went on."""
    expect_said(site, folder / "train.log", "resumed after epoch")


def expect_said(site: Site, path: Path, text: str) -> None:
    """A log says so."""
    lines = [line[20:].strip() for line in path.read_text().splitlines() if text in line]
    if not lines:
        raise Lost(f"{path}: does not say {text!r}")
    site.note(lines[0])


def check(site: Site, reference: Site | None) -> None:
    """Everything is there, once, whole, and as if nothing had happened. Raises Lost."""
    for method in METHODS:
        folder = site.run(method)
        done = json.loads((folder / "done.json").read_text())
        if done["status"] != "finished":
            raise Lost(f"{folder}: {done}")
        if partial := [path.name for path in folder.iterdir() if path.name.endswith(".partial")]:
            raise Lost(f"{folder}: half-written {partial}")
        trained_once(folder)
        if reference:
            same_bits(folder, reference.run(method))


def trained_once(folder: Path) -> None:
    """No epoch was trained again after its checkpoint had been written, and there is one event file."""
    epoch = None
    for number, resumed in re.findall(
        r"epoch (\d+), step|resumed after epoch (-?\d+)", (folder / "train.log").read_text()
    ):
        if resumed and epoch is not None and int(resumed) < epoch - 1:
            raise Lost(f"{folder}: went back from epoch {epoch} to {resumed}")
        epoch = int(resumed or number)
    if len(list(folder.glob("events.out.tfevents.*"))) != 1:
        raise Lost(f"{folder}: more than one event file")


def same_bits(folder: Path, reference: Path) -> None:
    """Evaluation episodes and scalars are those of the undisturbed run, as far as that goes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [[pd.read_parquet(path / "episodes.parquet"), scalars(path)] for path in (folder, reference)]
    for mine, wanted in zip(*found, strict=True):
        if not mine[mine.step <= wanted.step.max()].equals(wanted):
            raise Lost(f"{folder}: other results than undisturbed")


def scalars(folder: Path) -> pd.DataFrame:
    """Scalars of a run in order, but for times."""
    frame = read_scalars(folder)
    frame = frame[~frame.tag.str.startswith("time/")]
    return frame.sort_values(["step", "tag"], ignore_index=True)[["tag", "step", "value"]]


# --- all of them -----------------------------------------------------------------------------------------------------


def suffer(name: str, suite: Path, reference: Site | None) -> tuple[Site, str, float]:
    """One fault: its site, what was lost (nothing if it survived), and how long it took."""
    site, began, lost = Site(suite, suite.parent / name), time.monotonic(), ""
    try:
        FAULTS[name](site)
        check(site, reference)
    except (Lost, cluster.Refused, OSError, subprocess.SubprocessError) as error:
        lost = str(error) or type(error).__name__
    finally:
        if left := [job.id for job in unlock.orphans(suite)]:
            subprocess.run(["scancel", *left], capture_output=True)
        subprocess.run(["umount", str(site.results)], capture_output=True)
    return site, lost, time.monotonic() - began


@contextmanager
def a_cluster(accounting: bool) -> Iterator[None]:
    """The running SLURM, or one for as long as it is needed."""
    already = cluster.process("slurmctld") is not None
    cluster.start(accounting)
    try:
        yield
    finally:
        if not already:
            cluster.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS), metavar="NAME")
    parser.add_argument("--accounting", action="store_true", help="a SLURM with an accounting database")
    parser.add_argument("--keep", action="store_true", help="leave the folders of all runs")
    args = parser.parse_args()
    names = list(dict.fromkeys(["nothing", *args.only]))
    scratch = Path(tempfile.mkdtemp(prefix="s2pg-faults-", dir="/var/tmp"))
    suite, rows, reference = copy(scratch / "suite"), [], None
    shutil.copy(HERE / "faults.yaml", suite / "workflow/config/experiments/faults.yaml")
    try:
        with a_cluster(args.accounting):
            for name in names:
                site, lost, seconds = suffer(name, suite, reference)
                reference = reference or site
                verdict = f"LOST: {lost}" if lost else "survived"
                rows.append([FAULTS[name].__doc__.strip(), "; ".join(site.seen), f"{seconds:.0f}", verdict])
                print(f"{name}: {verdict} ({seconds:.0f} s)", flush=True)
    except cluster.Refused as error:
        print(f"no SLURM here: {error}", file=sys.stderr)
        return 1
    print("\n" + tabulate(rows, ["fault", "seen", "s", "outcome"], maxcolwidths=[44, 44, None, 60]))
    lost = any(row[-1] != "survived" for row in rows)
    if not (args.keep or lost):
        shutil.rmtree(scratch)
    print(f"\nnot all survived; everything is in {scratch}" if lost else "\nall survived")
    return int(lost)


if __name__ == "__main__":
    sys.exit(main())
