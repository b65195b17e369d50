"""IQ3_S: 256 weights as 64 points of a grid, 4 weights each, with signs; 8 sub-blocks of 32.

    d          float16   scale                                             110 bytes, 3.4375 bits per weight
    qs[64]     uint8     low eight bits of each point of the grid, 4 weights
    qh[8]      uint8     bit p % 8 of byte p // 8: the ninth bit of point p
    signs[32]  uint8     bit j of byte e: the sign of weight 8e + j
    scales[4]  uint8     nibble s % 2 of byte s // 2: scale of sub-block s
    weight = (d * (1 + 2 * scale)) * magnitude, with its sign

Source: ggml `block_iq3_s`, `dequantize_row_iq3_s`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import read_half
from blocks2tokens.formats.grids import IQ3_S, signed, signed_weight
from blocks2tokens.formats.iq2_xs import nibbles

GGML_TYPE = 21
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)])


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    ninth = np.unpackbits(blocks["qh"], axis=1, bitorder="little").astype(np.uint16)  # [n, 64]
    magnitudes = IQ3_S[blocks["qs"] | ninth << 8].reshape(-1, 8, 4, 8)
    scales = blocks["d"].astype(np.float32)[:, None] * (1 + 2 * nibbles(blocks["scales"]))
    weights = signed(scales[:, :, None, None] * magnitudes, blocks["signs"].reshape(-1, 8, 4))
    return weights.reshape(-1, 256)


@njit(cache=True)
def eight(raw, at, g):
    """Return the scale, two rows of the grid and the signs of weights 8g .. 8g + 7 of the block at `at`."""
    nibble = (raw[at + 106 + g // 8] >> (4 * (g // 4 % 2))) & 15
    scale = read_half(raw, at) * np.float32(1 + 2 * nibble)
    high = raw[at + 66 + g // 4] >> (2 * (g % 4))
    first = np.int64(raw[at + 2 + 2 * g]) | np.int64(high & 1) << 8
    second = np.int64(raw[at + 3 + 2 * g]) | np.int64(high & 2) << 7
    return scale, first, second, raw[at + 74 + g]


@njit(cache=True)
def decode_row(raw, out):
    for group in range(out.size // 8):
        scale, first, second, signs = eight(raw, group // 32 * 110, group % 32)
        for j in range(8):
            magnitude = np.float32(IQ3_S[first if j < 4 else second, j % 4])
            out[8 * group + j] = signed_weight(scale * magnitude, signs, j)


@njit(cache=True)
def decode_element(raw, i):
    scale, first, second, signs = eight(raw, i // 256 * 110, i % 256 // 8)
    j = i % 8
    return signed_weight(scale * np.float32(IQ3_S[first if j < 4 else second, j % 4]), signs, j)
