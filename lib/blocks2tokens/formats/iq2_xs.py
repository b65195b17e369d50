"""IQ2_XS: 256 weights as 32 points of a grid, 8 weights each, with signs; 16 sub-blocks of 16.

    d          float16   scale                                             74 bytes, 2.3125 bits per weight
    codes[32]  uint16    bits 0 .. 8: a point of the grid, 8 weights; bits 9 .. 15: their signs, the eighth
                         follows
    scales[8]  uint8     nibble s % 2 of byte s // 2: scale of sub-block s
    weight = ((d * (0.5 + scale)) * 0.25) * magnitude, with its sign

Source: ggml `block_iq2_xs`, `dequantize_row_iq2_xs`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import read_half
from blocks2tokens.formats.grids import EVEN_SIGNS, IQ2_XS, signed, signed_weight

GGML_TYPE = 17
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f2"), ("codes", "<u2", 32), ("scales", "u1", 8)])


def nibbles(packed):
    """Return the 4-bit numbers of uint8 [n, m] in order, low nibble first, uint8 [n, 2m]."""
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    scales = blocks["d"].astype(np.float32)[:, None] * (np.float32(0.5) + nibbles(blocks["scales"]))
    scales = (scales * np.float32(0.25)).repeat(2, axis=1)[:, :, None]  # [n, 32, 1]
    weights = signed(scales * IQ2_XS[blocks["codes"] & 511], EVEN_SIGNS[blocks["codes"] >> 9])
    return weights.reshape(-1, 256)


@njit(cache=True)
def point(raw, at, g):
    """Return the scale, the row of the grid and the signs of weights 8g .. 8g + 7 of the block at `at`."""
    code = np.int64(raw[at + 2 + 2 * g]) | np.int64(raw[at + 3 + 2 * g]) << 8
    nibble = (raw[at + 66 + g // 4] >> (4 * (g // 2 % 2))) & 15
    scale = read_half(raw, at) * (np.float32(0.5) + np.float32(nibble)) * np.float32(0.25)
    return scale, code & 511, EVEN_SIGNS[code >> 9]


@njit(cache=True)
def decode_row(raw, out):
    for group in range(out.size // 8):
        scale, code, signs = point(raw, group // 32 * 74, group % 32)
        for j in range(8):
            out[8 * group + j] = signed_weight(scale * np.float32(IQ2_XS[code, j]), signs, j)


@njit(cache=True)
def decode_element(raw, i):
    scale, code, signs = point(raw, i // 256 * 74, i % 256 // 8)
    return signed_weight(scale * np.float32(IQ2_XS[code, i % 8]), signs, i % 8)
