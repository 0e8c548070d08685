"""Bodies and actuators drawn per episode: what changes, what stays, who sees it, and that nothing adds up or leaks."""

import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.randomise import DELTAS
from envs.tasks import TASKS, make

MUJOCO = [id for id, row in TASKS.items() if row.base.endswith("-v4") and not row.mass]
ONE_PER_BASE = ["HopperV", "HalfCheetahV", "Walker2dV", "AntV", "HumanoidV", "InvertedPendulumV"]
KINDS = ["consistent", "reference"]
SMALLER, SAME, LARGER = range(3)
AXISYMMETRIC = {"body_iquat", "bvh_aabb", "bvh_nodeid"}  # not unique for a body with two equal moments of inertia

bases = pytest.mark.parametrize("id", ONE_PER_BASE)
kinds = pytest.mark.parametrize("kind", KINDS)
seeds = given(seed=st.integers(0, 10**6))


def fields(model):
    """All numbers of a model by name."""
    numbers = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    numbers |= {f"stat.{name}": getattr(model.stat, name) for name in ("meaninertia", "meanmass", "meansize", "extent")}
    return {name: np.copy(value) for name, value in numbers.items() if isinstance(value, np.ndarray | int | float)}


def differing(first, second, **tolerance):
    return {name for name in first if not np.allclose(first[name], second[name], **{"rtol": 0, "atol": 0, **tolerance})}


def content(model):
    """The whole model as bytes."""
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


def bodies(env):
    return env.layout["state"]["bodies"]


def random_choice(env, seed):
    return np.random.default_rng(seed).integers(3, size=env.randomise[0].size)


def depth_first(body):
    yield body
    for child in body.bodies:
        yield from depth_first(child)


def compiled(path, factors, masses):
    """The file's model compiled by MuJoCo with body b's first sizes times factors[b] and densities for `masses`."""
    weights = None
    for density in (False, True):
        spec = mujoco.MjSpec.from_file(path)
        spec.compiler.settotalmass = -1
        for b, body in enumerate(depth_first(spec.worldbody)):
            for geom in body.geoms:
                geom.size[0] *= factors[b]
                geom.density *= masses[b] / weights[b] if density and weights[b] else 1
        model = spec.compile()
        weights = model.body_mass
    return model


def inertia_tensors(model):
    """Of each body in its own frame [nbody, 3, 3], whatever the order of its principal axes."""
    rotation = np.empty((model.nbody, 9))
    for b in range(model.nbody):
        mujoco.mju_quat2Mat(rotation[b], model.body_iquat[b])
    rotation = rotation.reshape(-1, 3, 3)
    return rotation * model.body_inertia[:, None] @ rotation.transpose(0, 2, 1)


@bases
@settings(max_examples=12, deadline=None)
@seeds
def test_a_consistent_model_is_the_one_mujoco_compiles_from_the_changed_file(id, seed):
    env = make(id, bodies="consistent")
    masses, model = env.base.model.body_mass.copy(), env.base.model
    factors = 1 + env.randomise[0].set(random_choice(env, seed))
    expected = compiled(env.base.fullpath, factors, factors * masses)
    different = differing(fields(model), fields(expected), rtol=1e-9, atol=1e-12)
    assert different <= (AXISYMMETRIC if id == "HumanoidV" else set())
    np.testing.assert_allclose(inertia_tensors(model), inertia_tensors(expected), rtol=1e-9, atol=1e-12)


@bases
@settings(max_examples=12, deadline=None)
@seeds
def test_a_consistent_model_moves_and_touches_like_the_compiled_one(id, seed):
    env = make(id, bodies="consistent")
    model, masses = env.base.model, env.base.model.body_mass.copy()
    factors = 1 + env.randomise[0].set(random_choice(env, seed))
    expected = compiled(env.base.fullpath, factors, factors * masses)
    touched = []
    for m in (model, expected):
        data, rng = mujoco.MjData(m), np.random.default_rng(seed)
        data.qpos[:] += rng.normal(scale=0.3, size=m.nq)
        data.qpos[min(m.nq - 1, 2 if m.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE else 1)] -= 0.3  # towards the floor
        data.qvel[:], data.ctrl[:] = rng.normal(size=m.nv), rng.uniform(-1, 1, m.nu)
        mujoco.mj_forward(m, data)
        touched.append((sorted(map(tuple, data.contact.geom)), sorted(data.contact.dist), data.qacc.copy()))
    assert touched[0][0] == touched[1][0]
    np.testing.assert_allclose(touched[0][1], touched[1][1], atol=1e-9)
    np.testing.assert_allclose(touched[0][2], touched[1][2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choice", range(3))
def test_consistent_pole_has_the_inertia_of_a_capsule_from_the_textbook(choice):
    env = make("InvertedPendulumV", bodies="consistent")
    model, data = env.base.model, mujoco.MjData(env.base.model)
    mass, (radius, half, _) = model.body("pole").mass[0], model.geom("cpole").size
    factor = 1 + env.randomise[0].set(np.array([SAME, SAME, choice]))[-1]
    mass, radius, length = mass * factor, radius * factor, 2 * half
    cylinder, caps = np.array([length, 4 / 3 * radius]) / (length + 4 / 3 * radius) * mass
    about_centre = cylinder * (length**2 / 12 + radius**2 / 4)
    about_centre += caps * (0.4 * radius**2 + length**2 / 4 + 3 / 8 * length * radius)
    mujoco.mj_forward(model, data)
    inertia = np.empty((2, 2))
    mujoco.mj_fullM(model, inertia, data.qM)
    offset = half  # from the hinge to the pole's centre
    np.testing.assert_allclose(inertia[1, 1], about_centre + mass * offset**2, rtol=1e-9)
    np.testing.assert_allclose(inertia[0, 0], model.body("cart").mass[0] + mass, rtol=1e-9)


@bases
@settings(max_examples=12, deadline=None)
@seeds
def test_the_reference_kind_changes_masses_and_first_sizes_and_nothing_else(id, seed):
    env = make(id, bodies="reference")
    model, before = env.base.model, fields(env.base.model)
    factors = 1 + env.randomise[0].set(random_choice(env, seed))
    after = fields(model)
    assert differing(before, after) <= {"body_mass", "geom_size"}
    np.testing.assert_array_equal(after["body_mass"], factors * before["body_mass"])
    np.testing.assert_array_equal(after["geom_size"][:, 0], factors[model.geom_bodyid] * before["geom_size"][:, 0])
    np.testing.assert_array_equal(after["geom_size"][:, 1:], before["geom_size"][:, 1:])


@bases
def test_both_kinds_draw_the_same_masses_and_sizes_and_only_one_changes_the_inertia(id):
    consistent, reference = (make(id, bodies=kind) for kind in KINDS)
    for seed in (3, None, None):
        first, second = (env.reset(seed=seed)[0]["state"][bodies(env)] for env in (consistent, reference))
        np.testing.assert_array_equal(first, second)
        a, b = fields(consistent.base.model), fields(reference.base.model)
        np.testing.assert_array_equal(a["body_mass"], b["body_mass"])
        np.testing.assert_array_equal(a["geom_size"], b["geom_size"])
        assert np.allclose(a["body_inertia"], b["body_inertia"]) == (not first[1:].any())


@bases
def test_total_mass_is_that_of_the_bodies_and_the_consistent_kind_knows_it(id):
    env = make(id, bodies="consistent")
    model, masses = env.base.model, env.base.model.body_mass.copy()
    for _ in range(5):
        delta = env.reset()[0]["state"][bodies(env)].astype(float)
        assert mujoco.mj_getTotalmass(model) == pytest.approx(((1 + delta) * masses).sum(), rel=1e-6)
        assert model.body_subtreemass[0] == pytest.approx(mujoco.mj_getTotalmass(model), rel=1e-12)


@kinds
@pytest.mark.parametrize("id", ["AntV", "HumanoidV"])
def test_changed_bodies_fall_freely_with_gravity(id, kind):
    """Whatever the joints and motors do, the centre of mass of all bodies accelerates by g where nothing touches."""
    env = make(id, bodies=kind)
    model, data = env.base.model, env.base.data
    env.reset(seed=1)
    qpos = data.qpos.copy()
    qpos[2] += 100
    env.base.set_state(qpos, 0 * data.qvel)
    data.ctrl[:] = 0.3
    mujoco.mj_forward(model, data)
    jacobian, momentum = np.empty((3, model.nv)), np.zeros(3)
    for b in range(model.nbody):
        mujoco.mj_jacBodyCom(model, data, jacobian, None, b)
        momentum += model.body_mass[b] * jacobian @ data.qacc
    free = np.array([0, 0, -9.81]) * model.body_mass.sum()
    assert not data.ncon
    np.testing.assert_allclose(momentum, free, atol=1e-6)


@kinds
@bases
def test_nothing_adds_up_over_episodes(id, kind):
    env, untouched = make(id, bodies=kind), content(make(id).base.model)
    assert content(env.base.model) == untouched
    env.reset(seed=0)
    changed = []
    for _ in range(40):
        env.reset()
        changed.append(content(env.base.model) != untouched)
    assert any(changed)
    env.randomise[0].set(np.full(env.randomise[0].size, SAME))
    assert content(env.base.model) == untouched


@kinds
@bases
def test_a_draw_depends_on_no_earlier_one(id, kind):
    first, second = make(id, bodies=kind), make(id, bodies=kind)
    for seed in range(10):
        second.randomise[0].set(random_choice(second, seed))
    choice = random_choice(first, 99)
    for env in (first, second):
        env.randomise[0].set(choice)
    assert content(first.base.model) == content(second.base.model)


def trajectory(env, seed=0, steps=60):
    """Observations of random actions as the base task shows them, unaffected by what was drawn."""
    env.action_space.seed(seed)
    size = env.base.observation_space.shape[0]
    seen = [env.reset(seed=seed)[0]["state"][:size]]
    for _ in range(steps):
        observation, reward, terminated, *_ = env.step(env.action_space.sample())
        seen += [observation["state"][:size], [reward]]
        if terminated:
            seen.append(env.reset()[0]["state"][:size])
    return np.concatenate(seen)


class Fixed:
    """A generator that chooses the same change for all bodies, except perhaps the world."""

    def __init__(self, choice, world=None):
        self.choice, self.world = choice, choice if world is None else world

    def integers(self, number, size):
        return np.array([self.world] + [self.choice] * (size - 1))


def fix(env, *choice):
    draw = env.randomise[0].draw
    env.randomise[0].draw = lambda rng: draw(Fixed(*choice))
    return env


@kinds
@bases
def test_episodes_in_which_every_delta_is_zero_are_those_of_the_task_without_randomisation(id, kind):
    np.testing.assert_array_equal(trajectory(fix(make(id, bodies=kind), SAME)), trajectory(make(id)))


@kinds
@bases
def test_the_delta_of_the_world_changes_no_transition(id, kind):
    worlds = [trajectory(fix(make(id, bodies=kind), SAME, world)) for world in range(3)]
    np.testing.assert_array_equal(worlds[SMALLER], worlds[SAME])
    np.testing.assert_array_equal(worlds[LARGER], worlds[SAME])


@bases
def test_bodies_matter_and_the_two_kinds_differ(id):
    light, heavy = (trajectory(fix(make(id, bodies="consistent"), choice)) for choice in (SMALLER, LARGER))
    stale = trajectory(fix(make(id, bodies="reference"), LARGER))
    for other in (light, stale):
        length = min(len(heavy), len(other))
        assert not np.allclose(heavy[:length], other[:length])


@kinds
def test_initial_states_are_those_of_the_task_without_randomisation(kind):
    changed, plain = make("HopperV", bodies=kind, permute_actions=True), make("HopperV")
    for seed in (4, None, None, 7, None):
        for env in (changed, plain):
            env.reset(seed=seed)
        np.testing.assert_array_equal(changed.base.data.qpos, plain.base.data.qpos)
        np.testing.assert_array_equal(changed.base.data.qvel, plain.base.data.qvel)


@kinds
@pytest.mark.parametrize("id", MUJOCO)
def test_state_shows_the_changes_of_the_model_throughout_the_episode_and_obs_never(id, kind):
    env, masses = make(id, bodies=kind, permute_actions=True), make(id).base.model.body_mass
    assert env.layout["state"]["bodies"].stop - env.layout["state"]["bodies"].start == len(masses)
    assert list(env.layout["state"])[-3:] == ["bodies", "permutation", "previous_action"]
    assert not {"bodies", "permutation"} & set(env.layout["obs"])
    shown = set()
    for seed in (5, None, None):
        observation, _ = env.reset(seed=seed)
        for _ in range(3):
            delta = observation["state"][bodies(env)]
            np.testing.assert_allclose(env.base.model.body_mass, (1 + delta) * masses, rtol=1e-6)
            observation = env.step(env.action_space.sample())[0]
            np.testing.assert_array_equal(observation["state"][bodies(env)], delta)
        shown |= set(delta)
    assert shown <= set(DELTAS.astype(np.float32))


@pytest.mark.parametrize("hidden", [None, "privileged", (), ("positions",), ("velocities", "bodies")])
def test_bodies_and_permutation_are_hidden_whatever_else_is(hidden):
    env = make("HopperV", bodies="consistent", permute_actions=True, hidden=hidden)
    plain = {None: "HopperV", "privileged": "HopperV", ("positions",): "HopperP"}.get(hidden)
    assert not {"bodies", "permutation"} & set(env.layout["obs"])
    assert plain is None or env.layout["obs"] == make(plain).layout["obs"]


def test_each_delta_is_equally_likely_for_each_body_independently_of_the_others():
    env, episodes = make("HopperV", bodies="reference"), 3000
    env.reset(seed=0)
    drawn = np.array([env.reset()[0]["state"][bodies(env)] for _ in range(episodes)])
    assert set(drawn.ravel()) == set(DELTAS.astype(np.float32))
    for delta in DELTAS.astype(np.float32):  # bounds: 5 standard deviations
        np.testing.assert_allclose((drawn == delta).mean(0), 1 / 3, atol=5 * np.sqrt(2 / 9 / episodes))
    correlation = np.corrcoef(drawn.T) - np.eye(drawn.shape[1])
    assert np.abs(correlation).max() < 5 / np.sqrt(episodes)


@kinds
@bases
def test_same_seed_same_bodies_other_seed_others(id, kind):
    first, second = make(id, bodies=kind, permute_actions=True), make(id, bodies=kind, permute_actions=True)
    second.reset(seed=123)
    drawn = []
    for seed in (8, None, None, 9, 10):
        a, b = first.reset(seed=seed)[0]["state"], second.reset(seed=seed)[0]["state"]
        np.testing.assert_array_equal(a, b)
        assert content(first.base.model) == content(second.base.model)
        drawn.append(tuple(a[bodies(first)]))
    assert len(set(drawn)) > 1
    np.testing.assert_array_equal(trajectory(first, 3), trajectory(second, 3))


@kinds
def test_environments_share_nothing(kind):
    first, second, plain = make("AntV", bodies=kind), make("AntV", bodies=kind), make("AntV")
    alone, untouched = trajectory(make("AntV", bodies=kind), 2), content(plain.base.model)
    first.reset(seed=2)
    held = content(first.base.model)
    for seed in range(5):
        second.reset(seed=seed + 50)
    assert content(first.base.model) == held
    assert content(plain.base.model) == untouched
    np.testing.assert_array_equal(trajectory(first, 2), alone)


@kinds
@pytest.mark.parametrize("id", MUJOCO)
def test_gymnasiums_checker_passes_with_bodies_and_permuted_actions(id, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gymnasium.make(f"envs:{id}-v0", bodies=kind, permute_actions=True)
        check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environment_with_bodies_equals_single_environments_of_the_same_seeds(mode):
    options = {"bodies": "consistent", "permute_actions": True}
    vector = gymnasium.make_vec("envs:HopperV-v0", num_envs=2, vectorization_mode=mode, **options)
    singles = [gymnasium.make("envs:HopperV-v0", **options) for _ in range(2)]
    together, _ = vector.reset(seed=[1, 2])
    apart = [env.reset(seed=seed)[0] for env, seed in zip(singles, (1, 2), strict=True)]
    assert not np.array_equal(*(together["state"][:, bodies(singles[0].unwrapped)]))
    vector.action_space.seed(0)
    for _ in range(3):
        for part in ("obs", "state"):
            np.testing.assert_array_equal(together[part], [o[part] for o in apart])
        actions = vector.action_space.sample()
        together, *_ = vector.step(actions)
        apart = [env.step(action)[0] for env, action in zip(singles, actions, strict=True)]
    vector.close()


def test_wind_and_bodies_go_together():
    env = make("HalfCheetahW", bodies="consistent", permute_actions=True)
    assert list(env.layout["state"])[-4:] == ["wind", "bodies", "permutation", "previous_action"]
    calm, alone = env.reset(seed=6)[0]["state"], make("HalfCheetahW").reset(seed=6)[0]["state"]
    assert calm[env.layout["state"]["wind"]] == alone[env.layout["state"]["wind"]]
    root = env.base.model.jnt_dofadr[0]
    assert env.base.data.qfrc_applied[root] == env.randomise[0].sign * 5.0


@bases
def test_actuators_take_the_policys_actions_in_the_order_shown_and_the_policy_sees_its_own(id):
    env = make(id, permute_actions=True)
    env.action_space.seed(0)
    actions, orders = env.action_space.shape[0], set()
    for _ in range(8):
        observation, _ = env.reset()
        for _ in range(3):
            shown = observation["state"][env.layout["state"]["permutation"]]
            order = np.rint((shown + 1) * (actions - 1) / 2).astype(int)
            orders.add(tuple(order))
            action = env.action_space.sample()
            observation = env.step(action)[0]
            np.testing.assert_array_equal(env.base.data.ctrl, action[order])
            for part in ("obs", "state"):
                np.testing.assert_array_equal(observation[part][env.layout[part]["previous_action"]], action)
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(actions))}
    assert len(orders) > 1 or actions == 1


def test_all_orders_of_actions_are_equally_likely():
    env, episodes = make("HopperV", permute_actions=True), 3000
    env.reset(seed=0)
    part = env.layout["state"]["permutation"]
    drawn, counts = np.unique([env.reset()[0]["state"][part] for _ in range(episodes)], axis=0, return_counts=True)
    assert len(drawn) == 6
    np.testing.assert_allclose(counts / episodes, 1 / 6, atol=5 * np.sqrt(5 / 36 / episodes))
    assert set(drawn.ravel()) == {-1.0, 0.0, 1.0}


def test_a_permuted_episode_is_the_base_tasks_with_permuted_actions():
    env, plain = make("HopperV", permute_actions=True), make("HopperV")
    env.action_space.seed(0)
    for seed in range(5):
        env.reset(seed=seed)
        plain.reset(seed=seed)
        for _ in range(8):
            action = env.action_space.sample()
            one, other = env.step(action), plain.step(action[env.randomise[0].order])
            np.testing.assert_array_equal(one[0]["state"][:11], other[0]["state"][:11])
            assert one[1:4] == other[1:4]


@pytest.mark.parametrize("id", ["PendulumV", "PendulumP", "CueRecall", "LinearGaussian"])
@kinds
def test_bodies_of_a_task_without_mujoco_are_refused(id, kind):
    with pytest.raises(ValueError, match=rf"^{id}: bodies='{kind}' is not allowed.*MuJoCo.*; allowed: 'none'$"):
        gymnasium.make(f"envs:{id}-v0", bodies=kind)
    gymnasium.make(f"envs:{id}-v0", bodies="none").reset()


@pytest.mark.parametrize("id", MUJOCO)
@pytest.mark.parametrize("value", ["heavy", "Consistent", "", None, True, 0.3, ["consistent"]])
def test_an_unknown_kind_of_bodies_is_refused_with_task_key_and_allowed_values(id, value):
    with pytest.raises(ValueError, match=f"^{id}: bodies=.*; allowed: 'none', 'consistent', 'reference'$"):
        gymnasium.make(f"envs:{id}-v0", bodies=value)


@pytest.mark.parametrize("value", ["yes", "none", None, 1, 0])
def test_permute_actions_is_true_or_false(value):
    with pytest.raises(ValueError, match="^HopperV: permute_actions=.*; allowed: False, True$"):
        gymnasium.make("envs:HopperV-v0", permute_actions=value)


@bases
def test_without_the_options_a_task_is_what_it_was(id):
    plain, none = make(id), make(id, bodies="none", permute_actions=False)
    assert plain.layout == none.layout
    assert not {"bodies", "permutation"} & set(plain.layout["state"])
    np.testing.assert_array_equal(trajectory(plain), trajectory(none))
