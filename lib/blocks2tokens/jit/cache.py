"""What Numba keeps of compiled functions between runs, and when to forget it.

    module.py   ->   __pycache__/module.function-12.py311.nbi, .nbc

Numba compiles a function again when its own file has changed, but not when a function that it calls has
changed in another file: after an update it would go on running the old code. So what is older than the
newest source of the engine is removed when this module is imported, before all others.
"""

from pathlib import Path

AROUND = {"course", "benchmarks"}  # what uses the engine and is no part of it


def forget_outdated(package: Path) -> int:
    """Remove indexes of compiled code older than the newest of the engine's sources; return how many."""
    sources = (path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in AROUND)
    newest = max(path.stat().st_mtime for path in sources)
    removed = 0
    for index in package.rglob("__pycache__/*.nbi"):
        try:
            if index.stat().st_mtime < newest:
                index.unlink()
                removed += 1
        except OSError:  # another process was faster, or the folder is read-only: then it compiles elsewhere
            continue
    return removed


forget_outdated(Path(__file__).parents[1])
