"""Where the learner works: the folder that `make lab` copied the lessons to.

    work/
      .copied.json            what was copied; by it the folder is known
      1_formats/03_q4_k.ipynb    a notebook runs here, so the folder is found upward from here
      my_engine/              the learner's right functions: course.collected
      .progress.jsonl         the verdicts: course.progress

The course's own notebooks lie in no such folder: run there, nothing of a learner's is written.
"""

from pathlib import Path

MANIFEST = ".copied.json"  # that of course.setup.workspace, which takes a second to import


def folder() -> Path | None:
    """Return the learner's folder that the current directory lies in, or None."""
    try:
        here = Path.cwd()
    except OSError:  # deleted under our feet
        return None
    return next((place for place in (here, *here.parents) if (place / MANIFEST).is_file()), None)
