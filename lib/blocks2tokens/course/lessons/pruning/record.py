"""What takes too long for a lesson: SmolLM2 pruned in several ways, on the held-out chapters.

    python -m blocks2tokens.course.lessons.pruning.record         writes smollm2.json beside this file

    {"calibration": tokens, "heldout": tokens, "whole": perplexity,
     "rows": {name: {"by", "share", "repair", "bytes", "perplexity", "nats", "nats_error", "kl", "kl_error"}}}

Some minutes for each row on two cores. A row is written as soon as it is there; those that are there already
are not made again.
"""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import blocks2tokens as b2t
from blocks2tokens import files
from blocks2tokens.course import models
from blocks2tokens.course.lessons.pruning import texts
from blocks2tokens.course.lessons.pruning.losses import WINDOW, lost
from blocks2tokens.quality import Reference

RECORDED = Path(__file__).with_name("smollm2.json")
CALIBRATION, HELDOUT = 8192, 2049
WAYS = {
    "magnitude": ("magnitude", 0.5, False),
    "Wanda": ("wanda", 0.5, False),
    "Wanda, repaired": ("wanda", 0.5, True),
    "layers": ("layers", 0.1, False),
    "neurons": ("neurons", 0.25, False),
    "heads": ("heads", 1 / 3, False),
}


def recorded() -> dict:
    """Return what was recorded."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def rows(source: Path, ways: Iterable[str], n_calibration: int, n_heldout: int):
    """Yield (perplexity of the whole model, name, row) for each way to prune a model."""
    model = b2t.load(source)
    reference, seen = Reference(model, texts.heldout(model, n_heldout), WINDOW), None
    for name in ways:
        by, share, repair = WAYS[name]
        seen = seen or b2t.importance(model, texts.calibration(model, n_calibration))
        with tempfile.TemporaryDirectory() as folder:
            pruning = b2t.prune(source, Path(folder) / "pruned.gguf", by, share, seen, repair)
            quality = reference.measure(b2t.load(pruning.path))
        row = {"by": by, "share": share, "repair": repair, "bytes": pruning.bytes_after}
        yield quality.reference_perplexity.value, name, row | asdict(lost(quality))


def main() -> None:
    """Add the rows that are missing."""
    found = {"calibration": CALIBRATION, "heldout": HELDOUT, "whole": None, "rows": {}}
    if RECORDED.exists():
        found = recorded()
    missing = [name for name in WAYS if name not in found["rows"]]
    for whole, name, row in rows(models.smollm2(), missing, CALIBRATION, HELDOUT):
        found["whole"], found["rows"][name] = whole, row
        files.write_text(RECORDED, json.dumps(found, indent=1) + "\n")
        print(f"{name}: perplexity {row['perplexity']:.1f}, whole {whole:.1f}", flush=True)


if __name__ == "__main__":
    main()
