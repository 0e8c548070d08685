"""The tables of an experiment as Markdown, CSV and LaTeX, through pandas' own writers.

    python -m analysis tables --data results/tables/demo/ppo_small

writes `<name>.md`, `<name>.csv` (tidy numbers) and `<name>.tex` for every table of `analysis.tables.content.TABLES`,
and evidence.json, which the report shows beside the claims.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from analysis import setting
from analysis.load import read_table
from analysis.tables.content import NEEDS, TABLES, Results, Table, read
from analysis.tables.evidence import evidence

__all__ = ["NEEDS", "TABLES", "Results", "Table", "configure", "evidence", "main", "read", "write"]


def write(name: str, table: Table, out: Path) -> None:
    """Writes one table as <out>/<name>.md, .csv and .tex."""
    out.mkdir(parents=True, exist_ok=True)
    shown = table.shown.astype(str)
    markdown = shown.to_markdown(index=False, disable_numparse=True) if len(shown) else "No rows."
    (out / f"{name}.md").write_text(f"{table.caption}\n\n{markdown}\n")
    table.data.to_csv(out / f"{name}.csv", index=False)
    latex = shown.to_latex(index=False, escape=True, caption=table.caption.replace("%", r"\%"), label=f"tab:{name}")
    (out / f"{name}.tex").write_text(latex)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis tables`."""
    parser.add_argument("--data", type=Path, required=True, help="folder that `collect` and `statistics` wrote")
    parser.add_argument("--out", type=Path, help="folder for the tables (default: --data)")


def main(arguments: argparse.Namespace) -> None:
    """`python -m analysis tables`."""
    results, out = read(arguments.data), arguments.out or arguments.data
    for name, build in TABLES.items():
        table = build(results)
        write(name, replace(table, caption=f"{table.caption} {setting.short(results.tables.grid)}."), out)
    found = evidence(results, read_table(arguments.data, "scores"))
    (out / "evidence.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(f"{', '.join(TABLES)} as .md, .csv and .tex in {out}")
