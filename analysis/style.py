"""One look for every figure: a fixed colour, line style, marker and label per method; fixed order of methods and tasks.

The colours say what a method is: orange learns what to remember (S2PG), blues backpropagate through time, greens look
through a window, purple has no memory, grey acts at random and black sees everything. Inside a family lightness, line
style and marker tell the members apart, so that a figure survives a black and white printer. A test simulates the three
kinds of colour blindness and holds every pair of methods apart. The variants of S2PG in the kernel study are families
of their own, with one marker each: browns have another noise (the lighter, the more), blues another size (the lighter,
the larger), greens another distribution, purples another cell. They are told apart within their family. A method that
is not in the table is drawn grey under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from analysis import setting


@dataclass(frozen=True)
class Look:
    """How one method is drawn, and what it is called."""

    label: str
    colour: str
    line: str | tuple[int, tuple[float, ...]] = "-"
    marker: str = "o"

    @property
    def plot(self) -> dict:
        """Keyword arguments for `Axes.plot`."""
        return {"color": self.colour, "linestyle": self.line, "marker": self.marker}


METHODS: dict[str, Look] = {
    "s2pg": Look("S2PG", "#D55E00", "-", "o"),
    "s2pg_cleared": Look("S2PG, memory cleared", "#6B2D00", (0, (3, 1)), "p"),
    "bptt1": Look("BPTT 1 (S2PG's network)", "#3B4C5B", (0, (2, 1)), "d"),
    "bptt5": Look("BPTT 5", "#7CC4EE", "-", "s"),
    "bptt32": Look("BPTT 32", "#1E88C8", "-", "D"),
    "bptt32_all": Look("BPTT 32 (every step)", "#3B4CC0", (0, (4, 1.5)), "^"),
    "bptt_full": Look("BPTT whole episode", "#141A46", (0, (1, 1)), "v"),
    "window5": Look("Window 5", "#A9E08F", "-", "P"),
    "window32": Look("Window 32", "#117733", (0, (4, 1.5)), "X"),
    "none": Look("No memory", "#B0468F", (0, (3, 1, 1, 1)), "<"),
    "oracle": Look("Oracle", "#000000", (0, (5, 2)), "*"),
    "expert": Look("Expert's episodes", "#E6B800", (0, (6, 1.5)), ">"),
    "random": Look("Random policy", "#8C8C8C", (0, (1, 2)), "x"),
}
"""Method -> look. The order is the order of legends, tables and axes."""

VARIANTS: dict[str, dict[str, Look]] = {
    "distribution": {
        "s2pg_reference": Look("S2PG, as the reference", "#D1D3A0", (0, (1, 2)), "d"),
        "s2pg_unsquashed": Look("S2PG, not squashed", "#3C6E57", (0, (3, 1)), "d"),
        "s2pg_twice": Look("S2PG, squashed twice", "#0E1D0C", "-", "d"),
        "s2pg_learned": Look("S2PG, learned σ", "#0E4F09", (0, (4, 1.5)), "d"),
        "s2pg_state": Look("S2PG, state's σ", "#24904F", (0, (5, 1, 1, 1)), "d"),
        "s2pg_unbounded": Look("S2PG, state's σ, not squashed", "#87B34E", (0, (2, 1)), "d"),
        "s2pg_uniform": Look("S2PG, uniform", "#5FE81E", (0, (3, 1, 1, 1)), "d"),
        "s2pg_leak": Look("S2PG, leak 0.5", "#CDFF8E", (0, (1, 1)), "d"),
    },
    "noise": {
        "s2pg_sigma001": Look("S2PG, σ 0.01", "#97683A", (0, (5, 1, 1, 1)), "p"),
        "s2pg_sigma002": Look("S2PG, σ 0.02", "#4C2914", "-", "p"),
        "s2pg_sigma005": Look("S2PG, σ 0.05", "#754D2C", (0, (4, 1.5)), "p"),
        "s2pg_sigma03": Look("S2PG, σ 0.3", "#B98C50", (0, (3, 1, 1, 1)), "p"),
        "s2pg_sigma1": Look("S2PG, σ 1", "#F0C97F", (0, (1, 1)), "p"),
    },
    "size": {
        "s2pg_size8": Look("S2PG, 8 units", "#343299", "-", "h"),
        "s2pg_size16": Look("S2PG, 16 units", "#266EBF", (0, (4, 1.5)), "h"),
        "s2pg_size64": Look("S2PG, 64 units", "#5AA3D7", (0, (3, 1, 1, 1)), "h"),
        "s2pg_size128": Look("S2PG, 128 units", "#A6D6EA", (0, (1, 1)), "h"),
    },
    "cell": {
        "s2pg_lstm": Look("S2PG, LSTM", "#4B0981", "-", "8"),
        "s2pg_rnn": Look("S2PG, plain RNN", "#9B46B5", (0, (4, 1.5)), "8"),
        "s2pg_diagonal": Look("S2PG, diagonal linear", "#EB83EC", (0, (1, 1)), "8"),
    },
}
"""Kernel study: family -> variant of S2PG -> look, in the order of legends; they follow S2PG."""

TASKS: dict[str, str] = {
    "PendulumV": "Pendulum",
    "InvertedPendulumV": "Inverted pendulum",
    "HopperV": "Hopper",
    "HalfCheetahV": "Half-cheetah",
    "Walker2dV": "Walker2d",
    "AntV": "Ant",
    "HumanoidV": "Humanoid",
}
"""Task without its suffix's letter -> display name; the hidden group is added by `task_label`."""

_OTHER_TASKS = {
    "CueRecall": "Cue recall",
    **{f"PointMass{which}": f"Point mass {which}" for which in "123"},
    "PointMassDoor": "Point mass, doors",
    "HumanoidTorque4AgesWalk": "Four ages, walking",
    "HumanoidTorque4AgesRun": "Four ages, running",
    **{
        f"{robot}{motion}": f"{name}, {motion.lower()}{doing}"
        for robot, name in (("Atlas", "Atlas"), ("UnitreeH1", "Unitree H1"), ("Talos", "Talos"))
        for motion, doing in (("Walk", "ing"), ("Run", "ning"), ("Carry", "ing"))
    },
}
_HIDDEN = {"V": "velocities hidden", "P": "positions hidden", "W": "windy", "M": "mass hidden"}
_VARIANTS = {name: look for family in VARIANTS.values() for name, look in family.items()}
_LOOKS = {"s2pg": METHODS["s2pg"], **_VARIANTS, **METHODS}
_METHOD_ORDER = {name: rank for rank, name in enumerate(_LOOKS)}
_TASK_ORDER = {name[:-1]: rank for rank, name in enumerate(TASKS)}

RC = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.06,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.formatter.useoffset": False,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": "#1A1A1A",
    "axes.labelcolor": "#1A1A1A",
    "xtick.color": "#1A1A1A",
    "ytick.color": "#1A1A1A",
    "pdf.fonttype": 42,
    "svg.hashsalt": "s2pg",
}


def use() -> None:
    """Make the suite's style matplotlib's default: the first call of a notebook, and of every figure."""
    sns.set_theme(context="paper", style="whitegrid", rc=RC)


def look(method: str) -> Look:
    """How `method` is drawn; an unknown method is drawn in grey under its own name."""
    return _LOOKS.get(method, Look(method, "#6E6E6E", "-", "."))


def sequential(shade: float) -> tuple[float, ...]:
    """A colour for an ordered quantity, `shade` from 0 (dark) to 1 (light)."""
    return mpl.colormaps["viridis"](shade)


def label(method: str) -> str:
    """Display name of a method; `s2pg@sac_blind`, its runs in another experiment, is called `S2PG (sac_blind)`."""
    name, _, experiment = method.partition("@")
    return look(name).label + (f" ({experiment})" if experiment else "")


def task_label(task: str) -> str:
    """Display name of a task, e.g. `HopperV` -> `Hopper (velocities hidden)`; an unknown task keeps its name."""
    stem, kind = task[:-1], task[-1:]
    if (delay := setting.delay(task)) is not None:
        return f"Cue recall, delay {delay}"
    if stem not in _TASK_ORDER or kind not in _HIDDEN:
        return _OTHER_TASKS.get(task, task)
    return f"{TASKS[stem + 'V']} ({_HIDDEN[kind]})"


def order_methods(methods: Iterable[str]) -> list[str]:
    """Distinct methods in the fixed order; unknown ones last, by name."""
    return sorted(set(methods), key=lambda m: (_METHOD_ORDER.get(m, len(_METHOD_ORDER)), m))


def order_tasks(tasks: Iterable[str]) -> list[str]:
    """Distinct tasks, from the smallest to the largest body; others last, by name and number (2 before 16)."""
    return sorted(set(tasks), key=_task_key)


def _task_key(task: str) -> tuple[int, int, list[str | int]]:
    parts = re.split(r"(\d+)", task)  # text and numbers alternate
    rank, kind = _TASK_ORDER.get(task[:-1], len(_TASK_ORDER)), "VPW".find(task[-1:])
    return rank, kind, [int(part) if part.isdecimal() else part for part in parts]


def save(fig: Figure, stem: str | Path) -> list[Path]:
    """Write `<stem>.pdf` and `<stem>.png` without dates or versions, so that equal figures are equal files.

    Args:
        fig: the figure.
        stem: path without suffix; its folder is made.
    Returns:
        the two paths.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png")]
    unsigned = {"pdf": {"Creator": None, "Producer": None, "CreationDate": None}, "png": {"Software": None}}
    with mpl.rc_context({k: v for k, v in RC.items() if k.startswith(("savefig", "pdf"))}):
        for path in paths:
            fig.savefig(path, metadata=unsigned[path.suffix[1:]])
    return paths
