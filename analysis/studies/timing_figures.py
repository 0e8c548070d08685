"""Figures of the study of time, from the rows that `analysis.studies.timing.summarise` makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis import style
from analysis.figures.common import empty, panels, short
from analysis.figures.timing import PARTS

ACTIVITIES = tuple(PARTS)
CELL = ("case", "device", "kind", "context", "environments", "samples")
QUANTITIES = (*ACTIVITIES, "total", "per_term")
KINDS = {
    "s2pg": style.METHODS["s2pg"],
    "bptt": replace(style.METHODS["bptt32"], label="BPTT, a window per loss term"),
    "bptt_all": replace(style.METHODS["bptt32_all"], label="BPTT, a loss at every step"),
    "window": replace(style.METHODS["window32"], label="Window"),
    "none": style.METHODS["none"],
    "density_joint_validated": style.Look("Joint density, validated", "#7A3300", (0, (4, 1.5)), "d"),
    "density_joint": style.Look("Joint density", "#A8703F", (0, (3, 1, 1, 1)), "d"),
    "density_diagonal": style.Look("Diagonal density (ours)", "#D9B48F", (0, (1, 1)), "d"),
}
WITH_CONTEXT = ("window", "bptt", "bptt_all")
SHOWN_CONTEXTS = (8, 32, 128)  # of the bars


def kind_label(kind: str) -> str:
    """Display name of a memory kind."""
    return KINDS[kind].label


def order_kinds(kinds: Iterable[str]) -> list[str]:
    """Distinct kinds in the fixed order."""
    return [kind for kind in KINDS if kind in set(kinds)]


def draw_context(data: pd.DataFrame) -> Figure:
    """Learning time per loss term against the context, a panel per case and device."""
    return _against_context(data, "per_term", "s per 1000 loss terms")


def draw_memory(data: pd.DataFrame) -> Figure:
    """Peak memory against the context."""
    return _against_context(data[data["peak_memory_mb"].notna()], "peak_memory_mb", "MB of one update")


def draw_split(data: pd.DataFrame) -> Figure:
    """Stacked bars of a step's time, of kinds without a context and of a few contexts of the others."""
    usual = _usual(data)
    rows = usual[usual["total"].notna() & (usual["context"].isin(SHOWN_CONTEXTS) | ~usual["kind"].isin(WITH_CONTEXT))]
    bars = max(len(part) for _, part in rows.groupby(["case", "device"]))
    parts = _parts(rows)
    fig, axes = panels(len(parts), across=2, width=4.6, height=1.0 + 0.24 * bars)
    for ax, (title, part) in zip(axes, parts, strict=True):
        _bars(ax, part)
        ax.set_title(title)
    handles = [Patch(facecolor=c, hatch=h, edgecolor="white", label=name) for name, (c, h) in PARTS.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3)
    return fig


def draw_parallel(data: pd.DataFrame) -> Figure:
    """Above, learning time per loss term against loss terms per gradient step; below, the rest against environments."""
    data = data[~data["kind"].str.startswith("density_")]
    context = _common_context(data)
    if context is None:
        return empty("This scale varies the context alone.")
    data = data[(data["context"] == context) | ~data["kind"].isin(WITH_CONTEXT)]
    data = data.assign(rest=data["environment"] + data["acting"])
    parts = _parts(data)
    fig, axes = panels(2 * len(parts), across=len(parts), width=3.6, height=2.6)
    for upper, lower, (title, part) in zip(axes[: len(parts)], axes[len(parts) :], parts, strict=True):
        _lines(upper, part[part["usual_environments"]], "samples", "per_term")
        _log(upper, part["samples"], "loss terms per gradient step", "s per 1000 loss terms")
        _lines(lower, part[part["usual_samples"]], "environments", "rest")
        _log(lower, part["environments"], "environments", "environment + acting, ms per step")
        upper.set_title(f"{title}, L = {context}")
    _legend(fig, data["kind"])
    return fig


def _usual(data: pd.DataFrame) -> pd.DataFrame:
    return data[data["usual_environments"] & data["usual_samples"]]


def _parts(data: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """A title and the rows of each case and device."""
    one = data["device"].nunique() == 1
    groups = data.groupby(["case", "device"], sort=False)
    return [(case if one else f"{case}, {device}", part) for (case, device), part in groups]


def _common_context(data: pd.DataFrame) -> int | None:
    """The middle one of the contexts at which loss terms per gradient step or environments vary."""
    varied = data[~(data["usual_environments"] & data["usual_samples"]) & data["kind"].isin(WITH_CONTEXT)]
    contexts = sorted(varied["context"].unique())
    return int(contexts[len(contexts) // 2]) if contexts else None


def _against_context(data: pd.DataFrame, name: str, label: str) -> Figure:
    parts = _parts(_usual(data))
    fig, axes = panels(len(parts), width=3.7, height=3.0)
    for ax, (title, part) in zip(axes, parts, strict=True):
        contexts = sorted(part.loc[part["kind"].isin(WITH_CONTEXT), "context"].unique())
        for kind in order_kinds(part["kind"]):
            rows = part[part["kind"] == kind]
            if kind in WITH_CONTEXT:
                _line(ax, rows, kind, "context", name)
            else:
                look = KINDS[kind]
                ax.plot(
                    [min(contexts), max(contexts)], [rows[name].iloc[0]] * 2, color=look.colour, linestyle=look.line
                )
        _log(ax, pd.Series(contexts), "context L", label)
        ax.set_title(title)
    _legend(fig, _usual(data)["kind"])
    return fig


def _lines(ax: Axes, part: pd.DataFrame, x: str, name: str) -> None:
    for kind in order_kinds(part["kind"]):
        _line(ax, part[part["kind"] == kind], kind, x, name)


def _line(ax: Axes, rows: pd.DataFrame, kind: str, x: str, name: str) -> None:
    """Medians with quartiles."""
    rows = rows.sort_values(x)
    ax.plot(rows[x], rows[name], **KINDS[kind].plot)
    if name + "_low" in rows:
        ax.fill_between(rows[x], rows[name + "_low"], rows[name + "_high"], color=KINDS[kind].colour, alpha=0.2, lw=0)


def _log(ax: Axes, places: pd.Series, label: str, quantity: str) -> None:
    """Both axes logarithmic, ticks where something was measured."""
    ax.set(xscale="log", yscale="log", xlabel=label, ylabel=quantity)
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(places))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(short))


def _bars(ax: Axes, part: pd.DataFrame) -> None:
    rows = [row for kind in order_kinds(part["kind"]) for row in _of(part, kind)]
    for place, row in enumerate(rows):
        left = 0.0
        for activity, (colour, hatch) in PARTS.items():
            width = getattr(row, activity)
            ax.barh(place, width, left=left, height=0.66, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4)
            left += width
        spent = f"{left:,.0f}" if left >= 99.5 else f"{left:.2g}"
        ax.text(left, place, f" {spent}", va="center", fontsize=8, color="#333333")
    ax.set_yticks(range(len(rows)), [_bar_label(row.kind, row.context) for row in rows])
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.25 * part["total"].max()), xlabel="ms per environment step")
    ax.grid(axis="y", visible=False)


def _of(part: pd.DataFrame, kind: str) -> Sequence:
    return list(part[part["kind"] == kind].sort_values("context").itertuples())


def _bar_label(kind: str, context: int) -> str:
    return f"{kind_label(kind)}, L = {context}" if kind in WITH_CONTEXT else kind_label(kind)


def _legend(fig: Figure, kinds: Iterable[str]) -> None:
    names = order_kinds(kinds)
    handles = [Line2D([], [], **KINDS[kind].plot, label=kind_label(kind)) for kind in names]
    fig.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(names), max(int(fig.get_figwidth() // 2.4), 1)),
        handlelength=3,
    )


PICTURES = {
    "timing_context": (
        "Learning time against the context",
        "Learning time per loss term, median over rounds and quartiles, against the steps L that learning unrolls. "
        "BPTT with a window per loss term (the reference's) unrolls L steps for each of them; with a loss at every "
        "step of a chunk, one. Kinds without a context are level lines.",
        draw_context,
        False,
    ),
    "timing_split": (
        "What a step costs, and on what",
        "Time per environment step, split into environment, acting and learning, medians over rounds; at a bar's end "
        "their sum.",
        draw_split,
        False,
    ),
    "timing_parallel": (
        "What is done in parallel",
        "Above: learning time per loss term against how many of them a gradient step takes. Below: time of "
        "environments and acting per step against how many environments step together.",
        draw_parallel,
        False,
    ),
    "timing_memory": (
        "Memory of an update against the context",
        "MB by which one update makes a process of its own grow (on a GPU: the growth there).",
        draw_memory,
        True,
    ),
}
"""Name -> title, caption, function, whether it is a detail."""
