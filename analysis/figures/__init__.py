"""All figures of an experiment. Each is a pure function of the tidy tables; editing one retrains nothing.

    python -m analysis figures --data results/tables/demo/ppo_small --out results/figures/demo/ppo_small --only timing

writes `<name>.pdf`, `<name>.png` and `<name>.json` (title and caption, for the report).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from analysis import setting, style
from analysis.errors import AnalysisError
from analysis.figures import (
    aggregate_curves,
    diagnostics,
    final_returns,
    improvement,
    intervals,
    kernel,
    learning_curves,
    memory_probe,
    profiles,
    success,
    timing,
)
from analysis.figures.common import MODE_LABEL, MODES, Tidy


@dataclass(frozen=True)
class Plot:
    """One figure: what it is called, how it is drawn, what its caption says; `detail` figures are folded away.

    A caption may name {mode}, {other} (evaluation modes), {counts} (seeds and runs), {zero} and {one} (anchors). A
    figure that does not `apply` to an experiment is drawn with a line that says so, and the report leaves it out.
    """

    title: str
    panels: Callable[[Tidy], Figure]
    caption: str | Callable[[Tidy], str]
    detail: bool = False
    applies: Callable[[Tidy], bool] = lambda data: True

    def draw(self, data: Tidy) -> Figure:
        """The figure, with the experiment, its algorithm, the critics' sight and the kind of bodies above it."""
        fig = self.panels(data)
        fig.suptitle(setting.head(data.grid), fontsize=8, color="#555555", fontweight="normal")
        return fig

    def caption_for(self, data: Tidy) -> str:
        """The caption with the modes, the run counts and the setting of `data`."""
        mode, other = MODE_LABEL[data.mode], MODE_LABEL[data.other_mode]
        text = self.caption(data) if callable(self.caption) else self.caption
        named = {"mode": mode, "other": other, "counts": data.counts(), **setting.ends(data.grid)}
        return f"{text.format(**named)} {setting.short(data.grid)}."


def has_scale(data: Tidy) -> bool:
    """Whether scores can be normalised on some task."""
    return data.normalised


FIGURES: dict[str, Plot] = {
    "kernel": Plot("The kernel of the memory", kernel.scores, kernel.CAPTION, applies=kernel.applies),
    "kernel_curves": Plot(
        "Learning curves of the kernel study", kernel.curves, kernel.CAPTION_CURVES, applies=kernel.applies
    ),
    "success_against_delay": Plot(
        "How far back each memory reaches", success.against_delay, success.CAPTION_DELAY, applies=success.has_delays
    ),
    "success_rates": Plot("Success rates", success.rates, success.CAPTION_RATES, applies=success.has_rates),
    "sample_efficiency": Plot(
        "Return against environment steps, all tasks",
        aggregate_curves.over_steps,
        aggregate_curves.CAPTION_STEPS,
        applies=has_scale,
    ),
    "time_efficiency": Plot(
        "Return against training time, all tasks",
        aggregate_curves.over_seconds,
        aggregate_curves.CAPTION_SECONDS,
        applies=has_scale,
    ),
    "aggregates": Plot("Final scores, all tasks", intervals.draw, intervals.CAPTION, applies=has_scale),
    "final_returns": Plot("Final returns, every run", final_returns.draw, final_returns.CAPTION),
    "learning_curves": Plot("Learning curves", learning_curves.over_steps, learning_curves.CAPTION_STEPS),
    "learning_curves_time": Plot(
        "Learning curves against training time", learning_curves.over_seconds, learning_curves.CAPTION_SECONDS
    ),
    "improvement": Plot("Probability of improvement", improvement.draw, improvement.CAPTION),
    "profiles": Plot("Performance profiles", profiles.draw, profiles.CAPTION, applies=has_scale),
    "timing": Plot("Where the time goes", timing.draw, timing.CAPTION),
    "memory_probe": Plot("What the memory knows", memory_probe.draw, memory_probe.CAPTION),
    "learning_curves_other_mode": Plot(
        "Learning curves, the other evaluation mode",
        learning_curves.over_steps_other_mode,
        learning_curves.CAPTION_OTHER_MODE,
        detail=True,
    ),
    "imitation": Plot(
        "Policy and expert",
        diagnostics.imitation,
        diagnostics.caption("imitation"),
        applies=diagnostics.logged("imitation"),
    ),
    "diagnostics_action": Plot("Diagnostics: action", diagnostics.action, diagnostics.caption("action"), detail=True),
    "diagnostics_memory": Plot(
        "Diagnostics: memory",
        diagnostics.memory,
        diagnostics.caption("memory"),
        detail=True,
        applies=diagnostics.logged("memory"),
    ),
}
"""Name -> figure, in the order of the report."""


def select(names: Iterable[str]) -> dict[str, Plot]:
    """The named figures (all if none is named); AnalysisError lists the names that exist."""
    names = list(names) or list(FIGURES)
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        raise AnalysisError(f"unknown figure {', '.join(unknown)}; figures: {', '.join(FIGURES)}")
    return {name: FIGURES[name] for name in names}


def write(data: Tidy, out: str | Path, names: Iterable[str] = ()) -> list[Path]:
    """Draw figures into folder `out` as PDF and PNG, with title and caption as JSON; returns what was written."""
    written: list[Path] = []
    for name, plot in select(names).items():
        stem = Path(out) / name
        written += style.save(plot.draw(data), stem)
        text = {"title": plot.title, "caption": plot.caption_for(data), "detail": plot.detail}
        text["shown"] = plot.applies(data)
        written.append(stem.with_suffix(".json"))
        written[-1].write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n")
    return written


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis figures`."""
    parser.add_argument("--data", type=Path, required=True, help="folder of the tidy tables")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"some of: {', '.join(FIGURES)}")
    parser.add_argument("--mode", choices=MODES, default="", help="evaluation mode; default: as the experiment says")


def main(arguments: argparse.Namespace) -> None:
    """`python -m analysis figures`."""
    select(arguments.only)
    for path in write(Tidy.read(arguments.data, arguments.mode), arguments.out, arguments.only):
        print(path)
