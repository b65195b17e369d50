"""IQ1_M: 256 weights as 32 points of a grid of -1, 0 and 1, 8 weights each; 16 sub-blocks of 16.

    qs[32]     uint8     low eight bits of each point of the grid, 8 weights  56 bytes, 1.75 bits per weight
    qh[16]     uint8     for each sub-block two nibbles, one for each of its points: bits 0 .. 2 are the high
                         bits of the point; bit 3: is the shift below zero?
    scales[4]  uint16    bits 3s .. 3s + 2 of word w: scale of sub-block 4w + s; the high nibbles of the four
                         words together, lowest first, are the float16 d
    weight = (d * (2 * scale + 1)) * (value + shift), shift 1/8 or -1/8

Source: ggml `block_iq1_m`, `dequantize_row_iq1_m`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import half_to_float
from blocks2tokens.formats.grids import IQ1
from blocks2tokens.formats.iq1_s import SHIFT
from blocks2tokens.formats.iq2_xs import nibbles

GGML_TYPE = 29
WEIGHTS = 256
BLOCK = np.dtype([("qs", "u1", 32), ("qh", "u1", 16), ("scales", "<u2", 4)])


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    words = blocks["scales"]
    d = np.bitwise_or.reduce(words >> 12 << np.arange(0, 16, 4, dtype=np.uint16), axis=1)
    scales = (words[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7).reshape(-1, 16)
    scales = d.view(np.float16).astype(np.float32)[:, None] * (2 * scales + 1)
    high = nibbles(blocks["qh"])  # [n, 32]
    values = IQ1[blocks["qs"] | (high & 7).astype(np.uint16) << 8]
    shifts = np.where(high >> 3, -SHIFT, SHIFT)[:, :, None]
    return (scales.astype(np.float32).repeat(2, axis=1)[:, :, None] * (values + shifts)).reshape(-1, 256)


@njit(cache=True)
def word(raw, at, w):
    """Return word w of the scales of the block at `at`."""
    return np.int64(raw[at + 48 + 2 * w]) | np.int64(raw[at + 49 + 2 * w]) << 8


@njit(cache=True)
def point(raw, at, g):
    """Return the scale, the row of the grid and the shift of weights 8g .. 8g + 7 of the block at `at`."""
    bits = word(raw, at, 0) >> 12 | word(raw, at, 1) >> 12 << 4 | word(raw, at, 2) >> 12 << 8
    d = half_to_float(np.uint16(bits | word(raw, at, 3) >> 12 << 12))
    s = g // 2
    scale = d * np.float32(2 * (word(raw, at, s // 4) >> (3 * (s % 4)) & 7) + 1)
    high = raw[at + 32 + s] >> (4 * (g % 2)) & 15
    return scale, np.int64(raw[at + g]) | np.int64(high & 7) << 8, -SHIFT if high >> 3 else SHIFT


@njit(cache=True)
def decode_row(raw, out):
    for group in range(out.size // 8):
        scale, code, shift = point(raw, group // 32 * 56, group % 32)
        for j in range(8):
            out[8 * group + j] = scale * (np.float32(IQ1[code, j]) + shift)


@njit(cache=True)
def decode_element(raw, i):
    scale, code, shift = point(raw, i // 256 * 56, i % 256 // 8)
    return scale * (np.float32(IQ1[code, i % 8]) + shift)
