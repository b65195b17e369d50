"""What was measured on this machine, kept in the user's cache folder: measured once, then looked up.

    <kind>-<key>.json    {"quiet": did we have the machine to ourselves, "found": what was measured}

The key stands for all that a result depends on, so that nothing is read that was measured on another machine
or of other code. What a busy machine gave is used, but not for good: the next process that finds the machine
quiet measures anew.
"""

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm
import psutil

from blocks2tokens import files
from blocks2tokens.jit import cpu

QUIET = 0.3  # of a core, that others may use
LOOK = 0.1  # seconds, to see whether a machine that was busy still is


class Others:
    """Watches how much of the machine other processes use, from its creation on."""

    def __init__(self):
        self.before = self._now()

    def are_quiet(self) -> bool:
        busy, all_of_it, own = (now - then for now, then in zip(self._now(), self.before, strict=True))
        return busy - own < QUIET * all_of_it / os.cpu_count()

    def _now(self):
        t = psutil.cpu_times()
        own = psutil.Process().cpu_times()
        return sum(t) - t.idle - getattr(t, "iowait", 0), sum(t), own.user + own.system


@cache
def is_quiet() -> bool:
    """Look for a moment, once in a process, whether others use the machine."""
    others = Others()
    time.sleep(LOOK)
    return others.are_quiet()


def kept(kind: str, depends_on: tuple, measure: Callable, check: Callable, anew: bool = False):
    """Return what `measure()` found, now or before; `check` returns it in order, or raises ValueError.

    What it finds must be fit for JSON. `anew` asks for a new measurement whatever is there.
    """
    path = folder() / f"{kind}-{key(depends_on)}.json"
    if not anew:
        found, quiet = read(path, check)
        if found is not None and (quiet or not is_quiet()):
            return found
    others = Others()
    found = measure()
    write(path, {"quiet": others.are_quiet(), "found": found})
    return check(found)


def read(path: Path, check: Callable):
    """Return what a file holds and whether it was quiet then; None if there is nothing that makes sense."""
    try:
        data = json.loads(path.read_text())
        return check(data["found"]), bool(data["quiet"])
    except (OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
        return None, False


def positive(number) -> float:
    """Return what a file holds for a time or a speed, if it can be one; ValueError, TypeError otherwise."""
    if not 0 < float(number) < float("inf"):
        raise ValueError(f"no time or speed: {number}")
    return float(number)


def write(path: Path, data) -> None:
    """Write it whole or not at all; without a place to write to it is measured again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(data))
    except (OSError, ValueError):
        pass


def folder() -> Path:
    """Return the folder for all this: BLOCKS2TOKENS_CACHE, or one in the user's cache folder."""
    if chosen := os.environ.get("BLOCKS2TOKENS_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "blocks2tokens"


def key(depends_on: tuple) -> str:
    """Return a short hash of the machine, the code of the kernels, and what else a result depends on."""
    folders = Path(__file__).parent, Path(cpu.__file__).parent
    sources = [path.read_bytes() for each in folders for path in sorted(each.rglob("*.py"))]
    here = platform.machine(), llvm.get_host_cpu_name(), os.cpu_count(), depends_on
    return hashlib.sha256(repr((here, sources)).encode()).hexdigest()[:12]
