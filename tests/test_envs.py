"""The tasks are what they say: groups as in the reference, dynamics of the base task, hidden parts hidden."""

import warnings
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.locomujoco import MOTIONS
from envs.randomise import Wind
from envs.tasks import TASKS, make, task
from envs.views import View
from tests.tasks import every

ALL = every()
MUJOCO = [id for id, row in TASKS.items() if row.base.endswith("-v4")]
WINDY = [id for id, row in TASKS.items() if row.wind is not None]
ALWAYS_THE_SAME = [name for name, motion in MOTIONS.items() if not motion.latent]  # without data nothing is drawn
MASSIVE = [id for id, row in TASKS.items() if row.mass]

# Facts of the reference implementation: groups of the full observation, what the actor sees, number of actions.
GROUPS = {
    "Hopper": {"positions": (0, 5), "velocities": (5, 11)},
    "HalfCheetah": {"positions": (0, 8), "velocities": (8, 17)},
    "Walker2d": {"positions": (0, 8), "velocities": (8, 17)},
    "Ant": {"positions": (0, 13), "velocities": (13, 27), "contact_forces": (27, 111)},
    "Humanoid": {
        "positions": (0, 22),
        "velocities": (22, 45),
        "com_inertia": (45, 185),
        "com_velocity": (185, 269),
        "actuator_forces": (269, 292),
        "external_contact_forces": (292, 376),
    },
}
VISIBLE = {"Hopper": 5, "HalfCheetah": 8, "Walker2d": 8, "Ant": 97, "Humanoid": 129}
VISIBLE_PRIVILEGED = {**VISIBLE, "Humanoid": 106}
ACTIONS = {"Hopper": 3, "HalfCheetah": 6, "Walker2d": 6, "Ant": 8, "Humanoid": 17}
ACTION_RANGE = {"Hopper": 1.0, "HalfCheetah": 1.0, "Walker2d": 1.0, "Ant": 1.0, "Humanoid": np.float32(0.4)}


def rollout(env, steps=20, seed=0, action_seed=0):
    """Observations, rewards and ends of uniformly random actions, with an unseeded reset after each episode."""
    env.action_space.seed(action_seed)
    observation, _ = env.reset(seed=seed)
    observations, rewards, ends = [observation], [], []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            observation, _ = env.reset()
        observations.append(observation)
        rewards.append(reward)
        ends.append((terminated, truncated))
    return observations, np.array(rewards), ends


def same(first, second):
    return all(np.array_equal(a[k], b[k]) for a, b in zip(first, second, strict=True) for k in ("obs", "state"))


@pytest.mark.parametrize("name", GROUPS)
def test_groups_and_slices_equal_the_reference(name):
    env = make(f"{name}V")
    groups = {group: (part.start, part.stop) for group, part in env.layout["state"].items()}
    size = max(end for _, end in GROUPS[name].values())
    assert groups == {**GROUPS[name], "previous_action": (size, size + ACTIONS[name])}
    assert list(groups) == [*GROUPS[name], "previous_action"]
    assert env.observation_space["obs"].shape == (VISIBLE[name] + ACTIONS[name],)
    assert env.layout["obs"]["previous_action"] == slice(VISIBLE[name], VISIBLE[name] + ACTIONS[name])
    np.testing.assert_array_equal(env.action_space.high, np.full(ACTIONS[name], ACTION_RANGE[name], np.float32))


@pytest.mark.parametrize("name", GROUPS)
def test_privileged_setting_hides_what_the_reference_hides(name):
    env = make(f"{name}V", hidden="privileged")
    assert env.hidden == task(f"{name}V").hidden_privileged
    assert env.observation_space["obs"].shape == (VISIBLE_PRIVILEGED[name] + ACTIONS[name],)


def test_humanoid_hides_everything_that_gives_away_velocities():
    layout = make("HumanoidV").layout["obs"]
    assert list(layout) == ["positions", "actuator_forces", "external_contact_forces", "previous_action"]


@pytest.mark.parametrize("id", ALL)
def test_layout_tiles_both_parts_in_order_and_the_previous_action_comes_last(id):
    env = make(id)
    for part, groups in env.layout.items():
        ends = [0, *(cut.stop for cut in groups.values())]
        assert [cut.start for cut in groups.values()] == ends[:-1]
        assert env.observation_space[part].shape == (ends[-1],)
        assert list(groups)[-1] == "previous_action"
    assert [g for g in env.layout["state"] if g not in env.hidden] == list(env.layout["obs"])


@pytest.mark.parametrize("id", every(id for id in TASKS if id not in MASSIVE))
def test_dynamics_rewards_and_ends_are_the_base_tasks(id):
    env, base = make(id), make(id).base
    wind = env.randomise[0] if env.randomise else None
    env.action_space.seed(1)
    seen, _ = env.reset(seed=3)
    full, _ = base.reset(seed=3)
    size = base.observation_space.shape[0]
    for _ in range(200):
        np.testing.assert_array_equal(seen["state"][:size], full.astype(np.float32))
        action = env.action_space.sample()
        if wind:
            base.data.qfrc_applied[0] = wind.sign * task(id).wind
        seen, reward, *ends, _ = env.step(action)
        full, base_reward, *base_ends, info = base.step(action)
        assert ends == base_ends
        forward = (wind.sign - 1) * getattr(base, "_forward_reward_weight", 1) * info["x_velocity"] if wind else 0
        assert reward == pytest.approx(base_reward + forward, abs=1e-12)
        if any(ends):
            (seen, _), (full, _) = env.reset(), base.reset()


@pytest.mark.parametrize("id", ALL)
def test_obs_is_state_without_the_hidden_groups(id):
    env = make(id)
    for observation in rollout(env)[0]:
        for group, part in env.layout["obs"].items():
            np.testing.assert_array_equal(observation["obs"][part], observation["state"][env.layout["state"][group]])
        assert observation["obs"].dtype == observation["state"].dtype == np.float32


@pytest.mark.parametrize("id", ALL)
def test_changing_a_hidden_number_changes_state_only_and_a_visible_one_both(id):
    env = make(id)
    env.reset(seed=0)
    full, action = np.arange(1.0, 1 + env.base.observation_space.shape[0]), env.action_space.sample()
    before = env._view(full, action)
    for group, part in env.layout["state"].items():
        for i in range(part.start, min(part.stop, len(full))):
            after = env._view(full + 1000 * (np.arange(len(full)) == i), action)
            assert np.flatnonzero(after["state"] != before["state"]).tolist() == [i]
            assert np.array_equal(after["obs"], before["obs"]) == (group in env.hidden)


@pytest.mark.parametrize("id", [id for id in MUJOCO if id.endswith("V")])
def test_no_hidden_number_occurs_in_obs(id):
    env = make(id)
    for observation in rollout(env, steps=5)[0]:
        hidden = np.concatenate([observation["state"][env.layout["state"][group]] for group in env.hidden])
        common = np.intersect1d(hidden, observation["obs"])
        assert set(common) <= {0.0}


@pytest.mark.parametrize("id", ALL)
def test_same_seed_same_episode_other_seed_another(id):
    first, second = make(id), make(id)
    (a, rewards_a, ends_a), (b, rewards_b, ends_b) = rollout(first, seed=5), rollout(second, seed=5)
    assert same(a, b)
    np.testing.assert_array_equal(rewards_a, rewards_b)
    assert ends_a == ends_b
    if id not in ALWAYS_THE_SAME:
        assert any(not same(a, rollout(second, seed=seed)[0]) for seed in (6, 7, 8, 9))  # CueRecall has only two cues


@pytest.mark.parametrize("id", ALL)
def test_previous_action_is_the_action_applied_and_zero_after_a_reset(id):
    env = make(id)
    env.action_space.seed(0)
    for seed in (0, None):
        start, _ = env.reset(seed=seed)
        for part in ("obs", "state"):
            assert not start[part][env.layout[part]["previous_action"]].any()
        action = 3 * env.action_space.sample()  # out of range: shown as the simulator applies it
        applied = np.clip(action, env.action_space.low, env.action_space.high)
        after = env.step(action)[0]
        for part in ("obs", "state"):
            shown = after[part][env.layout[part]["previous_action"]]
            np.testing.assert_array_equal(shown, 0 * action if task(id).blank_previous_action else applied)


@pytest.mark.parametrize("id", ALL)
def test_gymnasiums_checker_passes(id):
    harmless = ("probably too", "symmetric and normalized", "different from the unwrapped", "alternative render")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(gymnasium.make(task(id).gym_id).unwrapped, skip_render_check=True)
    assert [str(w.message) for w in caught if not any(text in str(w.message) for text in harmless)] == []


@pytest.mark.parametrize("id", ALL)
def test_making_a_task_warns_of_nothing(id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium.make(task(id).gym_id)


@pytest.mark.parametrize("id", ALL)
def test_horizon_truncates_and_nothing_else_does(id):
    env = gymnasium.make(task(id).gym_id)
    assert env.spec.max_episode_steps == task(id).horizon
    if task(id).horizon:
        env = gymnasium.make(task(id).gym_id, max_episode_steps=3)
    ends = rollout(env, steps=3)[2]
    assert [truncated for _, truncated in ends] == [False, False, task(id).horizon is not None]


@pytest.mark.parametrize("id", ["HopperV", "AntW", "CueRecall"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environment_equals_single_environments_of_the_same_seeds(id, mode):
    seeds = [11, 12]
    vector = gymnasium.make_vec(task(id).gym_id, num_envs=2, vectorization_mode=mode)
    singles = [gymnasium.make(task(id).gym_id) for _ in seeds]
    assert vector.get_attr("layout")[0] == singles[0].unwrapped.layout
    together, _ = vector.reset(seed=seeds)
    apart = [env.reset(seed=seed)[0] for env, seed in zip(singles, seeds, strict=True)]
    vector.action_space.seed(0)
    for _ in range(3):
        for part in ("obs", "state"):
            np.testing.assert_array_equal(together[part], [o[part] for o in apart])
        actions = vector.action_space.sample()
        together, rewards, *_ = vector.step(actions)
        steps = [env.step(action) for env, action in zip(singles, actions, strict=True)]
        apart = [step[0] for step in steps]
        np.testing.assert_array_equal(rewards, [step[1] for step in steps])
    vector.close()


@pytest.mark.parametrize("id", WINDY)
def test_wind_is_a_constant_force_along_world_x_at_the_torso_of_either_sign(id):
    env = make(id)
    env.action_space.seed(0)
    signs = set()
    model, data = env.base.model, env.base.data
    torso = model.body("torso").id
    for episode in range(12):
        observation, _ = env.reset(seed=0 if episode == 0 else None)
        sign = observation["state"][env.layout["state"]["wind"]].item()
        signs.add(sign)
        for _ in range(3):
            expected = np.zeros(model.nv)
            force = np.array([sign * task(id).wind, 0.0, 0.0])
            mujoco.mj_applyFT(model, data, force, np.zeros(3), data.xpos[torso], torso, expected)
            np.testing.assert_allclose(data.qfrc_applied, expected, atol=1e-12)
            observation = env.step(env.action_space.sample())[0]
            assert observation["state"][env.layout["state"]["wind"]].item() == sign
    assert signs == {-1.0, 1.0}


def test_wind_pushes():
    env = make("HalfCheetahW")
    travelled = {}
    for seed in range(8):
        env.reset(seed=seed)
        start = env.base.data.qpos[0]
        for _ in range(40):
            env.step(np.zeros(6, np.float32))
        travelled.setdefault(env.randomise[0].sign, []).append(env.base.data.qpos[0] - start)
    assert np.mean(travelled[1.0]) > np.mean(travelled[-1.0])


@pytest.mark.parametrize("id", WINDY)
def test_reported_forward_reward_follows_the_wind(id):
    env = make(id)
    env.action_space.seed(0)
    for seed in range(6):
        env.reset(seed=seed)
        info = env.step(env.action_space.sample())[-1]
        forward = env.randomise[0].sign * getattr(env.base, "_forward_reward_weight", 1.0) * info["x_velocity"]
        reported = [info[term] for term in Wind.forward_terms if term in info]
        assert reported == pytest.approx([forward] * len(reported))


def test_running_with_the_wind_is_what_is_rewarded():
    env = make("HalfCheetahW")
    signs = set()
    for seed in range(8):
        env.reset(seed=seed)
        signs.add(sign := env.randomise[0].sign)
        _, reward, _, _, info = env.step(np.zeros(6, np.float32))
        assert reward == pytest.approx(sign * info["x_velocity"])
    assert signs == {-1.0, 1.0}


def test_wind_is_independent_of_the_initial_state_and_leaves_it_alone():
    windy, calm = make("HopperW"), make("HopperV")
    noise, signs = [], []
    for episode in range(200):
        seed = episode if episode % 3 == 0 else None  # also episodes that go on with the generator as it is
        windy.reset(seed=seed)
        calm.reset(seed=seed)
        np.testing.assert_array_equal(windy.base.data.qpos, calm.base.data.qpos)
        noise.append(windy.base.data.qpos - windy.base.init_qpos)
        signs.append(windy.randomise[0].sign)
    correlation = [np.corrcoef(signs, column)[0, 1] for column in np.array(noise).T]
    assert np.abs(correlation).max() < 0.25
    assert 0.35 < np.mean(np.array(signs) > 0) < 0.65


@pytest.mark.parametrize("id", ["AntW", "HumanoidW"])
def test_contact_forces_do_not_give_the_wind_away(id):
    """Away from the ground nothing touches the body, so all external forces are zero, with wind and without."""
    env = make(id)
    env.reset(seed=0)
    qpos = env.base.data.qpos.copy()
    qpos[2] += 100.0
    env.base.set_state(qpos, env.base.data.qvel)
    observation = env.step(np.zeros(env.action_space.shape, np.float32))[0]
    group = "contact_forces" if id == "AntW" else "external_contact_forces"
    assert not observation["obs"][env.layout["obs"][group]].any()
    assert env.base.data.qfrc_applied.any()


def test_unknown_task_names_itself_a_close_match_and_all_tasks():
    with pytest.raises(ValueError, match="HoperV.*HopperV.*HumanoidV.*CueRecall"):
        task("HoperV")


@pytest.mark.parametrize(
    ("hidden", "message"),
    [
        (("velocity",), r"HopperV.*velocity.*\['positions', 'velocities'\]"),
        ("velocities", r"HopperV: hidden='velocities' must be 'privileged' or a sequence of group names"),
        (("positions", "velocities"), "hides everything"),
        (("previous_action",), "unknown groups"),
    ],
)
def test_bad_hidden_groups_are_refused(hidden, message):
    with pytest.raises(ValueError, match=message):
        gymnasium.make("envs:HopperV-v0", hidden=hidden)


@pytest.mark.parametrize("id", every(id for id in TASKS if id != "HumanoidV"))
def test_privileged_hides_what_the_table_hides_but_for_the_humanoid(id):
    assert make(id, hidden="privileged").layout == make(id).layout


def test_hidden_can_be_chosen_when_making_a_task():
    env = gymnasium.make("envs:HumanoidV-v0", hidden=("velocities", "actuator_forces"))
    assert {"velocities", "actuator_forces"}.isdisjoint(env.unwrapped.layout["obs"])
    assert "com_inertia" in env.unwrapped.layout["obs"]
    everything = gymnasium.make("envs:HopperV-v0", hidden=()).reset(seed=0)[0]
    np.testing.assert_array_equal(everything["obs"], everything["state"])


def test_groups_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="10 numbers.*has 11"):
        View(make("HopperV").base, {"positions": 4, "velocities": 6})


@pytest.mark.parametrize("id", ALL)
def test_the_readme_table_is_the_table(id):
    text, row, env = (Path(envs.__file__).parent / "README.md").read_text(), task(id), make(id)
    sizes = (env.observation_space[part].shape[0] for part in ("obs", "state"))
    cells = [id, row.base, ", ".join(row.hidden), *map(str, sizes), str(row.horizon or "own")]
    assert "| " + " | ".join(cells) + " |" in text, cells
