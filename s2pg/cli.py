"""The command line. It parses arguments and nothing else; `s2pg/commands/` does the work and imports torch."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

EXAMPLES = """\
examples:
  s2pg list                                     what there is to train
  s2pg train --experiment ppo_small --task InvertedPendulumV --method s2pg --scale smoke --out runs/one
  s2pg eval runs/one                            mean return on fresh episodes
  s2pg record runs/one --out expert.npz         25 episodes as a dataset for imitation
  s2pg export expert.npz --minari s2pg/pendulum-expert-v0
  s2pg watch runs/one --out episode.mp4         an episode, and the memory's trace beside it
  s2pg bench --task HalfCheetahV                milliseconds per step of every method
  s2pg cost --experiment ppo_pomdp --scale paper --cores 64      or --experiment all
  s2pg status --scale lite                      runs done, running, failed, waiting; time left
  s2pg study gradient_variance --case marginal  variance of the gradients of S2PG and BPTT
  s2pg doctor                                   does the installation work?

Whole experiments, from training to the report, are Snakemake's part: snakemake --cores 16
"""

Command = argparse.ArgumentParser
SCALES = "smoke, demo, lite or paper"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code.

    0: done (also when a run diverged), 1: a check of `doctor` failed, 2: a user's mistake, 75: SIGTERM stopped a run,
    which can go on, 130: interrupted.
    """
    args = parser().parse_args(arguments)
    for library in ("OMP", "MKL", "OPENBLAS"):  # read when numpy and torch load
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    try:
        return importlib.import_module(f"s2pg.commands.{args.command}").run(args)
    except KeyboardInterrupt:
        print("\ninterrupted; a run goes on from its last epoch when it is started again", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `s2pg list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = _explain(error)
        if message is None:
            raise
        print(f"s2pg {args.command}: {message}", file=sys.stderr)
        return 2


def _explain(error: Exception) -> str | None:
    """What to tell the user; None for a fault of ours, which deserves its traceback."""
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; `make setup` or `pip install -e .[learn]` installs what training needs"
    from s2pg.config import ConfigError

    if isinstance(error, ConfigError | OSError):
        return str(error)
    from s2pg.training.checkpoint import RunError

    return str(error) if isinstance(error, RunError) else None


def parser() -> argparse.ArgumentParser:
    """All subcommands and their options."""
    top = argparse.ArgumentParser(
        "s2pg",
        description="Train, evaluate, watch and time policies with memory: S2PG, BPTT, windows, none.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (text, arguments) in COMMANDS.items():
        arguments(commands.add_parser(name, help=text[0].lower() + text.split(".")[0][1:], description=text))
    return top


def _train(command: Command) -> None:
    add = command.add_argument
    add("--experiment", metavar="E", required=True, help="see `s2pg list experiments`")
    add("--task", metavar="T", required=True, help="a task of the experiment, see `s2pg list tasks`")
    add("--method", metavar="M", required=True, help="a method of the experiment, see `s2pg list methods`")
    add("--seed", metavar="N", type=int, help="default: the first of the experiment at that scale")
    add("--scale", metavar="S", default="demo", help=f"the budget: {SCALES} (default: demo)")
    add("--out", metavar="DIR", help="folder of the run (default: its place below results/runs)")
    where = "the expert's episodes, for imitation (default: its place below results/experts)"
    add("--dataset", metavar="FILE", help=where)
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="change a value, e.g. hparams.clip=0.1; repeat")
    add("--device", choices=["auto", "cpu", "cuda"], help="default: cpu; auto: CUDA where there is one")
    add(
        "--threads",
        metavar="N",
        type=count,
        default=1,
        help="threads of PyTorch; other numbers, other bits (default: 1)",
    )
    add("--quiet", action="store_true", help="no progress bar, no summary")


def _eval(command: Command) -> None:
    add = command.add_argument
    add("run", metavar="RUN_DIR", help="folder of a run")
    add("--episodes", metavar="N", type=count, default=20, help="per mode (default: 20)")
    add("--mode", choices=["sample", "mean", "both"], default="both", help="draw decisions or take their mean")
    add("--seed", metavar="S", type=natural, default=0, help="of initial states and noise (default: 0)")
    add("--json", action="store_true", help="print JSON, with every return")


def _record(command: Command) -> None:
    add = command.add_argument
    add("run", metavar="RUN_DIR", help="folder of a finished run")
    add("--out", metavar="FILE", required=True, help=".npz; its card is written beside it, as .json")
    add("--episodes", metavar="N", type=count, default=25, help="default: 25")
    add("--mode", choices=["sample", "mean"], default="sample", help="draw decisions or take their mean")
    add("--seed", metavar="S", type=natural, default=0, help="of initial states and noise (default: 0)")
    add("--task-options", metavar="YAML", help="arguments of the environment, e.g. '{max_episode_steps: 200}'")


def _export(command: Command) -> None:
    add = command.add_argument
    add("dataset", metavar="FILE", help=".npz of `s2pg record`, or another in its schema")
    add("--minari", metavar="NAME", required=True, help="of the new dataset, e.g. s2pg/hopper-expert-v0")
    add("--episodes", metavar="N", type=count, help="the first N (default: all)")


def _watch(command: Command) -> None:
    add = command.add_argument
    add("run", metavar="RUN_DIR", help="folder of a run")
    add("--out", metavar="FILE", help=".mp4 or .gif (default: RUN_DIR/episode.mp4)")
    add("--mode", choices=["sample", "mean"], default="mean", help="default: mean")
    add("--seed", metavar="S", type=natural, default=0, help="of the initial state and noise (default: 0)")
    add("--steps", metavar="N", type=count, help="stop after N steps (default: the whole episode)")


def _list(command: Command) -> None:
    add, kinds = command.add_argument, ["experiments", "tasks", "methods", "seeds"]
    add("what", nargs="?", choices=kinds, default="experiments", help="default: experiments")
    add("--experiment", metavar="E", help="only what this experiment uses")
    add("--scale", metavar="S", help=f"only what this scale uses: {SCALES}")
    add("--results", metavar="DIR", default="results", help="where `seeds` looks for runs (default: results)")


def _bench(command: Command) -> None:
    add = command.add_argument
    add("--task", metavar="T", default="HalfCheetahV", help="default: HalfCheetahV")
    add("--methods", metavar="M", nargs="+", help="default: those of the paper's experiment")
    add("--algorithm", choices=["ppo", "sac", "td3", "gail", "lsiq"], default="ppo", help="default: ppo")
    sights = (
        "who reads what; privileged: the critic sees all, bodies are drawn (default: blind for ppo, else privileged)"
    )
    add("--sight", choices=["blind", "privileged"], help=sights)
    add("--profile", metavar="P", default="reference", help="hyperparameters (default: reference)")
    add(
        "--updates",
        metavar="K",
        type=count,
        default=5,
        help="rounds timed, of an update, or of 50 of sac, td3 and lsiq (default: 5)",
    )
    add("--json", metavar="FILE", help="write every timing, with provenance")


def _cost(command: Command) -> None:
    add = command.add_argument
    add(
        "--experiment", metavar="E", required=True, help="see `s2pg list experiments`; all: a row for each, and the sum"
    )
    add("--scale", metavar="S", required=True, help=SCALES)
    add(
        "--cores", metavar="N", type=count, default=os.cpu_count(), help="cores to share (default: all of this machine)"
    )
    add("--results", metavar="DIR", default="results", help="finished runs here are used first (default: results)")
    add("--json", metavar="FILE", help="write the figures behind the table")


def _status(command: Command) -> None:
    add = command.add_argument
    add("experiments", metavar="E", nargs="*", help="default: those of workflow/config/default.yaml")
    add("--scale", metavar="S", help=f"{SCALES} (default: that of workflow/config/default.yaml)")
    add("--results", metavar="DIR", default="results", help="folder of the results (default: results)")
    add("--runs", action="store_true", help="list each run that is running, interrupted or failed")
    add("--json", action="store_true", help="print JSON")


def _doctor(command: Command) -> None:
    command.add_argument("--results", metavar="DIR", default="results", help="default: results")


def natural(text: str, least: int = 0) -> int:
    """A whole number of at least `least`."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def count(text: str) -> int:
    """A whole number of at least 1."""
    return natural(text, 1)


def _study(command: Command) -> None:
    add = command.add_argument
    add("study", metavar="STUDY", help="file in workflow/config/studies, e.g. gradient_variance")
    add("--case", metavar="C", required=True, help="a case of the study's file")
    add("--scale", metavar="S", default="demo", help=f"how much is measured: {SCALES} (default: demo)")
    add("--seed", metavar="N", type=natural, default=0, help="default: 0")
    add("--out", metavar="FILE", help=".parquet (default: its place below results/runs)")


COMMANDS: dict[str, tuple[str, Callable[[Command], None]]] = {
    "train": ("Train one run. Started again, it goes on where it stopped.", _train),
    "eval": ("Evaluate a run on fresh episodes.", _eval),
    "record": ("Record a run's episodes as a dataset for imitation.", _record),
    "export": ("Store a dataset for Minari, in the folder that MINARI_DATASETS_PATH names.", _export),
    "watch": ("Film an episode, with the memory's trace beside it.", _watch),
    "list": ("List experiments, tasks, methods or seeds.", _list),
    "bench": ("Time environment, acting and learning per method, on one thread.", _bench),
    "cost": ("Say what an experiment needs: core-hours, memory, disk, from measured times.", _cost),
    "status": ("Say how far the runs are: done, running, failed, waiting, time left.", _status),
    "study": ("Measure one case of a study, such as the variance of policy gradients.", _study),
    "doctor": ("Check the installation. Exit code 1 if something fails.", _doctor),
}

if __name__ == "__main__":
    sys.exit(main())
