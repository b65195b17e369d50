"""The roofline: what a product must do and move, and what a machine allows.

    GFLOP/s |        ____________  peak                 attainable = min(peak, bandwidth * intensity)
            |       /
            |      /   bandwidth * intensity
            |_____/____________________  operations / byte

The formulas are what lesson 14 builds; the rest measures ceilings and draws: the picture of lesson 14 comes
back in 16 and 17, with one mark for each kernel.
Source: Williams, Waterman and Patterson, "Roofline", 2009.
"""

from collections.abc import Mapping
from functools import cache
from math import ceil
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numba import njit, types
from numba.extending import intrinsic

from blocks2tokens.course import bench, crossover, hardware, plot
from blocks2tokens.formats import Format
from blocks2tokens.jit import cpu
from blocks2tokens.jit.lanes import ISAS, ROWS, bytes_of, load, pointer, words_of
from blocks2tokens.matrix import QuantizedMatrix

# --- Formulas ---------------------------------------------------------------------------------------------


def product_intensity(M: int, K: int, N: int, fmt: Format) -> float:
    """Return the operations of x @ W.T for each byte that must move: W encoded, x and the result float32."""
    operations = 2 * M * K * N
    weights = N * K * fmt.bytes_per_block / fmt.block_size
    return operations / (weights + 4 * M * K + 4 * M * N)


def point(M: int, K: int, N: int, fmt: Format, seconds: float) -> tuple[float, float]:
    """Return a product's place under the roof: operations for each byte that must move, and its GFLOP/s."""
    return product_intensity(M, K, N, fmt), 2 * M * K * N / seconds / 1e9


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


# --- Ceilings ---------------------------------------------------------------------------------------------

VECTORS, ROUNDS = 64, 2000
TURN = 8  # vectors of codes in a turn of the loop, each for four rows of x: as in a group of Q4_K
OPERATIONS = TURN * 4 * 64 * 2  # of a turn
LARGEST = 15  # the codes are nibbles


class Ceilings(NamedTuple):
    """What so many cores reach: GFLOP/s of BLAS, 8-bit GOP/s (None where there are none), GB/s."""

    cores: int
    peak: float
    integer_peak: float | None
    bandwidth: float

    def __str__(self):
        """Say each ceiling, and of how many cores and what size it was measured."""
        size = f"{hardware.GEMM_SIZE:,}"
        text = f"{self.cores} core{'s' * (self.cores > 1)}: {self.bandwidth:.1f} GB/s, read from memory; "
        text += f"{self.peak:.0f} GFLOP/s in float32, BLAS, {size} × {size}; "
        if not self.integer_peak:
            return text + "no vector code for integers here"
        times = f", one core's times {self.cores}" if self.cores > 1 else ""
        return text + f"{self.integer_peak:.0f} GOP/s in 8-bit integers, from the nearest cache{times}"


def ceilings(cores: int | None = None) -> Ceilings:
    """Measure the ceilings of some cores, one or all. Takes a few seconds."""
    measured = hardware.measure()
    cores = cores or max(measured.read)
    alone = integer_peak()
    return Ceilings(cores, measured.gemm[cores], alone and cores * alone, measured.read[cores])


@cache
def dots_of_a_turn(isa_name: str):
    """Return an intrinsic: (q, x, four int32 [16]) -> sums += TURN vectors of codes times four rows of x."""
    isa = ISAS[isa_name]

    def codegen(context, builder, signature, args):
        q, x, totals = args
        assert isa.at_once(LARGEST) >= TURN  # vectors of codes that one sum can take
        sums = [isa.zero_sum(ROWS)] * 4
        for i in range(0, TURN, isa.shares):
            codes = [load(builder, q, 64 * (i + k), bytes_of(ROWS)) for k in range(isa.shares)]
            for m in range(0, 4, isa.shares):
                four = load(builder, x, 64 * (m + i), bytes_of(ROWS))
                for k, code in enumerate(codes, m):
                    sums[k] = isa.multiply_tile(builder, sums[k], code, four, LARGEST)
        for m in range(4):
            place, made = pointer(builder, totals, 64 * m, words_of(ROWS)), isa.to_words(builder, sums[m])
            builder.store(builder.add(builder.load(place, align=1), made), place, align=1)
        return context.get_dummy_value()

    def dots(typingctx, q, x, totals):
        return types.void(types.int64, types.int64, types.int64), codegen

    return intrinsic(dots)


@cache
def dot_codes(isa_name: str):
    """Return a function that dots codes with four rows of integers, as fast as the CPU can.

    q uint8 [64 n], x int8 [64 (n + 3)], totals int32 [4, 16], all in the nearest cache; nothing is unpacked
    and nothing scaled. Row m of x begins at 64 m. Where two rows of x share a sum, as those of a panel do,
    as many products are made, in another order.
    """
    dots = dots_of_a_turn(isa_name)

    def dot_codes(q, x, totals, rounds):
        for _ in range(rounds):
            for i in range(0, q.size, 64 * TURN):
                dots(q.ctypes.data + i, x.ctypes.data + i, totals.ctypes.data)

    return njit(dot_codes)


def at_a_line(array):
    """Return a copy that begins at a whole 64 bytes: a load over the end of a line costs two."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def integer_peak(seconds: float = bench.BUDGET) -> float | None:
    """Return the 8-bit GOP/s of one core's dot instructions; None where the CPU has none that we use."""
    if cpu.chosen() not in ISAS:
        return None
    rng, run = np.random.default_rng(0), dot_codes(cpu.chosen())
    q = at_a_line(rng.integers(0, LARGEST + 1, 64 * VECTORS).astype(np.uint8))
    x = at_a_line(rng.integers(-9, 10, 64 * (VECTORS + 3)).astype(np.int8))
    totals = at_a_line(np.zeros((4, 16), np.int32))
    timing = bench.interleaved({"dot": lambda: run(q, x, totals, ROUNDS)}, seconds=seconds)["dot"]
    return ROUNDS * VECTORS // TURN * OPERATIONS / timing.median / 1e9


# --- Drawing ----------------------------------------------------------------------------------------------


def draw(axes: Axes, peak: float, bandwidth: float, label: str, colour: str = "k", ls: str = "-") -> None:
    """Draw a roof, GFLOP/s over operations / byte, on logarithmic axes."""
    intensity = np.geomspace(0.02, 3000, 400)
    roof = [attainable(i, peak, bandwidth) for i in intensity]
    axes.plot(intensity, roof, color=colour, ls=ls, lw=2, label=label)
    axes.set(xscale="log", yscale="log", xlabel="operations / byte", ylabel="GFLOP/s")


def draw_both(axes: Axes, limits: Ceilings) -> None:
    """Draw the roof of float32, and that of 8-bit integers where it was measured."""
    cores = f"{limits.cores} core{'s' * (limits.cores > 1)}"
    draw(axes, limits.peak, limits.bandwidth, f"roof, float32, {cores}")
    if limits.integer_peak:
        draw(axes, limits.integer_peak, limits.bandwidth, "roof, 8-bit integers", plot.PURPLE, "--")


MARKS = {
    "phase1_naive_fused": (plot.GREY, "<"),
    "phase2_optimized_fused": (plot.GREY, ">"),
    "phase3a_block_cache": (plot.GREY, "p"),
    "phase3b_column_major": (plot.GREY, "X"),
    "phase0_baseline": ("k", "h"),
    "integer_dot": (plot.PURPLE, "P"),
    "your kernel": (plot.YELLOW, "*"),
    **crossover.LINES,
}


def draw_points(axes: Axes, points: Mapping[str, tuple[float, float]], fill: str = "full") -> None:
    """Draw {kernel: (operations / byte, GFLOP/s)}; hollow ones, fill "none", get no name in the legend."""
    for name, (intensity, speed) in points.items():
        colour, mark = MARKS[name]
        label = name if fill == "full" else None
        edge = colour if fill == "none" else "0.2"
        style = {"color": colour, "mec": edge, "fillstyle": fill, "ms": 9, "ls": ""}
        axes.plot(intensity, speed, mark, label=label, **style)


def picture(
    limits: Ceilings,
    points: Mapping[str, tuple[float, float]],
    hollow: Mapping[str, tuple[float, float]] | None = None,
    title: str = "",
) -> Axes:
    """Draw the roofs of so many cores, and kernels under them; `hollow` are those with many rows of x."""
    axes = plt.subplots(figsize=(9.5, 4.8))[1]
    draw_both(axes, limits)
    draw_points(axes, points)
    draw_points(axes, hollow or {}, "none")
    axes.set_title(title)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return axes


def share(limits: Ceilings, intensity: float, speed: float, integers: bool = False) -> float:
    """Return which part of the roof above it a point reaches: the one of 8-bit integers if it uses those."""
    peak = limits.integer_peak if integers and limits.integer_peak else limits.peak
    return speed / attainable(intensity, peak, limits.bandwidth)
