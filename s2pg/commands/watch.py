"""`s2pg watch`: an episode as a film, with the memory's trace beside it."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import TimeLimit
from torch import Tensor

from s2pg.commands import film, rendering, show
from s2pg.commands.runs import Opened, open_run
from s2pg.config import ConfigError
from s2pg.policy import Policy, UniformPolicy
from s2pg.training import worlds
from s2pg.training.evaluate import evaluate
from s2pg.training.worlds import derive
from s2pg.types import Mode


def run(args: Namespace) -> int:
    """Run an episode, then film it; where nothing can be rendered, film the curves only and say so."""
    torch.set_num_threads(1)
    out = Path(args.out or Path(args.run) / "episode.mp4")
    if out.suffix not in film.FORMATS:
        raise ConfigError(f"--out: {out}: the name must end in {' or '.join(film.FORMATS)}")
    run = open_run(args.run)
    trace = record(run, args.seed, args.mode, args.steps)
    shots = film.schedule(len(trace.reward), trace.rate, out.suffix)
    frames, how = _frames(run, trace, shots.steps)
    film.write(out, trace, frames, shots, f"{run}, mode {args.mode}")
    show.progress("")
    print(f"{out}: {len(trace.reward)} steps, return {trace.reward.sum():.2f}, {how}")
    return 0


class Trace(NamedTuple):
    """One episode of T steps."""

    obs: np.ndarray  # [T, O] as the policy sees it, normalised
    memory: np.ndarray  # [T, Z] after each step
    action: np.ndarray  # [T, A]
    reward: np.ndarray  # [T]
    groups: dict[str, slice]  # of obs
    rate: float  # steps per second of simulated time
    seed: int  # that the environment was reset with
    mujoco: bool  # is the task simulated by MuJoCo


class Tracing:
    """A policy that notes what it saw and decided."""

    def __init__(self, policy: Policy | UniformPolicy) -> None:
        self.policy, self.memory, self.actions = policy, policy.memory, policy.actions
        self.notes: list[tuple[Tensor, Tensor, Tensor]] = []

    def act(
        self, obs: Tensor, start: Tensor, z: Tensor, mode: Mode, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """As the policy's."""
        u, z_next = self.policy.act(obs, start, z, mode, generator)
        self.notes.append((obs[0], z_next[0], u[0, : self.actions]))
        return u, z_next


class Rewards(gymnasium.Wrapper):
    """Notes the rewards of one episode."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.rewards: list[float] = []

    def step(self, action: Any) -> tuple:
        """As the environment's."""
        result = self.env.step(action)
        self.rewards.append(float(result[1]))
        return result


def record(run: Opened, seed: int, mode: Mode, steps: int | None = None) -> Trace:
    """One episode as `evaluate` runs it, cut off after `steps`; with mode "mean" it is the first one of `s2pg eval`."""
    env = Rewards(worlds.make(run.config.task, run.config.task_options))
    policy: Any = Tracing(run.agent.policy)
    chosen = derive(seed, "fresh evaluation", 0)
    noise = derive(seed, "fresh evaluation noise", 0)
    limited = TimeLimit(env, steps) if steps else env
    evaluate(replace(run.agent, policy=policy), [limited], [chosen], mode, noise)
    obs, memory, action = (torch.stack(column).cpu().numpy() for column in zip(*policy.notes, strict=True))
    groups = env.unwrapped.layout[run.agent.sight[0]]
    rate = env.metadata.get("render_fps") or 10.0
    mujoco = hasattr(env.unwrapped.base, "model")
    env.close()
    return Trace(obs, memory, action, np.array(env.rewards), groups, rate, chosen, mujoco)


def _frames(run: Opened, trace: Trace, steps: list[int]) -> tuple[Iterator[np.ndarray] | None, str]:
    """Pictures of the episode at these steps if this machine can draw them, and a word about it."""
    if trace.mujoco:
        backend, tried = rendering.first_that_works()
        if backend is None:
            why = "; ".join(f"{name}: {problem}" for name, problem in tried)
            return None, f"memory, observation and action only: nothing renders here ({why}). {rendering.HINT}"
        os.environ["MUJOCO_GL"] = backend
    try:
        frames = replay(run, trace, steps)
        first = next(frames)
    except Exception as error:  # whatever a driver or a missing package raises
        return None, f"memory, observation and action only: {run.config.task} cannot be rendered ({_line(error)})"
    return _after(first, frames), f"rendered with {os.environ['MUJOCO_GL'] if trace.mujoco else 'the task itself'}"


def replay(run: Opened, trace: Trace, steps: list[int]) -> Iterator[np.ndarray]:
    """The episode again, from its seed and actions, drawn before each of these steps; `[height, width, 3]`."""
    env = worlds.make(run.config.task, run.config.task_options, render_mode="rgb_array")
    env.reset(seed=trace.seed)
    try:
        for step, action in enumerate(trace.action):
            if step in steps:
                show.progress(f"rendering step {step} of {len(trace.action)}")
                yield np.asarray(env.render())
            env.step(action)
    finally:
        env.close()


def _after(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
