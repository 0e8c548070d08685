"""An expert's dataset: what is written is read bit for bit, and what cannot be used is refused without a trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from s2pg.data.dataset import ARRAYS, Dataset, DatasetError, card_path, load
from s2pg.data.demonstrations import demonstrations
from s2pg.data.normaliser import Normaliser
from s2pg.data.replay import Replay
from s2pg.data.rollout import Stopwatch
from s2pg.imitation.retrace import observed
from s2pg.training import worlds
from s2pg.training.checkpoint import RunError
from s2pg.training.record import Recorder, joined, save
from tests.helpers import collector, seeded, tiny, tiny_agent

LENGTHS = (3, 1, 4)


def episodes(lengths: tuple[int, ...] = LENGTHS, env: int = 5, actions: int = 2, seed: int = 0) -> Dataset:
    """Random episodes of these lengths, of which every other one is terminated."""
    rng, steps, ends = np.random.default_rng(seed), sum(lengths), np.cumsum(lengths) - 1
    last, absorbing = np.zeros(steps, bool), np.zeros(steps, bool)
    last[ends] = True
    absorbing[ends[::2]] = True
    states = rng.normal(size=(steps, env)).astype(np.float32)
    following = np.vstack([states[1:], states[:1]])
    following[ends] = rng.normal(size=(len(ends), env))
    taken = rng.normal(scale=2.0, size=(steps, actions)).astype(np.float32)
    return Dataset(states, taken, rng.normal(size=steps), following, absorbing, last)


def arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    return {name: getattr(dataset, name) for name in ARRAYS}


def assert_same(one: Dataset, two: Dataset) -> None:
    for name in ARRAYS:
        a, b = getattr(one, name), getattr(two, name)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A dataset of three episodes with its card."""
    save(episodes(), tmp_path / "expert.npz", {"task": "HopperV"})
    return tmp_path / "expert.npz"


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_written_is_read_bit_for_bit(dtype: type, tmp_path: Path) -> None:
    whole = episodes()
    given = Dataset(**{n: a.astype(dtype) if a.dtype == np.float32 else a for n, a in arrays(whole).items()})
    card = save(given, tmp_path / "new" / "expert.npz", {"task": "HopperV", "returns": {"mean": 1.5}})
    found = load(tmp_path / "new" / "expert.npz")
    assert_same(found, given)
    assert found.card == card == json.loads((tmp_path / "new" / "expert.json").read_text())
    assert (card["task"], len(card["checksum"])) == ("HopperV", 64)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["expert.json", "expert.npz"]


def test_the_same_episodes_give_the_same_file(tmp_path: Path) -> None:
    cards = [save(episodes(), tmp_path / f"{name}.npz", {}) for name in "ab"]
    assert cards[0]["checksum"] == cards[1]["checksum"]
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_the_first_episodes_are_whole_ones(file: Path) -> None:
    for number, steps in ((1, 3), (2, 4), (3, 8)):
        part = load(file, number)
        assert (len(part), part.lengths.tolist()) == (steps, list(LENGTHS[:number]))
        np.testing.assert_array_equal(part.states, load(file).states[:steps])
    whole = load(file)
    assert whole.terminated.tolist() == [True, False, True]
    np.testing.assert_allclose(whole.returns, [whole.rewards[:3].sum(), whole.rewards[3], whole.rewards[4:].sum()])


def test_a_file_without_a_card_is_read_as_locomujoco_writes_it(tmp_path: Path) -> None:
    """Flags as numbers, double precision, no card: the checksum is still known."""
    floats = {name: array.astype(np.float64) for name, array in arrays(episodes()).items()}
    np.savez(tmp_path / "perfect.npz", **floats)
    found = load(tmp_path / "perfect.npz")
    assert (found.last.dtype, found.absorbing.dtype, found.states.dtype) == (bool, bool, np.float64)
    assert list(found.card) == ["checksum"]


def test_five_episodes_of_hopper_are_below_a_megabyte(tmp_path: Path) -> None:
    """Random numbers do not compress: the worst case."""
    save(episodes((1000,) * 5, env=11, actions=3), tmp_path / "hopper.npz", {})
    assert (tmp_path / "hopper.npz").stat().st_size < 1e6


# --- what is refused -------------------------------------------------------------------------------------------------


def write(path: Path, **changed: np.ndarray | None) -> None:
    """The dataset with arrays changed, added or (None) left out."""
    content = {**arrays(episodes()), **changed}
    np.savez(path, **{name: array for name, array in content.items() if array is not None})
    card_path(path).unlink()


def changed(name: str, index: object, value: float) -> dict[str, np.ndarray]:
    array = getattr(episodes(), name).copy()
    array[index] = value
    return {name: array}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(bytes(content))


def another_file(path: Path) -> None:
    card = card_path(path).read_text()
    save(episodes(seed=1), path, {})
    card_path(path).write_text(card)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (Path.unlink, "no such dataset; `s2pg record"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "cannot be read"),
    "truncated": (truncate, "truncated or damaged"),
    "cut to a quarter": (lambda p: p.write_bytes(p.read_bytes()[:400]), "truncated or damaged"),
    "a flipped bit": (flip_a_bit, "truncated or damaged|checksum"),
    "csv": (lambda p: p.write_text("time,x\n0,1\n"), "not an .npz file"),
    "npy": (lambda p: np.save(p.open("wb"), np.zeros(3)), "not an .npz file"),
    "empty": (lambda p: p.write_bytes(b""), "not an .npz file"),
    "foreign": (
        lambda p: write(p, actions=None, rewards=None, obs=np.zeros(3)),
        "missing arrays: actions, rewards; unexpected arrays: obs; allowed and needed: states, actions,",
    ),
    "pickled": (lambda p: write(p, states=np.array([{}] * 8)), "truncated or damaged"),
    "no steps": (lambda p: write(p, **{n: a[:0] for n, a in arrays(episodes()).items()}), "do not agree"),
    "fewer actions": (lambda p: write(p, actions=episodes().actions[1:]), r"'actions': \(7, 2\).* do not agree"),
    "narrow next": (lambda p: write(p, next_states=episodes().next_states[:, 1:]), "do not agree"),
    "flat states": (lambda p: write(p, states=episodes().states[:, 0]), "do not agree"),
    "not a number": (lambda p: write(p, **changed("actions", 2, np.nan)), "actions holds what is not a finite number"),
    "text": (lambda p: write(p, rewards=np.array(["a"] * 8)), "rewards holds what is not a finite number"),
    "no flag": (lambda p: write(p, last=episodes().last * 2), "last holds other values than 0 and 1"),
    "cut episode": (lambda p: write(p, **changed("last", -1, 0)), "does not end an episode"),
    "fall inside": (lambda p: write(p, **changed("absorbing", 0, 1)), "not the last of its episode"),
    "jump": (lambda p: write(p, **changed("next_states", 0, 9.0)), "not the states of the next step"),
    "another's card": (another_file, r"its card expert\.json says .*fetch or record both again"),
    "damaged card": (lambda p: card_path(p).write_text("{"), r"expert\.json: not the card"),
    "a list as card": (lambda p: card_path(p).write_text("[1]"), r"expert\.json: not the card"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_used_is_refused_by_name_and_nothing_is_written(name: str, file: Path) -> None:
    spoil, message = REFUSED[name]
    spoil(file)
    before = {p: p.read_bytes() for p in file.parent.iterdir() if p.is_file()}
    with pytest.raises(DatasetError, match=message) as refusal:
        load(file)
    assert str(file.with_suffix("")) in str(refusal.value)
    assert {p: p.read_bytes() for p in file.parent.iterdir() if p.is_file()} == before


def test_fewer_episodes_than_asked_for_are_an_error(file: Path) -> None:
    with pytest.raises(DatasetError, match=r"expert\.npz: holds 3 episodes, 4 are asked for"):
        load(file, 4)


def test_a_write_that_fails_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"expert\.npz: could not be written \(No space left on device\)"):
        save(episodes(seed=1), file, {})
    assert file.read_bytes() == before
    assert sorted(p.name for p in file.parent.iterdir()) == ["expert.json", "expert.npz"]
    load(file)


# --- as a replay -----------------------------------------------------------------------------------------------------


def spec(blank: bool = False) -> worlds.Spec:
    """Of a task with 5 + 2 numbers of state, of which the policy sees the second and the last three."""
    widths = {"obs": worlds.Width(2, 2), "state": worlds.Width(5, 2)}
    bound = np.ones(2, np.float32)
    return worlds.Spec(widths, -bound, bound, np.array([1, 4, 5, 6]), blank)


def test_every_step_is_followed_by_its_successor_and_by_what_is_shown_of_its_action() -> None:
    dataset = episodes()
    replay = demonstrations(dataset, spec())
    rows = torch.nonzero(replay.valid).flatten()
    assert (len(replay), replay.slots, replay.streams) == (8, 8 + 3, 1)
    state, following = replay.obs["state"][rows], replay.obs["state"][replay.next(rows)]
    np.testing.assert_array_equal(state[:, :5], dataset.states)
    np.testing.assert_array_equal(following[:, :5], dataset.next_states)
    np.testing.assert_array_equal(following[:, 5:], dataset.actions.clip(-1, 1))
    starts = np.concatenate([[True], dataset.last[:-1]])
    assert not state[starts, 5:].any()
    np.testing.assert_array_equal(replay.obs["obs"], replay.obs["state"][:, [1, 4, 5, 6]])
    np.testing.assert_array_equal(replay.action[rows], dataset.actions)
    np.testing.assert_array_equal(replay.reward[rows], dataset.rewards.astype(np.float32))
    np.testing.assert_array_equal(replay.terminated[rows], dataset.absorbing)
    assert replay.position.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4]
    assert replay.z.shape == (11, 0)


def test_a_run_gets_what_its_networks_read() -> None:
    whole = demonstrations(episodes(), spec())
    part = observed(whole, {"state": Normaliser(worlds.Width(5, 0), None)})
    assert list(part.obs) == ["state"]
    assert torch.equal(part.obs["state"], whole.obs["state"][:, :5])


def test_a_blank_previous_action_stays_blank() -> None:
    assert not demonstrations(episodes(), spec(blank=True)).obs["state"][:, 5:].any()


@pytest.mark.parametrize(("env", "actions", "said"), [(4, 2, "states.* 4 .* 5;"), (5, 3, "actions.* 3 .* 2;")])
def test_widths_of_another_task_are_named(env: int, actions: int, said: str) -> None:
    with pytest.raises(DatasetError, match=f"expert's {said} record an expert in this task"):
        demonstrations(episodes(env=env, actions=actions), spec())


STORED = ["InvertedPendulumV", "HopperV", "HopperM", "HumanoidM", "PointMass1"]


@pytest.mark.parametrize("task", STORED)
def test_recorded_episodes_are_stored_as_a_collector_would_store_them(task: str) -> None:
    """Bit for bit: the same actions in the same environment, once through a collector, once through a recorder."""
    config = tiny("none", task, options={"max_episode_steps": 9}, num_envs=1, observation_clip=None)
    config = replace(config, memory=replace(config.memory, sight="privileged"))
    agent, world = tiny_agent(config), worlds.spec(task, config.task_options)
    rollout = collector(agent, config).collect(60, seeded(), Stopwatch())
    usual = Replay(200, 1, {key: width.total for key, width in world.widths.items()}, 0, world.actions)
    usual.add(rollout)
    recorder = Recorder(worlds.make(task, config.task_options))
    recorder.reset(seed=int(np.random.SeedSequence(0).generate_state(1)[0]))
    for u in rollout.u[:, 0].numpy():
        if any(recorder.step(u)[2:4]):
            recorder.reset()
    stored = demonstrations(joined(recorder.episodes), world)
    assert stored.slots > 20
    for name, column in stored.state_dict().items():
        if name != "cursor":
            assert torch.equal(column, usual.state_dict()[name][: stored.slots]), name
