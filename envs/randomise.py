"""What is drawn anew at the start of every episode, from the environment's seeded generator."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

DELTAS = np.array([-0.3, 0.0, 0.3])
"""What `Bodies` draws from: relative changes of a body's mass and size."""

FACTORS = np.array([0.5, 0.75, 1.0, 1.5])
"""What `Mass` draws from: four values, as LocoMuJoCo's carried weights, that hold the model as it is. The ratios of
neighbours are alike (3/2, 4/3, 3/2): accelerations go with 1/mass, so each is told from the next about as easily."""


class Randomisation:
    """One hidden cause per episode. The numbers drawn form the group `group` of the state.

    `View.reset` calls `draw`, then the base task's reset, then `apply`. Changes of the model belong into `draw` (the
    base task's reset then computes with them), forces into `apply` (the base task's reset clears them).
    """

    group: str
    secret = False  # True: never part of `obs`, whatever the task hides
    low: np.ndarray
    high: np.ndarray

    @property
    def size(self) -> int:
        """How many numbers are drawn."""
        return len(self.low)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw this episode's numbers [size]; they are shown in the state for the whole episode."""
        raise NotImplementedError

    def apply(self) -> None:
        """Act on the freshly reset simulation. Default: nothing."""

    def act(self, action: np.ndarray) -> np.ndarray:
        """The action [A] that the base task takes, given the policy's. Default: the same."""
        return action

    def reward(self, reward: float, info: dict[str, Any]) -> float:
        """The step's reward, given the base task's. Default: unchanged."""
        return reward


class Wind(Randomisation):
    """A constant force along world x on the torso; the direction in which running is rewarded follows its sign.

    The sign is drawn per episode with equal probability and is the group `wind` (one number, -1 or +1). Source: the
    reference's windy option (reference facts, section 7.2).

    The force acts through the root's translation, i.e. at the origin of the torso's frame. The reference writes
    `xfrc_applied`; current MuJoCo counts that among the external forces (`cfrc_ext`), which Ant and Humanoid observe,
    so that the policy would read off what it has to infer.
    """

    group, low, high = "wind", -np.ones(1), np.ones(1)
    forward_terms = ("forward_reward", "reward_forward", "reward_run", "reward_linvel")

    def __init__(self, env: Any, strength: float):
        """`env`: unwrapped Gymnasium MuJoCo task whose step info has `x_velocity`; `strength`: force in newtons."""
        self._data, self._strength = env.data, strength
        self._root_x = env.model.jnt_dofadr[env.model.body("torso").jntadr[0]]
        self._weight = getattr(env, "_forward_reward_weight", 1.0)  # Ant has none: it counts the velocity itself
        self.sign = 1.0

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A fair coin."""
        self.sign = float(rng.choice((-1.0, 1.0)))
        return np.array([self.sign])

    def apply(self) -> None:
        """Set the force; it stays until the base task resets its simulation."""
        self._data.qfrc_applied[self._root_x] = self.sign * self._strength

    def reward(self, reward: float, info: dict[str, Any]) -> float:
        """Replace w * v by sign * w * v, in the reward and where `info` reports the term."""
        if self.sign > 0:
            return reward
        for term in self.forward_terms:
            if term in info:
                info[term] = -info[term]
        return reward - 2 * self._weight * info["x_velocity"]


class Permutation(Randomisation):
    """The actions are wired to the actuators in another order each episode, all orders being equally likely.

    Actuator j takes entry p[j] of the policy's action. The group `permutation` [A] is p, scaled from 0..A-1 to -1..1
    (0 where A = 1). All entries must have one range. Source: the reference's option (reference facts, section 7.3).
    """

    group, secret = "permutation", True

    def __init__(self, actions: int):
        """`actions`: A."""
        self.low, self.high = np.full(actions, -float(actions > 1)), np.full(actions, float(actions > 1))
        self.order = np.arange(actions)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A uniformly random order."""
        self.order = rng.permutation(self.size)
        return (2 * self.order - (self.size - 1)) / max(self.size - 1, 1)

    def act(self, action: np.ndarray) -> np.ndarray:
        """The action [A] in the order of the actuators."""
        return np.asarray(action)[self.order]


class Mass(Randomisation):
    """Another mass of the torso each episode: a factor out of `FACTORS`, all equally likely.

    The task of imitation with a latent variable, after LocoMuJoCo's carried weight (one of four masses per episode).
    The group `mass` (one number) is factor - 1. The torso keeps its shape and its centre; its density changes, so its
    inertia has the same factor, and what MuJoCo derives from masses for the whole model follows (`mj_setConst`), as if
    the model had been compiled so. Every draw writes from the original values, so that nothing adds up over episodes.
    """

    group, secret = "mass", True
    low, high = FACTORS[:1] - 1, FACTORS[-1:] - 1

    def __init__(self, env: Any):
        """`env`: unwrapped Gymnasium MuJoCo task with a body `torso`, whose model (its own) is changed."""
        self._model, self._body = env.model, env.model.body("torso").id
        self._scratch = mujoco.MjData(env.model)
        self._mass, self._inertia = env.model.body_mass[self._body], env.model.body_inertia[self._body].copy()

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a factor and change the model; returns factor - 1, `[1]`."""
        return self.set(int(rng.integers(len(FACTORS))))

    def set(self, choice: int) -> np.ndarray:
        """Give the torso the factor `FACTORS[choice]`; returns factor - 1, `[1]`."""
        factor = FACTORS[choice]
        self._model.body_mass[self._body] = factor * self._mass
        self._model.body_inertia[self._body] = factor * self._inertia
        mujoco.mj_setConst(self._model, self._scratch)
        return np.array([factor - 1])


class Bodies(Randomisation):
    """Other masses and sizes each episode: a factor 1 + delta per body, delta uniform over `DELTAS`, independent.

    The factor multiplies the body's mass and the first size number of each of its geoms: a radius (sphere, capsule,
    cylinder) or half a length (box, ellipsoid, plane). The group `bodies` [nbody] is delta, in MuJoCo's order of
    bodies, the world first. The world has no mass and its geoms are floors, of which MuJoCo only draws the size, and a
    rail that touches nothing: its delta changes nothing but pictures. Source: reference facts, section 7.3.

    Kinds, by what happens to the quantities that MuJoCo derives from masses and sizes when it compiles a model:

    * `reference`: all stay those of the unchanged model, as in the reference implementation. So a heavier body has the
      inertia of the lighter one, a thicker geom keeps the bounds by which collisions are found (`geom_rbound`,
      `geom_aabb`, `bvh_*`), so that a contact may be found late, and constraints keep their `invweight0`.
    * `consistent`: the model equals one compiled from a file with the new sizes, in which the density of each body's
      geoms is what gives the body its new mass. Next to `body_mass` and `geom_size` it changes, per body,
      `body_inertia`, `body_ipos` and `body_iquat` (these two only where a body has several geoms, as their shares in
      the mass change), `geom_rbound`, `geom_aabb` and `bvh_*`; and for the whole model, by `mj_setConst`:
      `body_subtreemass`, `body_invweight0`, `dof_invweight0`, `dof_M0`, `tendon_invweight0`, `actuator_acc0`, `stat`
      and the centres that cameras and lights follow. Not changed, as by a compiler: joints, positions of geoms,
      lengths of capsules, springs, dampers, armatures, gears, friction, and the initial pose. (Thick feet of the
      humanoid overlap there by up to 1.5 cm and push each other apart; no task starts in the floor.)

    Every draw writes all of these from tables made of the original model, so that nothing adds up over episodes.
    """

    group, secret = "bodies", True
    kinds = ("consistent", "reference")

    def __init__(self, env: Any, kind: str):
        """`env`: unwrapped Gymnasium MuJoCo task, whose model (its own, not shared) is changed; `kind`: see above."""
        self._model = env.model
        self.low, self.high = np.full(self._model.nbody, DELTAS.min()), np.full(self._model.nbody, DELTAS.max())
        consistent = kind == "consistent"
        derive = _compiled if consistent else _stale
        variants = [derive(self._model, env.fullpath, 1 + delta) for delta in DELTAS]
        self._scratch = mujoco.MjData(self._model) if consistent else None
        self._tables = {name: np.stack([variant[name] for variant in variants]) for name in variants[0]}
        self._owners = {name: _owners(self._model, name) for name in self._tables}

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw delta [nbody] and change the model."""
        return self.set(rng.integers(len(DELTAS), size=self.size))

    def set(self, choice: np.ndarray) -> np.ndarray:
        """Give body b the change `DELTAS[choice[b]]`; returns these [nbody]."""
        for name, table in self._tables.items():
            owners = self._owners[name]
            getattr(self._model, name)[: len(owners)] = table[choice[owners], np.arange(len(owners))]
        if self._scratch is not None:
            mujoco.mj_setConst(self._model, self._scratch)
        return DELTAS[choice]


_PER_BODY = ("body_ipos", "body_iquat", "body_sameframe")
_PER_GEOM = ("geom_size", "geom_rbound", "geom_aabb", "geom_sameframe")
_PER_NODE = ("bvh_depth", "bvh_child", "bvh_nodeid", "bvh_aabb")  # trees of bounding boxes, one tree per body


def _owners(model: Any, field: str) -> np.ndarray:
    """The body to which each row of a field of the model belongs. (The trees of bodies come before those of meshes.)"""
    bodies = np.arange(model.nbody)
    return {"body": bodies, "geom": model.geom_bodyid, "bvh": bodies.repeat(model.body_bvhnum)}[field.split("_")[0]]


def _stale(model: Any, path: str, factor: float) -> dict[str, np.ndarray]:
    """Mass and first size of all bodies times `factor`."""
    return {"body_mass": factor * model.body_mass, "geom_size": model.geom_size * (factor, 1.0, 1.0)}


def _compiled(model: Any, path: str, factor: float) -> dict[str, np.ndarray]:
    """The fields of `Bodies`' kind `consistent` with the same `factor` on all bodies; `path`: the model's file.

    A body's inertia is that of the compiled body (whose mass follows from its volume) in proportion to the mass.
    """
    resized = model if factor == 1 else _resized(path, factor)
    mass = factor * model.body_mass
    scale = np.divide(mass, resized.body_mass, out=np.ones_like(mass), where=resized.body_mass > 0)
    fields = {name: getattr(resized, name).copy() for name in (*_PER_BODY, *_PER_GEOM)}
    nodes = model.body_bvhnum.sum()
    trees = {name: getattr(resized, name)[:nodes].copy() for name in _PER_NODE}
    return {"body_mass": mass, "body_inertia": resized.body_inertia * scale[:, None], **fields, **trees}


def _resized(path: str, factor: float) -> Any:
    """The model in the file `path` with the first size of all geoms times `factor`, compiled."""
    spec = mujoco.MjSpec.from_file(path)
    for geom in spec.geoms:
        geom.size[0] *= factor
    return spec.compile()
