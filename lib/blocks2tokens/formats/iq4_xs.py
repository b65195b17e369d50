"""IQ4_XS: 256 weights as codes into the table of IQ4_NL, in 8 sub-blocks of 32 with 6-bit scales.

    d            float16    scale of the scales                    136 bytes, 4.25 bits per weight
    scales_h     uint16     bits 2s, 2s + 1: high two bits of the scale of sub-block s
    scales_l[4]  uint8      low four bits: nibble s % 2 of byte s // 2
    qs[128]      uint8      sub-block s in bytes 16s..16s + 15: low nibbles first, then high ones
    weight = (d * (scale - 32)) * VALUES[q]

Source: ggml `block_iq4_xs`, `dequantize_row_iq4_xs`, `quantize_row_iq4_nl_impl`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.best import symmetric_improve
from blocks2tokens.formats.compiled import as_in_c, read_half, signed_max, write_half
from blocks2tokens.formats.iq4_nl import LEVELS, VALUES, table_codes, table_search
from blocks2tokens.formats.q4_0 import pack_halves
from blocks2tokens.formats.search import code, importance_weights, mean_square, squares

GGML_TYPE = 23
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f2"), ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)])
LOW, HIGH, REACH = np.int64(-32), np.int64(31), np.int64(8)  # range of scales; how far to look for better


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
def write_block(x, d, sc, out):
    """Write a block with scales sc, -32..31, and the codes that fit them under d as given."""
    codes = np.empty(32, np.float32)
    for i in range(8):
        out[i] = 0
    write_half(out, 0, d)
    for s in range(8):
        stored, scale = int(sc[s]) + 32, d * sc[s]
        out[2 + s // 4] |= (stored >> 4) << (2 * (s % 4))
        out[4 + s // 2] |= (stored & 15) << (4 * (s % 2))
        table_codes(x[32 * s : 32 * s + 32], np.float32(1) / scale if scale != 0 else np.float32(0), codes)
        pack_halves(codes, out[8 + 16 * s :])


@as_in_c
def write_rounded(x, weights, out):
    """Search the scale of each sub-block and write a block in which the largest becomes -32.

    As in ggml, the codes fit d before it is rounded to float16.
    """
    scales = np.empty(8, np.float32)
    for s in range(8):
        scales[s] = table_search(x[32 * s : 32 * s + 32], weights[32 * s : 32 * s + 32])
    d = -signed_max(scales, 0, 8) / np.float32(32)
    inverse = np.float32(1) / d if d != 0 else np.float32(0)
    for s in range(8):
        scales[s] = code(inverse * scales[s], -32, 31)
    write_block(x, d, scales, out)


@as_in_c
def encode_row(x, raw):
    for block in range(x.size // 256):
        y = x[256 * block : 256 * block + 256]
        write_rounded(y, squares(y), raw[136 * block : 136 * block + 136])


@as_in_c
def encode_row_weighted(x, importance, raw):
    for block in range(x.size // 256):
        y = x[256 * block : 256 * block + 256]
        weights = importance_weights(y, importance[256 * block :], np.float32(2) * mean_square(y))
        write_rounded(y, weights, raw[136 * block : 136 * block + 136])


@as_in_c
def improve_block(x, importance, block, trial):
    sc = np.empty(8, np.float32)
    for s in range(8):
        sc[s] = np.float32(scale_at(block, 0, s))
    d = symmetric_improve(x, importance, LEVELS, LOW, HIGH, REACH, read_half(block, 0), sc)
    write_block(x, d, sc, trial)
