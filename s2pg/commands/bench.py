"""`s2pg bench`: seconds per environment step of every method, by activity.

Methods take turns, one update each, over several rounds, so that a machine that slows down slows all of them; medians
over rounds are compared. Figures of two machines, or of two hours on a shared one, are not: the table's head says what
the machine does by a fixed yardstick, and two columns what the matrix products of a step take on it by themselves and
how many other operations of torch it has.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path
from statistics import median

import torch

from s2pg.commands import show
from s2pg.config import load_experiment
from s2pg.kernels import keep_freed_memory
from s2pg.timing import products
from s2pg.timing.lanes import (
    ACTIVITIES,
    Lane,
    Seconds,
    Yardstick,
    configuration,
    learning_methods,
    take_turns,
)
from s2pg.training import checkpoint
from s2pg.training.provenance import provenance

PAPERS = {"ppo": "ppo_pomdp", "sac": "sac_privileged", "td3": "td3_privileged"}
LAUNCHED = ["s2pg", "bptt5", "bptt32", "none"]  # with the algorithms that imitate


def run(args: Namespace) -> int:
    """Time, print a table, write JSON."""
    torch.set_num_threads(1)
    keep_freed_memory()
    if args.json:  # fails now rather than after the measurements
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(args.methods or experiment_methods(args.algorithm)))
    wanted = (args.profile, args.algorithm, args.sight)
    lanes = {name: Lane(configuration(args.task, name, *wanted)) for name in names}
    rounds, yardsticks = measure(lanes, args.updates)
    results = {name: summary([timed[name] for timed in rounds]) for name in names}
    for name, lane in lanes.items():
        show.progress(f"matrix products alone: {name}")
        operations = products.counted(lane)
        results[name]["products_ms_per_step"] = 1e3 * products.seconds(operations.counts) / lane.steps
        results[name]["other_operations_per_step"] = operations.others / lane.steps
    show.progress("")
    about = {"algorithm": args.algorithm, "task": args.task, "profile": args.profile, "updates": args.updates}
    about |= {"threads": 1, "load_average": os.getloadavg()[0]} | Yardstick.median(yardsticks)._asdict()
    facts = provenance()
    print(heading(about, facts["cpu"]))
    print(report(results))
    if busy := show.busy():
        print(busy, file=sys.stderr)
    if args.json:
        configs = {name: lane.config.to_dict() for name, lane in lanes.items()}
        content = {"benchmark": about, "methods": results, "configs": configs, "provenance": facts}
        checkpoint.write_json(Path(args.json), content)
    return 0


def measure(lanes: dict[str, Lane], updates: int) -> tuple[list[dict[str, Seconds]], list[Yardstick]]:
    """So many rounds after one that warms up, and what the machine did before each."""

    def say(index: int, name: str) -> None:
        show.progress(f"{f'round {index} of {updates}' if index else 'warm-up'}: {name}")

    rounds, yardsticks = zip(*take_turns(lanes, updates + 1, say), strict=True)
    show.progress("")
    return list(rounds[1:]), list(yardsticks[1:])


def heading(about: dict, cpu: str) -> str:
    """What was timed, and on what."""
    updates = about["updates"]
    rounds = "one update" if updates == 1 else f"the median of {updates} updates"
    what = f"{about['algorithm']} on {about['task']}, profile {about['profile']}, one thread, {rounds} per method"
    speed = f"{about['gflops']:.0f} GFLOP/s in a matrix product, {about['call_us']:.2f} us per small operation"
    return f"{what}\n{cpu}: {speed}\n"


def experiment_methods(algorithm: str) -> list[str]:
    """Those of the paper's experiment with this algorithm, or those that the reference launched."""
    if algorithm not in PAPERS:
        return LAUNCHED
    allowed = learning_methods(algorithm)
    return [name for name in load_experiment(PAPERS[algorithm]).methods if name in allowed]


def summary(rounds: list[Seconds]) -> dict:
    """Medians over rounds, in milliseconds per step, and every round."""
    ms = [{activity: 1e3 * seconds for activity, seconds in timed.items()} for timed in rounds]
    totals = [sum(timed.values()) for timed in ms]
    return {
        "ms_per_step": {activity: median(timed[activity] for timed in ms) for activity in ACTIVITIES},
        "total_ms_per_step": median(totals),
        "steps_per_second": 1e3 / median(totals),
        "steps_per_second_range": [1e3 / max(totals), 1e3 / min(totals)],
        "rounds": ms,
    }


def report(results: dict[str, dict]) -> str:
    """The table; "time / s2pg's" says how many times as long as s2pg a step takes."""
    base = results.get("s2pg", {}).get("total_ms_per_step")
    rows = []
    for name, result in results.items():
        parts = [f"{result['ms_per_step'][activity]:.3f}" for activity in ACTIVITIES]
        total, (low, high) = result["total_ms_per_step"], result["steps_per_second_range"]
        speed = [f"{result['steps_per_second']:,.0f}", f"{low:,.0f} - {high:,.0f}"]
        alone = [f"{result['products_ms_per_step']:.3f}", f"{result['other_operations_per_step']:,.0f}"]
        rows.append([name, *parts, f"{total:.3f}", *speed, f"{total / base:.2f}" if base else "-", *alone])
    headers = ["method", *ACTIVITIES, "all [ms/step]", "steps/s", "(range)", "time / s2pg's"]
    headers += ["products [ms/step]", "other operations [1/step]"]
    return show.table(rows, headers, ["method"])
