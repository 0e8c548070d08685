"""`s2pg export`: the episodes of a dataset for Minari, the Farama Foundation's library of offline data."""

from __future__ import annotations

import json
import shutil
import warnings
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from s2pg.config import ConfigError
from s2pg.data.dataset import Dataset, load


def run(args: Namespace) -> int:
    """Store the dataset among those of Minari and say where."""
    stored = to_minari(load(args.dataset, args.episodes), args.minari)
    print(f"{args.dataset}: {stored.total_episodes} episodes, {stored.total_steps} steps ({stored.storage.data_path})")
    return 0


def to_minari(dataset: Dataset, name: str) -> Any:
    """A new `minari.MinariDataset` called `name`, e.g. s2pg/hopper-expert-v0, in the folder that Minari is set to.

    Observations are the whole states: n + 1 of an episode of n steps. The card is the dataset's description.

    Raises:
        ConfigError: Minari is not installed, does not take the name, has such a dataset already or cannot store it.
    """
    try:
        import minari
        from minari.dataset.minari_dataset import parse_dataset_id
        from minari.storage.datasets_root_dir import get_dataset_path
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error}; `pip install -e .[minari]` installs what the export needs") from error
    try:
        parse_dataset_id(name)
    except (ValueError, TypeError):  # TypeError: no version
        raise ConfigError(f"--minari: {name!r} is no name of a dataset; e.g. s2pg/hopper-expert-v0") from None
    folder = get_dataset_path(name)
    if folder.exists():
        raise ConfigError(f"--minari: there is a dataset {name} already ({folder}), which stays as it is; take another")
    spaces = {
        f"{kind}_space": Box(-np.inf, np.inf, array.shape[1:], array.dtype.type)
        for kind, array in (("observation", dataset.states), ("action", dataset.actions))
    }
    algorithm, card = dataset.card.get("run", {}).get("algorithm"), json.dumps(dataset.card)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about an author and an environment, which we do not name
            return minari.create_dataset_from_buffers(
                name, list(buffers(dataset)), algorithm_name=algorithm, description=card, data_format="arrow", **spaces
            )
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # half a dataset would pass for a whole one
        raise ConfigError(f"{folder}: could not be written ({error.strerror or error})") from error


def buffers(dataset: Dataset) -> Iterator[Any]:
    """The episodes as `minari.EpisodeBuffer`s."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    ends = np.flatnonzero(dataset.last) + 1
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        part = slice(start, end)
        yield EpisodeBuffer(
            observations=np.concatenate([dataset.states[part], dataset.next_states[end - 1 : end]]),
            actions=dataset.actions[part],
            rewards=dataset.rewards[part],
            terminations=dataset.absorbing[part],
            truncations=(dataset.last & ~dataset.absorbing)[part],
        )
