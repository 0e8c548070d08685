"""A signal that asks a run to stop: it ends its epoch, writes the checkpoint, and only then stops."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """The run was asked to stop and has; started again, it goes on from its checkpoint."""


@contextmanager
def on_request() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has asked this process to stop. Only the first is kept as a question; the second kills.

    A cluster sends one some time before a job's limit (`--signal` of sbatch). Outside the main thread, where signals
    cannot be handled, nobody asks.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def note(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        print("asked to stop: goes on to the end of this epoch (a second SIGTERM ends it at once)", file=sys.stderr)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
