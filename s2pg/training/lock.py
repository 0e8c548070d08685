"""One process per run folder, also where several machines share the folder. Without torch.

`flock` decides on one machine, and on shared file systems that pass it on. Some do not (Lustre and NFS, depending on
how they were mounted). The lock file therefore also says who holds it, and its time is renewed while the holder lives:
a holder on another machine that was alive lately is waited for, whatever `flock` says. `s2pg status` reads the same.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

NAME = ".lock"
BEAT = 15.0  # seconds between signs of life
SILENCE = 60.0  # seconds without one after which a holder counts as dead
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}


class Holder(NamedTuple):
    """Who holds a run folder; `job` is the SLURM job, empty without one."""

    host: str
    pid: int
    job: str = ""


def holder(folder: Path) -> Holder | None:
    """Who holds the folder and has given a sign of life lately; None if nobody does."""
    path = folder / NAME
    try:
        silent, text = time.time() - path.stat().st_mtime, path.read_text()
    except OSError:
        return None
    return _parse(text) if silent < SILENCE else None


@contextmanager
def only_one(folder: Path, waiting: Callable[[], Any]) -> Iterator[None]:
    """Hold the run folder's lock; if another process trains here, call `waiting` and wait for it to end."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / NAME, "a+") as file:
        _take(file, folder, waiting)
        try:
            with _signs_of_life(folder / NAME):
                yield
        finally:
            file.truncate(0)


def _take(file: TextIO, folder: Path, waiting: Callable[[], Any]) -> None:
    """Take the lock, or wait for it; then sign it."""
    said, me = False, Holder(platform.node(), os.getpid(), os.environ.get("SLURM_JOB_ID", ""))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = True
        waiting()
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    while (other := holder(folder)) and other.host != me.host:
        if not said:
            said = True
            waiting()
        time.sleep(BEAT / 3)
    file.truncate(0)
    file.write(json.dumps(me._asdict()))
    file.flush()


@contextmanager
def _signs_of_life(path: Path) -> Iterator[None]:
    """Renew the file's time in the background."""
    over = threading.Event()

    def live() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=live, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _parse(text: str) -> Holder | None:
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None
