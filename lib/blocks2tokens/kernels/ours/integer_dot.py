"""Dot integers, and multiply by the scales afterwards: the plain form of every integer kernel here.

    w = scale * q - offset        x = d * c        q unsigned, at most 8 bits; c int8

    sum of w * x over a group  =  d * scale * (sum of q * c)  -  offset * (d * sum of c)
                                              int32                        made once, with c

A format's `codes` function writes the q of one row, and a scale and an offset for each group of 16 or 32.
The loops are plain: what the vector kernels compute, for reading, and for comparing them with.
"""

from functools import cache

import numpy as np
from numba import njit, prange, types

from blocks2tokens.formats import compiled
from blocks2tokens.formats.compiled import BYTES, read_half
from blocks2tokens.formats.q4_k import scale_min
from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.ours import fused_rows, quantized_activations
from blocks2tokens.kernels.scratch import with_own_memory

ROWS_AT_ONCE = 16
CODES = types.void(BYTES, types.uint8[::1], types.float32[::1], types.float32[::1])


@njit(cache=True)
def scales_of_k(raw, at, b, scales, offsets):
    """Write the 8 scales and offsets of block b, whose header is at byte `at`."""
    d, dmin = read_half(raw, at), read_half(raw, at + 2)
    for s in range(8):
        sc, m = scale_min(raw, at + 4, s)
        scales[8 * b + s], offsets[8 * b + s] = d * np.float32(sc), dmin * np.float32(m)


@njit(cache=True)
def codes_q4_k(raw, q, scales, offsets):
    for b in range(q.size // 256):
        scales_of_k(raw, 144 * b, b, scales, offsets)
        for s in range(8):
            at, shift = 144 * b + 16 + 32 * (s // 2), 4 * (s % 2)
            for l in range(32):
                q[256 * b + 32 * s + l] = (raw[at + l] >> shift) & 15


@njit(cache=True)
def codes_q5_k(raw, q, scales, offsets):
    for b in range(q.size // 256):
        scales_of_k(raw, 176 * b, b, scales, offsets)
        for s in range(8):
            at, shift = 176 * b + 48 + 32 * (s // 2), 4 * (s % 2)
            for l in range(32):
                high = (raw[176 * b + 16 + l] >> s) & 1
                q[256 * b + 32 * s + l] = ((raw[at + l] >> shift) & 15) | high << 4


@njit(cache=True)
def codes_q6_k(raw, q, scales, offsets):
    for b in range(q.size // 256):
        block = 210 * b
        d = read_half(raw, block + 208)
        for s in range(16):
            scales[16 * b + s] = d * np.float32(np.int8(raw[block + 192 + s]))
            offsets[16 * b + s] = np.float32(32) * scales[16 * b + s]
        for part in range(8):  # 32 weights: half part // 4, quarter part % 4
            low, nibble = block + 64 * (part // 4) + 32 * (part % 2), 4 * (part % 4 // 2)
            high, pair = block + 128 + 32 * (part // 4), 2 * (part % 4)
            for l in range(32):
                q[256 * b + 32 * part + l] = ((raw[low + l] >> nibble) & 15) | (
                    (raw[high + l] >> pair) & 3
                ) << 4


@njit(cache=True)
def codes_q8_0(raw, q, scales, offsets):
    for b in range(q.size // 32):
        scales[b] = read_half(raw, 34 * b)
        offsets[b] = np.float32(128) * scales[b]
        for l in range(32):
            q[32 * b + l] = raw[34 * b + 2 + l] ^ 128  # int8 + 128


@njit(cache=True)
def nibbles(raw, at, b, q):
    for l in range(16):
        q[32 * b + l], q[32 * b + 16 + l] = raw[at + l] & 15, raw[at + l] >> 4


@njit(cache=True)
def codes_q4_0(raw, q, scales, offsets):
    for b in range(q.size // 32):
        scales[b] = read_half(raw, 18 * b)
        offsets[b] = np.float32(8) * scales[b]
        nibbles(raw, 18 * b + 2, b, q)


@njit(cache=True)
def codes_q4_1(raw, q, scales, offsets):
    for b in range(q.size // 32):
        scales[b], offsets[b] = read_half(raw, 20 * b), -read_half(raw, 20 * b + 2)
        nibbles(raw, 20 * b + 4, b, q)


pointer = cache(compiled.pointer)  # to ask for it again costs more than a small product
FORMATS = {  # name: its function, and how many weights share a scale
    "Q4_K": (codes_q4_k, 32),
    "Q5_K": (codes_q5_k, 32),
    "Q6_K": (codes_q6_k, 16),
    "Q8_0": (codes_q8_0, 32),
    "Q4_0": (codes_q4_0, 32),
    "Q4_1": (codes_q4_1, 32),
}


@njit(cache=True)
def dot(q, c):
    """Return the dot product of two groups of codes.

    Numba widens every sum and product of int32 to 64 bits: `int32` takes them back, each time.
    """
    total = np.int32(0)
    for k in range(q.size):
        total = np.int32(total + np.int32(np.int32(q[k]) * np.int32(c[k])))
    return np.float32(total)


@njit(parallel=True, cache=True)
def multiply(codes_of, group, raw, codes, d, sums, out):
    """Fill out, float32 [M, N], from raw, uint8 [N, row bytes], and activations."""
    N, K = raw.shape[0], codes.shape[1]
    block, groups = K // d.shape[1], K // group
    for chunk in prange((N + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE):
        q = np.empty(K, np.uint8)
        scales, offsets = np.empty(groups, np.float32), np.empty(groups, np.float32)
        for n in range(ROWS_AT_ONCE * chunk, min(ROWS_AT_ONCE * (chunk + 1), N)):
            codes_of(raw[n], q, scales, offsets)
            for m in range(out.shape[0]):
                out[m, n] = dot_row(q, scales, offsets, codes[m], d[m], sums[m], group, block)


@njit(cache=True)
def dot_row(q, scales, offsets, c, d, sums, group, block):
    """Return the dot product of one row of weights with one of activations."""
    total = np.float32(0)
    for g in range(scales.size):
        products = scales[g] * dot(q[g * group : (g + 1) * group], c[g * group : (g + 1) * group])
        total += d[g * group // block] * products - offsets[g] * sums[g]
    return total


def needs(M, w):
    if w.format.name not in FORMATS:
        return fused_rows.needs(M, w)
    K, block, group = w.shape[1], w.format.block_size, FORMATS[w.format.name][1]
    rounded = quantized_activations.needs(M, K, block, group)
    return {**rounded, "scaled": ((M, K // group), np.float32)}


def run_into(x, w, out, room):
    if w.format.name not in FORMATS:
        return fused_rows.run_into(x, w, out, room)
    codes_of, group = FORMATS[w.format.name]
    a = quantized_activations.quantize_into(x, room)
    multiply(pointer(codes_of, CODES), group, w.raw, *by_rows(a, room["scaled"]), out)


def by_rows(a, scaled):
    """Return codes, int8 [M, K], d [M, K / block], d * (sum of codes) [M, K / group], of tiles of one row.

    The last is made in scaled, float32 [M, K / group], where a does not hold it.
    """
    codes, d = a.codes.reshape(a.n_rows, -1), a.d.reshape(a.n_rows, -1)
    if a.sums.ndim != 4:
        return codes, d, a.sums.reshape(a.n_rows, -1)
    np.multiply(a.d[..., None], a.sums, out=scaled.reshape(a.sums.shape))
    return codes, d, scaled


run = with_own_memory(needs, run_into)


def count(M, K, N, fmt, cores):
    if fmt.name not in FORMATS:
        return fused_rows.count(M, K, N, fmt, cores)
    return Cost(
        elements_decoded=K * N,
        blocks_decoded=K * N // fmt.block_size,
        lookups=0,
        bytes_read=N * fmt.row_bytes(K) + 4 * M * K,
        temporary_bytes=cores * (K + 8 * (K // FORMATS[fmt.name][1])),
        multiply_adds=M * K * N,
    )


KERNEL = Kernel(
    "integer_dot",
    "gguf",
    "dot 8-bit integers, scale afterwards",
    run,
    count,
    True,
    needs=needs,
    run_into=run_into,
)
