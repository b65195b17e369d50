"""How much faster a smaller model writes, and what a token's time is made of.

    bytes of a token    matrices of all layers, and the output's: each is read once
    seconds of a token  constant + n_layers * seconds of a layer    a line through models of fewer layers
                        constant: embedding, logits, choosing; whatever does not go with the layers

Each round runs all models, beginning with another one. A ratio is that of two models in one round; a figure
is the median over the rounds, between the two rounds that hold the true median in 95 of 100 cases.
"""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import numpy as np

from blocks2tokens.course import bench, budget
from blocks2tokens.generate import Model

Interval = tuple[float, float, float]  # low, middle, high


def bytes_read(model: Model) -> dict[str, int]:
    """Return the bytes of the matrices that a token is multiplied by: those of its "layers", and "output"."""
    tensors = model.file.tensors
    found = [t.nbytes for name, t in tensors.items() if name.startswith("blk.") and len(t.shape) > 1]
    return {"layers": sum(found), "output": model.transformer.output.nbytes}


def writer(model: Model, ids: Sequence[int]) -> Callable[[], None]:
    """Return a function that takes ids one by one, each time choosing a next token: as many for any model."""
    cache = model.transformer.new_cache(len(ids))

    def write():
        cache.truncate(0)
        for token in ids:
            model.transformer.step(int(token), cache).argmax()

    return write


def in_rounds(
    runs: Mapping[str, Callable],
    rounds: int,
    clock: Callable[[], float] = budget.clock,
    seconds: float = bench.BUDGET,
) -> dict[str, np.ndarray]:
    """Return {name: times by a clock, float64 [rounds]}; fewer rounds where they would last too long.

    Each round begins with another run. What compiles runs in a first round, which does not count.
    """
    names, found = list(runs), {name: [] for name in runs}
    for n in budget.rounds(rounds, seconds):
        first = n % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            runs[name]()
            found[name].append(clock() - start)
    return {name: np.array(times[1:]) for name, times in found.items()}


def median(x: np.ndarray) -> Interval:
    """Return the median of x, [n], between the order statistics of its 95 % interval (by the sign test)."""
    n, x = len(x), np.sort(x)
    aside = max(0, int(n / 2 - 1.96 * sqrt(n) / 2))
    return float(x[aside]), float(np.median(x)), float(x[n - 1 - aside])


def constant(times: Mapping[int, np.ndarray]) -> Interval:
    """Return the share of the largest model's time that stays without any layer.

    times: {n_layers: seconds, [rounds]}; each round has a line of its own through its models.
    """
    layer, stays = np.polyfit(list(times), np.array(list(times.values())), 1)
    return median(stays / (stays + max(times) * layer))
