"""Activations as 8-bit integers, made once for each product, in tiles of T rows of x.

    x   float32 [M, K]   ->   codes  int8     [tiles, blocks, T, block]     x = d * code, |code| <= 127
                              d      float32  [tiles, blocks, T]
                              sums   int16    [tiles, blocks, T, groups]    blocks of 256: sums of codes
                                     float32  [tiles, blocks, T]            blocks of 32: d * (sum of codes)

What a tile of rows needs next lies next in memory. The sums are what the weights' offsets multiply. Rows that
fill up the last tile are zeros. With blocks of 256 this is what Q8_K holds (but for its sign: Q8_K makes the
largest value -127), with blocks of 32 what Q8_1 holds (but for d and sums, which are not rounded to float16).
Magnitudes below 2**-100 count as 0; a row with NaN or infinity gives NaN. For weights that are floats x goes
into tiles as it is, or as bfloat16, see `in_tiles`.
Source: ggml `quantize_row_q8_K_ref`, `quantize_row_q8_1_ref`.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from blocks2tokens.formats.compiled import bits_to_float, float_to_bits
from blocks2tokens.jit.cores import takes_turns
from blocks2tokens.jit.vectors import largest_bits, round_16
from blocks2tokens.kernels.scratch import Needs, Room, allocate

TINY = np.float32(2.0**-100)
SERIAL_BELOW = 1 << 15  # weights: less is done before other threads would have begun


class Activations(NamedTuple):
    """Rows of x as the vector kernels want them; n_rows is how many there really are."""

    codes: np.ndarray
    d: np.ndarray
    sums: np.ndarray
    n_rows: int


@njit(cache=True)
def scale_of(bits):
    """Return the scale of a block and its inverse, from the bits of its largest magnitude; 0: no codes."""
    largest = bits_to_float(bits)
    if not np.isfinite(largest):
        return np.float32(np.nan), np.float32(0)
    if largest < TINY:
        return np.float32(0), np.float32(0)
    return largest / np.float32(127), np.float32(127) / largest


@njit(cache=True)
def quantize_super_row(x, tile, m, codes, d, sums):
    """Round x, float32 [K], as row m of a tile, with the sums of its groups."""
    sixteens = 16 // sums.shape[3]  # in a group
    for b in range(codes.shape[1]):
        made = codes[tile, b, m]
        scale, inverse = scale_of(largest_bits(x, 1024 * b, 256))
        d[tile, b, m] = scale
        if not inverse:
            made[:] = 0
            sums[tile, b, m, :] = 0
            continue
        for g in range(sums.shape[3]):
            total = np.int32(0)
            for i in range(sixteens * g, sixteens * (g + 1)):
                total += round_16(x, 1024 * b + 64 * i, inverse, made, 16 * i)
            sums[tile, b, m, g] = total


@njit(cache=True)
def quantize_row(x, tile, m, codes, d, sums):
    """Round x, float32 [K], as row m of a tile, with the sums of its blocks."""
    for b in range(codes.shape[1]):
        made = codes[tile, b, m]
        scale, inverse = scale_of(largest_bits(x, 128 * b, 32))
        d[tile, b, m], sums[tile, b, m] = scale, scale
        if not inverse:
            made[:] = 0
            continue
        total = round_16(x, 128 * b, inverse, made, 0) + round_16(x, 128 * b + 64, inverse, made, 16)
        sums[tile, b, m] = scale * np.float32(total)


@njit(cache=True)
def super_rows_in_turn(x, codes, d, sums):
    for row in range(x.shape[0]):
        quantize_super_row(x[row], row // codes.shape[2], row % codes.shape[2], codes, d, sums)


@takes_turns
@njit(parallel=True, cache=True)
def super_rows_at_once(x, codes, d, sums):
    for row in prange(x.shape[0]):
        quantize_super_row(x[row], row // codes.shape[2], row % codes.shape[2], codes, d, sums)


@njit(cache=True)
def rows_in_turn(x, codes, d, sums):
    for row in range(x.shape[0]):
        quantize_row(x[row], row // codes.shape[2], row % codes.shape[2], codes, d, sums)


@takes_turns
@njit(parallel=True, cache=True)
def rows_at_once(x, codes, d, sums):
    for row in prange(x.shape[0]):
        quantize_row(x[row], row // codes.shape[2], row % codes.shape[2], codes, d, sums)


def needs(M, K, block, group, tile=1) -> Needs:
    """Return what M rows of K numbers fill in tiles; sums of `group` codes if `group` is smaller than 256."""
    d = -(-M // tile), K // block, tile
    sums = ((*d, block // group), np.int16) if block == 256 else (d, np.float32)
    return {"codes": ((*d, block), np.int8), "d": (d, np.float32), "sums": sums}


def quantize(x, block, group, tile=1) -> Activations:
    """Return x, float32 [M, K], in tiles; sums of `group` codes if `group` is smaller than 256."""
    return quantize_into(x, allocate(needs(*x.shape, block, group, tile)))


def quantize_into(x, room: Room) -> Activations:
    """Return x, float32 [M, K], in tiles, in arrays as `needs` wants them."""
    M, (codes, d, sums) = len(x), (room[part] for part in ("codes", "d", "sums"))
    tile, block = codes.shape[2:]
    if M % tile:
        for part in (codes, d, sums):
            part[-1, :, M % tile :] = 0
    if block == 256:
        fill = super_rows_in_turn if x.size < SERIAL_BELOW else super_rows_at_once
    else:
        fill = rows_in_turn if x.size < SERIAL_BELOW else rows_at_once
    fill(x, codes, d, sums)
    return Activations(codes, d, sums, M)


@njit(cache=True)
def bf16(bits):
    """Return the upper half of the bits of a float32, rounded to nearest, ties to even, as the CPU does.

    What is smaller than a normal number is 0. NaN stays NaN.
    """
    if bits & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
        return np.uint16(bits >> np.uint32(16)) | np.uint16(64)
    if bits & np.uint32(0x7F800000) == 0:
        return np.uint16(bits >> np.uint32(16)) & np.uint16(0x8000)
    odd = bits >> np.uint32(16) & np.uint32(1)
    return np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@njit(cache=True)
def bf16_row(x, tile, m, codes):
    """Round x, float32 [K], as row m of a tile."""
    block = codes.shape[3]
    for b in range(codes.shape[1]):
        for i in range(block):
            codes[tile, b, m, i] = bf16(float_to_bits(x[block * b + i]))


@njit(cache=True)
def bf16_rows_in_turn(x, codes):
    for row in range(x.shape[0]):
        bf16_row(x[row], row // codes.shape[2], row % codes.shape[2], codes)


@takes_turns
@njit(parallel=True, cache=True)
def bf16_rows_at_once(x, codes):
    for row in prange(x.shape[0]):
        bf16_row(x[row], row // codes.shape[2], row % codes.shape[2], codes)


NOTHING = np.zeros((1, 1, 1), np.float32)


def needs_in_tiles(M, K, block, tile=1, dtype=np.float32) -> Needs:
    """Return what M rows of K numbers fill in tiles that keep them as they are, or as bfloat16: uint16."""
    return {"codes": ((-(-M // tile), K // block, tile, block), dtype)}


def in_tiles(x, room: Room) -> Activations:
    """Return x, float32 [M, K], in tiles as `needs_in_tiles` wants them, for weights that are floats."""
    codes = room["codes"]
    _, blocks, tile, block = codes.shape
    whole, rest = divmod(len(x), tile)
    if rest:
        codes[whole, :, rest:] = 0
    if codes.dtype == np.uint16:
        (bf16_rows_in_turn if x.size < SERIAL_BELOW else bf16_rows_at_once)(x, codes)
        return Activations(codes, NOTHING, NOTHING, len(x))
    codes[:whole] = x[: whole * tile].reshape(whole, tile, blocks, block).transpose(0, 2, 1, 3)
    if rest:
        codes[whole, :, :rest] = x[whole * tile :].reshape(rest, blocks, block).transpose(1, 0, 2)
    return Activations(codes, NOTHING, NOTHING, len(x))
