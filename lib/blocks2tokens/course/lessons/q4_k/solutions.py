"""Solutions of lesson 03, and those of its functions that they call."""

import numpy as np

from blocks2tokens.course.lessons.q4_k.suspects import nibbles_in_sequence
from blocks2tokens.course.lessons.q4_k.suspects import scales_from_a_stream as plain_stream
from blocks2tokens.formats import FORMATS

fmt = FORMATS["Q4_K"]


def decode_as(blocks, unpack, split):
    """Decode blocks [n] to float32 [n, 256] with other functions for the scales and the codes."""
    sc, m = unpack(blocks["scales"])
    d, dmin = (blocks[name].astype(np.float32)[:, None] for name in ("d", "dmin"))
    scale, minimum = (d * sc)[:, :, None], (dmin * m)[:, :, None]  # [n, 8, 1]
    return (scale * split(blocks["qs"]) - minimum).reshape(-1, 256)


def unpack_scales(scales):
    a, b, c = scales[:, 0:4], scales[:, 4:8], scales[:, 8:12]
    sc = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    m = np.concatenate([b & 63, (c >> 4) | (b >> 6) << 4], axis=1)
    return sc, m


def split_nibbles(qs):
    chunks = qs.reshape(-1, 4, 1, 32)
    both = np.concatenate([chunks & 15, chunks >> 4], axis=2)  # [n, 4, 2, 32]
    return both.reshape(-1, 8, 32)


def dequantize(blocks):
    sc, m = unpack_scales(blocks["scales"])
    d = blocks["d"].astype(np.float32)[:, None]
    dmin = blocks["dmin"].astype(np.float32)[:, None]
    scale, minimum = (d * sc)[:, :, None], (dmin * m)[:, :, None]  # [n, 8, 1]
    weights = scale * split_nibbles(blocks["qs"]) - minimum  # [n, 8, 32]
    return weights.reshape(-1, 256)


def convict(raw, weights):
    blocks = fmt.blocks(raw)[:, 0]
    negated, swapped = blocks.copy(), blocks.copy()
    negated["dmin"] = -blocks["dmin"]
    swapped["d"], swapped["dmin"] = blocks["dmin"], blocks["d"]

    def without_top_bits(scales):
        low_nibbles = np.repeat([63, 15], 4)
        return [part & low_nibbles for part in unpack_scales(scales)]

    suspicions = {
        "scales as a stream": decode_as(blocks, plain_stream, split_nibbles),
        "codes in sequence": decode_as(blocks, unpack_scales, nibbles_in_sequence),
        "minimums added": dequantize(negated),
        "d and dmin swapped": dequantize(swapped),
        "top bits missing": decode_as(blocks, without_top_bits, split_nibbles),
    }
    return next(name for name, w in suspicions.items() if np.array_equal(w, weights))


def decode_element(raw, i):
    at, j = 144 * (i // 256), i % 256
    s, l = j // 32, j % 32
    d, dmin = raw[at : at + 4].view(np.float16).astype(np.float32)
    sc, m = unpack_scales(raw[None, at + 4 : at + 16])
    byte = raw[at + 16 + 32 * (s // 2) + l]
    q = byte >> 4 if s % 2 else byte & 15
    return (d * sc[0, s]) * q - dmin * m[0, s]
