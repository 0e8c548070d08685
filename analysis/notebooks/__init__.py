"""The notebooks: text sources (jupytext, percent format) that run on any tidy tables, without torch.

    python -m analysis notebooks --out results/notebooks/demo --data results/tables/demo/ppo_small

executes them with this very interpreter (no kernel needs to be installed) and writes `<name>.ipynb` and `<name>.html`.
To work in one, open it with Jupyter: `jupyter lab analysis/notebooks` (right click, open with, notebook).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis.errors import AnalysisError

HERE = Path(__file__).parent
NOTEBOOKS = ("explore_a_run", "compare_methods", "statistics_step_by_step")
VARIABLE = "S2PG_TABLES"
SCALES = ("paper", "lite", "demo", "smoke")
TABLES = ("runs", "scalars", "episodes", "timing")


def find_tables(experiment: str = "ppo_small", results: Path | None = None) -> Path:
    """The folder of tidy tables that a notebook shows; prints which one it is and why.

    In this order: the folder named by the environment variable S2PG_TABLES; `tables/<scale>/<experiment>` of the results
    folder, the largest scale first; the example results that are shipped with the suite, `published/<experiment>`.

    Args:
        experiment: name of the experiment.
        results: the results folder; default: `results` in the working folder, one of its parents, or beside the package.
    Raises:
        AnalysisError: none of them holds tables.
    """
    results = results or _results()
    named = os.environ.get(VARIABLE)
    places = [(Path(named), f"named by {VARIABLE}")] if named else []
    if not named:
        places += [(results / "tables" / scale / experiment, f"your own runs, scale {scale}") for scale in SCALES]
        places += [(results / "published" / experiment, "example results shipped with the suite")]
    for folder, why in places:
        if all((folder / f"{table}.parquet").exists() for table in TABLES):
            print(f"Showing {folder} ({why}).")
            return folder
    looked = ", ".join(str(folder) for folder, _ in places)
    raise AnalysisError(f"no tidy tables ({', '.join(TABLES)}.parquet) in any of: {looked}")


def _results() -> Path:
    """The nearest `results` folder: of the working folder, of its parents, of the package."""
    here = Path.cwd()
    candidates = [folder / "results" for folder in (here, *here.parents, HERE.parents[1])]
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])


def run(name: str, out: Path, data: Path | None = None, timeout: int = 600) -> list[Path]:
    """Execute one notebook; write it with its results as `.ipynb` and as self-contained `.html`.

    Args:
        name: one of NOTEBOOKS.
        out: folder to write to.
        data: folder of tidy tables; default: as `find_tables` says.
        timeout: seconds that one cell may take.
    Raises:
        AnalysisError: a cell failed; the message holds its traceback.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = jupytext.read(HERE / f"{name}.py")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # random otherwise
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    with tempfile.TemporaryDirectory() as scratch:
        client = NotebookClient(notebook, timeout=timeout, kernel_manager_class=_kernel(scratch), record_timing=False)
        try:
            client.execute(env=_environment(data, scratch))
        except CellExecutionError as error:
            raise AnalysisError(f"notebook {name} failed: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.{kind}" for kind in ("ipynb", "html")]
    nbformat.write(notebook, paths[0])
    paths[1].write_text(_html(notebook, name), encoding="utf-8")
    return paths


def _kernel(scratch: str) -> type:
    """Kernels that run this interpreter, whatever is installed, and that only this user can talk to."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisInterpreter(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, display_name="Python 3", language="python")

    class Kernel(AsyncKernelManager):
        def __init__(self, **options: Any):
            transport = "ipc" if os.name == "posix" else "tcp"
            file = str(Path(scratch) / "kernel.json")
            specs = ThisInterpreter()
            super().__init__(kernel_spec_manager=specs, transport=transport, connection_file=file, **options)

    return Kernel


def _environment(data: Path | None, scratch: str) -> dict[str, str]:
    """The kernel finds this package first, the tables if they are named, and leaves nothing in the home folder."""
    path = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    named = {VARIABLE: str(data.resolve())} if data else {}
    return {**os.environ, "PYTHONPATH": path, "IPYTHONDIR": scratch, **named}


def _html(notebook: Any, title: str) -> str:
    """The executed notebook as HTML that loads nothing: without nbconvert's scripts (formulas, diagrams, widgets)."""
    from nbconvert import HTMLExporter

    html, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook, {"metadata": {"name": title}})
    return re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL)


def select(names: Iterable[str]) -> list[str]:
    """The named notebooks (all if none is named); AnalysisError lists those that exist."""
    names = list(names) or list(NOTEBOOKS)
    unknown = [name for name in names if name not in NOTEBOOKS]
    if unknown:
        raise AnalysisError(f"unknown notebook {', '.join(unknown)}; notebooks: {', '.join(NOTEBOOKS)}")
    return names


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m analysis notebooks`."""
    parser.add_argument("--out", type=Path, required=True, help="folder for the executed notebooks")
    parser.add_argument("--data", type=Path, help=f"folder of tidy tables (default: {VARIABLE}, own runs, or shipped)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"some of: {', '.join(NOTEBOOKS)}")


def main(arguments: argparse.Namespace) -> None:
    """`python -m analysis notebooks`."""
    for name in select(arguments.only):
        for path in run(name, arguments.out, arguments.data):
            print(path)
