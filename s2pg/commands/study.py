"""`s2pg study`: one case of a study."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from s2pg.commands import show
from s2pg.gradients import problem
from s2pg.study import Kind, Study, load_study
from s2pg.timing import sweep
from s2pg.training import checkpoint
from s2pg.training.provenance import provenance

Measure = Callable[[Study, str, str, int], Iterator[dict[str, Any]]]  # study, scale, case, seed -> rows
MEASURES: dict[Kind, Measure] = {"gradients": problem.measure_case, "timing": sweep.measure_case}
SHOWN = {
    "gradients": ["horizon", "estimator", "variance", "low", "high", "bound", "snr", "bias", "cosine"],
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
    rows = []
    for row in MEASURES[study.kind](study, args.scale, args.case, args.seed):
        show.progress(f"{args.case}: {len(rows) + 1} rows")
        rows.append({"case": args.case, **case, **row})
    show.progress("")
    frame, shown = pd.DataFrame(rows), SHOWN[study.kind]
    settings = {"study": study.name, "scale": args.scale, "seed": args.seed, **study.settings(args.scale, args.case)}
    checkpoint.write_json(out.with_suffix(".json"), {**provenance(), "settings": settings})
    checkpoint.write(out, lambda path: frame.to_parquet(path, index=False))
    print(show.table(frame[shown].map(_text).to_numpy().tolist(), shown, ["estimator", "kind"]))
    return 0


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
