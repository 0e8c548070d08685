"""Datasets for Minari: what it gives back is what was recorded, and nothing of another dataset is lost."""

from __future__ import annotations

import json
from pathlib import Path

import minari
import numpy as np
import pytest

from s2pg.cli import main
from s2pg.data.dataset import load
from s2pg.training.record import save
from tests.imitation import balance, demonstrated

NAME = "s2pg/pendulum-expert-v0"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three episodes, and Minari's folder set to one of their own."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    path = tmp_path / "expert.npz"
    save(demonstrated("InvertedPendulumV", {"max_episode_steps": 12}, balance, 3)[0], path, {})
    return path


def test_minari_gives_back_what_was_recorded(file: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", str(file), "--minari", NAME]) == 0
    assert "3 episodes, 36 steps" in capsys.readouterr().out
    dataset, stored = load(file), minari.load_dataset(NAME)
    assert stored.total_episodes == 3
    assert json.loads(stored.storage.metadata["description"])["checksum"] == dataset.card["checksum"]
    read, ends = list(stored.iterate_episodes()), [12, 24, 36]
    for episode, end in zip(read, ends, strict=True):
        part = slice(end - 12, end)
        np.testing.assert_array_equal(episode.observations[:-1], dataset.states[part])
        np.testing.assert_array_equal(episode.observations[-1], dataset.next_states[end - 1])
        np.testing.assert_array_equal(episode.actions, dataset.actions[part])
        np.testing.assert_array_equal(episode.rewards, dataset.rewards[part])
        assert not episode.terminations.any()
        np.testing.assert_array_equal(np.flatnonzero(episode.truncations), [11])
        assert episode.observations.dtype == dataset.states.dtype


def test_a_fall_is_a_termination(file: Path) -> None:
    save(demonstrated("InvertedPendulumV", {}, lambda state: np.ones(1), 2)[0], file, {})
    assert main(["export", str(file), "--minari", NAME]) == 0
    for episode in minari.load_dataset(NAME).iterate_episodes():
        assert episode.terminations[-1]
        assert not episode.truncations.any()


def test_the_first_episodes_alone(file: Path) -> None:
    assert main(["export", str(file), "--minari", NAME, "--episodes", "2"]) == 0
    assert minari.load_dataset(NAME).total_episodes == 2


@pytest.mark.parametrize("name", ["../outside-v0", "no-version", "blank name-v0", ""])
def test_what_is_no_name_is_refused(name: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", str(file), "--minari", name]) == 2
    said = capsys.readouterr().err
    assert f"--minari: {name!r} is no name" in said
    assert "s2pg/hopper-expert-v0" in said
    assert not (tmp_path / "minari").exists()


def test_a_dataset_of_that_name_stays(file: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", str(file), "--minari", NAME, "--episodes", "1"]) == 0
    assert main(["export", str(file), "--minari", NAME]) == 2
    assert "already" in capsys.readouterr().err
    assert minari.load_dataset(NAME).total_episodes == 1


def test_half_a_dataset_is_taken_away(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("minari.dataset._storages.arrow_storage.ArrowStorage.update_episodes", full)
        assert main(["export", str(file), "--minari", NAME]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "minari" / NAME).exists()
    assert main(["export", str(file), "--minari", NAME]) == 0


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", str(tmp_path / "none.npz"), "--minari", NAME]) == 2
    assert "none.npz: no such dataset" in capsys.readouterr().err
