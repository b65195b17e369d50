"""F16: IEEE half precision, 2 bytes per weight: sign, 5 exponent bits, 10 mantissa bits.

    value    float16    weight

Rounding is to nearest, ties to even. Values beyond 65,504 become infinite.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import read_half, write_half

GGML_TYPE = 1
WEIGHTS = 1
BLOCK = np.dtype([("value", "<f2")])


def dequantize(blocks):
    """Return the values of BLOCK [n] as float32 [n, 1]."""
    return blocks["value"].astype(np.float32)[:, None]


@njit(cache=True)
def decode_row(raw, out):
    for i in range(out.size):
        out[i] = read_half(raw, 2 * i)


@njit(cache=True)
def decode_element(raw, i):
    return read_half(raw, 2 * i)


@njit(cache=True)
def encode_row(x, raw):
    for i in range(x.size):
        write_half(raw, 2 * i, x[i])
