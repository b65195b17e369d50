"""Rows of weights against rows of activations, 64 bytes at a time, for six formats.

    raw   one row of weights             load -> split -> four vectors of codes, in the order they come out
    codes int8 [K], in that same order   dot  -> int32, times the integer scales -> int32, times d -> float32
    sums  float32 [K / group]            times the offsets: w = scale * code - offset

    Q4_K Q5_K Q6_K   units of 256 weights, one d, integer scales of sub-blocks
    Q8_0 Q4_0 Q4_1   units of 128 weights: four blocks of 32, each with its d; what is left, block by block

For each format `unit` says how its bytes become vectors. `one` takes one row of activations, `four` takes
four of them for each time that the weights are unpacked. All sums stay in registers until the row ends.
Source of the idea: ggml `ggml_vec_dot_q4_K_q8_K` and relatives.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload

from blocks2tokens.kernels.simd import (
    add_bits,
    add_quads,
    add_scaled_pairs,
    bytes_to_floats,
    dot_pairs,
    flip_sign,
    high_nibbles,
    load_2_halves,
    load_4_float16,
    load_4_floats,
    load_8_floats,
    load_16_int8,
    load_bytes,
    load_floats,
    load_half,
    load_halves,
    load_quarters,
    load_twice,
    load_u32,
    low_nibbles,
    multiply,
    multiply_add,
    pick_scales,
    prefetch,
    repeat_16_scales,
    repeat_bytes,
    repeat_float,
    spread,
    to_floats,
    total,
    zero_floats,
    zero_ints,
    zeros_like,
)

AHEAD = 3072  # bytes: by the time that they are needed, memory has sent them
K_ORDER = (0, 1, 4, 5, 2, 3, 6, 7)  # sub-blocks 0 2 1 3 of a half: low nibbles of 64 bytes, then high ones
NIBBLE_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # first halves of four blocks, then second halves


# A format's type chooses its functions; its fields: weights of a unit, bytes of it, how many offsets it has.
class Q4K(NamedTuple):
    span: int
    n_bytes: int
    groups: int


class Q5K(NamedTuple):
    span: int
    n_bytes: int
    groups: int


class Q6K(NamedTuple):
    span: int
    n_bytes: int
    groups: int


class Q80(NamedTuple):
    span: int
    n_bytes: int
    groups: int


class Q40(NamedTuple):
    span: int
    n_bytes: int
    groups: int


class Q41(NamedTuple):
    span: int
    n_bytes: int
    groups: int


Q4_K, Q5_K, Q6_K = Q4K(256, 144, 8), Q5K(256, 176, 8), Q6K(256, 210, 16)
Q8_0, Q4_0, Q4_1 = Q80(128, 4 * 34, 4), Q40(128, 4 * 18, 4), Q41(128, 4 * 20, 4)
SIMD_FORMATS = {"Q4_K": Q4_K, "Q5_K": Q5_K, "Q6_K": Q6_K, "Q8_0": Q8_0, "Q4_0": Q4_0, "Q4_1": Q4_1}
ORDERS = {"Q4_K": K_ORDER, "Q5_K": K_ORDER, "Q4_0": NIBBLE_ORDER, "Q4_1": NIBBLE_ORDER}


def is_k_quant(fmt):
    return fmt.instance_class in (Q4K, Q5K, Q6K)


@njit
def packed_scales(raw, at):
    """Return the 8 scales and the 8 minimums of Q4_K and Q5_K as the bytes of two uint64."""
    a, b, c = load_u32(raw, at), load_u32(raw, at + 4), load_u32(raw, at + 8)
    six, four, two = np.uint32(0x3F3F3F3F), np.uint32(0x0F0F0F0F), np.uint32(0x03030303)
    sc = (c & four) | ((a >> np.uint32(6)) & two) << np.uint32(4)
    m = ((c >> np.uint32(4)) & four) | ((b >> np.uint32(6)) & two) << np.uint32(4)
    return join(a & six, sc), join(b & six, m)


@njit
def join(low, high):
    return np.uint64(low) | np.uint64(high) << np.uint64(32)


# --- Units: vectors of codes, scales, offsets ------------------------------------------------------------


def unit(fmt, raw, at):
    """Unpack the unit at byte `at`: (vectors of codes, integer scales or 0, d, offsets)."""


@njit
def k_scales(scales):
    """Return the scales of the four vectors of codes: of sub-blocks 0 and 2, 1 and 3, 4 and 6, 5 and 7."""
    return (
        pick_scales(scales, 0, 2),
        pick_scales(scales, 1, 3),
        pick_scales(scales, 4, 6),
        pick_scales(scales, 5, 7),
    )


def q4_k_unit(fmt, raw, at):
    sc, m = packed_scales(raw, at + 4)
    scales, (d, dmin) = repeat_bytes(sc), load_2_halves(raw, at)
    a, b = load_bytes(raw, at + 16), load_bytes(raw, at + 80)
    offsets = bytes_to_floats(m)
    return (
        (low_nibbles(a), high_nibbles(a), low_nibbles(b), high_nibbles(b)),
        k_scales(scales),
        d,
        multiply(offsets, repeat_float(dmin, offsets)),
    )


def q5_k_unit(fmt, raw, at):
    sc, m = packed_scales(raw, at + 4)
    scales, (d, dmin) = repeat_bytes(sc), load_2_halves(raw, at)
    a, b, high = load_bytes(raw, at + 48), load_bytes(raw, at + 112), load_twice(raw, at + 16)
    offsets = bytes_to_floats(m)
    return (
        (
            add_bits(low_nibbles(a), high, 0, 2, 1),
            add_bits(high_nibbles(a), high, 1, 3, 1),
            add_bits(low_nibbles(b), high, 4, 6, 1),
            add_bits(high_nibbles(b), high, 5, 7, 1),
        ),
        k_scales(scales),
        d,
        multiply(offsets, repeat_float(dmin, offsets)),
    )


def q6_k_unit(fmt, raw, at):
    a, b = load_bytes(raw, at), load_bytes(raw, at + 64)
    high_a, high_b = load_twice(raw, at + 128), load_twice(raw, at + 160)
    d, scales = load_half(raw, at + 208), load_16_int8(raw, at + 192)
    return (
        (
            add_bits(low_nibbles(a), high_a, 0, 2, 3),
            add_bits(high_nibbles(a), high_a, 4, 6, 3),
            add_bits(low_nibbles(b), high_b, 0, 2, 3),
            add_bits(high_nibbles(b), high_b, 4, 6, 3),
        ),
        (
            repeat_16_scales(raw, at + 192, 0),
            repeat_16_scales(raw, at + 192, 4),
            repeat_16_scales(raw, at + 192, 8),
            repeat_16_scales(raw, at + 192, 12),
        ),
        d,
        multiply(scales, repeat_float(np.float32(32) * d, scales)),
    )


def q8_0_unit(fmt, raw, at):
    d = load_4_float16(raw, at, 34)
    codes = flip_sign(load_halves(raw, at + 2, 34)), flip_sign(load_halves(raw, at + 70, 34))
    return codes, 0, d, multiply(d, repeat_float(np.float32(128), d))


def q4_0_unit(fmt, raw, at):
    q, d = load_quarters(raw, at + 2, 18), load_4_float16(raw, at, 18)
    return (low_nibbles(q), high_nibbles(q)), 0, d, multiply(d, repeat_float(np.float32(8), d))


def q4_1_unit(fmt, raw, at):
    q, d, m = load_quarters(raw, at + 4, 20), load_4_float16(raw, at, 20), load_4_float16(raw, at + 2, 20)
    return (low_nibbles(q), high_nibbles(q)), 0, d, multiply(m, repeat_float(np.float32(-1), m))


UNITS = {Q4K: q4_k_unit, Q5K: q5_k_unit, Q6K: q6_k_unit, Q80: q8_0_unit, Q40: q4_0_unit, Q41: q4_1_unit}


@overload(unit)
def choose_unit(fmt, raw, at):
    return UNITS[fmt.instance_class]


def load_offsets(fmt, sums, offset):
    """Load as many sums as a unit has offsets."""


@overload(load_offsets)
def choose_load_offsets(fmt, sums, offset):
    if fmt.instance_class is Q6K:
        return lambda fmt, sums, offset: load_floats(sums, offset)
    if fmt.instance_class in (Q4K, Q5K):
        return lambda fmt, sums, offset: load_8_floats(sums, offset)
    return lambda fmt, sums, offset: load_4_floats(sums, offset)


# --- Products of a unit ----------------------------------------------------------------------------------


def add_products(fmt, isa, q, s, scale, codes, d, m, u, products):
    """Add to 16 float32 the dot products of unit u with row m of the activations."""


def products_of_k(fmt, isa, q, s, scale, codes, d, m, u, products):
    x = m * codes.shape[1] + 256 * u
    dot = add_scaled_pairs(isa, zero_ints(), dot_pairs(isa, q[0], load_bytes(codes, x)), s[0])
    dot = add_scaled_pairs(isa, dot, dot_pairs(isa, q[1], load_bytes(codes, x + 64)), s[1])
    dot = add_scaled_pairs(isa, dot, dot_pairs(isa, q[2], load_bytes(codes, x + 128)), s[2])
    dot = add_scaled_pairs(isa, dot, dot_pairs(isa, q[3], load_bytes(codes, x + 192)), s[3])
    return multiply_add(to_floats(dot), repeat_float(scale * d[m, u], products), products)


def products_of_bytes(fmt, isa, q, s, scale, codes, d, m, u, products):
    x, scales = m * codes.shape[1] + 128 * u, multiply(scale, load_4_floats(d, 4 * (m * d.shape[1] + 4 * u)))
    a = add_quads(isa, zero_ints(), q[0], load_bytes(codes, x))
    b = add_quads(isa, zero_ints(), q[1], load_bytes(codes, x + 64))
    products = multiply_add(to_floats(a), spread(scales, 0, 8), products)
    return multiply_add(to_floats(b), spread(scales, 2, 8), products)


def products_of_nibbles(fmt, isa, q, s, scale, codes, d, m, u, products):
    x, scales = m * codes.shape[1] + 128 * u, multiply(scale, load_4_floats(d, 4 * (m * d.shape[1] + 4 * u)))
    dot = add_quads(isa, zero_ints(), q[0], load_bytes(codes, x))
    dot = add_quads(isa, dot, q[1], load_bytes(codes, x + 64))
    return multiply_add(to_floats(dot), spread(scales, 0, 4), products)


@overload(add_products)
def choose_products(fmt, isa, q, s, scale, codes, d, m, u, products):
    if is_k_quant(fmt):
        return products_of_k
    return products_of_bytes if fmt.instance_class is Q80 else products_of_nibbles


# --- What four blocks at a time leave over ----------------------------------------------------------------


def leftover(fmt, raw, at, codes, d, sums, m):
    """Return the dot product of the blocks behind the last whole unit; `at` is their first byte."""


@njit
def signed(byte):
    return np.int32(np.int8(byte))


def leftover_q8_0(fmt, raw, at, codes, d, sums, m):
    result = np.float32(0)
    for b in range(codes.shape[1] // 128 * 4, d.shape[1]):
        dot = np.int32(0)
        for i in range(32):
            dot += signed(raw[at + 2 + i]) * np.int32(codes[m, 32 * b + i])
        result += load_half(raw, at) * d[m, b] * np.float32(dot)
        at += 34
    return result


@njit
def nibble_dot(raw, at, codes, m, b):
    dot = np.int32(0)
    for i in range(16):
        dot += np.int32(raw[at + i] & 15) * np.int32(codes[m, 32 * b + i])
        dot += np.int32(raw[at + i] >> 4) * np.int32(codes[m, 32 * b + 16 + i])
    return np.float32(dot)


def leftover_q4_0(fmt, raw, at, codes, d, sums, m):
    result = np.float32(0)
    for b in range(codes.shape[1] // 128 * 4, d.shape[1]):
        products = d[m, b] * nibble_dot(raw, at + 2, codes, m, b) - np.float32(8) * sums[m, b]
        result += load_half(raw, at) * products
        at += 18
    return result


def leftover_q4_1(fmt, raw, at, codes, d, sums, m):
    result = np.float32(0)
    for b in range(codes.shape[1] // 128 * 4, d.shape[1]):
        result += load_half(raw, at) * d[m, b] * nibble_dot(raw, at + 4, codes, m, b)
        result += load_half(raw, at + 2) * sums[m, b]
        at += 20
    return result


LEFTOVERS = {Q80: leftover_q8_0, Q40: leftover_q4_0, Q41: leftover_q4_1}


@overload(leftover)
def choose_leftover(fmt, raw, at, codes, d, sums, m):
    return LEFTOVERS.get(fmt.instance_class, lambda fmt, raw, at, codes, d, sums, m: np.float32(0))


# --- Rows -------------------------------------------------------------------------------------------------


def ask_for(fmt, raw, at):
    """Ask for the cache lines of the unit at byte `at`, which may lie behind the end of the array."""


@overload(ask_for)
def choose_ask_for(fmt, raw, at):
    if fmt.instance_class is Q6K:
        return lambda fmt, raw, at: prefetch(raw, at, 4)
    if fmt.instance_class in (Q40, Q41):
        return lambda fmt, raw, at: prefetch(raw, at, 2)
    return lambda fmt, raw, at: prefetch(raw, at, 3)


@njit
def one(fmt, isa, raw, at, codes, d, sums, m):
    """Return the dot product of the row of weights at byte `at` with row m of the activations."""
    n_units, y = codes.shape[1] // fmt.span, 4 * m * sums.shape[1]
    products, offsets = zero_floats(), zeros_like(load_offsets(fmt, sums, y))
    for u in range(n_units):
        ask_for(fmt, raw, at + fmt.n_bytes * u + AHEAD)
        q, s, scale, offset = unit(fmt, raw, at + fmt.n_bytes * u)
        products = add_products(fmt, isa, q, s, scale, codes, d, m, u, products)
        offsets = multiply_add(offset, load_offsets(fmt, sums, y + 4 * fmt.groups * u), offsets)
    rest = leftover(fmt, raw, at + fmt.n_bytes * n_units, codes, d, sums, m)
    return total(products) - total(offsets) + rest


@njit
def four(fmt, isa, raw, at, codes, d, sums, m):
    """Return the dot products with rows m to m + 3: each unit is unpacked once for all of them."""
    n_units, y, row = codes.shape[1] // fmt.span, 4 * m * sums.shape[1], 4 * sums.shape[1]
    p0 = p1 = p2 = p3 = zero_floats()
    o0 = o1 = o2 = o3 = zeros_like(load_offsets(fmt, sums, y))
    for u in range(n_units):
        q, s, scale, offset = unit(fmt, raw, at + fmt.n_bytes * u)
        p0 = add_products(fmt, isa, q, s, scale, codes, d, m, u, p0)
        p1 = add_products(fmt, isa, q, s, scale, codes, d, m + 1, u, p1)
        p2 = add_products(fmt, isa, q, s, scale, codes, d, m + 2, u, p2)
        p3 = add_products(fmt, isa, q, s, scale, codes, d, m + 3, u, p3)
        at_sums = y + 4 * fmt.groups * u
        o0 = multiply_add(offset, load_offsets(fmt, sums, at_sums), o0)
        o1 = multiply_add(offset, load_offsets(fmt, sums, at_sums + row), o1)
        o2 = multiply_add(offset, load_offsets(fmt, sums, at_sums + 2 * row), o2)
        o3 = multiply_add(offset, load_offsets(fmt, sums, at_sums + 3 * row), o3)
    rest = at + fmt.n_bytes * n_units
    return (
        total(p0) - total(o0) + leftover(fmt, raw, rest, codes, d, sums, m),
        total(p1) - total(o1) + leftover(fmt, raw, rest, codes, d, sums, m + 1),
        total(p2) - total(o2) + leftover(fmt, raw, rest, codes, d, sums, m + 2),
        total(p3) - total(o3) + leftover(fmt, raw, rest, codes, d, sums, m + 3),
    )


@njit
def rows_one_by_one(fmt, isa, raw, codes, d, sums, first, last, out):
    """Fill columns first to last - 1 of out, float32 [M, N]; raw, uint8 [N, row bytes]."""
    flat = raw.reshape(-1)
    for n in range(first, last):
        for m in range(out.shape[0]):
            out[m, n] = one(fmt, isa, flat, n * raw.shape[1], codes, d, sums, m)


@njit
def rows_by_four(fmt, isa, raw, codes, d, sums, first, last, out):
    """Fill columns first to last - 1 of out, float32 [M, N]; raw, uint8 [N, row bytes]."""
    M, flat = out.shape[0], raw.reshape(-1)
    for n in range(first, last):
        at = n * raw.shape[1]
        for m in range(0, M - 3, 4):
            out[m, n], out[m + 1, n], out[m + 2, n], out[m + 3, n] = four(
                fmt, isa, flat, at, codes, d, sums, m
            )
        for m in range(M - M % 4, M):
            out[m, n] = one(fmt, isa, flat, at, codes, d, sums, m)
