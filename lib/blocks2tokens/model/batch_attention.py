"""Causal attention of a batch of queries, a tile of keys at a time: no matrix of all scores.

    a job: one head of keys and values, BLOCK queries of each of its query heads      R rows

    for each tile of TILE keys that some of them see
        scores [R, TILE] = q . k                    keys turned, so that 16 keys fill a vector
        largest, total   the softmax so far         what was added before shrinks when a larger score comes
        out    [R, dim]  += exp(scores - largest) . v
    at the end: out / total

With a window, tiles that lie before it for all of them are left out. A sink is a score that is there before
the first tile: `total` begins with it.

Both products are the same loop, `multiply_tile`: 4 rows by 2 vectors, sums in registers.
Sources: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
"FlashAttention", 2022.
"""

from typing import NamedTuple

import numpy as np
from numba import get_num_threads, njit, prange

from blocks2tokens.jit.cores import takes_turns
from blocks2tokens.jit.job_counter import new_counters, take_job
from blocks2tokens.jit.vectors import (
    FLOATS,
    address_of,
    load_float,
    load_floats,
    multiply_add,
    repeat_float,
    store,
    transpose_words,
)
from blocks2tokens.model.compiled_layers import IN_ANY_ORDER, INFINITE, as_float, exp, soften

BLOCK, TILE = 16, 64  # queries, keys
LANES, FLOAT = 16, 4  # numbers in a vector, bytes of one
VECTOR = LANES * FLOAT
assert FLOATS.lanes == LANES


class Room(NamedTuple):
    """Memory of one worker, float32; D is head_dim rounded up to two vectors."""

    q: np.ndarray  # [R, D]
    keys: np.ndarray  # [TILE, D]
    turned: np.ndarray  # [TILE * D], as [TILE / 16, D, 16]
    values: np.ndarray  # [TILE, D]
    scores: np.ndarray  # [R, TILE]
    out: np.ndarray  # [R, D]
    largest: np.ndarray  # [R]
    total: np.ndarray  # [R]


@njit(cache=True)
def new_room(n_rows, padded):
    return Room(
        np.zeros((n_rows, padded), np.float32),
        np.zeros((TILE, padded), np.float32),
        np.empty(TILE * padded, np.float32),
        np.zeros((TILE, padded), np.float32),
        np.empty((n_rows, TILE), np.float32),
        np.empty((n_rows, padded), np.float32),
        np.empty(n_rows, np.float32),
        np.empty(n_rows, np.float32),
    )


@njit(cache=True)
def multiply_tile(a, a_row, b, b_row, b_vector, n, c, c_row):
    """Add to 4 rows by 2 vectors of c the product of 4 rows of a, n long, and n rows of b; all by address.

    a_row, b_row, c_row: bytes from one row to the next; b_vector: from the first vector of b to the second.
    """
    c0, c1 = load_floats(c, 0), load_floats(c, VECTOR)
    c2, c3 = load_floats(c, c_row), load_floats(c, c_row + VECTOR)
    c4, c5 = load_floats(c, 2 * c_row), load_floats(c, 2 * c_row + VECTOR)
    c6, c7 = load_floats(c, 3 * c_row), load_floats(c, 3 * c_row + VECTOR)
    for i in range(n):
        b0, b1, at = load_floats(b, i * b_row), load_floats(b, i * b_row + b_vector), FLOAT * i
        x = repeat_float(load_float(a, at), b0)
        c0, c1 = multiply_add(x, b0, c0), multiply_add(x, b1, c1)
        x = repeat_float(load_float(a, at + a_row), b0)
        c2, c3 = multiply_add(x, b0, c2), multiply_add(x, b1, c3)
        x = repeat_float(load_float(a, at + 2 * a_row), b0)
        c4, c5 = multiply_add(x, b0, c4), multiply_add(x, b1, c5)
        x = repeat_float(load_float(a, at + 3 * a_row), b0)
        c6, c7 = multiply_add(x, b0, c6), multiply_add(x, b1, c7)
    store(c, 0, c0), store(c, VECTOR, c1)
    store(c, c_row, c2), store(c, c_row + VECTOR, c3)
    store(c, 2 * c_row, c4), store(c, 2 * c_row + VECTOR, c5)
    store(c, 3 * c_row, c6), store(c, 3 * c_row + VECTOR, c7)


@njit(cache=True)
def load_tile(keys, first, n, tile):
    """Copy n rows of a cache, [*, head_dim], to a tile as float32; its padding stays as it is."""
    for s in range(n):
        for i in range(keys.shape[1]):
            tile[s, i] = as_float(keys[first + s, i])


@njit(cache=True)
def score_tile(room):
    """scores = q . keys, all of a tile."""
    padded = room.q.shape[1]
    row, keys, turned = FLOAT * padded, address_of(room.keys), address_of(room.turned)
    for vector in range(TILE // LANES):
        for i in range(padded // LANES):
            source, target = VECTOR * (vector * padded + i), VECTOR * (vector * padded + LANES * i)
            transpose_words(keys, source, row, turned, target)
    room.scores[:] = 0
    q, scores = address_of(room.q), address_of(room.scores)
    for r in range(0, room.q.shape[0], 4):
        for pair in range(TILE // LANES // 2):
            b, c = turned + 2 * pair * padded * VECTOR, scores + FLOAT * TILE * r + 2 * VECTOR * pair
            multiply_tile(q + row * r, row, b, VECTOR, padded * VECTOR, padded, c, FLOAT * TILE)


@njit(cache=True)
def add_tile(room, n):
    """out += scores . values, the first n keys of a tile."""
    padded = room.out.shape[1]
    row, values, scores, out = (
        FLOAT * padded,
        address_of(room.values),
        address_of(room.scores),
        address_of(room.out),
    )
    for r in range(0, room.out.shape[0], 4):
        for i in range(0, row, 2 * VECTOR):
            a, c = scores + FLOAT * TILE * r, out + row * r + i
            multiply_tile(a, FLOAT * TILE, values + i, row, VECTOR, n, c, row)


class Rule(NamedTuple):
    """How scores become weights."""

    scale: np.float32
    softcap: np.float32  # 0: none
    window: int  # tokens that a query sees, itself among them; 0: all


@njit(cache=True, fastmath=IN_ANY_ORDER)
def weigh(scores, unseen, seen, rule, before):
    """Turn the scores of a row, which sees those from `unseen` to `seen`, into exp(score - largest).

    Returns the largest so far, of these and `before`, and the sum of the new weights.
    """
    largest = before
    for s in range(unseen, seen):
        scores[s] *= rule.scale
    if rule.softcap:
        soften(scores[unseen:seen], rule.softcap)
    for s in range(unseen, seen):
        largest = max(largest, scores[s])
    total = np.float32(0)
    for s in range(unseen, seen):
        scores[s] = exp(scores[s] - largest)
        total += scores[s]
    scores[:unseen] = 0
    scores[seen:] = 0
    return largest, total


@njit(cache=True)
def softmax_tile(room, unseen, seen, rule):
    """Turn the scores of a tile into weights, and shrink what was added before; unseen, seen int64 [R]."""
    for r in range(seen.size):
        before = room.largest[r]
        largest, total = weigh(room.scores[r], unseen[r], seen[r], rule, before)
        if largest > before:
            shrink = np.float32(np.exp(before - largest))  # 0 at first, when `before` is -infinity
            room.total[r] *= shrink
            for i in range(room.out.shape[1]):
                room.out[r, i] *= shrink
            room.largest[r] = largest
        room.total[r] += total


@njit(cache=True)
def begin_block(q, sinks, first, head, room):
    """Copy the queries of a block, and begin with the sinks; see `attend_block`."""
    for r in range(room.q.shape[0]):
        t = min(first + r % BLOCK, q.shape[0] - 1)  # a block that is not full repeats its last query
        room.largest[r] = sinks[head + r // BLOCK]
        room.total[r] = 1 if room.largest[r] > -INFINITE else 0
        for i in range(q.shape[2]):
            room.q[r, i] = q[t, head + r // BLOCK, i]
    room.out[:] = 0


@njit(cache=True)
def limits(position, first, start, in_tile, rule, unseen, seen):
    """Fill unseen and seen, int64 [R]: which keys of the tile at `start` each query sees."""
    for r in range(seen.size):
        end = position + first + r % BLOCK + 1  # of what a query sees
        seen[r] = max(0, min(in_tile, end - start))
        unseen[r] = max(0, min(seen[r], end - rule.window - start)) if rule.window else 0


@njit(cache=True)
def attend_block(q, keys, values, sinks, position, first, group, head, rule, out, room, unseen, seen):
    """Attend for queries `first` to first + BLOCK - 1 of `group` heads, which all use these keys and values.

    q and out float32 [T, n_heads, head_dim]; query t sees the last of `position` + t + 1 keys, all or a
    window; `head` is the first head; sinks float32 [n_heads], -infinity where there is none.
    """
    n, size = min(BLOCK, q.shape[0] - first), q.shape[2]
    begin_block(q, sinks, first, head, room)
    n_keys = position + first + n
    oldest = max(0, position + first + 1 - rule.window) if rule.window else 0
    for start in range(oldest // TILE * TILE, n_keys, TILE):
        in_tile = min(TILE, n_keys - start)
        load_tile(keys, start, in_tile, room.keys)
        load_tile(values, start, in_tile, room.values)
        limits(position, first, start, in_tile, rule, unseen, seen)
        score_tile(room)
        softmax_tile(room, unseen, seen, rule)
        add_tile(room, in_tile)
    for r in range(group * BLOCK):
        if r % BLOCK < n:
            for i in range(size):
                out[first + r % BLOCK, head + r // BLOCK, i] = room.out[r, i] / room.total[r]


@njit(cache=True)
def work(q, keys, values, sinks, position, rule, jobs, out):
    """Take blocks, the longest first, until none are left."""
    n_kv_heads, n_blocks = keys.shape[0], (q.shape[0] + BLOCK - 1) // BLOCK
    group = q.shape[1] // n_kv_heads
    padded = (q.shape[2] + 2 * LANES - 1) // (2 * LANES) * 2 * LANES
    room, n_rows = new_room(group * BLOCK, padded), group * BLOCK
    unseen, seen = np.empty(n_rows, np.int64), np.empty(n_rows, np.int64)
    job = take_job(jobs, 0)
    while job < n_kv_heads * n_blocks:
        h, first = job % n_kv_heads, BLOCK * (n_blocks - 1 - job // n_kv_heads)
        attend_block(
            q, keys[h], values[h], sinks, position, first, group, h * group, rule, out, room, unseen, seen
        )
        job = take_job(jobs, 0)


@takes_turns
@njit(parallel=True, cache=True)
def share(q, keys, values, sinks, position, rule, jobs, n_workers, out):
    for _ in prange(n_workers):
        work(q, keys, values, sinks, position, rule, jobs, out)


def attend_batch(
    q: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    position: int,
    window: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    sinks: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the attended values, float32 [T, n_heads, head_dim]; q likewise, behind `position` others.

    keys, values: [n_kv_heads, capacity, head_dim], float32 or the bits of float16, of which the first
    `position` + T tokens are there. What `attention.attend` defines; in `out`, where one is given.
    """
    out, n_heads = np.empty_like(q) if out is None else out, q.shape[1]
    rule = Rule(np.float32(scale or q.shape[2] ** -0.5), np.float32(softcap), window)
    sinks = np.full(n_heads, -INFINITE) if sinks is None else sinks
    share(q, keys, values, sinks, position, rule, new_counters(1), get_num_threads(), out)
    return out
