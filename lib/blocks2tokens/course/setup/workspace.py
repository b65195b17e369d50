"""The learner's copy of the course: notebooks/ (the course's) -> work/ (the learner's; see course.place).

    python -m blocks2tokens.course.setup.workspace [--target DIR]

    in work/                            the course's is new     what happens
    not there                           -                       copied, outputs cleared
    as it was copied                    no                      nothing
    as it was copied                    yes                     replaced by the new one
    changed by the learner              no                      kept
    changed by the learner              yes                     merged cell by cell, see merge.py

Where both have changed the same cell the learner's stays, and the course's lesson is put beside theirs as
`NAME (new version).ipynb`.

Changed means: a cell's type or source differs from what was copied. Outputs, metadata and empty cells
do not count, so that running a lesson changes nothing; a lesson that was only run is replaced when a new
version comes, and its outputs are there again after the next run. Nothing is ever deleted.

    work/.copied.json        what was copied, {name: SHA-256 of types and sources}
    work/.given/NAME         the lesson as it was copied: the base of the next merge

Where the first is lost, a notebook counts as changed unless it equals the course's; where the second is lost,
or is not what the first says, nothing is merged and the new lesson is put beside. What is written is signed,
so that JupyterLab trusts it.
"""

import argparse
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
from blocks2tokens.course import work
from blocks2tokens.course.place import WORK, WORK_SHOWN
from blocks2tokens.course.setup import notebooks, trust
from blocks2tokens.course.setup.merge import merged
from blocks2tokens.course.work import MANIFEST

GIVEN = ".given"


@dataclass
class Summary:
    """Names of the notebooks, relative to the folder, by what became of them."""

    copied: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
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


def names_beside(name: str, what: str = "new version") -> Iterator[str]:
    """Yield the names that another version of `name` may take, the first choice first.

    >>> names = names_beside("01_why_blocks.ipynb")
    >>> next(names), next(names)
    ('01_why_blocks (new version).ipynb', '01_why_blocks (new version 2).ipynb')
    """
    stem = name.removesuffix(".ipynb")
    yield f"{stem} ({what}).ipynb"
    for number in count(2):
        yield f"{stem} ({what} {number}).ipynb"


def sync(source: Path, target: Path) -> Summary:
    """Bring the learner's folder `target` up to the course's `source`; keep all that the learner changed.

    Raises OSError where something cannot be written, and for what is there and should be a folder or a file.
    """
    if os.path.lexists(target) and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "this is no folder, rename it", str(target))
    target.mkdir(parents=True, exist_ok=True)
    copying = _Copying(target)
    for path in notebooks.find(source):
        copying.bring(path.relative_to(source).as_posix(), _lesson(path))
    for page in source.glob("*.md"):  # to look things up in: the course's, whatever was done to it
        with files.replacing(target / page.name) as partial:
            shutil.copyfile(page, partial)
    save_manifest(target, copying.manifest)
    return copying.summary


def _lesson(path):
    return notebooks.clear(notebooks.normalize(notebooks.read(path)))


class _Copying:
    """One run of `sync`: the learner's folder, what was copied into it, and what became of each lesson."""

    def __init__(self, target: Path):
        self.target, self.manifest, self.summary = target, load_manifest(target), Summary()

    def bring(self, name: str, notebook) -> None:
        """Bring one lesson up to the course's `notebook`."""
        place, new, was = self.target / name, fingerprint(notebook), self.manifest.get(name)
        if not os.path.lexists(place):
            self._put(notebook, name)
            self.summary.copied.append(name)
        elif (theirs := fingerprint_of(place)) == new:
            self.manifest[name] = new
        elif theirs is not None and theirs == was:
            self._put(notebook, name)
            self.summary.updated.append(name)
        elif was == new:
            self.summary.kept.append(name)
        elif theirs is None or (given := self._given(name)) is None:
            self.summary.kept.append(name)
            self._put_beside(notebook, name)
            return  # and is known to be behind
        else:
            self._merge(given, notebook, name)
        self._give(notebook, name)

    def _merge(self, given, notebook, name):
        place = self.target / name
        theirs = notebooks.read(place)
        result = merged(given, theirs, notebook)
        if fingerprint(result.notebook) == fingerprint(theirs):
            self.summary.kept.append(name)
        else:
            is_trusted = trust.is_trusted(theirs)
            notebooks.write(result.notebook, place)
            if is_trusted:
                trust.sign(place)
            self.summary.merged.append(name)
        self.manifest[name] = fingerprint(notebook)
        if result.conflicts:
            self._put_beside(notebook, name)

    def _put(self, notebook, name):
        path = self.target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        notebooks.write(notebook, path)
        trust.sign(path)
        self.manifest[name] = fingerprint(notebook)

    def _put_beside(self, notebook, name):
        new = fingerprint(notebook)
        for other in names_beside(name):
            was, path = self.manifest.get(other), self.target / other
            if was == new:  # was put there before, whatever the learner did with it since
                return
            if not os.path.lexists(path) or fingerprint_of(path) in (new, was or new):
                self._put(notebook, other)
                self.summary.beside.append(other)
                return

    def _given(self, name):
        """Return a lesson as it was copied, or None where that is not known."""
        path = self.target / GIVEN / name
        is_known = fingerprint_of(path) == self.manifest.get(name)
        return notebooks.read(path) if is_known and path.is_file() else None

    def _give(self, notebook, name):
        """Keep a lesson as it is copied, for the next merge."""
        path = self.target / GIVEN / name
        if fingerprint_of(path) != fingerprint(notebook):
            path.parent.mkdir(parents=True, exist_ok=True)
            notebooks.write(notebook, path)


def learners(folder: Path | None = None) -> Path:
    """Return the learner's folder: this one, else the one that the current directory lies in, else WORK.

    Raises FileNotFoundError for a folder that no lessons were copied to.
    """
    found = folder or work.folder() or WORK
    if not (found / MANIFEST).is_file():
        remedy = "python -m blocks2tokens.course.setup.workspace copies the lessons"
        raise FileNotFoundError(f"{found}: no lessons were copied there; {remedy}")
    return found


def reset(source: Path, target: Path, name: str) -> str | None:
    """Put a lesson back to the course's; return the name that the learner's has now, None if there was none.

    Raises OSError where that cannot be done.
    """
    place, other = target / name, None
    if os.path.lexists(place):
        other = next(n for n in names_beside(name, "mine") if not os.path.lexists(target / n))
        place.rename(target / other)
    copying = _Copying(target)
    copying.bring(name, _lesson(source / name))
    save_manifest(target, copying.manifest)
    return other


def report(summary: Summary, target: Path = WORK) -> str:
    """Return a few lines for the learner."""
    shown = WORK_SHOWN if target == WORK else str(target)
    lines = [
        f"Your copy of the lessons is in {shown}/: {len(summary.copied)} copied, "
        f"{len(summary.updated)} updated, {len(summary.merged)} updated around what you changed, "
        f"{len(summary.kept)} kept as you changed them."
    ]
    for name in summary.beside:
        lines.append(
            f"  A lesson has a new version, with new text in cells that you changed. Yours stayed; "
            f'the new version is beside them: "{shown}/{name}"'
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m blocks2tokens.course.setup.workspace",
        description="Copy the lessons to your folder, or bring it up to date; what you changed stays.",
    )
    parser.add_argument(
        "--target", metavar="DIR", type=Path, default=WORK, help=f"the folder (default: {WORK_SHOWN}/)"
    )
    target = parser.parse_args(arguments).target
    if not notebooks.NOTEBOOKS.is_dir():
        print(f"No lessons in {notebooks.NOTEBOOKS}: install the course from its folder, pip install .")
        return 1
    try:
        print(report(sync(notebooks.NOTEBOOKS, target), target))
    except (OSError, ValueError) as error:
        reason = f"{error.filename}: {error.strerror}" if getattr(error, "filename", None) else error
        print(f"Your copy of the lessons is not up to date. {reason}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
