"""IQ4_NL: 32 weights as 4-bit codes into a table of 16 unequally spaced values.

    d        float16    scale                                       18 bytes, 4.5 bits per weight
    qs[16]   uint8      codes 0..15: low nibble of byte j is weight j, high nibble weight j + 16
    weight = d * VALUES[q]

Source: ggml `block_iq4_nl`, `kvalues_iq4nl`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import read_half

GGML_TYPE = 20
WEIGHTS = 32
BLOCK = np.dtype([("d", "<f2"), ("qs", "u1", 16)])
VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 32]."""
    q = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)
    return blocks["d"].astype(np.float32)[:, None] * VALUES[q]


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 32):
        at, y = block * 18, block * 32
        d = read_half(raw, at)
        for j in range(16):
            q = raw[at + 2 + j]
            out[y + j] = d * np.float32(VALUES[q & 15])
            out[y + 16 + j] = d * np.float32(VALUES[q >> 4])


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 32 * 18, i % 32
    q = (raw[at + 2 + j % 16] >> (4 * (j // 16))) & 15
    return read_half(raw, at) * np.float32(VALUES[q])
