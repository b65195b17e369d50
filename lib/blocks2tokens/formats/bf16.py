"""BF16: the upper half of a float32, 2 bytes per weight: sign, 8 exponent bits, 7 mantissa bits.

    bits     uint16     upper 16 bits of the float32

Rounding is to nearest, ties to even. Source: ggml `ggml_compute_fp32_to_bf16`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import bits_to_float, float_to_bits

GGML_TYPE = 30
WEIGHTS = 1
BLOCK = np.dtype([("bits", "<u2")])


def dequantize(blocks):
    """Return the values of BLOCK [n] as float32 [n, 1]."""
    return (blocks["bits"].astype(np.uint32) << 16).view(np.float32)[:, None]


@njit(cache=True)
def decode_element(raw, i):
    return bits_to_float(np.uint32(raw[2 * i] << 16 | raw[2 * i + 1] << 24))


@njit(cache=True)
def decode_row(raw, out):
    for i in range(out.size):
        out[i] = decode_element(raw, i)


@njit(cache=True)
def encode_row(x, raw):
    for i in range(x.size):
        bits = np.int64(float_to_bits(x[i]))
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        raw[2 * i] = rounded & 255
        raw[2 * i + 1] = rounded >> 8
