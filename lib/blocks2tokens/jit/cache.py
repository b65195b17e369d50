"""What Numba keeps of compiled functions between runs: where, and when it is forgotten.

    module.py   ->   __pycache__/module.function-12.py311.nbi   version, stamp, {signature: file}
                                                       .nbc     the compiled code
    stamp            of the function's own file, Numba's, and of all sources of the engine, ours

Numba compiles a function again when its own file has changed, but not when a function that it calls has
changed in another file: after an update it would go on running the old code. So the stamp of each function
of this package tells of all of the engine. It is made of what the sources hold and not of their times, which
clocks and archives get wrong.

A file that was cut short, by a full disk or a lost power, counts as missing. Where the package cannot be
written, as on a server for many, Numba keeps what it compiles in the user's own folder; links there lead to
what was compiled beside the package by whoever installed it, and nobody waits for that again. Where no folder
can be written at all, what is compiled is kept for as long as the process lives. Importing this module sees
to it.
"""

import atexit
import contextlib
import hashlib
import os
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path

from numba.core import caching, config

PACKAGE = Path(__file__).parents[1]
AROUND = {"course", "benchmarks"}  # what uses the engine and is no part of it


@cache
def fingerprint(package: Path = PACKAGE) -> str:
    """Return the SHA-256 of the engine's sources, names and contents."""
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package)
        if name.parts[0] not in AROUND:
            found.update(repr((name.as_posix(), path.read_bytes())).encode())
    return found.hexdigest()


def stamp_all_sources() -> None:
    """Make Numba's stamp of a function of this package depend on all of the engine's sources."""
    locator = caching._SourceFileBackedLocatorMixin
    own_stamp = locator.get_source_stamp

    def get_source_stamp(self):
        stamp = own_stamp(self)
        return (stamp, fingerprint()) if PACKAGE in Path(self._py_file).parents else stamp

    locator.get_source_stamp = get_source_stamp


def pass_over_broken_files() -> None:
    """Make Numba compile again where an index or a file of code cannot be read as what it should be."""
    files = caching.IndexDataCacheFile
    load_index, load = files._load_index, files.load

    def index_or_none(self):
        try:
            return load_index(self)
        except Exception:  # pickle raises whatever the bytes make it do
            return {}

    def code_or_none(self, key):
        try:
            return load(self, key)
        except Exception:
            return None

    files._load_index, files.load = index_or_none, code_or_none


def find_a_place() -> None:
    """Give Numba a folder of this process's own, with a warning, where it finds none for the package."""
    locators = caching.CacheImpl._locator_classes
    if any(locator.from_function(find_a_place, __file__) for locator in locators):
        return
    config.CACHE_DIR = tempfile.mkdtemp(prefix="blocks2tokens-")  # of its own: what lies there is run
    os.environ["NUMBA_CACHE_DIR"] = config.CACHE_DIR  # for the processes that this one starts
    atexit.register(shutil.rmtree, config.CACHE_DIR, ignore_errors=True)
    warnings.warn(
        "no folder for the compiled kernels can be written, so that each process compiles them again: "
        "NUMBA_CACHE_DIR=FOLDER names one for Numba's cache",
        stacklevel=2,
    )


def share_what_is_compiled() -> None:
    """Where the package is read-only, link to what was compiled in it from the folder that Numba takes.

    Numba replaces files and never writes into them: an index with a function more becomes the user's own.
    """
    if caching.InTreeCacheLocator.from_function(find_a_place, __file__):
        return  # Numba reads and writes there
    for folder in PACKAGE.rglob("__pycache__"):
        compiled = list(folder.glob("*.nb[ic]"))
        source = next(folder.parent.glob("*.py"), None)
        if not compiled or source is None:
            continue
        found = (each.from_function(find_a_place, str(source)) for each in caching.CacheImpl._locator_classes)
        locator = next(filter(None, found), None)
        for path in compiled if locator else ():
            _link(path, Path(locator.get_cache_path()) / path.name)


def _link(path, place):
    """Make `place` lead to `path`, unless a file is there; where links are not allowed, copy it."""
    if place.exists():
        return
    try:
        place.unlink(missing_ok=True)  # it led to what is no more
        place.symlink_to(path)
    except FileExistsError:  # another process was first
        return
    except OSError:  # Windows asks for a right
        with contextlib.suppress(OSError):
            shutil.copyfile(path, place)


stamp_all_sources()
pass_over_broken_files()
find_a_place()
share_what_is_compiled()
