"""The tidy tables: every column with its type, unit and meaning. `check` holds a frame to its schema.

The data dictionary in `results/README.md` is `dictionary()`; a test compares the two.
"""

from dataclasses import dataclass

import pandas as pd
from pandas.api import types

from analysis.errors import AnalysisError


class SchemaError(AnalysisError):
    """A table that does not follow its schema."""


@dataclass(frozen=True)
class Column:
    """One column: `dtype` is str, int, float or bool; only a `nullable` column may hold empty cells.

    `allowed`: the values it may hold; empty: any. `added`: the column came later, and results from before it lack it;
    `check` adds it with empty cells.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    nullable: bool = False
    allowed: tuple[str, ...] = ()
    added: bool = False


@dataclass(frozen=True)
class Table:
    """One table: what a row is, and its columns in order."""

    row: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """Names of the columns, in order."""
        return [column.name for column in self.columns]


EXPERIMENT = Column("experiment", "str", "-", "name of the experiment file")
TASK = Column("task", "str", "-", "task, e.g. HopperV")
METHOD = Column("method", "str", "-", "method, e.g. s2pg")
SEED = Column("seed", "int", "-", "seed of the run")
RUN = (EXPERIMENT, TASK, METHOD, SEED)
STEP = Column("step", "int", "environment steps", "environment steps taken in training so far")
MODES = ("sample", "mean")
SCORES = ("final", "area")
FEATURES = ("observation", "observation + memory")
STATUSES = ("finished", "failed", "missing")
MODE = Column("mode", "str", "-", "evaluation mode: `sample` (as in training) or `mean` (without noise)", allowed=MODES)
SCORE = Column(
    "score", "str", "-", "`final` (last tenth of the evaluations) or `area` (mean over training steps)", allowed=SCORES
)
STATUS = Column(
    "status",
    "str",
    "-",
    "`finished`, `failed` (diverged, or its files cannot be read) or `missing` (not there, or of other settings)",
    allowed=STATUSES,
)
COUNTS = (
    Column("attempted", "int", "runs", "runs of the grid behind this row (finished + failed + missing)"),
    Column("finished", "int", "runs", "of these, finished"),
    Column("failed", "int", "runs", "of these, failed; each counts as the random policy"),
    Column("missing", "int", "runs", "of these, without a result"),
)
COMPLETE = Column("complete", "bool", "-", "no run behind this row is missing and no task was left out")
NOTE = Column("note", "str", "-", "why the row is incomplete or what was left out; empty if there is nothing to say")

TABLES: dict[str, Table] = {
    "runs": Table(
        "one attempted run of the grid",
        (
            *RUN,
            Column("scale", "str", "-", "scale of the run: smoke, demo, lite or paper"),
            STATUS,
            Column("reason", "str", "-", "why the run failed or is missing", nullable=True),
            Column("steps", "int", "environment steps", "environment steps made", nullable=True),
            Column("seconds", "float", "s", "wall-clock time of the run, evaluation included", nullable=True),
            Column("peak_memory_mb", "float", "MB", "largest resident memory of the process", nullable=True),
            Column("git_revision", "str", "-", "revision of the code that made the run", nullable=True),
            Column("git_dirty", "bool", "-", "whether the code had uncommitted changes", nullable=True),
            Column("profile", "str", "-", "hyperparameter profile: matched or reference", nullable=True),
            Column("config_hash", "str", "-", "hash of the run's configuration without its seed", nullable=True),
            Column("cpu", "str", "-", "processor that the run was made on", nullable=True),
            Column("started", "str", "ISO 8601", "when the run started", nullable=True),
        ),
    ),
    "scalars": Table(
        "one logged scalar (TensorBoard)",
        (
            *RUN,
            Column("tag", "str", "-", "name of the scalar, e.g. eval/return/mean"),
            STEP,
            Column("value", "float", "see the tag", "the value (32-bit in the event file)", nullable=True),
            Column("wall_time", "float", "s since 1970", "when it was logged"),
        ),
    ),
    "episodes": Table(
        "one evaluation episode",
        (
            *RUN,
            STEP,
            MODE,
            Column("episode", "int", "-", "number of the episode within its evaluation"),
            Column("return", "float", "reward", "undiscounted sum of the rewards"),
            Column("length", "int", "environment steps", "length of the episode"),
            Column("episode_seed", "int", "-", "seed that the evaluation environment was reset with"),
            Column(
                "success",
                "bool",
                "-",
                "the task counts the episode as a success; empty where it does not say what success is",
                nullable=True,
                added=True,
            ),
            Column(
                "terminated",
                "bool",
                "-",
                "the task ended the episode, e.g. after a fall; it did not last until it was truncated",
                nullable=True,
                added=True,
            ),
        ),
    ),
    "timing": Table(
        "one epoch of training",
        (
            *RUN,
            STEP,
            Column("environment", "float", "s", "time of this epoch spent in the environment"),
            Column("acting", "float", "s", "time of this epoch spent choosing decisions"),
            Column("learning", "float", "s", "time of this epoch spent in updates"),
            Column("evaluation", "float", "s", "time of this epoch spent in evaluation"),
            Column("wall", "float", "s", "wall-clock time since the start, evaluation included"),
        ),
    ),
    "probe": Table(
        "how well a linear readout of a trained policy predicts one hidden group",
        (
            *RUN,
            Column("group", "str", "-", "hidden observation group, e.g. velocities"),
            Column(
                "features",
                "str",
                "-",
                "what the readout sees: `observation` or `observation + memory`",
                allowed=FEATURES,
            ),
            Column(
                "r2", "float", "1", "R² on held-out episodes: 1 is perfect, 0 no better than the mean", nullable=True
            ),
            Column("dimensions", "int", "-", "numbers in the group"),
            Column("steps", "int", "environment steps", "held-out steps that it was measured on"),
        ),
    ),
    "scores": Table(
        "one run's score in one evaluation mode",
        (
            *RUN,
            MODE,
            SCORE,
            STATUS,
            Column(
                "raw", "float", "reward", "the score as a return; of a failed run the random policy's", nullable=True
            ),
            Column(
                "normalised",
                "float",
                "1",
                "the score on the scale 0 = random policy, 1 = oracle (imitation: expert), unless the experiment's "
                "`anchors` say otherwise",
                nullable=True,
            ),
        ),
    ),
    "statistics": Table(
        "one estimate with its bootstrap interval",
        (
            EXPERIMENT,
            Column("statistic", "str", "-", "which statistic (see below)"),
            MODE,
            Column("score", "str", "-", "`final` or `area` as in `scores`; `curve` where x is a place on a curve"),
            Column("task", "str", "-", "task, or `all`"),
            METHOD,
            Column("versus", "str", "-", "the other method of a comparison; empty otherwise"),
            Column("x", "float", "see the statistic", "place on the curve or profile", nullable=True),
            Column("estimate", "float", "see the statistic", "the estimate", nullable=True),
            Column("low", "float", "as the estimate", "lower end of the 95 % interval", nullable=True),
            Column("high", "float", "as the estimate", "upper end of the 95 % interval", nullable=True),
            *COUNTS,
            COMPLETE,
            NOTE,
        ),
    ),
    "wall_clock": Table(
        "time and memory of one method on one task (medians over its runs; times per step without a run's first epoch)",
        (
            EXPERIMENT,
            TASK,
            METHOD,
            Column("environment", "float", "s / 1000 steps", "time in the environment", nullable=True),
            Column("acting", "float", "s / 1000 steps", "time choosing decisions", nullable=True),
            Column("learning", "float", "s / 1000 steps", "time in updates", nullable=True),
            Column("training", "float", "s / 1000 steps", "environment, acting and learning together", nullable=True),
            Column("steps_per_second", "float", "1/s", "environment steps per second of training", nullable=True),
            Column("seconds", "float", "s", "wall-clock time of a run, evaluation included", nullable=True),
            Column("peak_memory_mb", "float", "MB", "largest resident memory of the process", nullable=True),
            *COUNTS,
        ),
    ),
}

STATISTICS: dict[str, str] = {
    "iqm": "interquartile mean of the normalised scores over runs and tasks",
    "median": "median over tasks of the mean normalised score",
    "mean": "mean normalised score over runs and tasks",
    "optimality_gap": "mean distance of the normalised scores below 1 (smaller is better)",
    "profile": "share of the runs with a normalised score above x",
    "improvement": "probability that a run of `method` scores above a run of `versus` on a task, mean over tasks",
    "iqm_over_steps": "interquartile mean of the normalised evaluation returns after x environment steps",
    "iqm_over_seconds": "the same after x seconds of training (environment + acting + learning, no evaluation)",
    "return_mean": "mean return of a method's runs on one task",
    "return_iqm": "interquartile mean return of a method's runs on one task",
    "return_over_steps": "interquartile mean of the evaluation returns on one task after x environment steps",
    "return_over_seconds": "the same after x seconds of training",
    "success_rate": "share of successes among a method's evaluation episodes on one task, mean over runs (only "
    "where the task says what success is)",
    "learned": "share of a method's runs on one task whose success rate is at least 0.95",
    "longest_delay": "the largest delay, in steps, at which and at every shorter one of the grid at least half of the "
    "method's runs have learned; 0: not even the shortest (only of tasks with a delay)",
}

_IS = {
    "str": lambda values: types.infer_dtype(values, skipna=True) in ("string", "empty"),
    "int": types.is_integer_dtype,
    "float": types.is_float_dtype,
    "bool": types.is_bool_dtype,
}
_EMPTY = {"str": "object", "int": "int64", "float": "float64", "bool": "bool"}
_EMPTY_NULLABLE = {**_EMPTY, "int": "Int64", "bool": "boolean"}


def check(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its columns in the order of table `name`; SchemaError says what does not fit."""
    if name not in TABLES:
        raise SchemaError(f"no table is called {name!r}; tables: {', '.join(TABLES)}")
    table = TABLES[name]
    frame = _with_added(table, frame)
    lacking = [column for column in table.names if column not in frame]
    unknown = [str(column) for column in frame if column not in table.names]
    if lacking or unknown:
        raise SchemaError(f"table {name}: missing columns {lacking}, unexpected columns {unknown}")
    for column in table.columns:
        _check_column(name, column, frame[column.name])
    return frame[table.names]


def _with_added(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    absent = [column for column in table.columns if column.added and column.name not in frame]
    return frame.assign(**{c.name: pd.array([None] * len(frame), dtype=_EMPTY_NULLABLE[c.dtype]) for c in absent})


def _check_column(name: str, column: Column, values: pd.Series) -> None:
    if not _IS[column.dtype](values):
        raise SchemaError(f"table {name}: column {column.name} should hold {column.dtype}, holds {values.dtype}")
    if not column.nullable and values.isna().any():
        raise SchemaError(f"table {name}: column {column.name} has {int(values.isna().sum())} empty cells")
    strange = sorted(set(values.unique()) - set(column.allowed)) if column.allowed else []
    if strange:
        raise SchemaError(f"table {name}: column {column.name} holds {strange}, allowed are {list(column.allowed)}")


def frame(name: str, rows: list[dict] | dict[str, object] | None = None) -> pd.DataFrame:
    """A checked frame of table `name` from rows (or columns); nullable columns may be left out. No rows: empty."""
    table = TABLES[name]
    data = pd.DataFrame(rows if rows else None, columns=None if rows else table.names)
    for column in table.columns:
        if column.name not in data and column.nullable:
            data[column.name] = None
    dtypes = {c.name: (_EMPTY_NULLABLE if c.nullable else _EMPTY)[c.dtype] for c in table.columns if c.name in data}
    return check(name, data.astype(dtypes))


def dictionary() -> str:
    """The data dictionary as Markdown."""
    parts = [_describe(name, table) for name, table in TABLES.items()]
    kinds = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in STATISTICS.items())
    parts.append(f"### Values of `statistic`\n\n| statistic | meaning |\n|---|---|\n{kinds}\n")
    return "\n".join(parts)


def _describe(name: str, table: Table) -> str:
    rows = "\n".join(
        f"| `{c.name}` | {c.dtype}{', may be empty' if c.nullable else ''} | {c.unit} | {c.meaning} |"
        for c in table.columns
    )
    return f"### `{name}`: {table.row}\n\n| column | type | unit | meaning |\n|---|---|---|---|\n{rows}\n"
