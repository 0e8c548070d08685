"""The report: one HTML file that needs nothing but itself.

    python -m analysis report --scale demo --experiments ppo_small ppo_pomdp

It shows what lies in results/tables/<scale>/<experiment> (tidy tables, claims.json, grid.json, result tables *.md,
evidence*.json, evidence*.md), in results/figures/<scale>/<experiment> (PNG and JSON) and, if they are there, the
provenance.json of the runs. It computes nothing but sums.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from nbconvert.filters.markdown import markdown2html

from analysis import setting, style
from analysis.claims import foreign
from analysis.errors import AnalysisError
from analysis.figures import FIGURES
from analysis.figures.common import MODE_LABEL, Tidy, short
from analysis.load import run_folder
from analysis.studies import KINDS
from analysis.tables import NEEDS, TABLES

DPI = style.RC["savefig.dpi"]
SHOWN_ABOVE = ("claims", "memory_probe")  # tables that the report has elsewhere
BADGES = {"supported": "yes", "not supported": "no", "not enough data": "open"}
RULES = {
    "iqm_difference": "IQM of the normalised {score}, {a} minus {b}",
    "iqm": "IQM of the normalised {score} of {a}",
    "probability_of_improvement": "probability that a run of {a} is above one of {b}, compared by their {score}",
    "time_ratio": "training time per environment step, {a} divided by {b}",
}
SCORES = {"final": "final scores", "area": "areas under the learning curves"}


def number(value: object, digits: int = 3) -> str:
    """A number for readers: three significant digits, thousands separated, a true minus sign, an en dash for none."""
    if value is None or pd.isna(value):
        return "–"
    value = float(value)
    text = f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
    return text.replace("-", "−")


def with_interval(claim: Mapping[str, Any]) -> str:
    """`0.54 [0.49, 0.59]`, with the digits that the interval's width makes meaningful; an en dash without estimate."""
    values = [claim.get(key) for key in ("estimate", "low", "high")]
    if pd.isna(values[0]):
        return "–"
    if pd.isna(values[1:]).any() or values[1] == values[2]:
        return number(values[0])
    decimals = min(max(1 - math.floor(math.log10(values[2] - values[1])), 0), 4)
    estimate, low, high = (f"{value:,.{decimals}f}".replace("-", "−") for value in values)
    return f"{estimate} [{low}, {high}]"


def duration(seconds: float) -> str:
    """Seconds in the unit that fits: s, min or h."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} s"


def embed(png: Path) -> dict[str, Any]:
    """A PNG as a data URI, with its width in CSS pixels, so that text in figures has the size of text around them."""
    content = png.read_bytes()
    width = struct.unpack(">I", content[16:20])[0]
    return {"src": "data:image/png;base64," + base64.b64encode(content).decode(), "width": round(width * 96 / DPI)}


def load_json(path: Path) -> Any:
    """Content of a JSON file; AnalysisError names the file if it is not JSON."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise AnalysisError(f"{path}: not JSON ({error})") from error


def experiment(scale: str, name: str, results: Path) -> dict[str, Any]:
    """All that the template shows of one experiment."""
    tables, figures = (results / kind / scale / name for kind in ("tables", "figures"))
    data = Tidy.read(tables)
    spec = data.grid.get("spec", {})
    shown = evidence(tables)
    return {
        "name": name,
        "title": spec.get("title", name),
        "spec": spec,
        "mode": MODE_LABEL[data.mode],
        "setting": prose(setting.sentence(data.grid)),
        "notes": [prose(note) for note in spec.get("notes", [])],
        "tasks": [style.task_label(task) for task in data.tasks],
        "methods": [style.label(method) for method in data.methods],
        "runs": tally(data.runs),
        "seeds": data.counts().split(";")[0],
        "lost": lost(data.runs),
        "claims": claims(tables / "claims.json", spec, shown),
        "evidence": [item for item in shown if not item.get("claim")],
        "figures": pictures(figures),
        "no_scale": "" if data.normalised else setting.no_scale(data.grid),
        "tables": result_tables(tables, set(data.statistics["statistic"])),
        "provenance": origin(data.runs, provenance(data.runs, results / "runs")),
        "budget": budget(data.runs, spec),
    }


def study(scale: str, name: str, results: Path) -> dict[str, Any]:
    """All that the template shows of one study: the same keys as an experiment's, without those of runs."""
    tables, figures = (results / kind / scale / name for kind in ("tables", "figures"))
    about = load_json(tables / "study.json")
    spec, verdicts = about["spec"], load_json(tables / "claims.json")["claims"]
    origins = [load_json(results / "runs" / scale / name / f"{case}.json") for case in about["cases"]]
    return {
        "name": name,
        "title": spec["title"],
        "spec": {},
        "notes": [prose(note) for note in spec.get("notes", [])],
        "cases": about["cases"],
        "claims": [claim | verdict_words(claim) | {"evidence": [], "tested": claim["budget"]} for claim in verdicts],
        "figures": pictures(figures),
        "tables": result_tables(tables / "tables"),
        "provenance": measured_by(origins),
    }


def tally(runs: pd.DataFrame) -> dict[str, int]:
    """Numbers of attempted, finished, failed and missing runs."""
    states = runs["status"].value_counts()
    return {"attempted": len(runs), **{state: int(states.get(state, 0)) for state in ("finished", "failed", "missing")}}


def lost(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Runs that did not finish, by task, method, status and reason, with their seeds."""
    rows = runs[runs["status"] != "finished"].fillna({"reason": "no reason given"})
    keys = ["task", "method", "status", "reason"]
    groups = rows.groupby(keys, sort=False)["seed"]
    seeds = groups.apply(lambda s: ", ".join(map(str, sorted(s)))) if len(rows) else {}
    return [
        {**dict(zip(keys, key, strict=True)), "method": style.label(key[1]), "seeds": found}
        for key, found in seeds.items()
    ]


def claims(path: Path, spec: Mapping[str, Any], shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Verdicts with their rule in words, budget in words, the picture of interval and threshold, and the evidence that
    belongs beside them."""
    rules = {claim["id"]: claim["rule"] for claim in spec.get("claims", [])}
    verdicts = load_json(path)["claims"] if path.exists() else []
    beside = {claim["id"]: [item for item in shown if item.get("claim") == claim["id"]] for claim in verdicts}
    return [
        claim | described(claim, rules.get(claim["id"], {})) | {"evidence": beside[claim["id"]]} for claim in verdicts
    ]


def described(claim: Mapping[str, Any], rule: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a verdict that need words."""
    called = {key: foreign(rule.get(key, "?"), rule.get(f"experiment_{key}", "")) for key in ("a", "b")}
    names = {key: style.label(name) for key, name in called.items()}
    where = f", on {style.task_label(rule['task'])} alone" if "task" in rule else ""
    steps = sorted(set(claim.get("budget", {}).values()))
    span = " to ".join(number(n) for n in dict.fromkeys(steps[:1] + steps[-1:]))
    score = SCORES[rule.get("score", "final")]
    return {
        **verdict_words(claim),
        "what": RULES.get(claim["statistic"], claim["statistic"]).format(**names, score=score) + where,
        "min_seeds": rule.get("min_seeds"),
        "steps": f"{span} environment steps per run" if span else "no finished run",
    }


def verdict_words(claim: Mapping[str, Any]) -> dict[str, Any]:
    """What every verdict shows, of runs and of studies."""
    return {
        "badge": BADGES.get(claim["verdict"], "open"),
        "value": with_interval(claim),
        "reason": typeset(claim["reason"]),
        "strip": strip(claim),
    }


def strip(claim: Mapping[str, Any]) -> dict[str, float] | None:
    """Places in percent of low, high, estimate and threshold on a common line; None without an interval."""
    values = {key: claim.get(key) for key in ("low", "high", "estimate", "threshold")}
    if any(value is None or pd.isna(value) for value in values.values()):
        return None
    start, end = min(values.values()), max(values.values())
    margin = 0.15 * (end - start or 1.0)
    return {key: 100 * (value - start + margin) / (end - start + 2 * margin) for key, value in values.items()}


def evidence(folder: Path) -> list[dict[str, Any]]:
    """What stands beside the claims: evidence*.json ([{title, text, table, claim}]) and evidence*.md.

    `text` is Markdown; `table` is a list of rows, each a mapping from column to value, or absent; `claim` is the id of
    the claim that the piece belongs beside, absent for one that belongs to the experiment.
    """
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob("evidence*.json")):
        content = load_json(path)
        for item in content if isinstance(content, list) else [content]:
            if not isinstance(item, dict) or "title" not in item:
                raise AnalysisError(f"{path}: every piece of evidence is a mapping with title, text and table")
            table = item.get("table") or []
            columns = list(dict.fromkeys(column for row in table for column in row))
            rows = [[cell(row.get(column)) for column in columns] for row in table]
            text = prose(item.get("text", ""))
            found.append({**item, "text": text, "columns": columns, "rows": rows})
    return found + [{"title": "", "text": prose(path.read_text())} for path in sorted(folder.glob("evidence*.md"))]


def cell(value: object) -> str:
    """A table cell: numbers as readers like them, the rest as text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return number(value) if is_number else typeset(str(value or ""))


def typeset(text: str) -> str:
    """True minus signs, and no line breaks within an interval, a range or a count of runs (`3 of 5`)."""
    text = re.sub(r"(?<![^\s>\[(])-(?=\d)", "−", str(text))
    text = re.sub(r"(?<=\d) (of|to) (?=[\d−])", "\u00a0\\1\u00a0", text)
    return re.sub(r"(\[[^][<>]*,) ([^][<>]*\])", "\\1\u00a0\\2", text)


def prose(markdown: str) -> Markup:
    """Markdown as HTML; tags in the source are shown, not obeyed."""
    return Markup(markdown2html(markdown.replace("&", "&amp;").replace("<", "&lt;")))


def pictures(folder: Path) -> list[dict[str, Any]]:
    """Figures in the order of the registries with titles and captions; without those not drawn or not applicable."""
    known = dict.fromkeys([*FIGURES, *(name for kind in KINDS.values() for name in kind.pictures)])
    drawn = [name for name in known if (folder / f"{name}.png").exists() and (folder / f"{name}.json").exists()]
    texts = {name: load_json(folder / f"{name}.json") for name in drawn}
    return [{"name": name, **t, **embed(folder / f"{name}.png")} for name, t in texts.items() if t.get("shown", True)]


def result_tables(folder: Path, statistics: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The Markdown tables of a folder, those of the registry first; long ones are folded away, and those that need a
    statistic that is not there are left out."""
    found = [path.stem for path in sorted(folder.glob("*.md")) if not path.stem.startswith("evidence")]
    known = [name for name in TABLES if name in found]
    told = {name for name in found if name not in SHOWN_ABOVE and NEEDS.get(name) in {None, *statistics}}
    written = [name for name in dict.fromkeys([*known, *found]) if name in told]
    texts = {name: (folder / f"{name}.md").read_text() for name in written}
    return [
        {
            "title": name.replace("_", " ").capitalize(),
            "html": Markup(typeset(prose(text))),
            "fold": name == "accounting" or text.count("\n") > 48,
        }
        for name, text in texts.items()
    ]


def provenance(runs: pd.DataFrame, folder: Path) -> list[dict[str, Any]]:
    """The provenance.json of every run in `runs` that left a result (and of no other), where it is below `folder`."""
    ended = runs[runs["status"] != "missing"].to_dict("records")
    paths = [run_folder(folder, run) / "provenance.json" for run in ended]
    return [load_json(path) for path in paths if path.exists()]


def origin(runs: pd.DataFrame, provenance: list[dict[str, Any]]) -> dict[str, str]:
    """Where the runs come from, each fact once: revisions, versions, hardware, commands."""
    begun = runs[runs["status"] != "missing"]
    revisions = [code_of(*pair) for pair in zip(begun["git_revision"], begun["git_dirty"], strict=True)]
    packages = sorted({f"{k} {v}" for p in provenance for k, v in p.get("packages", {}).items() if v})
    machines = [f"{p.get('cpu')}, {p.get('cores')} cores, {p.get('platform')}" for p in provenance]
    started = sorted(runs["started"].dropna())
    return {
        "Code revision": joined(revisions),
        "Resumed": resumed(provenance),
        "Hyperparameter profile": joined(runs["profile"].dropna()),
        "Hardware": joined(machines or runs["cpu"].dropna()),
        "GPU": joined(p["gpu"] for p in provenance if p.get("gpu")),
        "Python": joined(p["python"] for p in provenance if p.get("python")),
        "Packages": joined(packages),
        "Runs started": " to ".join(dict.fromkeys([*started[:1], *started[-1:]])),
        "Command of a run": as_typed(provenance[0].get("command", "")) if provenance else "",
    }


def measured_by(provenance: list[dict[str, Any]]) -> dict[str, str]:
    """As `origin`, of the cases of a study."""
    started = sorted(p["started"] for p in provenance)
    return {
        "Code revision": joined(code_of(p["git_revision"], p["git_dirty"]) for p in provenance),
        "Hardware": joined(f"{p['cpu']}, {p['cores']} cores, {p['platform']}" for p in provenance),
        "GPU": joined(p["gpu"] for p in provenance if p["gpu"]),
        "Python": joined(p["python"] for p in provenance),
        "Packages": joined(sorted({f"{k} {v}" for p in provenance for k, v in p["packages"].items() if v})),
        "Measured": " to ".join(dict.fromkeys([*started[:1], *started[-1:]])),
        "Command of a case": as_typed(provenance[0]["command"]),
    }


def code_of(revision: Any, dirty: Any) -> str:
    """A revision in twelve digits, and whether it was all of the code; empty cells are unknown."""
    if pd.isna(revision):
        return "unknown"
    if pd.isna(dirty):
        return f"{revision[:12]} (uncommitted changes: unknown)"
    return f"{revision[:12]}{' (with uncommitted changes)' if dirty else ''}"


def resumed(provenance: Sequence[Mapping[str, Any]]) -> str:
    """How many runs were interrupted and went on, and how many of these with other code or on another machine than
    they began with; empty if none was."""
    again = [run for run in provenance if run.get("resumed")]
    if not again:
        return ""
    moved = {
        key: sum(any(part.get(key) != run.get(key) for part in run["resumed"]) for run in again)
        for key in ("git_revision", "host")
    }
    said = f"{moved['git_revision']} at another revision, {moved['host']} on another host"
    return f"{len(again)} of {len(provenance)} runs went on after an interruption: {said} than they began"


def as_typed(command: str) -> str:
    """A command without the folders of the machine it ran on: paths begin at `results/`, or are their last part."""
    words = [re.sub(r"^/.*?(?=results/runs/|[^/]*/?$)", "", word) for word in command.split()]
    return " ".join(words).replace("cli.py", "s2pg", 1)


def joined(values: Iterable[object]) -> str:
    """Distinct values in the order of their first appearance."""
    return ", ".join(dict.fromkeys(str(value) for value in values))


def budget(runs: pd.DataFrame, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Time, steps and memory spent: in total and per method (of runs that left a result)."""
    spent = runs.assign(seconds=runs["seconds"].astype(float), steps=runs["steps"].astype(float))
    rows = spent.groupby("method").agg(
        runs=("seed", "size"), steps=("steps", "sum"), seconds=("seconds", "sum"), memory=("peak_memory_mb", "max")
    )
    seconds = spec.get("resources", {}).get("cores", 1) * spent["seconds"].sum()
    return {
        "core_hours": f"{number(seconds / 3600)} core-hours ({duration(seconds)})",
        "steps": short(spent["steps"].sum()),
        "memory": number(spent["peak_memory_mb"].max()),
        "rows": [
            [style.label(m), number(r.runs), short(r.steps), duration(r.seconds), number(r.memory)]
            for m, r in rows.loc[style.order_methods(rows.index)].iterrows()
        ],
    }


def share_of_paper(scale: str, spec: Mapping[str, Any]) -> str:
    """One sentence: steps and seeds at this scale beside those of the `paper` scale; empty if the spec has neither."""
    scales = spec.get("scales", {})
    if scale == "paper" or not {"epochs", "steps_per_epoch", "seeds"} <= scales.get(scale, {}).keys():
        return ""
    here = scales[scale]
    text = f"{number(here['epochs'] * here['steps_per_epoch'])} environment steps per run and {here['seeds']} seeds"
    paper = scales.get("paper", {})
    if not {"epochs", "steps_per_epoch", "seeds"} <= paper.keys():
        return text
    return f"{text}; the paper scale has {number(paper['epochs'] * paper['steps_per_epoch'])} and {paper['seeds']}"


def write(scale: str, names: Iterable[str], results: Path, out: Path) -> Path:
    """Write the report on some experiments at one scale to `out`; AnalysisError if one has no tables."""
    experiments = [
        (study if (results / "tables" / scale / name / "study.json").exists() else experiment)(scale, name, results)
        for name in names
    ]
    for one in experiments:
        one["share"] = share_of_paper(scale, one["spec"])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number)
    html = environment.get_template("report.html.j2").render(scale=scale, experiments=experiments)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis report`."""
    parser.add_argument("--scale", required=True, help="scale of the runs, e.g. demo")
    parser.add_argument("--experiments", nargs="+", metavar="NAME", required=True, help="experiments, in this order")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of results (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="file to write (default: RESULTS/report/SCALE.html)")


def main(arguments: argparse.Namespace) -> None:
    """`python -m analysis report`."""
    out = arguments.out or arguments.results / "report" / f"{arguments.scale}.html"
    print(write(arguments.scale, arguments.experiments, arguments.results, out))
