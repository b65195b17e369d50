"""Q2_K: 256 weights as 2-bit codes in 16 sub-blocks of 16, each with a 4-bit scale and minimum.

    scales[16]  uint8      sub-block s: low nibble scale, high nibble minimum
    qs[64]      uint8      codes 0..3, four in a byte
    d           float16    scale of the scales                     84 bytes, 2.625 bits per weight
    dmin        float16    scale of the minimums
    weight = (d * scale) * q - (dmin * minimum)

Weight 128h + 32t + l (half h, quarter t, l < 32) has its code in bits 2t, 2t + 1 of qs[32h + l].
Source: ggml `block_q2_K`, `dequantize_row_q2_K`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import read_half

GGML_TYPE = 10
WEIGHTS = 256
BLOCK = np.dtype([("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")])


def split_codes(qs):
    """Return the 2-bit codes of planes qs, uint8 [n, 64], in the order of the weights, uint8 [n, 16, 16]."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    q = (qs.reshape(-1, 2, 1, 32) >> shifts) & 3  # [n, half, quarter, 32]
    return q.reshape(-1, 16, 16)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    d, dmin = blocks["d"].astype(np.float32)[:, None], blocks["dmin"].astype(np.float32)[:, None]
    scales, mins = d * (blocks["scales"] & 15), dmin * (blocks["scales"] >> 4)  # [n, 16]
    weights = scales[:, :, None] * split_codes(blocks["qs"]) - mins[:, :, None]
    return weights.reshape(-1, 256)


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 256):
        at, y = block * 84, block * 256
        d, dmin = read_half(raw, at + 80), read_half(raw, at + 82)
        for s in range(16):
            scale = d * np.float32(raw[at + s] & 15)
            minimum = dmin * np.float32(raw[at + s] >> 4)
            codes = at + 16 + 32 * (s // 8) + 16 * (s % 2)
            shift = 2 * (s % 8 // 2)
            for l in range(16):
                out[y + 16 * s + l] = scale * np.float32((raw[codes + l] >> shift) & 3) - minimum


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 256 * 84, i % 256
    d, dmin = read_half(raw, at + 80), read_half(raw, at + 82)
    scale = d * np.float32(raw[at + j // 16] & 15)
    minimum = dmin * np.float32(raw[at + j // 16] >> 4)
    q = (raw[at + 16 + 32 * (j // 128) + j % 32] >> (2 * (j % 128 // 32))) & 3
    return scale * np.float32(q) - minimum
