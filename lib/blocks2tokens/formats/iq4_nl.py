"""IQ4_NL: 32 weights as 4-bit codes into a table of 16 unequally spaced values.

    d        float16    scale                                       18 bytes, 4.5 bits per weight
    qs[16]   uint8      codes 0..15: low nibble of byte j is weight j, high nibble weight j + 16
    weight = d * VALUES[q]

Source: ggml `block_iq4_nl`, `kvalues_iq4nl`, `quantize_row_iq4_nl_impl`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.best import level_table, scale_improve
from blocks2tokens.formats.compiled import as_in_c, read_half, signed_max, write_half
from blocks2tokens.formats.q4_0 import pack_halves
from blocks2tokens.formats.search import TINY, importance_weights, mean_square, squares

GGML_TYPE = 20
WEIGHTS = 32
BLOCK = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
LEVELS = level_table(VALUES)
BOUNDARIES = (VALUES[:-1].astype(np.float32) + VALUES[1:]) / np.float32(2)  # halfway between neighbours


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 32]."""
    q = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)
    return blocks["d"].astype(np.float32)[:, None] * VALUES[q]


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 32):
        at, y = block * 18, block * 32
        d = read_half(raw, at)
        for j in range(16):
            q = raw[at + 2 + j]
            out[y + j] = d * np.float32(VALUES[q & 15])
            out[y + 16 + j] = d * np.float32(VALUES[q >> 4])


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 32 * 18, i % 32
    q = (raw[at + 2 + j % 16] >> (4 * (j // 16))) & 15
    return read_half(raw, at) * np.float32(VALUES[q])


@as_in_c
def table_codes(x, inverse, codes):
    """Set codes, float32 [n], to those of the values nearest to x * inverse. Source: `best_index_int8`."""
    for i in range(x.size):
        value, q = x[i] * inverse, 0
        for boundary in BOUNDARIES:
            q += not value < boundary
        codes[i] = np.float32(q)


@as_in_c
def table_search(x, weights):
    """Return the scale with which scale * VALUES fits x best; its codes are left to the caller.

    Trial t maps the largest weight to VALUES[0] + t; the first does so with the sign turned. Each gives
    codes, and those win whose scale of least squares leaves the smallest error.
    """
    largest = signed_max(x, 0, x.size)
    if abs(largest) < TINY:
        return np.float32(0)
    codes = np.empty(x.size, np.float32)
    scale, best = np.float32(0), np.float32(0)
    for t in range(-8, 8):
        inverse = np.float32(VALUES[0] + t) / largest
        if t == -8:
            inverse = np.float32(1) / (-largest / np.float32(VALUES[0]))
        table_codes(x, inverse, codes)
        sum_qx, sum_qq = np.float32(0), np.float32(0)
        for i in range(x.size):
            value = np.float32(VALUES[int(codes[i])])
            sum_qx += weights[i] * value * x[i]
            sum_qq += weights[i] * value * value
        if t == -8 or (sum_qq > 0 and sum_qx * sum_qx > best * sum_qq):
            scale = sum_qx / sum_qq if sum_qq > 0 else np.float32(0)
            best = scale * sum_qx
    return scale


@as_in_c
def write_block(x, scale, out):
    """Write a block with the codes that fit the scale as given: ggml does not fit them to the rounded one."""
    codes = np.empty(32, np.float32)
    table_codes(x, np.float32(1) / scale if scale != 0 else np.float32(0), codes)
    write_half(out, 0, scale)
    pack_halves(codes, out[2:])


@as_in_c
def encode_row(x, raw):
    for block in range(x.size // 32):
        y = x[32 * block : 32 * block + 32]
        write_block(y, table_search(y, squares(y)), raw[18 * block : 18 * block + 18])


@as_in_c
def encode_row_weighted(x, importance, raw):
    for block in range(x.size // 32):
        y = x[32 * block : 32 * block + 32]
        weights = importance_weights(y, importance[32 * block :], np.float32(2) * mean_square(y))
        write_block(y, table_search(y, weights), raw[18 * block : 18 * block + 18])


@as_in_c
def improve_block(x, importance, block, trial):
    write_block(x, scale_improve(x, importance, LEVELS, 0.5, 1.25), trial)
