"""What takes too long for the lesson: a 14B as a whole, and the figures of all lessons before.

    python -m blocks2tokens.course.lessons.the_last_verdict.record model     some minutes, 9.5 GB of disk
    python -m blocks2tokens.course.lessons.the_last_verdict.record ledger    runs the lessons, half an hour
    recorded.json, beside this file:
    {"model": {"cpu", "date", "bytes": of a token, "weights", "threads", "read": GB/s,
               "seconds": {rows of a pass: seconds}},
     "ledger": [the rows of work/.ledger.json, see course.ledger]}

Either writes its part and leaves the other. A model of that shape and random weights is written to
data/models/ first, and deleted afterwards if it was not there.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from tqdm import tqdm

import blocks2tokens as b2t
from blocks2tokens import files
from blocks2tokens.course import hardware, ledger, rows_cost, synthetic
from blocks2tokens.course.ledger import Evidence
from blocks2tokens.course.report_claims import CLAIMS
from blocks2tokens.course.setup import notebooks, workspace

RECORDED = Path(__file__).with_name("recorded.json")
SHAPE, ROWS = "14B", (1, 2, 3, 4, 6, 8, 12, 16)


def recorded() -> dict:
    """Return what was recorded."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def evidence() -> dict[str, Evidence]:
    """Return {figure: its evidence}: what this learner measured; what was recorded, where that is missing."""
    kept = {row["figure"]: Evidence(**row) for row in recorded()["ledger"]}
    return kept | ledger.evidence()


def closed_ledger() -> ledger.Ledger:
    """Return all rows of the ledger."""
    return ledger.Ledger(CLAIMS, evidence())


def measure_model(shape: str | synthetic.Shape, rows: Sequence[int], seconds: float) -> dict:
    """Return the seconds of passes of so many rows of a model of random weights, and what it was read on."""
    there = synthetic.file_path(shape).exists()
    path = synthetic.ensure(shape)
    try:
        model = b2t.load(path)
        cost = rows_cost.measure(model, rows, repeats=7, seconds=seconds)
        read = max(hardware.measure().read.values())
    finally:
        if not there:
            path.unlink()
    return {
        "cpu": hardware.machine().processor,
        "date": date.today().isoformat(),
        "bytes": synthetic.parameters(shape).bytes_per_token,
        "weights": synthetic.parameters(shape).weights,
        "threads": hardware.machine().cores,
        "read": read,
        "seconds": {str(n): timing.median for n, timing in cost.timings.items()},
    }


def run_lessons(names: Sequence[str] | None = None) -> list[dict]:
    """Run lessons, all or those of these stems, in a folder of their own; return what they kept."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        workspace.sync(notebooks.NOTEBOOKS, work)
        found = [path for path in notebooks.find(work) if names is None or path.stem in names]
        for path in tqdm(found, desc="lessons"):
            if path.stem[:2] != "32":
                notebooks.execute(notebooks.read(path), path.parent)
        return json.loads((work / ledger.KEPT).read_text(encoding="utf-8"))


def main(arguments: Sequence[str]) -> int:
    """Record one part; return the exit status."""
    makes = {"model": lambda: measure_model(SHAPE, ROWS, 120.0), "ledger": run_lessons}
    if len(arguments) != 1 or arguments[0] not in makes:
        print(f"expected one of {', '.join(makes)}", file=sys.stderr)
        return 2
    found = recorded() if RECORDED.exists() else {"model": {}, "ledger": []}
    found[arguments[0]] = makes[arguments[0]]()
    files.write_text(RECORDED, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
