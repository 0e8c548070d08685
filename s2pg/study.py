"""A gradient study: problems with a closed form, estimators, and how much of them is measured at each scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from s2pg.config import ConfigError, config_dir, load_checked
from s2pg.config import _choose as choose
from s2pg.config import _construct as construct

Features = Literal["bounded", "linear"]


@dataclass(frozen=True)
class Case:
    """One policy on one system, see `s2pg.gradients.problem`."""

    features: Features  # of the policy: tanh(o, z) / sqrt(X), or (o, z) itself
    recurrence: float  # Z, by how much a step of the memory carries the last one on
    read: float  # K, how strongly the action reads the memory
    memory: int
    sigma_action: float
    sigma_memory: float
    discount: float


class Part(NamedTuple):
    """A job of the study: all estimators on one case, at every length of the trajectory."""

    study: str
    scale: str
    case: str

    @property
    def file(self) -> str:
        """Its result below `results/`."""
        return f"gradients/{self.scale}/{self.study}/{self.case}.parquet"


@dataclass(frozen=True)
class Scale:
    """What is measured at one scale: `episodes` trajectories at each length, anew for each."""

    cases: tuple[str, ...]
    estimators: tuple[str, ...]
    horizons: tuple[int, ...]
    episodes: int


@dataclass(frozen=True)
class Study:
    """A study's file. `spec` is the file as it is written, `path` where it lies."""

    name: str
    title: str
    claims: tuple[dict[str, Any], ...]
    cases: dict[str, Case]
    estimators: dict[str, dict[str, Any]]  # arguments of `s2pg.gradients.estimators.Estimator`
    scales: dict[str, Scale]
    spec: dict[str, Any]
    path: Path

    def scale(self, name: str) -> Scale:
        """What is measured at a scale. Raises ConfigError when the study has no such scale."""
        return self.scales[choose("scale", name, self.scales, self.path)]

    def case(self, name: str) -> Case:
        """A case of the file. Raises ConfigError on any other name."""
        return self.cases[choose("case", name, self.cases, self.path)]

    def parts(self, scale: str) -> list[Part]:
        """All jobs, in a fixed order."""
        return [Part(self.name, scale, case) for case in self.scale(scale).cases]


def list_studies() -> list[str]:
    """Names of all studies, sorted."""
    return sorted(path.stem for path in (config_dir() / "studies").glob("*.yaml"))


def load_study(name: str) -> Study:
    """Read and check `studies/<name>.yaml`. Raises ConfigError that names the file, the key and what is allowed."""
    folder = config_dir() / "studies"
    path = folder / f"{choose('study', name, list_studies(), folder)}.yaml"
    spec = load_checked(path, "study.yaml")
    choose("name", spec["name"], [name], path)
    cases = {key: construct(Case, {**spec["problem"], **row}, f"{path}: cases.{key}") for key, row in spec["cases"].items()}
    scales = {key: construct(Scale, row) for key, row in spec["scales"].items()}
    _check_names(spec, path)
    rest = {"claims": tuple(spec["claims"]), "cases": cases, "scales": scales, "spec": spec, "path": path}
    return construct(Study, {**spec, **rest})


def _check_names(spec: dict[str, Any], path: Path) -> None:
    """Cases and estimators of scales and claims are known."""
    known = {"cases": spec["cases"], "estimators": spec["estimators"]}
    for name, scale in spec["scales"].items():
        for key, names in known.items():
            for value in scale[key]:
                choose(f"scales.{name}.{key}", value, names, path)
    for claim in spec["claims"]:
        for key, kind in (("a", "estimators"), ("b", "estimators"), ("case", "cases")):
            if key in claim["rule"]:
                choose(f"claims.{claim['id']}.rule.{key}", claim["rule"][key], known[kind], path)


__all__ = ["Case", "ConfigError", "Part", "Scale", "Study", "list_studies", "load_study"]
