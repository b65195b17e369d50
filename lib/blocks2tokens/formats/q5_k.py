"""Q5_K: 256 weights as 5-bit codes in 8 sub-blocks of 32, each with a 6-bit scale and minimum.

    d           float16    scale of the scales                     176 bytes, 5.5 bits per weight
    dmin        float16    scale of the minimums
    scales[12]  uint8      8 scales and 8 minimums of 6 bits, packed as in Q4_K
    qh[32]      uint8      bit s of qh[l]: fifth (highest) bit of weight l of sub-block s
    qs[128]     uint8      low four bits, laid out as in Q4_K
    weight = (d * scale) * q - (dmin * minimum)

Source: ggml `block_q5_K`, `dequantize_row_q5_K`, `quantize_row_q5_K_ref`, `quantize_row_q5_K_impl`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import as_in_c, read_half
from blocks2tokens.formats.q4_k import (
    encode_scales,
    encode_scales_weighted,
    improve_scales,
    pack_nibbles,
    scale_min,
    split_nibbles,
    sub_block_scales,
)

GGML_TYPE = 13
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)])

NMAX = np.int64(31)  # largest code
GRID = (-0.5, 0.1, np.int64(15))  # ggml's search, see `asymmetric_search`


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    scales, mins = sub_block_scales(blocks)
    high = (blocks["qh"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & 1  # [n, 8, 32]
    q = split_nibbles(blocks["qs"]) | high << 4
    return (scales * q - mins).reshape(-1, 256)


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 256):
        at, y = block * 176, block * 256
        d, dmin = read_half(raw, at), read_half(raw, at + 2)
        for s in range(8):
            sc, m = scale_min(raw, at + 4, s)
            scale, minimum = d * np.float32(sc), dmin * np.float32(m)
            codes = at + 48 + 32 * (s // 2)
            shift = 4 * (s % 2)
            for l in range(32):
                q = ((raw[codes + l] >> shift) & 15) | ((raw[at + 16 + l] >> s) & 1) << 4
                out[y + 32 * s + l] = scale * np.float32(q) - minimum


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 256 * 176, i % 256
    s, l = j // 32, j % 32
    d, dmin = read_half(raw, at), read_half(raw, at + 2)
    sc, m = scale_min(raw, at + 4, s)
    q = ((raw[at + 48 + 32 * (s // 2) + l] >> (4 * (s % 2))) & 15) | ((raw[at + 16 + l] >> s) & 1) << 4
    return d * np.float32(sc) * np.float32(q) - dmin * np.float32(m)


@as_in_c
def pack_codes(codes, out):
    """Write 5-bit codes, float32 [256], into 160 bytes, qh and qs; leave their low four bits in codes."""
    for l in range(32):
        high = 0
        for s in range(8):
            if codes[32 * s + l] > 15:
                codes[32 * s + l] -= np.float32(16)
                high |= 1 << s
        out[l] = high
    pack_nibbles(codes, out[32:])


@as_in_c
def encode_row(x, raw):
    for block in range(x.size // 256):
        out = raw[176 * block : 176 * block + 176]
        pack_codes(encode_scales(x[256 * block : 256 * block + 256], NMAX, GRID, out), out[16:])


@as_in_c
def encode_row_weighted(x, importance, raw):
    for block in range(x.size // 256):
        y, out = x[256 * block : 256 * block + 256], raw[176 * block : 176 * block + 176]
        pack_codes(encode_scales_weighted(y, importance[256 * block :], NMAX, out), out[16:])


@as_in_c
def improve_block(x, importance, block, trial):
    codes = np.zeros(256, np.float32)
    improve_scales(x, importance, NMAX, block, codes, trial)
    pack_codes(codes, trial[16:])
