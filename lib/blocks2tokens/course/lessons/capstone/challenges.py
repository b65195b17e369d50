"""Six open challenges: what to build, the command or check that judges it, and what the course reached.

    challenges.table()     all six, as a table in a notebook and as text elsewhere

Whatever is judged here is there: tests hold that each command can be given.
"""

import html
from dataclasses import dataclass

from blocks2tokens.jit import cpu
from blocks2tokens.model.config import ARCHITECTURES


@dataclass(frozen=True)
class Challenge:
    """One of the six; `judged` is a command at the shell, or a call in Python."""

    name: str
    build: str
    judged: str
    reached: str


CHALLENGES = (
    Challenge(
        "A new format",
        "256 weights in at most 144 bytes, nearer to the model than Q4_K",
        "leaderboard.enter('mine', encode, decode)",
        "Q4_K, and the better codes that effort='best' finds for its bytes (lesson 06)",
    ),
    Challenge(
        "A new family",
        "a model that `b2t info` says it cannot run",
        "python -m pytest tests/engine/test_architectures.py",
        f"{len(ARCHITECTURES)} families: {', '.join(ARCHITECTURES)}",
    ),
    Challenge(
        "A faster prefill",
        "your engine's batch product: codes unpacked once, sums in registers, integers",
        "python -m blocks2tokens.course.capstone my_engine.py --only speed",
        "tiles of rows, panels of integers (lesson 17); the finished file's ratio stands above",
    ),
    Challenge(
        "A smaller cache",
        "keys and values in fewer bits than q4_0, or fewer of them",
        "b2t.quality(b2t.load(path, cache='q4_0'), b2t.load(path), ids)",
        "a seventh of float32, heads turned by a Hadamard transform (lesson 25)",
    ),
    Challenge(
        "Fewer bytes at equal KL",
        "a file with Q4_K_M's divergence from F16, and fewer bits",
        "b2t quality data/models/mine.gguf data/austen.gguf LICENSE",
        "b2t.convert(src, dst, bits=4.5): a mix searched under a budget (lesson 26)",
    ),
    Challenge(
        "A new machine",
        "your engine's products with the vector instructions of another CPU",
        "python -m blocks2tokens.course.capstone my_engine.py",
        f"{', '.join(cpu.NEEDS)}; ARM under emulation (make test-arm)",
    ),
)
HEAD = ("challenge", "build", "judged by", "the course reached")


@dataclass(frozen=True)
class Table:
    """The challenges, one below the other."""

    def __repr__(self):
        return "\n".join(
            f"{n}. {c.name}: {c.build}\n   judged by {c.judged}\n   the course reached {c.reached}"
            for n, c in enumerate(CHALLENGES, start=1)
        )

    def _repr_html_(self):
        def row(cells, tag):
            style = "text-align:left;vertical-align:top;padding:0.3em 0.6em"
            return "<tr>" + "".join(f'<{tag} style="{style}">{cell}</{tag}>' for cell in cells) + "</tr>"

        rows = [
            row(
                (
                    f"<b>{c.name}</b>",
                    html.escape(c.build),
                    f"<code>{html.escape(c.judged)}</code>",
                    html.escape(c.reached),
                ),
                "td",
            )
            for c in CHALLENGES
        ]
        return f"<table>{row(HEAD, 'th')}{''.join(rows)}</table>"


def table() -> Table:
    """Return all six."""
    return Table()
