"""One process per run folder, also where machines share it and `flock` does not reach across."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from pathlib import Path

import pytest

from s2pg.training import lock


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "SILENCE", 1.0)


def elsewhere(folder: Path, age: float = 0.0) -> Path:
    """A lock file signed by a process on another machine."""
    path = folder / lock.NAME
    path.write_text(json.dumps(lock.Holder("another", 1, "77")._asdict()))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_the_holder_says_who_it_is_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with lock.only_one(tmp_path, lambda: None):
        found = lock.holder(tmp_path)
        assert (found.pid, found.job) == (os.getpid(), "12")
    assert lock.holder(tmp_path) is None
    assert (tmp_path / lock.NAME).read_text() == ""


def test_a_holder_gives_signs_of_life(tmp_path: Path) -> None:
    with lock.only_one(tmp_path, lambda: None):
        before = (tmp_path / lock.NAME).stat().st_mtime_ns
        time.sleep(1.5)
        assert (tmp_path / lock.NAME).stat().st_mtime_ns > before
        assert lock.holder(tmp_path)


def test_a_holder_that_is_silent_counts_as_dead(tmp_path: Path) -> None:
    elsewhere(tmp_path, age=2.0)
    assert lock.holder(tmp_path) is None
    with lock.only_one(tmp_path, lambda: pytest.fail("there is nobody to wait for")):
        assert lock.holder(tmp_path).pid == os.getpid()


def test_a_holder_on_another_machine_is_waited_for_whatever_flock_says(tmp_path: Path) -> None:
    path, waited, over = elsewhere(tmp_path), [], threading.Event()

    def live() -> None:
        for _ in range(15):
            time.sleep(0.1)
            os.utime(path)
        over.set()

    threading.Thread(target=live).start()
    with lock.only_one(tmp_path, lambda: waited.append(1)):
        assert over.is_set(), "taken while the other was alive"
    assert waited == [1]


@pytest.mark.parametrize(("number", "fails"), [(errno.ENOSYS, False), (errno.ENOLCK, False), (errno.EACCES, True)])
def test_a_file_system_without_locks_is_no_error(
    number: int, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    if fails:
        with pytest.raises(OSError, match="denied"), lock.only_one(tmp_path, lambda: None):
            pass
    else:
        with lock.only_one(tmp_path, lambda: None):
            assert lock.holder(tmp_path).pid == os.getpid()


def test_what_is_not_a_holder_is_nobody(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"host": "a"}'):
        (tmp_path / lock.NAME).write_text(text)
        assert lock.holder(tmp_path) is None
