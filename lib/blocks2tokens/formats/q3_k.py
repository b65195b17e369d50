"""Q3_K: 256 weights as 3-bit codes in 16 sub-blocks of 16, each with a signed 6-bit scale.

    hmask[32]   uint8      bit 4h + t of hmask[l]: third bit of weight 128h + 32t + l
    qs[64]      uint8      low two bits, laid out as in Q2_K
    scales[12]  uint8      16 scales of 6 bits, see `unpack_scales`
    d           float16    scale of the scales                     110 bytes, 3.4375 bits per weight
    weight = (d * (scale - 32)) * (q - 4)

Source: ggml `block_q3_K`, `dequantize_row_q3_K`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import as_in_c, read_half, signed_max, write_half
from blocks2tokens.formats.q2_k import pack_codes, split_codes
from blocks2tokens.formats.search import (
    code,
    importance_weights,
    mean_square,
    squares,
    symmetric_recode,
    symmetric_refine,
    symmetric_search,
    total,
)

GGML_TYPE = 11
WEIGHTS = 256
BLOCK = np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")])


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
def finish_block(x, d, sc, codes, out):
    """Write a block with scales sc, 0..63, and the codes that fit them now that they are rounded."""
    write_half(out, 108, d)
    d = read_half(out, 108)
    for s in range(4):
        a, b, c, e = int(sc[s]), int(sc[s + 4]), int(sc[s + 8]), int(sc[s + 12])
        out[96 + s] = (a & 15) | (c & 15) << 4
        out[100 + s] = (b & 15) | (e & 15) << 4
        out[104 + s] = a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (e >> 4) << 6
    for s in range(16):
        scale = d * (sc[s] - np.float32(32))
        symmetric_recode(x[16 * s : 16 * s + 16], scale, 4, codes[16 * s : 16 * s + 16])
    pack_high_bits(codes, out)
    pack_codes(codes, out[32:])


@as_in_c
def encode_row(x, raw):
    scales, sc, codes = np.empty(16, np.float32), np.empty(16, np.float32), np.empty(256, np.float32)
    weights = np.empty(16, np.float32)
    for block in range(x.size // 256):
        y = x[256 * block : 256 * block + 256]
        for s in range(16):
            z = y[16 * s : 16 * s + 16]
            squares(z, weights)
            scales[s] = symmetric_refine(z, weights, 4, codes[16 * s : 16 * s + 16])
        largest = signed_max(scales, 0, 16)
        inverse = np.float32(-32) / largest if largest != 0 else np.float32(0)
        for s in range(16):
            sc[s] = code(inverse * scales[s], -32, 31) + np.float32(32) if largest != 0 else np.float32(0)
        d = np.float32(1) / inverse if largest != 0 else np.float32(0)
        finish_block(y, d, sc, codes, raw[110 * block : 110 * block + 110])


@as_in_c
def encode_row_weighted(x, importance, raw):
    scales, sc, codes = np.empty(16, np.float32), np.empty(16, np.float32), np.empty(256, np.float32)
    weights, sums = np.empty(16, np.float32), np.empty(16, np.float32)
    for block in range(x.size // 256):
        y = x[256 * block : 256 * block + 256]
        variance = np.float32(2) * mean_square(y)
        for s in range(16):
            z = y[16 * s : 16 * s + 16]
            importance_weights(z, importance[256 * block + 16 * s :], variance, weights)
            scales[s] = symmetric_search(z, weights, 4, codes[16 * s : 16 * s + 16])
            sums[s] = total(weights)
        d = symmetric_search(scales, sums, 32, sc)
        finish_block(y, d, sc, codes, raw[110 * block : 110 * block + 110])
