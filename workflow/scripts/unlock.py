"""Make a folder ready for Snakemake after one was killed, or its machine went down: `python -m workflow.scripts.unlock`

Snakemake locks its folder while it runs and leaves the lock behind when it is killed; the next start then stops with
a LockException. `snakemake --unlock` removes the lock, but also that of a Snakemake that is still at work. This looks
first whether one is. It sees this machine only: on a cluster, start Snakemake from one login node.

SLURM jobs outlive the Snakemake that submitted them, and the next one knows nothing of them. Those that wait are
cancelled here, those that train are told to stop after their epoch; new jobs go on from the checkpoints.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

LOCKS = Path(".snakemake/locks")


class Job(NamedTuple):
    """A job in SLURM's queue."""

    id: str
    state: str
    comment: str  # rule_<rule or group>_wildcards_...
    folder: str

    @property
    def alone(self) -> bool:
        """One long run. SIGTERM ends its epoch; in a shared job it would only start the next run."""
        return self.state == "RUNNING" and self.comment.startswith("rule_days")


def snakemakes(folder: Path) -> list[int]:
    """Processes of Snakemakes at work in `folder`, but for those in SLURM jobs, this process, and what started it."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter(["pid", "cwd", "cmdline", "environ"]):
        words = [Path(word).name for word in (process.info["cmdline"] or [])[:4]]
        if "snakemake" in words and process.info["cwd"] == str(folder) and process.pid not in mine:
            found += [] if "SLURM_JOB_ID" in (process.info["environ"] or {}) else [process.pid]
    return found


def orphans(folder: Path) -> list[Job]:
    """This user's jobs that Snakemake submitted from `folder`; none where there is no SLURM."""
    if not shutil.which("squeue"):
        return []
    words = ["squeue", "--me", "--noheader", "--format=%i|%T|%j|%Z|%k"]
    listed = subprocess.run(words, capture_output=True, text=True)
    rows = [line.split("|", 4) for line in listed.stdout.splitlines()]
    return [Job(id, state, note, at) for id, state, name, at, note in rows if name[:5] == "s2pg_" and at == str(folder)]


def stop(jobs: list[Job]) -> None:
    """End jobs; a long run alone in its job after its epoch."""
    for words, chosen in (
        (["scancel", "--signal=TERM"], [job.id for job in jobs if job.alone]),
        (["scancel"], [job.id for job in jobs if not job.alone]),
    ):
        if chosen:
            subprocess.run([*words, *chosen], check=True)


def main() -> None:
    if not LOCKS.is_dir() or not any(LOCKS.iterdir()):
        return
    if running := snakemakes(Path.cwd()):
        sys.exit(f"Snakemake is already running in this folder (process {running[0]}): wait for it, or stop it first.")
    print("An earlier Snakemake was killed; its lock is removed and its runs go on from their checkpoints.")
    if left := orphans(Path.cwd()):
        print(f"{len(left)} of its SLURM jobs are stopped.")
        stop(left)
    subprocess.run([sys.executable, "-m", "snakemake", "--unlock"], check=True, capture_output=True)


if __name__ == "__main__":
    main()
