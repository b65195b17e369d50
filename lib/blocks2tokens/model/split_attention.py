"""Attention of one token: the keys that it sees are split into parts, and what the parts give is joined.

    a job: one head of keys and values, one part of the keys, one query of each query head that shares them

    keys       0            n/3           2n/3           n
    kv head 0  [ job 0      | job 1       | job 2       ]        each leaves, for each of its query heads,
    kv head 1  [ job 3      | job 4       | job 5       ]        out [head_dim], largest, total of its part

    join: largest = the largest of all;  out, total = sums of each part's times exp(its largest - largest)

Without parts, jobs would be heads: 3 heads of keys leave one of 2 cores idle for half of the time.
Parts depend on the number of keys alone, never on how many work: the result is the same to the last bit.
Few queries do little with what they read. So float32 is read where it is, a row from end to end, and values
are asked for while the scores before them are made.
"""

import numpy as np
from numba import njit

from blocks2tokens.jit.vectors import (
    add_floats,
    address_of,
    load_floats,
    multiply_add,
    prefetch,
    store_float,
    tile_product,
    total,
    zero_floats,
)
from blocks2tokens.model.attention_tile import (
    FLOAT,
    LANES,
    TILE,
    VECTOR,
    VECTORS,
    multiply_few,
    padded_to,
    room_floats,
    room_in,
    softmax_row,
    tile_at,
)
from blocks2tokens.model.cache_rows import KEYS, PAGE, VALUES, is_recent, row_address
from blocks2tokens.model.compiled_layers import INFINITE

MOST_PARTS = 16  # of the keys: joining them stays far below reading them
LEAST_PART = 128  # keys: a job of fewer costs more to hand out than to do
WIDE = 4  # vectors of a value that are added at a time to one query: rows in fours would be three of zeros
multiply_one = tile_product(1, WIDE)
TURNS = 0  # a Room has no turned keys
assert PAGE % TILE == 0  # a tile lies in one page
LARGEST, TOTAL, BESIDE = 0, 1, LANES  # floats behind a part's out; as many as keep rows on whole vectors


def new_rooms(n_heads: int, n_kv_heads: int, head_dim: int, n_workers: int) -> np.ndarray:
    """Return the memory of all workers, float32 [n_workers, floats], zeros."""
    return np.zeros((n_workers, room_floats(n_heads // n_kv_heads, head_dim, TURNS)), np.float32)


def new_parts(n_rows: int, n_heads: int, head_dim: int) -> np.ndarray:
    """Return memory for what all parts give, float32 [n_rows, MOST_PARTS, n_heads, head_dim + BESIDE]."""
    return np.empty((n_rows, MOST_PARTS, n_heads, head_dim + BESIDE), np.float32)


@njit(cache=True)
def keys_of_a_part(n_keys):
    """Return how many keys make a part: whole tiles, in MOST_PARTS parts at the most."""
    return max(LEAST_PART, padded_to(-(-n_keys // MOST_PARTS), TILE))


@njit(cache=True)
def parts_of(n_keys):
    """Return into how many parts so many keys are split."""
    return -(-n_keys // keys_of_a_part(n_keys))


@njit(cache=True)
def score_rows(room, n_rows, keys, n, coming, row_bytes):
    """scores = q . keys, n_rows queries, n keys by address: with few queries it does not pay to turn them.

    Meanwhile the n rows at `coming`, the values, are on their way from memory.
    """
    D = room.q.shape[1]
    q, scores = address_of(room.q), address_of(room.scores)
    for r in range(n_rows):
        for s in range(n):
            if r == 0:
                for at in range(s * row_bytes, (s + 1) * row_bytes, VECTOR):
                    prefetch(coming, at)
            a, b, even, odd = q + FLOAT * D * r, keys + FLOAT * D * s, zero_floats(), zero_floats()
            for at in range(0, FLOAT * D, 2 * VECTOR):
                even = multiply_add(load_floats(a, at), load_floats(b, at), even)
                odd = multiply_add(load_floats(a, at + VECTOR), load_floats(b, at + VECTOR), odd)
            store_float(scores, FLOAT * (TILE * r + s), total(add_floats(even, odd)))


@njit(cache=True)
def add_rows_of_tile(room, n_rows, values, n):
    """out += scores . values, n of them by address; several rows in fours, those beyond n_rows are zeros."""
    D = room.out.shape[1]
    scores, out = address_of(room.scores), address_of(room.out)
    if n_rows == 1 and D % (WIDE * LANES) == 0:
        for i in range(0, FLOAT * D, WIDE * VECTOR):
            multiply_one(scores, 0, values + i, FLOAT * D, VECTOR, n, out + i, 0)
        return
    for i in range(0, FLOAT * D, VECTORS * VECTOR):
        for r in range(0, n_rows, 4):
            a, c = scores + FLOAT * TILE * r, out + FLOAT * D * r + i
            multiply_few(a, FLOAT * TILE, values + i, FLOAT * D, VECTOR, n, c, FLOAT * D)


@njit(cache=True)
def attend_part(q, rows, head, position, first, last, scale, softcap, memory, part):
    """Attend to keys `first` to last - 1 for all queries that share them, of the token at `position`.

    q float32 [group, head_dim]; rows: a layer's, of which one `head`; memory float32 [floats], a worker's;
    part float32 [group, head_dim + BESIDE]: filled with the sums, not divided yet, and LARGEST and TOTAL.
    """
    group, size = q.shape
    room = room_in(memory, group, size, TURNS)
    room.out[:], room.largest[:], room.total[:] = 0, -INFINITE, 0
    for r in range(group):
        for i in range(size):
            room.q[r, i] = q[r, i] * scale
    start = first
    while start < last:
        n = min(TILE - start % TILE, last - start)  # a window may begin anywhere in a page
        recent = is_recent(rows, start, position)
        keys = tile_at(rows, KEYS, head, start, n, size, recent, room.keys)
        score_rows(room, group, keys, n, row_address(rows, VALUES, head, start), rows.row_bytes)
        for r in range(group):
            softmax_row(room, r, 0, n, softcap)
        values = tile_at(rows, VALUES, head, start, n, size, recent, room.values)
        add_rows_of_tile(room, group, values, n)
        start += n
    for r in range(group):
        for i in range(size):
            part[r, i] = room.out[r, i]
        part[r, size + LARGEST], part[r, size + TOTAL] = room.largest[r], room.total[r]


@njit(cache=True)
def join_parts(parts, n_parts, sinks, out):
    """Fill out, float32 [n_heads * head_dim], from the first of parts, [MOST_PARTS, n_heads, ...].

    sinks float32 [n_heads], -infinity where there is none: a part with a score and without a value.
    """
    size = parts.shape[2] - BESIDE
    for h in range(parts.shape[1]):
        largest = sinks[h]
        for p in range(n_parts):
            largest = max(largest, parts[p, h, size + LARGEST])
        sum_, head = np.float32(np.exp(sinks[h] - largest)), out[h * size : (h + 1) * size]
        head[:] = 0
        for p in range(n_parts):
            shrink = np.float32(np.exp(parts[p, h, size + LARGEST] - largest))
            sum_ += shrink * parts[p, h, size + TOTAL]
            for i in range(size):
                head[i] += shrink * parts[p, h, i]
        for i in range(size):
            head[i] /= sum_
