"""Kernel: one way to multiply by a quantized matrix, with its story and its exact cost.

layout "gguf"     kernel(x, w):  x float32 [M, K], w [N, K]  ->  x @ W.T, float32 [M, N]
layout "report"   kernel(a, w):  a float32 [M, K], w [K, N]  ->  a @ B,   float32 [M, N]
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from blocks2tokens.formats import Format
from blocks2tokens.formats.format import checked, read_only
from blocks2tokens.jit.cores import in_turn
from blocks2tokens.kernels import scratch
from blocks2tokens.matrix import QuantizedMatrix


@dataclass(frozen=True)
class Cost:
    """What one call does, counted, not timed.

    elements_decoded  weights decoded, as often as they are
    blocks_decoded    whole blocks decoded; a kernel that decodes single weights has none
    lookups           look-ups in a cache of blocks, one for each multiply-add that makes one
    bytes_read        encoded bytes, each time that a decoder reads them; activations and float32 copies
                      of all weights once for each who reads them, since from then on a cache has them
    temporary_bytes   decoded or unpacked copies of weights, over all cores
    multiply_adds     M * K * N
    """

    elements_decoded: int
    blocks_decoded: int
    lookups: int
    bytes_read: int
    temporary_bytes: int
    multiply_adds: int


@dataclass(frozen=True)
class Kernel:
    """A named matrix product; calling it checks its arguments and runs it.

    rounds_activations   x is rounded to 8-bit integers first, for the formats that the kernel is made for;
                         for BF16 to bfloat16, where the CPU multiplies these
    rows                 for how many rows of x it is a candidate; it can multiply any number
    needs                (M, w) -> what it needs as scratch; kernels that a model may use have it,
    run_into             and (x, w, out, room): x @ W.T into out, in that scratch
    """

    name: str
    layout: str
    story: str
    run: Callable[[np.ndarray, QuantizedMatrix], np.ndarray]
    count: Callable[[int, int, int, Format, int], Cost]
    rounds_activations: bool = False
    rows: range = range(1, 2**62)
    needs: Callable[[int, QuantizedMatrix], scratch.Needs] | None = None
    run_into: Callable[[np.ndarray, QuantizedMatrix, np.ndarray, scratch.Room], None] | None = None

    def __call__(self, x: np.ndarray, w: QuantizedMatrix) -> np.ndarray:
        """Multiply x, float32 [M, K], by w; ValueError for another dtype, shape or layout."""
        return self.product(check_operands(x, w, self.layout), w)

    def product(self, x: np.ndarray, w: QuantizedMatrix) -> np.ndarray:
        """Multiply operands that `check_operands` has passed; where there is nothing to add up, zeros."""
        if x.size and w.raw.size:
            return in_turn(self.run, x, w)
        return np.zeros((x.shape[0], w.shape[0 if self.layout == "gguf" else 1]), np.float32)

    def product_into(self, x: np.ndarray, w: QuantizedMatrix, out: np.ndarray, block: np.ndarray) -> None:
        """Fill out, float32 [M, N], as `product` does, with block, uint8 [n], as its scratch."""
        if x.size and w.raw.size:
            in_turn(self.run_into, x, w, out, scratch.carve(block, self.needs(x.shape[0], w)))
        else:
            out[:] = 0

    def cost(self, M: int, K: int, N: int, fmt: Format, cores: int) -> Cost:
        """Return the exact counts for x [M, K] and N outputs on `cores` cores."""
        return self.count(M, K, N, fmt, cores)


def check_operands(x: np.ndarray, w: QuantizedMatrix, layout: str) -> np.ndarray:
    """Return x, read-only, if it fits w in this layout; ValueError with both shapes otherwise."""
    if not isinstance(w, QuantizedMatrix):
        raise ValueError(f"w: expected a QuantizedMatrix, got {type(w).__name__}")
    if w.layout != layout:
        raise ValueError(f"w: this kernel reads layout {layout!r}, got {w.layout!r}")
    K = w.shape[1] if layout == "gguf" else w.shape[0]
    if checked(x, np.float32, "x").ndim != 2 or x.shape[1] != K:
        raise ValueError(f"x: expected shape [M, {K}] for w of shape {w.shape}, got {x.shape}")
    return read_only(x)
