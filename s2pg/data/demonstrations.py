"""From an expert's dataset to the replay that imitation samples from."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from s2pg.data.dataset import Dataset, DatasetError
from s2pg.data.replay import Replay
from s2pg.types import Width


class Sight(Protocol):
    """What must be known of a task to show a dataset as its environments would (see `training.worlds.Spec`)."""

    @property
    def widths(self) -> dict[str, Width]: ...
    @property
    def low(self) -> np.ndarray: ...
    @property
    def high(self) -> np.ndarray: ...
    @property
    def visible(self) -> np.ndarray: ...
    @property
    def blank(self) -> bool: ...


def demonstrations(dataset: Dataset, spec: Sight, device: torch.device | str = "cpu") -> Replay:
    """The expert's steps as one stream of a replay: what a run without memory that acts alike would have stored.

    `state` is the dataset's, with the previous action that the environment shows: clipped, zeros at an episode's start,
    or blank. `obs` is the part of it that the task's policy sees.

    Raises:
        DatasetError: states or actions have other widths than the task's.
    """
    check_widths(dataset, spec)
    step, slot, end = _slots(dataset.last)
    sizes = {key: width.total for key, width in spec.widths.items()}
    replay = Replay(len(step), 1, sizes, 0, len(spec.low), device)
    state = _states(dataset, spec, step, slot, end)
    for key, shown in (("state", state), ("obs", state[:, spec.visible])):
        replay.obs[key][:] = _like(replay.obs[key], shown)
    taken = torch.as_tensor(slot, device=replay.device)
    for column, values in (
        (replay.action, dataset.actions),
        (replay.reward, dataset.rewards),
        (replay.terminated, dataset.absorbing),
    ):
        column[taken] = _like(column, values)
    replay.position[:] = _like(replay.position, _positions(end))
    replay.valid[taken] = True
    replay.cursor[:] = len(step) - 1
    return replay


def check_widths(dataset: Dataset, spec: Sight) -> None:
    """DatasetError, naming both, unless states and actions are as wide as the task's."""
    needed = {"states": spec.widths["state"].env, "actions": len(spec.low)}
    found = {"states": dataset.states.shape[1], "actions": dataset.actions.shape[1]}
    for name, width in needed.items():
        if found[name] != width:
            source = dataset.card.get("task", "another task")
            raise DatasetError(
                f"the expert's {name} (recorded in {source}) are {found[name]} numbers wide, the task's are {width}; "
                "record an expert in this task (s2pg record)"
            )


def _slots(last: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every slot the step that it shows `[M]`; of every step its slot `[N]`; which slots are an episode's end `[M]`.

    An end shows its episode's last step, of which it holds what followed.
    """
    steps = np.arange(len(last))
    slot = steps + np.cumsum(last) - last
    step = np.repeat(steps, 1 + last)
    end = np.ones(len(step), bool)
    end[slot] = False
    return step, slot, end


def _positions(end: np.ndarray) -> np.ndarray:
    """Steps since its episode's start, of every slot `[M]`."""
    ends = np.flatnonzero(end)
    starts = np.concatenate([[0], ends[:-1] + 1])
    return np.arange(len(end)) - np.repeat(starts, ends - starts + 1)


def _states(dataset: Dataset, spec: Sight, step: np.ndarray, slot: np.ndarray, end: np.ndarray) -> np.ndarray:
    """`[M, S]` float32: the environment's part, then the previous action as the environment shows it."""
    env = np.where(end[:, None], dataset.next_states[step], dataset.states[step]).astype(np.float32)
    previous = np.zeros((len(step), len(spec.low)), np.float32)
    if not spec.blank:
        clipped = np.minimum(np.maximum(dataset.actions.astype(np.float32), spec.low), spec.high)
        previous[slot + 1] = clipped  # an episode's first slot follows the slot of an end, which is no step's
    return np.hstack([env, previous])


def _like(column: Tensor, values: np.ndarray) -> Tensor:
    return torch.as_tensor(values).to(column)
