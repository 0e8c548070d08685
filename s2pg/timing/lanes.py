"""Agents and environments that take turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from s2pg.build import build, spec
from s2pg.config import RunConfig, hparams, methods
from s2pg.data.dataset import Dataset
from s2pg.data.rollout import Collector, Rollout, Stopwatch
from s2pg.hyperparameters import ALGORITHMS, IMITATION, ConfigError, MethodConfig, PPOConfig
from s2pg.training import worlds
from s2pg.training.worlds import Spec

WARMUP = 300  # steps before SAC, TD3 and LS-IQ learn
BLOCK = 50  # their updates per round
EPISODES = 10  # of the expert, where there is one
ACTIVITIES = ("environment", "acting", "learning")
Seconds = dict[str, float]  # per environment step, by activity
Key = TypeVar("Key")


class Timed(Protocol):
    """Whatever takes a turn."""

    def update(self) -> Seconds: ...


def take_turns(
    lanes: Mapping[Key, Timed], rounds: int, before: Callable[[int, Key], None] = lambda index, key: None
) -> Iterator[tuple[dict[Key, Seconds], Yardstick]]:
    """So many rounds of one update each, and what the machine did before each round.

    `before(round, key)` is called before every update.
    """
    for index in range(rounds):
        yardstick, timed = Yardstick.taken(), {}
        for key, lane in lanes.items():
            before(index, key)
            timed[key] = lane.update()
        yield timed, yardstick


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


def learning_methods(algorithm: str) -> list[str]:
    """All methods that the algorithm can learn with."""
    known = {name: method for name, method in methods().items() if method.learns}
    on_policy = issubclass(ALGORITHMS[algorithm], PPOConfig)
    return [name for name, method in known.items() if on_policy or method.context is not None]


def configuration(
    task: str,
    method: str,
    profile: str,
    algorithm: str = "ppo",
    sight: str | None = None,
    memory: MethodConfig | None = None,
    changes: Mapping[str, Any] | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> RunConfig:
    """A run outside of every experiment: the profile's hyperparameters with `changes`; off policy it learns at once.

    Left out, `sight` is blind for PPO and privileged otherwise, with randomised bodies, as in the paper's experiments,
    and `memory` is the method's.
    """
    allowed = learning_methods(algorithm)
    if method not in allowed:
        raise ConfigError(f"methods: {method!r} cannot be timed with {algorithm}; allowed: {', '.join(allowed)}")
    known = memory or methods()[method]
    values = hparams(algorithm, profile, method, task)
    values |= {key: WARMUP for key in ("warmup", "warmup_policy") if key in values}
    values |= changes or {}
    sight = sight or ("blind" if algorithm == "ppo" else "privileged")
    raw = {
        "experiment": "bench",
        "scale": "demo",
        "task": task,
        "method": method,
        "seed": seed,
        "algorithm": algorithm,
        "profile": profile,
        "device": device,
        "epochs": 1,
        "steps_per_epoch": values["rollout"],
        "eval_episodes": 1,
        "memory": vars(known) | ({"sight": sight} if known.sight == "blind" else {}),
        "hparams": values,
        "task_options": {"bodies": "consistent", "hidden": "privileged"} if sight == "privileged" else {},
    }
    if algorithm in IMITATION:
        raw["expert_episodes"] = EPISODES
    return RunConfig.from_dict(raw, "bench")


def noise(spec: Spec, episodes: int, steps: int = 1000) -> Dataset:
    """An expert's episodes made of random numbers, which are imitated in the time that others are."""
    draw, number = np.random.default_rng(0), episodes * steps
    states = draw.standard_normal((number + 1, spec.widths["state"].env), dtype=np.float32)
    actions = draw.uniform(spec.low, spec.high, (number, spec.actions)).astype(np.float32)
    last = np.arange(number) % steps == steps - 1
    return Dataset(states[:-1], actions, np.zeros(number), states[1:], np.zeros_like(last), last)


class Lane:
    """One method's agent and environments, ready for the next update (off policy: for about `block` of them)."""

    def __init__(self, config: RunConfig, block: int = BLOCK) -> None:
        self.config, self.hp = config, config.hparams
        about = spec(config.task, config.task_options)
        agent = build(config, about, noise(about, config.expert_episodes) if config.expert_episodes else None)
        self.algorithm, self.device = agent.algorithm, agent.device
        envs = worlds.make_vector(config.task, config.task_options, self.hp.num_envs)
        self.collector = Collector(envs, agent.policy, agent.critic, agent.sight, agent.normalisers, agent.device)
        self.collector.reset(config.seed)
        self.generator = torch.Generator(agent.device).manual_seed(config.seed)
        self.block = 1 if isinstance(self.hp, PPOConfig) else max(block // self.hp.rollout, 1)
        for _ in range(-(-getattr(self.hp, "warmup", 0) // self.hp.rollout)):
            self.learn(self.collect())

    @property
    def steps(self) -> int:
        """Environment steps of a turn."""
        return self.block * self.hp.rollout

    def update(self) -> Seconds:
        """Collect one rollout and learn from it, as training does, as often as a turn asks for."""
        watch = Stopwatch()
        for _ in range(self.block):
            self.learn(self.collect(watch))
            watch.lap("learning")
        return {activity: watch.seconds[activity] / self.steps for activity in ACTIVITIES}

    def collect(self, watch: Stopwatch | None = None) -> Rollout:
        """One rollout."""
        return self.collector.collect(self.hp.rollout // self.hp.num_envs, self.generator, watch or Stopwatch())

    def learn(self, rollout: Rollout) -> None:
        """One update; on a GPU it ends when the GPU has ended it."""
        self.algorithm.update(rollout, self.generator)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
