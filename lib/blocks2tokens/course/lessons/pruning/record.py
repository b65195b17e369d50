"""What takes too long for a lesson: SmolLM2 pruned in several ways, what the held-out chapters and time say.

    python -m blocks2tokens.course.lessons.pruning.record         writes smollm2.json beside this file

    {"calibration": tokens, "heldout": tokens, "whole": perplexity,
     "rows": {name: {"by", "share", "repair", "bytes", "perplexity", "nats", "nats_error", "kl", "kl_error"}},
     "speeds": {"tokens", "rounds", "rows": {name: {"bytes", "speed"}}, "constant", "output"}}

bytes and speed are times the whole model's: fewer, more; constant is the share of a token's time that stays
without any layer, output that of its bytes. Times are of the CPU, on one thread, and intervals three numbers.

Some minutes for each row on two cores. A row is written as soon as it is there; those that are there already
are not made again.
"""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from math import inf
from pathlib import Path
from time import process_time

import blocks2tokens as b2t
from blocks2tokens import files
from blocks2tokens.course import models
from blocks2tokens.course.lessons.pruning import speeds, texts
from blocks2tokens.course.lessons.pruning.losses import WINDOW, excess_ratio, lost
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
TIMED = {
    f"{share:.0%} of the {by}": (by, share) for by in ("layers", "neurons") for share in (0.1, 0.25, 0.5)
}
TOKENS, ROUNDS = 12, 40  # of a turn; turns of each model


def recorded() -> dict:
    """Return what was recorded."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def excess(one: str, other: str) -> speeds.Interval:
    """Return what one row adds to the perplexity over what another does, see `losses.excess_ratio`."""
    found = recorded()["rows"]
    return excess_ratio(*((found[name]["nats"], found[name]["nats_error"]) for name in (one, other)))


def speed_table() -> str:
    """Return the recorded speeds in lines: times the whole model's, with their intervals."""
    found, lines = recorded()["speeds"], []
    for name, row in found["rows"].items():
        low, middle, high = row["speed"]
        speed = f"speed × {middle:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"{name:18} bytes / {row['bytes']:.2f}, {speed}")
    low, middle, high = found["constant"]
    lines.append(f"without any layer {middle:.0%} ({low:.0%} to {high:.0%}) of the time stay,")
    lines.append(
        f"{found['output']:.0%} of the bytes, the output's; so half of the layers: × {2 / (1 + middle):.2f}"
    )
    return "\n".join(lines)


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


def timed(source: Path, n_tokens: int, rounds: int) -> dict:
    """Return how much faster SmolLM2 is with some of it left out, and what of a token's time stays."""
    model = b2t.load(source, threads=1)
    ids = texts.calibration(model, 512)
    with tempfile.TemporaryDirectory() as folder:
        by_name = {"whole": model}
        for name, (by, share) in TIMED.items():
            path = b2t.prune(source, Path(folder) / f"{by}{share}.gguf", by, share, ids).path
            by_name[name] = b2t.load(path, threads=1)
        runs = {name: speeds.writer(m, ids[:n_tokens]) for name, m in by_name.items()}
        times = speeds.in_rounds(runs, rounds, process_time, inf)
        read = {name: speeds.bytes_read(m) for name, m in by_name.items()}
    whole = sum(read["whole"].values())
    fewer = {name: whole / sum(read[name].values()) for name in TIMED}
    by_layers = {m.config.n_layers: times[name] for name, m in by_name.items() if "neurons" not in name}
    return {
        "tokens": n_tokens,
        "rounds": rounds,
        "rows": {
            name: {"bytes": fewer[name], "speed": speeds.median(times["whole"] / times[name])}
            for name in TIMED
        },
        "constant": speeds.constant(by_layers),
        "output": read["whole"]["output"] / whole,
    }


def main() -> None:
    """Add what is missing."""
    found = {"calibration": CALIBRATION, "heldout": HELDOUT, "whole": None, "rows": {}}
    if RECORDED.exists():
        found = recorded()
    missing = [name for name in WAYS if name not in found["rows"]]
    made = rows(models.smollm2(), missing, CALIBRATION, HELDOUT) if missing else ()
    for whole, name, row in made:
        found["whole"], found["rows"][name] = whole, row
        files.write_text(RECORDED, json.dumps(found, indent=1) + "\n")
        print(f"{name}: perplexity {row['perplexity']:.1f}, whole {whole:.1f}", flush=True)
    if "speeds" not in found:
        found["speeds"] = timed(models.smollm2(), TOKENS, ROUNDS)
        files.write_text(RECORDED, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
