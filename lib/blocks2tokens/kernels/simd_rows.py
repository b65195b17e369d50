"""Rows of weights against rows of activations, 64 bytes at a time, for six formats.

    raw   one row of weights             load -> split -> four vectors of codes, in the order they come out
    codes int8 [K], in that same order   dot  -> int32, times the integer scales -> int32, times d -> float32
    sums  float32 [K / group]            times the offsets: w = scale * code - offset

    Q4_K Q5_K Q6_K   units of 256 weights, one d, integer scales of sub-blocks
    Q8_0 Q4_0 Q4_1   units of 128 weights: four blocks of 32, each with its d

A row's last unit may have fewer blocks. Its last block is then taken for the missing ones too, and the
activations there are zeros.

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
    address_of,
    ask_ahead,
    bytes_to_floats,
    dot_pairs,
    flip_sign,
    high_nibbles,
    load_2_halves,
    load_4_floats,
    load_4_halves,
    load_4_pairs,
    load_8_floats,
    load_16_int8,
    load_bytes,
    load_float,
    load_floats,
    load_half,
    load_parts,
    load_twice,
    load_u32,
    low_nibbles,
    multiply,
    multiply_add,
    pick_scales,
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

K_ORDER = (0, 1, 4, 5, 2, 3, 6, 7)  # sub-blocks 0 2 1 3 of a half: low nibbles of 64 bytes, then high ones
NIBBLE_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # first halves of four blocks, then second halves


# A format's type chooses its functions; its fields: weights of a unit, its bytes, offsets, blocks.
class Q4K(NamedTuple):
    span: int
    n_bytes: int
    groups: int
    blocks: int


class Q5K(NamedTuple):
    span: int
    n_bytes: int
    groups: int
    blocks: int


class Q6K(NamedTuple):
    span: int
    n_bytes: int
    groups: int
    blocks: int


class Q80(NamedTuple):
    span: int
    n_bytes: int
    groups: int
    blocks: int


class Q40(NamedTuple):
    span: int
    n_bytes: int
    groups: int
    blocks: int


class Q41(NamedTuple):
    span: int
    n_bytes: int
    groups: int
    blocks: int


Q4_K, Q5_K, Q6_K = Q4K(256, 144, 8, 1), Q5K(256, 176, 8, 1), Q6K(256, 210, 16, 1)
Q8_0, Q4_0, Q4_1 = Q80(128, 4 * 34, 4, 4), Q40(128, 4 * 18, 4, 4), Q41(128, 4 * 20, 4, 4)
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


def unit(fmt, raw, at, last):
    """Unpack the unit at byte `at`: (vectors of codes, integer scales or 0, d, offsets).

    `last` is the number of its last block: 3 in a whole unit of four.
    """


@njit
def k_scales(scales):
    """Return the scales of the four vectors of codes: of sub-blocks 0 and 2, 1 and 3, 4 and 6, 5 and 7."""
    return (
        pick_scales(scales, 0, 2),
        pick_scales(scales, 1, 3),
        pick_scales(scales, 4, 6),
        pick_scales(scales, 5, 7),
    )


def q4_k_unit(fmt, raw, at, last):
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


def q5_k_unit(fmt, raw, at, last):
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


def q6_k_unit(fmt, raw, at, last):
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


def q8_0_unit(fmt, raw, at, last):
    d = load_4_halves(raw, at, 34, last)
    a, b = load_parts(raw, at + 2, 34, 0, 2, last), load_parts(raw, at + 2, 34, 2, 2, last)
    return (flip_sign(a), flip_sign(b)), 0, d, multiply(d, repeat_float(np.float32(128), d))


def q4_0_unit(fmt, raw, at, last):
    q, d = load_parts(raw, at + 2, 18, 0, 4, last), load_4_halves(raw, at, 18, last)
    return (low_nibbles(q), high_nibbles(q)), 0, d, multiply(d, repeat_float(np.float32(8), d))


def q4_1_unit(fmt, raw, at, last):
    q, (d, m) = load_parts(raw, at + 4, 20, 0, 4, last), load_4_pairs(raw, at, 20, last)
    return (low_nibbles(q), high_nibbles(q)), 0, d, multiply(m, repeat_float(np.float32(-1), m))


UNITS = {Q4K: q4_k_unit, Q5K: q5_k_unit, Q6K: q6_k_unit, Q80: q8_0_unit, Q40: q4_0_unit, Q41: q4_1_unit}


@overload(unit)
def choose_unit(fmt, raw, at, last):
    return UNITS[fmt.instance_class]


# --- Activations ------------------------------------------------------------------------------------------


class Rounded(NamedTuple):
    """Where 8-bit activations lie: the addresses of codes, d and sums, and how many units a row has."""

    codes: int
    d: int
    sums: int
    units: int


@njit(forceinline=True)
def rounded(fmt, codes, d, sums):
    """Return where activations lie; a row of them must be whole units."""
    return Rounded(address_of(codes), address_of(d), address_of(sums), codes.shape[1] // fmt.span)


@njit(forceinline=True)
def codes_at(fmt, a, m, u, i):
    """Load vector i of the codes of unit u of row m."""
    return load_bytes(a.codes, (m * a.units + u) * fmt.span + 64 * i)


@njit(forceinline=True)
def d_at(fmt, a, m, u):
    """Return the byte where the scales of unit u of row m begin."""
    return 4 * (m * a.units + u) * fmt.blocks


def sums_at(fmt, a, m, u):
    """Load the sums of unit u of row m: as many as a unit has offsets."""


@overload(sums_at)
def choose_sums_at(fmt, a, m, u):
    load = {Q6K: load_floats, Q4K: load_8_floats, Q5K: load_8_floats}.get(fmt.instance_class, load_4_floats)
    return lambda fmt, a, m, u: load(a.sums, 4 * (m * a.units + u) * fmt.groups)


# --- Products of a unit ----------------------------------------------------------------------------------


def add_products(fmt, isa, q, s, scale, a, m, u, products):
    """Add to 16 float32 the dot products of unit u with row m of the activations."""


def products_of_k(fmt, isa, q, s, scale, a, m, u, products):
    dot = add_scaled_pairs(isa, zero_ints(), dot_pairs(isa, q[0], codes_at(fmt, a, m, u, 0)), s[0])
    dot = add_scaled_pairs(isa, dot, dot_pairs(isa, q[1], codes_at(fmt, a, m, u, 1)), s[1])
    dot = add_scaled_pairs(isa, dot, dot_pairs(isa, q[2], codes_at(fmt, a, m, u, 2)), s[2])
    dot = add_scaled_pairs(isa, dot, dot_pairs(isa, q[3], codes_at(fmt, a, m, u, 3)), s[3])
    scale = scale * load_float(a.d, d_at(fmt, a, m, u))
    return multiply_add(to_floats(dot), repeat_float(scale, products), products)


def products_of_bytes(fmt, isa, q, s, scale, a, m, u, products):
    scales = multiply(scale, load_4_floats(a.d, d_at(fmt, a, m, u)))
    first = add_quads(isa, zero_ints(), q[0], codes_at(fmt, a, m, u, 0))
    second = add_quads(isa, zero_ints(), q[1], codes_at(fmt, a, m, u, 1))
    products = multiply_add(to_floats(first), spread(scales, 0, 8), products)
    return multiply_add(to_floats(second), spread(scales, 2, 8), products)


def products_of_nibbles(fmt, isa, q, s, scale, a, m, u, products):
    scales = multiply(scale, load_4_floats(a.d, d_at(fmt, a, m, u)))
    dot = add_quads(isa, zero_ints(), q[0], codes_at(fmt, a, m, u, 0))
    dot = add_quads(isa, dot, q[1], codes_at(fmt, a, m, u, 1))
    return multiply_add(to_floats(dot), spread(scales, 0, 4), products)


@overload(add_products)
def choose_products(fmt, isa, q, s, scale, a, m, u, products):
    if is_k_quant(fmt):
        return products_of_k
    return products_of_bytes if fmt.instance_class is Q80 else products_of_nibbles


# --- Rows -------------------------------------------------------------------------------------------------


def ask_for_unit(fmt, raw, at):
    """Ask for the cache lines of units to come, from the one at byte `at` on."""


@overload(ask_for_unit)
def choose_ask_for_unit(fmt, raw, at):
    if fmt.instance_class is Q6K:
        return lambda fmt, raw, at: ask_ahead(raw, at, 4)
    if fmt.instance_class in (Q40, Q41):
        return lambda fmt, raw, at: ask_ahead(raw, at, 2)
    return lambda fmt, raw, at: ask_ahead(raw, at, 3)


@njit(forceinline=True)
def last_block(fmt, row_bytes, u):
    """Return the number of the last block of unit u of a row; units of one block take no notice of it."""
    return min(4, (row_bytes - fmt.n_bytes * u) // (fmt.n_bytes // 4)) - 1


@njit(forceinline=True)
def one(fmt, isa, raw, at, row_bytes, a, m):
    """Return the dot product of the row of weights at byte `at` with row m of the activations."""
    whole = row_bytes // fmt.n_bytes
    products, offsets = zero_floats(), zeros_like(sums_at(fmt, a, m, 0))
    for u in range(whole):
        ask_for_unit(fmt, raw, at + fmt.n_bytes * u)
        q, s, scale, offset = unit(fmt, raw, at + fmt.n_bytes * u, 3)
        products = add_products(fmt, isa, q, s, scale, a, m, u, products)
        offsets = multiply_add(offset, sums_at(fmt, a, m, u), offsets)
    if whole < a.units:
        last = last_block(fmt, row_bytes, whole)
        q, s, scale, offset = unit(fmt, raw, at + fmt.n_bytes * whole, last)
        products = add_products(fmt, isa, q, s, scale, a, m, whole, products)
        offsets = multiply_add(offset, sums_at(fmt, a, m, whole), offsets)
    return total(products) - total(offsets)


@njit(forceinline=True)
def four(fmt, isa, raw, at, row_bytes, a, m):
    """Return the dot products with rows m to m + 3: each unit is unpacked once for all of them."""
    p0 = p1 = p2 = p3 = zero_floats()
    o0 = o1 = o2 = o3 = zeros_like(sums_at(fmt, a, m, 0))
    for u in range(a.units):
        q, s, scale, offset = unit(fmt, raw, at + fmt.n_bytes * u, last_block(fmt, row_bytes, u))
        p0 = add_products(fmt, isa, q, s, scale, a, m, u, p0)
        p1 = add_products(fmt, isa, q, s, scale, a, m + 1, u, p1)
        p2 = add_products(fmt, isa, q, s, scale, a, m + 2, u, p2)
        p3 = add_products(fmt, isa, q, s, scale, a, m + 3, u, p3)
        o0 = multiply_add(offset, sums_at(fmt, a, m, u), o0)
        o1 = multiply_add(offset, sums_at(fmt, a, m + 1, u), o1)
        o2 = multiply_add(offset, sums_at(fmt, a, m + 2, u), o2)
        o3 = multiply_add(offset, sums_at(fmt, a, m + 3, u), o3)
    return total(p0) - total(o0), total(p1) - total(o1), total(p2) - total(o2), total(p3) - total(o3)


@njit
def rows_one_by_one(fmt, isa, raw, codes, d, sums, first, last, out):
    """Fill columns first to last - 1 of out, float32 [M, N]; raw, uint8 [N, row bytes]."""
    a, weights, row_bytes = rounded(fmt, codes, d, sums), address_of(raw), raw.shape[1]
    for n in range(first, last):
        for m in range(out.shape[0]):
            out[m, n] = one(fmt, isa, weights, n * row_bytes, row_bytes, a, m)


@njit
def rows_by_four(fmt, isa, raw, codes, d, sums, first, last, out):
    """Fill columns first to last - 1 of out, float32 [M, N]; raw, uint8 [N, row bytes]."""
    a, weights, row_bytes, M = rounded(fmt, codes, d, sums), address_of(raw), raw.shape[1], out.shape[0]
    for n in range(first, last):
        at = n * row_bytes
        for m in range(0, M - 3, 4):
            out[m, n], out[m + 1, n], out[m + 2, n], out[m + 3, n] = four(
                fmt, isa, weights, at, row_bytes, a, m
            )
        for m in range(M - M % 4, M):
            out[m, n] = one(fmt, isa, weights, at, row_bytes, a, m)
