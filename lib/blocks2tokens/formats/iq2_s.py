"""IQ2_S: 256 weights as 32 points of a grid, 8 weights each, with signs; 16 sub-blocks of 16.

    d          float16   scale                                             82 bytes, 2.5625 bits per weight
    qs[32]     uint8     low eight bits of each point of the grid, 8 weights
    signs[32]  uint8     bit j: the sign of weight j of the eight
    qh[8]      uint8     bits 2(g % 4), 2(g % 4) + 1 of byte g // 4: high two bits of point g
    scales[8]  uint8     nibble s % 2 of byte s // 2: scale of sub-block s
    weight = ((d * (0.5 + scale)) * 0.25) * magnitude, with its sign

Source: ggml `block_iq2_s`, `dequantize_row_iq2_s`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import read_half
from blocks2tokens.formats.grids import IQ2_S, signed, signed_weight
from blocks2tokens.formats.iq2_xs import nibbles

GGML_TYPE = 22
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f2"), ("qs", "u1", 32), ("signs", "u1", 32), ("qh", "u1", 8), ("scales", "u1", 8)])


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    high = (blocks["qh"][:, :, None] >> np.arange(0, 8, 2, dtype=np.uint8)) & 3  # [n, 8, 4]
    codes = blocks["qs"] | high.reshape(-1, 32).astype(np.uint16) << 8
    scales = blocks["d"].astype(np.float32)[:, None] * (np.float32(0.5) + nibbles(blocks["scales"]))
    scales = (scales * np.float32(0.25)).repeat(2, axis=1)[:, :, None]  # [n, 32, 1]
    return signed(scales * IQ2_S[codes], blocks["signs"]).reshape(-1, 256)


@njit(cache=True)
def point(raw, at, g):
    """Return the scale, the row of the grid and the signs of weights 8g .. 8g + 7 of the block at `at`."""
    high = (raw[at + 66 + g // 4] >> (2 * (g % 4))) & 3
    nibble = (raw[at + 74 + g // 4] >> (4 * (g // 2 % 2))) & 15
    scale = read_half(raw, at) * (np.float32(0.5) + np.float32(nibble)) * np.float32(0.25)
    return scale, np.int64(raw[at + 2 + g]) | np.int64(high) << 8, raw[at + 34 + g]


@njit(cache=True)
def decode_row(raw, out):
    for group in range(out.size // 8):
        scale, code, signs = point(raw, group // 32 * 82, group % 32)
        for j in range(8):
            out[8 * group + j] = signed_weight(scale * np.float32(IQ2_S[code, j]), signs, j)


@njit(cache=True)
def decode_element(raw, i):
    scale, code, signs = point(raw, i // 256 * 82, i % 256 // 8)
    return signed_weight(scale * np.float32(IQ2_S[code, i % 8]), signs, i % 8)
