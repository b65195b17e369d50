"""Figures that several lessons show: what one lesson's saved outputs say, another's do not contradict.

Each is a property of the machine on which the lessons were executed, measured by the same helper. They are
executed one after the other, and a machine's clock moves meanwhile: hence NOISE.
"""

import re

import pytest

from blocks2tokens.course.setup import notebooks

NOISE = 1.6  # the largest may be so many times the smallest

READ_BY_ONE, READ_BY_ALL = r"1 core: {} GB/s, read from memory", r"cores: {} GB/s, read from memory"
FIGURES = {  # what: {lesson: how its outputs say it}
    "memory read by one core, GB/s": {"00": r"reading, 1 core \(GB/s\)\s+it is {}", "17": READ_BY_ONE},
    "memory read by all cores, GB/s": {"14": READ_BY_ALL, "16": READ_BY_ALL},
    "float32 products of one core, GFLOP/s": {
        "00": r"multiplying, 1 core \(GFLOP/s\)\s+it is {}",
        "08": r"BLAS on one core\s+it is {}",
        "17": r"1 core: .* read from memory; {} GFLOP/s",
    },
    "float32 products of all cores, GFLOP/s": {
        "14": r"cores: .* read from memory; {} GFLOP/s",
        "16": r"cores: .* read from memory; {} GFLOP/s",
    },
    "tokens a second that memory allows a 14B model": {
        "13": r"reading allows {} tokens a second at most",
        "14": r"14B\s+{} tokens/s, a prompt of",
    },
    "Phase 0 at 128 rows, µs": {
        "08": r"phase0_baseline\s+{} µs",
        **dict.fromkeys(("09", "10", "11", "12"), r"Phase 0\s+{} µs"),
        "13": r"phase0_baseline\s+{} µs",
    },
    "Austen's tokens a second": {
        "00": r"Austen: from \S+ to {} tokens a second",
        "22": r"SlowEngine \S+ tokens/s, ours {} tokens/s",
    },
    "SmolLM2's tokens a second": {
        "00": r"SmolLM2: from \S+ to {} tokens a second",
        "22": r"(?m)^ours\s+{} tokens/s",
    },
}


def outputs(nr: str) -> str:
    """Return all that the saved outputs of a lesson say: printed, shown, and the titles of its figures."""
    (path,) = (path for path in notebooks.find(notebooks.NOTEBOOKS) if path.name.startswith(f"{nr}_"))
    said = []
    for cell in notebooks.read(path).cells:
        for output in cell.get("outputs", []):
            said.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
            said.append(output.get("metadata", {}).get("image/png", {}).get("alt", ""))
    return "\n".join(said)


def figure(nr: str, pattern: str) -> float:
    found = re.search(pattern.replace("{}", r"([\d,]*\.?\d+)"), outputs(nr))
    assert found, f"lesson {nr} no longer says {pattern!r}: say it here as it does"
    return float(found[1].replace(",", ""))


def agree(values) -> bool:
    return max(values) <= NOISE * min(values)


@pytest.mark.parametrize("what", FIGURES)
def test_lessons_do_not_contradict_each_other(what):
    shown = {nr: figure(nr, pattern) for nr, pattern in FIGURES[what].items()}
    assert len(shown) > 1 and agree(shown.values()), f"{what}: {shown}"


def test_a_contradiction_would_be_seen():
    assert agree([84.0, 101.0]) and not agree([84.0, 101.0, 190.0])
