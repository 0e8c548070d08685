"""Numbers and tables as the commands print them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate


def table(rows: Iterable[Sequence[Any]], headers: Sequence[str], text: Iterable[str] = ()) -> str:
    """Aligned columns: those named in `text` to the left, the others (already formatted) to the right."""
    left = set(text)
    sides = ["left" if header in left else "right" for header in headers]
    return tabulate(list(rows), headers, tablefmt="simple", colalign=sides, disable_numparse=True)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `7.5 h`, `3.2 days`."""
    for unit, length, digits in (("days", 86400.0, 1), ("h", 3600.0, 1), ("min", 60.0, 0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Bytes as `3.1 MB`, in powers of ten."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def progress(text: str) -> None:
    """One line on stderr that the next one overwrites; nothing where nobody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def busy() -> str | None:
    """A warning where other processes compete for the cores, so that measured times are too long."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f"warning: load {load:.1f} on {cores} cores; measured times are too long" if load > cores + 0.5 else None
