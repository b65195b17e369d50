"""Rows of a cache: the key, or the value, of one token in one head, as one of four types.

    type       a row of head_dim numbers, in bytes       head_dim 64
    float32    4 head_dim                                256
    float16    2 head_dim                                128
    q8_0       34 for each 32: ggml's blocks              68
    q4_0       18 for each 32: ggml's blocks              36

Where rows lie, as `LayerRows` tells it to compiled code: a head's rows of PAGE tokens lie together, and a
table says where each page begins.

    table[page] --> | keys of head 0 | head 1 | ... | values of head 0 | head 1 | ... |   layer 0
                    | keys of head 0 | ...                                                layer 1
                      PAGE rows

    row of a token  table[token // PAGE] + layer, keys or values, head + token % PAGE * row_bytes

Keys in one piece are a layer too: its pages follow each other (`rows_of`).

Blocks of 4 bits have 16 steps for 32 numbers, and one number that is far larger than its neighbours takes
them all. So rows of q4_0 are turned before they are stored, by a Hadamard transform: each number becomes a
sum of all, with signs, and what was large in one place is spread over all places. Queries are turned alike,
so that their products with keys stay the same, and what is found, a sum of turned values, is turned back.

Sources: ggml `block_q8_0`, `block_q4_0`; Ashkboos et al., "QuaRot", 2024.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from blocks2tokens.formats import q4_0, q8_0
from blocks2tokens.formats.compiled import float_to_half
from blocks2tokens.jit.pointers import bytes_at, floats_at, shorts_at
from blocks2tokens.jit.vectors import (
    load_float,
    load_floats,
    load_half,
    load_halves,
    load_high_nibbles,
    load_int8s,
    load_low_nibbles,
    multiply,
    repeat_float,
    store,
    store_float,
)

PAGE = 64  # tokens
KEYS, VALUES = 0, 1
FLOAT32, FLOAT16, Q8_0, Q4_0 = range(4)
TYPES = {"float32": FLOAT32, "float16": FLOAT16, "q8_0": Q8_0, "q4_0": Q4_0}
BLOCKS = {"q8_0": "Q8_0", "q4_0": "Q4_0"}  # the formats of those that are made of blocks
WEIGHTS, Q8_0_BYTES, Q4_0_BYTES = q8_0.WEIGHTS, q8_0.BLOCK.itemsize, q4_0.BLOCK.itemsize
LANES, VECTOR = 16, 64  # numbers in a vector of float32, bytes of one


class LayerRows(NamedTuple):
    """Where compiled code finds the rows of a layer, and what they are; strides in bytes."""

    table: np.ndarray  # int64 [n_pages], addresses
    start: int  # of the layer, in each page
    kind: int  # FLOAT32 ...
    turned: int  # numbers of a row that the Hadamard transform mixes; 0: not turned
    row_bytes: int
    head_bytes: int  # from one head to the next
    values_at: int  # from a head's keys to its values


def row_bytes(kind: str, head_dim: int) -> int:
    """Return the bytes of a row of this type."""
    if kind in BLOCKS:
        return head_dim // WEIGHTS * (Q8_0_BYTES if kind == "q8_0" else Q4_0_BYTES)
    return head_dim * np.dtype(kind).itemsize


def turned(kind: str, head_dim: int) -> int:
    """Return how many numbers of a row are turned together: the largest power of two in head_dim, or 0."""
    return head_dim & -head_dim if kind == "q4_0" else 0


def rows_of(keys: np.ndarray, values: np.ndarray) -> LayerRows:
    """Return a layer of keys and values that lie in one piece each.

    [n_kv_heads, capacity, head_dim], float32 or the bits of float16; the caller keeps them.
    """
    row, capacity = keys.strides[1], keys.shape[1]
    table = keys.ctypes.data + PAGE * row * np.arange(-(-capacity // PAGE), dtype=np.int64)
    kind = FLOAT32 if keys.dtype == np.float32 else FLOAT16
    return LayerRows(table, 0, kind, 0, row, keys.strides[0], values.ctypes.data - keys.ctypes.data)


@njit(cache=True)
def row_address(rows, part, head, token):
    """Return where the row of a token is; `part` is KEYS or VALUES."""
    start = rows.table[token // PAGE] + rows.start + part * rows.values_at + head * rows.head_bytes
    return start + token % PAGE * rows.row_bytes


@njit(cache=True)
def turn(x, n):
    """Turn each n numbers of x, float32, in place: x = H x / sqrt(n), with n a power of two.

    H is the Hadamard matrix of +1 and -1, in log2(n) steps of sums and differences. It is symmetric, and
    turning twice gives x again. Source: Fino and Algazi, "Unified matrix treatment of the fast Walsh-Hadamard
    transform", 1976.
    """
    for start in range(0, x.size, n):
        half = 1
        while half < n:
            for first in range(start, start + n, 2 * half):
                for i in range(first, first + half):
                    x[i], x[i + half] = x[i] + x[i + half], x[i] - x[i + half]
            half *= 2
    scale = np.float32(1) / np.sqrt(np.float32(n))
    for i in range(x.size):
        x[i] *= scale


@njit(cache=True)
def store_row(kind, x, address):
    """Store a row, float32 [head_dim]."""
    if kind == FLOAT32:
        floats_at(address, x.size)[:] = x
    elif kind == FLOAT16:
        halves = shorts_at(address, x.size)
        for i in range(x.size):
            halves[i] = np.int16(float_to_half(x[i]))
    elif kind == Q8_0:
        q8_0.encode_row(x, bytes_at(address, x.size // WEIGHTS * Q8_0_BYTES))
    else:
        q4_0.encode_row(x, bytes_at(address, x.size // WEIGHTS * Q4_0_BYTES))


@njit(cache=True)
def load_rows(rows, address, n, head_dim, target, stride):
    """Decode n rows to float32, at address `target`, one `stride` bytes behind the other."""
    if rows.kind == FLOAT32:
        load_float_rows(address, rows.row_bytes, n, head_dim, target, stride)
    elif rows.kind == FLOAT16:
        load_half_rows(address, rows.row_bytes, n, head_dim, target, stride)
    elif rows.kind == Q8_0:
        load_q8_0_rows(address, n, head_dim, target, stride)
    else:
        load_q4_0_rows(address, n, head_dim, target, stride)


@njit(cache=True)
def load_float_rows(row, row_bytes, n, head_dim, to, stride):
    whole = head_dim // LANES * LANES
    for _ in range(n):
        for i in range(0, whole, LANES):
            store(to, 4 * i, load_floats(row, 4 * i))
        for i in range(whole, head_dim):
            store_float(to, 4 * i, load_float(row, 4 * i))
        row += row_bytes
        to += stride


@njit(cache=True)
def load_half_rows(row, row_bytes, n, head_dim, to, stride):
    whole = head_dim // LANES * LANES
    for _ in range(n):
        for i in range(0, whole, LANES):
            store(to, 4 * i, load_halves(row, 2 * i))
        for i in range(whole, head_dim):
            store_float(to, 4 * i, load_half(row, 2 * i))
        row += row_bytes
        to += stride


@njit(cache=True)
def load_q8_0_rows(block, n, head_dim, to, stride):
    for _ in range(n):
        for i in range(0, 4 * head_dim, 2 * VECTOR):
            low, high = load_int8s(block, 2), load_int8s(block, 2 + LANES)
            d = repeat_float(load_half(block, 0), low)
            store(to, i, multiply(d, low)), store(to, i + VECTOR, multiply(d, high))
            block += Q8_0_BYTES
        to += stride


@njit(cache=True)
def load_q4_0_rows(block, n, head_dim, to, stride):
    for _ in range(n):
        for i in range(0, 4 * head_dim, 2 * VECTOR):
            low, high = load_low_nibbles(block, 2), load_high_nibbles(block, 2)
            d = repeat_float(load_half(block, 0), low)
            store(to, i, multiply(d, low)), store(to, i + VECTOR, multiply(d, high))
            block += Q4_0_BYTES
        to += stride
