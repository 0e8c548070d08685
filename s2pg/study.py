"""A study: something measured case by case and without training, such as the variance of gradients.

Its file `studies/<name>.yaml` holds claims, cases and scales, as an experiment's does; what a case and a scale say
depends on the study's kind (schema/study.yaml).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from s2pg.config import choose, hparams, list_studies, load_named

METHODS = ("none", "window32", "bptt32", "bptt32_all", "s2pg")  # rows of methods.yaml that studies measure
Kind = Literal["gradients", "networks", "timing"]


@dataclass(frozen=True)
class Study:
    """A study's file. `spec` is the file as it is written, `path` where it lies."""

    name: str
    kind: Kind
    cases: dict[str, dict[str, Any]]  # each in full: the file's `base` and what differs from it
    spec: dict[str, Any]
    path: Path

    def scale(self, name: str) -> dict[str, Any]:
        """What is measured at a scale, and of which cases. Raises ConfigError when the study has no such scale."""
        scales: dict[str, dict[str, Any]] = self.spec["scales"]
        return scales[choose("scale", name, scales, self.path)]

    def case(self, name: str) -> dict[str, Any]:
        """A case of the file. Raises ConfigError on any other name."""
        return self.cases[choose("case", name, self.cases, self.path)]

    def settings(self, scale: str, case: str) -> dict[str, Any]:
        """All that a measurement depends on: of the file, and of the profile where it names one."""
        wanted, what = {**self.scale(scale), "cases": None}, self.case(case)
        known = self.spec.get("estimators", {})
        found: dict[str, Any] = {"kind": self.kind, "case": what, "scale": wanted}
        found["estimators"] = {name: known[name] for name in wanted.get("estimators", ())}
        if "profile" in what:
            where = what.get("algorithm", "ppo"), what["profile"]
            found["hparams"] = {name: hparams(*where, name, what["task"]) for name in METHODS}
        return found

    def file(self, scale: str, case: str) -> str:
        """Result of a case below `results/`."""
        return f"runs/{scale}/{self.name}/{case}.parquet"


def load_study(name: str) -> Study:
    """Read and check `studies/<name>.yaml`. Raises ConfigError that names the file, the key and what is allowed."""
    path, spec = load_named("study", "studies", name, list_studies())
    _check_names(spec, path)
    cases = {key: {**spec["base"], **row} for key, row in spec["cases"].items()}
    return Study(name, spec["kind"], cases, spec, path)


def _check_names(spec: dict[str, Any], path: Path) -> None:
    """Cases, and estimators where there are some, of scales and claims are known."""
    known = {"cases": spec["cases"], "estimators": spec.get("estimators", {})}
    for name, scale in spec["scales"].items():
        for key in known.keys() & scale.keys():
            for value in scale[key]:
                choose(f"scales.{name}.{key}", value, known[key], path)
    for claim in spec["claims"]:
        for key, kind in (("a", "estimators"), ("b", "estimators"), ("case", "cases")):
            if key in claim["rule"] and known[kind]:
                choose(f"claims.{claim['id']}.rule.{key}", claim["rule"][key], known[kind], path)
