"""IQ3_XXS: 256 weights as 64 points of a grid, 4 weights each, with signs; 8 sub-blocks of 32.

    d          float16   scale                                             98 bytes, 3.0625 bits per weight
    codes[64]  uint8     points of the grid, 4 weights each
    more[8]    uint32    for each sub-block: bits 7e .. 7e + 6 are the signs of its weights 8e .. 8e + 6,
                         that of 8e + 7 follows; bits 28 .. 31 are the scale
    weight = ((d * (0.5 + scale)) * 0.5) * magnitude, with its sign

Source: ggml `block_iq3_xxs`, `dequantize_row_iq3_xxs`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import read_half, read_u32
from blocks2tokens.formats.grids import EVEN_SIGNS, IQ3_XXS, signed, signed_weight

GGML_TYPE = 18
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f2"), ("codes", "u1", 64), ("more", "<u4", 8)])


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    more = blocks["more"]
    scales = blocks["d"].astype(np.float32)[:, None] * (np.float32(0.5) + (more >> 28)) * np.float32(0.5)
    signs = EVEN_SIGNS[(more[:, :, None] >> np.arange(0, 28, 7, dtype=np.uint32)) & 127]  # [n, 8, 4]
    magnitudes = scales.astype(np.float32)[:, :, None, None] * IQ3_XXS[blocks["codes"]].reshape(-1, 8, 4, 8)
    return signed(magnitudes, signs).reshape(-1, 256)


@njit(cache=True)
def eight(raw, at, g):
    """Return the scale, two rows of the grid and the signs of weights 8g .. 8g + 7 of the block at `at`."""
    more = read_u32(raw, at + 66 + 4 * (g // 4))
    scale = read_half(raw, at) * (np.float32(0.5) + np.float32(more >> 28)) * np.float32(0.5)
    signs = EVEN_SIGNS[(more >> (7 * (g % 4))) & 127]
    return scale, raw[at + 2 + 2 * g], raw[at + 3 + 2 * g], signs


@njit(cache=True)
def decode_row(raw, out):
    for group in range(out.size // 8):
        scale, first, second, signs = eight(raw, group // 32 * 98, group % 32)
        for j in range(8):
            magnitude = np.float32(IQ3_XXS[first if j < 4 else second, j % 4])
            out[8 * group + j] = signed_weight(scale * magnitude, signs, j)


@njit(cache=True)
def decode_element(raw, i):
    scale, first, second, signs = eight(raw, i // 256 * 98, i % 256 // 8)
    j = i % 8
    return signed_weight(scale * np.float32(IQ3_XXS[first if j < 4 else second, j % 4]), signs, j)
