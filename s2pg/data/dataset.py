"""An expert's recorded episodes as a file: NumPy's .npz in the schema of LocoMuJoCo's "perfect" datasets.

    states, next_states  [N, E] what the task's `state` holds but for the previous action
    actions              [N, A] as they were given to the environment
    rewards              [N]
    absorbing            [N] bool, the episode was terminated here (no bootstrap)
    last                 [N] bool, the last step of an episode, terminated or truncated

Numbers are stored with the bits that they were recorded with: states and actions in float32, as the tasks show them
and policies give them, and rewards in float64, so that returns are those of an evaluation. Files of others may hold
other floats. Beside `X.npz` lies its card `X.json`, which says where it comes from and holds its checksum.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from s2pg.hyperparameters import ConfigError

ARRAYS = ("states", "actions", "rewards", "next_states", "absorbing", "last")
RECORD = "`s2pg record RUN_DIR --out FILE` makes one"


class DatasetError(ConfigError):
    """A dataset cannot be used; the message names the file and the way out."""


@dataclass(frozen=True)
class Dataset:
    """N steps of whole episodes, one after the other. `card`: where they come from, and the file's checksum."""

    states: np.ndarray  # [N, E]
    actions: np.ndarray  # [N, A]
    rewards: np.ndarray  # [N]
    next_states: np.ndarray  # [N, E]
    absorbing: np.ndarray  # [N] bool
    last: np.ndarray  # [N] bool
    card: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Steps."""
        return len(self.rewards)

    @property
    def lengths(self) -> np.ndarray:
        """Steps of every episode, `[K]`."""
        return np.diff(np.flatnonzero(self.last), prepend=-1)

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of every episode, `[K]`, added up step by step as an evaluation does."""
        parts = np.split(self.rewards.astype(np.float64), np.flatnonzero(self.last)[:-1] + 1)
        return np.array([sum(part.tolist(), 0.0) for part in parts])

    @property
    def terminated(self) -> np.ndarray:
        """Of every episode, `[K]` bool: it was terminated, not truncated."""
        return self.absorbing[self.last]

    def first(self, episodes: int) -> Dataset:
        """The first so many episodes."""
        end = np.flatnonzero(self.last)[episodes - 1] + 1
        return Dataset(**{name: getattr(self, name)[:end] for name in ARRAYS}, card=self.card)


def card_path(path: Path) -> Path:
    """Where the card of a dataset lies."""
    return path.with_suffix(".json")


def packed(dataset: Dataset) -> bytes:
    """The content of the file; the same dataset gives the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(dataset, name) for name in ARRAYS})
    return buffer.getvalue()


def checksum(content: bytes) -> str:
    """What a card says of the file."""
    return hashlib.sha256(content).hexdigest()


def load(path: str | Path, episodes: int | None = None) -> Dataset:
    """Read and check a dataset, or its first `episodes` episodes. Nothing is written.

    Raises:
        DatasetError: no such file, truncated, of another format, other than its card says, or with fewer episodes.
    """
    path = Path(path)
    content = _content(path)
    arrays = _arrays(path, content)
    _check(path, arrays)
    flags = {name: arrays[name].astype(bool) for name in ("absorbing", "last")}
    dataset = Dataset(**{**arrays, **flags}, card=_card(path, checksum(content)))
    held = int(dataset.last.sum())
    if episodes is not None and episodes > held:
        raise DatasetError(f"{path}: holds {held} episodes, {episodes} are asked for; record more (s2pg record)")
    return dataset if episodes is None else dataset.first(episodes)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such dataset; {RECORD}") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error


def _arrays(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """The arrays of the schema; a truncated or foreign file is an error."""
    if not content.startswith(b"PK"):
        raise DatasetError(f"{path}: not an .npz file (NumPy's archive of arrays); {RECORD}")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            _check_names(path, file.files)
            return {name: file[name] for name in ARRAYS}
    except ConfigError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{path}: truncated or damaged ({error}); fetch or record it again") from error


def _check_names(path: Path, found: list[str]) -> None:
    parts = {"missing": set(ARRAYS) - set(found), "unexpected": set(found) - set(ARRAYS)}
    if any(parts.values()):
        said = "; ".join(f"{word} arrays: {', '.join(sorted(names))}" for word, names in parts.items() if names)
        raise DatasetError(f"{path}: not a dataset of an expert; {said}; allowed and needed: {', '.join(ARRAYS)}")


def _check(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Shapes agree, everything is finite, episodes are whole and continuous."""
    shapes = {name: array.shape for name, array in arrays.items()}
    steps = len(arrays["rewards"]) if arrays["rewards"].ndim else 0
    flat = all(shapes[name] == (steps,) for name in ("rewards", "absorbing", "last"))
    wide = all(len(shapes[name]) == 2 and shapes[name][0] == steps for name in ("states", "actions"))
    if not steps or not flat or not wide or shapes["next_states"] != shapes["states"]:
        raise DatasetError(
            f"{path}: shapes {shapes} do not agree; needed: states and next_states [N, E], actions [N, A], others [N]"
        )
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise DatasetError(f"{path}: {name} holds what is not a finite number; record the expert again")
    for name in ("absorbing", "last"):
        if not np.isin(arrays[name], (0, 1)).all():
            raise DatasetError(f"{path}: {name} holds other values than 0 and 1")
    _check_episodes(path, arrays)


def _check_episodes(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    last = arrays["last"].astype(bool)
    if not last[-1]:
        raise DatasetError(
            f"{path}: the last step does not end an episode (last[-1] is 0); only whole ones can be used"
        )
    if (arrays["absorbing"].astype(bool) & ~last).any():
        raise DatasetError(f"{path}: an absorbing step is not the last of its episode")
    inside = ~last[:-1]
    if not np.allclose(arrays["next_states"][:-1][inside], arrays["states"][1:][inside], rtol=1e-5, atol=1e-6):
        raise DatasetError(f"{path}: inside an episode, next_states are not the states of the next step")


def _card(path: Path, found: str) -> dict[str, Any]:
    """The card, if there is one, or the checksum alone."""
    place = card_path(path)
    if not place.exists():
        return {"checksum": found}
    try:
        card = dict(json.loads(place.read_text()))
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{place}: not the card of a dataset ({error}); fetch or record it again") from error
    if card.get("checksum") != found:
        raise DatasetError(
            f"{path}: has the checksum {found}, its card {place.name} says {card.get('checksum')}; they do not "
            "belong together: fetch or record both again"
        )
    return card
