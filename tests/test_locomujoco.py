"""LocoMuJoCo's robots: seeded, cut into groups, ended where they fall; and what is said where something is missing."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from envs.locomujoco import DATA, INSTALL, MOTIONS, Loco, dataset_path
from envs.tasks import TASKS, make
from s2pg.commands import doctor
from s2pg.commands import list as listing
from s2pg.training import catalogue, worlds
from tests.tasks import every

ROOT = Path(__file__).resolve().parents[1]
IDS = list(MOTIONS)
needs_the_extra = pytest.mark.skipif(bool(TASKS[IDS[0]].missing), reason=INSTALL)

# Facts of LocoMuJoCo 0.4.1: positions, velocities, what is drawn, actions.
SIZES = {
    "HumanoidTorque4AgesWalk": (17, 19, 2, 13),
    "HumanoidTorque4AgesRun": (17, 19, 2, 13),
    "AtlasWalk": (14, 16, 0, 10),
    "AtlasCarry": (14, 16, 1, 10),
    "UnitreeH1Walk": (15, 17, 0, 11),
    "UnitreeH1Run": (15, 17, 0, 11),
    "UnitreeH1Carry": (15, 17, 1, 11),
    "TalosWalk": (16, 18, 0, 12),
    "TalosCarry": (16, 18, 1, 12),
}
LATENT = {id: MOTIONS[id].latent for id in IDS if MOTIONS[id].latent}
MASSES = np.array([0.1, 1.0, 5.0, 10.0], np.float32)


@functools.cache
def shared(id):
    """A task that tests only reset and step: compiling its robots takes seconds."""
    return make(id)


def play(env, steps, seed):
    """Numbers of an episode after another under random actions, as one array."""
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    rows = [observation["state"]]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        rows += [observation["state"], [reward, terminated]]
        if terminated or truncated:
            rows.append(env.reset()[0]["state"])
    return np.concatenate(rows)


# --- with the extra --------------------------------------------------------------------------------------------------


@needs_the_extra
@pytest.mark.parametrize("id", IDS)
def test_groups_are_locomujocos_in_its_order(id):
    env = shared(id)
    positions, velocities, latent, actions = SIZES[id]
    sizes = {group: part.stop - part.start for group, part in env.layout["state"].items()}
    expected = {"positions": positions, "velocities": velocities} | ({LATENT[id]: latent} if latent else {})
    assert list(sizes.items()) == [*expected.items(), ("previous_action", actions)]
    assert np.array_equal(env.action_space.low, -np.ones(actions))
    assert np.array_equal(env.action_space.high, np.ones(actions))


@needs_the_extra
@pytest.mark.parametrize("id", IDS)
def test_positions_and_velocities_are_the_simulations(id):
    env = shared(id)
    env.action_space.seed(0)
    env.reset(seed=0)
    state = env.step(env.action_space.sample())[0]["state"]
    simulation = env.base._simulation
    keys = simulation.get_all_observation_keys()[2:]
    for group, prefix, numbers in (("positions", "q_", "qpos"), ("velocities", "dq_", "qvel")):
        joints = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        expected = [getattr(simulation._data.joint(joint), numbers)[0] for joint in joints]
        np.testing.assert_array_equal(state[env.layout["state"][group]], np.float32(expected))


@needs_the_extra
@pytest.mark.parametrize("id", LATENT)
def test_what_is_drawn_is_in_state_alone_constant_in_an_episode_and_different_between_episodes(id):
    env, latent = shared(id), LATENT[id]
    assert latent in env.layout["state"]
    assert latent not in env.layout["obs"]
    env.action_space.seed(0)
    seen = set()
    for episode in range(24):
        state = env.reset(seed=0 if episode == 0 else None)[0]["state"]
        start = tuple(state[env.layout["state"][latent]])
        for _ in range(2):
            state = env.step(env.action_space.sample())[0]["state"]
            assert tuple(state[env.layout["state"][latent]]) == start
        seen.add(start)
    bits = {(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)}
    assert seen == (bits if latent == "body_code" else {(mass,) for mass in MASSES})


@needs_the_extra
@pytest.mark.parametrize("id", LATENT)
def test_what_is_drawn_is_what_is_simulated(id):
    env, masses = shared(id), {}
    for _ in range(16):
        latent = tuple(env.reset()[0]["state"][env.layout["state"][LATENT[id]]])
        model = env.base._simulation._model
        masses[latent] = mujoco.mj_getTotalmass(model)
        assert LATENT[id] == "body_code" or model.body("weight").mass == pytest.approx(latent)
    in_order = [masses[latent] for latent in sorted(masses)]
    assert len(in_order) > 1
    assert in_order == sorted(set(in_order))


@needs_the_extra
@pytest.mark.parametrize("id", IDS)
def test_an_action_lasts_ten_milliseconds_for_every_mass_and_body(id):
    env = shared(id)
    for _ in range(12):
        env.reset()
        before = env.base._simulation._data.time
        env.step(env.action_space.sample())
        assert env.base._simulation._data.time - before == pytest.approx(0.01)


@needs_the_extra
@pytest.mark.parametrize("id", IDS)
def test_same_seed_same_bits_whatever_the_global_generator_has_done(id):
    first = play(shared(id), 60, seed=3)
    np.random.random(7)
    assert play(make(id), 60, seed=3).tobytes() == first.tobytes()


@needs_the_extra
@pytest.mark.parametrize("id", LATENT)
def test_other_seeds_draw_others(id):
    env = shared(id)
    assert len({tuple(env.reset(seed=seed)[0]["state"]) for seed in range(12)}) > 1


@needs_the_extra
@pytest.mark.parametrize("id", ["HumanoidTorque4AgesWalk", "UnitreeH1Carry"])
def test_nothing_outside_changes(id):
    np.random.seed(0)
    numbers, handler = np.random.get_state(), mujoco.get_mju_user_warning()
    play(make(id), 40, seed=1)
    for before, after in zip(numbers, np.random.get_state(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert mujoco.get_mju_user_warning() is handler


@needs_the_extra
@pytest.mark.parametrize("id", IDS)
def test_the_reward_is_between_0_and_1_and_1_at_the_rewarded_speed(id):
    env = shared(id)
    env.action_space.seed(0)
    state = env.reset(seed=0)[0]["state"]
    for _ in range(60):
        speed = MOTIONS[id].speed
        if LATENT.get(id) == "body_code":
            first, second = state[env.layout["state"]["body_code"]]
            speed *= (0.4, 0.6, 0.8, 1.0)[int(2 * first + second)]
        velocity = float(state[env.layout["state"]["velocities"]][0])
        observation, reward, terminated, _, _ = env.step(env.action_space.sample())
        assert reward == pytest.approx(np.exp(-((velocity - speed) ** 2)), abs=1e-5)
        assert 0 <= reward <= 1
        state = (env.reset()[0] if terminated else observation)["state"]


@needs_the_extra
@pytest.mark.parametrize("id", IDS)
def test_falling_terminates(id):
    env = worlds.make(id)
    env.action_space.seed(0)
    env.reset(seed=0)
    ends = [(False, False)]
    while not any(ends[-1]):
        ends.append(env.step(env.action_space.sample())[2:4])
    assert ends[-1] == (True, False)
    assert len(ends) < 200


@needs_the_extra
def test_a_robot_that_never_falls_is_truncated_after_1000_steps():
    env = worlds.make("UnitreeH1Walk")
    env.unwrapped.base._simulation._use_absorbing_states = False
    env.reset(seed=0)
    ends = [env.step(np.zeros(11, np.float32))[2:4] for _ in range(1000)]
    assert ends == [(False, False)] * 999 + [(False, True)]


@needs_the_extra
def test_bodies_are_refused_as_these_are_no_tasks_of_gymnasiums():
    with pytest.raises(ValueError, match="AtlasCarry: bodies='consistent' is not allowed, because .* no MuJoCo task"):
        make("AtlasCarry", bodies="consistent")


@needs_the_extra
def test_several_step_side_by_side_as_each_alone():
    vector = worlds.make_vector("AtlasCarry", {}, 2)
    single = worlds.make("AtlasCarry")
    together, alone = vector.reset(seed=[4, 5])[0], single.reset(seed=5)[0]
    for _ in range(5):
        np.testing.assert_array_equal(together["state"][1], alone["state"])
        action = vector.action_space.sample()
        together, alone = vector.step(action)[0], single.step(action[1])[0]


def write_perfect(folder, id, episodes, length):
    """A file as published ones are, of what a random policy did; returns its states."""
    env = shared(id)
    states = np.zeros((episodes, length, env.base.observation_space.shape[0]))
    for episode in states:
        episode[:] = env.base.reset()[0]
        episode[:, env.layout["state"]["velocities"]] += np.arange(length)[:, None] / length
    flat = states.reshape(-1, states.shape[-1])
    last = np.tile(np.arange(length) == length - 1, episodes).astype(float)
    path = folder / MOTIONS[id].data
    path.parent.mkdir(parents=True)
    absent = {"rewards": 0 * last, "absorbing": 0 * last, "next_states": flat}
    np.savez(path, states=flat, actions=np.zeros((len(flat), *env.action_space.shape)), last=last, **absent)
    return flat


@needs_the_extra
@pytest.mark.parametrize("id", ["AtlasCarry", "HumanoidTorque4AgesWalk", "UnitreeH1Run"])
def test_with_data_episodes_start_in_the_experts_trajectories(id, tmp_path, monkeypatch):
    states = write_perfect(tmp_path, id, episodes=4, length=6)
    env = make(id, start="data", data=tmp_path)
    size = sum(SIZES[id][:2])  # mass and body are drawn by themselves
    starts = np.array([env.reset(seed=seed)[0]["state"][:size] for seed in range(12)])
    distances = np.abs(starts[:, None] - states[None, :, :size]).max(-1).min(1)
    assert distances.max() < 1e-5
    assert len(np.unique(starts.round(4), axis=0)) > 3
    monkeypatch.setenv(DATA, str(tmp_path))
    np.testing.assert_array_equal(make(id, start="data").reset(seed=3)[0]["state"][:size], starts[3])


# --- without it ------------------------------------------------------------------------------------------------------


def test_importing_the_tasks_does_not_import_locomujoco():
    code = "import sys, envs, envs.locomujoco; print(sorted({'loco_mujoco', 'mushroom_rl', 'torch'} & {*sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.fixture
def without_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "loco_mujoco"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "loco_mujoco", None)


@pytest.mark.usefixtures("without_the_extra")
@pytest.mark.parametrize("id", IDS)
def test_without_the_extra_making_a_task_says_how_to_install_it(id):
    with pytest.raises(ImportError, match="extra 'locomujoco'.*make setup-locomujoco"):
        gymnasium.make(TASKS[id].gym_id)


@pytest.mark.usefixtures("without_the_extra")
def test_without_the_extra_the_list_of_tasks_names_it(capsys):
    rows = {row.id: row for row in catalogue.catalogue()}
    assert {id for id, row in rows.items() if row.missing} == set(IDS)
    assert rows["HopperV"].visible == {"positions": 5, "previous_action": 3}
    table = listing._tasks([], listing.Namespace(experiment=None, scale=None)).splitlines()
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in table if line.strip()}
    assert {lines[id] for id in IDS} == {"needs the extra locomujoco 1000"}


@pytest.mark.usefixtures("without_the_extra")
def test_without_the_extra_the_doctor_is_content_and_says_so():
    found = doctor.tasks()
    assert found.status == "ok"
    assert f"{len(TASKS) - len(IDS)} tasks" in found.text
    assert found.text.endswith(f"{len(IDS)} more need the extra locomujoco")


def test_every_task_is_skipped_by_name_where_its_extra_is_missing(without_the_extra):
    marks = {param.values[0]: [mark.kwargs["reason"] for mark in param.marks] for param in every()}
    assert {id: reasons for id, reasons in marks.items() if reasons} == {id: [INSTALL] for id in IDS}


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [id for id in IDS if MOTIONS[id].data])
def test_a_file_of_data_is_found_below_the_folder(id, tmp_path, monkeypatch):
    path = tmp_path / MOTIONS[id].data
    path.parent.mkdir(parents=True)
    path.touch()
    assert dataset_path(id, tmp_path) == path
    monkeypatch.setenv(DATA, str(tmp_path))
    assert dataset_path(id) == path


@pytest.mark.parametrize("id", [id for id in IDS if MOTIONS[id].data])
def test_a_missing_file_is_named_with_where_to_get_it(id, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        dataset_path(id, tmp_path)
    assert str(tmp_path / MOTIONS[id].data) in str(caught.value)
    for how in ("13737593", "humanoid_datasets_perfect_v0.4.1.zip", "loco-mujoco-download-perfect"):
        assert how in str(caught.value)


def test_without_a_folder_the_variable_is_named(monkeypatch):
    monkeypatch.delenv(DATA, raising=False)
    with pytest.raises(FileNotFoundError, match=f"AtlasCarry: set {DATA} to the folder in which atlas_carry/Atlas_c"):
        dataset_path("AtlasCarry")


def test_where_no_data_were_published_the_error_says_so():
    with pytest.raises(FileNotFoundError, match="TalosCarry: .* published no perfect data .* it has for .*AtlasCarry"):
        dataset_path("TalosCarry")


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="'AtlasRun'; there are .*AtlasWalk"):
        dataset_path("AtlasRun")


@pytest.mark.parametrize(
    ("options", "error"), [({"start": "standing"}, ValueError), ({"start": "data"}, FileNotFoundError)]
)
def test_a_wrong_start_and_missing_data_are_refused_before_anything_is_built(options, error, monkeypatch):
    monkeypatch.delenv(DATA, raising=False)
    with pytest.raises(error, match="AtlasCarry: "):
        Loco("AtlasCarry", **options)
