"""Scratch: what a product needs beside x, w and its result; said before it runs, so that it can be planned.

needs(M, w)     {"codes": ((tiles, blocks, T, block), int8), "d": (...), ...}      name: shape, dtype

block, uint8    | codes              |.| d     | sums  |..| parts          |
                0                      64 n            64 m

carve(block, needs)      arrays in the block, one behind the other, each on a cache line of its own
allocate(needs)          the same arrays, each in memory of its own
"""

from collections.abc import Callable, Iterable, Mapping
from math import prod

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and a vector

Needs = Mapping[str, tuple[tuple[int, ...], type]]
Room = dict[str, np.ndarray]


def aligned(n_bytes: int, alignment: int = ALIGNMENT) -> int:
    """Return the smallest multiple of the alignment that is not below `n_bytes`."""
    return -(-n_bytes // alignment) * alignment


def bump(sizes: Iterable[int], alignment: int = ALIGNMENT) -> tuple[list[int], int]:
    """Place things of these sizes, in bytes, one behind the other; return their offsets and the end."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(aligned(end, alignment))
        end = offsets[-1] + size
    return offsets, end


def n_bytes(needs: Needs) -> int:
    """Return the bytes of a block that `carve` can cut these arrays from."""
    return bump(_sizes(needs))[1]


def _sizes(needs):
    return [prod(shape) * np.dtype(dtype).itemsize for shape, dtype in needs.values()]


def carve(block: np.ndarray, needs: Needs) -> Room:
    """Return {name: array}, views into block, uint8 [n]; ValueError if it is too small for them."""
    offsets, end = bump(_sizes(needs))
    if end > block.size:
        raise ValueError(f"scratch: expected {end} bytes, got {block.size}")
    return {
        name: np.ndarray(shape, dtype, block, offset)
        for (name, (shape, dtype)), offset in zip(needs.items(), offsets, strict=True)
    }


def allocate(needs: Needs) -> Room:
    """Return {name: array}, each of its own."""
    return {name: np.empty(shape, dtype) for name, (shape, dtype) in needs.items()}


def with_own_memory(needs: Callable, run_into: Callable) -> Callable:
    """Return run(x, w) -> float32 [M, N] of a kernel that fills what it is given: out and room."""

    def run(x, w):
        out = np.empty((x.shape[0], w.shape[0]), np.float32)
        run_into(x, w, out, allocate(needs(x.shape[0], w)))
        return out

    return run
