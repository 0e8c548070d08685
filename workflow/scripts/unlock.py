"""Remove Snakemake's lock if the Snakemake that took it is gone (killed, or the machine went down).

    python -m workflow.scripts.unlock

Snakemake locks its folder while it runs and leaves the lock behind when it is killed; the next start then stops with
a LockException. `snakemake --unlock` removes the lock, but also that of a Snakemake that is still at work. This looks
first whether one is. It sees this machine only: on a cluster, start Snakemake from one login node.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

LOCKS = Path(".snakemake/locks")


def snakemakes(folder: Path) -> list[int]:
    """Process ids of the Snakemakes at work in `folder`, but for this process and those that started it."""
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter(["pid", "cwd", "cmdline"]):
        words = [Path(word).name for word in (process.info["cmdline"] or [])[:4]]
        if "snakemake" in words and process.info["cwd"] == str(folder) and process.pid not in mine:
            found.append(process.pid)
    return found


def main() -> None:
    if not LOCKS.is_dir() or not any(LOCKS.iterdir()):
        return
    if running := snakemakes(Path.cwd()):
        sys.exit(f"Snakemake is already running in this folder (process {running[0]}): wait for it, or stop it first.")
    print("An earlier Snakemake was killed; its lock is removed and its runs go on from their checkpoints.")
    subprocess.run([sys.executable, "-m", "snakemake", "--unlock"], check=True, capture_output=True)


if __name__ == "__main__":
    main()
