"""The only door from learning to tasks: environments, their widths and their seeds."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from s2pg.types import Width


class Spec(NamedTuple):
    """What networks must know of a task."""

    widths: dict[str, Width]  # by observation key ("obs", "state")
    low: np.ndarray  # [A] action range
    high: np.ndarray
    visible: np.ndarray = np.arange(0)  # [O] columns of `state` that `obs` holds, in order
    blank: bool = False  # does the task show zeros in place of the previous action

    @property
    def actions(self) -> int:
        return len(self.low)


def make(task: str, options: dict[str, Any] | None = None, **kwargs: Any) -> gymnasium.Env:
    """One environment `envs:<task>-v0`; an unknown task or option raises an error that lists what is allowed."""
    from envs.tasks import task as lookup

    lookup(task)
    return gymnasium.make(f"envs:{task}-v0", disable_env_checker=True, **(options or {}), **kwargs)


def make_vector(task: str, options: dict[str, Any], number: int) -> SyncVectorEnv:
    """Environments that step together and hand out the true last observation when one of them restarts."""
    makers = [lambda: make(task, options)] * number
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def spec(task: str, options: dict[str, Any] | None = None) -> Spec:
    """Widths and action range of a task."""
    env = make(task, options)
    widths = {}
    for key, groups in env.unwrapped.layout.items():
        previous = groups["previous_action"]
        widths[key] = Width(previous.start, previous.stop - previous.start)
    view, space = env.unwrapped, env.action_space
    env.close()
    return Spec(widths, space.low, space.high, view.visible, view.blank_previous_action)


def can_fall(task: str) -> bool:
    """Whether an episode can be terminated before the horizon at which it is truncated."""
    from envs.tasks import task as lookup

    row = lookup(task)
    return row.falls and row.horizon is not None


def derive(seed: int, *path: str | int) -> int:
    """A 32-bit seed for one purpose, e.g. `derive(seed, "train", epoch)`; different paths are independent streams."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in path]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1)[0])
