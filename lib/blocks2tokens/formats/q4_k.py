"""Q4_K: 256 weights as 4-bit codes in 8 sub-blocks of 32, each with a 6-bit scale and minimum.

    d           float16    scale of the scales                     144 bytes, 4.5 bits per weight
    dmin        float16    scale of the minimums
    scales[12]  uint8      8 scales and 8 minimums of 6 bits, see `unpack_scales`
    qs[128]     uint8      chunk c of 32 bytes: low nibbles sub-block 2c, high nibbles sub-block 2c + 1
    weight = (d * scale) * q - (dmin * minimum)

Source: ggml `block_q4_K`, `dequantize_row_q4_K`, `get_scale_min_k4`, `quantize_row_q4_K_ref`,
`quantize_row_q4_K_impl`.
"""

import numpy as np
from numba import njit

from blocks2tokens.formats.best import asymmetric_improve
from blocks2tokens.formats.compiled import as_in_c, read_half, write_half
from blocks2tokens.formats.search import (
    WEIGHTED_GRID,
    asymmetric_recode,
    asymmetric_scales,
    importance_weights,
    mean_square,
    positive_search,
    round_to_largest,
    totals,
)

GGML_TYPE = 12
WEIGHTS = 256
BLOCK = np.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)])

SIZE, NMAX, TOP = np.int64(32), np.int64(15), np.int64(63)  # weights of a sub-block; largest code, scale
GRID = (-1.0, 0.1, np.int64(20))  # ggml's search, see `asymmetric_search`


def unpack_scales(scales):
    """Return the scales and minimums of each block, two uint8 [n, 8], from bytes uint8 [n, 12].

    Sub-blocks 0..3 have theirs in the low six bits of bytes 0..3 and 4..7. Sub-blocks 4..7 have four
    bits in the nibbles of bytes 8..11 and their top two in what the first eight bytes left free.
    """
    a, b, c = scales[:, 0:4], scales[:, 4:8], scales[:, 8:12]
    sc = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    m = np.concatenate([b & 63, (c >> 4) | (b >> 6) << 4], axis=1)
    return sc, m


def sub_block_scales(blocks):
    """Return scale and minimum of each sub-block, two float32 [n, 8, 1]."""
    sc, m = unpack_scales(blocks["scales"])
    d, dmin = blocks["d"].astype(np.float32)[:, None], blocks["dmin"].astype(np.float32)[:, None]
    return (d * sc)[:, :, None], (dmin * m)[:, :, None]


def split_nibbles(qs):
    """Return the nibbles of qs, uint8 [n, 128], in the order of the sub-blocks, uint8 [n, 8, 32]."""
    chunks = qs.reshape(-1, 4, 1, 32)
    return np.concatenate([chunks & 15, chunks >> 4], axis=2).reshape(-1, 8, 32)


def dequantize(blocks):
    """Decode blocks, BLOCK [n], to weights, float32 [n, 256]."""
    scales, mins = sub_block_scales(blocks)
    return (scales * split_nibbles(blocks["qs"]) - mins).reshape(-1, 256)


@njit(cache=True)
def scale_min(raw, at, s):
    """Return the 6-bit scale and minimum of sub-block s from the 12 bytes at `at`."""
    if s < 4:
        return raw[at + s] & 63, raw[at + s + 4] & 63
    nibbles = raw[at + s + 4]
    return (nibbles & 15) | (raw[at + s - 4] >> 6) << 4, (nibbles >> 4) | (raw[at + s] >> 6) << 4


@njit(cache=True)
def decode_row(raw, out):
    for block in range(out.size // 256):
        at, y = block * 144, block * 256
        d, dmin = read_half(raw, at), read_half(raw, at + 2)
        for s in range(8):
            sc, m = scale_min(raw, at + 4, s)
            scale, minimum = d * np.float32(sc), dmin * np.float32(m)
            codes = at + 16 + 32 * (s // 2)
            shift = 4 * (s % 2)
            for l in range(32):  # as a byte, a code is converted together with its neighbours
                out[y + 32 * s + l] = scale * np.float32(np.uint8((raw[codes + l] >> shift) & 15)) - minimum


@njit(cache=True)
def decode_element(raw, i):
    at, j = i // 256 * 144, i % 256
    s = j // 32
    d, dmin = read_half(raw, at), read_half(raw, at + 2)
    sc, m = scale_min(raw, at + 4, s)
    q = (raw[at + 16 + 32 * (s // 2) + j % 32] >> (4 * (s % 2))) & 15
    return d * np.float32(sc) * np.float32(q) - dmin * np.float32(m)


@as_in_c
def pack_scales(sc, m, out):
    """Write 8 scales and 8 minimums of 6 bits into 12 bytes: the inverse of `unpack_scales`."""
    for s in range(4):
        out[s] = sc[s] | (sc[s + 4] >> 4) << 6
        out[s + 4] = m[s] | (m[s + 4] >> 4) << 6
        out[s + 8] = (sc[s + 4] & 15) | (m[s + 4] & 15) << 4


@as_in_c
def pack_nibbles(codes, out):
    """Write 4-bit codes, float32 [256], into 128 bytes: the inverse of `split_nibbles`."""
    for chunk in range(4):
        for l in range(32):
            q = 64 * chunk + l
            out[32 * chunk + l] = int(codes[q]) | int(codes[q + 32]) << 4


@as_in_c
def write_scales(x, d, dmin, sc, m, nmax, codes, out):
    """Write d, dmin, scales and minimums, and set codes to those that fit them now that they are rounded."""
    write_half(out, 0, d)
    write_half(out, 2, dmin)
    pack_scales(sc, m, out[4:16])
    d, dmin = read_half(out, 0), read_half(out, 2)
    for s in range(8):
        y, q = x[32 * s : 32 * s + 32], codes[32 * s : 32 * s + 32]
        asymmetric_recode(y, d * np.float32(sc[s]), dmin * np.float32(m[s]), nmax, q)


@as_in_c
def magnitude_weights(x):
    """Return, for each weight, the root mean square of its sub-block plus its own magnitude."""
    weights = np.empty(256, np.float32)
    for s in range(8):
        rms = np.sqrt(mean_square(x[32 * s : 32 * s + 32]))
        for i in range(32 * s, 32 * s + 32):
            weights[i] = rms + abs(x[i])
    return weights


@as_in_c
def encode_scales(x, nmax, grid, out):
    """Write the 16 bytes of a block before its codes, as Q5_K has them too; return codes, float32 [256]."""
    scales, minimums, codes = asymmetric_scales(x, magnitude_weights(x), SIZE, nmax, grid, False)
    d, sc = round_to_largest(scales, TOP)
    dmin, m = round_to_largest(minimums, TOP)
    write_scales(x, d, dmin, sc, m, nmax, codes, out)
    return codes


@as_in_c
def encode_scales_weighted(x, importance, nmax, out):
    """Do so with the importance of each weight, float32 [256]."""
    weights = importance_weights(x, importance, np.float32(2) * mean_square(x))
    scales, minimums, codes = asymmetric_scales(x, weights, SIZE, nmax, WEIGHTED_GRID, False)
    d, sc = positive_search(scales, totals(weights, SIZE), TOP)
    dmin, m = positive_search(minimums, totals(weights, SIZE), TOP)
    write_scales(x, d, dmin, sc, m, nmax, codes, out)
    return codes


@as_in_c
def encode_row(x, raw):
    for block in range(x.size // 256):
        out = raw[144 * block : 144 * block + 144]
        pack_nibbles(encode_scales(x[256 * block : 256 * block + 256], NMAX, GRID, out), out[16:])


@as_in_c
def encode_row_weighted(x, importance, raw):
    for block in range(x.size // 256):
        y, out = x[256 * block : 256 * block + 256], raw[144 * block : 144 * block + 144]
        pack_nibbles(encode_scales_weighted(y, importance[256 * block :], NMAX, out), out[16:])


@as_in_c
def improve_scales(x, importance, nmax, block, codes, trial):
    """Start a better block than `block`: write its scales to `trial` and set codes to match."""
    sc, m = np.empty(8, np.uint8), np.empty(8, np.uint8)
    for s in range(8):
        sc[s], m[s] = scale_min(block, 4, s)
    d, dmin = read_half(block, 0), read_half(block, 2)
    d, dmin = asymmetric_improve(x, importance, nmax, TOP, d, dmin, sc, m)
    write_scales(x, d, dmin, sc, m, nmax, codes, trial)


@as_in_c
def improve_block(x, importance, block, trial):
    codes = np.zeros(256, np.float32)
    improve_scales(x, importance, NMAX, block, codes, trial)
    pack_nibbles(codes, trial[16:])
