"""Configuration of runs: small YAML files in, one frozen `RunConfig` out.

A leaf: imports the standard library, yaml and jsonschema only, so that Snakemake can read the grid without torch.

    experiments/<name>.yaml   claims, grid and budget      -> `load_experiment`
    methods.yaml              the memory axis              -> `methods`
    hparams/<algorithm>.yaml  hyperparameters per profile  -> `hparams`
    all of them               -> `resolve`, one run's complete configuration

Files are read from `workflow/config` of the repository, or from the folder that the environment variable `S2PG_CONFIG`
names. Every file is checked against `workflow/config/schema`; a mistake raises `ConfigError`, which names the file, the
key and the allowed values.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jsonschema
import referencing
import referencing.jsonschema
import yaml

from s2pg.hyperparameters import ALGORITHMS, IMITATION, ConfigError, Hparams, MethodConfig, PPOConfig, check_multiple

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "workflow" / "config" / "schema"
ANCHORS = {"zero": "random", "one": "oracle"}  # of normalisation, unless an experiment names others
EXPERTS = ("expert", "ppo_small")  # imitation learns from the oracle of the first that has its task at its scale


# --- what a run is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunConfig:
    """Everything one training run needs; `config.yaml` of a run holds exactly this."""

    experiment: str
    scale: str
    task: str
    method: str
    seed: int
    algorithm: str
    profile: str
    device: str
    epochs: int
    steps_per_epoch: int  # environment steps, a multiple of hparams.rollout
    eval_episodes: int  # per evaluation and mode
    memory: MethodConfig
    hparams: Hparams
    task_options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the environment
    expert_episodes: int | None = None  # episodes of the expert's dataset to learn from; of imitation only

    def __post_init__(self) -> None:
        if (self.expert_episodes is not None) != (self.algorithm in IMITATION):
            only = ", ".join(IMITATION)
            raise ConfigError(f"expert_episodes: a number for {only}, null for others, not {self.expert_episodes}")
        check_multiple("hparams.rollout", self.hparams.rollout, "hparams.num_envs", self.hparams.num_envs)
        check_multiple("steps_per_epoch", self.steps_per_epoch, "hparams.rollout", self.hparams.rollout)
        on_policy = isinstance(self.hparams, PPOConfig)
        if self.memory.context is None and not on_policy:
            on = "ppo, gail, bc"
            raise ConfigError(f"memory.context: null (whole episodes) is for {on}; {self.algorithm} needs a number")
        if (self.memory.kind, self.memory.loss_on) == ("window", "all") and not on_policy:
            raise ConfigError(f"memory.loss_on: all is not for kind window with {self.algorithm}; allowed: last")

    @property
    def id(self) -> RunId:
        """The run's place in the grid."""
        return RunId(self.experiment, self.scale, self.task, self.method, self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings; the inverse of `from_dict`. What is not for the algorithm is left out."""
        content = _plain(dataclasses.asdict(self))
        return content if self.algorithm in IMITATION else {k: v for k, v in content.items() if k != "expert_episodes"}

    def to_yaml(self) -> str:
        """The text of a run's `config.yaml`; the inverse of `from_yaml`."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str | Path = "run configuration") -> RunConfig:
        """Build from a mapping. Raises ConfigError on an unknown, missing or impossible value, naming `source`."""
        _validate(raw, "run.yaml", source)
        classes = {"memory": MethodConfig, "hparams": ALGORITHMS[raw["algorithm"]]}
        parts = {key: construct(part, raw[key], source) for key, part in classes.items()}
        return construct(cls, copy.deepcopy({**raw, **parts}), source)

    @classmethod
    def from_yaml(cls, text: str, source: str | Path = "run configuration") -> RunConfig:
        """Build from the text of a `config.yaml`."""
        return cls.from_dict(_parse(text, source), source)

    @classmethod
    def load(cls, path: str | Path) -> RunConfig:
        """Read a run's `config.yaml`."""
        return cls.from_yaml(_text(Path(path)), path)


class RunId(NamedTuple):
    """A point of the grid."""

    experiment: str
    scale: str
    task: str
    method: str
    seed: int

    @property
    def folder(self) -> str:
        """The run's folder below `results/`."""
        return f"runs/{self.scale}/{self.experiment}/{self.task}/{self.method}/seed_{self.seed}"

    @property
    def dataset(self) -> str:
        """The expert's dataset below `results/`, of the same task and scale; imitation learns from it."""
        return f"experts/{self.scale}/{self.task}.npz"


# --- what an experiment is -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """The grid and the budget of an experiment at one scale."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: int
    epochs: int
    steps_per_epoch: int
    eval_episodes: int
    overrides: dict[str, Any] = field(default_factory=dict)
    first_seed: int = 0  # seeds are this and those after it


@dataclass(frozen=True)
class Experiment:
    """An experiment file. `spec` is the file as it is written, `path` where it lies."""

    name: str
    title: str
    claims: tuple[dict[str, Any], ...]
    algorithm: str
    profile: str
    mode: Literal["sample", "mean"]
    scales: dict[str, Scale]
    resources: dict[str, Any]
    task_options: dict[str, dict[str, Any]]  # pattern of tasks -> keyword arguments, the later winning
    spec: dict[str, Any]
    path: Path
    sight: Literal["blind", "privileged"] = "blind"  # of methods whose row says blind
    expert_episodes: int | None = None  # of the dataset that imitation learns from
    anchors: dict[str, str] = field(default_factory=lambda: dict(ANCHORS))  # methods whose scores are 0 and 1
    notes: tuple[str, ...] = ()

    @property
    def imitates(self) -> bool:
        """Whether its runs learn from an expert's dataset."""
        return self.algorithm in IMITATION

    def scale(self, name: str) -> Scale:
        """Grid and budget at a scale. Raises ConfigError when the experiment has no such scale."""
        return self.scales[choose("scale", name, self.scales, self.path)]

    def memory(self, method: str) -> MethodConfig:
        """A method's point on the memory axis, with this experiment's sight."""
        row = methods()[method]
        return dataclasses.replace(row, sight=self.sight) if row.sight == "blind" and row.learns else row

    def options(self, task: str) -> dict[str, Any]:
        """Keyword arguments of a task's environment."""
        return _merge(*(options for pattern, options in self.task_options.items() if fnmatchcase(task, pattern)))

    def runs(self, scale: str, seeds: int | Iterable[int] | None = None) -> list[RunId]:
        """All runs of the grid, in a fixed order. `seeds`: a number or a list in place of the file's number."""
        grid = self.scale(scale)
        chosen = grid.seeds if seeds is None else seeds
        chosen = range(grid.first_seed, grid.first_seed + chosen) if isinstance(chosen, int) else list(chosen)
        return [RunId(self.name, scale, t, m, s) for t in grid.tasks for m in grid.methods for s in chosen]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of all scales, each once."""
        return tuple(dict.fromkeys(t for s in self.scales.values() for t in s.tasks))

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods of all scales, each once."""
        return tuple(dict.fromkeys(m for s in self.scales.values() for m in s.methods))


def config_dir() -> Path:
    """Folder of the configuration files: `S2PG_CONFIG` or the repository's `workflow/config`."""
    return Path(os.environ.get("S2PG_CONFIG") or SCHEMAS.parent)


def list_experiments() -> list[str]:
    """Names of all experiments, sorted."""
    return sorted(path.stem for path in (config_dir() / "experiments").glob("*.yaml"))


def list_studies() -> list[str]:
    """Names of all studies, sorted; `s2pg.study` reads them."""
    return sorted(path.stem for path in (config_dir() / "studies").glob("*.yaml"))


def load_named(kind: str, folder: str, name: str, known: Iterable[str]) -> tuple[Path, dict[str, Any]]:
    """Path and checked content of `<folder>/<name>.yaml`, whose schema is `<kind>.yaml`."""
    place = config_dir() / folder
    path = place / f"{choose(kind, name, known, place)}.yaml"
    spec = load_checked(path, f"{kind}.yaml")
    choose("name", spec["name"], [name], path)
    return path, spec


def load_experiment(name: str) -> Experiment:
    """Read and check `experiments/<name>.yaml`."""
    path, spec = load_named("experiment", "experiments", name, list_experiments())
    _check_names(spec, path)
    scales = {key: construct(Scale, value) for key, value in spec["scales"].items()}
    rest = {
        "claims": tuple(spec["claims"]),
        "notes": tuple(spec.get("notes", ())),
        "task_options": spec.get("task_options", {}),
        "anchors": ANCHORS | spec.get("anchors", {}),
    }
    return construct(Experiment, {**spec, **rest, "scales": scales, "spec": spec, "path": path})


def expert_run(task: str, scale: str) -> RunId:
    """The run that is recorded as the expert of a task. Raises ConfigError where there is none."""
    grids = {name: load_experiment(name).scale(scale) for name in EXPERTS}
    having = [name for name, grid in grids.items() if task in grid.tasks]
    if not having:
        known = sorted({task for grid in grids.values() for task in grid.tasks})
        raise ConfigError(
            f"{task}: no expert at scale {scale}; allowed: {', '.join(known)} (see experiments/expert.yaml)"
        )
    return RunId(having[0], scale, task, "oracle", grids[having[0]].first_seed)


def methods() -> dict[str, MethodConfig]:
    """The memory axis: every method's name and what it is."""
    path, rows = _method_rows()
    return {name: construct(MethodConfig, row, f"{path}: {name}") for name, row in rows.items()}


def method_hparams(method: str, algorithm: str) -> dict[str, Any]:
    """Hyperparameters that are part of what a method is. Raises ConfigError on those that the algorithm has not."""
    path, rows = _method_rows()
    values = rows[method].get("hparams", {})
    _validate(values, f"run.yaml#/$defs/{algorithm}", f"{path}: {method}.hparams, with algorithm {algorithm}")
    return values


def tasks() -> list[str]:
    """Names of all tasks that an experiment may name (equal to the table in `envs/tasks.py`)."""
    return load_checked(config_dir() / "tasks.yaml", "tasks.yaml")


def profiles(algorithm: str) -> list[str]:
    """Names of the sets of hyperparameters that an algorithm has."""
    return list(_profiles(algorithm)[1])


def hparams(algorithm: str, profile: str, method: str, task: str) -> dict[str, Any]:
    """Hyperparameters: a profile's `base`, its rules that match method and task, the method's own; the later wins."""
    path, known = _profiles(algorithm)
    chosen = known[choose("profile", profile, known, path)]
    for index, rule in enumerate(chosen["rules"]):
        _check_rule(rule, f"{path}: {profile}.rules.{index}")
    matching = (r["values"] for r in chosen["rules"] if _matches(r, method, task))
    return _merge(chosen["base"], *matching, method_hparams(method, algorithm))


def resolve(
    experiment: str, task: str, method: str, seed: int, scale: str, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """The complete configuration of one run.

    Any task and method of the experiment's file may be combined with any of its scales. Later wins: hyperparameters of
    the profile, those of the method, the scale's `overrides`, then `overrides` (a nested mapping, see
    `parse_overrides`).
    """
    spec = load_experiment(experiment)
    budget = spec.scale(scale)
    _choose_part("task", task, spec.tasks, tasks(), spec.path)
    _choose_part("method", method, spec.methods, methods(), spec.path)
    _validate(overrides or {}, "run.yaml#/$defs/overrides", "overrides")
    run = {
        **RunId(experiment, scale, task, method, seed)._asdict(),
        "algorithm": spec.algorithm,
        "profile": spec.profile,
        "device": "cpu",  # these networks are small: `--device auto` or `cuda` uses a GPU
        "epochs": budget.epochs,
        "steps_per_epoch": budget.steps_per_epoch,
        "eval_episodes": budget.eval_episodes,
        "memory": dataclasses.asdict(spec.memory(method)),
        "hparams": hparams(spec.algorithm, spec.profile, method, task),
        "task_options": spec.options(task),
    }
    if spec.expert_episodes is not None:
        run["expert_episodes"] = spec.expert_episodes
    return RunConfig.from_dict(_merge(run, budget.overrides, overrides or {}), f"{spec.path}: {scale}")


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`["hparams.clip=0.1", "epochs=3"]` -> `{"hparams": {"clip": 0.1}, "epochs": 3}`; values are YAML."""
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise ConfigError(f"overrides: {pair!r} is not of the form key=value, e.g. hparams.clip=0.1")
        nested = _parse(text, f"overrides: {key}")
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        result = _merge(result, nested)
    _validate(result, "run.yaml#/$defs/overrides", "overrides")
    return result


def workflow_settings(config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`default.yaml` updated by `config` (Snakemake's `--config`), checked; `experiments` is a list of known names,
    of experiments and of studies."""
    path = config_dir() / "default.yaml"
    settings = {**load_checked(path, "default.yaml"), **(config or {})}
    if isinstance(settings["experiments"], str):
        settings["experiments"] = settings["experiments"].replace(",", " ").split()
    _validate(settings, "default.yaml", path if not config else f"{path} with --config")
    for name in settings["experiments"]:
        choose("experiments", name, list_experiments() + list_studies(), path)
    return settings


# --- checks ----------------------------------------------------------------------------------------------------------


def _check_names(spec: Mapping[str, Any], path: Path) -> None:
    """Names in an experiment file exist, and the anchors of normalisation are part of every grid."""
    choose("profile", spec["profile"], profiles(spec["algorithm"]), path)
    known, used, anchors = methods(), set(), {}
    for key, name in (ANCHORS | spec.get("anchors", {})).items():
        anchors[choose(f"anchors.{key}", name, known, path)] = key
    for name, scale in spec["scales"].items():
        for key, allowed in (("tasks", tasks()), ("methods", known)):
            for value in scale[key]:
                choose(f"scales.{name}.{key}", value, allowed, path)
        if missing := anchors.keys() - set(scale["methods"]):
            raise ConfigError(f"{path}: scales.{name}.methods: the anchors {sorted(missing)} must be part of the grid")
        if spec["algorithm"] not in IMITATION and (recorded := _recorded(scale["methods"])):
            raise ConfigError(f"{path}: scales.{name}.methods: {recorded} are for {', '.join(IMITATION)} only")
        used.update(scale["methods"])
    played = {task for scale in spec["scales"].values() for task in scale["tasks"]}
    for claim in spec["claims"]:
        rule, where = claim["rule"], f"claims.{claim['id']}.rule"
        if "task" in rule:
            choose(f"{where}.task", rule["task"], played, path)
        for key in sorted({"a", "b"} & rule.keys()):
            other = rule.get(f"experiment_{key}")
            if other:
                choose(f"{where}.experiment_{key}", other, list_experiments(), path)
            choose(f"{where}.{key}", rule[key], _methods_of(other) if other else used, path)
    _check_patterns(f"{path}: task_options", spec.get("task_options", {}), tasks())


def _methods_of(experiment: str) -> set[str]:
    """The methods of an experiment, of all scales together; its own claims, which may name ours, are not looked at."""
    _, spec = load_named("experiment", "experiments", experiment, list_experiments())
    return {method for scale in spec["scales"].values() for method in scale["methods"]}


def _recorded(names: Iterable[str]) -> list[str]:
    """The methods among `names` that are episodes of an expert."""
    known = methods()
    return [name for name in names if known[name].kind == "expert"]


def _check_rule(rule: Mapping[str, Any], where: str) -> None:
    for key, names in (("methods", methods()), ("tasks", tasks())):
        _check_patterns(f"{where}.{key}", rule.get(key, []), names)


def _check_patterns(where: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """Every pattern means something."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            choose(where, pattern, names)


def _matches(rule: Mapping[str, Any], method: str, task: str) -> bool:
    pairs = ((method, rule.get("methods", ["*"])), (task, rule.get("tasks", ["*"])))
    return all(any(fnmatchcase(name, pattern) for pattern in patterns) for name, patterns in pairs)


def choose(key: str, value: str, allowed: Iterable[str], source: str | Path | None = None) -> str:
    """`value` if it is allowed; otherwise an error with the allowed values and the nearest one."""
    allowed = list(allowed)
    if value in allowed:
        return value
    where = f"{source}: {key}" if source else key
    raise ConfigError(f"{where}: unknown {value!r}; {_allowed(value, allowed)}")


def _choose_part(key: str, value: str, part: Iterable[str], known: Iterable[str], source: Path) -> None:
    """As `choose` from what an experiment has, telling what does not exist from what it only leaves out."""
    if value in known and value not in part:
        raise ConfigError(
            f"{source}: {key}: {value!r} is no part of this experiment; allowed: {', '.join(sorted(part))}"
        )
    choose(key, value, part, source)


def _allowed(value: Any, allowed: Iterable[Any]) -> str:
    names = sorted(map(str, allowed))
    near = difflib.get_close_matches(str(value), names, n=1)
    return f"allowed: {', '.join(names) or 'none'}" + (f"; did you mean {near[0]!r}?" if near else "")


# --- files and schemas -----------------------------------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML in which `1e-3` is a number (YAML 1.2) and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.MarkedYAMLError(problem=f"key given twice: {sorted(twice)}", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_FLOAT = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error


def _parse(text: str, source: str | Path) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error


def _method_rows() -> tuple[Path, dict[str, Any]]:
    path = config_dir() / "methods.yaml"
    return path, load_checked(path, "methods.yaml")


def _profiles(algorithm: str) -> tuple[Path, dict[str, Any]]:
    path = config_dir() / "hparams" / f"{algorithm}.yaml"
    return path, load_checked(path, f"hparams.yaml#/$defs/{algorithm}")


def load_checked(path: Path, schema: str) -> Any:
    """A checked file as a fresh copy; read again only when it has changed."""
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    return copy.deepcopy(_load_once(path, schema, stamp))


@functools.lru_cache(maxsize=64)
def _load_once(path: Path, schema: str, stamp: int) -> Any:
    raw = _parse(_text(path), path)
    _validate(raw, schema, path)
    return raw


@functools.lru_cache(maxsize=1)
def _registry() -> referencing.Registry:
    files = {path.name: _parse(_text(path), path) for path in SCHEMAS.glob("*.yaml")}
    if not files:
        raise ConfigError(
            f"{SCHEMAS}: no schemas there; install from a clone of the repository with `pip install -e .`"
        )
    make = referencing.jsonschema.DRAFT202012.create_resource
    return referencing.Registry().with_resources((name, make(text)) for name, text in files.items())


@functools.lru_cache(maxsize=16)
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": schema}, registry=_registry())


def _validate(raw: Any, schema: str, source: str | Path) -> None:
    errors = sorted(_validator(schema).iter_errors(raw), key=lambda error: list(map(str, error.path)))
    if errors:
        raise ConfigError("\n".join(f"{source}: {_explain(error)}" for error in errors))


def _explain(error: jsonschema.ValidationError) -> str:
    """One line: the key, what is wrong with it, what is allowed."""
    where = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        prefix = f"{where}: " if where else ""
        extra = [key for key in error.instance if key not in known]
        return prefix + "; ".join(f"unknown key {key!r}; {_allowed(key, known)}" for key in extra)
    if error.validator == "enum":
        return f"{where}: unknown {error.instance!r}; {_allowed(error.instance, error.validator_value)}"
    if error.validator is None:  # the schema says `false`
        return f"{where or 'file'}: {error.instance!r} is not allowed here"
    return f"{where or 'file'}: {error.message}"


def construct(cls: type, raw: Mapping[str, Any], source: str | Path | None = None) -> Any:
    """A dataclass from a checked mapping: whole numbers become floats where declared so, lists become tuples."""
    casts: dict[Any, Callable] = {
        "int": int,
        "float": float,
        "float | None": lambda value: None if value is None else float(value),
        "tuple[int, ...]": lambda value: tuple(map(int, value)),
        "tuple[float, ...]": lambda value: tuple(map(float, value)),
        "tuple[str, ...]": tuple,
    }
    try:
        given = [f for f in dataclasses.fields(cls) if f.name in raw]
        return cls(**{f.name: casts.get(f.type, lambda v: v)(raw[f.name]) for f in given})
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}" if source else str(error)) from None


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the later layer winning; nothing is shared with the inputs."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = _merge(result[key], value) if both else copy.deepcopy(value)
    return result
