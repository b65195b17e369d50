"""IQ4_XS: 256 weights as codes into the table of IQ4_NL, in 8 sub-blocks of 32 with 6-bit scales.

    d            float16    scale of the scales                    136 bytes, 4.25 bits per weight
    scales_h     uint16     bits 2s, 2s + 1: high two bits of the scale of sub-block s
    scales_l[4]  uint8      low four bits: nibble s % 2 of byte s // 2
    qs[128]      uint8      sub-block s in bytes 16s..16s + 15: low nibbles first, then high ones
    weight = (d * (scale - 32)) * VALUES[q]

Source: ggml `block_iq4_xs`, `dequantize_row_iq4_xs`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import as_in_c, read_half, signed_max, write_half
from blocks2tokens.formats.iq4_nl import VALUES, table_codes, table_search
from blocks2tokens.formats.q4_0 import pack_halves
from blocks2tokens.formats.search import code, importance_weights, mean_square, squares

GGML_TYPE = 23
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)])


def unpack_scales(blocks):
    """Return the signed scales of the sub-blocks, int8 [n, 8]."""
    low = np.stack([blocks["scales_l"] & 15, blocks["scales_l"] >> 4], axis=2).reshape(-1, 8)
    high = (blocks["scales_h"][:, None] >> np.arange(0, 16, 2, dtype=np.uint16)) & np.uint16(3)
    return (low | high.astype(np.uint8) << 4).astype(np.int8) - np.int8(32)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    qs = blocks["qs"].reshape(-1, 8, 16)
    q = np.concatenate([qs & 15, qs >> 4], axis=2)  # [n, 8, 32]
    scales = blocks["d"].astype(np.float32)[:, None] * unpack_scales(blocks)
    return (scales[:, :, None] * VALUES[q]).reshape(-1, 256)


@njit(cache=True)
def scale_at(raw, at, s):
    """Return the scale of sub-block s, -32..31, of the block at byte `at`."""
    high = (raw[at + 2 + s // 4] >> (2 * (s % 4))) & 3
    low = (raw[at + 4 + s // 2] >> (4 * (s % 2))) & 15
    return (low | high << 4) - 32


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 256):
        at, y = block * 136, block * 256
        d = read_half(raw, at)
        for s in range(8):
            scale = d * np.float32(scale_at(raw, at, s))
            for j in range(16):
                q = raw[at + 8 + 16 * s + j]
                out[y + 32 * s + j] = scale * np.float32(VALUES[q & 15])
                out[y + 32 * s + 16 + j] = scale * np.float32(VALUES[q >> 4])


@njit(cache=True)
def decode_element(raw, i):
    at, s, j = i // 256 * 136, i % 256 // 32, i % 32
    q = (raw[at + 8 + 16 * s + j % 16] >> (4 * (j // 16))) & 15
    scale = read_half(raw, at) * np.float32(scale_at(raw, at, s))
    return scale * np.float32(VALUES[q])


@as_in_c
def finish_block(x, scales, out):
    """Write a block whose largest scale becomes -32, with codes that fit d before its rounding to float16."""
    codes = np.empty(32, np.float32)
    d = -signed_max(scales, 0, 8) / np.float32(32)
    inverse = np.float32(1) / d if d != 0 else np.float32(0)
    for i in range(2, 8):
        out[i] = 0
    write_half(out, 0, d)
    for s in range(8):
        sc = code(inverse * scales[s], -32, 31)
        scale, stored = d * sc, int(sc) + 32
        table_codes(x[32 * s : 32 * s + 32], np.float32(1) / scale if scale != 0 else np.float32(0), codes)
        out[2 + s // 4] |= (stored >> 4) << (2 * (s % 4))
        out[4 + s // 2] |= (stored & 15) << (4 * (s % 2))
        pack_halves(codes, out[8 + 16 * s :])


@as_in_c
def encode_row(x, raw):
    scales, weights = np.empty(8, np.float32), np.empty(32, np.float32)
    for block in range(x.size // 256):
        y = x[256 * block : 256 * block + 256]
        for s in range(8):
            z = y[32 * s : 32 * s + 32]
            squares(z, weights)
            scales[s] = table_search(z, weights)
        finish_block(y, scales, raw[136 * block : 136 * block + 136])


@as_in_c
def encode_row_weighted(x, importance, raw):
    scales, weights = np.empty(8, np.float32), np.empty(32, np.float32)
    for block in range(x.size // 256):
        y = x[256 * block : 256 * block + 256]
        variance = np.float32(2) * mean_square(y)
        for s in range(8):
            z = y[32 * s : 32 * s + 32]
            importance_weights(z, importance[256 * block + 32 * s :], variance, weights)
            scales[s] = table_search(z, weights)
        finish_block(y, scales, raw[136 * block : 136 * block + 136])
