"""NVFP4: 64 weights as 4-bit floats in 4 sub-blocks of 16, each with a scale that is a float of 8 bits.

    d[4]    uint8   scales, E4M3 without a sign: bits 3 .. 6 exponent, 0 .. 2 mantissa; 127 counts as zero
    qs[32]  uint8   sub-block s in bytes 8s .. 8s + 7: low nibbles weights 0 .. 7 of it, high nibbles 8 .. 15
    weight = scale / 2 * VALUES[q]                                         36 bytes, 4.5 bits per weight

VALUES are those of MXFP4: twice the 4-bit floats, hence half the scale.
Source: ggml `block_nvfp4`, `dequantize_row_nvfp4`, `ggml_ue4m3_to_fp32`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.mxfp4 import VALUES

GGML_TYPE = 40
WEIGHTS = 64
BLOCK = np.dtype([("d", "u1", 4), ("qs", "u1", 32)])


def _half_scales():
    """Return half the value of each byte as a scale, float32 [256]."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, (byte & 7) / 8
    value = np.where(exponent == 0, np.ldexp(mantissa, -6), np.ldexp(1 + mantissa, exponent - 7))
    return np.where(byte == 127, 0, value / 2).astype(np.float32)


HALF_SCALES = _half_scales()


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 64]."""
    qs = blocks["qs"].reshape(-1, 4, 8)
    q = np.concatenate([qs & 15, qs >> 4], axis=2)  # [n, 4, 16]
    return (HALF_SCALES[blocks["d"]][:, :, None] * VALUES[q]).reshape(-1, 64)


@njit(cache=True)
def decode_row(raw, out):
    for part in range(out.size // 16):
        at, s, y = part // 4 * 36, part % 4, part * 16
        scale = HALF_SCALES[raw[at + s]]
        for j in range(8):
            q = raw[at + 4 + 8 * s + j]
            out[y + j] = scale * np.float32(VALUES[q & 15])
            out[y + 8 + j] = scale * np.float32(VALUES[q >> 4])


@njit(cache=True)
def decode_element(raw, i):
    at, s, j = i // 64 * 36, i % 64 // 16, i % 16
    q = (raw[at + 4 + 8 * s + j % 8] >> (4 * (j // 8))) & 15
    return HALF_SCALES[raw[at + s]] * np.float32(VALUES[q])
