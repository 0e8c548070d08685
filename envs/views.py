"""Cut the observation of a base task into named groups: `obs` is what a policy sees, `state` is everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict

from envs.randomise import Randomisation

PREVIOUS_ACTION = "previous_action"
Groups = Mapping[str, int]
"""Names of consecutive parts of a flat observation with their lengths, in order."""


def mujoco_groups(*names: str) -> Callable[[Any], dict[str, int]]:
    """A function that computes the lengths of the groups `names` from the model of a Gymnasium MuJoCo task.

    Positions leave out the root's world x (planar models) or x and y (models with a free root) where the task does.
    """

    def groups(env: Any) -> dict[str, int]:
        model = env.model
        free_root = model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE
        excluded = getattr(env, "_exclude_current_positions_from_observation", False) * (2 if free_root else 1)
        lengths = {
            "positions": model.nq - excluded,
            "velocities": model.nv,
            "com_inertia": 10 * model.nbody,
            "com_velocity": 6 * model.nbody,
            "actuator_forces": model.nv,
            "contact_forces": 6 * model.nbody,
            "external_contact_forces": 6 * model.nbody,
        }
        return {name: int(lengths[name]) for name in names}

    return groups


def slices(groups: Groups) -> dict[str, slice]:
    """Consecutive slices for consecutive groups: `{"a": 2, "b": 3}` -> `{"a": slice(0, 2), "b": slice(2, 5)}`."""
    ends = accumulate(groups.values())
    return {name: slice(end - size, end) for (name, size), end in zip(groups.items(), ends, strict=True)}


def check_hidden(hidden: Sequence[str], groups: Groups, name: str, always: Sequence[str] = ()) -> tuple[str, ...]:
    """`hidden` and `always`; ValueError unless they name groups of the task `name` and leave at least one visible."""
    if isinstance(hidden, str):
        raise ValueError(f"{name}: hidden={hidden!r} must be a sequence of group names, e.g. hidden=({hidden!r},)")
    hidden = tuple(dict.fromkeys((*hidden, *always)))
    unknown = [group for group in hidden if group not in groups]
    if unknown:
        raise ValueError(f"{name}: hidden={hidden} names unknown groups {unknown}; groups: {list(groups)}")
    if set(groups) == set(hidden):
        raise ValueError(f"{name}: hidden={hidden} hides everything; at least one of {list(groups)} must stay")
    return hidden


class View(gymnasium.Env):
    """A base task seen through named groups.

    Observation `{"obs": float32 [O], "state": float32 [S]}`. `state` holds all groups of the base observation in its
    own order, then one group per randomisation, then `previous_action`; `obs` is `state` without the hidden groups.
    `previous_action` is the action of the last step, clipped to the action space as the simulator applies it, and zeros
    after a reset. (Shown as it was passed, a policy could feed back its own growing actions without bound.)
    `layout["obs"]` and `layout["state"]` map group names to slices, in order; `visible` [O] are the columns of `state`
    that `obs` holds.

    Transitions, rewards and initial states are the base task's for the same actions and seeds, unless a randomisation
    changes them. Its draws have a stream of their own, so they say nothing about the initial state and leave it alone.
    """

    def __init__(
        self,
        base: Any,
        groups: Groups,
        hidden: Sequence[str] = (),
        randomise: Sequence[Randomisation] = (),
        blank_previous_action: bool = False,
        name: str = "View",
    ):
        """`groups` name the parts of the flat observation of the environment `base`, in order.

        `hidden` names groups that `obs` leaves out, which may be those of randomisations.
        With `blank_previous_action` zeros take the previous action's place, for tasks in which a policy could otherwise
        use its own actions as a memory. Raises ValueError if lengths do not add up or `hidden` is not as it should be.
        """
        self.base, self.randomise = base, tuple(randomise)
        self.blank_previous_action = blank_previous_action
        _check_lengths(base, groups, name)
        everything = {**groups, **{change.group: change.size for change in self.randomise}}
        secret = [change.group for change in self.randomise if change.secret]
        self.hidden = check_hidden(hidden, everything, name, secret)
        self._cut({**everything, PREVIOUS_ACTION: base.action_space.shape[0]}, sum(groups.values()))
        self.action_space, self.metadata, self.render_mode = base.action_space, base.metadata, base.render_mode
        self._draws: np.random.Generator | None = None

    def _cut(self, groups: Groups, base_size: int) -> None:
        """Layout, index arrays and observation space from the groups of the state."""
        state = slices(groups)
        visible = {group: size for group, size in groups.items() if group not in self.hidden}
        self.layout = {"obs": slices(visible), "state": state}
        self._base_part, self._action_part = slice(0, base_size), state[PREVIOUS_ACTION]
        self._drawn_part = slice(base_size, self._action_part.start)
        self._size = self._action_part.stop
        self.visible = np.concatenate([np.arange(self._size)[state[group]] for group in visible])
        self._no_action = np.zeros(groups[PREVIOUS_ACTION], np.float32)
        parts: list[Any] = [self.base.observation_space, *self.randomise]
        parts.append(self.base.action_space)
        low = np.concatenate([part.low for part in parts]).astype(np.float32)
        high = np.concatenate([part.high for part in parts]).astype(np.float32)
        self._low, self._high = low[self._action_part], high[self._action_part]
        self.observation_space = Dict(obs=Box(low[self.visible], high[self.visible]), state=Box(low, high))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Start an episode; the same `seed` gives the same initial state and the same draws of every randomisation."""
        super().reset(seed=seed)
        if seed is not None or self._draws is None:
            self.base.np_random = self.np_random  # one generator: initial states are the base task's
            self._draws = self.np_random.spawn(1)[0]
        self._drawn = np.array([x for change in self.randomise for x in change.draw(self._draws)], np.float32)
        full, info = self.base.reset(options=options)
        for change in self.randomise:
            change.apply()
        return self._view(full, self._no_action), info

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """One step of the base task with `action` [A]."""
        applied = action
        for change in self.randomise:
            applied = change.act(applied)
        full, reward, terminated, truncated, info = self.base.step(applied)
        for change in self.randomise:
            reward = change.reward(reward, info)
        shown = self._no_action if self.blank_previous_action else action
        return self._view(full, shown), reward, terminated, truncated, info

    def _view(self, full: np.ndarray, action: np.ndarray) -> dict[str, np.ndarray]:
        state = np.empty(self._size, np.float32)
        state[self._base_part] = full
        if self.randomise:
            state[self._drawn_part] = self._drawn
        state[self._action_part] = np.minimum(np.maximum(action, self._low), self._high)
        return {"obs": state.take(self.visible), "state": state}

    def render(self) -> Any:
        """A frame of the base task."""
        return self.base.render()

    def close(self) -> None:
        """Close the base task."""
        self.base.close()


def _check_lengths(base: Any, groups: Groups, name: str) -> None:
    size, total = base.observation_space.shape[0], sum(groups.values())
    if size != total:
        raise ValueError(f"{name}: the groups {dict(groups)} have {total} numbers, the base observation has {size}")
