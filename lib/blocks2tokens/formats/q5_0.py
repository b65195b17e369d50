"""Q5_0: 32 weights as 5-bit codes with one float16 scale.

    d        float16    scale                                       22 bytes, 5.5 bits per weight
    qh       uint32     bit i is the fifth (highest) bit of weight i
    qs[16]   uint8      low four bits: low nibble of byte j is weight j, high nibble weight j + 16
    weight = d * (q - 16)

Source: ggml `block_q5_0`, `quantize_row_q5_0_ref`, `quantize_row_q5_0_impl`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.best import level_table, scale_improve
from blocks2tokens.formats.compiled import as_in_c, read_half, read_u32, signed_max, write_half, write_u32
from blocks2tokens.formats.search import importance_weights, mean_square, symmetric_recode, symmetric_search

GGML_TYPE = 6
WEIGHTS = 32
BLOCK = np.dtype([("d", "<f2"), ("qh", "<u4"), ("qs", "u1", 16)])
NMAX = np.int64(16)  # codes stand for -NMAX..NMAX - 1
LEVELS = level_table(np.arange(-NMAX, NMAX))


def join_codes(blocks):
    """Return the 5-bit codes of blocks with fields qh and qs, uint8 [n, 32]."""
    low = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)
    high = (blocks["qh"][:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    return low | (high.astype(np.uint8) << 4)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 32]."""
    return blocks["d"].astype(np.float32)[:, None] * (join_codes(blocks).astype(np.int8) - np.int8(16))


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 32):
        at, y = block * 22, block * 32
        d, qh = read_half(raw, at), read_u32(raw, at + 2)
        for j in range(16):
            q = raw[at + 6 + j]
            out[y + j] = d * np.float32(((q & 15) | ((qh >> j) & 1) << 4) - 16)
            out[y + 16 + j] = d * np.float32(((q >> 4) | ((qh >> (j + 16)) & 1) << 4) - 16)


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 32 * 22, i % 32
    d, qh = read_half(raw, at), read_u32(raw, at + 2)
    q = (raw[at + 6 + j % 16] >> (4 * (j // 16))) & 15
    return d * np.float32((q | ((qh >> j) & 1) << 4) - 16)


@njit(cache=True)
def encode_row(x, raw):
    for block in range(x.size // 32):
        at, k = block * 22, block * 32
        d = signed_max(x, k, 32) / np.float32(-16)
        inverse = np.float32(1) / d if d != 0 else np.float32(0)
        write_half(raw, at, d)
        qh = 0
        for j in range(16):
            low = min(31, int(x[k + j] * inverse + np.float32(16.5)))
            high = min(31, int(x[k + 16 + j] * inverse + np.float32(16.5)))
            raw[at + 6 + j] = (low & 15) | (high & 15) << 4
            qh |= (low >> 4) << j | (high >> 4) << (j + 16)
        write_u32(raw, at + 2, qh)


@as_in_c
def pack_codes(codes, out):
    """Write 5-bit codes, float32 [32], into 20 bytes: qh, then qs."""
    qh = 0
    for j in range(16):
        low, high = int(codes[j]), int(codes[j + 16])
        out[4 + j] = (low & 15) | (high & 15) << 4
        qh |= (low >> 4) << j | (high >> 4) << (j + 16)
    write_u32(out, 0, qh)


@as_in_c
def encode_row_weighted(x, importance, raw):
    codes, variance = np.empty(32, np.float32), mean_square(x)
    for block in range(x.size // 32):
        y, out = x[32 * block : 32 * block + 32], raw[22 * block : 22 * block + 22]
        weights = importance_weights(y, importance[32 * block :], variance)
        write_half(out, 0, symmetric_search(y, weights, NMAX, codes))
        pack_codes(codes, out[2:])


@as_in_c
def improve_block(x, importance, block, trial):
    codes, d = np.zeros(32, np.float32), scale_improve(x, importance, LEVELS, 0.6, 1.15)
    symmetric_recode(x, d, NMAX, codes)
    write_half(trial, 0, d)
    pack_codes(codes, trial[2:])
