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

A token asks most of those just before it. So in q4_0 the latest RECENT rows of each head are in q8_0 as well,
and a token sees those of its own page there: from none to PAGE of them, 32 on average.

    table[-1]   --> | keys of head 0 | head 1 | ... | values of head 0 | ... |            layer 0
                    | ...                                                                 layer 1
                      a ring of rows: that of a token is number token % ring

How a type stores a row and loads rows is compiled when a cache has it, and called by its address (`code_of`).

Blocks of 4 bits have 16 steps for 32 numbers, and one number that is far larger than its neighbours takes
them all. So rows of q4_0 are turned before they are stored, by a Hadamard transform: each number becomes a
sum of all, with signs, and what was large in one place is spread over all places. Queries are turned alike,
so that their products with keys stay the same, and what is found, a sum of turned values, is turned back.

Before they are turned, keys are put into a frame, where there is one (`key_frame`):

    for each head          MEAN      what its keys have in common; it is taken away, and never added again:
                                     q . (k - m) is q . k less a number that is the same for all keys, and
                                     softmax does not see it
                           FIRST     the same for the text's first token, whose key is like no other
                           SCALE     of each channel, for keys; queries are divided by it
                           BACK      (FIRST - MEAN) * SCALE, turned: added to the first token's row when it is
                                     read, so that it has the same number less as all others
                           VALUE     the value of the text's first token, turned: most heads rest there, and
                                     it is nearly the same whatever the token; taken away and added alike
                           FEEDBACK  [head_dim, head_dim]: how much of the error of number i of a turned row
                                     is given to each number behind it, so that q . k hardly sees the two

The scale of a block is not ggml's, the largest number over 8, but the best of some around it: where it is
smaller the largest number loses, and the others win.

Sources: ggml `block_q8_0`, `block_q4_0`; Ashkboos et al., "QuaRot", 2024 (turned rows); Zhang et al.,
"SageAttention", 2024 (the mean); Xiao et al., "SmoothQuant", 2023 (scales of channels); Frantar et al.,
"GPTQ", 2022 (feedback); Liu et al., "KIVI", 2024 (recent rows with more bits).
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit, prange, types

from blocks2tokens.formats import q4_0, q8_0
from blocks2tokens.formats.compiled import float_to_half, half_to_float, pointer, signed_max, write_half
from blocks2tokens.jit.constants import int64s
from blocks2tokens.jit.cores import takes_turns
from blocks2tokens.jit.pointers import bytes_at, call_job, floats_at, shorts_at
from blocks2tokens.jit.vectors import (
    add_floats,
    address_of,
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
RECENT = PAGE + 16  # tokens: with those of its page a token finds them after 16 that were guessed, and wrong
KEYS, VALUES = int64s(2)
NOTHING = np.int64(0)  # in the place of an address
STORE, LOAD = (types.void(*[types.int64] * n) for n in (5, 6))  # see TYPES
BLOCKS = {"q8_0": "Q8_0", "q4_0": "Q4_0"}  # the formats of those that are made of blocks
WEIGHTS, Q8_0_BYTES, Q4_0_BYTES = q8_0.WEIGHTS, q8_0.BLOCK.itemsize, q4_0.BLOCK.itemsize
LANES, VECTOR = 16, 64  # numbers in a vector of float32, bytes of one
MEAN, FIRST, SCALE, BACK, VALUE, FEEDBACK = range(6)  # rows of a frame; FEEDBACK is the first of many
TRIED = 8  # scales of a block of q4_0: the largest number over 8, times
FROM, STEP = np.float32(1.15), np.float32(0.05)  # this, and so much less each


class LayerRows(NamedTuple):
    """Where compiled code finds the rows of a layer, and what they are; strides in bytes."""

    table: np.ndarray  # int64 [n_pages], addresses
    start: int  # of the layer, in each page
    is_float32: bool
    store: int  # addresses of what stores a row, and of what loads rows: see `code_of`
    load: int
    turned: int  # numbers of a row that the Hadamard transform mixes; 0: not turned
    row_bytes: int
    head_bytes: int  # from one head to the next
    values_at: int  # from a head's keys to its values
    frame: int = 0  # address of the layer's frames, float32 [n_kv_heads, frame_rows, head_dim]; 0: none
    recent: int = 0  # of the layer, behind table[-1]
    ring: int = 0  # rows there of each head; 0: none


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
    kind = "float32" if keys.dtype == np.float32 else "float16"
    to_values = values.ctypes.data - keys.ctypes.data
    return LayerRows(table, 0, *code_of(kind), 0, row, keys.strides[0], to_values)


@njit(cache=True)
def row_address(rows, part, head, token):
    """Return where the row of a token is; `part` is KEYS or VALUES."""
    start = rows.table[token // PAGE] + rows.start + part * rows.values_at + head * rows.head_bytes
    return start + token % PAGE * rows.row_bytes


@njit(cache=True)
def recent_row_bytes(rows):
    """Return the bytes of a row in q8_0 where those of the pages are q4_0."""
    return rows.row_bytes // Q4_0_BYTES * Q8_0_BYTES


@njit(cache=True)
def recent_layer_bytes(rows):
    """Return the bytes of the recent rows of a layer."""
    return 2 * rows.values_at // rows.head_bytes * rows.ring * recent_row_bytes(rows)


@njit(cache=True)
def recent_address(rows, part, head, token):
    """Return where the row of a recent token is, in q8_0."""
    place = part * (rows.values_at // rows.head_bytes) + head
    row = place * rows.ring + token % rows.ring
    return rows.table[-1] + rows.recent + row * recent_row_bytes(rows)


@njit(cache=True)
def is_recent(rows, token, position):
    """Does a query at a position see this token's row in q8_0?"""
    return rows.ring > 0 and token // PAGE == position // PAGE


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
def frame_rows(head_dim):
    """Return how many rows of head_dim numbers a head's frame has."""
    return FEEDBACK + head_dim


@njit(cache=True)
def frame_at(first, layer, n_kv_heads, head_dim):
    """Return the address of a layer's frames, where that of the first layer's is `first`; 0: none."""
    return first + 4 * layer * n_kv_heads * frame_rows(head_dim) * head_dim if first else 0


@njit(cache=True, _nrt=True)
def frame_of(rows, head, head_dim):
    """Return the frame of a head's keys, float32 [frame_rows, head_dim]."""
    n = frame_rows(head_dim)
    return floats_at(rows.frame + 4 * head * n * head_dim, (n, head_dim))


@njit(cache=True)
def fit_query(rows, head, q):
    """Make a query, float32 [head_dim], one for the keys of a head as they are stored."""
    if rows.frame:
        scale = frame_of(rows, head, q.size)[SCALE]
        for i in range(q.size):
            q[i] /= scale[i]
    if rows.turned:
        turn(q, rows.turned)


@njit(cache=True)
def fit_key(rows, head, token, key):
    """Put a key, float32 [head_dim], into the frame of its head; turning comes after it."""
    if rows.frame:
        frame = frame_of(rows, head, key.size)
        mean, scale = frame[MEAN if token else FIRST], frame[SCALE]
        for i in range(key.size):
            key[i] = (key[i] - mean[i]) * scale[i]


@njit(cache=True)
def keep(rows, part, head, token, x):
    """Store the key or value of a token, float32 [head_dim], as the cache has it; x is overwritten."""
    recent, feedback = NOTHING, NOTHING
    if part == KEYS:
        fit_key(rows, head, token, x)
    if rows.turned:
        turn(x, rows.turned)
    if part == VALUES and token == 0 and rows.frame:
        x -= frame_of(rows, head, x.size)[VALUE]
    if part == KEYS and rows.frame:
        feedback = address_of(frame_of(rows, head, x.size)[FEEDBACK])
    if rows.ring:
        recent = recent_address(rows, part, head, token)
    address = row_address(rows, part, head, token)
    call_job(rows.store, (address_of(x), x.size, address, recent, feedback))


@takes_turns
@njit(parallel=True, cache=True)
def keep_rows(x, rows, part, first):
    """Store x, float32 [T, heads, head_dim], as keys or values of tokens `first` and on; x is overwritten."""
    for t in prange(x.shape[0]):
        for head in range(x.shape[1]):
            keep(rows, part, head, first + t, x[t, head])


@njit(cache=True)
def copy_recent(rows, other, first, last):
    """Copy the recent rows of tokens `first` to last - 1 of a layer to where `other` says they are."""
    size = recent_row_bytes(rows)
    for part in range(2):
        for head in range(rows.values_at // rows.head_bytes):
            for token in range(first, last):
                source = bytes_at(recent_address(rows, part, head, token), size)
                bytes_at(recent_address(other, part, head, token), size)[:] = source


@njit(cache=True)
def restore_recent(rows, first, last, x):
    """Make the recent rows of tokens `first` to last - 1 of a layer from its pages; x float32 [head_dim]."""
    for part in range(2):
        for head in range(rows.values_at // rows.head_bytes):
            for token in range(first, last):
                source, target = row_address(rows, part, head, token), recent_address(rows, part, head, token)
                load_q4_0_rows(source, rows.row_bytes, 1, x.size, address_of(x), 0)
                store_q8_0_row(address_of(x), x.size, target, NOTHING, NOTHING)


@njit(cache=True)
def add_back(rows, part, head, row):
    """Add to the first token's key or value as it was read, float32 [head_dim], what its frame took away."""
    if rows.frame:
        row += frame_of(rows, head, row.size)[BACK if part == KEYS else VALUE]


@njit(cache=True)
def code(target):
    """Return the code, 0 to 15, of a number in parts of its block's scale: int32."""
    return min(max(np.int32(target + np.float32(8.5)), np.int32(0)), np.int32(15))


@njit(cache=True, fastmath={"reassoc"})  # sums are vectors then; which of two equal scales wins is no matter
def error_of(x, d):
    """Return the squared error of a block of q4_0 for x, float32 [32], with a scale d."""
    inverse, error = np.float32(1) / d, np.float32(0)
    for i in range(WEIGHTS):
        wrong = d * (np.float32(code(x[i] * inverse)) - np.float32(8)) - x[i]
        error += wrong * wrong
    return error


@njit(cache=True)
def best_scale(x):
    """Return the scale of a block of q4_0 for x, float32 [32], as float16 keeps it: the best of TRIED."""
    largest = signed_max(x, 0, WEIGHTS) / np.float32(-8)
    best, least = np.float32(0), np.float32(np.inf)
    for i in range(TRIED):
        d = half_to_float(float_to_half(largest * (FROM - STEP * np.float32(i))))
        if d != 0:
            error = error_of(x, d)
            if error < least:
                best, least = d, error
    return best


@njit(cache=True)
def feed_back(error, shares, x, start, end):
    """x += error * shares from number `start` to `end`, multiples of 16; addresses of float32."""
    for at in range(4 * start, 4 * end, VECTOR):
        share, number = load_floats(shares, at), load_floats(x, at)
        store(x, at, add_floats(number, multiply(repeat_float(error, share), share)))


# --- What a type is: all arguments are int64 --------------------------------------------------------------
# x is the address of a row, float32 [head_dim]. For q4_0 alone, and NOTHING for all others: recent, the
# address of where it is to be stored in q8_0 as well; feedback, of float32 [head_dim, head_dim], whose row i
# says what of the error of number i each one behind it gets, so that x is overwritten.


@njit(cache=True)
def store_float32_row(x, head_dim, address, recent, feedback):
    numbers, floats = floats_at(x, head_dim), floats_at(address, head_dim)
    for i in range(head_dim):
        floats[i] = numbers[i]


@njit(cache=True)
def store_float16_row(x, head_dim, address, recent, feedback):
    numbers, halves = floats_at(x, head_dim), shorts_at(address, head_dim)
    for i in range(head_dim):
        halves[i] = np.int16(float_to_half(numbers[i]))


@njit(cache=True)
def store_q8_0_row(x, head_dim, address, recent, feedback):
    q8_0.encode_row(floats_at(x, head_dim), bytes_at(address, head_dim // WEIGHTS * Q8_0_BYTES))


@njit(cache=True)
def store_q4_0_row(x, head_dim, address, recent, feedback):
    if recent:
        store_q8_0_row(x, head_dim, recent, NOTHING, NOTHING)
    numbers = floats_at(x, head_dim)
    for start in range(0, head_dim, WEIGHTS):
        raw = bytes_at(address + start // WEIGHTS * Q4_0_BYTES, Q4_0_BYTES)
        d = best_scale(numbers[start : start + WEIGHTS])
        inverse = np.float32(1) / d if d != 0 else np.float32(0)
        write_half(raw, 0, d)
        raw[2:] = 0
        for i in range(start, start + WEIGHTS):
            q = code(numbers[i] * inverse)
            raw[2 + i % 16] |= np.uint8(q << 4 * (i // 16 % 2))
            if feedback:
                error = numbers[i] - d * np.float32(q - 8)
                feed_back(error, feedback + 4 * i * head_dim, x, start, head_dim)


# n rows of `row_bytes` at address `row` are decoded to float32, to address `to`, one `stride` bytes behind
# the other.


@njit(cache=True)
def load_float32_rows(row, row_bytes, n, head_dim, to, stride):
    whole = head_dim // LANES * LANES
    for _ in range(n):
        for i in range(0, whole, LANES):
            store(to, 4 * i, load_floats(row, 4 * i))
        for i in range(whole, head_dim):
            store_float(to, 4 * i, load_float(row, 4 * i))
        row += row_bytes
        to += stride


@njit(cache=True)
def load_float16_rows(row, row_bytes, n, head_dim, to, stride):
    whole = head_dim // LANES * LANES
    for _ in range(n):
        for i in range(0, whole, LANES):
            store(to, 4 * i, load_halves(row, 2 * i))
        for i in range(whole, head_dim):
            store_float(to, 4 * i, load_half(row, 2 * i))
        row += row_bytes
        to += stride


@njit(cache=True)
def load_q8_0_rows(row, row_bytes, n, head_dim, to, stride):
    for _ in range(n):
        block = row
        for i in range(0, 4 * head_dim, 2 * VECTOR):
            low, high = load_int8s(block, 2), load_int8s(block, 2 + LANES)
            d = repeat_float(load_half(block, 0), low)
            store(to, i, multiply(d, low)), store(to, i + VECTOR, multiply(d, high))
            block += Q8_0_BYTES
        row += row_bytes
        to += stride


@njit(cache=True)
def load_q4_0_rows(row, row_bytes, n, head_dim, to, stride):
    for _ in range(n):
        block = row
        for i in range(0, 4 * head_dim, 2 * VECTOR):
            low, high = load_low_nibbles(block, 2), load_high_nibbles(block, 2)
            d = repeat_float(load_half(block, 0), low)
            store(to, i, multiply(d, low)), store(to, i + VECTOR, multiply(d, high))
            block += Q4_0_BYTES
        row += row_bytes
        to += stride


TYPES = {
    "float32": (store_float32_row, load_float32_rows),
    "float16": (store_float16_row, load_float16_rows),
    "q8_0": (store_q8_0_row, load_q8_0_rows),
    "q4_0": (store_q4_0_row, load_q4_0_rows),
}


@cache
def code_of(kind: str) -> tuple[bool, int, int]:
    """Return is_float32, store and load of `LayerRows` for a type of row, and compile the two functions.

    Raises UnsupportedError where Numba may not compile.
    """
    store_row, load_rows = TYPES[kind]
    return kind == "float32", pointer(store_row, STORE).address, pointer(load_rows, LOAD).address
