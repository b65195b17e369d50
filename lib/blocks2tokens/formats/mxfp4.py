"""MXFP4: 32 weights as 4-bit floats (sign, two exponent bits, one mantissa bit) with a power of two.

    e        uint8      exponent: the scale is 2 ** (e - 128)       17 bytes, 4.25 bits per weight
    qs[16]   uint8      codes 0..15: low nibble of byte j is weight j, high nibble weight j + 16
    weight = 2 ** (e - 128) * VALUES[q]

VALUES are twice the 4-bit floats, so that they are integers; hence 128 and not the 127 of E8M0.
Source: OCP Microscaling Formats (MX) v1.0; ggml `block_mxfp4`, `ggml_e8m0_to_fp32_half`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import as_in_c, bits_to_float, signed_max
from blocks2tokens.formats.q4_0 import pack_halves

GGML_TYPE = 39
WEIGHTS = 32
BLOCK = np.dtype([("e", "u1"), ("qs", "u1", 16)])
VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 32]."""
    q = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)
    scale = np.ldexp(np.float32(1), blocks["e"].astype(np.int32) - 128)
    return scale[:, None] * VALUES[q]


@njit(cache=True)
def power_of_two(e):
    """Return 2 ** (e - 128) as float32; e = 0 and 1 are subnormal."""
    return bits_to_float(np.uint32((e - 1) << 23 if e > 1 else 0x200000 << e))


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 32):
        at, y = block * 17, block * 32
        scale = power_of_two(np.int64(raw[at]))
        for j in range(16):
            q = raw[at + 1 + j]
            out[y + j] = scale * np.float32(VALUES[q & 15])
            out[y + 16 + j] = scale * np.float32(VALUES[q >> 4])


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 32 * 17, i % 32
    q = (raw[at + 1 + j % 16] >> (4 * (j // 16))) & 15
    return power_of_two(np.int64(raw[at])) * np.float32(VALUES[q])


@as_in_c
def exponent_for(largest):
    """Return e such that the largest weight is near the top of the 4-bit floats, 4 to 6 times 2 ** (e - 127).

    A magnitude so close below a power of two that its logarithm rounds up in float32 counts as that power.
    """
    if largest == 0:
        return 0
    return max(0, int(np.floor(np.float32(np.log2(np.float64(largest))))) - 2 + 127)


@as_in_c
def value_codes(x, scale, codes):
    """Set codes, float32 [32], to those of the values nearest to x / scale; of equals the first."""
    for i in range(x.size):
        best, least = 0, abs(x[i])
        for q in range(1, 16):
            error = abs(np.float32(VALUES[q]) * scale - x[i])
            if error < least:
                best, least = q, error
        codes[i] = np.float32(best)


@as_in_c
def encode_row(x, raw):
    codes = np.empty(32, np.float32)
    for block in range(x.size // 32):
        y, out = x[32 * block : 32 * block + 32], raw[17 * block : 17 * block + 17]
        e = exponent_for(abs(signed_max(y, 0, 32)))
        out[0] = e
        value_codes(y, power_of_two(e), codes)
        pack_halves(codes, out[1:])
