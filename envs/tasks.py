"""The tasks: one table. A row says which base task is seen how; `register` tells Gymnasium about all rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.util import find_spec
from operator import attrgetter
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from envs.locomujoco import INSTALL, MOTIONS
from envs.point_mass import FIELDS
from envs.randomise import Bodies, Mass, Permutation, Randomisation, Wind
from envs.views import View, mujoco_groups

Lengths = Callable[[Any], Mapping[str, int]]


@dataclass(frozen=True)
class Task:
    """A row of the table.

    Where `hidden_privileged` is left out it equals `hidden`.
    """

    id: str  # also of the Gymnasium id, envs:<id>-v0
    base: str  # Gymnasium id of the base task, or "module:Class"
    groups: Lengths  # computes the lengths of the base observation's groups from the base task
    hidden: tuple[str, ...]  # groups that the policy does not see; it sees all others
    horizon: int | None  # steps after which an episode is truncated; None: the base task ends its episodes itself
    source: str
    hidden_privileged: tuple[str, ...] = ()  # what methods with a privileged critic hide from the policy
    wind: float | None = None  # force in newtons
    mass: bool = False  # draws the mass of the torso
    falls: bool = True  # can an episode be terminated before its horizon
    blank_previous_action: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the base task
    extra: str | None = None  # extra of the suite without which the task cannot be made

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_privileged", self.hidden_privileged or self.hidden)

    @property
    def gym_id(self) -> str:
        """What to pass to `gymnasium.make`."""
        return f"envs:{self.id}-v0"

    @property
    def missing(self) -> str | None:
        """How to install what the task needs and this environment lacks; None: nothing."""
        if self.extra is None:
            return None
        package, how = _EXTRAS[self.extra]
        return None if find_spec(package) else how


_EXTRAS = {"locomujoco": ("loco_mujoco", INSTALL)}  # extra: its package, how to install it


# name: base, groups, further groups that give away the velocities, the positions, options, wind [N]
# (groups that give away the mass: see _MASSIVE)
_PLANAR = mujoco_groups("positions", "velocities")
_ANT = mujoco_groups("positions", "velocities", "contact_forces")
_HUMANOID = mujoco_groups(
    "positions", "velocities", "com_inertia", "com_velocity", "actuator_forces", "external_contact_forces"
)
_LOCOMOTION: dict[str, tuple] = {
    "Hopper": ("Hopper-v4", _PLANAR, (), (), {}, 5.0),
    "HalfCheetah": ("HalfCheetah-v4", _PLANAR, (), (), {}, 5.0),
    "Walker2d": ("Walker2d-v4", _PLANAR, (), (), {}, 5.0),
    "Ant": ("Ant-v4", _ANT, (), (), {"use_contact_forces": True}, 0.5),
    "Humanoid": ("Humanoid-v4", _HUMANOID, ("com_inertia", "com_velocity"), ("com_inertia",), {}, 10.0),
}


_MASSIVE = {  # name: groups that differ between masses in the same positions, velocities and actions
    "Hopper": (),
    "HalfCheetah": (),
    "Walker2d": (),
    "Humanoid": ("com_inertia", "com_velocity", "external_contact_forces"),
}


def _pendulum_groups(env: Any) -> dict[str, int]:
    return {"positions": 2, "velocities": 1}  # cos and sin of the angle; angular velocity


_PENDULUMS: dict[str, tuple] = {
    "Pendulum": ("Pendulum-v1", _pendulum_groups, 200),
    "InvertedPendulum": ("InvertedPendulum-v4", _PLANAR, 1000),
}


def _locomotion(name: str) -> list[Task]:
    base, groups, tell_velocities, tell_positions, options, wind = _LOCOMOTION[name]
    velocities = ("velocities", *tell_velocities)
    privileged = (*velocities, "actuator_forces") if name == "Humanoid" else velocities
    paper = f"the paper's {name}POMDP-v3, reference facts 7.1"
    option = "option of the reference without launcher, reference facts"
    falls = name != "HalfCheetah"
    shared: dict[str, Any] = {"base": base, "groups": groups, "horizon": 1000, "options": options, "falls": falls}
    tasks = [
        Task(f"{name}V", hidden=velocities, hidden_privileged=privileged, source=paper, **shared),
        Task(f"{name}P", hidden=("positions", *tell_positions), source=f"{option} 7.1", **shared),
        Task(f"{name}W", hidden=("wind",), wind=wind, source=f"{option} 7.2", **shared),
    ]
    if name in _MASSIVE:
        latent = "ours, after LocoMuJoCo's carried weight"
        tasks.append(Task(f"{name}M", hidden=("mass", *_MASSIVE[name]), mass=True, source=latent, **shared))
    return tasks


def _pendulum(name: str) -> list[Task]:
    base, groups, horizon = _PENDULUMS[name]
    falls = name != "Pendulum"
    source = "task of the reference without launcher, reference facts 7.1; horizon of Gymnasium"
    return [
        Task(f"{name}{suffix}", base, groups, (hidden,), horizon, source, falls=falls)
        for suffix, hidden in (("V", "velocities"), ("P", "positions"))
    ]


def _diagnostic(name: str, hidden: tuple[str, ...], suffix: str = "", **columns: Any) -> Task:
    base, source = f"envs.diagnostics:{name}", "ours; optimum in closed form"
    return Task(name + suffix, base, attrgetter("groups"), hidden, horizon=None, source=source, **columns)


def _cue_recall(delay: int) -> Task:
    options = {"delay": delay}
    return _diagnostic("CueRecall", ("cue",), str(delay), blank_previous_action=True, options=options)


_DIAGNOSTICS = [
    _diagnostic("CueRecall", ("cue",), blank_previous_action=True),
    *map(_cue_recall, (1, 2, 4, 8, 16, 32, 64)),
    _diagnostic("LinearGaussian", ("system_state", "time")),
]


def _point_mass(name: str) -> Task:
    hidden, source = FIELDS[name].hidden, "task of the reference without launcher, reference facts 7.4"
    shared: dict[str, Any] = {"groups": attrgetter("groups"), "horizon": 1000, "options": {"field": name}}
    return Task(name, "envs.point_mass:PointMass", hidden=hidden, source=source, blank_previous_action=True, **shared)


def _locomujoco(name: str) -> Task:
    latent, options = MOTIONS[name].latent, {"motion": name}
    source = "LocoMuJoCo 0.4.1; hidden as in the reference's launchers, velocities where nothing is drawn"
    shared: dict[str, Any] = {
        "groups": attrgetter("groups"),
        "horizon": 1000,
        "options": options,
        "extra": "locomujoco",
    }
    return Task(name, "envs.locomujoco:Loco", hidden=(latent or "velocities",), source=source, **shared)


_SINGLE = [*_DIAGNOSTICS, *map(_point_mass, FIELDS), *map(_locomujoco, MOTIONS)]

TASKS: dict[str, Task] = {
    row.id: row for rows in (*map(_locomotion, _LOCOMOTION), *map(_pendulum, _PENDULUMS), _SINGLE) for row in rows
}
"""All tasks by id."""


def task(id: str) -> Task:
    """The row `id` of the table; ValueError naming all ids (and a close match) if there is none."""
    if id in TASKS:
        return TASKS[id]
    close = get_close_matches(str(id), TASKS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"unknown task {id!r}{hint}; tasks: {', '.join(TASKS)}")


def make(
    task_id: str,
    hidden: Sequence[str] | str | None = None,
    bodies: str = "none",
    permute_actions: bool = False,
    **options: Any,
) -> View:
    """The task `task_id` without time limit (that is `gymnasium.make`'s part, which calls this).

    `hidden` replaces the row's hidden groups; "privileged" stands for the row's `hidden_privileged`. `bodies`: "none",
    or the kind of `Bodies` ("consistent" or "reference") by which bodies are drawn per episode. `permute_actions`:
    whether a `Permutation` of the actions is drawn per episode. Both are part of `state` and never of `obs`. Further
    `options` (e.g. `render_mode`) go to the base task. ValueError for other values, if `hidden` names a group that the
    task does not have or hides all of them, and for `bodies` of what is no MuJoCo task of Gymnasium's; ImportError for
    a task whose extra is not installed.
    """
    row = task(task_id)
    base = _base(row.base, **{**row.options, **options})
    randomise: list[Randomisation] = [] if row.wind is None else [Wind(base, row.wind)]
    randomise += [Mass(base)] if row.mass else []
    randomise += [*_bodies(row, base, bodies), *_permutation(row, base, permute_actions)]
    return View(base, row.groups(base), _hidden(row, hidden), randomise, row.blank_previous_action, name=row.id)


def _hidden(row: Task, hidden: Sequence[str] | str | None) -> Sequence[str]:
    if isinstance(hidden, str) and hidden != "privileged":
        example = f"a sequence of group names, e.g. hidden=({hidden!r},)"
        raise ValueError(f"{row.id}: hidden={hidden!r} must be 'privileged' or {example}")
    if hidden is None:
        return row.hidden
    return row.hidden_privileged if hidden == "privileged" else hidden


def _bodies(row: Task, base: Any, kind: str) -> list[Randomisation]:
    why = "" if hasattr(base, "model") else f", because {row.base} is no MuJoCo task of Gymnasium's"
    why = ", because the task draws a mass of its own" if row.mass else why
    _check_option(row, "bodies", kind, ("none",) if why else ("none", *Bodies.kinds), why)
    return [] if kind == "none" else [Bodies(base, kind)]


def _permutation(row: Task, base: Any, permute: bool) -> list[Randomisation]:
    space = base.action_space
    one_range = np.ptp(space.low) == np.ptp(space.high) == 0
    why = "" if one_range else ", because its actions differ in range"
    _check_option(row, "permute_actions", permute, (False, True) if one_range else (False,), why)
    return [Permutation(space.shape[0])] if permute else []


def _check_option(row: Task, option: str, value: Any, allowed: tuple, why: str) -> None:
    """ValueError unless `value` is one of `allowed` (and of its type: 1 is not True)."""
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        names = ", ".join(map(repr, allowed))
        raise ValueError(f"{row.id}: {option}={value!r} is not allowed{why}; allowed: {names}")


def _base(entry: str, **options: Any) -> Any:
    """The bare base task. Not through `gymnasium.make`: no wrappers, no warning that -v4 has a successor."""
    spec: Any = None if ":" in entry else gymnasium.spec(entry)
    env: Any = load_env_creator(spec.entry_point if spec else entry)(**{**(spec.kwargs if spec else {}), **options})
    env.spec = spec
    return env


def register() -> None:
    """Register every task with Gymnasium."""
    for row in TASKS.values():
        gymnasium.register(
            id=f"{row.id}-v0",
            entry_point="envs.tasks:make",
            kwargs={"task_id": row.id},
            max_episode_steps=row.horizon,
            disable_env_checker=True,  # the tests run the full checker; here it would only cost time per step
        )
