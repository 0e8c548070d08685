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
from s2pg.data.dataset import Dataset, DatasetError, load
from s2pg.data.demonstrations import check_widths
from s2pg.data.rollout import Collector, Rollout, Stopwatch
from s2pg.imitation.bc import BC
from s2pg.imitation.distance import state_distance
from s2pg.training import checkpoint, lock, stop, worlds
from s2pg.training.agent import Agent
from s2pg.training.evaluate import Episode, discount, evaluate, success_rate, survival
from s2pg.training.log import PROBE, Log, close, text_log
from s2pg.training.probe import EPISODES, probe
from s2pg.training.provenance import provenance
from s2pg.training.record import recorded
from s2pg.training.worlds import derive
from s2pg.types import Mode

MODES: tuple[Mode, ...] = ("sample", "mean")
SATURATED = 0.95  # tanh has a tenth of its slope there


Build = Callable[[RunConfig, worlds.Spec, Dataset | None], Agent]


def train(config: RunConfig, build: Build, out: Path, progress: bool = True, dataset: Path | None = None) -> dict:
    """Train one run into the folder `out` and return the content of its `done.json`.

    A finished run is left alone, an interrupted one is resumed from its checkpoint. A folder that holds a run with
    another configuration, or of imitation of another dataset, or a damaged checkpoint, is moved aside to
    `<out>.archived-<k>`.

    Args:
        dataset: the expert's episodes, for imitation; `expert.json` in the folder is its card.

    Raises:
        RunError: a file cannot be read or written.
        DatasetError: the dataset cannot be used; the folder is left as it was.
        Stopped: SIGTERM came; the epoch that it came in has been finished and its checkpoint written.
    """
    expert = _expert(config, dataset)
    with lock.only_one(out, lambda: _say(f"{out}: another process trains this run; waiting for it to end")):
        _claim(config, out, expert)
        if (out / "done.json").exists():
            _say(f"{out}: already finished")
            return checkpoint.read_json(out / "done.json")
        with stop.on_request() as asked:
            run = _begin(config, build, out, expert)
            try:
                done = run.to_the_end(progress, asked)
            finally:
                run.close()
        checkpoint.write_json(out / "done.json", done)
        return done


class Run:
    """One run in its folder, from its checkpoint (or from nothing) to its end."""

    def __init__(self, config: RunConfig, build: Build, out: Path, expert: Dataset | None = None) -> None:
        self.config, self.out, self.expert = config, out, expert
        self.agent = build(config, worlds.spec(config.task, config.task_options), expert)
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
        self.collector = None if isinstance(self.agent.algorithm, BC | None) else self._collector()

    @property
    def step(self) -> int:
        """Environment steps trained so far."""
        return max(self.epoch, 0) * self.config.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs to train: none for the anchors that do not learn, which are only evaluated."""
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
        algorithm = self.agent.algorithm
        source = algorithm if isinstance(algorithm, BC) else self.collector
        if self.collector:
            self.collector.reset(derive(config.seed, "environments", self.epoch))
        generator = torch.Generator(self.agent.device).manual_seed(derive(config.seed, "noise", self.epoch))
        logs = []
        for _ in range(config.steps_per_epoch // hp.rollout):
            rollout = source.collect(hp.rollout // hp.num_envs, generator, watch)
            logs.append(algorithm.update(rollout, generator))
            watch.lap("learning")
            logs[-1] |= self._memory(rollout)
            bar.update(hp.rollout)
        keys = dict.fromkeys(key for log in logs for key in log)
        metrics = {key: float(np.mean([log[key] for log in logs if key in log])) for key in keys}
        return metrics | self._training_episodes()

    def _memory(self, rollout: Rollout) -> dict[str, float]:
        """Share of the units of a bounded memory that came near +-1, where they hardly depend on what was seen."""
        memory = self.agent.policy.memory
        if not (self.collector and memory.size):
            return {}
        if not (memory.bounded or memory.decided and self.agent.policy.shape.memory):
            return {}
        return {"memory/saturated": float((rollout.z_next.abs() > SATURATED).float().mean())}

    def _training_episodes(self) -> dict[str, float]:
        if not self.collector or not self.collector.finished:
            return {}
        finished, self.collector.finished = self.collector.finished, []
        returns, lengths = np.mean(finished, axis=0)
        return {"train/return": float(returns), "train/length": float(lengths)}

    def _evaluate(self) -> dict[str, float]:
        metrics = {}
        for mode in MODES:
            episodes, visited = self._episodes(mode)
            metrics |= {f"eval/{name}/{mode}": value for name, value in self._measured(episodes, visited).items()}
            when = {"step": self.step, "mode": mode}
            self.log.rows["episodes"] += [
                {**when, "episode": i, "return": e.ret}
                | {k: v for k, v in e._asdict().items() if k not in ("ret", "bias")}
                for i, e in enumerate(episodes)
            ]
            if mode == "sample" and episodes[0].bias is not None:  # the critic values the policy with its noise
                metrics["value/bias"] = float(np.mean([e.bias for e in episodes]))
        return metrics

    def _episodes(self, mode: Mode) -> tuple[list[Episode], list[np.ndarray]]:
        """Of the policy in its own environments, with the states visited; an expert's are those that were recorded."""
        seed, visited = self.config.seed, []
        if self.agent.policy is None:
            return recorded(self.expert), visited
        seeds = [derive(seed, "evaluation", episode) for episode in range(self.config.eval_episodes)]
        noise = derive(seed, "evaluation noise", self.epoch)
        keep = None if self.expert is None else visited
        return evaluate(self.agent, self.eval_envs, seeds, mode, noise, keep, discount(self.config)), visited

    def _measured(self, episodes: list[Episode], visited: list[np.ndarray]) -> dict[str, float]:
        """What an evaluation is summed up in; survival where episodes can be terminated, distance to an expert."""
        found = {
            "return": float(np.mean([e.ret for e in episodes])),
            "length": float(np.mean([e.length for e in episodes])),
        }
        if (rate := success_rate(episodes)) is not None:
            found["success"] = rate
        if worlds.can_fall(self.config.task):
            found["survival"] = survival(episodes)
        if visited and self.expert is not None:
            states, known = np.concatenate(visited), self.expert.states
            found["state_distance"] = state_distance(*map(torch.from_numpy, (states[:, : known.shape[1]], known)))
        return found

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


def _expert(config: RunConfig, path: Path | None) -> Dataset | None:
    """The episodes that a run of imitation learns from, recorded in its task. Nothing is written."""
    if config.expert_episodes is None:
        return None
    if path is None:
        raise DatasetError(f"{config.algorithm} learns from an expert's dataset, and none was given")
    dataset = load(path, config.expert_episodes)
    if (task := dataset.card.get("task", config.task)) != config.task:
        raise DatasetError(f"{path}: was recorded in {task}, not in {config.task}; record an expert in this task")
    if (options := dataset.card.get("task_options", config.task_options)) != config.task_options:
        raise DatasetError(f"{path}: was recorded with task_options {options}, the run has {config.task_options}")
    check_widths(dataset, worlds.spec(config.task, config.task_options))
    return dataset


def _begin(config: RunConfig, build: Build, out: Path, expert: Dataset | None) -> Run:
    """The run from its checkpoint; from its beginning if that is damaged, with all that was there moved aside."""
    try:
        return Run(config, build, out, expert)
    except checkpoint.Damaged as error:
        aside = checkpoint.archive(out)
        _say(f"{error}; moved to {aside}, trained from the beginning")
        _claim(config, out, expert)
        return Run(config, build, out, expert)


def _claim(config: RunConfig, out: Path, expert: Dataset | None) -> None:
    """Make the folder this run's own: resume what is there, or move aside what has another configuration or expert."""
    path, text, facts = out / "config.yaml", config.to_yaml(), provenance()
    same = path.exists() and path.read_text() == text
    if same and _same_expert(out / "expert.json", expert):
        if not (out / "done.json").exists():
            _resume(out / "provenance.json", facts)
        return
    if any(item.name not in {".lock", "provenance.json", "expert.json"} for item in out.iterdir()):
        what = "expert" if same else "configuration"
        _say(f"{out}: holds a run with another {what}, moved to {checkpoint.archive(out)}")
    checkpoint.write_json(out / "provenance.json", facts)
    if expert is not None:
        checkpoint.write_json(out / "expert.json", expert.card)
    checkpoint.write(path, lambda p: p.write_text(text))


def _same_expert(card: Path, expert: Dataset | None) -> bool:
    """Whether the run that left this card learns from this dataset."""
    if expert is None or not card.exists():
        return (expert is None) != card.exists()
    return checkpoint.read_json(card)["checksum"] == expert.card["checksum"]


def _resume(path: Path, facts: dict[str, Any]) -> None:
    """Add this process to a run's provenance; say so if the code is not the one that began it."""
    first = checkpoint.read_json(path)
    if first["git_revision"] != facts["git_revision"]:
        _say(f"{path.parent}: begun at revision {first['git_revision']}, goes on at {facts['git_revision']}")
    checkpoint.write_json(path, first | {"resumed": [*first.get("resumed", []), facts]})


def _say(message: str) -> None:
    print(message, file=sys.stderr)
