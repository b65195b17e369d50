"""Q2_K: 256 weights as 2-bit codes in 16 sub-blocks of 16, each with a 4-bit scale and minimum.

    scales[16]  uint8      sub-block s: low nibble scale, high nibble minimum
    qs[64]      uint8      codes 0..3, four in a byte
    d           float16    scale of the scales                     84 bytes, 2.625 bits per weight
    dmin        float16    scale of the minimums
    weight = (d * scale) * q - (dmin * minimum)

Weight 128h + 32t + l (half h, quarter t, l < 32) has its code in bits 2t, 2t + 1 of qs[32h + l].
Source: ggml `block_q2_K`, `dequantize_row_q2_K`, `quantize_row_q2_K_ref`, `quantize_row_q2_K_impl`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.best import asymmetric_improve
from blocks2tokens.formats.compiled import as_in_c, read_half, write_half
from blocks2tokens.formats.search import (
    WEIGHTED_GRID,
    asymmetric_recode,
    asymmetric_scales,
    importance_weights,
    magnitudes,
    mean_square,
    positive_search,
    round_to_largest,
    totals,
)

GGML_TYPE = 10
WEIGHTS = 256
BLOCK = np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")])

SIZE, NMAX, TOP = np.int64(16), np.int64(3), np.int64(15)  # weights of a sub-block; largest code, scale
GRID = (-0.5, 0.1, np.int64(15))  # ggml's search, see `asymmetric_search`


def split_codes(qs):
    """Return the 2-bit codes of planes qs, uint8 [n, 64], in the order of the weights, uint8 [n, 16, 16]."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    q = (qs.reshape(-1, 2, 1, 32) >> shifts) & 3  # [n, half, quarter, 32]
    return q.reshape(-1, 16, 16)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    d, dmin = blocks["d"].astype(np.float32)[:, None], blocks["dmin"].astype(np.float32)[:, None]
    scales, mins = d * (blocks["scales"] & 15), dmin * (blocks["scales"] >> 4)  # [n, 16]
    weights = scales[:, :, None] * split_codes(blocks["qs"]) - mins[:, :, None]
    return weights.reshape(-1, 256)


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 256):
        at, y = block * 84, block * 256
        d, dmin = read_half(raw, at + 80), read_half(raw, at + 82)
        for s in range(16):
            scale = d * np.float32(raw[at + s] & 15)
            minimum = dmin * np.float32(raw[at + s] >> 4)
            codes = at + 16 + 32 * (s // 8) + 16 * (s % 2)
            shift = 2 * (s % 8 // 2)
            for l in range(16):
                out[y + 16 * s + l] = scale * np.float32((raw[codes + l] >> shift) & 3) - minimum


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 256 * 84, i % 256
    d, dmin = read_half(raw, at + 80), read_half(raw, at + 82)
    scale = d * np.float32(raw[at + j // 16] & 15)
    minimum = dmin * np.float32(raw[at + j // 16] >> 4)
    q = (raw[at + 16 + 32 * (j // 128) + j % 32] >> (2 * (j % 128 // 32))) & 3
    return scale * np.float32(q) - minimum


@as_in_c
def pack_codes(codes, out):
    """Write 2-bit codes, float32 [256], into 64 bytes: the inverse of `split_codes`."""
    for half in range(2):
        for l in range(32):
            byte = 0
            for quarter in range(4):
                byte |= int(codes[128 * half + 32 * quarter + l]) << (2 * quarter)
            out[32 * half + l] = byte


@as_in_c
def write_block(x, d, dmin, sc, m, codes, out):
    """Write a block with the codes that fit its scales and minimums now that they are rounded."""
    write_half(out, 80, d)
    write_half(out, 82, dmin)
    d, dmin = read_half(out, 80), read_half(out, 82)
    for s in range(16):
        out[s] = sc[s] | m[s] << 4
        y, q = x[16 * s : 16 * s + 16], codes[16 * s : 16 * s + 16]
        asymmetric_recode(y, d * np.float32(sc[s]), dmin * np.float32(m[s]), NMAX, q)
    pack_codes(codes, out[16:])


@as_in_c
def encode_row(x, raw):
    for block in range(x.size // 256):
        y, out = x[256 * block : 256 * block + 256], raw[84 * block : 84 * block + 84]
        scales, minimums, codes = asymmetric_scales(y, magnitudes(y), SIZE, NMAX, GRID, True)
        d, sc = round_to_largest(scales, TOP)
        dmin, m = round_to_largest(minimums, TOP)
        write_block(y, d, dmin, sc, m, codes, out)


@as_in_c
def encode_row_weighted(x, importance, raw):
    for block in range(x.size // 256):
        y, out = x[256 * block : 256 * block + 256], raw[84 * block : 84 * block + 84]
        weights = importance_weights(y, importance[256 * block :], mean_square(y))
        scales, minimums, codes = asymmetric_scales(y, weights, SIZE, NMAX, WEIGHTED_GRID, False)
        d, sc = positive_search(scales, totals(weights, SIZE), TOP)
        dmin, m = positive_search(minimums, totals(weights, SIZE), TOP)
        write_block(y, d, dmin, sc, m, codes, out)


@as_in_c
def improve_block(x, importance, block, trial):
    sc, m = np.empty(16, np.uint8), np.empty(16, np.uint8)
    for s in range(16):
        sc[s], m[s] = block[s] & 15, block[s] >> 4
    d, dmin = read_half(block, 80), read_half(block, 82)
    d, dmin = asymmetric_improve(x, importance, NMAX, TOP, d, dmin, sc, m)
    write_block(x, d, dmin, sc, m, np.zeros(256, np.float32), trial)
