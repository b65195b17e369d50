"""Q6_K: 256 weights as 6-bit codes in 16 sub-blocks of 16, each with an int8 scale.

    ql[128]     uint8      low four bits of the codes
    qh[64]      uint8      high two bits of the codes
    scales[16]  int8       one scale per sub-block of 16
    d           float16    scale of the scales                     210 bytes, 6.5625 bits per weight
    weight = (d * scale) * (q - 32)

Half h, quarter t, l < 32: weight 128h + 32t + l has its low bits in ql[64h + 32(t % 2) + l], low
nibble for t < 2 and high nibble for t >= 2; its high bits are bits 2t, 2t + 1 of qh[32h + l].
Source: ggml `block_q6_K`, `dequantize_row_q6_K`, `quantize_row_q6_K_ref`, `quantize_row_q6_K_impl`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.best import level_table, symmetric_improve
from blocks2tokens.formats.compiled import as_in_c, read_half, signed_max, write_half
from blocks2tokens.formats.search import TINY, code, squares, symmetric_recode, symmetric_scales

GGML_TYPE = 14
WEIGHTS = 256
BLOCK = np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")])
SIZE, NMAX = np.int64(16), np.int64(32)  # weights in a sub-block; codes stand for -NMAX..NMAX - 1
LOW, HIGH, REACH = np.int64(-128), np.int64(127), np.int64(16)  # range of scales; how far to look for better
LEVELS = level_table(np.arange(-NMAX, NMAX))


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    ql = blocks["ql"].reshape(-1, 2, 64)  # [n, half, 64]
    low = np.concatenate([ql & 15, ql >> 4], axis=2)  # [n, half, 128]
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = (blocks["qh"].reshape(-1, 2, 1, 32) >> shifts) & 3  # [n, half, quarter, 32]
    q = (low | high.reshape(-1, 2, 128) << 4).astype(np.int8) - np.int8(32)
    scales = blocks["d"].astype(np.float32)[:, None] * blocks["scales"]  # [n, 16]
    return (scales[:, :, None] * q.reshape(-1, 16, 16)).reshape(-1, 256)


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 256):
        at, y = block * 210, block * 256
        d = read_half(raw, at + 208)
        for s in range(16):
            scale = d * np.float32(np.int8(raw[at + 192 + s]))
            half, quarter = s // 8, s % 8 // 2
            low = at + 64 * half + 32 * (quarter % 2) + 16 * (s % 2)
            high = at + 128 + 32 * half + 16 * (s % 2)
            nibble, pair = 4 * (quarter // 2), 2 * quarter
            for l in range(16):
                q = ((raw[low + l] >> nibble) & 15) | ((raw[high + l] >> pair) & 3) << 4
                out[y + 16 * s + l] = scale * np.float32(q - 32)


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 256 * 210, i % 256
    half, quarter, l = j // 128, j % 128 // 32, j % 32
    low = raw[at + 64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter // 2))
    high = raw[at + 128 + 32 * half + l] >> (2 * quarter)
    scale = read_half(raw, at + 208) * np.float32(np.int8(raw[at + 192 + j // 16]))
    return scale * np.float32(((low & 15) | (high & 3) << 4) - 32)


@as_in_c
def pack_codes(codes, out):
    """Write 6-bit codes, float32 [256], into 192 bytes: ql, then qh."""
    for half in range(2):
        for l in range(32):
            at = 128 * half + l
            a, b, c, d = int(codes[at]), int(codes[at + 32]), int(codes[at + 64]), int(codes[at + 96])
            out[64 * half + l] = (a & 15) | (c & 15) << 4
            out[64 * half + 32 + l] = (b & 15) | (d & 15) << 4
            out[128 + 32 * half + l] = a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6


@as_in_c
def write_block(x, d, sc, codes, out):
    """Write a block with the codes that fit its scales, -128..127, now that they are rounded."""
    write_half(out, 208, d)
    d = read_half(out, 208)
    for s in range(16):
        out[192 + s] = int(sc[s]) & 255
        symmetric_recode(x[16 * s : 16 * s + 16], d * sc[s], NMAX, codes[16 * s : 16 * s + 16])
    pack_codes(codes, out)


@as_in_c
def write_rounded(x, scales, codes, out):
    """Write a block with its scales rounded such that the largest becomes -128; or zeros, if all are tiny."""
    largest = signed_max(scales, 0, 16)
    if abs(largest) < TINY:
        for i in range(210):
            out[i] = 0
        return
    inverse = np.float32(-128) / largest
    for s in range(16):
        scales[s] = code(inverse * scales[s], -128, 127)
    write_block(x, np.float32(1) / inverse, scales, codes, out)


@as_in_c
def encode_row(x, raw):
    for block in range(x.size // 256):
        y = x[256 * block : 256 * block + 256]
        scales, codes = symmetric_scales(y, squares(y), SIZE, NMAX)
        write_rounded(y, scales, codes, raw[210 * block : 210 * block + 210])


@as_in_c
def encode_row_weighted(x, importance, raw):
    for block in range(x.size // 256):
        y, weights = x[256 * block : 256 * block + 256], importance[256 * block : 256 * block + 256].copy()
        scales, codes = symmetric_scales(y, weights, SIZE, NMAX)
        write_rounded(y, scales, codes, raw[210 * block : 210 * block + 210])


@as_in_c
def improve_block(x, importance, block, trial):
    sc = np.empty(16, np.float32)
    for s in range(16):
        sc[s] = np.float32(np.int8(block[192 + s]))
    d = symmetric_improve(x, importance, LEVELS, LOW, HIGH, REACH, read_half(block, 208), sc)
    write_block(x, d, sc, np.zeros(256, np.float32), trial)
