"""The roofline: what a product must do and move, and what a machine allows.

    GFLOP/s |        ____________  peak                 attainable = min(peak, bandwidth * intensity)
            |       /
            |      /   bandwidth * intensity
            |_____/____________________  operations / byte

The formulas are what lesson 14 builds; the rest draws them and measures the ceiling of integer kernels.
Source: Williams, Waterman and Patterson, "Roofline", 2009.
"""

from math import ceil

import numpy as np
from matplotlib.axes import Axes
from numba import njit

from blocks2tokens.course import bench
from blocks2tokens.formats import Format
from blocks2tokens.jit import cpu, vectors
from blocks2tokens.jit.vectors import add_quads, load_bytes, to_floats, total, zero_ints
from blocks2tokens.matrix import QuantizedMatrix

# --- Formulas ---------------------------------------------------------------------------------------------


def product_intensity(M: int, K: int, N: int, fmt: Format) -> float:
    """Return the operations of x @ W.T for each byte that must move: W encoded, x and the result float32."""
    operations = 2 * M * K * N
    weights = N * K * fmt.bytes_per_block / fmt.block_size
    return operations / (weights + 4 * M * K + 4 * M * N)


def attainable(intensity: float, peak: float, bandwidth: float) -> float:
    """Return the GFLOP/s that a machine allows: as many as it can do, and no more than its bytes feed."""
    return min(peak, bandwidth * intensity)


def ridge_rows(peak: float, bandwidth: float, fmt: Format) -> int:
    """Return the smallest whole M at which the weights' bytes no longer set the limit."""
    operations_for_each_byte_of_a_row = 2 * fmt.block_size / fmt.bytes_per_block
    return ceil(peak / bandwidth / operations_for_each_byte_of_a_row)


def tokens_per_second(n_weights: float, bits: float, M: int, peak: float, bandwidth: float) -> float:
    """Return the tokens a second at most, when each pass over all weights makes M tokens."""
    reading = n_weights * bits / 8 / (bandwidth * 1e9)
    multiplying = 2 * n_weights * M / (peak * 1e9)
    return M / max(reading, multiplying)


def bandwidth_needed(n_weights: float, bits: float, rate: float, M: int) -> float:
    """Return the GB/s that so many tokens a second take, when each pass over all weights makes M tokens."""
    passes_per_second = rate / M
    return n_weights * bits / 8 * passes_per_second / 1e9


# --- Matrices to measure with -----------------------------------------------------------------------------

QUANTIZED_ROWS = 32


def random_matrix(fmt: Format, K: int, N: int, layout: str = "gguf") -> QuantizedMatrix:
    """Return a matrix of valid random blocks for K inputs and N outputs, made fast: few rows, repeated."""
    rows = fmt.quantize(np.random.default_rng(0).standard_normal((QUANTIZED_ROWS, K), np.float32))
    raw = np.resize(rows, (N, rows.shape[1]))
    if layout == "report":
        return QuantizedMatrix(raw.reshape(-1), fmt, (K, N), layout)
    return QuantizedMatrix(raw, fmt, (N, K), layout)


# --- The ceiling of integers ------------------------------------------------------------------------------

CODES, ROUNDS = 4096, 2000
STEP = 8 * 64 * 2  # operations for 128 codes: eight dots of 64 pairs


@njit(cache=True)
def dot_codes(isa, q, x, rounds):
    """Dot 128 codes with four times 64 integers at a time, in eight sums that do not wait for each other.

    q uint8 [n], x int8 [n + 128], both in the nearest cache; nothing is unpacked and nothing scaled.
    """
    a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = zero_ints()
    for _ in range(rounds):
        for i in range(0, q.size, 128):
            first, second = load_bytes(q, i), load_bytes(q, i + 64)
            a, b = load_bytes(x, i), load_bytes(x, i + 64)
            c, d = load_bytes(x, i + 128), load_bytes(x, i + 192)
            a0, a1 = add_quads(isa, a0, first, a), add_quads(isa, a1, second, a)
            b0, b1 = add_quads(isa, b0, first, b), add_quads(isa, b1, second, b)
            c0, c1 = add_quads(isa, c0, first, c), add_quads(isa, c1, second, c)
            d0, d1 = add_quads(isa, d0, first, d), add_quads(isa, d1, second, d)
    return (
        (total(to_floats(a0)) + total(to_floats(a1)))
        + (total(to_floats(b0)) + total(to_floats(b1)))
        + (total(to_floats(c0)) + total(to_floats(c1)))
        + (total(to_floats(d0)) + total(to_floats(d1)))
    )


def integer_peak(seconds: float = bench.BUDGET) -> float | None:
    """Return the 8-bit GOP/s of one core's dot instructions; None where the CPU has none that we use."""
    isa = vectors.INSTRUCTION_SETS[cpu.chosen()]
    if isa is None:
        return None
    rng = np.random.default_rng(0)
    q, x = rng.integers(0, 16, CODES).astype(np.uint8), rng.integers(-9, 10, CODES + 128).astype(np.int8)
    run = {"dot": lambda: dot_codes(isa, q, x, ROUNDS)}
    timing = bench.interleaved(run, seconds=seconds)["dot"]
    return ROUNDS * CODES // 128 * STEP / timing.median / 1e9


# --- Drawing ----------------------------------------------------------------------------------------------


def draw(axes: Axes, peak: float, bandwidth: float, label: str, colour: str = "k", ls: str = "-") -> None:
    """Draw a roof, GFLOP/s over operations / byte, on logarithmic axes."""
    intensity = np.geomspace(0.02, 3000, 400)
    roof = [attainable(i, peak, bandwidth) for i in intensity]
    axes.plot(intensity, roof, color=colour, ls=ls, lw=2, label=label)
    axes.set(xscale="log", yscale="log", xlabel="operations / byte", ylabel="GFLOP/s")
