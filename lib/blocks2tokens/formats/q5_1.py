"""Q5_1: 32 weights as 5-bit codes with one float16 scale and one float16 minimum.

    d        float16    scale                                       24 bytes, 6.0 bits per weight
    m        float16    minimum
    qh       uint32     bit i is the fifth (highest) bit of weight i
    qs[16]   uint8      low four bits: low nibble of byte j is weight j, high nibble weight j + 16
    weight = d * q + m

Source: ggml `block_q5_1`, `quantize_row_q5_1_ref`, `quantize_row_q5_1_impl`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.best import range_improve
from blocks2tokens.formats.compiled import as_in_c, min_max, read_half, read_u32, write_half, write_u32
from blocks2tokens.formats.q5_0 import join_codes, pack_codes
from blocks2tokens.formats.search import (
    WEIGHTED_GRID,
    asymmetric_recode,
    asymmetric_search,
    importance_weights,
    mean_square,
)

GGML_TYPE = 7
WEIGHTS = 32
BLOCK = np.dtype([("d", "<f2"), ("m", "<f2"), ("qh", "<u4"), ("qs", "u1", 16)])
NMAX = np.int64(31)  # largest code


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 32]."""
    d, m = blocks["d"].astype(np.float32), blocks["m"].astype(np.float32)
    return d[:, None] * join_codes(blocks) + m[:, None]


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 32):
        at, y = block * 24, block * 32
        d, m, qh = read_half(raw, at), read_half(raw, at + 2), read_u32(raw, at + 4)
        for j in range(16):
            q = raw[at + 8 + j]
            out[y + j] = d * np.float32((q & 15) | ((qh >> j) & 1) << 4) + m
            out[y + 16 + j] = d * np.float32((q >> 4) | ((qh >> (j + 16)) & 1) << 4) + m


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 32 * 24, i % 32
    d, m, qh = read_half(raw, at), read_half(raw, at + 2), read_u32(raw, at + 4)
    q = (raw[at + 8 + j % 16] >> (4 * (j // 16))) & 15
    return d * np.float32(q | ((qh >> j) & 1) << 4) + m


@njit(cache=True)
def encode_row(x, raw):
    for block in range(x.size // 32):
        at, k = block * 24, block * 32
        low, high = min_max(x, k, 32)
        d = (high - low) / np.float32(31)
        inverse = np.float32(1) / d if d != 0 else np.float32(0)
        write_half(raw, at, d)
        write_half(raw, at + 2, low)
        qh = 0
        for j in range(16):
            first = int((x[k + j] - low) * inverse + np.float32(0.5))
            second = int((x[k + 16 + j] - low) * inverse + np.float32(0.5))
            raw[at + 8 + j] = (first & 15) | (second & 15) << 4
            qh |= ((first >> 4) & 1) << j | ((second >> 4) & 1) << (j + 16)
        write_u32(raw, at + 4, qh)


@as_in_c
def encode_row_weighted(x, importance, raw):
    codes, variance = np.empty(32, np.float32), mean_square(x)
    for block in range(x.size // 32):
        y, out = x[32 * block : 32 * block + 32], raw[24 * block : 24 * block + 24]
        weights = importance_weights(y, importance[32 * block :], variance)
        d, minimum = asymmetric_search(y, weights, NMAX, WEIGHTED_GRID, False, codes)
        write_half(out, 0, d)
        write_half(out, 2, -minimum)
        pack_codes(codes, out[4:])


@as_in_c
def improve_block(x, importance, block, trial):
    codes = np.zeros(32, np.float32)
    d, minimum = range_improve(x, importance, NMAX)
    asymmetric_recode(x, d, minimum, NMAX, codes)
    write_half(trial, 0, d)
    write_half(trial, 2, -minimum)
    pack_codes(codes, trial[4:])
