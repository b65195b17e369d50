"""Q8_0: 32 weights as int8 codes with one float16 scale.

    d        float16    scale                                       34 bytes, 8.5 bits per weight
    qs[32]   int8       codes -127..127
    weight = d * q

Source: ggml `block_q8_0`, `quantize_row_q8_0_ref`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.best import level_table, scale_improve
from blocks2tokens.formats.compiled import as_in_c, read_half, round_half_away, signed_max, write_half
from blocks2tokens.formats.search import code

GGML_TYPE = 8
WEIGHTS = 32
BLOCK = np.dtype([("d", "<f2"), ("qs", "i1", 32)])
LEVELS = level_table(np.arange(-127, 128))


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 32]."""
    return blocks["d"].astype(np.float32)[:, None] * blocks["qs"]


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 32):
        at, y = block * 34, block * 32
        d = read_half(raw, at)
        for j in range(32):
            out[y + j] = d * np.float32(np.int8(raw[at + 2 + j]))


@njit(cache=True)
def decode_element(raw, i):
    at = i // 32 * 34
    return read_half(raw, at) * np.float32(np.int8(raw[at + 2 + i % 32]))


@njit(cache=True)
def encode_row(x, raw):
    for block in range(x.size // 32):
        at, k = block * 34, block * 32
        d = abs(signed_max(x, k, 32)) / np.float32(127)
        inverse = np.float32(1) / d if d != 0 else np.float32(0)
        write_half(raw, at, d)
        for j in range(32):
            raw[at + 2 + j] = np.uint8(np.int8(round_half_away(x[k + j] * inverse)))


@as_in_c
def improve_block(x, importance, block, trial):
    d = scale_improve(x, importance, LEVELS, 0.99, 1.06)
    write_half(trial, 0, d)
    for j in range(32):
        trial[2 + j] = int(code(x[j] / d, -127, 127)) & 255
