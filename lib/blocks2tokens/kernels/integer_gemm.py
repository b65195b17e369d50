"""Unpack 16 rows of weights at a time, turn them, and let every row of x use them: for many rows of x.

    16 rows x 256 codes  --transpose_quads-->  panel: for each 4 codes along K, those of 16 rows side by side

    for each panel, 8 rows of x at a time:   vpdpbusd  (16 rows' quads) . (one quad of x, repeated)
                                             32 codes later: times the 16 scales, as float32

One instruction multiplies 64 pairs and no sum ever goes across a vector: lane n is output n. A panel is
4 KiB of codes and stays in the first-level cache while all rows of x pass by; unpacking is paid once for
all of them.
"""

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from blocks2tokens.formats.compiled import BYTES_2D
from blocks2tokens.formats.format import read_only
from blocks2tokens.kernels import activations, simd_tiles
from blocks2tokens.kernels.integer_dot import pointer
from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.simd import (
    bytes_to_floats,
    interleave,
    load_16_int8,
    load_floats,
    multiply,
    repeat_float,
    store,
    tile_add,
    tile_dots,
    tile_scale,
    tile_store,
    tile_zeros,
    transpose_quads,
)
from blocks2tokens.kernels.simd_dot import OPERANDS, for_each, group_of, isa_for, named
from blocks2tokens.kernels.simd_rows import Q6K, Q80, SIMD_FORMATS, is_k_quant, packed_scales, unit

ROWS, TILE = 16, 8  # rows of weights in a panel, rows of x in a tile


# --- A unit of one row, unpacked to memory ----------------------------------------------------------------


def unit_scales(fmt, raw, at, d):
    """Return the scales of the unit at byte `at` as float32, one for each group."""


def scales_of_k(fmt, raw, at, d):
    scales = bytes_to_floats(packed_scales(raw, at + 4)[0])
    return multiply(scales, repeat_float(d, scales))


def scales_of_q6_k(fmt, raw, at, d):
    scales = load_16_int8(raw, at + 192)
    return multiply(scales, repeat_float(d, scales))


@overload(unit_scales)
def choose_unit_scales(fmt, raw, at, d):
    if fmt.instance_class is Q6K:
        return scales_of_q6_k
    return scales_of_k if is_k_quant(fmt) else lambda fmt, raw, at, d: d


def store_codes(fmt, q, rows, at):
    """Store a unit's codes at byte `at`, in the order of the weights."""


def store_in_order(fmt, q, rows, at):
    for i in range(len(q)):
        store(rows, at + 64 * i, q[i])


def store_by_32(fmt, q, rows, at):
    for i in range(0, 4, 2):
        store(rows, at + 64 * i, interleave(q[i], q[i + 1], 0, 32))
        store(rows, at + 64 * i + 64, interleave(q[i], q[i + 1], 1, 32))


def store_by_16(fmt, q, rows, at):
    store(rows, at, interleave(q[0], q[1], 0, 16))
    store(rows, at + 64, interleave(q[0], q[1], 1, 16))


@overload(store_codes)
def choose_store_codes(fmt, q, rows, at):
    if fmt.instance_class in (Q6K, Q80):
        return store_in_order
    return store_by_32 if is_k_quant(fmt) else store_by_16


@njit
def fill_panel(fmt, raw, at, step, rows, row_scales, panel, scales, offsets):
    """Unpack 16 units, the first at byte `at`, the others `step` bytes apart.

    panel   uint8 [span / 4, 16, 4]; scales, offsets float32 [groups, 16]; the others: room to work in
    """
    for r in range(ROWS):
        q, _, d, offset = unit(fmt, raw, at)
        store_codes(fmt, q, rows, fmt.span * r)
        store(row_scales, 8 * fmt.groups * r, unit_scales(fmt, raw, at, d))
        store(row_scales, 8 * fmt.groups * r + 4 * fmt.groups, offset)
        at += step
    for i in range(fmt.span // 64):
        transpose_quads(rows, 64 * i, fmt.span, panel, 1024 * i)
    for g in range(fmt.groups):
        for r in range(ROWS):
            scales[g, r] = row_scales[r, g]
            offsets[g, r] = -row_scales[r, fmt.groups + g]


# --- Tiles: 8 rows of activations by 16 of weights --------------------------------------------------------


def tile(fmt, isa, panel, scales, offsets, codes, d, sums, m, u):
    """Return the products of a panel with rows m to m + 7 of the activations, unit u: 8 x 16 float32."""


def tile_of_16(fmt, isa, panel, scales, offsets, codes, d, sums, m, u):
    width, part = codes.shape[1], tile_zeros(8)
    for g in range(16):
        dots = tile_dots(isa, panel, 256 * g, 4, codes, m * width + 256 * u + 16 * g, width, 8)
        part = tile_scale(dots, load_floats(scales, 64 * g), part)
    return with_offsets(fmt, part, offsets, d, sums, m, u)


def tile_of_32(fmt, isa, panel, scales, offsets, codes, d, sums, m, u):
    width, part = codes.shape[1], tile_zeros(8)
    for g in range(8):
        dots = tile_dots(isa, panel, 512 * g, 8, codes, m * width + 256 * u + 32 * g, width, 8)
        part = tile_scale(dots, load_floats(scales, 64 * g), part)
    return with_offsets(fmt, part, offsets, d, sums, m, u)


@njit
def with_offsets(fmt, part, offsets, d, sums, m, u):
    """Return part times d of each row, plus the offsets times the sums."""
    totals = tile_add(tile_zeros(8), part, d, 4 * (m * d.shape[1] + u), 4 * d.shape[1])
    for g in range(fmt.groups):
        at = 4 * (m * sums.shape[1] + fmt.groups * u + g)
        totals = tile_add(totals, load_floats(offsets, 64 * g), sums, at, 4 * sums.shape[1])
    return totals


def tile_of_blocks(fmt, isa, panel, scales, offsets, codes, d, sums, m, u):
    width, blocks, totals = codes.shape[1], d.shape[1], tile_zeros(8)
    for g in range(4):
        dots = tile_dots(isa, panel, 512 * g, 8, codes, m * width + 128 * u + 32 * g, width, 8)
        part = tile_scale(dots, load_floats(scales, 64 * g), tile_zeros(8))
        at = 4 * (m * blocks + 4 * u + g)
        totals = tile_add(totals, part, d, at, 4 * blocks)
        totals = tile_add(totals, load_floats(offsets, 64 * g), sums, at, 4 * blocks)
    return totals


@overload(tile)
def choose_tile(fmt, isa, panel, scales, offsets, codes, d, sums, m, u):
    if fmt.instance_class is Q6K:
        return tile_of_16
    return tile_of_32 if is_k_quant(fmt) else tile_of_blocks


@njit
def panels(fmt, isa, raw, last_units, codes, d, sums, first, last, out):
    """Fill columns first to last - 1 of out, float32 [M, N]; activations padded to whole tiles and units.

    raw, uint8 [N, row bytes]; last_units, uint8 [N, unit bytes]: what of a row does not fill a unit, with
    zeros behind it.
    """
    groups, span, (N, row_bytes) = fmt.groups, fmt.span, raw.shape
    rows, row_scales = np.empty(ROWS * span, np.uint8), np.empty((ROWS, 2 * groups), np.float32)
    panel = np.empty(ROWS * span, np.uint8)
    scales, offsets = np.empty((groups, ROWS), np.float32), np.empty((groups, ROWS), np.float32)
    results, whole = np.empty((codes.shape[0], ROWS), np.float32), row_bytes // fmt.n_bytes
    for start in range(first, last, ROWS):
        n = min(start, N - ROWS)  # the last panel may overlap the one before
        results[:] = 0
        for u in range(codes.shape[1] // span):
            source, at, step = raw.reshape(-1), n * row_bytes + u * fmt.n_bytes, row_bytes
            if u == whole:
                source, at, step = last_units.reshape(-1), n * fmt.n_bytes, fmt.n_bytes
            fill_panel(fmt, source, at, step, rows, row_scales, panel, scales, offsets)
            for m in range(0, codes.shape[0], TILE):
                tile_store(tile(fmt, isa, panel, scales, offsets, codes, d, sums, m, u), results, 64 * m, 64)
        for m in range(out.shape[0]):
            for r in range(ROWS):
                out[m, n + r] = results[m, r]


# --- The kernel -------------------------------------------------------------------------------------------


def panels_of(name, fmt, isa):
    """Return `panels` for one format and instruction set."""

    def fill(raw, last_units, codes, d, sums, first, last, out):
        panels(fmt, isa, raw, last_units, codes, d, sums, first, last, out)

    return named(fill, f"panels_of_{name}")


PANELS = for_each(panels_of)
SIGNATURE = types.void(BYTES_2D, BYTES_2D, *OPERANDS)


@njit(parallel=True, cache=True)
def share_panels(fill, raw, last_units, codes, d, sums, out):
    """Fill out, float32 [M, N], the panels shared by the cores."""
    N = raw.shape[0]
    for panel in prange((N + ROWS - 1) // ROWS):
        fill(raw, last_units, codes, d, sums, ROWS * panel, min(N, ROWS * (panel + 1)), out)


def run(x, w):
    isa, fmt = isa_for(w.format), SIMD_FORMATS.get(w.format.name)
    if isa == "plain" or w.shape[0] < ROWS or not x.size:
        return simd_tiles.run(x, w)
    a = activations.quantize(x, w.format.block_size, group_of(fmt), tile=(TILE, fmt.span))
    rest = w.raw.shape[1] % fmt.n_bytes
    last_units = np.zeros((w.shape[0], fmt.n_bytes if rest else 0), np.uint8)
    last_units[:, :rest] = w.raw[:, w.raw.shape[1] - rest :]
    out = np.empty((x.shape[0], w.shape[0]), np.float32)
    fill = pointer(PANELS[w.format.name, isa], SIGNATURE)
    share_panels(fill, w.raw, read_only(last_units), *a, out)
    return out


def count(M, K, N, fmt, cores):
    if fmt.name not in SIMD_FORMATS or N < ROWS:
        return simd_tiles.count(M, K, N, fmt, cores)
    span, groups = SIMD_FORMATS[fmt.name].span, SIMD_FORMATS[fmt.name].groups
    return Cost(
        elements_decoded=K * N,
        blocks_decoded=K * N // fmt.block_size,
        lookups=0,
        bytes_read=N * fmt.row_bytes(K) + 4 * M * K,
        temporary_bytes=cores * ROWS * (2 * span + 16 * groups),
        multiply_adds=M * K * N,
    )


KERNEL = Kernel(
    "integer_gemm", "gguf", "unpack 16 rows, turn them, use them for all rows of x", run, count, True
)
