"""The leaderboard of capstone engines: work/capstone.json, a row for each file that was judged.

    {"name": "my_engine.py", "sha256": "...", "seed": 0, "date": "2026-01-31", "course": "5a63613...",
     "cpu": "...", "cores": 2, "simd": "avx512", "python": "3.11", "numpy": "2.4", "numba": "0.66",
     "lines": 240, "met": 10, "of": 10, "figures": {...}}

    work/capstone/<first 12 digits of the SHA-256>.py      the file as it was judged

So a row can be judged again: the same file, the same seed. What is counted comes out the same everywhere;
tokens a second belong to the CPU in the row. A file judged again on the same CPU replaces its row.
"""

import contextlib
import hashlib
import json
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numba
import numpy as np

from blocks2tokens import files
from blocks2tokens.course import hardware, work
from blocks2tokens.course.capstone.judging import Report
from blocks2tokens.course.setup.workspace import WORK
from blocks2tokens.jit import cpu

FILE, FOLDER = "capstone.json", "capstone"
UNKNOWN = "not known"
SPEED = "decode, times the starter's"
SHOWN = {  # heading: figure
    "× starter": SPEED,
    "prefill ×": "prefill, times the starter's",
    "MB read": "bytes read per token",
    "MB held": "bytes of memory",
    "kB alloc": "bytes allocated per token",
}
SCALE = {"MB read": 1e-6, "MB held": 1e-6, "kB alloc": 1e-3}


@dataclass(frozen=True)
class Entry:
    """A row; see above."""

    name: str
    sha256: str
    seed: int
    date: str
    course: str
    cpu: str
    cores: int
    simd: str
    python: str
    numpy: str
    numba: str
    lines: int
    met: int
    of: int
    figures: dict[str, float] = field(default_factory=dict)


def entry(report: Report) -> Entry:
    """Return the row of a report, of this machine and this day."""
    machine = hardware.machine()
    figures = {name: value for row in report.rows for name, value in row.figures.items()}
    return Entry(
        name=report.path.name,
        sha256=hashlib.sha256(report.path.read_bytes()).hexdigest(),
        seed=report.seed,
        date=date.today().isoformat(),
        course=_commit(),
        cpu=machine.processor,
        cores=machine.cores,
        simd=cpu.chosen(),
        python=platform.python_version(),
        numpy=np.__version__,
        numba=numba.__version__,
        lines=report.lines,
        met=report.met,
        of=len(report.rows),
        figures=figures,
    )


def _commit():
    """Return the course's commit, with + behind it where files have changed since."""
    here = Path(__file__).parent

    def git(*arguments):
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", str(here.parents[1]))
        return git("rev-parse", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN


def folder() -> Path | None:
    """Return the learner's folder: the one that the current directory lies in, or the course's own work/."""
    return work.folder() or (WORK if WORK.is_dir() else None)


def entries(place: Path) -> list[Entry]:
    """Return the rows in a learner's folder; one that is damaged is left out."""
    try:
        rows = json.loads((place / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    found = []
    for row in rows if isinstance(rows, list) else []:
        with contextlib.suppress(TypeError):
            found.append(Entry(**row))
    return found


def keep(report: Report, place: Path) -> Entry:
    """Put a report's row on the leaderboard of a folder, and the file beside it; OSError."""
    new = entry(report)
    rest = [one for one in entries(place) if (one.sha256, one.cpu) != (new.sha256, new.cpu)]
    rows = [vars(one) for one in (*rest, new)]
    copies = place / FOLDER
    copies.mkdir(exist_ok=True)
    with files.replacing(copies / f"{new.sha256[:12]}.py") as partial:
        partial.write_bytes(report.path.read_bytes())
    files.write_text(place / FILE, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    return new


def table(rows: list[Entry]) -> str:
    """Return the leaderboard as text: most criteria first, then the fastest against the starter."""
    order = sorted(rows, key=lambda one: (-one.met, one.of - one.met, -one.figures.get(SPEED, 0)))
    cells = [["file", "met", "lines", *SHOWN, "cores", "CPU", "SHA-256"]]
    for one in order:
        figures = [_written(one.figures.get(name), SCALE.get(head, 1)) for head, name in SHOWN.items()]
        where = str(one.cores), one.cpu, one.sha256[:12]
        cells.append([one.name, f"{one.met}/{one.of}", str(one.lines), *figures, *where])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _written(value, scale):
    return "–" if value is None else f"{scale * value:,.2f}"
