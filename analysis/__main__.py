"""`python -m analysis`: one subcommand per step from run folders to the report."""

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence

from analysis.errors import AnalysisError

# subcommand -> (module, one line of help). A module offers `configure(parser)` and `main(arguments)`, and is
# imported only when its subcommand is asked for.
COMMANDS: dict[str, tuple[str, str]] = {
    "collect": ("analysis.load", "gather the run folders of a grid into tidy Parquet tables"),
    "statistics": ("analysis.stats", "scores, aggregates, profiles and curves with bootstrap intervals"),
    "claims": ("analysis.claims", "judge each claim of the experiment by its rule"),
    "tables": ("analysis.tables", "write the result tables as Markdown, CSV and LaTeX"),
    "figures": ("analysis.figures", "draw the figures as PDF and PNG"),
    "notebooks": ("analysis.notebooks", "execute the notebooks and write them as .ipynb and .html"),
    "archive": ("analysis.archive", "pack the runs of experiments to keep them, with checksums"),
    "publish": ("analysis.publish", "make a small copy of the tidy tables, to ship with the suite"),
    "study": ("analysis.studies", "verdicts, tables and figures of a study, such as the variance of gradients"),
    "report": ("analysis.report", "write the self-contained HTML report"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; a user's error is one line on stderr and exit code 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = _one_line
    arguments = _parser(argv).parse_args(argv)
    try:
        arguments.run(arguments)
    except (AnalysisError, FileNotFoundError, PermissionError) as error:
        print(f"python -m analysis {arguments.command}: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis", description="From run folders to statistics, tables, figures, verdicts and report."
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name in argv:
            loaded = importlib.import_module(module)
            loaded.configure(command)
            command.set_defaults(run=loaded.main)
    return parser


def _one_line(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
