"""Run the lessons and save them in one fixed form, so that a difference in git is a difference in content.

    python -m blocks2tokens.course.setup.notebooks                   every lesson under notebooks/
    python -m blocks2tokens.course.setup.notebooks notebooks/1_formats/01_why_blocks.ipynb

A lesson is written only when all its cells have run. The fixed form:

    notebook metadata   the kernel "python3", the language "python", nothing else
    cell metadata       tags, and what is folded; no times, no editor's notes
    outputs             one stream for stdout and one for stderr between two others; no widget models and
                        no lines of progress
"""

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbclient.output_widget import OutputWidget
from nbformat import NotebookNode

from blocks2tokens import files
from blocks2tokens.course import place

ROOT = place.ROOT
NOTEBOOKS = ROOT / "notebooks"

CELL_TIMEOUT = 600  # seconds
NO_PROGRESS = {"TQDM_DISABLE": "1"}  # read by tqdm; `make test` sets it too: the line depends on the time
FAILURES = (CellExecutionError, TimeoutError, DeadKernelError)
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python"}
CONTROL = "(a control: run this cell, and it stands here)"  # in the place of the widget's repr
KEPT_CELL_METADATA = {"tags", "jupyter"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"  # names a model by a random id


def find(folder: Path) -> list[Path]:
    """Return the notebooks under `folder` in reading order, without Jupyter's checkpoints."""
    found = (path.relative_to(folder) for path in folder.rglob("*.ipynb"))
    return [folder / path for path in sorted(found) if not any(p.startswith(".") for p in path.parts)]


def named(text: str) -> str:
    """Return the path within notebooks/ of the lesson with a number or a name, such as 3, 03 or q4_k.

    Raises ValueError for one that there is not.

    >>> named("3"), named("03_q4_k")
    ('1_formats/03_q4_k.ipynb', '1_formats/03_q4_k.ipynb')
    """
    every = {path.stem: path.relative_to(NOTEBOOKS).as_posix() for path in find(NOTEBOOKS)}
    for stem, name in every.items():
        number, _, title = stem.partition("_")
        if text in (stem, title, number, number.lstrip("0") or "0"):
            return name
    numbers = sorted(stem.partition("_")[0] for stem in every)
    known = f"one from {numbers[0]} to {numbers[-1]}" if numbers else "no lessons are here, though"
    raise ValueError(f"lesson: expected {known}, got {text!r}")


def read(path: Path) -> NotebookNode:
    """Return the notebook at `path`; raises ValueError or OSError if it is not one."""
    return nbformat.read(path, as_version=4)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write `notebook` to `path`, whole or not at all."""
    with files.replacing(path) as partial:
        nbformat.write(notebook, partial)


def normalize(notebook: NotebookNode) -> NotebookNode:
    """Bring `notebook` into the fixed form, in place, and return it."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    for cell in notebook.cells:
        for key in set(cell.metadata) - KEPT_CELL_METADATA:
            del cell.metadata[key]
        for output in cell.get("outputs", []):
            if output.get("data", {}).pop(WIDGET_VIEW, None):
                output.data["text/plain"] = CONTROL
    return notebook


def clear(notebook: NotebookNode) -> NotebookNode:
    """Remove outputs and execution counts from `notebook`, in place, and return it."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    return notebook


class SilentOutput(OutputWidget):
    """What a widget draws, kept out of the cell; nbclient's own also tells the kernel of it.

    It does so on the socket where it waits for the cell's end, and where the machine is busy it then misses
    that at times, and waits for ever. No lesson needs to be told.
    """

    def send(self, data=None, metadata=None, buffers=None) -> None:
        pass


def execute(notebook: NotebookNode, folder: Path, on_cell=None) -> NotebookNode:
    """Run all cells of `notebook` in a fresh kernel started in `folder`, in place, and return it.

    `on_cell(cell, cell_index)` is called before each. Raises one of FAILURES at the first that fails.
    """
    client = NotebookClient(
        clear(notebook),
        kernel_name="python3",
        timeout=CELL_TIMEOUT,
        coalesce_streams=True,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=on_cell,
    )
    client.widget_registry = {"@jupyter-widgets/output": {"OutputModel": SilentOutput}}
    return client.execute(env=os.environ | NO_PROGRESS)


def update(path: Path) -> float:
    """Run the notebook at `path`, save it in the fixed form and return the seconds that it took."""
    notebook = read(path)
    cells = len(notebook.cells)

    def show(cell, cell_index):
        if sys.stdout.isatty():
            print(f"\r  cell {cell_index + 1} of {cells}", end="", flush=True)

    start = time.perf_counter()
    write(normalize(execute(notebook, path.parent, show)), path)
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m blocks2tokens.course.setup.notebooks",
        description="Run lessons and save their outputs. Without a path: all of them.",
    )
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks to run")
    paths = parser.parse_args(arguments).paths or find(NOTEBOOKS)
    failed = []
    for number, path in enumerate(paths, start=1):
        print(f"[{number}/{len(paths)}] {path.name}", flush=True)
        try:
            seconds = update(path)
        except FAILURES as error:
            failed.append(path.name)
            print(f"\n{error}\n  failed; the file is as it was", flush=True)
        else:
            print(f"\r  saved after {seconds:.1f} s, {path.stat().st_size / 1e6:.2f} MB", flush=True)
    print(f"{len(paths) - len(failed)} of {len(paths)} lessons run and saved.")
    if failed:
        print("Failed: " + ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
