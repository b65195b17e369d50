"""Solutions of lesson 01."""

import numpy as np


def bits_per_weight(fmt):
    return 8 * fmt.bytes_per_block / fmt.block_size


def read_half(raw, at):
    bits = int(raw[at]) | int(raw[at + 1]) << 8
    sign = -1.0 if bits >> 15 else 1.0
    exponent, mantissa = (bits >> 10) & 31, bits & 1023
    if exponent == 0:
        return sign * mantissa / 1024 * 2.0**-14
    if exponent == 31:
        return float("nan") if mantissa else sign * float("inf")
    return sign * (1 + mantissa / 1024) * 2.0 ** (exponent - 15)


def decode_q8_0(raw):
    weights = np.empty((len(raw) // 34, 32), np.float32)
    for b in range(len(weights)):
        d = np.float32(read_half(raw, 34 * b))
        codes = raw[34 * b + 2 : 34 * b + 34].view(np.int8)
        weights[b] = d * codes
    return weights.reshape(-1)


def decode_q4_0(blocks):
    low, high = blocks["qs"] & 15, blocks["qs"] >> 4
    q = np.concatenate([low, high], axis=1).astype(np.int8) - np.int8(8)
    return blocks["d"].astype(np.float32)[:, None] * q


def quantize_q4_0(x):
    d = x[np.abs(x).argmax()] / np.float32(-8)
    inverse = 1 / d if d else np.float32(0)
    codes = np.minimum(15, x * inverse + np.float32(8.5)).astype(np.uint8)
    nibbles = codes[:16] | codes[16:] << 4
    scale = np.frombuffer(np.float16(d).tobytes(), np.uint8)
    return np.concatenate([scale, nibbles])
