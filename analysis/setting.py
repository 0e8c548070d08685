"""What kind of experiment a result is from: algorithm, what the critic sees, which bodies; from the experiment file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

BODIES = {
    "none": "",
    "consistent": "new bodies in every episode, whose inertias follow the drawn masses and sizes (`consistent`)",
    "reference": "new bodies in every episode, whose inertias are left stale as in the reference (`reference`)",
}

UNTRAINED = ("random", "expert")
"""Methods that learn nothing: uniformly random actions, and the expert's recorded episodes."""

ANCHORS = {"zero": "random", "one": "oracle"}
WORDS = {
    "random": "random policy",
    "oracle": "oracle",
    "expert": "expert",
    "none": "no memory",
    "s2pg_cleared": "S2PG with its memory cleared",
}


def algorithm(grid: Mapping[str, Any]) -> str:
    """`ppo`, `sac` or `td3`."""
    return grid.get("spec", {}).get("algorithm", "ppo")


def sight(grid: Mapping[str, Any]) -> str:
    """What the critics see: `blind` (as the policies) or `privileged` (everything)."""
    return grid.get("spec", {}).get("sight", "blind")


def anchors(grid: Mapping[str, Any]) -> tuple[str, str]:
    """The methods whose mean final scores are 0 and 1 of the normalised scale."""
    named = {**ANCHORS, **grid.get("spec", {}).get("anchors", {})}
    return named["zero"], named["one"]


def ends(grid: Mapping[str, Any]) -> dict[str, str]:
    """The anchors in words, by `zero` and `one`."""
    return {key: WORDS.get(name, name) for key, name in zip(ANCHORS, anchors(grid), strict=True)}


def scale(grid: Mapping[str, Any]) -> str:
    """What a normalised score means, e.g. `random policy 0, oracle 1`."""
    return "{zero} 0, {one} 1".format(**ends(grid))


def no_scale(grid: Mapping[str, Any]) -> str:
    """Why there are no normalised scores."""
    return (
        "No task has a normalised scale: that takes two finished runs of the {zero} and of the {one}, and an {one} "
        "that is above the {zero} beyond noise."
    ).format(**ends(grid))


def options(grid: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Arguments of a task's environment: those of the patterns that match, the later winning."""
    patterns = grid.get("spec", {}).get("task_options", {})
    return {key: value for name, own in patterns.items() if fnmatchcase(task, name) for key, value in own.items()}


def delay(task: str) -> int | None:
    """Steps from the cue to the question of a task that is named after them, e.g. `CueRecall16`; None for others."""
    found = re.fullmatch(r"CueRecall(\d+)", task)
    return int(found[1]) if found else None


def bodies(grid: Mapping[str, Any]) -> list[str]:
    """The kinds of random bodies on the tasks of the grid, each once: `none`, `consistent` or `reference`."""
    tasks = dict.fromkeys(run["task"] for run in grid.get("runs", []))
    return list(dict.fromkeys(options(grid, task).get("bodies", "none") for task in tasks))


def short(grid: Mapping[str, Any]) -> str:
    """E.g. `SAC, privileged critic, consistent bodies`."""
    kinds = [f"{kind} bodies" for kind in bodies(grid) if kind != "none"]
    return ", ".join([algorithm(grid).upper(), f"{sight(grid)} critic", *kinds])


def head(grid: Mapping[str, Any]) -> str:
    """The line at the top of a figure, e.g. `kernel (lite): SAC, privileged critic, consistent bodies`."""
    if not grid:
        return ""
    return f"{grid['experiment']} ({grid['scale']}): {short(grid)}"


def sentence(grid: Mapping[str, Any]) -> str:
    """For the report: algorithm, sight and bodies in words."""
    sees = {
        "blind": "critics see what their policies see (`blind`)",
        "privileged": "the critic of every method sees everything, also what is hidden from its policy (`privileged`)",
    }
    said = [sees[sight(grid)], *filter(None, map(BODIES.__getitem__, bodies(grid)))]
    return f"{algorithm(grid).upper()}; {'; '.join(said)}."
