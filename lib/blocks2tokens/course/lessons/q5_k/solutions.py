"""Solutions of lesson 04."""

import numpy as np

from blocks2tokens.formats.compiled import read_half
from blocks2tokens.formats.q4_k import scale_min, split_nibbles, unpack_scales


def high_bits(qh):
    sub_blocks = np.arange(8, dtype=np.uint8)[:, None]  # [8, 1]
    return (qh[:, None, :] >> sub_blocks) & 1  # [n, 8, 32]


def dequantize(blocks):
    sc, m = unpack_scales(blocks["scales"])
    d, dmin = (blocks[name].astype(np.float32)[:, None] for name in ("d", "dmin"))
    masks = np.uint8(1) << np.arange(8, dtype=np.uint8)[:, None]  # [8, 1], one for each row of the plane
    is_set = blocks["qh"][:, None, :] & masks != 0  # [n, 8, 32]
    q = split_nibbles(blocks["qs"]) + np.where(is_set, np.uint8(16), np.uint8(0))
    return ((d * sc)[:, :, None] * q - (dmin * m)[:, :, None]).reshape(-1, 256)


def decode_row(raw):
    out = np.empty(raw.size // 176 * 256, np.float32)
    for part in range(out.size // 32):
        at, s = part // 8 * 176, part % 8
        sc, m = scale_min(raw, at + 4, s)
        scale, minimum = read_half(raw, at) * np.float32(sc), read_half(raw, at + 2) * np.float32(m)
        codes, shift = at + 48 + 32 * (s // 2), 4 * (s % 2)
        for l in range(32):
            q = ((raw[codes + l] >> shift) & 15) | ((raw[at + 16 + l] >> s) & 1) << 4
            out[32 * part + l] = scale * np.float32(q) - minimum
    return out


def pack_codes(codes):
    low, high = codes & 15, codes >> 4
    chunks = low.reshape(4, 2, 32)
    qs = chunks[:, 0] | chunks[:, 1] << 4  # [4, 32]
    planes = high.reshape(8, 32) << np.arange(8, dtype=np.uint8)[:, None]
    return planes.sum(axis=0, dtype=np.uint8), qs.reshape(-1)
