"""Arena: buffers of one pass in one block of memory, where those that are in use together lie apart.

    steps        a list of tuples: the names of the buffers that each step uses

    step         0   1   2   3   4   5               bytes
    x            ■   ■   ■   ■   ■   ■      ┌─────────────────────┐
    h            ■   ■                      │ x                   │   a buffer keeps its place from its first
    q                ■   ■                  ├──────────┬──────────┤   step to its last; then the place is free
    gate                     ■   ■          │ h        │ gate     │
    out                          ■   ■      ├──────┬───┴──────────┤
                                            │ q    │ out          │
                                            └──────┴──────────────┘
                                              steps ->

No packing is smaller than what is in use at one time: `peak_bytes`. The best one is hard to find (it is the
NP-hard "dynamic storage allocation"). First fit comes close: with the longest life first, as here, this
engine's plans are as small as can be; with the largest first, up to a seventh larger.
Source: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, where the
largest comes first.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from blocks2tokens.kernels.scratch import aligned

PAGE = 4096  # bytes that the arena begins on a multiple of: so large ones begin on a page

Life = tuple[int, int]  # first and last step


def lifetimes(steps: Sequence[Iterable[str]]) -> dict[str, Life]:
    """Return {buffer: (first, last)}: the steps from its first use to its last, both included."""
    lives = {}
    for step, names in enumerate(steps):
        for name in names:
            first, _ = lives.get(name, (step, step))
            lives[name] = first, step
    return lives


def peak_bytes(lives: Mapping[str, Life], sizes: Mapping[str, int]) -> int:
    """Return the most bytes that are in use in one step: no arena is smaller."""
    return max((in_use(lives, sizes, first) for first, _ in lives.values()), default=0)


def in_use(lives: Mapping[str, Life], sizes: Mapping[str, int], step: int) -> int:
    """Return the bytes of the buffers that live in a step."""
    return sum(sizes[name] for name, (first, last) in lives.items() if first <= step <= last)


def first_fit(lives: Mapping[str, Life], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return {buffer: offset}: each at the lowest place that is free all its life, the longest life first.

    Of lives of one length the larger buffer comes first, then the one that comes first in lives. Sizes in
    bytes, multiples of the alignment.
    """
    return fit(longest_first(lives, sizes), lives, sizes)


def longest_first(lives: Mapping[str, Life], sizes: Mapping[str, int]) -> list[str]:
    """Return the buffers by the steps that they live, the longest first, and then by size."""
    return sorted(lives, key=lambda name: (lives[name][0] - lives[name][1], -sizes[name]))


def fit(order: Iterable[str], lives: Mapping[str, Life], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return {buffer: offset}: one buffer after the other in the lowest gap that is free all its life."""
    offsets: dict[str, int] = {}
    for name in order:
        first, last = lives[name]
        met = [other for other in offsets if lives[other][0] <= last and first <= lives[other][1]]
        offset = 0
        for other in sorted(met, key=offsets.get):
            if offset + sizes[name] <= offsets[other]:
                break
            offset = max(offset, offsets[other] + sizes[other])
        offsets[name] = offset
    return offsets


def end_of(offsets: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    """Return the bytes of an arena in which buffers of these sizes lie at these offsets."""
    return max((offset + sizes[name] for name, offset in offsets.items()), default=0)


def new_block(n_bytes: int) -> np.ndarray:
    """Return memory, uint8 [n_bytes], that begins with a page; none of it is touched.

    From 4 MB on NumPy asks Linux for large pages, of 2 MB, where the system leaves that to programs.
    """
    block = np.empty(n_bytes + PAGE, np.uint8)
    start = aligned(block.ctypes.data, PAGE) - block.ctypes.data
    return block[start : start + n_bytes]
