"""Unpack 16 rows of weights at a time, turn them, and let every row of x use them: for many rows of x.

    16 rows x 256 codes  --transpose_quads-->  panel: for each 4 codes along K, those of 16 rows side by side

    for each panel, 8 rows of x at a time:   vpdpbusd  (16 rows' quads) . (one quad of x, repeated)
                                             32 codes later: times the 16 scales, as float32

One instruction multiplies 64 pairs and no sum ever goes across a vector: lane n is output n. A panel is
4 KiB of codes and stays in the first-level cache while all rows of x pass by; unpacking is paid once for
all of them.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from blocks2tokens.formats.compiled import BYTES_2D
from blocks2tokens.kernels import activations, simd_tiles
from blocks2tokens.kernels.integer_dot import pointer
from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.simd import (
    address_of,
    bytes_to_floats,
    interleave,
    load_16_int8,
    load_float,
    load_floats,
    multiply,
    repeat_float,
    store,
    store_float,
    tile_add,
    tile_dots,
    tile_scale,
    tile_store,
    tile_zeros,
    transpose_quads,
)
from blocks2tokens.kernels.simd_dot import OPERANDS, for_each, group_of, isa_for, named
from blocks2tokens.kernels.simd_rows import (
    Q6K,
    Q80,
    SIMD_FORMATS,
    d_at,
    is_k_quant,
    last_block,
    packed_scales,
    rounded,
    unit,
)

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


@njit(forceinline=True)
def fill_panel(fmt, raw, at, step, last, rows, row_scales, panel, scales, offsets):
    """Unpack 16 units, the first at byte `at`, the others `step` bytes apart; `last` as in `unit`.

    panel   uint8 [span / 4, 16, 4]; scales, offsets float32 [groups, 16]; the others: room to work in
    """
    for r in range(ROWS):
        q, _, d, offset = unit(fmt, raw, at, last)
        store_codes(fmt, q, rows, fmt.span * r)
        store(row_scales, 8 * fmt.groups * r, unit_scales(fmt, raw, at, d))
        store(row_scales, 8 * fmt.groups * r + 4 * fmt.groups, offset)
        at += step
    for i in range(fmt.span // 64):
        transpose_quads(rows, 64 * i, fmt.span, panel, 1024 * i)
    for g in range(fmt.groups):
        for r in range(ROWS):
            place = 8 * fmt.groups * r + 4 * g
            store_float(scales, 64 * g + 4 * r, load_float(row_scales, place))
            store_float(offsets, 64 * g + 4 * r, -load_float(row_scales, place + 4 * fmt.groups))


# --- Tiles: 8 rows of activations by 16 of weights --------------------------------------------------------


def tile(fmt, isa, panel, scales, offsets, a, m, u):
    """Return the products of a panel with rows m to m + 7 of the activations, unit u: 8 x 16 float32."""


def tile_of_16(fmt, isa, panel, scales, offsets, a, m, u):
    width, part = a.units * 256, tile_zeros(8)
    for g in range(16):
        dots = tile_dots(isa, panel, 256 * g, 4, a.codes, m * width + 256 * u + 16 * g, width, 8)
        part = tile_scale(dots, load_floats(scales, 64 * g), part)
    return with_offsets(fmt, part, offsets, a, m, u)


def tile_of_32(fmt, isa, panel, scales, offsets, a, m, u):
    width, part = a.units * 256, tile_zeros(8)
    for g in range(8):
        dots = tile_dots(isa, panel, 512 * g, 8, a.codes, m * width + 256 * u + 32 * g, width, 8)
        part = tile_scale(dots, load_floats(scales, 64 * g), part)
    return with_offsets(fmt, part, offsets, a, m, u)


@njit(forceinline=True)
def with_offsets(fmt, part, offsets, a, m, u):
    """Return part times d of each row, plus the offsets times the sums."""
    totals = tile_add(tile_zeros(8), part, a.d, d_at(fmt, a, m, u), 4 * a.units)
    for g in range(fmt.groups):
        at, stride = 4 * ((m * a.units + u) * fmt.groups + g), 4 * a.units * fmt.groups
        totals = tile_add(totals, load_floats(offsets, 64 * g), a.sums, at, stride)
    return totals


def tile_of_blocks(fmt, isa, panel, scales, offsets, a, m, u):
    width, totals = a.units * 128, tile_zeros(8)
    for g in range(4):
        dots = tile_dots(isa, panel, 512 * g, 8, a.codes, m * width + 128 * u + 32 * g, width, 8)
        part = tile_scale(dots, load_floats(scales, 64 * g), tile_zeros(8))
        at, stride = d_at(fmt, a, m, u) + 4 * g, 16 * a.units
        totals = tile_add(totals, part, a.d, at, stride)
        totals = tile_add(totals, load_floats(offsets, 64 * g), a.sums, at, stride)
    return totals


@overload(tile, jit_options={"forceinline": True})
def choose_tile(fmt, isa, panel, scales, offsets, a, m, u):
    if fmt.instance_class is Q6K:
        return tile_of_16
    return tile_of_32 if is_k_quant(fmt) else tile_of_blocks


class Room(NamedTuple):
    """Memory to work in: codes of 16 rows and their scales, row by row and turned; the sums so far."""

    rows: np.ndarray
    row_scales: np.ndarray
    panel: np.ndarray
    scales: np.ndarray
    offsets: np.ndarray
    results: np.ndarray


@njit
def panels(fmt, isa, raw, codes, d, sums, first, last, out):
    """Fill columns first to last - 1 of out, float32 [M, N]; activations padded to whole tiles and units.

    raw, uint8 [N, row bytes].
    """
    room = Room(
        np.empty(ROWS * fmt.span, np.uint8),
        np.empty(ROWS * 2 * fmt.groups, np.float32),
        np.empty(ROWS * fmt.span, np.uint8),
        np.empty(ROWS * fmt.groups, np.float32),
        np.empty(ROWS * fmt.groups, np.float32),
        np.empty((codes.shape[0], ROWS), np.float32),
    )
    for start in range(first, last, ROWS):
        n = min(start, raw.shape[0] - ROWS)  # the last panel may overlap the one before
        panel_products(fmt, isa, raw, codes, d, sums, n, room)
        for m in range(out.shape[0]):
            for r in range(ROWS):
                out[m, n + r] = room.results[m, r]


@njit
def panel_products(fmt, isa, raw, codes, d, sums, n, room):
    """Fill room.results, float32 [M, 16], with the products of rows n to n + 15 of the weights."""
    a, weights, row_bytes = rounded(fmt, codes, d, sums), address_of(raw), raw.shape[1]
    rows, row_scales, panel = address_of(room.rows), address_of(room.row_scales), address_of(room.panel)
    scales, offsets, results = address_of(room.scales), address_of(room.offsets), address_of(room.results)
    room.results[:] = 0
    for u in range(a.units):
        at, end = n * row_bytes + u * fmt.n_bytes, last_block(fmt, row_bytes, u)
        fill_panel(fmt, weights, at, row_bytes, end, rows, row_scales, panel, scales, offsets)
        for m in range(0, codes.shape[0], TILE):
            tile_store(tile(fmt, isa, panel, scales, offsets, a, m, u), results, 64 * m, 64)


# --- The kernel -------------------------------------------------------------------------------------------


def panels_of(name, fmt, isa):
    """Return `panels` for one format and instruction set."""

    def fill(raw, codes, d, sums, first, last, out):
        panels(fmt, isa, raw, codes, d, sums, first, last, out)

    return named(fill, f"panels_of_{name}")


PANELS = for_each(panels_of)
SIGNATURE = types.void(BYTES_2D, *OPERANDS)


@njit(parallel=True, cache=True)
def share_panels(fill, raw, codes, d, sums, out):
    """Fill out, float32 [M, N], the panels shared by the cores."""
    N = raw.shape[0]
    for panel in prange((N + ROWS - 1) // ROWS):
        fill(raw, codes, d, sums, ROWS * panel, min(N, ROWS * (panel + 1)), out)


def run(x, w):
    isa, fmt = isa_for(w.format), SIMD_FORMATS.get(w.format.name)
    if isa == "plain" or w.shape[0] < ROWS or not x.size:
        return simd_tiles.run(x, w)
    a = activations.quantize(x, w.format.block_size, group_of(fmt), tile=(TILE, fmt.span))
    out = np.empty((x.shape[0], w.shape[0]), np.float32)
    fill = pointer(PANELS[w.format.name, isa], SIGNATURE)
    share_panels(fill, w.raw, *a, out)
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
    "integer_gemm",
    "gguf",
    "unpack 16 rows, turn them, use them for all rows of x",
    run,
    count,
    True,
    rows=range(4, 2**62),
)
