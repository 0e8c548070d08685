"""What every figure shares: tidy data, panels, curves, axes in round units, the legend, the run counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from analysis import schema, setting, stats, style
from analysis.load import DATA, read_tables

MODES = ("mean", "sample")
DERIVED = {"scores": stats.scores, "statistics": stats.statistics, "wall_clock": stats.wall_clock}
MODE_LABEL = {"mean": "noise-free policy", "sample": "sampled policy"}


@dataclass
class Tidy:
    """The tidy tables of one experiment, as attributes: `data.runs`, `data.statistics`, ... (`analysis.schema.TABLES`).

    Args:
        frames: table name -> frame; a table that is not given is an empty frame of the right columns.
        grid: content of `grid.json`.
        mode: evaluation mode that the statistics use, `mean` or `sample`; default: as the experiment says.
        score: `final` or `area`, the score that the aggregates use.
    """

    frames: dict[str, pd.DataFrame] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)
    mode: str = ""
    score: str = "final"

    def __post_init__(self) -> None:
        self.mode = self.mode or self.grid.get("spec", {}).get("mode", MODES[0])

    @classmethod
    def read(cls, folder: str | Path, mode: str = "") -> Tidy:
        """Read all tables in `folder`; statistics that are not there are computed.

        Raises:
            AnalysisError: a table of the runs is absent or breaks its schema.
        """
        folder, tables = Path(folder), read_tables(Path(folder))
        frames = {name: getattr(tables, name) for name in DATA}
        for name, compute in DERIVED.items():
            path = folder / f"{name}.parquet"
            frames[name] = pd.read_parquet(path) if path.exists() else compute(tables)
        return cls(frames, tables.grid, mode)

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name not in schema.TABLES:
            raise AttributeError(name)
        return self.frames.setdefault(name, schema.frame(name))

    @cached_property
    def tasks(self) -> list[str]:
        """Tasks of the grid in display order."""
        return style.order_tasks(self.runs["task"])

    @cached_property
    def methods(self) -> list[str]:
        """Methods of the grid in display order."""
        return style.order_methods(self.runs["method"])

    @property
    def other_mode(self) -> str:
        """The evaluation mode that the statistics do not use."""
        return MODES[1 - MODES.index(self.mode)]

    def pick(self, statistic: str, mode: str | None = None, **equal: object) -> pd.DataFrame:
        """Rows of `statistics` of one kind with an estimate, in evaluation mode `mode` and this object's score."""
        frame = self.statistics
        keep = (frame["statistic"] == statistic) & (frame["mode"] == (mode or self.mode)) & frame["estimate"].notna()
        if statistic in ("iqm", "median", "mean", "optimality_gap", "profile", "improvement", "return_iqm"):
            keep &= frame["score"] == self.score
        for column, value in equal.items():
            keep &= frame[column] == value
        return frame[keep].sort_values("x", kind="stable")

    @property
    def normalised(self) -> bool:
        """Whether there are normalised scores over all tasks, of methods that were trained."""
        rows = self.pick("iqm", task="all")
        return bool((~rows["method"].isin(setting.UNTRAINED)).any())

    def counts(self) -> str:
        """One sentence on seeds and on attempted, finished, failed and missing runs."""
        status = self.runs["status"].value_counts()
        seeds = sorted(self.runs.groupby(["task", "method"])["seed"].nunique().unique())
        span = " to ".join(str(n) for n in dict.fromkeys(seeds[:1] + seeds[-1:])) or "no"
        split = ", ".join(f"{status.get(state, 0)} {state}" for state in ("finished", "failed", "missing"))
        return f"{span} seed{'' if span == '1' else 's'} per task and method; {len(self.runs)} runs attempted: {split}."

    def legend_label(self, method: str) -> str:
        """Display name of a method, with the number of its runs that failed or are missing."""
        status = self.runs.loc[self.runs["method"] == method, "status"].value_counts()
        lost = [f"{status[state]} {state}" for state in ("failed", "missing") if status.get(state, 0)]
        return style.label(method) + (f" ({', '.join(lost)})" if lost else "")


def panels(count: int, across: int = 3, width: float = 3.5, height: float = 2.7) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes in rows of `across`; surplus places stay blank. Never fewer than one axis."""
    style.use()
    count = max(count, 1)
    across = min(across, count)
    rows = -(-count // across)
    size = (max(width * across, 5.2), height * rows)
    fig, grid = plt.subplots(rows, across, figsize=size, squeeze=False, layout="constrained")
    plt.close(fig)  # figures are returned, never shown behind the caller's back
    axes = list(grid.flat)
    for surplus in axes[count:]:
        surplus.set_axis_off()
    return fig, axes[:count]


def columns(axes: Sequence[Axes]) -> int:
    """Number of columns that `panels` arranged the axes in."""
    return axes[0].get_subplotspec().get_gridspec().ncols


def curve(ax: Axes, frame: pd.DataFrame, method: str, level: float | None = None) -> None:
    """Draw estimate and interval of one method against `x`; a single point becomes a marker with an error bar.

    Args:
        ax: where to draw.
        frame: rows of `statistics` with x, estimate, low, high, sorted by x.
        method: decides the look.
        level: if given, a level line at the mean estimate from 0 to here instead: for a policy that does not learn.
    """
    if frame.empty:
        return
    look = style.look(method)
    x, y, low, high = (frame[c].to_numpy(float) for c in ("x", "estimate", "low", "high"))
    if level is not None:
        ax.plot([0, level], [y.mean()] * 2, color=look.colour, linestyle=look.line, zorder=2)
    elif len(x) == 1:
        ax.errorbar(x, y, yerr=_bars(y, low, high), color=look.colour, marker=look.marker, capsize=3, zorder=3)
    else:
        ax.plot(x, y, **look.plot, markevery=_sparse(len(x), method), zorder=4 if method == "s2pg" else 3)
        ax.fill_between(x, low, high, color=look.colour, alpha=0.1, linewidth=0)


def _bars(y: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Error bars [2, N] that matplotlib accepts: finite and not negative."""
    return np.nan_to_num(np.clip([y - low, high - y], 0, None))


def _sparse(points: int, method: str) -> tuple[int, int]:
    """About six markers per curve, staggered between methods so that they do not hide each other."""
    every = max(points // 6, 1)
    return style.order_methods([*style.METHODS, method]).index(method) % every, every


def short(value: float, _: object = None) -> str:
    """A count in round units: 1500 -> 1.5k, 2000000 -> 2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def _from_zero(ax: Axes) -> None:
    """The x axis starts where training does and leaves a little room behind the last point."""
    ax.set_xlim(0, max(1.04 * ax.dataLim.x1, 1e-9))


def steps_axis(ax: Axes) -> None:
    """The x axis counts environment steps."""
    _from_zero(ax)
    ax.set_xlabel("environment steps")
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(short))


def seconds_axis(ax: Axes, seconds: Sequence[float]) -> None:
    """The x axis is training time; logarithmic if the methods' durations differ by more than a factor of four.

    Args:
        ax: whose x axis is formatted.
        seconds: how long each method trained.
    """
    longest, shortest = max(seconds), min(seconds)
    unit, size = next(((u, s) for u, s in (("h", 3600.0), ("min", 60.0)) if longest >= 3 * s), ("s", 1.0))
    if wide := longest > 4 * shortest > 0:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogSecondsLocator(size))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        _from_zero(ax)
        ax.xaxis.set_major_locator(SecondsLocator(size))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / size:.3g}"))
    ax.set_xlabel(f"training time ({unit}{', log scale' if wide else ''})")


class SecondsLocator(MaxNLocator):
    """Round ticks in a unit of `size` seconds on an axis in seconds."""

    def __init__(self, size: float):
        super().__init__(5, steps=[1, 2, 2.5, 5, 10])
        self._size = size

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        """Ticks in seconds."""
        return np.asarray(super().tick_values(vmin / self._size, vmax / self._size)) * self._size


class LogSecondsLocator(LogLocator):
    """Ticks at 1, 2, 5, 10, ... of a unit of `size` seconds on a logarithmic axis in seconds."""

    def __init__(self, size: float):
        super().__init__(subs=(1.0, 2.0, 5.0), numticks=12)
        self._size = size

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        """Ticks in seconds."""
        ticks = np.asarray(super().tick_values(vmin / self._size, vmax / self._size)) * self._size
        inside = ticks[(ticks >= vmin) & (ticks <= vmax)]
        return inside if len(inside) <= 7 else inside[::2]


def legend(fig: Figure, data: Tidy, methods: Iterable[str], beside: bool = False) -> None:
    """One legend below all panels, or beside the only one, for which it grows; a method with lost runs says so."""
    methods = style.order_methods(methods)
    if not methods:
        return
    handles = [Line2D([], [], **style.look(m).plot) for m in methods]
    names = [data.legend_label(m) for m in methods]
    fits = max(1, int(fig.get_figwidth() * 13 // (max(map(len, names)) + 8)))
    rows = -(-len(methods) // fits)
    if beside or rows > 5:
        width = 0 if beside else 0.075 * max(map(len, names)) + 0.6
        fig.set_size_inches(fig.get_figwidth() + width, max(fig.get_figheight(), 0.2 * len(names) + 0.3))
        fig.legend(handles, names, loc="outside right center", handlelength=3)
        return
    fig.set_figheight(fig.get_figheight() + 0.2 * (rows - 1))
    fig.legend(handles, names, loc="outside lower center", ncols=-(-len(methods) // rows), handlelength=3)


def nothing(ax: Axes, text: str) -> None:
    """Say in an empty panel why it is empty."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color="#555555", wrap=True)


def empty(text: str) -> Figure:
    """A small figure that says why there is nothing to see."""
    fig, (ax,) = panels(1, width=6, height=1.4)
    nothing(ax, text)
    return fig


def method_axis(ax: Axes, methods: Sequence[str], labels: bool = True) -> None:
    """The y axis lists methods from top to bottom."""
    ax.set_yticks(range(len(methods)), [style.label(m) for m in methods] if labels else [""] * len(methods))
    ax.set_ylim(len(methods) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def interval(ax: Axes, row: int, low: float, high: float, estimate: float, method: str) -> None:
    """A horizontal bar for the interval with the estimate marked on it."""
    look = style.look(method)
    ax.use_sticky_edges = False
    ax.barh(row, high - low, left=low, height=0.55, color=look.colour, alpha=0.35, linewidth=0, zorder=2)
    ax.plot([estimate] * 2, [row - 0.28, row + 0.28], color=look.colour, linewidth=2.6, solid_capstyle="butt", zorder=3)
