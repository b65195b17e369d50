"""Cost: what a token costs on N machines, counted from hops, all-reduces and bytes; and what failures cost.

    hop          latency + bytes / rate                                    one message, one way
    all-reduce   log2 N rounds, in each of which every rank sends all      see `Ranks.add_up`
    pipeline     all stages + (N - 1) hops of 4 dim bytes + one of 8       a token of one text
                 the slowest stage                                         a token of many, once it is full
    tensor       seconds alone / N + 2 all-reduces a layer of 4 dim bytes + one of 4 vocab bytes

    failures     a machine fails every `mtbf` seconds on average: one of N every mtbf / N

Sources: for many all-reduces Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication
Operations in MPICH", 2005; for failures Young, 1974, and Daly, "A higher order estimate of the optimum
checkpoint interval", 2006.
"""

from collections.abc import Sequence
from math import exp, sqrt
from typing import NamedTuple

FLOAT, ID = 4, 8  # bytes


class Link(NamedTuple):
    """A network: `latency`, seconds from sending to arriving; `rate`, bytes a second."""

    latency: float
    rate: float

    def hop(self, n_bytes: float) -> float:
        """Return the seconds of a message of n bytes, one way."""
        return self.latency + n_bytes / self.rate


def rounds(n: int) -> int:
    """Return how many messages one behind the other an all-reduce over n ranks takes.

    >>> [rounds(n) for n in (1, 2, 3, 4, 8)]
    [0, 1, 3, 2, 3]
    """
    power = n.bit_length() - 1
    return power + 2 * (n > 1 << power)  # those above a power of two first send to one below, and get back


def all_reduce(link: Link, n: int, n_bytes: float) -> float:
    """Return the seconds of a sum of n_bytes over n ranks, which all have it in the end."""
    return rounds(n) * link.hop(n_bytes)


def pipeline_token(stages: Sequence[float], link: Link, dim: int) -> float:
    """Return the seconds of a token of one text; `stages` are the seconds that each stage computes."""
    back = link.hop(ID) if len(stages) > 1 else 0.0
    return sum(stages) + (len(stages) - 1) * link.hop(FLOAT * dim) + back


def pipeline_rate(stages: Sequence[float], link: Link, dim: int, n_texts: int) -> float:
    """Return the tokens a second of n texts that take turns.

    Once around takes at least as long as one token, and as long as the slowest stage has with all texts.
    """
    around = max(pipeline_token(stages, link, dim), n_texts * max(stages))
    return n_texts / around


class Shape(NamedTuple):
    """What a token's messages depend on."""

    n_layers: int
    dim: int
    vocab: int


def tensor_token(alone: float, n: int, link: Link, shape: Shape) -> float:
    """Return the seconds of a token whose every product n ranks share; `alone`, those of one rank."""
    sums = 2 * shape.n_layers * all_reduce(link, n, FLOAT * shape.dim)
    return alone / n + sums + all_reduce(link, n, FLOAT * shape.vocab)


def best_interval(saving: float, mtbf: float) -> float:
    """Return after how many seconds of work to save, if that takes `saving` seconds: Young's rule."""
    return sqrt(2 * saving * mtbf)


def expected_seconds(work: float, interval: float, saving: float, restart: float, mtbf: float) -> float:
    """Return the expected seconds of a job that saves after each `interval` of work, with failures.

    Each costs what was done since the last saving, and `restart`; failures come at random, every `mtbf`
    seconds on average. Source: Daly's equation for exponential failures.
    """
    piece = mtbf * exp(restart / mtbf) * (exp((interval + saving) / mtbf) - 1)
    return work / interval * piece
