"""What a run writes while it trains: TensorBoard scalars, tidy Parquet, a text log."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from s2pg.training import checkpoint

EPISODES = {
    "step": "int64",
    "mode": "str",
    "episode": "int64",
    "return": "float64",
    "length": "int64",
    "seed": "int64",
    "success": "boolean",  # empty where the task does not say
    "terminated": "boolean",  # empty in episodes from before it was written
}
TIMING = dict.fromkeys(("environment", "acting", "learning", "evaluation", "wall"), "float64") | {"step": "int64"}
PROBE = {"group": "str", "features": "str", "r2": "float64", "dimensions": "int64", "steps": "int64"}


class Log:
    """Scalars and tables of one run.

    The tables are part of the checkpoint (`rows`), so that a resumed run rewrites what lies beyond it. Events of a
    killed run may overlap; readers keep the last value of (tag, step). However often a run is resumed, it leaves one
    event file.
    """

    def __init__(self, folder: Path, rows: dict[str, list[dict]], resumed_at: int) -> None:
        self.folder = folder
        self.rows = rows or {"episodes": [], "timing": []}
        one_event_file(folder)
        self._writer = SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else None)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write `{tag: value}` at an environment step."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def tables(self) -> None:
        """Write `episodes.parquet` and `timing.parquet`, each whole or not at all."""
        self._writer.flush()
        self.table("episodes", self.rows["episodes"], EPISODES)
        self.table("timing", self.rows["timing"], TIMING)

    def table(self, name: str, rows: list[dict], columns: dict[str, str]) -> None:
        """Write `<name>.parquet` with these columns, whole or not at all."""
        frame = pd.DataFrame(rows, columns=list(columns)).astype(columns)
        checkpoint.write(self.folder / f"{name}.parquet", frame.to_parquet)

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()
        one_event_file(self.folder)


def one_event_file(folder: Path) -> None:
    """Put the events of all processes that wrote here into the first one's file, half-written records left out."""
    files = sorted(folder.glob("events.out.tfevents.*"), key=_begun)
    if len(files) > 1:
        content = b"".join(whole_records(path.read_bytes()) for path in files)
        checkpoint.write(files[0], lambda path: path.write_bytes(content))
        for path in files[1:]:
            path.unlink()


def _begun(path: Path) -> tuple[int, int, str]:
    """When a file was begun, from its name: events.out.tfevents.<second>.<host>.<process>.<number>."""
    second, *_, number = path.name.removeprefix("events.out.tfevents.").split(".")
    return int(second), int(number), path.name


def whole_records(data: bytes) -> bytes:
    """What of an event file is whole. A record is its length (8 bytes), a checksum (4), data, a checksum (4)."""
    at = 0
    while at + 12 <= len(data):
        after = at + 16 + int.from_bytes(data[at : at + 8], "little")
        if after > len(data):
            break
        at = after
    return data[:at]


def text_log(folder: Path) -> logging.Logger:
    """A logger that appends to `train.log` of the run."""
    logger = logging.getLogger(f"s2pg.run.{folder}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    close(logger)
    handler = logging.FileHandler(folder / "train.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(handler)
    return logger


def close(logger: logging.Logger) -> None:
    """Close the logger's files."""
    for handler in logger.handlers[:]:
        handler.close()
        logger.removeHandler(handler)
