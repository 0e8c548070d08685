"""A study: measured cases -> verdicts, tables and figures; nothing here samples or trains.

    python -m analysis study --study results/tables/demo/gradient_variance/study.json \
        --cases results/runs/demo/gradient_variance --tables results/tables/demo/gradient_variance \
        --figures results/figures/demo/gradient_variance
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from analysis import style, tables
from analysis.claims import NOT_ENOUGH, decide
from analysis.errors import AnalysisError
from analysis.studies import gradients, timing
from analysis.tables.content import Table

Interval = tuple[float, float, float]  # estimate, low, high


@dataclass(frozen=True)
class Picture:
    """A figure of a study; `detail` ones are folded away in the report."""

    title: str
    caption: str
    draw: Callable[[pd.DataFrame], Figure]
    detail: bool = False


class Kind(NamedTuple):
    """What a kind of study adds."""

    columns: Mapping[str, str]  # of the measured cases: name -> meaning, unit
    statistics: Mapping[str, Callable[[pd.DataFrame, Mapping[str, Any]], Interval | None]]  # rows, rule -> interval
    words: Mapping[str, str]  # statistic -> what a rule compares, with the rule's keys in braces
    label: Callable[[str], str]  # of a rule's `a` and `b`
    tables: Callable[[pd.DataFrame], dict[str, Table]]
    budget: Callable[[pd.DataFrame], str]  # what was measured, in words
    pictures: Mapping[str, Picture]


KINDS: dict[str, Kind] = {
    "gradients": Kind(
        gradients.COLUMNS,
        gradients.STATISTICS,
        gradients.WORDS,
        gradients.LABEL,
        gradients.make_tables,
        gradients.budget,
        {name: Picture(*entry) for name, entry in gradients.PICTURES.items()},
    ),
    "networks": Kind(
        gradients.MEASURED,
        gradients.STATISTICS,
        gradients.WORDS,
        gradients.LABEL,
        gradients.make_tables,
        gradients.budget,
        {"variance_networks": Picture(*gradients.NETWORKS)},
    ),
    "timing": Kind(
        timing.COLUMNS,
        timing.STATISTICS,
        timing.WORDS,
        timing.LABEL,
        timing.make_tables,
        timing.budget,
        {name: Picture(*entry) for name, entry in timing.PICTURES.items()},
    ),
}


def read(folder: Path, study: Mapping[str, Any]) -> pd.DataFrame:
    """All cases of a study. AnalysisError names a file that is missing or lacks a column."""
    frames = []
    for case in study["cases"]:
        path = folder / f"{case}.parquet"
        if not path.exists():
            raise AnalysisError(f"{path}: missing; `s2pg study {study['study']} --case {case}` makes it")
        frames.append(pd.read_parquet(path))
        if lacking := KINDS[study["spec"]["kind"]].columns.keys() - frames[-1].columns:
            raise AnalysisError(f"{path}: lacks the columns {', '.join(sorted(lacking))}")
    return pd.concat(frames, ignore_index=True)


def judge(study: Mapping[str, Any], frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A verdict per claim of the study's file, by the rule that `analysis.claims` uses for runs."""
    kind = KINDS[study["spec"]["kind"]]
    return [_judge(kind, claim, frame) for claim in study["spec"]["claims"]]


def compared(kind: Kind, rule: Mapping[str, Any]) -> str:
    """What a rule compares, in words."""
    named = {key: kind.label(rule[key]) for key in ("a", "b") if key in rule}
    return f"{kind.words[rule['statistic']].format(**{**rule, **named})}; case {rule['case']}"


def _judge(kind: Kind, claim: Mapping[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    rule = claim["rule"]
    found = kind.statistics[rule["statistic"]](frame, rule)
    said = {"id": claim["id"], "text": claim["text"], "what": compared(kind, rule), "statistic": rule["statistic"]}
    said["budget"] = kind.budget(frame)
    estimate, low, high = found or (None, None, None)
    numbers = {"estimate": estimate, "low": low, "high": high, "threshold": rule["threshold"]}
    if found is None:
        return {
            **said,
            **numbers,
            "verdict": NOT_ENOUGH,
            "reason": "too little was measured at this scale: a missing case, too few lengths, contexts or rounds",
        }
    verdict, reason = decide(found[1], found[2], rule["threshold"])
    return {**said, **numbers, "verdict": verdict, "reason": reason}


def draw(pictures: Mapping[str, Picture], frame: pd.DataFrame, out: Path) -> list[Path]:
    """Figures as PDF and PNG, with title and caption as JSON; returns what was written."""
    written: list[Path] = []
    style.use()
    for name, picture in pictures.items():
        written += style.save(picture.draw(frame), out / name)
        text = {"title": picture.title, "caption": picture.caption, "detail": picture.detail, "shown": True}
        written.append((out / name).with_suffix(".json"))
        written[-1].write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n")
    return written


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis study`."""
    add = parser.add_argument
    add("--study", type=Path, required=True, help="study.json, as workflow.scripts.study writes it")
    add("--cases", type=Path, required=True, help="folder of the measured cases")
    add("--tables", type=Path, required=True, help="folder for measured.parquet, claims.json and tables/")
    add("--figures", type=Path, required=True, help="folder for figures")


def main(arguments: argparse.Namespace) -> None:
    """`python -m analysis study`."""
    study = json.loads(arguments.study.read_text())
    frame, kind = read(arguments.cases, study), KINDS[study["spec"]["kind"]]
    arguments.tables.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(arguments.tables / "measured.parquet", index=False)
    for name, table in kind.tables(frame).items():
        tables.write(name, table, arguments.tables / "tables")
    for path in draw(kind.pictures, frame, arguments.figures):
        print(path)
    verdicts = {"claims": judge(study, frame)}
    (arguments.tables / "claims.json").write_text(json.dumps(verdicts, indent=1, ensure_ascii=False) + "\n")
