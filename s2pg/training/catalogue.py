"""The tasks as a reader sees them. Apart from `worlds`, so that listing them needs no torch."""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(NamedTuple):
    """One task: its groups with their sizes, in the order of the observation."""

    id: str
    visible: dict[str, int]
    hidden: dict[str, int]
    horizon: int | None  # steps until truncation; None: the task ends its episodes itself


def catalogue() -> list[Row]:
    """All tasks, their groups measured on the environments themselves."""
    from envs.tasks import TASKS, make

    return [_row(id, task.horizon, make(id)) for id, task in TASKS.items()]


def _row(id: str, horizon: int | None, env: Any) -> Row:
    sizes = {group: part.stop - part.start for group, part in env.layout["state"].items()}
    env.close()
    visible = {group: size for group, size in sizes.items() if group in env.layout["obs"]}
    return Row(id, visible, {group: size for group, size in sizes.items() if group not in visible}, horizon)
