"""Q3_K: 256 weights as 3-bit codes in 16 sub-blocks of 16, each with a signed 6-bit scale.

    hmask[32]   uint8      bit 4h + t of hmask[l]: third bit of weight 128h + 32t + l
    qs[64]      uint8      low two bits, laid out as in Q2_K
    scales[12]  uint8      16 scales of 6 bits, see `unpack_scales`
    d           float16    scale of the scales                     110 bytes, 3.4375 bits per weight
    weight = (d * (scale - 32)) * (q - 4)

Source: ggml `block_q3_K`, `dequantize_row_q3_K`, `quantize_row_q3_K_ref`, `quantize_row_q3_K_impl`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.best import level_table, symmetric_improve
from blocks2tokens.formats.compiled import as_in_c, read_half, signed_max, write_half
from blocks2tokens.formats.q2_k import pack_codes, split_codes
from blocks2tokens.formats.search import (
    TINY,
    code,
    importance_weights,
    mean_square,
    refine_codes,
    squares,
    symmetric_codes,
    symmetric_recode,
    symmetric_scales,
    symmetric_search,
    totals,
)

GGML_TYPE = 11
WEIGHTS = 256
BLOCK = np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")])
SIZE, NMAX = np.int64(16), np.int64(4)  # weights in a sub-block; codes stand for -NMAX..NMAX - 1
LOW, HIGH, REACH = np.int64(-32), np.int64(31), np.int64(8)  # range of scales; how far to look for better
LEVELS = level_table(np.arange(-NMAX, NMAX))


def unpack_scales(scales):
    """Return the 16 signed scales of each block, int8 [n, 16], from bytes uint8 [n, 12].

    Low four bits: nibbles of bytes 0..7 (low nibbles first). High two bits: bytes 8..11, two at a time.
    """
    low = np.concatenate([scales[:, :8] & 15, scales[:, :8] >> 4], axis=1)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = (scales[:, None, 8:] >> shifts) & 3  # [n, 4, 4]
    return (low | (high.reshape(-1, 16) << 4)).astype(np.int8) - np.int8(32)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    scales = blocks["d"].astype(np.float32)[:, None] * unpack_scales(blocks["scales"])  # [n, 16]
    bits = np.arange(8, dtype=np.uint8)[:, None]
    high = (blocks["hmask"][:, None, :] >> bits) & 1  # [n, 8, 32]
    q = (split_codes(blocks["qs"]) | (high.reshape(-1, 16, 16) << 2)).astype(np.int8) - np.int8(4)
    return (scales[:, :, None] * q).reshape(-1, 256)


@njit(cache=True)
def scale_at(raw, at, s):
    """Return the scale of sub-block s, -32..31, from the 12 bytes at `at`."""
    low = (raw[at + s % 8] >> (4 * (s // 8))) & 15
    high = (raw[at + 8 + s % 4] >> (2 * (s // 4))) & 3
    return (low | high << 4) - 32


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 256):
        at, y = block * 110, block * 256
        d = read_half(raw, at + 108)
        for s in range(16):
            scale = d * np.float32(scale_at(raw, at + 96, s))
            codes = at + 32 + 32 * (s // 8) + 16 * (s % 2)
            highs = at + 16 * (s % 2)
            shift = 2 * (s % 8 // 2)
            for l in range(16):
                q = ((raw[codes + l] >> shift) & 3) | ((raw[highs + l] >> (s // 2)) & 1) << 2
                out[y + 16 * s + l] = scale * np.float32(q - 4)


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 256 * 110, i % 256
    scale = read_half(raw, at + 108) * np.float32(scale_at(raw, at + 96, j // 16))
    low = (raw[at + 32 + 32 * (j // 128) + j % 32] >> (2 * (j % 128 // 32))) & 3
    high = (raw[at + j % 32] >> (j // 32)) & 1
    return scale * np.float32((low | high << 2) - 4)


@as_in_c
def pack_scales(sc, out):
    """Write 16 scales, float32 [16] from -32 to 31, into 12 bytes: the inverse of `unpack_scales`."""
    for s in range(4):
        out[s] = out[s + 4] = out[s + 8] = 0
    for s in range(16):
        stored = int(sc[s]) + 32
        out[s % 8] |= (stored & 15) << (4 * (s // 8))
        out[8 + s % 4] |= (stored >> 4) << (2 * (s // 4))


@as_in_c
def pack_high_bits(codes, out):
    """Write the third bits of codes, float32 [256], into 32 bytes; leave the low two in codes."""
    for l in range(32):
        high = 0
        for s in range(8):
            if codes[32 * s + l] > 3:
                codes[32 * s + l] -= np.float32(4)
                high |= 1 << s
        out[l] = high


@as_in_c
def write_block(x, d, sc, codes, out):
    """Write a block with the codes that fit its scales, -32..31, now that they are rounded."""
    write_half(out, 108, d)
    d = read_half(out, 108)
    for s in range(16):
        symmetric_recode(x[16 * s : 16 * s + 16], d * sc[s], NMAX, codes[16 * s : 16 * s + 16])
    pack_scales(sc, out[96:])
    pack_high_bits(codes, out)
    pack_codes(codes, out[32:])


@as_in_c
def refined_scale(x, codes):
    """Fit x by scale * (codes - 4), refining the codes of scale = largest / -4; return the scale.

    Source: ggml `make_q3_quants`.
    """
    largest = signed_max(x, 0, x.size)
    if abs(largest) < TINY:
        for i in range(x.size):
            codes[i] = np.float32(0)
        return np.float32(0)
    symmetric_codes(x, np.float32(-4) / largest, NMAX, codes)
    scale = refine_codes(x, squares(x), codes, -NMAX, NMAX - 1)
    for i in range(x.size):
        codes[i] += np.float32(4)
    return scale


@as_in_c
def encode_row(x, raw):
    scales, sc, codes = np.empty(16, np.float32), np.empty(16, np.float32), np.empty(256, np.float32)
    for block in range(x.size // 256):
        y, out = x[256 * block : 256 * block + 256], raw[110 * block : 110 * block + 110]
        for s in range(16):
            scales[s] = refined_scale(y[16 * s : 16 * s + 16], codes[16 * s : 16 * s + 16])
        largest = signed_max(scales, 0, 16)
        inverse = np.float32(-32) / largest if largest != 0 else np.float32(np.inf)
        for s in range(16):
            sc[s] = code(inverse * scales[s], -32, 31) if largest != 0 else np.float32(-32)
        write_block(y, np.float32(1) / inverse, sc, codes, out)


@as_in_c
def encode_row_weighted(x, importance, raw):
    sc = np.empty(16, np.float32)
    for block in range(x.size // 256):
        y, out = x[256 * block : 256 * block + 256], raw[110 * block : 110 * block + 110]
        weights = importance_weights(y, importance[256 * block :], np.float32(2) * mean_square(y))
        scales, codes = symmetric_scales(y, weights, SIZE, NMAX)
        d = symmetric_search(scales, totals(weights, SIZE), np.int64(32), sc)
        for s in range(16):
            sc[s] -= np.float32(32)
        write_block(y, d, sc, codes, out)


@as_in_c
def improve_block(x, importance, block, trial):
    sc = np.empty(16, np.float32)
    for s in range(16):
        sc[s] = np.float32(scale_at(block, 96, s))
    d = symmetric_improve(x, importance, LEVELS, LOW, HIGH, REACH, read_half(block, 108), sc)
    write_block(x, d, sc, np.zeros(256, np.float32), trial)
