"""MXFP4: 32 weights as 4-bit floats (sign, two exponent bits, one mantissa bit) with a power of two.

    e        uint8      exponent: the scale is 2 ** (e - 128)       17 bytes, 4.25 bits per weight
    qs[16]   uint8      codes 0..15: low nibble of byte j is weight j, high nibble weight j + 16
    weight = 2 ** (e - 128) * VALUES[q]

VALUES are twice the 4-bit floats, so that they are integers; hence 128 and not the 127 of E8M0.
Source: OCP Microscaling Formats (MX) v1.0; ggml `block_mxfp4`, `ggml_e8m0_to_fp32_half`,
`quantize_row_mxfp4_ref`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.best import best_scale, level_table
from blocks2tokens.formats.compiled import as_in_c, bits_to_float, signed_max
from blocks2tokens.formats.q4_0 import pack_halves

GGML_TYPE = 39
WEIGHTS = 32
BLOCK = np.dtype([("e", "u1"), ("qs", "u1", 16)])
VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
LEVELS = level_table(np.unique(VALUES))


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
    """Return the e with which a magnitude lies between 4 and 8 times 2 ** (e - 127), at least 0.

    The logarithm is rounded to float32: a number just below a power of two counts as that power.
    """
    if largest == 0:
        return 0
    return max(0, int(np.floor(np.float32(np.log2(np.float64(largest))))) - 2 + 127)


@as_in_c
def write_block(x, e, out):
    """Write a block with the codes of the values nearest to x / 2 ** (e - 128), of equals the first."""
    codes, scale = np.empty(32, np.float32), power_of_two(e)
    for i in range(32):
        best, least = 0, abs(x[i])
        for q in range(1, 16):
            error = abs(np.float32(VALUES[q]) * scale - x[i])
            if error < least:
                best, least = q, error
        codes[i] = np.float32(best)
    out[0] = e
    pack_halves(codes, out[1:])


@as_in_c
def encode_row(x, raw):
    for block in range(x.size // 32):
        y = x[32 * block : 32 * block + 32]
        write_block(y, exponent_for(abs(signed_max(y, 0, 32))), raw[17 * block : 17 * block + 17])


@as_in_c
def improve_block(x, importance, block, trial):
    scales = np.empty(4, np.float32)
    first = min(max(int(block[0]) - 2, 0), 251)
    for c in range(4):
        scales[c] = power_of_two(first + c)
    write_block(x, first + best_scale(x, importance, LEVELS, scales)[0], trial)
