"""`s2pg bench`: seconds per environment step of every method, by activity.

Methods take turns, one update each, over several rounds, so that a machine that slows down slows all of them; medians
over rounds are compared. Figures of two machines, or of two hours on a shared one, are not: the table's head says what
the machine does by a fixed yardstick.
"""

from __future__ import annotations

import os
import sys
import timeit
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from s2pg.build import build
from s2pg.commands import show
from s2pg.commands.runs import spec
from s2pg.config import ConfigError, RunConfig, hparams, load_experiment, methods
from s2pg.data.rollout import Collector, Stopwatch
from s2pg.kernels import keep_freed_memory
from s2pg.training import checkpoint, worlds
from s2pg.training.provenance import provenance

PAPERS = {"ppo": "ppo_pomdp", "sac": "sac_privileged", "td3": "td3_privileged"}
WARMUP = 300  # steps before SAC and TD3 learn
BLOCK = 50  # their updates per round
ACTIVITIES = ("environment", "acting", "learning")
Seconds = dict[str, float]  # per environment step, by activity


def run(args: Namespace) -> int:
    """Time, print a table, write JSON."""
    torch.set_num_threads(1)
    keep_freed_memory()
    if args.json:  # fails now rather than after the measurements
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(args.methods or experiment_methods(args.algorithm)))
    wanted = (args.profile, args.algorithm, args.sight)
    lanes = {name: Lane(configuration(args.task, name, *wanted)) for name in names}
    rounds, yardsticks = measure(lanes, args.updates)
    results = {name: summary([timed[name] for timed in rounds]) for name in names}
    about = {"algorithm": args.algorithm, "task": args.task, "profile": args.profile, "updates": args.updates}
    about |= {"threads": 1, "load_average": os.getloadavg()[0]} | Yardstick.median(yardsticks)._asdict()
    facts = provenance()
    print(heading(about, facts["cpu"]))
    print(report(results))
    if busy := show.busy():
        print(busy, file=sys.stderr)
    if args.json:
        configs = {name: lane.config.to_dict() for name, lane in lanes.items()}
        content = {"benchmark": about, "methods": results, "configs": configs, "provenance": facts}
        checkpoint.write_json(Path(args.json), content)
    return 0


def measure(lanes: dict[str, Lane], updates: int) -> tuple[list[dict[str, Seconds]], list[Yardstick]]:
    """So many rounds after one that warms up, and what the machine did before each."""
    rounds, yardsticks = [], []
    for index in range(updates + 1):
        yardsticks.append(Yardstick.taken())
        timed = {}
        for name, lane in lanes.items():
            show.progress(f"{'warm-up' if not index else f'round {index} of {updates}'}: {name}")
            timed[name] = lane.update()
        rounds.append(timed)
    show.progress("")
    return rounds[1:], yardsticks[1:]


class Yardstick(NamedTuple):
    """What the machine does now, at best of several tries, so that figures of two machines can be told apart."""

    gflops: float  # 1e9 operations per second in torch's matrix product, 512 x 512 x 512, float32
    call_us: float  # microseconds of a call of torch on 32 numbers

    @classmethod
    def taken(cls) -> Yardstick:
        """Now."""
        large, small = torch.ones(512, 512), torch.ones(32)
        product = min(timeit.repeat(lambda: torch.mm(large, large), number=1, repeat=20))
        call = min(timeit.repeat(lambda: torch.add(small, small), number=1000, repeat=5)) / 1000
        return cls(2e-9 * len(large) ** 3 / product, 1e6 * call)

    @classmethod
    def median(cls, several: list[Yardstick]) -> Yardstick:
        """Of each part."""
        return cls(*(median(column) for column in zip(*several, strict=True)))


def heading(about: dict, cpu: str) -> str:
    """What was timed, and on what."""
    updates = about["updates"]
    rounds = "one update" if updates == 1 else f"the median of {updates} updates"
    what = f"{about['algorithm']} on {about['task']}, profile {about['profile']}, one thread, {rounds} per method"
    speed = f"{about['gflops']:.0f} GFLOP/s in a matrix product, {about['call_us']:.2f} us per small operation"
    return f"{what}\n{cpu}: {speed}\n"


def learning_methods(algorithm: str) -> list[str]:
    """All methods that the algorithm can learn with."""
    known = {name: method for name, method in methods().items() if method.kind != "random"}
    return [name for name, method in known.items() if algorithm == "ppo" or method.context is not None]


def experiment_methods(algorithm: str) -> list[str]:
    """Those of the paper's experiment with this algorithm."""
    allowed = learning_methods(algorithm)
    return [name for name in load_experiment(PAPERS[algorithm]).methods if name in allowed]


def configuration(task: str, method: str, profile: str, algorithm: str = "ppo", sight: str | None = None) -> RunConfig:
    """A run outside of every experiment: the profile's hyperparameters, on the CPU; SAC and TD3 learn at once.

    Left out, `sight` is blind for PPO and privileged otherwise, with randomised bodies, as in the paper's experiments.
    """
    allowed = learning_methods(algorithm)
    if method not in allowed:
        raise ConfigError(f"methods: {method!r} cannot be timed with {algorithm}; allowed: {', '.join(allowed)}")
    known = methods()[method]
    values = hparams(algorithm, profile, method, task)
    values |= {key: WARMUP for key in ("warmup", "warmup_policy") if key in values}
    sight = sight or ("blind" if algorithm == "ppo" else "privileged")
    raw = {
        "experiment": "bench",
        "scale": "demo",
        "task": task,
        "method": method,
        "seed": 0,
        "algorithm": algorithm,
        "profile": profile,
        "device": "cpu",
        "epochs": 1,
        "steps_per_epoch": values["rollout"],
        "eval_episodes": 1,
        "memory": vars(known) | ({"sight": sight} if known.sight == "blind" else {}),
        "hparams": values,
        "task_options": {"bodies": "consistent", "hidden": "privileged"} if sight == "privileged" else {},
    }
    return RunConfig.from_dict(raw, "bench")


class Lane:
    """One method's agent and environments, ready for the next update (SAC, TD3: `BLOCK` of them)."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.hp = config, config.hparams
        agent = build(config, spec(config.task, config.task_options))
        self.algorithm = agent.algorithm
        envs = worlds.make_vector(config.task, config.task_options, self.hp.num_envs)
        self.collector = Collector(envs, agent.policy, agent.critic, agent.sight, agent.normalisers, agent.device)
        self.collector.reset(0)
        self.generator = torch.Generator().manual_seed(0)
        self.block = 1 if config.algorithm == "ppo" else BLOCK
        for _ in range(getattr(self.hp, "warmup", 0)):
            self._once(Stopwatch())

    def update(self) -> Seconds:
        """Collect one rollout and learn from it, as training does, as often as a round asks for."""
        watch = Stopwatch()
        for _ in range(self.block):
            self._once(watch)
        return {activity: watch.seconds[activity] / (self.block * self.hp.rollout) for activity in ACTIVITIES}

    def _once(self, watch: Stopwatch) -> None:
        rollout = self.collector.collect(self.hp.rollout // self.hp.num_envs, self.generator, watch)
        self.algorithm.update(rollout, self.generator)
        watch.lap("learning")


def summary(rounds: list[Seconds]) -> dict:
    """Medians over rounds, in milliseconds per step, and every round."""
    ms = [{activity: 1e3 * seconds for activity, seconds in timed.items()} for timed in rounds]
    totals = [sum(timed.values()) for timed in ms]
    return {
        "ms_per_step": {activity: median(timed[activity] for timed in ms) for activity in ACTIVITIES},
        "total_ms_per_step": median(totals),
        "steps_per_second": 1e3 / median(totals),
        "steps_per_second_range": [1e3 / max(totals), 1e3 / min(totals)],
        "rounds": ms,
    }


def report(results: dict[str, dict]) -> str:
    """The table; the last column says how many times as long as s2pg a step takes."""
    base = results.get("s2pg", {}).get("total_ms_per_step")
    rows = []
    for name, result in results.items():
        parts = [f"{result['ms_per_step'][activity]:.3f}" for activity in ACTIVITIES]
        total, (low, high) = result["total_ms_per_step"], result["steps_per_second_range"]
        speed = [f"{result['steps_per_second']:,.0f}", f"{low:,.0f} - {high:,.0f}"]
        rows.append([name, *parts, f"{total:.3f}", *speed, f"{total / base:.2f}" if base else "-"])
    headers = ["method", *ACTIVITIES, "all [ms/step]", "steps/s", "(range)", "time / s2pg's"]
    return show.table(rows, headers, ["method"])
