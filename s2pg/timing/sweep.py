"""The study of time: what an update costs against the context L and against how much is done in parallel.

A cell is a memory kind with a context, a number of environments that act together and a number of loss terms that a
gradient step takes together. All cells of a case take turns on the same rollout sizes, so that every update has as many
loss terms (counted, not assumed). Kinds that have no context (`s2pg`, `none`, the densities) are measured once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from s2pg.config import ConfigError, RunConfig, construct, methods
from s2pg.kernels import keep_freed_memory
from s2pg.study import Study
from s2pg.timing.density import DENSITIES, DensityLane
from s2pg.timing.lanes import WARMUP, Lane, configuration, take_turns
from s2pg.timing.memory import peaks

ROWS = {  # memory kind -> row of methods.yaml that it is, but for the context
    "s2pg": "s2pg",
    "none": "none",
    "window": "window32",
    "bptt": "bptt32",  # the reference's: an overlapping window per loss term
    "bptt_all": "bptt32_all",  # the efficient one: a loss at every step of a chunk
}
FILLED = 8  # contexts that an environment's part of a replay holds before timing, so that few chunks are cut short
WITH_CONTEXT = ("window", "bptt", "bptt_all")


@dataclass(frozen=True)
class Case:
    """What is timed: an algorithm on a task, with which memories."""

    algorithm: Literal["ppo", "sac", "td3"]
    profile: str
    task: str
    kinds: tuple[str, ...]  # of `ROWS` and, for PPO, of `density.DENSITIES`
    environments: int  # usual number, where the context varies
    samples: int  # usual number of loss terms per gradient step
    hparams: dict[str, Any]  # what differs from the profile

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Case:
        """From a study's file."""
        return construct(cls, row)


@dataclass(frozen=True)
class Scale:
    """How much is timed. At the contexts in `at`, environments and samples vary too, one of them at a time."""

    contexts: tuple[int, ...]
    at: tuple[int, ...]
    environments: tuple[int, ...]
    samples: tuple[int, ...]
    rounds: int
    block: int  # updates of SAC and TD3 per turn (PPO: one)
    hparams: dict[str, dict[str, Any]]  # by algorithm, over those of the cases

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Scale:
        """From a study's file."""
        return construct(cls, row)


class Cell(NamedTuple):
    """A point of the sweep."""

    kind: str
    context: int
    environments: int
    samples: int


def cells(case: Case, scale: Scale) -> list[Cell]:
    """All of a case, each once. A chunk with a loss at every step is no longer than a gradient step has loss terms."""
    found = [
        Cell(kind, context, *numbers)
        for kind in case.kinds
        for context in (scale.contexts if kind in WITH_CONTEXT else (1,))
        for numbers in _parallel(case, scale, all_of_them=context in scale.at or kind not in WITH_CONTEXT)
        if kind not in DENSITIES or numbers[0] == case.environments
    ]
    return [c for c in dict.fromkeys(found) if c.kind != "bptt_all" or c.context <= c.samples]


def _parallel(case: Case, scale: Scale, all_of_them: bool) -> list[tuple[int, int]]:
    """Pairs (environments, samples), the usual one first."""
    usual = (case.environments, case.samples)
    if not all_of_them:
        return [usual]
    return [usual, *((n, case.samples) for n in scale.environments), *((case.environments, n) for n in scale.samples)]


def configure(case: Case, scale: Scale, cell: Cell, device: str = "cpu", seed: int = 0) -> RunConfig:
    """The run of a cell. Raises ConfigError where a rollout has fewer steps per environment than the context."""
    row = "s2pg" if cell.kind in DENSITIES else ROWS[cell.kind]
    changes = {**case.hparams, **scale.hparams.get(case.algorithm, {}), "num_envs": cell.environments}
    if case.algorithm == "ppo":
        changes["minibatch"] = cell.samples
    else:  # an update per step, however many environments step together
        changes |= {"batch": cell.samples, "rollout": cell.environments, "updates": cell.environments}
        filled = max(WARMUP, FILLED * cell.context * cell.environments)
        changes |= {"warmup": filled} | ({"warmup_policy": filled} if case.algorithm == "sac" else {})
    memory = replace(methods()[row], context=cell.context)
    config = configuration(
        case.task, row, case.profile, case.algorithm, memory=memory, changes=changes, device=device, seed=seed
    )
    steps = config.hparams.rollout // cell.environments
    if case.algorithm == "ppo" and steps < cell.context:
        raise ConfigError(f"{cell}: a rollout has {steps} steps per environment, fewer than the context")
    return config


def open_lane(scale: Scale, config: RunConfig, kind: str) -> Lane | DensityLane:
    """Ready for its first turn."""
    return DensityLane(config, kind) if kind in DENSITIES else Lane(config, scale.block)


class Count(NamedTuple):
    """Of one turn."""

    terms: int  # losses of single steps
    gradient_steps: int


def count(lane: Lane | DensityLane) -> Count:
    """Takes a turn and counts."""
    if isinstance(lane, DensityLane):
        lane.update()
        return Count(lane.terms, -(-lane.terms // len(lane.mean)))
    name, seen = "losses" if lane.config.algorithm == "ppo" else "learn", []
    original = getattr(lane.algorithm, name)

    def counted(batch: Any, *rest: Any) -> Any:
        seen.append(len(batch.u))
        return original(batch, *rest)

    setattr(lane.algorithm, name, counted)
    try:
        lane.update()
    finally:
        delattr(lane.algorithm, name)
    return Count(sum(seen), len(seen))


def devices() -> list[str]:
    """The CPU, and a GPU where there is one."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def measure(case: Case, scale: Scale, seed: int) -> Iterator[dict[str, Any]]:
    """A row per device, cell and round; see `analysis.studies.timing.COLUMNS`."""
    torch.set_num_threads(1)
    keep_freed_memory()
    for device in devices():
        configs = {cell: configure(case, scale, cell, device, seed) for cell in cells(case, scale)}
        yield from _rounds(case, scale, configs, device)


def _rounds(case: Case, scale: Scale, configs: Mapping[Cell, RunConfig], device: str) -> Iterator[dict[str, Any]]:
    memory = _memory(configs)
    lanes = {cell: open_lane(scale, config, cell.kind) for cell, config in configs.items()}
    counts = {cell: count(lane) for cell, lane in lanes.items()}
    for index, (timed, yardstick) in enumerate(take_turns(lanes, scale.rounds)):
        for cell, seconds in timed.items():
            usual = {
                "usual_environments": cell.environments == case.environments,
                "usual_samples": cell.samples == case.samples,
            }
            known = {"peak_memory_mb": memory[cell], "steps": lanes[cell].steps, **counts[cell]._asdict()}
            head = {"algorithm": case.algorithm, "task": case.task, "device": device, "round": index}
            yield {**head, **cell._asdict(), **usual, **seconds, **known, **yardstick._asdict()}


def _memory(configs: Mapping[Cell, RunConfig]) -> dict[Cell, float]:
    """MB per cell; not of densities, which are no update."""
    whole: Sequence[Cell] = [cell for cell in configs if cell.kind not in DENSITIES]
    found = dict(zip(whole, peaks([configs[cell] for cell in whole]), strict=True))
    return {cell: found.get(cell, float("nan")) for cell in configs}


def measure_case(study: Study, scale: str, case: str, seed: int) -> Iterator[dict[str, Any]]:
    """`measure` as a study's file has it."""
    return measure(Case.read(study.case(case)), Scale.read(study.scale(scale)), seed)
