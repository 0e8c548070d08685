"""Which way of rendering MuJoCo works here. Tried in a process of its own: a broken driver may take it down."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import NamedTuple

HINT = "install one of Debian's libegl1 (with a GPU driver) or libosmesa6 (software)"
_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(mujoco.MjData(model))
    renderer.render()
"""


class Backend(NamedTuple):
    """A value of MUJOCO_GL, and why it does not work (None: it does)."""

    name: str
    problem: str | None


def candidates() -> list[str]:
    """The user's MUJOCO_GL, or everything that may work without a window first."""
    if chosen := os.environ.get("MUJOCO_GL"):
        return [chosen]
    window = not sys.platform.startswith("linux") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ["egl", "osmesa", *(["glfw"] if window else [])]


def probe(name: str) -> Backend:
    """Try to render one picture with MUJOCO_GL=name."""
    command = [sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(
            command, env={**os.environ, "MUJOCO_GL": name}, capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired:
        return Backend(name, "no answer within 60 s")
    if done.returncode == 0:
        return Backend(name, None)
    first = done.stderr.partition("Exception ignored")[0]  # what follows fails because of it
    lines = [line.strip() for line in first.splitlines() if line.strip()]
    return Backend(name, lines[-1] if lines else f"exit code {done.returncode}")


def first_that_works() -> tuple[str | None, list[Backend]]:
    """The first candidate that renders, and everything that was tried."""
    tried: list[Backend] = []
    for name in candidates():
        tried.append(probe(name))
        if tried[-1].problem is None:
            return name, tried
    return None, tried
