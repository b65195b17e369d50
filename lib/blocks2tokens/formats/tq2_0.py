"""TQ2_0: 256 weights of -1, 0 and 1 as codes of two bits with one scale.

    qs[64]   uint8     codes 0 .. 3, four in a byte: bits 2t, 2t + 1 of byte 32h + l are weight 128h + 32t + l
    d        float16   scale                                               66 bytes, 2.0625 bits per weight
    weight = d * (q - 1)

Made for models that were trained with three values. Source: ggml `block_tq2_0`, `dequantize_row_tq2_0`,
`quantize_row_tq2_0_ref`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import as_in_c, read_half, round_half_away, signed_max, write_half

GGML_TYPE = 35
WEIGHTS = 256
BLOCK = np.dtype([("qs", "u1", 64), ("d", "<f2")])


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    q = (blocks["qs"].reshape(-1, 2, 1, 32) >> shifts) & 3  # [n, half, quarter, 32]
    return blocks["d"].astype(np.float32)[:, None] * (q.reshape(-1, 256).astype(np.float32) - 1)


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 256):
        at, y = block * 66, block * 256
        d = read_half(raw, at + 64)
        for part in range(8):  # half, quarter
            for l in range(32):
                q = (raw[at + 32 * (part // 4) + l] >> (2 * (part % 4))) & 3
                out[y + 32 * part + l] = d * (np.float32(q) - np.float32(1))


@njit(cache=True)
def decode_element(raw, i):
    at, half, t, l = i // 256 * 66, i % 256 // 128, i % 128 // 32, i % 32
    q = (raw[at + 32 * half + l] >> (2 * t)) & 3
    return read_half(raw, at + 64) * (np.float32(q) - np.float32(1))


@as_in_c
def three_codes(x, codes):
    """Round x to multiples -1, 0, 1 of its largest magnitude, as codes 0, 1, 2; return that magnitude."""
    d = abs(signed_max(x, 0, x.size))
    inverse = np.float32(1) / d if d != 0 else np.float32(0)
    for i in range(x.size):
        codes[i] = round_half_away(x[i] * inverse) + 1
    return d


@as_in_c
def encode_row(x, raw):
    codes = np.empty(256, np.uint8)
    for block in range(x.size // 256):
        at = 66 * block
        d = three_codes(x[256 * block : 256 * block + 256], codes)
        for byte in range(64):
            first = 128 * (byte // 32) + byte % 32
            packed = 0
            for t in range(4):
                packed |= codes[first + 32 * t] << (2 * t)
            raw[at + byte] = packed
        write_half(raw, at + 64, d)
