"""The architecture, held by the syntax trees: who may import whom, and what a committed file may not name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Each layer of s2pg may import itself, the layers before it, and the leaves.
ORDER = [
    "kernels",
    "nets",
    "memory",
    "policy critic",
    "algorithms",
    "imitation",
    "training",
    "build",
    "timing",
    "commands",
    "cli __main__",
]
LEAVES = {"types", "hyperparameters", "config", "study", "machine"}
LEAF_IMPORTS = {"config": {"hyperparameters"}, "study": {"hyperparameters", "config"}}
BESIDE = {
    "data": set(),
    "gradients": {"nets", "memory", "policy", "critic", "algorithms", "data"},
}
ABOVE_DATA = {"algorithms", "imitation", "training", "build", "commands", "cli", "__main__", "gradients", "timing"}
PACKAGES = {"s2pg", "envs", "analysis", "workflow"}
MAY_IMPORT = {"envs": {"envs"}, "analysis": {"analysis"}, "workflow": {"workflow", "s2pg"}, "s2pg": {"s2pg", "envs"}}
NO_TORCH = ["envs", "analysis", "workflow"]


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, relative ones resolved, `from a import b` as `a` and `a.b`."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def layer(path: Path) -> str:
    """`s2pg/training/loop.py` is of layer `training`, `s2pg/memory.py` of layer `memory`."""
    return path.relative_to(ROOT / "s2pg").with_suffix("").parts[0]


def allowed(name: str) -> set[str]:
    """The layers of s2pg that layer `name` may import."""
    if name in LEAVES or name == "__init__":
        return {name} | LEAF_IMPORTS.get(name, set())
    if name in BESIDE:
        return LEAVES | BESIDE[name] | {name}
    rows = [row.split() for row in ORDER]
    place = next((i for i, row in enumerate(rows) if name in row), None)
    assert place is not None, f"s2pg/{name} has no place in the import order: give it one in {Path(__file__).name}"
    below = {other for row in rows[: place + 1] for other in row}
    return below | LEAVES | ({*BESIDE} if name in ABOVE_DATA else set())


def upward(path: Path, names: set[str]) -> set[str]:
    layers = {name.split(".")[1] for name in names if name.startswith("s2pg.")}
    known = {p.stem if p.is_file() else p.name for p in (ROOT / "s2pg").iterdir()}
    return (layers & known) - allowed(layer(path))


@pytest.mark.parametrize("path", sources("s2pg"), ids=lambda p: str(p.relative_to(ROOT)))
def test_layers_do_not_import_upwards(path: Path) -> None:
    assert upward(path, imported(path)) == set()


def test_an_upward_import_would_be_caught() -> None:
    assert upward(ROOT / "s2pg/memory.py", {"s2pg.memory", "s2pg.policy", "s2pg.nets", "torch"}) == {"policy"}


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_import_only_what_the_design_allows(package: str) -> None:
    found = {name.split(".")[0] for path in sources(package) for name in imported(path)}
    assert found & PACKAGES <= MAY_IMPORT[package]


def test_only_training_imports_the_environments() -> None:
    users = {layer(p) for p in sources("s2pg") if any(n.split(".")[0] == "envs" for n in imported(p))}
    assert users <= {"training"}


@pytest.mark.parametrize("package", NO_TORCH)
def test_no_torch_outside_the_learning_core(package: str) -> None:
    assert not [path for path in sources(package) if "torch" in {n.split(".")[0] for n in imported(path)}]


def test_the_workflow_imports_nothing_of_s2pg_but_its_configuration() -> None:
    files = [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk"), *sources("workflow")]
    words = re.compile(r"^\s*(?:from|import)\s+(s2pg[\w.]*)(?:\s+import\s+(\w+))?", re.MULTILINE)
    found = {match for path in files for match in words.findall(path.read_text())}
    assert {module if module != "s2pg" else f"s2pg.{name}" for module, name in found} == {
        "s2pg.config",
        "s2pg.study",
    }


def test_configuration_loads_without_torch_or_environments() -> None:
    heavy = {"torch", "gymnasium", "mujoco", "pandas"}
    code = f"import sys, s2pg.config, s2pg.study; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_file_names_a_place_on_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.}~-])/(?:work|root|tmp|home|Users|mnt|scratch|opt)/[\w.-]+")
    skipped = {".parquet", ".png", ".pdf", ".gif", ".mp4"}
    files = [p for p in tracked() if p.suffix not in skipped and p.is_file() and p != Path(__file__).resolve()]
    found = {
        f"{path.relative_to(ROOT)}: {match}"
        for path in files
        for match in pattern.findall(path.read_text(errors="replace"))
    }
    assert found == set()
