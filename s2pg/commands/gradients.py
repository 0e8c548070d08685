"""`s2pg gradients`: one case of a gradient study, at every length of the trajectory."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pandas as pd
import torch

from s2pg.commands import show
from s2pg.gradients.estimators import Estimator
from s2pg.gradients.problem import measure
from s2pg.study import Part, load_study
from s2pg.training import checkpoint
from s2pg.training.provenance import provenance

SHOWN = ["horizon", "estimator", "variance", "low", "high", "bound", "snr", "bias", "bias_error", "cosine"]


def run(args: Namespace) -> int:
    """Measure, print a table, write Parquet and, beside it, the provenance."""
    torch.set_num_threads(1)
    study = load_study(args.study)
    scale = study.scale(args.scale)
    case = study.case(args.case)
    out = Path(args.out) if args.out else Path("results", *Part(study.name, args.scale, args.case).file.split("/"))
    out.parent.mkdir(parents=True, exist_ok=True)
    estimators = {name: Estimator(**study.estimators[name]) for name in scale.estimators}
    rows = []
    for row in measure(case, estimators, scale.horizons, scale.episodes, args.seed):
        show.progress(f"{args.case}: T = {row['horizon']}, {row['estimator']}")
        rows.append({"study": study.name, "case": args.case, **vars(case), **row})
    show.progress("")
    frame = pd.DataFrame(rows)
    checkpoint.write_json(out.with_suffix(".json"), provenance())
    checkpoint.write(out, lambda path: frame.to_parquet(path, index=False))
    print(show.table(frame[SHOWN].map(_text).to_numpy().tolist(), SHOWN, ["estimator"]))
    return 0


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
