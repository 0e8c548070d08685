"""LocoMuJoCo's robots as base tasks, and where their expert data belong. Needs the extra `locomujoco` to simulate."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box

DATA = "S2PG_LOCOMUJOCO_DATA"
"""Environment variable: the folder of the expert data."""

INSTALL = (
    "LocoMuJoCo's tasks need the extra 'locomujoco': `make setup-locomujoco` installs it, with the suite, into "
    ".venv-locomujoco/. (`pip install` alone cannot: LocoMuJoCo pins an older MuJoCo than the suite needs)"
)
GET = (
    "The suite brings no data. The archive humanoid_datasets_perfect_v0.4.1.zip of Zenodo record 13737593 "
    "(https://zenodo.org/records/13737593) holds them: unpack it there. LocoMuJoCo's own command "
    "loco-mujoco-download-perfect fetches the same archive, but into the installed package: copy the files from there"
)
RATE = 100.0  # steps per second: 10 substeps of 1 ms


@dataclass(frozen=True)
class Motion:
    """A robot and what it is to do."""

    robot: str  # class of `loco_mujoco.environments`
    speed: float  # forward velocity that is rewarded [m/s]; of the four ages, the tallest body's
    latent: str | None = None  # group that is drawn per episode: the carried "mass" [kg] or the bits of "body_code"
    data: str | None = None  # file of perfect expert data below the data folder; None: none were published
    clipped: bool = False  # LocoMuJoCo clips this robot's expert data to the joints' ranges


_AGES, _DETERMINISTIC = "HumanoidTorque4Ages", "perfect_expert_dataset_det.npz"
_4AGES = "humanoid4ages_torque_{0}/HumanoidTorque4Ages_{0}_stochastic_dataset_all.npz"

MOTIONS: dict[str, Motion] = {
    "HumanoidTorque4AgesWalk": Motion(_AGES, 1.25, "body_code", _4AGES.format("walk")),
    "HumanoidTorque4AgesRun": Motion(_AGES, 2.5, "body_code", _4AGES.format("run")),
    "AtlasWalk": Motion("Atlas", 1.25, None, f"atlas_walk/{_DETERMINISTIC}"),
    "AtlasCarry": Motion("Atlas", 1.25, "mass", "atlas_carry/Atlas_carry_stochastic_dataset.npz"),
    "UnitreeH1Walk": Motion("UnitreeH1", 1.25, None, f"unitreeh1_walk/{_DETERMINISTIC}", clipped=True),
    "UnitreeH1Run": Motion("UnitreeH1", 2.5, None, f"unitreeh1_run/{_DETERMINISTIC}", clipped=True),
    "UnitreeH1Carry": Motion("UnitreeH1", 1.25, "mass", clipped=True),
    "TalosWalk": Motion("Talos", 1.25, None, f"talos_walk/{_DETERMINISTIC}", clipped=True),
    "TalosCarry": Motion("Talos", 1.25, "mass", clipped=True),
}
"""Tasks of LocoMuJoCo 0.4.1 by our id. The reference imitates in both of the four ages and in AtlasCarry."""


def _motion(name: str) -> Motion:
    if name not in MOTIONS:
        raise ValueError(f"unknown LocoMuJoCo task {name!r}; there are {', '.join(MOTIONS)}")
    return MOTIONS[name]


def dataset_path(task: str, folder: str | os.PathLike | None = None) -> Path:
    """The user's file of perfect expert data for `task`, below `folder` (default: the environment variable `DATA`).

    An npz with `states` [N, S] (all groups of our `state` in their order, without the previous action), `actions`
    [N, A] in [-1, 1], `rewards`, `absorbing` and `last` [N], `next_states` [N, S], at 100 steps per second. ValueError
    for an unknown task; FileNotFoundError, which says what to do, where no data were published, no folder is given or
    the file is not in it.
    """
    file = _motion(task).data
    if file is None:
        have = ", ".join(name for name, motion in MOTIONS.items() if motion.data)
        raise FileNotFoundError(f"{task}: LocoMuJoCo has published no perfect data for it; it has for {have}")
    folder = folder or os.environ.get(DATA)
    if not folder:
        raise FileNotFoundError(f"{task}: set {DATA} to the folder in which {file} lies. {GET}")
    path = Path(folder).expanduser().resolve() / file
    if not path.is_file():
        raise FileNotFoundError(f"{task}: there is no {path}. {GET}")
    return path


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Within, NumPy's global generator is seeded; afterwards it is as before."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


@contextmanager
def _own_warnings() -> Iterator[None]:
    """MuJoCo's handler of warnings is one per process; LocoMuJoCo's would raise errors in everybody's simulations."""
    before = mujoco.get_mju_user_warning()
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _package() -> Any:
    """The module `loco_mujoco.environments`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it looks for a display
            return importlib.import_module("loco_mujoco.environments")
    except ImportError as error:
        raise ImportError(f"{INSTALL}. What is missing here: {error}") from error


def _simulation(motion: Motion) -> Any:
    """The LocoMuJoCo environment, which starts in its default pose."""
    ages = motion.latent == "body_code"
    options: dict[str, Any] = {"reward_type": "multi_target_velocity" if ages else "target_velocity"}
    if motion.latent == "mass":
        options["hold_weight"] = True
    with _own_warnings():
        robot = getattr(_package(), motion.robot)
        simulation = robot(random_start=False, reward_params={"target_velocity": motion.speed}, **options)
    for model in simulation._models:  # it sets the first one's only
        model.opt.timestep = simulation._timestep
    return simulation


def _start_from(simulation: Any, path: Path, clip: bool) -> None:
    """Let episodes start anywhere in the expert's trajectories."""
    files = simulation.load_dataset_and_get_traj_files(str(path), RATE)
    step = {"traj_dt": 1 / RATE, "control_dt": 1 / RATE}
    trajectories = {"traj_files": files, "clip_trajectory_to_joint_ranges": clip, **step}
    simulation.load_trajectory(trajectories, warn=False)
    simulation._random_start = True


class Loco(gymnasium.Env):
    """A robot that is to move forward at a given speed: the fully observed base of the LocoMuJoCo tasks.

    The action [A] in [-1, 1] sets torques. Groups: `positions` (the pelvis' height and orientation, then joints),
    `velocities` (the pelvis' translation first) and, where there is one, what is drawn for the episode: `mass` [1], of
    0.1, 1, 5 or 10 kg, which the robot carries, or `body_code` [2], the number of one of four body sizes in binary.

    The reward exp(-(v - v*)^2) is that of the state in which the action was taken, v being the forward and v* the
    rewarded velocity in m/s (which the four ages scale with the body), so a return is hardly more than the number of
    steps without a fall. `terminated` says that the robot has fallen: that the pelvis (of Talos and the humanoid, also
    the back) is too low, high or oblique. LocoMuJoCo never truncates; the task's horizon is 1000 steps, 10 s.

    Of LocoMuJoCo, changed: its draws come from the environment's own seeded generator instead of NumPy's global one;
    all carried masses are simulated in steps of 1 ms (it simulates UnitreeH1 and Talos with 1, 5 and 10 kg in steps of
    2 ms, so that half as many actions a second would tell the mass); and its handler of MuJoCo's warnings, one for the
    whole process, is removed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(RATE)}

    def __init__(
        self,
        motion: str = "AtlasCarry",
        start: str = "default",
        data: str | os.PathLike | None = None,
        render_mode: str | None = None,
    ) -> None:
        """`motion`: a row of `MOTIONS`. `start`: "default", the model's pose, which needs no data and is always the
        same, or "data", a random place of the expert's trajectories, from the file `dataset_path(motion, data)`.

        ImportError, naming the install command, without the extra; errors of `dataset_path` where data are asked for.
        """
        row = _motion(motion)
        if start not in ("default", "data"):
            raise ValueError(f"{motion}: start={start!r} must be 'default' or 'data'")
        path = dataset_path(motion, data) if start == "data" else None
        self.render_mode, self._renderers = render_mode, {}
        self._simulation = _simulation(row)
        if path:
            _start_from(self._simulation, path, row.clipped)
        self.groups = self._lengths(row.latent)
        self.observation_space = Box(-np.inf, np.inf, (sum(self.groups.values()),), np.float64)
        self.action_space = Box(-1.0, 1.0, self._simulation.info.action_space.shape)

    def _lengths(self, latent: str | None) -> dict[str, int]:
        """Its names of what it observes begin with two horizontal positions, which it leaves out, and the latent has
        no name."""
        keys = self._simulation.get_all_observation_keys()
        positions = sum(key.startswith("q_") for key in keys) - 2
        velocities = sum(key.startswith("dq_") for key in keys)
        rest = self._simulation.info.observation_space.shape[0] - positions - velocities
        return {"positions": positions, "velocities": velocities} | ({latent: rest} if latent else {})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Draw mass or body (and a start from the data), and start an episode."""
        super().reset(seed=seed)
        with _numpy_seeded(int(self.np_random.integers(2**32))):
            return self._simulation.reset(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Simulate 10 ms with `action` [A]."""
        full, reward, fallen, _ = self._simulation.step(np.asarray(action, np.float64))
        return full, float(reward), bool(fallen), False, {}

    def render(self) -> np.ndarray | None:
        """The robot from its side, `[480, 640, 3]`."""
        if self.render_mode is None:
            gymnasium.logger.warn('render() draws only where the task was made with render_mode="rgb_array"')
            return None
        which, data = self._simulation._current_model_idx, self._simulation._data
        model = self._simulation._model
        mujoco.mj_kinematics(model, data)  # LocoMuJoCo sets positions without placing the bodies
        mujoco.mj_camlight(model, data)
        if which not in self._renderers:
            self._renderers[which] = mujoco.Renderer(model, 480, 640)
        camera, options = mujoco.MjvCamera(), mujoco.MjvOption()
        camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, 1
        camera.distance, camera.azimuth, camera.elevation = 3.5, 90.0, -10.0
        options.geomgroup[:] = (1, 0, 1, 0, 0, 0)  # as its own viewer: the robot and the floor
        self._renderers[which].update_scene(data, camera, options)
        return self._renderers[which].render()

    def close(self) -> None:
        """Free what has drawn."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}
