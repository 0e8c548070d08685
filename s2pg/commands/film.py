"""Drawing an episode: the picture is drawn once, and each frame fades what has not happened yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v2 as imageio
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

FORMATS = {".mp4": 30, ".gif": 20}  # frames per second at most
SHORTEST = 4.0  # seconds; shorter episodes play in slow motion
FADE = 0.88  # how much white lies over the future


class Shots(NamedTuple):
    """Which steps are shown, and how fast."""

    steps: list[int]
    fps: float
    speed: float  # 1 = real time


class Panel(NamedTuple):
    """Pixels of a drawn axes: rows top to bottom, columns left to right."""

    top: int
    bottom: int
    left: int
    right: int


def schedule(steps: int, rate: float, suffix: str) -> Shots:
    """Real time, or slower for an episode that would be over in a moment; `rate` in steps per second."""
    seconds = max(steps / rate, SHORTEST)
    number = min(steps, round(seconds * FORMATS[suffix]))
    shown = np.unique(np.linspace(0, steps - 1, number).round().astype(int))
    return Shots(shown.tolist(), len(shown) / seconds, steps / rate / seconds)


def write(out: Path, trace: Any, frames: Iterator[np.ndarray] | None, shots: Shots, title: str) -> None:
    """Write a film of a `Trace`. `frames`: pictures of the task, one per shot, or None for the curves only."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".partial-{out.name}")
    how = (
        {"fps": shots.fps, "macro_block_size": 2} if out.suffix == ".mp4" else {"duration": 1000 / shots.fps, "loop": 0}
    )
    try:
        with imageio.get_writer(partial, **how) as writer:
            for picture in compose(trace, frames, shots, title):
                writer.append_data(picture)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def compose(trace: Any, frames: Iterator[np.ndarray] | None, shots: Shots, title: str) -> Iterator[np.ndarray]:
    """The film's pictures, `[height, width, 3]`."""
    background, scene, timelines = _draw(trace, frames is not None, f"{title}\nplayed at {shots.speed:.2g} x real time")
    count = len(trace.reward)
    for step in shots.steps:
        picture = background.copy()
        for panel in timelines:
            now = panel.left + round((panel.right - panel.left) * (step + 1) / count)
            future = picture[panel.top : panel.bottom, now : panel.right]
            future[:] = (255 * FADE + future * (1 - FADE)).astype(np.uint8)
            picture[panel.top : panel.bottom, min(now, panel.right - 1)] = 0
        if frames is not None and scene is not None:
            _paste(picture, next(frames), scene)
        yield picture


def _paste(picture: np.ndarray, frame: np.ndarray, scene: Panel) -> None:
    """Put the task's frame into its panel, as large as it fits."""
    height, width = scene.bottom - scene.top, scene.right - scene.left
    scale = min(height / frame.shape[0], width / frame.shape[1])
    shape = int(frame.shape[1] * scale), int(frame.shape[0] * scale)
    small = np.asarray(Image.fromarray(frame).resize(shape, Image.Resampling.BILINEAR))
    top, left = scene.top + (height - shape[1]) // 2, scene.left + (width - shape[0]) // 2
    picture[top : top + shape[1], left : left + shape[0]] = small


def _draw(trace: Any, rendered: bool, title: str) -> tuple[np.ndarray, Panel | None, list[Panel]]:
    """Everything that does not move: the picture, where the task's frame goes, and the panels along time."""
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(12.8, 5.6), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        left, right = figure.subfigures(1, 2, width_ratios=[1, 1.45])
        figure.suptitle(title, fontsize=10)
        beside = left.subplots()
        memory, action, returns = right.subplots(3, 1, sharex=True, height_ratios=[3, 1.2, 1])
        timelines = [memory, action, returns]
        if rendered:
            beside.set_axis_off()
        else:
            _observation(beside, trace)
            beside.set_xlabel("step")
            timelines.append(beside)
        _memory(memory, trace)
        _lines(action, trace.action, "action")
        _lines(returns, trace.reward.cumsum()[:, None], "return\nso far")
        returns.set_xlabel("step")
        returns.xaxis.set_major_locator(MaxNLocator(integer=True))
        canvas.draw()
        picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        return picture, _panel(beside, picture) if rendered else None, [_panel(axes, picture) for axes in timelines]


def _panel(axes: Axes, picture: np.ndarray) -> Panel:
    box, height = axes.get_window_extent(), picture.shape[0]
    return Panel(round(height - box.y1), round(height - box.y0), round(box.x0), round(box.x1))


def _memory(axes: Axes, trace: Any) -> None:
    if trace.memory.shape[1] == 0:
        _observation(axes, trace)
        axes.set_title("no memory; what the policy sees, normalised", loc="left")
        return
    _heat(axes, trace.memory)
    axes.set_title(f"memory z after each step, {trace.memory.shape[1]} numbers", loc="left")
    axes.set_ylabel("unit")


def _observation(axes: Axes, trace: Any) -> None:
    _heat(axes, trace.obs)
    shown = {name: part for name, part in trace.groups.items() if part.start < trace.obs.shape[1]}
    axes.set_yticks([(part.start + part.stop) / 2 for part in shown.values()], [n.replace("_", " ") for n in shown])
    axes.tick_params(axis="y", length=0)
    for part in shown.values():
        axes.axhline(part.start, color="black", linewidth=0.8)
    axes.set_title("what the policy sees, normalised", loc="left")


def _heat(axes: Axes, values: np.ndarray) -> None:
    """Rows over time; blue is negative, red positive, the strongest 1 % saturate."""
    limit = float(np.quantile(np.abs(values), 0.99)) or 1.0
    extent = (0, len(values), values.shape[1], 0)
    options = {"aspect": "auto", "interpolation": "nearest", "cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    image = axes.imshow(values.T, extent=extent, **options)
    axes.figure.colorbar(image, ax=axes, pad=0.01, aspect=30)


def _lines(axes: Axes, values: np.ndarray, label: str) -> None:
    axes.plot(np.arange(len(values)) + 0.5, values, linewidth=1.0)
    axes.set_xlim(0, len(values))
    axes.set_ylabel(label)
