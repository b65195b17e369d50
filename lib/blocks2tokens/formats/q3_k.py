"""Q3_K: 256 weights as 3-bit codes in 16 sub-blocks of 16, each with a signed 6-bit scale.

    hmask[32]   uint8      bit 4h + t of hmask[l]: third bit of weight 128h + 32t + l
    qs[64]      uint8      low two bits, laid out as in Q2_K
    scales[12]  uint8      16 scales of 6 bits, see `unpack_scales`
    d           float16    scale of the scales                     110 bytes, 3.4375 bits per weight
    weight = (d * (scale - 32)) * (q - 4)

Source: ggml `block_q3_K`, `dequantize_row_q3_K`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.compiled import read_half
from blocks2tokens.formats.q2_k import split_codes

GGML_TYPE = 11
WEIGHTS = 256
BLOCK = np.dtype([("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")])


def unpack_scales(scales):
    """Return the 16 signed scales of each block, int8 [n, 16], from bytes uint8 [n, 12].

    Low four bits: nibbles of bytes 0..7 (low nibbles first). High two bits: bytes 8..11, two at a time.
    """
    low = np.concatenate([scales[:, :8] & 15, scales[:, :8] >> 4], axis=1)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = (scales[:, None, 8:] >> shifts) & 3  # [n, 4, 4]
    return (low | (high.reshape(-1, 16) << 4)).astype(np.int8) - np.int8(32)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    scales = blocks["d"].astype(np.float32)[:, None] * unpack_scales(blocks["scales"])  # [n, 16]
    bits = np.arange(8, dtype=np.uint8)[:, None]
    high = (blocks["hmask"][:, None, :] >> bits) & 1  # [n, 8, 32]
    q = (split_codes(blocks["qs"]) | (high.reshape(-1, 16, 16) << 2)).astype(np.int8) - np.int8(4)
    return (scales[:, :, None] * q).reshape(-1, 256)


@njit(cache=True)
def scale_at(raw, at, s):
    """Return the scale of sub-block s, -32..31, from the 12 bytes at `at`."""
    low = (raw[at + s % 8] >> (4 * (s // 8))) & 15
    high = (raw[at + 8 + s % 4] >> (2 * (s // 4))) & 3
    return (low | high << 4) - 32


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 256):
        at, y = block * 110, block * 256
        d = read_half(raw, at + 108)
        for s in range(16):
            scale = d * np.float32(scale_at(raw, at + 96, s))
            codes = at + 32 + 32 * (s // 8) + 16 * (s % 2)
            highs = at + 16 * (s % 2)
            shift = 2 * (s % 8 // 2)
            for l in range(16):
                q = ((raw[codes + l] >> shift) & 3) | ((raw[highs + l] >> (s // 2)) & 1) << 2
                out[y + 16 * s + l] = scale * np.float32(q - 4)


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 256 * 110, i % 256
    scale = read_half(raw, at + 108) * np.float32(scale_at(raw, at + 96, j // 16))
    low = (raw[at + 32 + 32 * (j // 128) + j % 32] >> (2 * (j % 128 // 32))) & 3
    high = (raw[at + j % 32] >> (j // 32)) & 1
    return scale * np.float32((low | high << 2) - 4)
