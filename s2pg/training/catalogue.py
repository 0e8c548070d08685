"""The tasks as a reader sees them. Apart from `worlds`, so that listing them needs no torch."""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(NamedTuple):
    """One task: its groups with their sizes, in the order of the observation; none where `missing` is set."""

    id: str
    visible: dict[str, int]
    hidden: dict[str, int]
    horizon: int | None  # steps until truncation; None: the task ends its episodes itself
    missing: str | None = None  # the extra that the task needs and that is not installed


def catalogue() -> list[Row]:
    """All tasks, their groups measured on the environments themselves."""
    from envs.tasks import TASKS

    return [_row(task) for task in TASKS.values()]


def _row(task: Any) -> Row:
    if task.missing:
        return Row(task.id, {}, {}, task.horizon, task.extra)
    from envs.tasks import make

    env: Any = make(task.id)
    sizes = {group: part.stop - part.start for group, part in env.layout["state"].items()}
    env.close()
    visible = {group: size for group, size in sizes.items() if group in env.layout["obs"]}
    hidden = {group: size for group, size in sizes.items() if group not in visible}
    return Row(task.id, visible, hidden, task.horizon)
