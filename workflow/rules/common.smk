# Settings, and the questions that the rules ask about grids and studies. Of the suite, only s2pg.config and s2pg.study
# are imported here: they need no torch, and Snakemake reads these files again for every job on a cluster.
import functools
import hashlib
import json
import os
import sys
from pathlib import Path

from s2pg.config import (
    RunId,
    expert_run,
    list_experiments,
    list_studies,
    load_experiment,
    resolve,
    workflow_settings,
)
from s2pg.study import load_study

BOOLEANS = {"true": True, "false": False}  # Snakemake itself reads `True` and `False` only
SETTINGS = workflow_settings({key: BOOLEANS.get(str(value), value) for key, value in config.items()})
SCALE = SETTINGS["scale"]
EXPERIMENTS = {name: load_experiment(name) for name in list_experiments()}
STUDIES = {name: load_study(name) for name in list_studies()}
CHOSEN = [name for name in SETTINGS["experiments"] if name in EXPERIMENTS]

# What `python -m analysis` makes of every experiment; a test holds the lists equal to its own.
FIGURES = """success_against_delay success_rates sample_efficiency time_efficiency aggregates final_returns
    learning_curves learning_curves_time improvement profiles timing memory_probe kernel kernel_curves
    learning_curves_other_mode imitation diagnostics_action diagnostics_memory""".split()
TABLES = """returns success_rate longest_delay aggregates improvement wall_clock time_to_reach accounting memory_probe
    claims""".split()
PACKS = {"minutes": 30, "hours": 240, "days": 10**6}  # longest limit, in minutes, of runs that may share a job
STUDY_SOURCES = [f"analysis/{name}.py" for name in ("style", "claims", "figures/common", "figures/timing")]
NOTEBOOKS = ["explore_a_run", "compare_methods", "statistics_step_by_step"]

# Jobs find the programs beside the Python that runs Snakemake, whether or not its environment is activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))


def done(experiment: str, scale: str) -> list[str]:
    """The `done.json` of every run of an experiment at a scale."""
    return [f"<results>/{run.folder}/done.json" for run in EXPERIMENTS[experiment].runs(scale)]


def dataset(experiment: str, task: str, scale: str) -> list[str]:
    """The expert's episodes that a run learns from; none but for imitation."""
    file = f"<results>/{RunId(experiment, scale, task, 'oracle', 0).dataset}"
    return [file] if EXPERIMENTS[experiment].imitates else []


def expert(task: str, scale: str) -> str:
    """The `done.json` of the run that is recorded as the expert of a task."""
    return f"<results>/{expert_run(task, scale).folder}/done.json"


def ended(experiment: str, scale: str) -> str:
    """Which runs `collect` finds: all, or with `partial` those that have ended by now, and when."""
    if not SETTINGS["partial"]:
        return "all"
    files = [Path(SETTINGS["results"], run.folder, "done.json") for run in EXPERIMENTS[experiment].runs(scale)]
    found = [(str(path), path.stat().st_mtime_ns) for path in files if path.exists()]
    return f"{len(found)} of {len(files)} {digest(found)}"


def digest(content) -> str:
    """Changes when the content does."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def measured(study: str, scale: str) -> list[str]:
    """The results of all cases of a study at a scale, below the results folder."""
    return [STUDIES[study].file(scale, case) for case in STUDIES[study].scale(scale)["cases"]]


def complete(study: str, scale: str) -> bool:
    """Whether all cases have been measured by now."""
    return all(Path(SETTINGS["results"], path).exists() for path in measured(study, scale))


@functools.cache
def fingerprint(experiment: str, task: str, method: str, scale: str) -> str:
    """Changes when a run would: of everything in its configuration but the seed. Claims and plots are not in it."""
    elsewhere = {"device": "cuda"} if SETTINGS["device"] == "cuda" else {}
    return digest(resolve(experiment, task, method, 0, scale, elsewhere).to_dict())


def settings(experiment: str, scale: str) -> str:
    """Changes when any run of the experiment would."""
    runs = dict.fromkeys((run.task, run.method) for run in EXPERIMENTS[experiment].runs(scale))
    return digest([fingerprint(experiment, *run, scale) for run in runs])


def compared(experiment: str) -> list[str]:
    """Other experiments that claims of this one compare with, as far as they are made too."""
    rules = [claim["rule"] for claim in EXPERIMENTS[experiment].claims]
    named = {rule[key] for rule in rules for key in ("experiment_a", "experiment_b") if key in rule}
    return [name for name in CHOSEN if name in named and name != experiment]


def minutes(wildcards, attempt: int) -> int:
    """Time limit of a training job; each retry gets twice the time and goes on from the checkpoint."""
    return EXPERIMENTS[wildcards.experiment].resources["minutes"][wildcards.scale] * 2 ** (attempt - 1)


def megabytes(wildcards, attempt: int) -> int:
    """Memory limit of a training job; each retry gets half as much again."""
    return EXPERIMENTS[wildcards.experiment].resources["memory_mb"] * (1 + attempt) // 2


def packing(wildcards) -> str:
    """How long a training job may take: in minutes, hours or days. `group-components` says how many share a job.

    Imitation has groups of its own: it waits for experts, which are trained in the others.
    """
    experiment = EXPERIMENTS[wildcards.experiment]
    limit = experiment.resources["minutes"][wildcards.scale]
    return next(name for name, most in PACKS.items() if limit <= most) + "_imitating" * experiment.imitates


def notice(wildcards) -> str:
    """Has SLURM send SIGTERM so long before the time limit that the epoch under way still ends with its checkpoint.

    Of a job of days twice an epoch's share of the limit; runs that share a job have the same.
    """
    experiment, pack = EXPERIMENTS[wildcards.experiment], packing(wildcards).partition("_")[0]
    limit, epochs = 60 * experiment.resources["minutes"][wildcards.scale], experiment.scale(wildcards.scale).epochs
    seconds = {"minutes": 60, "hours": 900, "days": max(900, min(2 * limit // epochs, limit // 2, 65535))}
    return f"--signal=TERM@{seconds[pack]}"


def cores(wildcards) -> int:
    """Cores of a training job."""
    return EXPERIMENTS[wildcards.experiment].resources["cores"]


def study_cores(wildcards) -> int:
    """Cores of a study's case: all of this machine for one that nothing may run beside."""
    study = STUDIES[wildcards.study].spec
    return (study.get("alone") and workflow.cores) or study["resources"]["cores"]


def one_of(names) -> str:
    """A pattern for a wildcard that may only be one of these names."""
    return "|".join(names)


def sources(*patterns: str) -> list[str]:
    """Program text that a result depends on: editing it makes the result again."""
    return sorted(str(path) for pattern in patterns for path in Path().glob(pattern))


def of(experiments, *patterns) -> list[str]:
    """Paths of these experiments; the scale is left open."""
    return [path for each in patterns for path in expand(each, experiment=experiments, allow_missing=True)]


def made(experiments, *patterns) -> list[str]:
    """Paths of these experiments at the chosen scale."""
    return expand(of(experiments, *patterns), scale=SCALE)


# A partial report leaves out studies of which a case has not been measured: nothing is measured for it.
STUDIED = [
    name for name in SETTINGS["experiments"] if name in STUDIES and (not SETTINGS["partial"] or complete(name, SCALE))
]
