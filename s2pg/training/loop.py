"""The training loop: collect, learn, evaluate, log, checkpoint; the same bits however often it is interrupted.

An epoch starts by resetting its environments and reseeding its noise from (seed, epoch), so a checkpoint at its end
holds everything that the next one depends on.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from s2pg.algorithms.finite import Diverged
from s2pg.config import RunConfig
from s2pg.data.rollout import Collector, Stopwatch
from s2pg.training import checkpoint, lock, stop, worlds
from s2pg.training.agent import Agent
from s2pg.training.evaluate import evaluate, success_rate
from s2pg.training.log import PROBE, Log, close, text_log
from s2pg.training.probe import EPISODES, probe
from s2pg.training.provenance import provenance
from s2pg.training.worlds import derive
from s2pg.types import Mode

MODES: tuple[Mode, ...] = ("sample", "mean")


def train(
    config: RunConfig, build: Callable[[RunConfig, worlds.Spec], Agent], out: Path, progress: bool = True
) -> dict:
    """Train one run into the folder `out` and return the content of its `done.json`.

    A finished run is left alone, an interrupted one is resumed from its checkpoint. A folder that holds a run with
    another configuration, or a damaged checkpoint, is moved aside to `<out>.archived-<k>`.

    Raises:
        RunError: a file cannot be read or written.
        Stopped: SIGTERM came; the epoch that it came in has been finished and its checkpoint written.
    """
    with lock.only_one(out, lambda: _say(f"{out}: another process trains this run; waiting for it to end")):
        _claim(config, out)
        if (out / "done.json").exists():
            _say(f"{out}: already finished")
            return checkpoint.read_json(out / "done.json")
        with stop.on_request() as asked:
            run = _begin(config, build, out)
            try:
                done = run.to_the_end(progress, asked)
            finally:
                run.close()
        checkpoint.write_json(out / "done.json", done)
        return done


class Run:
    """One run in its folder, from its checkpoint (or from nothing) to its end."""

    def __init__(self, config: RunConfig, build: Callable[[RunConfig, worlds.Spec], Agent], out: Path) -> None:
        self.config, self.out = config, out
        self.agent = build(config, worlds.spec(config.task, config.task_options))
        path = out / "checkpoint.pt"
        state = checkpoint.load(path, self.agent.device) if path.exists() else {}
        if state:
            self.agent.load_state_dict(state["agent"])
        self.epoch, self.seconds = state.get("epoch", -1), state.get("seconds", 0.0)
        self.peak_before = state.get("peak_memory_mb", 0.0)
        self.log = Log(out, state.get("rows", {}), self.step)
        self.text = text_log(out)
        self.text.info("resumed after epoch %d", self.epoch) if state else self.text.info("started")
        options = config.task_options
        self.eval_envs = [worlds.make(config.task, options) for _ in range(config.eval_episodes)]
        self.collector = None if self.agent.algorithm is None else self._collector()

    @property
    def step(self) -> int:
        """Environment steps trained so far."""
        return max(self.epoch, 0) * self.config.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs to train: none for the random anchor, which is only evaluated."""
        return 0 if self.agent.algorithm is None else self.config.epochs

    @property
    def peak_memory_mb(self) -> float:
        """Largest resident memory of this process and of those that the run was interrupted in."""
        return max(self.peak_before, round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1))

    def to_the_end(self, progress: bool, asked: Callable[[], bool] = bool) -> dict[str, Any]:
        """Evaluate before training and after every epoch; returns the content of `done.json`.

        Raises Stopped between two epochs once `asked` says so.
        """
        reason = None
        total, first = self.epochs * self.config.steps_per_epoch, self.step
        quiet = not (progress and sys.stderr.isatty())
        with tqdm(total=total, initial=first, unit="step", unit_scale=True, disable=quiet) as bar:
            while self.epoch < self.epochs:
                if asked():
                    raise self._stopped()
                try:
                    self._next_epoch(bar)
                except Diverged as error:
                    reason = f"diverged after {self.step} steps: {error}"
                    self.text.info(reason)
                    break
        if not reason:
            self._probe()
        return {
            "status": "failed" if reason else "finished",
            "reason": reason,
            "steps": self.step,
            "seconds": round(self.seconds, 3),
            "peak_memory_mb": self.peak_memory_mb,
        }

    def _stopped(self) -> stop.Stopped:
        text = f"stopped on request after {self.epoch} of {self.epochs} epochs"
        self.text.info(text)
        return stop.Stopped(text)

    def close(self) -> None:
        """Close files and environments."""
        self.log.close()
        close(self.text)
        for env in self.eval_envs:
            env.close()
        if self.collector:
            self.collector.envs.close()

    def _next_epoch(self, bar: tqdm) -> None:
        began, watch, metrics = time.perf_counter(), Stopwatch(), {}
        if self.epoch >= 0:
            metrics = self._train_epoch(watch, bar)
        self.epoch += 1
        watch.start()
        metrics |= self._evaluate()
        watch.lap("evaluation")
        self.seconds += time.perf_counter() - began
        self._record(metrics, watch.seconds)
        agent = self.agent.state_dict(resumable=self.epoch < self.epochs)
        state = {"epoch": self.epoch, "seconds": self.seconds, "agent": agent, "rows": self.log.rows}
        checkpoint.save(self.out / "checkpoint.pt", state | {"peak_memory_mb": self.peak_memory_mb})
        bar.set_postfix({m: f"{metrics[f'eval/return/{m}']:.1f}" for m in MODES})

    def _train_epoch(self, watch: Stopwatch, bar: tqdm) -> dict[str, float]:
        config, hp = self.config, self.config.hparams
        self.collector.reset(derive(config.seed, "environments", self.epoch))
        generator = torch.Generator(self.agent.device).manual_seed(derive(config.seed, "noise", self.epoch))
        logs = []
        for _ in range(config.steps_per_epoch // hp.rollout):
            rollout = self.collector.collect(hp.rollout // hp.num_envs, generator, watch)
            logs.append(self.agent.algorithm.update(rollout, generator))
            watch.lap("learning")
            bar.update(hp.rollout)
        keys = dict.fromkeys(key for log in logs for key in log)
        metrics = {key: float(np.mean([log[key] for log in logs if key in log])) for key in keys}
        return metrics | self._training_episodes()

    def _training_episodes(self) -> dict[str, float]:
        finished, self.collector.finished = self.collector.finished, []
        if not finished:
            return {}
        returns, lengths = np.mean(finished, axis=0)
        return {"train/return": float(returns), "train/length": float(lengths)}

    def _evaluate(self) -> dict[str, float]:
        metrics, seed = {}, self.config.seed
        seeds = [derive(seed, "evaluation", episode) for episode in range(self.config.eval_episodes)]
        for mode in MODES:
            episodes = evaluate(self.agent, self.eval_envs, seeds, mode, derive(seed, "evaluation noise", self.epoch))
            metrics[f"eval/return/{mode}"] = float(np.mean([e.ret for e in episodes]))
            metrics[f"eval/length/{mode}"] = float(np.mean([e.length for e in episodes]))
            if (rate := success_rate(episodes)) is not None:
                metrics[f"eval/success/{mode}"] = rate
            when = {"step": self.step, "mode": mode}
            self.log.rows["episodes"] += [
                {**when, "episode": i, "return": e.ret, "length": e.length, "seed": e.seed, "success": e.success}
                for i, e in enumerate(episodes)
            ]
        return metrics

    def _probe(self) -> None:
        """Write `probe.parquet`, what the final memory knows of what is hidden."""
        seed = self.config.seed
        seeds = [derive(seed, "probe", episode) for episode in range(EPISODES)]
        rows = probe(self.agent, self.eval_envs[:1] * EPISODES, seeds, derive(seed, "probe noise"))
        self.log.table("probe", rows, PROBE)

    def _record(self, metrics: dict[str, float], seconds: dict[str, float]) -> None:
        activities = {name: seconds.get(name, 0.0) for name in ("environment", "acting", "learning", "evaluation")}
        self.log.rows["timing"].append({"step": self.step, **activities, "wall": self.seconds})
        spent = {name: sum(row[name] for row in self.log.rows["timing"]) for name in activities}
        times = {f"time/{name}": value for name, value in spent.items() if name != "evaluation"}
        training = sum(times.values())
        times["time/steps_per_second"] = self.step / training if training else 0.0
        self.log.scalars(metrics | times, self.step)
        self.log.tables()
        returns = ", ".join(f"{m} {metrics[f'eval/return/{m}']:.2f}" for m in MODES)
        self.text.info("epoch %d, step %d, return: %s", self.epoch, self.step, returns)

    def _collector(self) -> Collector:
        agent, config = self.agent, self.config
        envs = worlds.make_vector(config.task, config.task_options, config.hparams.num_envs)
        return Collector(envs, agent.policy, agent.critic, agent.sight, agent.normalisers, agent.device)


def _begin(config: RunConfig, build: Callable[[RunConfig, worlds.Spec], Agent], out: Path) -> Run:
    """The run from its checkpoint; from its beginning if that is damaged, with all that was there moved aside."""
    try:
        return Run(config, build, out)
    except checkpoint.Damaged as error:
        aside = checkpoint.archive(out)
        _say(f"{error}; moved to {aside}, trained from the beginning")
        _claim(config, out)
        return Run(config, build, out)


def _claim(config: RunConfig, out: Path) -> None:
    """Make the folder this run's own: resume what is there, or move another configuration's run aside."""
    path, text, facts = out / "config.yaml", config.to_yaml(), provenance()
    if path.exists() and path.read_text() == text:
        if not (out / "done.json").exists():
            _resume(out / "provenance.json", facts)
        return
    if any(item.name not in {".lock", "provenance.json"} for item in out.iterdir()):
        _say(f"{out}: holds a run with another configuration, moved to {checkpoint.archive(out)}")
    checkpoint.write_json(out / "provenance.json", facts)
    checkpoint.write(path, lambda p: p.write_text(text))


def _resume(path: Path, facts: dict[str, Any]) -> None:
    """Add this process to a run's provenance; say so if the code is not the one that began it."""
    first = checkpoint.read_json(path)
    if first["git_revision"] != facts["git_revision"]:
        _say(f"{path.parent}: begun at revision {first['git_revision']}, goes on at {facts['git_revision']}")
    checkpoint.write_json(path, first | {"resumed": [*first.get("resumed", []), facts]})


def _say(message: str) -> None:
    print(message, file=sys.stderr)
