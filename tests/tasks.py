"""Parameters of tests over many tasks. A task whose extra is missing is skipped, the reason says how to install it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from envs.tasks import TASKS


def every(ids: Iterable[str] = TASKS) -> list[Any]:
    """One parameter per id."""
    return [pytest.param(id, marks=_marks(TASKS[id].missing)) for id in ids]


def _marks(missing: str | None) -> list[Any]:
    return [pytest.mark.skip(reason=missing)] if missing else []
