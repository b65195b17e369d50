"""many: a command that runs on several ranks at once, with one voice.

    mpiexec -n 2 b2t generate MODEL PROMPT --parallel pipeline

All ranks do the same; rank 0 speaks. Where one fails, all end, and one line says why.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import blocks2tokens as b2t
from blocks2tokens.command_line.notice import printable, reason, say
from blocks2tokens.jit import cores
from blocks2tokens.parallel.cost import Link
from blocks2tokens.parallel.pipeline import Pipeline
from blocks2tokens.parallel.ranks import Ranks
from blocks2tokens.parallel.saved import Saved
from blocks2tokens.parallel.tensor import TensorParallel

WAYS = {"pipeline": Pipeline, "tensor": TensorParallel}


@contextmanager
def together(link: Link | None) -> Iterator[Ranks]:
    """Yield the ranks; an error within ends them all with code 1, and one line that says why."""
    ranks = Ranks(link)
    if ranks.rank:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  until the process ends
    elif ranks.size == 1:
        say("note: one rank alone; several are started with mpiexec -n 2 b2t ...")
    try:
        yield ranks
        ranks.close()
    except Exception as error:
        if ranks.size == 1:
            raise
        known = isinstance(error, ValueError | OSError | MemoryError)
        text = printable(reason(error)) if known else f"{type(error).__name__}: {error}"
        if not ranks.all_fail():
            ranks.end(f"rank {ranks.rank}: {text}", 1)
        if ranks.rank == 0:
            say(f"error: {text}")
        sys.exit(1)


def threads(asked_for: int | None, ranks: Ranks) -> int:
    """Return the threads of this rank: as asked for, or its share of the machine's."""
    return asked_for or max(1, cores.default() // ranks.here)


def spread(model: b2t.Model, ranks: Ranks, way: str, tokens_file: str | None):
    """Return the model spread over the ranks, which keeps its tokens in a file if there is one."""
    parallel = WAYS[way](model, ranks)
    if tokens_file is None:
        return parallel
    saved = Saved(parallel, tokens_file, ranks, parallel.identity)
    ranks.last_words = lambda: f"; {saved.n_saved} tokens are saved: the same command goes on from them"
    return saved
