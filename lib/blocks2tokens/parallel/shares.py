"""Shares: how many layers, heads and neurons each machine gets.

    layers, by speed and memory       30 layers, machines of 20, 10 and 10 GB/s  ->  15, 8, 7
    units of columns, at block borders   48 heads of 64 columns, blocks of 256     ->  multiples of 4 heads

A pipeline that is full goes as fast as its slowest stage. So each layer goes to the machine that would be
through with it first: for layers of one size no other shares have a faster slowest stage (jobs of one size on
machines of different speeds; Graham's list rule is exact there).
"""

from collections.abc import Sequence
from itertools import pairwise
from math import gcd
from typing import NamedTuple


class Machine(NamedTuple):
    """What a machine has: bytes a second that it reads, and bytes of memory for weights."""

    bandwidth: float
    memory: float = float("inf")


def layer_shares(
    n_layers: int, layer_bytes: float, machines: Sequence[Machine], last_bytes: float = 0
) -> list[int]:
    """Return how many layers each machine gets, at least one.

    `last_bytes` are those of the matrix that makes the logits: the last machine reads it, too. Raises
    ValueError for more machines than layers, and where the memory of all, or of one, does not hold its share.
    """
    n = len(machines)
    if not 0 < n <= n_layers:
        raise ValueError(f"expected 1 to {n_layers} ranks, one for each layer at the most, got {n}")
    loads = [0.0] * (n - 1) + [last_bytes]
    counts = [0] * n

    def through(i):
        """When would machine i be through with one layer more? Those without one come first."""
        fits = loads[i] + layer_bytes <= machines[i].memory
        return not fits, counts[i] > 0, (loads[i] + layer_bytes) / machines[i].bandwidth

    for layer in range(n_layers):
        i = min(range(n), key=through)
        if loads[i] + layer_bytes > machines[i].memory:
            raise ValueError(
                f"the memory of {n} machines holds {layer} of {n_layers} layers of {layer_bytes:,.0f} bytes"
            )
        loads[i] += layer_bytes
        counts[i] += 1
    if not min(counts):
        raise ValueError(f"the memory of rank {counts.index(0)} holds no layer of {layer_bytes:,.0f} bytes")
    return counts


def ranges(counts: Sequence[int]) -> list[range]:
    """Return which ones each gets, one behind the other.

    >>> ranges([2, 1])
    [range(0, 2), range(2, 3)]
    """
    found, start = [], 0
    for count in counts:
        found.append(range(start, start + count))
        start += count
    return found


def cut_columns(n_units: int, unit: int, block: int, n: int) -> list[range]:
    """Return which units of columns each of n machines gets: nearly alike, and each cut between two blocks.

    A unit is what must not be parted, such as the heads that share a key: `unit` columns; a block is `block`
    weights. Raises ValueError where there are fewer places to cut than are needed.
    """
    step = block // gcd(unit, block)  # so many units end with a block
    pieces = -(-n_units // step)
    if n > pieces:
        raise ValueError(
            f"{n_units} units of {unit} columns in blocks of {block} can be cut into {pieces} parts at most, "
            f"got {n} ranks"
        )
    borders = [min(n_units, i * pieces // n * step) for i in range(n + 1)]
    return [range(a, b) for a, b in pairwise(borders)]
