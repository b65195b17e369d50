"""Lesson 13's evidence: what its cells measured, as the figures that the ledger asks for.

    runs[M, K, N][kernel]       a report_table.Row: seconds, bytes, allocations of one call
    times[changes]              seconds of each of the ablation's kernels, 128 rows; times_one for one row
    piece["decode"]             seconds of a piece of Phase 0, 128 rows; piece_one for one row

    of_the_table(runs)                              -> {figure: value}, sections 1 and 2
    of_the_baseline(times, piece, "128 rows")       -> {figure: value}, section 3 ...

Each of these only divides and names: what a figure has to be stands in `report_claims`. At the end are the
lesson's experiments: Phase 0 in pieces, its dot products in another order, the report's Q5_K decoder.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
from numba import njit
from threadpoolctl import threadpool_limits

from blocks2tokens.course import ablation, bench, ledger
from blocks2tokens.course.lessons.q4_k import exercises as q4_k
from blocks2tokens.course.lessons.q5_k import exercises as q5_k
from blocks2tokens.course.report_claims import PHASES
from blocks2tokens.course.report_table import Row
from blocks2tokens.formats import FORMATS
from blocks2tokens.kernels import KERNELS
from blocks2tokens.kernels.report import phase0_baseline as phase0
from blocks2tokens.kernels.report.decoders import block_decoder
from blocks2tokens.matrix import QuantizedMatrix

PHASE0 = "phase0_baseline"
DECODES = 128**3
ROWS = {(128, 128, 128): "128 rows", (1, 128, 128): "1 row"}
BLOCKS = 64  # of B at 128 x 128
PIECES = ("decode", "transpose", "dot products")

Figures = dict[str, float]


def of_the_table(runs: Mapping[tuple, Mapping[str, Row]]) -> Figures:
    """Return how much slower each fused kernel is than Phase 0, for 128 rows and for one."""
    figures = {}
    for size, rows in ROWS.items():
        slower = {
            phase: runs[size][name].seconds / runs[size][PHASE0].seconds for phase, name in PHASES.items()
        }
        figures |= {f"slowdown of {phase}, {rows}": times for phase, times in slower.items()}
        figures[f"closest fused kernel, {rows}"] = min(slower.values())
    return figures


def of_memory(here: Mapping[str, Row], cores: int) -> Figures:
    """Return bytes, counted, and allocations of the calls at 128 cubed; of Phase 3a with 16 workers."""
    kB = {phase: here[name].nbytes / 1e3 for phase, name in {"Phase 0": PHASE0, **PHASES}.items()}
    cost = KERNELS[PHASES["Phase 3a"]].cost(128, 128, 128, FORMATS["Q5_K"], 16)
    added = here[PHASES["Phase 3a"]].allocations - here[PHASES["Phase 2"]].allocations
    return {
        **{f"memory of {phase}": kB[phase] for phase in ("Phase 0", "Phase 1", "Phase 2", "Phase 3b")},
        "memory of Phase 3a, 16 workers": (4 * 128 * 128 + cost.temporary_bytes) / 1e3,
        "memory saved by Phase 1": 1 - kB["Phase 1"] / kB["Phase 0"],
        "memory saved by Phase 1, kB": kB["Phase 0"] - kB["Phase 1"],
        "allocations of Phase 0": here[PHASE0].allocations,
        "a worker of Phase 3a adds allocations": added / cores,
    }


def of_the_baseline(times: Mapping, piece: Mapping[str, float], rows: str) -> Figures:
    """Return what Phase 0's pieces take, against the best known way; rows is "128 rows" or "1 row"."""
    in_all = sum(piece[name] for name in PIECES)
    decode, fast = piece["decode"], piece["decode, SIMD"]
    best = min(times["simd"], fast + piece["BLAS, 1 core"])
    return {
        f"Phase 0 over the best known, {rows}": times["phase0"] / best,
        f"decoding over decoding with SIMD, {rows}": decode / fast,
        f"dot products over BLAS on one core, {rows}": piece["dot products"] / piece["BLAS, 1 core"],
        f"share of the transpose in Phase 0, {rows}": piece["transpose"] / in_all,
        f"Phase 0 with SIMD in decoding, {rows}": in_all / (in_all - decode + fast),
    }


def of_the_changes(times: Mapping, rows: str) -> Figures:
    """Return what single changes to Phase 1 are worth, for "128 rows" or "1 row"."""
    inlined_and_one_scale = times[frozenset({"call", "scales"})]
    return {
        f"five changes against Phase 0, {rows}": times[ablation.ALL] / times["phase0"],
        f"inlining, mean factor, {rows}": ablation.shares(times)["call"][1],
        f"reading in sequence, {rows}": times[ablation.NONE] / times[frozenset({"orientation"})],
        f"SIMD after all five changes, {rows}": times[ablation.ALL] / times["simd"],
        f"one by one, inlined, one scale: gain, {rows}": times[ablation.NONE] / inlined_and_one_scale,
    }


def of_hands_and_compiler(times: Mapping, times_one: Mapping) -> Figures:
    """Return how what hands changed compares with what a compiler can, and the best fused kernel."""
    mean = {change: factor for change, (_, factor, _) in ablation.shares(times).items()}
    by_compiler = mean["call"] * times[ablation.ALL] / times["simd"]
    in_sequence = times[ablation.NONE] / times[frozenset({"orientation"})]
    whole = np.log(times["phase1"] / times["phase0"])
    by_hand = mean["scales"] * mean["orientation"] * mean["reuse"]
    best = min(times_one[ablation.ALL], times_one["simd"])
    return {
        "scales, orientation and reuse over inlining and SIMD, 128 rows": by_hand / by_compiler,
        "reading in sequence, share of the whole factor, 128 rows": max(0, np.log(in_sequence)) / whole,
        "best fused kernel over Phase 0, 1 row": best / times_one["phase0"],
    }


def of_the_caches(
    here: Mapping[str, Row], piece: Mapping[str, float], cores: int, locality: float
) -> Figures:
    """Return Phase 3a's price of a look-up, and what the order of the loops does to `a`."""
    cost = KERNELS[PHASES["Phase 3a"]].cost(128, 128, 128, FORMATS["Q5_K"], cores)
    all_workers = here[PHASES["Phase 3a"]].seconds * cores
    return {
        "a look-up of Phase 3a": all_workers / cost.lookups * 1e9,
        "decoding, share of Phase 3a": cost.blocks_decoded * piece["decode"] / BLOCKS / all_workers,
        "columns first over rows first": locality,
    }


def of_strides(B: np.ndarray, Bt: np.ndarray) -> Figures:
    """Return how far apart, in bytes, lie the floats that follow each other in Phase 0's loops."""
    return {
        "bytes from float to float, dot products": Bt.strides[1],
        "bytes from float to float, transpose": Bt.strides[0],
    }


def of_prices(here: Mapping[str, Row], piece: Mapping[str, float]) -> Figures:
    """Return nanoseconds for one of each at 128 cubed: a decode by call, by block, a multiply-add."""
    return {
        "a decode of Phase 1": here[PHASES["Phase 1"]].seconds / DECODES * 1e9,
        "a decode of a whole block's weight": piece["decode"] / 128**2 * 1e9,
        "a multiply-add of Phase 0's dot products": piece["dot products"] / DECODES * 1e9,
    }


def of_bytes(balance: float, dim: int, ff: int, cores: int) -> Figures:
    """Return whether bytes or operations set the ceiling; balance is the machine's FLOP for each byte."""
    fmt = FORMATS["Q5_K"]
    read = {name: KERNELS[name].cost(1, dim, ff, fmt, cores).bytes_read for name in (PHASE0, "fused_rows")}
    figures = {
        f"FLOP for each byte over what the machine balances, {rows}": ledger.flop_per_byte(M, 4.5) / balance
        for (M, _, _), rows in ROWS.items()
    }
    return figures | {
        "bytes read, Phase 0 over a kernel without copies, 1 row": read[PHASE0] / read["fused_rows"]
    }


def of_decodes() -> Figures:
    """Return how many times as many weights Phase 1 decodes as Phase 0."""
    return {
        f"weights decoded, Phase 1 over Phase 0, {rows}": ledger.decoding_ratio(*size)
        for size, rows in ROWS.items()
    }


# Experiments


def pieces(a: np.ndarray, w: QuantizedMatrix, cores: int) -> dict[str, float]:
    """Return the seconds of Phase 0's three pieces, for a, float32 [M, K], and of two ways to do better."""
    B, out = w.dequantize(), np.empty((len(a), w.shape[1]), np.float32)
    Bt, decoded, workers = B.T.copy(), B.copy().reshape(-1), phase0.workers(len(a), cores)
    work = {
        "decode": partial(phase0.decode, block_decoder(w.format), w.raw, decoded),
        "transpose": partial(phase0.transpose, B, Bt),
        "dot products": partial(phase0.multiply_transposed, a, Bt, workers, out),
        "decode, SIMD": partial(phase0.decode, w.format.row_decoder, w.raw, decoded),
        "BLAS, 1 core": partial(np.matmul, a, B),
    }
    with threadpool_limits(1, "blas"):
        return {name: timing.median for name, timing in bench.interleaved(work, 31).items()}


@njit(cache=True)
def rows_first(a, Bt, out):
    """Fill out, float32 [M, N], with the dot products of a, float32 [M, K], and Bt, float32 [N, K]."""
    for i in range(a.shape[0]):
        for j in range(Bt.shape[0]):
            out[i, j] = phase0.dot(a[i], Bt[j])


@njit(cache=True)
def columns_first(a, Bt, out):
    """The same, in the order that Phase 3b goes through the rows of `a`."""
    for j in range(Bt.shape[0]):
        for i in range(a.shape[0]):
            out[i, j] = phase0.dot(a[i], Bt[j])


def reports_q5_k(blocks: np.ndarray) -> np.ndarray:
    """Return the weights of Q5_K blocks, decoded with all the mistakes of the report's decoder."""
    return q5_k.decoded(
        blocks,
        plane=q5_k.bits_in_sequence,
        unpack=q4_k.scales_from_a_stream,
        split=q4_k.nibbles_in_sequence,
    )
