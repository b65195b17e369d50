"""From Phase 1 towards Phase 0, one change at a time: what each cause of the slowness is worth.

    five changes     call          the decoder of a weight is inlined, no longer called through a pointer
                                   (by force: by its name alone LLVM goes on calling it)
                     scales        of a block's 8 scales only the one in use is unpacked, and as rarely as
                                   the layout allows: for each weight along N, for each 32 along K
                     orientation   blocks run along K, so a column of B is contiguous
                     reuse         a column is decoded once, for all rows of `a`, and not once for each row
                     threads       the columns are shared by all cores

    each made or not: 32 kernels, from Phase 1's loops (none made) to a fused kernel (all made)

A change is worth a factor, the time before over the time after, and the factor depends on what was changed
before it. Along any order of the five the factors multiply to the same whole; `chain` gives them for one
order, `shares` for all 120.

Formats: Q5_K, the report's. As in the report, nothing is vectorized; `product(..., simd=True)` shows what
that would give.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise, permutations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numba import carray, get_num_threads, njit, prange, types

from blocks2tokens.course import bench, plot
from blocks2tokens.formats import compiled, q5_k
from blocks2tokens.formats.compiled import read_half
from blocks2tokens.formats.q4_k import scale_min
from blocks2tokens.kernels.ours import fused_rows
from blocks2tokens.kernels.report import phase0_baseline, phase1_naive_fused
from blocks2tokens.kernels.report.decoders import local_floats, q5_k_element, scalar
from blocks2tokens.matrix import QuantizedMatrix

CHANGES = {
    "call": "no call for each weight",
    "scales": "unpack only the scale in use",
    "orientation": "blocks along K",
    "reuse": "decode once for all rows",
    "threads": "all cores",
}
FORWARD = tuple(CHANGES)
BACKWARD = FORWARD[::-1]
SUBSETS = tuple(frozenset(made) for n in range(len(CHANGES) + 1) for made in combinations(CHANGES, n))
ALL = frozenset(CHANGES)
NONE = frozenset()

ordered_dot, reassociated_dot = phase0_baseline.dot, fused_rows.dot
decode_needed = q5_k.decode_element  # unpacks one scale, where the report's decoder unpacks all 8

inlined = njit(forceinline=True)
half_here, scale_min_here = inlined(read_half.py_func), inlined(scale_min.py_func)

DECODE_CODE = types.float32(compiled.BYTES, types.int64, types.float32, types.float32)


# Five ways to fill a column: K weights, the first at place `first`, the others `step` apart


@njit(cache=True)
def fill_by_call(decode_element, raw, first, step, column):
    for k in range(column.size):
        column[k] = decode_element(raw, first + k * step)


@inlined
def code_at(raw, at, i):
    """Return the code of weight i of the block at byte `at`."""
    low = (raw[at + 48 + 32 * (i // 64) + i % 32] >> (4 * (i // 32 % 2))) & 15
    return np.float32(low | ((raw[at + 16 + i % 32] >> (i // 32)) & 1) << 4)


@inlined
def from_whole_header(raw, f):
    """Return weight f; all scales of its block are unpacked, as the report's decoder does."""
    header, at, s = carray(local_floats(), 18), f // 256 * 176, f % 256 // 32
    header[0], header[1] = half_here(raw, at), half_here(raw, at + 2)
    for other in range(8):
        sc, m = scale_min_here(raw, at + 4, other)
        header[2 + other], header[10 + other] = np.float32(sc), np.float32(m)
    return header[0] * header[2 + s] * code_at(raw, at, f % 256) - header[1] * header[10 + s]


@inlined
def from_needed_scale(raw, f):
    """Return weight f; only its own scale and minimum are unpacked."""
    at = f // 256 * 176
    sc, m = scale_min_here(raw, at + 4, f % 256 // 32)
    scale, minimum = half_here(raw, at) * np.float32(sc), half_here(raw, at + 2) * np.float32(m)
    return scale * code_at(raw, at, f % 256) - minimum


@njit(cache=True)
def fill_from_whole_headers(raw, first, step, column):
    for k in range(column.size):
        column[k] = from_whole_header(raw, scalar(first + k * step))


@njit(cache=True)
def fill_from_needed_scales(raw, first, step, column):
    for k in range(column.size):
        column[k] = from_needed_scale(raw, scalar(first + k * step))


@njit(cache=True)
def sub_block_at(raw, f):
    """Return byte of the block, sub-block, scale and minimum of the 32 weights that begin at place f."""
    at, s = f // 256 * 176, f % 256 // 32
    sc, m = scale_min(raw, at + 4, s)
    return at, s, read_half(raw, at) * np.float32(sc), read_half(raw, at + 2) * np.float32(m)


@njit(cache=True)
def decode_code(raw, at, s, l, scale, minimum):
    """Return weight l of sub-block s of the block at byte `at`."""
    low = (raw[at + 48 + 32 * (s // 2) + l] >> (4 * (s % 2))) & 15
    return scale * np.float32(np.uint8(low | ((raw[at + 16 + l] >> s) & 1) << 4)) - minimum


@njit(cache=True)
def decode_code_at(raw, f, scale, minimum):
    """Return weight f, whose scale and minimum are known."""
    return decode_code(raw, f // 256 * 176, f % 256 // 32, f % 32, scale, minimum)


@njit(cache=True)
def fill_sub_blocks_by_call(call_code, raw, first, column):
    for k in range(0, column.size, 32):
        _, _, scale, minimum = sub_block_at(raw, first + k)
        for l in range(32):
            column[k + l] = call_code(raw, first + k + l, scale, minimum)


@njit(cache=True)
def fill_sub_blocks(raw, first, column):
    for k in range(0, column.size, 32):
        at, s, scale, minimum = sub_block_at(raw, first + k)
        for l in range(32):
            column[k + l] = decode_code(raw, at, s, scalar(l), scale, minimum)


@njit(cache=True)
def fill_sub_blocks_with_simd(raw, first, column):
    """As above, without what keeps LLVM from decoding 16 weights at a time."""
    for k in range(0, column.size, 32):
        at, s, scale, minimum = sub_block_at(raw, first + k)
        for l in range(32):
            column[k + l] = decode_code(raw, at, s, l, scale, minimum)


# One driver for all


@njit(cache=True)
def fill(inline, rare, along_k, call_element, call_code, raw, N, j, column):
    """Fill column, float32 [K], with the weights that output j needs."""
    first, step = (j * column.size, 1) if along_k else (j, N)
    if rare and along_k:
        if inline:
            fill_sub_blocks(raw, first, column)
        else:
            fill_sub_blocks_by_call(call_code, raw, first, column)
    elif not inline:
        fill_by_call(call_element, raw, first, step, column)
    elif rare:
        fill_from_needed_scales(raw, first, step, column)
    else:
        fill_from_whole_headers(raw, first, step, column)


@njit(cache=True)
def multiply_columns(inline, rare, along_k, call_element, call_code, reuse, a, raw, first, last, out):
    """Fill columns first to last - 1 of out, float32 [M, N]."""
    (M, K), N = a.shape, out.shape[1]
    column = np.empty(K, np.float32)
    if reuse:
        for j in range(first, last):
            fill(inline, rare, along_k, call_element, call_code, raw, N, j, column)
            for i in range(M):
                out[i, j] = ordered_dot(a[i], column)
    else:
        for i in range(M):
            for j in range(first, last):
                fill(inline, rare, along_k, call_element, call_code, raw, N, j, column)
                out[i, j] = ordered_dot(a[i], column)


@njit(cache=True)
def multiply_columns_with_simd(a, raw, first, last, out):
    column = np.empty(a.shape[1], np.float32)
    for j in range(first, last):
        fill_sub_blocks_with_simd(raw, j * column.size, column)
        for i in range(a.shape[0]):
            out[i, j] = reassociated_dot(a[i], column)


@njit(parallel=True, cache=True)
def multiply(simd, inline, rare, along_k, call_element, call_code, reuse, a, raw, n_workers, out):
    N = out.shape[1]
    for worker in prange(n_workers):
        first, last = worker * N // n_workers, (worker + 1) * N // n_workers
        if simd:
            multiply_columns_with_simd(a, raw, first, last, out)
        else:
            multiply_columns(inline, rare, along_k, call_element, call_code, reuse, a, raw, first, last, out)


@dataclass(frozen=True)
class Operands:
    """A product to compute: a, float32 [M, K], and B [K, N] in Q5_K, blocks along N and blocks along K.

    The two hold the same matrix, each quantized from it; their codes differ, since other weights share
    a block.
    """

    a: np.ndarray
    along_n: QuantizedMatrix  # shape (K, N)
    along_k: QuantizedMatrix  # shape (N, K)


def operands(a: np.ndarray, B: np.ndarray) -> Operands:
    """Quantize B, float32 [K, N], both ways; ValueError unless K is a multiple of 32 and shapes fit."""
    if a.ndim != 2 or B.ndim != 2 or a.shape[1] != len(B) or len(B) % 32:
        raise ValueError(f"expected a [M, K] and B [K, N], K a multiple of 32, got {a.shape} and {B.shape}")
    ways = (QuantizedMatrix.quantize(np.ascontiguousarray(W), "Q5_K", layout="report") for W in (B, B.T))
    return Operands(np.ascontiguousarray(a, np.float32), *ways)


def product(given: Operands, changes: Iterable[str] = NONE, simd: bool = False) -> np.ndarray:
    """Return a @ B, float32 [M, N], computed with these changes made; simd needs all five."""
    changes = frozenset(changes)
    if not changes <= ALL or (simd and changes != ALL):
        raise ValueError(f"changes: expected some of {FORWARD}, all of them for simd, got {set(changes)}")
    element = decode_needed if "scales" in changes else q5_k_element
    along_k = "orientation" in changes
    out = np.empty((len(given.a), given.along_n.shape[1]), np.float32)
    multiply(
        simd,
        "call" in changes,
        "scales" in changes,
        along_k,
        compiled.pointer(element, compiled.DECODE_ELEMENT),
        compiled.pointer(decode_code_at, DECODE_CODE),
        "reuse" in changes,
        given.a,
        (given.along_k if along_k else given.along_n).raw,
        min(get_num_threads(), out.shape[1]) if "threads" in changes else 1,
        out,
    )
    return out


@dataclass(frozen=True)
class Counts:
    """What a kernel does: weights decoded, calls made for that, pairs of scale and minimum unpacked."""

    weights: int
    calls: int
    scales: int


def count(M: int, K: int, N: int, changes: Iterable[str] = NONE) -> Counts:
    """Return the exact counts of `product` with these changes made."""
    changes = frozenset(changes)
    weights = K * N * (1 if "reuse" in changes else M)
    if "scales" not in changes:
        scales = 8 * weights
    else:
        scales = weights // 32 if "orientation" in changes else weights
    return Counts(weights, 0 if "call" in changes else weights, scales)


def measure(given: Operands, repeats: int = 7, seconds: float = bench.BUDGET) -> dict[frozenset | str, float]:
    """Return {changes made: seconds} of all 32 kernels, interleaved with three others under their names.

    "phase0", "phase1": the engine's kernels, on blocks along N; "simd": all five changes and SIMD.
    """
    functions: dict[frozenset | str, Callable] = {made: partial(product, given, made) for made in SUBSETS}
    for name, kernel in (("phase0", phase0_baseline.KERNEL), ("phase1", phase1_naive_fused.KERNEL)):
        functions[name] = partial(kernel, given.a, given.along_n)
    functions["simd"] = partial(product, given, ALL, simd=True)
    return {key: timing.median for key, timing in bench.interleaved(functions, repeats, seconds).items()}


# Factors


def chain(times: Mapping[frozenset, float], order: Iterable[str]) -> list[tuple[str, float]]:
    """Return (change, time before / time after) for each change of an order; times by changes made."""
    order = tuple(order)
    made = [frozenset(order[:n]) for n in range(len(order) + 1)]
    return [
        (change, times[before] / times[after])
        for change, (before, after) in zip(order, pairwise(made), strict=True)
    ]


def shares(times: Mapping[frozenset, float]) -> dict[str, tuple[float, float, float]]:
    """Return, for each change, its smallest, geometric mean and largest factor over all 120 orders.

    The means multiply to the whole, whatever the order: Shapley's fair division, of the logarithm.
    """
    factors = {change: [] for change in CHANGES}
    for order in permutations(CHANGES):
        for change, factor in chain(times, order):
            factors[change].append(factor)
    return {c: (min(f), float(np.exp(np.mean(np.log(f)))), max(f)) for c, f in factors.items()}


# Pictures


def waterfall(steps: Iterable[tuple[str, float]], title: str, ends: tuple[str, str], axes: Axes) -> Axes:
    """Draw steps, (label, factor), from their product down to 1 on a logarithmic axis.

    Each bar reaches from the time before to the time after; a factor below 1 goes up again, hatched.
    """
    steps = list(steps)
    total = float(np.prod([factor for _, factor in steps]))
    before, lowest, labels = total, min(1.0, total), [ends[0]]
    for row, (label, factor) in enumerate(steps, start=1):
        after = before / factor
        low, high = sorted((before, after))
        gain = factor >= 1
        style = {"color": plot.BLUE} if gain else {"color": "white", "edgecolor": plot.RED, "hatch": "////"}
        axes.barh(row, high - low, left=low, height=0.62, **style)
        axes.vlines(after, row - 0.31, row + 1.31, color="0.4", lw=0.8)
        axes.annotate(f"{factor:.2f}×", (high, row), (5, 0), textcoords="offset points", va="center")
        before, lowest = after, min(lowest, after)
        labels.append(label)
    axes.plot(total, 0, "D", color=plot.RED, ms=8)
    axes.annotate(f"{total:.3g}", (total, 0), (-9, 0), textcoords="offset points", va="center", ha="right")
    axes.plot(1, len(labels), "D", color=plot.GREEN, ms=8)
    axes.vlines(total, 0, 1.31, color="0.4", lw=0.8)
    axes.set(xscale="log", yticks=range(len(labels) + 1), yticklabels=[*labels, ends[1]], title=title)
    axes.set(ylim=(len(labels) + 0.6, -0.6), xlim=(lowest / 1.6, total * 2.5))
    axes.set_xlabel(f"time, in times of {ends[1]}")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", visible=False)
    return axes


def waterfalls(orders: Mapping[str, Iterable[tuple[str, float]]], title: str) -> Figure:
    """Draw the same whole taken apart in several orders, {name of the order: steps}, on one axis."""
    figure, rows = plt.subplots(len(orders), 1, figsize=(9, 3.6 * len(orders)), sharex=True, squeeze=False)
    for axes, (name, steps) in zip(rows[:, 0], orders.items(), strict=True):
        waterfall(steps, f"{title}, {name}", ("Phase 1", "Phase 0"), axes)
    for axes in rows[:-1, 0]:
        axes.set_xlabel("")
    return figure


def ranges(shares: Mapping[str, tuple[float, float, float]], title: str, axes: Axes | None = None) -> Axes:
    """Draw for each change its factors over all orders: smallest to largest, and their mean."""
    axes = axes or plt.subplots(figsize=(8, 3.2))[1]
    for row, (low, mean, high) in enumerate(shares.values()):
        axes.plot((low, high), (row, row), color=plot.SKY, lw=9, solid_capstyle="butt")
        axes.plot(mean, row, "D", color=plot.BLUE, ms=8)
        text = f"{low:.3g} to {high:.3g}, mean {mean:.3g}"
        axes.annotate(text, (high, row), (7, 0), textcoords="offset points", va="center")
    axes.axvline(1, color="0.4", lw=0.8)
    largest = max(high for _, _, high in shares.values())
    axes.set(xscale="log", xlim=(None, largest * 9), ylim=(len(shares) - 0.4, -0.6), title=title)
    axes.set(yticks=range(len(shares)), yticklabels=[CHANGES[c] for c in shares], xlabel="factor")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", visible=False)
    return axes
