"""A point on a field that must remember where to go: the reference's point-mass tasks, one row of `FIELDS` each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import cos, exp, hypot, inf, pi, sin
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from envs.canvas import Canvas, Point

Sight = Callable[[Any, Any, Point, Point], Any]
"""Is the cue in sight at (x, y), numbers or arrays, of an episode with this start and goal?"""

STRIDE, SUBSTEPS = 0.6, 3  # units per substep; substeps per step
GOAL_RADIUS = 5.0
LOST = -2.0  # reward of leaving the field or touching a wall
WALLS, HALF_WALL = (60.0, 90.0), 2.5  # y of the two walls' middle lines; half their thickness
DOOR, EDGE, DOORS = 40.0, 2.0, (10.0, 100.0)  # width; distance to keep from its edges; range of the left edges


def away_from_the_goal(x: Any, y: Any, start: Point, goal: Point) -> Any:
    """Everywhere but in the square of side 60 around the goal."""
    return (abs(x - goal[0]) > 30) | (abs(y - goal[1]) > 30)


def lower_half(x: Any, y: Any, start: Point, goal: Point) -> Any:
    """In the lower half of a field of height 75."""
    return y <= 37.5


def near_the_start(radius: float) -> Sight:
    """In the disc of this radius around the start."""
    return lambda x, y, start, goal: (x - start[0]) ** 2 + (y - start[1]) ** 2 <= radius**2


@dataclass(frozen=True)
class Field:
    """One point-mass task. The reward of a place at distance d from the goal is gain exp(-decay d)."""

    size: Point  # width, height
    starts: tuple[Point, ...]  # drawn uniformly; empty: from [10, 140]^2, at least 40 from the goal
    goals: tuple[Point, ...]  # drawn uniformly; the cue is the goal, or with `doors` the left edges of the two doors
    sight: Sight  # where the cue is in sight; the first observation always shows it
    gain: float = 1.0
    decay: float = 0.1
    doors: bool = False  # walls with doors end the episode and borders stop the point; else borders end it
    blank: float = 0.0  # what takes the cue's place out of sight
    hidden: tuple[str, ...] = ("cue",)  # groups that the policy does not see


def _row(y: float) -> tuple[Point, ...]:
    return tuple((x, y) for x in (25.0, 57.0, 88.0, 120.0))


FIELDS: dict[str, Field] = {
    "PointMass1": Field(
        size=(150.0, 150.0),
        starts=(),
        goals=((75.0, 75.0), (25.0, 25.0), (25.0, 75.0), (100.0, 15.0), (55.0, 108.0)),
        sight=away_from_the_goal,
    ),
    "PointMass2": Field(size=(150.0, 75.0), starts=_row(15.0), goals=_row(55.0), sight=lower_half),
    "PointMass3": Field(
        size=(150.0, 150.0),
        starts=_row(15.0),
        goals=_row(130.0),
        sight=near_the_start(30.0),
        hidden=("cue", "start"),
    ),
    "PointMassDoor": Field(
        size=(150.0, 150.0),
        starts=((75.0, 10.0),),
        goals=((75.0, 140.0),),
        sight=near_the_start(20.0),
        gain=10.0,
        decay=0.03,
        doors=True,
        blank=-1.0,
    ),
}
"""The reference's v1, v2, v3 and door (reference facts 7.4)."""


def _point(numbers: Any) -> Point:
    x, y = numbers
    return float(x), float(y)


class PointMass(gymnasium.Env):
    """Go where a cue said. The fully observed base of the tasks `PointMass1`, `2`, `3` and `PointMassDoor`.

    The action [1] a in [-1, 1] is a heading, pi (a + 1) from the x axis: -1 and 1 right, -0.5 up, 0 left, 0.5 down. The
    point moves 1.8 units in every step, in three substeps; it cannot stand still.

    Groups: `position` [2], `signal` [2] (the cue where it is in sight, blank elsewhere), `cue` [2] (always; hidden from
    the policy), and for PointMass3 `start` [2] (hidden too), on which the place where its cue is in sight depends.
    Without the start the state would not be Markov: what the policy sees next would depend on more than it.

    `info["success"]` (bool): is the point within 5 units of the goal after this step? The last step's is the episode's.
    `info["reached"]` (bool): has it been there after this step or an earlier one? That is the reference's measure; a
    policy without memory meets it by visiting one goal after the other. Both speak of places where a step ends.

    The task does not show the previous action: with it, a policy without memory would set its heading while the cue is
    in sight and repeat it from then on. The position cannot be blanked, and a policy can store a cue in it. That is
    easy in PointMass2, where a policy without memory lines up below the goal and then goes straight up; in PointMass1 a
    blank alone says that the goal is near. It is harder in PointMass3, where the ways from different starts to
    different goals cross, and in PointMassDoor, where a place is to tell of two doors.

    Of the reference, kept: only the reward of a step's last substep counts; the first observation shows the cue even
    where it is out of sight (PointMass1 can start in a corner of the goal's square); a wall is noticed in the substep
    after the one that entered it, so a step that ends in a wall is still paid; the point has an extent along the walls
    (`EDGE`) but not across them. Changed: the generator is the environment's own; the spaces have the observation's
    length; success (above); `start` in PointMass3's state.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # nothing ties a step to seconds: 20 s an episode
    _canvas: Canvas | None

    def __init__(self, field: str = "PointMass3", unit: float = 1.0, render_mode: str | None = None) -> None:
        """`field`: a row of `FIELDS`; `unit`: what observed lengths are divided by, above 0."""
        if field not in FIELDS:
            raise ValueError(f"PointMass: field={field!r} must be one of {list(FIELDS)}")
        if isinstance(unit, bool) or not isinstance(unit, int | float) or not 0 < unit < inf:
            raise ValueError(f"PointMass: unit={unit!r} must be a number above 0")
        self.field, self.unit, self.render_mode = FIELDS[field], unit, render_mode
        self.groups = {"position": 2, "signal": 2} | dict.fromkeys(self.field.hidden, 2)
        size, others = self.field.size, len(self.field.hidden)
        low = [0.0, 0.0] + [self.field.blank] * 2 + [0.0, 0.0] * others
        high = size * (2 + others)
        self.observation_space = Box(*(np.array(bound, np.float32) / np.float32(unit) for bound in (low, high)))
        self.action_space = Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Draw goal or doors, and the start. `options`: "start" or "cue", two numbers, replaces what was drawn."""
        super().reset(seed=seed)
        chosen = options or {}
        self.cue: Point = _point(chosen.get("cue", self._draw_cue()))
        self.goal = self.field.goals[0] if self.field.doors else self.cue
        self.start: Point = _point(chosen.get("start", self._draw_start()))
        self.position, self.in_sight, self._reached = self.start, True, False
        self._path, self._canvas = [(self.start, True)], None  # not drawn yet; what has been drawn
        return self._observe(), {}

    def _draw_cue(self) -> Point:
        if self.field.doors:
            first, second = self.np_random.uniform(*DOORS, 2).tolist()
            return first, second
        return self.field.goals[self.np_random.integers(len(self.field.goals))]

    def _draw_start(self) -> Point:
        if self.field.starts:
            return self.field.starts[self.np_random.integers(len(self.field.starts))]
        while True:
            x, y = self.np_random.uniform(10.0, 140.0, 2).tolist()
            if hypot(x - self.goal[0], y - self.goal[1]) >= 40:
                return x, y

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move with heading `action` [1] until the step or the episode ends."""
        heading = pi * (1 + min(max(float(action[0]), -1.0), 1.0))
        stride = STRIDE * cos(heading), STRIDE * sin(heading)
        ended = any(self._moves_and_ends(*stride) for _ in range(SUBSTEPS))
        distance = hypot(self.position[0] - self.goal[0], self.position[1] - self.goal[1])
        reward = LOST if ended else self.field.gain * exp(-self.field.decay * distance)
        self.in_sight = bool(self.field.sight(*self.position, self.start, self.goal))
        self._path.append((self.position, self.in_sight))
        success = distance <= GOAL_RADIUS
        self._reached |= success
        return self._observe(), reward, ended, False, {"success": success, "reached": self._reached}

    def _moves_and_ends(self, dx: float, dy: float) -> bool:
        """One substep; does it end the episode?"""
        before, (width, height) = self.position, self.field.size
        x, y = before[0] + dx, before[1] + dy
        self.position = min(max(x, 0.0), width), min(max(y, 0.0), height)
        return self._touches_a_wall(*before) if self.field.doors else self.position != (x, y)

    def _touches_a_wall(self, x: float, y: float) -> bool:
        return any(
            abs(y - wall) < HALF_WALL and not door + EDGE < x < door + DOOR - EDGE
            for wall, door in zip(WALLS, self.cue, strict=True)
        )

    def _observe(self) -> np.ndarray:
        signal = self.cue if self.in_sight else (self.field.blank,) * 2
        hidden = [number for group in self.field.hidden for number in getattr(self, group)]
        return np.array([*self.position, *signal, *hidden], np.float32) / np.float32(self.unit)

    def render(self) -> np.ndarray | None:
        """The field and the way so far, `[height, width, 3]`; yellow: the cue is in sight, orange: it was."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() draws only where the task was made with render_mode="rgb_array"')
            return None
        canvas = self._canvas or self._background()
        for (start, _), (end, seen) in pairwise(self._path):
            canvas.line(start, end, SEEN if seen else UNSEEN)
        self._canvas, self._path = canvas, self._path[-1:]
        picture = canvas.copy()
        picture.disc(self.position, 2.6, FIELD)
        picture.disc(self.position, 2.0, SEEN if self.in_sight else UNSEEN)
        return picture.pixels

    def _background(self) -> Canvas:
        """What does not move: where the cue is in sight, the walls, all goals (this episode's is filled), the start."""
        field, corner = self.field, (0.0, 0.0)
        canvas = Canvas(field.size, MARGIN)
        edges = [(-0.5, -0.5), (field.size[0] + 0.5, field.size[1] + 0.5)]
        canvas.box(edges[0], edges[1], WALL)
        canvas.box(corner, field.size, FIELD)
        canvas.region(lambda x, y: field.sight(x, y, self.start, self.goal), corner, field.size, SIGHT)
        for goal in field.goals:
            canvas.ring(goal, GOAL_RADIUS, OTHER_GOAL)
        canvas.disc(self.goal, GOAL_RADIUS, GOAL)
        for wall, door in zip(WALLS, self.cue, strict=True) if field.doors else ():
            canvas.box((0.0, wall - HALF_WALL), (door, wall + HALF_WALL), WALL)
            canvas.box((door + DOOR, wall - HALF_WALL), (field.size[0], wall + HALF_WALL), WALL)
        canvas.ring(self.start, 2.0, WALL)
        return canvas


MARGIN, FIELD, WALL, SIGHT = (228, 228, 224), (255, 255, 255), (60, 64, 72), (255, 242, 204)
GOAL, OTHER_GOAL, SEEN, UNSEEN = (86, 180, 120), (190, 190, 186), (213, 94, 0), (0, 90, 160)
