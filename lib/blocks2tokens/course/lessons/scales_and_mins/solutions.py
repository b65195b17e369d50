"""Solutions of lesson 02."""

import numpy as np


def decode_q4_1(blocks):
    d, m = blocks["d"].astype(np.float32), blocks["m"].astype(np.float32)
    q = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)
    return d[:, None] * q + m[:, None]


def quantize_q4_1(x):
    m = x.min()
    d = (x.max() - m) / 15
    if d == 0:
        return d, m, np.zeros(32, np.uint8)
    return d, m, np.rint((x - m) / d).astype(np.uint8)


def join_fifth_bit(blocks):
    low = np.concatenate([blocks["qs"] & 15, blocks["qs"] >> 4], axis=1)
    high = (blocks["qh"][:, None] >> np.arange(32, dtype=np.uint32)) & 1  # [n, 32]
    return low | high.astype(np.uint8) << 4


def decode_q5_0(blocks):
    q = join_fifth_bit(blocks).astype(np.int8) - np.int8(16)
    return blocks["d"].astype(np.float32)[:, None] * q


def decode_q5_1(blocks):
    d, m = blocks["d"].astype(np.float32), blocks["m"].astype(np.float32)
    return d[:, None] * join_fifth_bit(blocks) + m[:, None]
