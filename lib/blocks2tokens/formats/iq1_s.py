"""IQ1_S: 256 weights as 32 points of a grid of -1, 0 and 1, 8 weights each; 8 sub-blocks of 32.

    d       float16   scale                                                50 bytes, 1.5625 bits per weight
    qs[32]  uint8     low eight bits of each point of the grid, 8 weights
    qh[8]   uint16    for each sub-block: bits 3g .. 3g + 2 the high bits of its point g; bits 12 .. 14 the
                      scale; bit 15: is the shift below zero?
    weight = (d * (2 * scale + 1)) * (value + shift), shift 1/8 or -1/8

Source: ggml `block_iq1_s`, `dequantize_row_iq1_s`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import read_half
from blocks2tokens.formats.grids import IQ1

GGML_TYPE = 19
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f2"), ("qs", "u1", 32), ("qh", "<u2", 8)])
SHIFT = np.float32(0.125)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    qh = blocks["qh"]
    scales = blocks["d"].astype(np.float32)[:, None] * (2 * (qh >> 12 & 7) + 1)
    shifts = np.where(qh >> 15, -SHIFT, SHIFT)
    high = (qh[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16)) & 7  # [n, 8, 4]
    values = IQ1[blocks["qs"].reshape(-1, 8, 4) | high << 8]
    weights = scales.astype(np.float32)[:, :, None, None] * (values + shifts[:, :, None, None])
    return weights.reshape(-1, 256)


@njit(cache=True)
def point(raw, at, g):
    """Return the scale, the row of the grid and the shift of weights 8g .. 8g + 7 of the block at `at`."""
    more = at + 34 + 2 * (g // 4)
    qh = np.int64(raw[more]) | np.int64(raw[more + 1]) << 8
    scale = read_half(raw, at) * np.float32(2 * (qh >> 12 & 7) + 1)
    return scale, np.int64(raw[at + 2 + g]) | (qh >> (3 * (g % 4)) & 7) << 8, -SHIFT if qh >> 15 else SHIFT


@njit(cache=True)
def decode_row(raw, out):
    for group in range(out.size // 8):
        scale, code, shift = point(raw, group // 32 * 50, group % 32)
        for j in range(8):
            out[8 * group + j] = scale * (np.float32(IQ1[code, j]) + shift)


@njit(cache=True)
def decode_element(raw, i):
    scale, code, shift = point(raw, i // 256 * 50, i % 256 // 8)
    return scale * (np.float32(IQ1[code, i % 8]) + shift)
