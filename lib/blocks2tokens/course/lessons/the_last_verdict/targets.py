"""Arithmetic of the last verdict: factors that act together, and what a target takes.

shares [0.9, 0.1], factors [10, 1]        Amdahl's law for several parts at once
alone 2 and 3, together 4                 what two changes are worth beside each other
c(k), how often a guess is right          streams and guesses that fill a pass best
20 tokens a second of a 14B               how few bits a weight may have
0.98 ± 0.03 against a limit of 1          holds, does not hold, or nobody knows
"""

from collections.abc import Sequence
from math import prod

from blocks2tokens.speculate import expected_tokens

HOLDS, FAILS, OPEN = "holds", "does not hold", "open"


def together(shares: Sequence[float], factors: Sequence[float]) -> float:
    """Return how many times as fast the whole is when each part of its time gets faster by its factor.

    >>> together([0.5, 0.5], [2, 1])
    1.3333333333333333
    """
    after = sum(share / factor for share, factor in zip(shares, factors, strict=True))
    return sum(shares) / after


def interplay(alone: Sequence[float], both: float) -> float:
    """Return what changes are worth together, over the product of what each is worth alone.

    1: they do not know of each other. Below: they save the same thing. Above: one makes room for the other.

    >>> interplay([2.0, 3.0], 3.0)
    0.5
    """
    return both / prod(alone)


def bits_allowed(target: float, weights: float, bandwidth: float, tokens: float, cost: float) -> float:
    """Return the bits that a weight may have, so that `target` tokens a second come.

    bandwidth   bytes a second that the engine reads
    tokens      that a pass gives in the mean, its streams and right guesses together
    cost        of that pass, in passes of one row

    >>> bits_allowed(20, 14e9, 35e9, 1, 1)
    1.0
    """
    passes = target / tokens * cost  # of one row, a second
    return 8 * bandwidth / (passes * weights)


def best_use(costs: Sequence[float], right: float, most_streams: int) -> tuple[int, int]:
    """Return the (streams, guesses) with the most tokens in the time of a pass.

    costs   c(1), c(2), ... of a pass; no more rows than that
    right   how often a guess is right

    Each stream has its token and its guesses as rows. Of equals the one with fewer rows, then with fewer
    streams.

    >>> best_use([1.0, 1.0, 1.0, 4.0], 0.5, 1)
    (1, 2)
    """
    found = {}
    for streams in range(1, most_streams + 1):
        for guesses in range(len(costs) // streams):
            rows = streams * (guesses + 1)
            rate = streams * expected_tokens(right, guesses) / costs[rows - 1]
            found[streams, guesses] = rate, -rows, -streams
    return max(found, key=found.get)


def judged(value: float, error: float, limit: float) -> str:
    """Return whether a figure, ± its standard error, is at least the limit: two errors decide.

    >>> judged(1.2, 0.05, 1.0), judged(1.05, 0.05, 1.0)
    ('holds', 'open')
    """
    if value - 2 * error >= limit:
        return HOLDS
    return FAILS if value + 2 * error < limit else OPEN
