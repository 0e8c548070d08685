"""A small picture in plain NumPy: discs, lines and boxes in the units of a task, with smooth edges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Point = tuple[float, float]
Colour = tuple[int, int, int]
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Signed distance from an edge at the points (x [W], y [H, 1]), in units, negative inside; broadcasts to [H, W]."""
Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Are the points (x, y) inside? Booleans that broadcast to [H, W]."""


class Canvas:
    """Pixels of the rectangle (0, 0) to `size` with a margin around it; y points up."""

    def __init__(self, size: Point, colour: Colour, margin: float = 4.0, scale: float = 4.0) -> None:
        """`scale`: pixels per unit; `margin` in units."""
        self.scale, self._origin = scale, -margin
        width, height = (round((length + 2 * margin) * scale) for length in size)
        self.x = (np.arange(width) + 0.5) / scale - margin  # [W], of the pixels' centres
        self.y = ((np.arange(height) + 0.5) / scale - margin)[::-1, None]  # [H, 1]
        self.pixels = np.full((height, width, 3), colour, np.uint8)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """A filled disc."""
        self._fill(_disc(centre, radius), *_around((centre, centre), radius), colour)

    def ring(self, centre: Point, radius: float, colour: Colour, width: float = 0.6) -> None:
        """A circle; `width` in units, as of all lines."""
        disc = _disc(centre, radius)
        self._fill(lambda x, y: np.abs(disc(x, y)) - width / 2, *_around((centre, centre), radius + width), colour)

    def line(self, start: Point, end: Point, colour: Colour, width: float = 0.8) -> None:
        """A straight line with round ends."""
        self._fill(_line(start, end, width), *_around((start, end), width), colour)

    def box(self, low: Point, high: Point, colour: Colour) -> None:
        """A filled rectangle; nothing if it has no area."""
        if low[0] < high[0] and low[1] < high[1]:
            self._fill(_box(low, high), *_around((low, high), 0), colour)

    def region(self, inside: Inside, low: Point, high: Point, colour: Colour) -> None:
        """The points of a rectangle at which `inside` is true; edges are smoothed by looking at nine points a pixel."""
        thirds = np.array([-1, 0, 1]) / (3 * self.scale)
        share = np.mean([inside(self.x + dx, self.y + dy) for dx in thirds for dy in thirds], axis=0)
        box = _box(low, high)
        self._fill(
            lambda x, y: np.maximum((0.5 - share) / self.scale, box(x, y)), (-np.inf,) * 2, (np.inf,) * 2, colour
        )

    def copy(self) -> Canvas:
        """The same picture, to be drawn on apart."""
        other = object.__new__(Canvas)
        other.__dict__.update(self.__dict__, pixels=self.pixels.copy())
        return other

    def _fill(self, shape: Shape, low: Point, high: Point, colour: Colour) -> None:
        """Blend in a shape that lies between `low` and `high`: a pixel takes the share of it that is inside."""
        rows = _between(self.y[:, 0], low[1], high[1], 1 / self.scale)
        columns = _between(self.x, low[0], high[0], 1 / self.scale)
        inside = np.clip(0.5 - self.scale * shape(self.x[columns], self.y[rows]), 0, 1)[..., None]
        patch = self.pixels[rows, columns]
        patch[:] = np.rint(patch + inside * (np.array(colour) - patch))


def _between(values: np.ndarray, low: float, high: float, slack: float) -> slice:
    """Where monotone `values` lie between `low` and `high`, a pixel more on each side."""
    found = np.flatnonzero((values >= low - slack) & (values <= high + slack))
    return slice(found[0], found[-1] + 1) if len(found) else slice(0)


def _around(points: tuple[Point, Point], reach: float) -> tuple[Point, Point]:
    x, y = zip(*points, strict=True)
    return (min(x) - reach, min(y) - reach), (max(x) + reach, max(y) + reach)


def _disc(centre: Point, radius: float) -> Shape:
    return lambda x, y: np.hypot(x - centre[0], y - centre[1]) - radius


def _box(low: Point, high: Point) -> Shape:
    return lambda x, y: np.maximum(np.maximum(low[0] - x, x - high[0]), np.maximum(low[1] - y, y - high[1]))


def _line(start: Point, end: Point, width: float) -> Shape:
    dx, dy = end[0] - start[0], end[1] - start[1]
    squared = dx * dx + dy * dy or 1.0

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / squared, 0, 1)
        return np.hypot(x - start[0] - along * dx, y - start[1] - along * dy) - width / 2

    return distance
