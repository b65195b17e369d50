"""Q6_K: 256 weights as 6-bit codes in 16 sub-blocks of 16, each with an int8 scale.

    ql[128]     uint8      low four bits of the codes
    qh[64]      uint8      high two bits of the codes
    scales[16]  int8       one scale per sub-block of 16
    d           float16    scale of the scales                     210 bytes, 6.5625 bits per weight
    weight = (d * scale) * (q - 32)

Half h, quarter t, l < 32: weight 128h + 32t + l has its low bits in ql[64h + 32(t % 2) + l], low
nibble for t < 2 and high nibble for t >= 2; its high bits are bits 2t, 2t + 1 of qh[32h + l].
Source: ggml `block_q6_K`, `dequantize_row_q6_K`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import as_in_c, read_half, signed_max, write_half
from blocks2tokens.formats.search import TINY, code, copy, squares, symmetric_recode, symmetric_search

GGML_TYPE = 14
WEIGHTS = 256
BLOCK = np.dtype([("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")])


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
            a, b, c, e = int(codes[at]), int(codes[at + 32]), int(codes[at + 64]), int(codes[at + 96])
            out[64 * half + l] = (a & 15) | (c & 15) << 4
            out[64 * half + 32 + l] = (b & 15) | (e & 15) << 4
            out[128 + 32 * half + l] = a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (e >> 4) << 6


@as_in_c
def finish_block(x, scales, codes, out):
    """Write a block whose largest scale becomes -128, and the codes that fit the scales so rounded."""
    largest = signed_max(scales, 0, 16)
    if abs(largest) < TINY:
        for i in range(210):
            out[i] = 0
        return
    inverse = np.float32(-128) / largest
    write_half(out, 208, np.float32(1) / inverse)
    d = read_half(out, 208)
    for s in range(16):
        sc = code(inverse * scales[s], -128, 127)
        out[192 + s] = int(sc) & 255
        symmetric_recode(x[16 * s : 16 * s + 16], d * sc, 32, codes[16 * s : 16 * s + 16])
    pack_codes(codes, out)


@as_in_c
def encode_row(x, raw):
    scales, weights, codes = np.empty(16, np.float32), np.empty(16, np.float32), np.empty(256, np.float32)
    for block in range(x.size // 256):
        y = x[256 * block : 256 * block + 256]
        for s in range(16):
            z = y[16 * s : 16 * s + 16]
            squares(z, weights)
            scales[s] = symmetric_search(z, weights, 32, codes[16 * s : 16 * s + 16])
        finish_block(y, scales, codes, raw[210 * block : 210 * block + 210])


@as_in_c
def encode_row_weighted(x, importance, raw):
    scales, weights, codes = np.empty(16, np.float32), np.empty(16, np.float32), np.empty(256, np.float32)
    for block in range(x.size // 256):
        y = x[256 * block : 256 * block + 256]
        for s in range(16):
            z = y[16 * s : 16 * s + 16]
            copy(importance[256 * block + 16 * s : 256 * block + 16 * s + 16], weights)
            scales[s] = symmetric_search(z, weights, 32, codes[16 * s : 16 * s + 16])
        finish_block(y, scales, codes, raw[210 * block : 210 * block + 210])
