"""IQ2_XXS: 256 weights as 32 points of a grid, 8 weights each, with signs; 8 sub-blocks of 32.

    d             float16   scale                                          66 bytes, 2.0625 bits per weight
    parts[8]                for each sub-block
        codes[4]  uint8     points of the grid, 8 weights each
        more      uint32    bits 7g .. 7g + 6: signs of point g, the eighth follows; bits 28 .. 31: scale
    weight = ((d * (0.5 + scale)) * 0.25) * magnitude, with its sign

Source: ggml `block_iq2_xxs`, `dequantize_row_iq2_xxs`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import read_half, read_u32
from blocks2tokens.formats.grids import EVEN_SIGNS, IQ2_XXS, signed, signed_weight

GGML_TYPE = 16
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f2"), ("parts", [("codes", "u1", 4), ("more", "<u4")], 8)])


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    codes, more = blocks["parts"]["codes"], blocks["parts"]["more"]  # [n, 8, 4], [n, 8]
    scales = blocks["d"].astype(np.float32)[:, None] * (np.float32(0.5) + (more >> 28)) * np.float32(0.25)
    signs = EVEN_SIGNS[(more[:, :, None] >> np.arange(0, 28, 7, dtype=np.uint32)) & 127]
    weights = signed(scales.astype(np.float32)[:, :, None, None] * IQ2_XXS[codes], signs)
    return weights.reshape(-1, 256)


@njit(cache=True)
def point(raw, at, g):
    """Return the scale, the row of the grid and the signs of weights 8g .. 8g + 7 of the block at `at`."""
    part = at + 2 + 8 * (g // 4)
    more = read_u32(raw, part + 4)
    scale = read_half(raw, at) * (np.float32(0.5) + np.float32(more >> 28)) * np.float32(0.25)
    return scale, raw[part + g % 4], EVEN_SIGNS[(more >> (7 * (g % 4))) & 127]


@njit(cache=True)
def decode_row(raw, out):
    for group in range(out.size // 8):
        scale, code, signs = point(raw, group // 32 * 66, group % 32)
        for j in range(8):
            out[8 * group + j] = signed_weight(scale * np.float32(IQ2_XXS[code, j]), signs, j)


@njit(cache=True)
def decode_element(raw, i):
    scale, code, signs = point(raw, i // 256 * 66, i % 256 // 8)
    return signed_weight(scale * np.float32(IQ2_XXS[code, i % 8]), signs, i % 8)
