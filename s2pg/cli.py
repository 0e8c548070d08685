"""The command line. Parses arguments and nothing else: `s2pg/commands/` does the work and imports torch."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from s2pg.config import ConfigError

EXAMPLES = """\
examples:
  s2pg train --experiment ppo_pomdp --task HopperV --method s2pg --seed 0 --scale smoke --out runs/one

A whole experiment, from training to the report, is Snakemake's part: snakemake --cores 16
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code: 0 done, 1 a check failed, 2 a user's mistake, 130 interrupted."""
    args = parser().parse_args(arguments)
    for library in ("OMP", "MKL", "OPENBLAS"):  # read when numpy and torch load
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    try:
        return importlib.import_module(f"s2pg.commands.{args.module}").run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_the_users(error):
            raise
        print(f"s2pg {args.command}: {error}", file=sys.stderr)
        return 2


def _is_the_users(error: Exception) -> bool:
    """Errors whose message says what to do; anything else is a fault of ours and deserves its traceback."""
    if isinstance(error, ConfigError | OSError):
        return True
    from s2pg.training.checkpoint import RunError

    return isinstance(error, RunError)


def parser() -> argparse.ArgumentParser:
    """All subcommands and their options."""
    top = argparse.ArgumentParser(
        "s2pg",
        description="Train, evaluate, watch and time policies with memory: S2PG, BPTT, windows, none.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _train(commands)
    return top


def _train(commands: argparse._SubParsersAction) -> None:
    add = _command(commands, "train", "train one run", "Train one run; started again, it goes on where it stopped.")
    add("--experiment", metavar="E", required=True, help="experiment file, see `s2pg list experiments`")
    add("--task", metavar="T", required=True, help="see `s2pg list tasks`")
    add("--method", metavar="M", required=True, help="see `s2pg list methods`")
    add("--seed", metavar="N", type=int, default=0, help="default: 0")
    add("--scale", metavar="S", default="demo", help="smoke, demo (default), lite or paper")
    add("--out", metavar="DIR", help="folder of the run (default: results/runs/SCALE/EXPERIMENT/TASK/METHOD/seed_N)")
    add(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one value, e.g. --set epochs=3 --set hparams.clip=0.1 (repeatable)",
    )
    add("--device", choices=["auto", "cpu", "cuda"], help="default: as configured (auto: CUDA where there is one)")
    add(
        "--threads", metavar="N", type=int, default=1, help="threads of PyTorch; other numbers, other bits (default: 1)"
    )
    add("--quiet", action="store_true", help="no progress bar")


def _command(commands: argparse._SubParsersAction, name: str, help: str, description: str):
    """A subcommand; returns its `add_argument`."""
    made = commands.add_parser(name, help=help, description=description)
    made.set_defaults(module=name)
    return made.add_argument


if __name__ == "__main__":
    sys.exit(main())
