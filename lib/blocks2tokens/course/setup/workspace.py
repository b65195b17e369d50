"""The learner's copy of the course: notebooks/ (the course's) -> work/ (the learner's).

    python -m blocks2tokens.course.setup.workspace

    in work/                            the course's is new     what happens
    not there                           -                       copied, outputs cleared
    as it was copied                    no                      nothing
    as it was copied                    yes                     replaced by the new one
    changed by the learner              no                      kept
    changed by the learner              yes                     kept; the new one is put beside it as
                                                                `NAME (new version).ipynb`

Changed means: a cell's type or source differs from what was copied. Outputs, metadata and empty cells
do not count, so that running a lesson changes nothing; a lesson that was only run is replaced when a new
version comes, and its outputs are there again after the next run. Nothing is ever deleted. To start a
lesson over, delete or rename it in work/ and copy again.

What was copied is remembered in work/.copied.json, {name: SHA-256 of types and sources}. Where that file is
lost, a notebook counts as changed unless it equals the course's.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from blocks2tokens import files
from blocks2tokens.course.setup import notebooks

WORK = notebooks.ROOT / "work"
MANIFEST = ".copied.json"


@dataclass
class Summary:
    """Names of the notebooks, relative to the folder, by what became of them."""

    copied: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)


def fingerprint(notebook) -> str:
    """Return the SHA-256 of the types and sources of the cells that are not empty."""
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells if cell.source.strip()]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def fingerprint_of(path: Path) -> str | None:
    """Return the fingerprint of the notebook at `path`, or None where it cannot be read as one."""
    try:
        return fingerprint(notebooks.read(path)) if path.is_file() else None  # of a pipe, one would wait
    except Exception:  # a learner's file may hold anything
        return None


def load_manifest(folder: Path) -> dict[str, str]:
    """Return what was copied into `folder`, {name: fingerprint}; empty where that is not known."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(manifest, dict):
        return {}
    return {name: was for name, was in manifest.items() if isinstance(was, str)}


def save_manifest(folder: Path, manifest: dict[str, str]) -> None:
    files.write_text(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def names_beside(name: str) -> Iterator[str]:
    """Yield the names that a new version of `name` may take, the first choice first.

    >>> names = names_beside("01_why_blocks.ipynb")
    >>> next(names), next(names)
    ('01_why_blocks (new version).ipynb', '01_why_blocks (new version 2).ipynb')
    """
    stem = name.removesuffix(".ipynb")
    yield f"{stem} (new version).ipynb"
    for number in count(2):
        yield f"{stem} (new version {number}).ipynb"


def sync(source: Path, target: Path) -> Summary:
    """Bring the learner's folder `target` up to the course's `source`; keep all that the learner changed.

    Raises OSError where something cannot be written, and for what is there and should be a folder or a file.
    """
    if os.path.lexists(target) and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "this is no folder, rename it", str(target))
    target.mkdir(parents=True, exist_ok=True)
    manifest = load_manifest(target)
    summary = Summary()

    def put(notebook, new: str, name: str) -> None:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        notebooks.write(notebook, path)
        manifest[name] = new

    def put_beside(notebook, new: str, name: str) -> None:
        for other in names_beside(name):
            if manifest.get(other) == new:  # was put there before, whatever the learner did with it since
                return
            path = target / other
            if not os.path.lexists(path) or fingerprint_of(path) in (new, manifest.get(other, new)):
                put(notebook, new, other)
                summary.beside.append(other)
                return

    for path in notebooks.find(source):
        name = path.relative_to(source).as_posix()
        notebook = notebooks.clear(notebooks.normalize(notebooks.read(path)))
        new, was = fingerprint(notebook), manifest.get(name)
        if not os.path.lexists(target / name):
            put(notebook, new, name)
            summary.copied.append(name)
            continue
        theirs = fingerprint_of(target / name)
        if theirs == new:
            manifest[name] = new
        elif theirs is not None and theirs == was:
            put(notebook, new, name)
            summary.updated.append(name)
        else:
            summary.kept.append(name)
            if was != new:
                put_beside(notebook, new, name)
    for page in source.glob("*.md"):  # to look things up in: the course's, whatever was done to it
        with files.replacing(target / page.name) as partial:
            shutil.copyfile(page, partial)
    save_manifest(target, manifest)
    return summary


def report(summary: Summary) -> str:
    """Return a few lines for the learner."""
    lines = [
        f"Your copy of the lessons is in work/: {len(summary.copied)} copied, "
        f"{len(summary.updated)} updated, {len(summary.kept)} kept as you changed them."
    ]
    for name in summary.beside:
        lines.append(f'  A lesson that you changed has a new version. It is beside yours: "work/{name}"')
    return "\n".join(lines)


def main() -> int:
    if not notebooks.NOTEBOOKS.is_dir():
        print(f"No lessons in {notebooks.NOTEBOOKS}: install from a checkout of the course, pip install -e .")
        return 1
    try:
        print(report(sync(notebooks.NOTEBOOKS, WORK)))
    except (OSError, ValueError) as error:
        reason = f"{error.filename}: {error.strerror}" if getattr(error, "filename", None) else error
        print(f"Your copy of the lessons is not up to date. {reason}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
