"""Q8_K: 256 activations as int8 codes with one float32 scale and the sums that minimums need.

    d           float32    scale                                   292 bytes, 9.125 bits per weight
    qs[256]     int8       codes -127..127
    bsums[16]   int16      sum of the codes of each 16
    weight = d * q

No file stores it: a matrix product rounds its activations to it. The sums let the minimum of a
Q4_K sub-block be applied once for all of its weights.
Source: ggml `block_q8_K`, `quantize_row_q8_K_ref`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import bits_to_float, float_to_bits, read_u32, signed_max, write_u32

GGML_TYPE = 15
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f4"), ("qs", "i1", 256), ("bsums", "<i2", 16)])


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to activations, float32 [n, 256]."""
    return blocks["d"][:, None] * blocks["qs"]


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 256):
        at, y = block * 292, block * 256
        d = bits_to_float(read_u32(raw, at))
        for j in range(256):
            out[y + j] = d * np.float32(np.int8(raw[at + 4 + j]))


@njit(cache=True)
def decode_element(raw, i):
    at = i // 256 * 292
    return bits_to_float(read_u32(raw, at)) * np.float32(np.int8(raw[at + 4 + i % 256]))


@njit(cache=True)
def encode_row(x, raw):
    for block in range(x.size // 256):
        at, k = block * 292, block * 256
        largest = signed_max(x, k, 256)
        inverse = np.float32(-127) / largest if largest != 0 else np.float32(0)
        d = np.float32(1) / inverse if largest != 0 else np.float32(0)
        write_u32(raw, at, float_to_bits(d))
        for group in range(16):
            total = 0
            for j in range(16 * group, 16 * group + 16):
                q = min(127, int(np.rint(x[k + j] * inverse)))
                raw[at + 4 + j] = np.uint8(np.int8(q))
                total += q
            raw[at + 260 + 2 * group] = total & 255
            raw[at + 261 + 2 * group] = (total >> 8) & 255
