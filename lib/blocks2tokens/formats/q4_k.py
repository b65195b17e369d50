"""Q4_K: 256 weights as 4-bit codes in 8 sub-blocks of 32, each with a 6-bit scale and minimum.

    d           float16    scale of the scales                     144 bytes, 4.5 bits per weight
    dmin        float16    scale of the minimums
    scales[12]  uint8      8 scales and 8 minimums of 6 bits, see `unpack_scales`
    qs[128]     uint8      chunk c of 32 bytes: low nibbles sub-block 2c, high nibbles sub-block 2c + 1
    weight = (d * scale) * q - (dmin * minimum)

Source: ggml `block_q4_K`, `dequantize_row_q4_K`, `get_scale_min_k4`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import read_half

GGML_TYPE = 12
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)])


def unpack_scales(scales):
    """Return the scales and minimums of each block, two uint8 [n, 8], from bytes uint8 [n, 12].

    Sub-blocks 0..3 have theirs in the low six bits of bytes 0..3 and 4..7. Sub-blocks 4..7 have four
    bits in the nibbles of bytes 8..11 and their top two in what the first eight bytes left free.
    """
    a, b, c = scales[:, 0:4], scales[:, 4:8], scales[:, 8:12]
    sc = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    m = np.concatenate([b & 63, (c >> 4) | (b >> 6) << 4], axis=1)
    return sc, m


def sub_block_scales(blocks):
    """Return scale and minimum of each sub-block, two float32 [n, 8, 1]."""
    sc, m = unpack_scales(blocks["scales"])
    d, dmin = blocks["d"].astype(np.float32)[:, None], blocks["dmin"].astype(np.float32)[:, None]
    return (d * sc)[:, :, None], (dmin * m)[:, :, None]


def split_nibbles(qs):
    """Return the nibbles of qs, uint8 [n, 128], in the order of the sub-blocks, uint8 [n, 8, 32]."""
    chunks = qs.reshape(-1, 4, 1, 32)
    return np.concatenate([chunks & 15, chunks >> 4], axis=2).reshape(-1, 8, 32)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    scales, mins = sub_block_scales(blocks)
    return (scales * split_nibbles(blocks["qs"]) - mins).reshape(-1, 256)


@njit(cache=True)
def scale_min(raw, at, s):
    """Return the 6-bit scale and minimum of sub-block s from the 12 bytes at `at`."""
    if s < 4:
        return raw[at + s] & 63, raw[at + s + 4] & 63
    nibbles = raw[at + s + 4]
    return (nibbles & 15) | (raw[at + s - 4] >> 6) << 4, (nibbles >> 4) | (raw[at + s] >> 6) << 4


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 256):
        at, y = block * 144, block * 256
        d, dmin = read_half(raw, at), read_half(raw, at + 2)
        for s in range(8):
            sc, m = scale_min(raw, at + 4, s)
            scale, minimum = d * np.float32(sc), dmin * np.float32(m)
            codes = at + 16 + 32 * (s // 2)
            shift = 4 * (s % 2)
            for l in range(32):
                out[y + 32 * s + l] = scale * np.float32((raw[codes + l] >> shift) & 15) - minimum


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 256 * 144, i % 256
    s = j // 32
    d, dmin = read_half(raw, at), read_half(raw, at + 2)
    sc, m = scale_min(raw, at + 4, s)
    q = (raw[at + 16 + 32 * (s // 2) + j % 32] >> (4 * (s % 2))) & 15
    return d * np.float32(sc) * np.float32(q) - dmin * np.float32(m)
