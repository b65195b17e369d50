"""Activations as 8-bit integers, made once for each product.

    x   float32 [M, K]   ->   codes  int8    [M, K]           x = d * code, |code| <= 127
                              d      float32 [M, K / block]   one scale for each block of the weights
                              sums   float32 [M, K / group]   d * (sum of the codes): what offsets multiply

With blocks of 256 this is what Q8_K holds (but for its sign: Q8_K makes the largest value -127), with
blocks of 32 what Q8_0 holds (but for d, which is not rounded to float16). In a dot product over vectors the
codes are wanted in the order in which the weights' codes come out of their bytes: `order` gives, for each
16 codes of a span, which 16 of the natural order they are. Magnitudes below 2**-100 count as 0; a row with
NaN or infinity gives NaN.
Source: ggml `quantize_row_q8_K_ref`, `quantize_row_q8_0_ref`.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from blocks2tokens.formats.compiled import bits_to_float
from blocks2tokens.jit.cores import takes_turns
from blocks2tokens.kernels.simd import copy_16_bytes

INFINITY, MAGNITUDE = np.uint32(0x7F800000), np.uint32(0x7FFFFFFF)
TINY = np.float32(2.0**-100)
NATURAL = (0,)
LONGEST_SPAN = 256
SERIAL_BELOW = 1 << 15  # weights: less is done before other threads would have begun


class Activations(NamedTuple):
    codes: np.ndarray
    d: np.ndarray
    sums: np.ndarray


@njit(cache=True)
def largest_magnitude(x):
    """Return the largest magnitude; NaN or infinity if there is one: their bits are the largest integers."""
    largest, bits = np.uint32(0), x.view(np.uint32)
    for i in range(bits.size):
        largest = max(largest, bits[i] & MAGNITUDE)
    return bits_to_float(largest)


@njit(cache=True)
def round_to_codes(x, inverse, codes):
    for i in range(x.size):
        codes[i] = np.int8(np.rint(x[i] * inverse))


@njit(cache=True)
def sum_of(codes):
    total = np.int32(0)
    for i in range(codes.size):
        total += np.int32(codes[i])
    return np.float32(total)


@njit(cache=True)
def quantize_block(x, codes):
    """Fill codes, int8 [n], from x, float32 [n]; return their scale."""
    largest = largest_magnitude(x)
    if not largest >= TINY or not np.isfinite(largest):
        codes[:] = 0
        return np.float32(0) if largest < TINY else np.float32(np.nan)
    round_to_codes(x, np.float32(127) / largest, codes)
    return largest / np.float32(127)


@njit(cache=True)
def reorder(codes, order, room):
    """Put the codes of each whole span, int8 [16 * order.size], into another order; room for one span."""
    n = 16 * order.size
    for at in range(0, codes.size - n + 1, n):
        for i in range(order.size):
            copy_16_bytes(room, 16 * i, codes, at + 16 * i)
        for i in range(order.size):
            copy_16_bytes(codes, at + 16 * i, room, 16 * order[i])


@njit(cache=True)
def quantize_row(x, block, group, order, room, codes, d, sums):
    for b in range(x.size // block):
        d[b] = quantize_block(x[b * block : (b + 1) * block], codes[b * block : (b + 1) * block])
    for g in range(x.size // group):
        sums[g] = d[g * group // block] * sum_of(codes[g * group : (g + 1) * group])
    if order.size > 1:
        reorder(codes, order, room)


@njit(cache=True)
def quantize_in_turn(x, block, group, order, codes, d, sums):
    room = np.empty(LONGEST_SPAN, np.int8)
    for m in range(x.shape[0]):
        quantize_row(x[m], block, group, order, room, codes[m], d[m], sums[m])


@takes_turns
@njit(parallel=True, cache=True)
def quantize_at_once(x, block, group, order, codes, d, sums):
    for m in prange(x.shape[0]):
        room = np.empty(LONGEST_SPAN, np.int8)
        quantize_row(x[m], block, group, order, room, codes[m], d[m], sums[m])


def quantize(x, block, group, order=NATURAL, tile=(1, 1)):
    """Return x, float32 [M, K], as Activations with a scale per `block` and a sum per `group` codes.

    Their sizes are those of x rounded up to multiples of `tile`, (rows, columns); what is added is zeros.
    """
    M, K = (-(-n // step) * step for n, step in zip(x.shape, tile, strict=True))
    make = np.empty if x.shape == (M, K) else np.zeros
    made = Activations(
        make((M, K), np.int8), make((M, K // block), np.float32), make((M, K // group), np.float32)
    )
    fill = quantize_in_turn if x.size < SERIAL_BELOW else quantize_at_once
    fill(x, block, group, np.array(order), *made)
    return made
