"""TQ1_0: 256 weights of -1, 0 and 1, five in a byte (3**5 = 243 of 256), with one scale.

    qs[48]  uint8     five weights each: 32t + l in byte l, 160 + 16t + l in byte 32 + l
    qh[4]   uint8     four weights each: 240 + 4t + l in byte l
    d       float16   scale                                                54 bytes, 1.6875 bits per weight

A byte is a fraction: q = ceil(256 / 243 * (81 a + 27 b + 9 c + 3 d + e)), and so the first digit in base 3
is (3 q) >> 8. Digit t is found by multiplying by 3**t first, in 8 bits.
    weight = d * (digit - 1)

Source: ggml `block_tq1_0`, `dequantize_row_tq1_0`, `quantize_row_tq1_0_ref`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import as_in_c, read_half, write_half
from blocks2tokens.formats.tq2_0 import three_codes

GGML_TYPE = 34
WEIGHTS = 256
BLOCK = np.dtype([("qs", "u1", 48), ("qh", "u1", 4), ("d", "<f2")])
POWERS = np.array([1, 3, 9, 27, 81], np.uint8)


def digits(packed, n):
    """Return the first n digits in base 3 of bytes uint8 [n_blocks, m], digit by digit, [n_blocks, n * m]."""
    shifted = packed[:, None, :] * POWERS[:n, None]  # uint8: what is above is gone
    return (shifted.astype(np.uint16) * 3 >> 8).reshape(len(packed), -1)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    qs, qh = blocks["qs"], blocks["qh"]
    q = np.concatenate([digits(qs[:, :32], 5), digits(qs[:, 32:], 5), digits(qh, 4)], axis=1)
    return blocks["d"].astype(np.float32)[:, None] * (q.astype(np.float32) - 1)


@njit(cache=True)
def place(i):
    """Return which byte of a block holds weight i, and which digit of it."""
    if i < 160:
        return i % 32, i // 32
    if i < 240:
        return 32 + i % 16, (i - 160) // 16
    return 48 + i % 4, (i - 240) // 4


@njit(cache=True)
def decode_row(raw, out):
    for i in range(out.size):
        out[i] = decode_element(raw, i)


@njit(cache=True)
def decode_element(raw, i):
    at = i // 256 * 54
    byte, t = place(i % 256)
    shifted = np.uint8(raw[at + byte] * POWERS[t])
    digit = np.int32(shifted) * np.int32(3) >> 8
    return read_half(raw, at + 52) * (np.float32(digit) - np.float32(1))


@as_in_c
def encode_row(x, raw):
    codes, sums = np.empty(256, np.uint8), np.empty(52, np.int64)
    for block in range(x.size // 256):
        at = 54 * block
        d = three_codes(x[256 * block : 256 * block + 256], codes)
        sums[:] = 0
        for i in range(256):
            byte, t = place(i)
            sums[byte] += np.int64(codes[i]) * np.int64(POWERS[4 - t])
        for byte in range(52):
            raw[at + byte] = (sums[byte] * 256 + 242) // 243
        write_half(raw, at + 52, d)
