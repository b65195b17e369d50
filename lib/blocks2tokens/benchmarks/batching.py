"""The table for many texts at once: `make bench` or `python -m blocks2tokens.benchmarks.batching [names]`.

    ours        a Batcher with as many slots as texts: a thread of its own, pages, samplers, iterators
    llama.cpp   one llama_decode for the next token of all texts, and argmax: what its batched-bench times

Both begin each text with a token of its own and write greedily. Ours are counted by the samplers' calls,
from the moment in which all texts have begun.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter

import numba

import blocks2tokens as b2t
from blocks2tokens.benchmarks import models
from blocks2tokens.benchmarks.llama_cpp_model import LlamaCppModel
from blocks2tokens.benchmarks.models import OURS, PEER

TEXTS, TOKENS = (1, 4, 8, 16), 24
REPEATS = 5
FIRST = 100  # the first text's first token; the second's is one more


def print_batching(names: Sequence[str] = ("SmolLM2", "1B")) -> None:
    """Print tokens a second of all texts together, ours and llama.cpp's, in turn, on the same file."""
    print(f"\nMany texts at once, {TOKENS} tokens each. Tokens a second in all, times those of one text:")
    print(f"ours, llama.cpp's, times as fast. Medians of {REPEATS} runs in turn")
    for name, path in models.found(names).items():
        rates = measure(path)
        alone = {engine: rates[engine, 1] for engine, n in rates if n == 1}
        for n in TEXTS:
            found = {engine: rates[engine, n] for engine in alone}
            row = "".join(f"{rate:10.1f} {rate / alone[engine]:6.2f}x" for engine, rate in found.items())
            ratio = f"{found[OURS] / found[PEER]:8.2f}x" if PEER in found else ""
            print(f"  {name:8} {n:3} texts {row}{ratio}", flush=True)


def measure(path: Path) -> dict[tuple[str, int], float]:
    """Return {(engine, texts): tokens a second}."""
    model, runs = b2t.load(path), []
    theirs = None
    if find_spec("llama_cpp"):
        theirs = LlamaCppModel(path, numba.get_num_threads(), TOKENS + 1, n_texts=max(TEXTS))
    our_rate(model, max(TEXTS))  # compiles, reads the file
    try:
        for _ in range(REPEATS):
            run = {}
            for n in TEXTS:
                run[OURS, n] = our_rate(model, n)
                if theirs:
                    run[PEER, n] = their_rate(theirs, n)
            runs.append(run)
    finally:
        if theirs:
            theirs.close()
    return {key: median(run[key] for run in runs) for key in runs[0]}


def our_rate(model: b2t.Model, n: int) -> float:
    """Return the tokens a second of n texts in a Batcher, from when all have begun until the first ends."""
    times = [[] for _ in range(n)]

    def noting(i):
        def choose(logits, history):
            times[i].append(perf_counter())
            return int(logits.argmax())

        return choose

    with b2t.Batcher(model, slots=n) as batcher:
        answers = [batcher.submit([FIRST + i], TOKENS + n, noting(i)) for i in range(n)]
        for answer in answers:
            list(answer)
    begin, end = max(each[0] for each in times), min(each[-1] for each in times)
    return sum(begin < time <= end for each in times for time in each) / (end - begin)


def their_rate(theirs: LlamaCppModel, n: int) -> float:
    """Return the tokens a second of n texts in llama.cpp."""
    start = perf_counter()
    written = theirs.decode_together([FIRST + i for i in range(n)], TOKENS)
    return sum(map(len, written)) / (perf_counter() - start)


if __name__ == "__main__":
    print_batching(sys.argv[1:] or ("SmolLM2", "1B"))
