"""Where the learner works: the folder that `make lab` copied the lessons to.

    work/
      .copied.json            what was copied; by it the folder is known
      .given/                 the lessons as they were copied: course.setup.workspace
      1_formats/03_q4_k.ipynb    a notebook runs here, so the folder is found upward from here
      my_engine/              the learner's right functions: course.collected
      .progress.jsonl         the verdicts: course.progress

The course's own notebooks lie in no such folder: run there, nothing of a learner's is written. What lies
in my_engine/ is run, so a folder counts only if it belongs to whoever asks.
"""

import os
from pathlib import Path

MANIFEST = ".copied.json"  # that of course.setup.workspace, which takes a second to import


def folder() -> Path | None:
    """Return the learner's folder that the current directory lies in, or None."""
    try:
        here = Path.cwd()
    except OSError:  # deleted under our feet
        return None
    found = next((place for place in (here, *here.parents) if (place / MANIFEST).is_file()), None)
    return found if found and _is_own(found) else None


def _is_own(folder):
    """Does a folder belong to this user? To root, as in a container, all do; Windows has no numbers."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return user in (0, folder.stat().st_uid)
