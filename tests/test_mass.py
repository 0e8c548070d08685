"""Tasks with a hidden mass: one draw per episode, consistent with the compiled model, in `state` and never in `obs`."""

import mujoco
import numpy as np
import pytest

from envs.randomise import FACTORS
from envs.tasks import TASKS, make

MASSIVE = [id for id, row in TASKS.items() if row.mass]
massive = pytest.mark.parametrize("id", MASSIVE)


def shown(env, observation):
    return observation["state"][env.layout["state"]["mass"]].item()


@massive
def test_the_mass_is_constant_in_an_episode_in_state_and_not_in_obs(id):
    env, mass = make(id), make(id).base.model.body("torso").mass[0]
    assert "mass" in env.layout["state"]
    assert "mass" not in env.layout["obs"]
    drawn = set()
    for episode in range(20):
        observation, _ = env.reset(seed=episode)
        drawn.add(first := shown(env, observation))
        for _ in range(3):
            assert env.base.model.body("torso").mass[0] == pytest.approx((1 + first) * mass)
            observation, _, _, _, _ = env.step(env.action_space.sample())
            assert shown(env, observation) == first
        assert env.observation_space.contains(observation)
    assert drawn == set((FACTORS - 1).astype(np.float32))


@massive
def test_velocities_are_visible(id):
    assert {"positions", "velocities", "previous_action"} <= make(id).layout["obs"].keys()


@pytest.mark.parametrize("hidden", [(), "privileged", ("velocities",)])
def test_the_mass_is_hidden_whatever_else_is(hidden):
    assert "mass" not in make("HopperM", hidden=hidden).layout["obs"]


def compiled(env, factor):
    """The file's model compiled by MuJoCo with `factor` times the density in the torso, other bodies as they were."""
    masses = env.base.model.body_mass.copy()
    weights = None
    for density in (False, True):
        spec = mujoco.MjSpec.from_file(env.base.fullpath)
        spec.compiler.settotalmass = -1
        bodies = [b for b in spec.bodies if b.name != "world"]
        for body in bodies:
            b = env.base.model.body(body.name).id
            wanted = masses[b] * (factor if body.name == "torso" else 1)
            for geom in body.geoms:
                geom.density *= wanted / weights[b] if density and weights[b] else 1
        model = spec.compile()
        weights = model.body_mass
    return model


@massive
def test_the_model_is_the_one_that_mujoco_compiles_with_another_density(id):
    env = make(id)
    for choice, factor in enumerate(FACTORS):
        expected = compiled(make(id), factor)
        env.randomise[0].set(choice)
        names = [n for n in dir(expected) if n.startswith(("body_", "dof_", "actuator_", "geom_", "tendon_"))]
        for name in names:
            found, wanted = (getattr(model, name) for model in (env.base.model, expected))
            if isinstance(found, np.ndarray):
                np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12, err_msg=name)


@massive
def test_nothing_adds_up_over_episodes(id):
    env, untouched = make(id), make(id)
    for seed in range(30):
        env.reset(seed=seed)
    env.randomise[0].set(int(np.flatnonzero(FACTORS == 1)[0]))
    for name in ("body_mass", "body_inertia", "body_subtreemass", "dof_invweight0", "body_invweight0"):
        np.testing.assert_array_equal(getattr(env.base.model, name), getattr(untouched.base.model, name))


@massive
def test_no_visible_number_tells_the_mass_at_once(id):
    """The same positions, velocities and motors, on the ground: what is seen is the same for every mass."""
    env = make(id)
    model, data = env.base.model, env.base.data
    env.reset(seed=0)
    env.action_space.seed(0)
    while np.abs(data.cfrc_ext).max() < 1.0 or np.abs(data.qvel).max() < 0.1:  # a contact alone may bear nothing
        env.step(env.action_space.sample())
    qpos, qvel, ctrl = data.qpos.copy(), data.qvel.copy(), data.ctrl.copy()
    seen = []
    for choice in range(len(FACTORS)):
        env.randomise[0].set(choice)
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, ctrl
        mujoco.mj_forward(model, data)
        mujoco.mj_rnePostConstraint(model, data)
        seen.append(env.base._get_obs())
    assert data.ncon
    blocks = {g: s for g, s in env.layout["state"].items() if g not in ("mass", "previous_action")}
    differ = {g for g, part in blocks.items() if not all(np.array_equal(o[part], seen[0][part]) for o in seen)}
    assert differ == set(env.hidden) - {"mass"}


def test_the_mass_changes_what_happens():
    """The same episode with another mass parts from the first within a second."""
    ends = []
    for choice in range(len(FACTORS)):
        env = make("HopperM")
        env.randomise[0].draw = lambda rng, env=env, choice=choice: env.randomise[0].set(choice)
        env.reset(seed=0)
        for _ in range(20):
            env.step(np.array([0.5, -0.3, 0.2], np.float32))
        ends.append(env.base.data.qpos.copy())
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(ends) for b in ends[:i])


def test_the_unchanged_mass_is_the_base_task():
    env, base = make("HopperM"), make("HopperV")
    env.randomise[0].draw = lambda rng: env.randomise[0].set(int(np.flatnonzero(FACTORS == 1)[0]))
    pair = env.reset(seed=3)[0], base.reset(seed=3)[0]
    for _ in range(30):
        np.testing.assert_array_equal(pair[0]["state"][:11], pair[1]["state"][:11])
        action = np.array([0.5, -0.3, 0.2], np.float32)
        pair = env.step(action)[0], base.step(action)[0]


def test_bodies_and_a_mass_of_its_own_do_not_go_together():
    with pytest.raises(ValueError, match="HopperM: bodies='consistent' is not allowed, because the task draws a mass"):
        make("HopperM", bodies="consistent")


@pytest.mark.parametrize("id", [id for id, row in TASKS.items() if not row.falls])
def test_nobody_falls_where_the_table_says_so(id):
    env = make(id)
    env.reset(seed=0)
    env.action_space.seed(0)
    assert not any(env.step(env.action_space.sample())[2] for _ in range(300))
