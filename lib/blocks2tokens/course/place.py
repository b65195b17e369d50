"""Where the course lies: its lessons and its data, and the learner's copy unless they say otherwise.

    from a checkout, pip install -e .     ROOT/    notebooks/  data/  README.md ...
                                          ROOT/work/                   the learner's copy
    installed, pip install .              PREFIX/share/blocks2tokens/  notebooks/  data/
                                          ~/blocks2tokens/             the learner's copy

An installed course may belong to another user, and be read-only: nothing of a learner's is written to it.
"""

from importlib import metadata
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
FIRST = "00_start_here.ipynb"  # the lesson by which the folder is known


def _installed() -> Path | None:
    """Return the folder that pip put the lessons and the data into, or None."""
    try:
        files = metadata.files("blocks2tokens") or []
    except metadata.PackageNotFoundError:
        return None
    found = (file.locate() for file in files if file.name == FIRST)
    return next((Path(path).resolve().parents[1] for path in found), None)


IS_CHECKOUT = (CHECKOUT / "notebooks").is_dir()
ROOT = CHECKOUT if IS_CHECKOUT else _installed() or CHECKOUT
WORK_SHOWN = "work" if IS_CHECKOUT else "~/blocks2tokens"
WORK = ROOT / "work" if IS_CHECKOUT else Path(WORK_SHOWN).expanduser()
