"""The whole way on one model, step by step: tokens a second from the report's engine to ours.

the report's engine       every matrix decoded, transposed, multiplied; a token
its six suspects mended   attention, RoPE, allocations, norms, SwiGLU, cache: the products stay
blocks, multiplied        the weights stay in their blocks, on one core
all cores                 rows of each matrix are shared
guesses                   prompt lookup on a text that repeats itself
4 texts in a pass         all of them together
"""

from collections.abc import Callable, Hashable
from functools import partial

import numpy as np

import blocks2tokens as b2t
from blocks2tokens.course import bench, budget
from blocks2tokens.course.lessons.where_the_time_goes import slow_engine
from blocks2tokens.course.lessons.where_the_time_goes.slow_engine import SUSPECTS
from blocks2tokens.generate import Model

TOKENS, STREAMS = 48, 4
QUOTED = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in "
    "want of a wife."
)


def repeating(model: Model) -> list[int]:
    """Return ids that ask for a text that stands in them."""
    said = [{"role": "user", "content": f"Repeat this sentence, word for word: {QUOTED}"}]
    return model.tokenizer.encode_chat(said)


def ours(path, threads: int | None = None, speculate=None) -> Callable[..., int]:
    """Return a function that reads the prompt, writes up to `tokens`, and gives how many there were."""
    model = b2t.load(path, threads=threads)
    ids = repeating(model)

    def run(tokens=TOKENS):
        return sum(1 for _ in model.generate(ids, tokens, speculate=speculate))

    return run


def one_pass(path) -> Callable[[], int]:
    """Return a function that takes STREAMS texts a token further, and gives STREAMS."""
    model = b2t.load(path)
    ids = repeating(model)
    cache = model.transformer.new_cache(len(ids) + STREAMS)
    model.transformer.next_logits(ids, cache)

    def run():
        cache.truncate(len(ids))
        model.transformer.steps([ids[0]] * STREAMS, cache)
        return STREAMS

    return run


def rates(path, repeats: int, seconds: float) -> dict[str, float]:
    """Return {step: tokens a second} of a chat model, in one run.

    Decoding alone: a run that ends with its first token is taken off, and with it the reading of the prompt.
    """
    model = b2t.load(path)
    ids = repeating(model)[:16]
    engines = {
        "the report's engine": slow_engine.SlowEngine(model),
        "its six suspects mended": slow_engine.SlowEngine(model, frozenset(SUSPECTS)),
    }
    texts = {
        "blocks, multiplied, on one core": ours(path, 1),
        "on all cores": ours(path),
        "with guesses, on a text that repeats": ours(path, speculate=b2t.PromptLookup()),
    }
    together = f"{STREAMS} texts in a pass, together"
    runs: dict[Hashable, Callable] = {name: slow_engine.one_token(e, ids) for name, e in engines.items()}
    runs |= texts | {(name, "first token"): partial(run, 1) for name, run in texts.items()}
    runs[together] = one_pass(path)
    took = {name: timing.median for name, timing in bench.interleaved(runs, repeats, seconds).items()}
    found = {name: 1 / took[name] for name in engines}
    for name, run in texts.items():
        found[name] = (run() - 1) / (took[name] - took[name, "first token"])
    return found | {together: STREAMS / took[together]}


def mended_factors(model: Model, repeats: int, seconds: float) -> np.ndarray:
    """Return how many times as fast the report's engine is with its suspects mended, float64 [pairs].

    Each is a pair of tokens, one right after the other, so that what slows both drops out.
    """
    ids = model.tokenizer.encode("It is a truth universally acknowledged")
    slow, mended = (
        slow_engine.one_token(slow_engine.SlowEngine(model, fixes), ids)
        for fixes in (frozenset(), frozenset(SUSPECTS))
    )
    found = []
    for n in budget.rounds(repeats, seconds):
        times = []
        for run in (slow, mended):
            start = budget.clock()
            run()
            times.append(budget.clock() - start)
        if n:
            found.append(times[0] / times[1])
    return np.array(found)
