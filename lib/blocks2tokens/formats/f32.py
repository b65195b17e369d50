"""F32: plain float32, 4 bytes per weight.

value    float32    weight
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import bits_to_float, float_to_bits, read_u32, write_u32

GGML_TYPE = 0
WEIGHTS = 1
BLOCK = np.dtype([("value", "<f4")])


def dequantize(blocks):
    """Return the values of BLOCK [n] as float32 [n, 1]."""
    return blocks["value"][:, None].copy()


@njit(cache=True)
def decode_row(raw, out):
    for i in range(out.size):
        out[i] = bits_to_float(read_u32(raw, 4 * i))


@njit(cache=True)
def decode_element(raw, i):
    return bits_to_float(read_u32(raw, 4 * i))


@njit(cache=True)
def encode_row(x, raw):
    for i in range(x.size):
        write_u32(raw, 4 * i, float_to_bits(x[i]))
