"""Q4_0: 32 weights as 4-bit codes with one float16 scale.

    d        float16    scale                                       18 bytes, 4.5 bits per weight
    qs[16]   uint8      codes 0..15: low nibble of byte j is weight j, high nibble weight j + 16
    weight = d * (q - 8)

Source: ggml `block_q4_0`, `quantize_row_q4_0_ref`, `quantize_row_q4_0_impl`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.best import level_table, scale_improve
from blocks2tokens.formats.compiled import as_in_c, read_half, signed_max, write_half
from blocks2tokens.formats.search import importance_weights, mean_square, symmetric_recode, symmetric_search

GGML_TYPE = 2
WEIGHTS = 32
BLOCK = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
NMAX = np.int64(8)  # codes stand for -NMAX..NMAX - 1
LEVELS = level_table(np.arange(-NMAX, NMAX))


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 32]."""
    q = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1).astype(np.int8) - np.int8(8)
    return blocks["d"].astype(np.float32)[:, None] * q


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 32):
        at, y = block * 18, block * 32
        d = read_half(raw, at)
        for j in range(16):
            q = raw[at + 2 + j]
            out[y + j] = d * np.float32((q & 15) - 8)
            out[y + 16 + j] = d * np.float32((q >> 4) - 8)


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 32 * 18, i % 32
    d = read_half(raw, at)
    q = (raw[at + 2 + j % 16] >> (4 * (j // 16))) & 15
    return d * np.float32(q - 8)


@njit(cache=True)
def encode_row(x, raw):
    for block in range(x.size // 32):
        at, k = block * 18, block * 32
        d = signed_max(x, k, 32) / np.float32(-8)
        inverse = np.float32(1) / d if d != 0 else np.float32(0)
        write_half(raw, at, d)
        for j in range(16):
            low = min(15, int(x[k + j] * inverse + np.float32(8.5)))
            high = min(15, int(x[k + 16 + j] * inverse + np.float32(8.5)))
            raw[at + 2 + j] = low | high << 4


@as_in_c
def pack_halves(codes, out):
    """Write 4-bit codes, float32 [32], into 16 bytes: the first half in the low nibbles."""
    for j in range(16):
        out[j] = int(codes[j]) | int(codes[j + 16]) << 4


@as_in_c
def encode_row_weighted(x, importance, raw):
    codes, variance = np.empty(32, np.float32), mean_square(x)
    for block in range(x.size // 32):
        y, out = x[32 * block : 32 * block + 32], raw[18 * block : 18 * block + 18]
        weights = importance_weights(y, importance[32 * block :], variance)
        write_half(out, 0, symmetric_search(y, weights, NMAX, codes))
        pack_halves(codes, out[2:])


@as_in_c
def improve_block(x, importance, block, trial):
    codes, d = np.zeros(32, np.float32), scale_improve(x, importance, LEVELS, 0.4, 1.25)
    symmetric_recode(x, d, NMAX, codes)
    write_half(trial, 0, d)
    pack_halves(codes, trial[2:])
