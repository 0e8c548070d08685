"""`s2pg study`: one case of a study."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from s2pg.build import build, spec
from s2pg.commands import show
from s2pg.gradients import empirical, problem
from s2pg.study import Kind, Study, load_study
from s2pg.timing import sweep
from s2pg.timing.lanes import configuration
from s2pg.training import checkpoint, worlds
from s2pg.training.provenance import provenance

Measure = Callable[[Study, str, str, int], Iterator[dict[str, Any]]]  # study, scale, case, seed -> rows


def measure_networks(study: Study, scale: str, case: str, seed: int) -> Iterator[dict[str, Any]]:
    """`empirical.measure` of PPO's S2PG policy before any training."""
    wanted, what = study.scale(scale), study.case(case)
    config = configuration(what["task"], "s2pg", what["profile"], changes=what["hparams"], seed=seed)
    agent, envs = build(config, spec(config.task, {})), worlds.make_vector(config.task, {}, wanted["environments"])
    estimators = problem.read_estimators(study, wanted["estimators"], closed_form=False)
    sizes = wanted["horizons"], wanted["episodes"], seed, config.hparams.gamma
    return empirical.measure(agent.policy, envs, agent.normalisers[agent.sight[0]], estimators, *sizes)


MEASURES: dict[Kind, Measure] = {
    "gradients": problem.measure_case,
    "networks": measure_networks,
    "timing": sweep.measure_case,
}
SHOWN = {
    "gradients": ["horizon", "estimator", "variance", "low", "high", "bound", "snr", "bias", "cosine"],
    "networks": ["horizon", "estimator", "variance", "low", "high", "snr", "seconds"],
    "timing": ["kind", "context", "environments", "samples", "round", "environment", "acting", "learning", "terms"],
}


def run(args: Namespace) -> int:
    """Measure, print a table, write Parquet and, beside it, the provenance."""
    torch.set_num_threads(1)
    study = load_study(args.study)
    case = study.case(args.case)
    study.scale(args.scale)
    out = Path(args.out) if args.out else Path("results", study.file(args.scale, args.case))
    out.parent.mkdir(parents=True, exist_ok=True)
    facts, rows = provenance(), []
    for row in MEASURES[study.kind](study, args.scale, args.case, args.seed):
        show.progress(f"{args.case}: {len(rows) + 1} rows")
        rows.append({"case": args.case, **_flat(case), **row})
    show.progress("")
    frame, shown = pd.DataFrame(rows), SHOWN[study.kind]
    settings = {"study": study.name, "scale": args.scale, "seed": args.seed, **study.settings(args.scale, args.case)}
    checkpoint.write_json(out.with_suffix(".json"), {**facts, "settings": settings})
    checkpoint.write(out, lambda path: frame.to_parquet(path, index=False))
    print(show.table(frame[shown].map(_text).to_numpy().tolist(), shown, ["estimator", "kind"]))
    return 0


def _flat(case: dict[str, Any]) -> dict[str, Any]:
    """What of a case goes into its rows: plain values."""
    return {key: value for key, value in case.items() if not isinstance(value, dict | list)}


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
