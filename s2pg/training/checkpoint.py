"""Files that are there whole or not at all, and the run folder that they make up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from s2pg.training import lock


class RunError(RuntimeError):
    """A run folder cannot be used as it is; the message names the file and the way out."""


class Damaged(RunError):
    """A checkpoint can be read, but is not whole."""


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Let `save` write beside `path`, then move the file there in one step; what was there survives any failure."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        save(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path}: could not be written ({reason}); the old file is untouched") from error
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write(path, lambda p: p.write_text(json.dumps(content, indent=2) + "\n"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file. Raises RunError naming the file when it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path}: not JSON ({error}); move it away to finish the run again") from error


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all."""
    write(path, lambda p: torch.save(state, p))


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint. Raises RunError naming the file when it cannot be read, Damaged when it is not whole."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{path}: no checkpoint here; train the run first") from None
    except (OSError, MemoryError) as error:
        raise RunError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise Damaged(f"{path}: the checkpoint is damaged ({reason})") from error


def archive(folder: Path) -> Path:
    """Move everything in a run folder to a new sibling `<name>.archived-<k>` and return that."""
    target = next(p for k in range(1, 10**6) if not (p := folder.with_name(f"{folder.name}.archived-{k}")).exists())
    target.mkdir()
    for item in folder.iterdir():
        if item.name != lock.NAME:
            item.rename(target / item.name)
    return target
