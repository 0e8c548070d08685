"""`s2pg doctor`: does the installation work? One line per check."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import NamedTuple

from s2pg.config import ROOT, list_experiments, load_experiment, resolve

TASK = "HopperV"


class Finding(NamedTuple):
    """Result of a check: `ok`, `warn` (the suite works, something is missing) or `fail`."""

    status: str
    text: str
    hint: str = ""


def run(args: Namespace) -> int:
    """Run all checks; 1 if one failed."""
    results = Path(args.results)
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", python),
        ("packages", packages),
        ("configuration", configuration),
        ("torch", torch_works),
        ("cuda", cuda),
        ("mujoco", mujoco_steps),
        ("tasks", tasks),
        ("training", training),
        ("rendering", rendering),
        ("film", film),
        ("snakemake", snakemake),
        ("git", git),
        ("results", lambda: writable(results)),
        ("disk", lambda: disk(results)),
    ]
    statuses = [_report(name, check) for name, check in checks]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in ("ok", "warn", "fail"))
    print(f"\n{counts}")
    return int("fail" in statuses)


def _report(name: str, check: Callable[[], Finding]) -> str:
    """Run a check and print its line; whatever it raises is its failure."""
    try:
        found = check()
    except Exception as error:  # a broken installation may raise anything
        found = Finding("fail", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", "try `make setup`")
    print(f"{found.status:4}  {name:13}  {found.text}" + (f" -> {found.hint}" if found.hint else ""), flush=True)
    return found.status


def python() -> Finding:
    """The lock file is for one version."""
    version, here = sys.version_info[:2], f"{platform.python_version()}, {sys.executable}"
    if version < (3, 11):
        return Finding("fail", here, "Python 3.11 is needed")
    return (
        Finding("ok", here) if version == (3, 11) else Finding("warn", here, "the pinned packages are for Python 3.11")
    )


def packages() -> Finding:
    """Installed versions against `requirements.lock`."""
    lock = ROOT / "requirements.lock"
    if not lock.exists():
        return Finding("warn", f"{lock} is not there", "nothing to compare versions with")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock.read_text(), re.MULTILINE)
    missing, other = [], []
    for name, version in pins:
        try:
            here = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if here != version.partition("+")[0]:
            other.append(f"{name} {here} (pinned: {version})")
    if not missing and not other:
        return Finding("ok", f"{len(pins)} packages as pinned in {lock.name}")
    text = "; ".join([*([f"missing: {_some(missing)}"] if missing else []), *([_some(other)] if other else [])])
    return Finding("warn", text, f"`make setup`, or pip install -r {lock.name}")


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def configuration() -> Finding:
    """Every experiment file can be read."""
    names = list_experiments()
    runs = sum(len(load_experiment(name).runs(scale)) for name in names for scale in load_experiment(name).scales)
    return Finding("ok", f"{', '.join(names)}: {runs} runs over all scales")


def torch_works() -> Finding:
    """PyTorch computes, on one thread as training does."""
    import torch

    torch.set_num_threads(1)
    x = torch.ones(64, 64, requires_grad=True)
    (x @ x).sum().backward()
    if not torch.isfinite(x.grad).all():
        return Finding("fail", "a gradient of ones is not finite")
    return Finding("ok", f"{torch.__version__}, {os.cpu_count()} cores; a run takes {torch.get_num_threads()} thread")


def cuda() -> Finding:
    """A GPU is optional."""
    import torch

    if torch.cuda.is_available():
        return Finding("ok", f"{torch.cuda.get_device_name()}; `--device cpu` leaves it alone")
    return Finding("ok", "not there and not needed")


def mujoco_steps() -> Finding:
    """A simulation moves, at which speed."""
    from s2pg.training import worlds

    env, number = worlds.make(TASK), 500
    env.reset(seed=0)
    began = time.perf_counter()
    for _ in range(number):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    speed = number / (time.perf_counter() - began)
    env.close()
    return Finding("ok", f"{metadata.version('mujoco')}, {speed:,.0f} steps of {TASK} per second")


def tasks() -> Finding:
    """Every task is registered with Gymnasium and can be stepped."""
    from s2pg.training import worlds
    from s2pg.training.catalogue import catalogue

    rows = catalogue()
    names = [row.id for row in rows if not row.missing]
    for name in names:
        env = worlds.make(name)
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()
    extras = Counter(row.missing for row in rows if row.missing)
    others = "".join(f"; {number} more need the extra {extra}" for extra, number in extras.items())
    return Finding("ok", f"{len(names)} tasks, Gymnasium {metadata.version('gymnasium')}{others}")


def training() -> Finding:
    """The smallest run there is, from configuration to its files."""
    from s2pg.build import build
    from s2pg.training import loop

    experiment = next(e for e in map(load_experiment, list_experiments()) if "s2pg" in e.methods and not e.imitates)
    config = resolve(experiment.name, experiment.scale("smoke").tasks[0], "s2pg", 0, "smoke")
    with TemporaryDirectory() as folder:
        done = loop.train(config, build, Path(folder), progress=False)
    text = f"{done['status']}: {done['steps']} steps of {config.task} in {done['seconds']:.1f} s"
    return Finding("ok" if done["status"] == "finished" else "fail", text)


def rendering() -> Finding:
    """Only `s2pg watch` needs it, and does without if it must."""
    from s2pg.commands.rendering import HINT, first_that_works

    backend, tried = first_that_works()
    if backend:
        return Finding("ok", f"MUJOCO_GL={backend}")
    why = "; ".join(f"{name}: {problem}" for name, problem in tried)
    return Finding("warn", f"nothing renders, `s2pg watch` will show curves only ({why})", HINT)


def film() -> Finding:
    """ffmpeg for MP4; GIF needs none."""
    import imageio_ffmpeg

    try:
        return Finding("ok", f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}")
    except RuntimeError:
        return Finding("warn", "no ffmpeg for MP4", "`s2pg watch --out episode.gif`, or set IMAGEIO_FFMPEG_EXE")


def snakemake() -> Finding:
    """On the path, or beside this Python."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("snakemake") or shutil.which("snakemake", path=beside)
    if not found:
        return Finding("warn", "not found; single runs work without", "`make setup`, or pip install -e .[workflow]")
    version = metadata.version("snakemake")
    if shutil.which("snakemake") is None:
        return Finding("warn", f"{version}, not on the path", f"source {beside}/activate, or call {found}")
    return Finding("ok", f"{version}, {found}")


def git() -> Finding:
    """Provenance names the revision."""
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%h of %cs"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except OSError:
        return Finding("warn", "git is not installed", "provenance.json will name no revision")
    if done.returncode:
        return Finding("warn", f"{ROOT} is no git checkout", "provenance.json will name no revision")
    changed = subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain", "-uno"], capture_output=True, text=True)
    return Finding("ok", f"revision {done.stdout.strip()}" + (", with changes not committed" if changed.stdout else ""))


def writable(results: Path) -> Finding:
    """Where runs are written."""
    folder = _existing(results)
    try:
        with TemporaryFile(dir=folder):
            return Finding("ok", f"{folder} can be written")
    except OSError as error:
        return Finding("fail", f"{folder}: {error.strerror}", "choose another folder: --out, or --config results=DIR")


def disk(results: Path) -> Finding:
    """Room for runs; `s2pg cost` says how much an experiment needs."""
    free = shutil.disk_usage(_existing(results)).free / 1e9
    if free < 0.1:
        return Finding("fail", f"{free:.2f} GB free", "free some space")
    return Finding("ok" if free > 2 else "warn", f"{free:,.1f} GB free", "" if free > 2 else "compare with `s2pg cost`")


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that is there."""
    path = path.resolve()
    return next(p for p in (path, *path.parents) if p.exists())
