"""A tile of attention: TILE keys and their values against some rows of queries, with an online softmax.

    keys, values [TILE, D]    of one head of the cache, decoded to float32 once for all rows
    q            [rows, D]    times the scale: queries of all heads that share these keys
    scores    [rows, TILE]  = q . k, then exp(score - largest)
    largest, total   [rows]   of the softmax so far: what was added before shrinks when a larger score comes
    out          [rows, D]   += scores . v
    after the last tile: out / total

What a worker holds is this Room, whatever the length of the text. D is head_dim rounded up to two vectors,
rows the number of rows rounded up to 8. `prefill` gives a tile many queries (`batch_attention`), `decode` one
of each head (`split_attention`).

Sources: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
"FlashAttention", 2022.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from blocks2tokens.jit import cpu
from blocks2tokens.jit.pointers import call_job, floats_at
from blocks2tokens.jit.vectors import (
    FLOATS,
    add_floats,
    address_of,
    exp_floats,
    larger,
    load_floats,
    most,
    multiply,
    repeat_float,
    store,
    tile_product,
    total,
    transpose_words,
    zero_floats,
)
from blocks2tokens.model.cache_rows import (
    PAGE,
    add_back,
    load_q8_0_rows,
    recent_address,
    recent_row_bytes,
    row_address,
)
from blocks2tokens.model.compiled_layers import INFINITE, soften

TILE = 64  # keys
LANES, FLOAT = 16, 4  # numbers in a vector, bytes of one
VECTOR = LANES * FLOAT
assert FLOATS.lanes == LANES

# As many sums as the registers hold beside what they are made of: 32 vectors of 16, or 16 vectors of 8.
ROWS, VECTORS = (8, 2) if cpu.features().get("avx512f") else (4, 1)
multiply_tile = tile_product(ROWS, VECTORS)
multiply_few = tile_product(4, VECTORS)


class Room(NamedTuple):
    """Memory of one worker, float32: parts of one array."""

    q: np.ndarray  # [rows, D]
    keys: np.ndarray  # [TILE, D]
    turned: np.ndarray  # [TILE / 16, D, 16]; [0, D, 16] where no products of many rows are made
    values: np.ndarray  # [TILE, D]
    scores: np.ndarray  # [rows, TILE]
    out: np.ndarray  # [rows, D]
    largest: np.ndarray  # [rows]
    total: np.ndarray  # [rows]


class Rule(NamedTuple):
    """How scores become weights."""

    scale: np.float32
    softcap: np.float32  # 0: none
    window: int  # tokens that a query sees, itself among them; 0: all


@njit(cache=True)
def padded_to(n, multiple):
    return -(-n // multiple) * multiple


@njit(cache=True)
def room_floats(n_rows, head_dim, turns):
    """Return the float32 that a Room takes for so many rows; turns: with room for turned keys."""
    rows, D = padded_to(n_rows, 8), padded_to(head_dim, 2 * LANES)
    return (2 * rows + (2 + turns) * TILE) * D + rows * (TILE + 2)


@njit(cache=True)
def room_in(memory, n_rows, head_dim, turns):
    """Return the Room in memory, float32 [room_floats], all zeros when it was made: the padding stays so."""
    rows, D = padded_to(n_rows, 8), padded_to(head_dim, 2 * LANES)
    q = address_of(memory)
    keys = q + FLOAT * rows * D
    turned = keys + FLOAT * TILE * D
    values = turned + FLOAT * turns * TILE * D
    scores = values + FLOAT * TILE * D
    out = scores + FLOAT * rows * TILE
    largest = out + FLOAT * rows * D
    return Room(
        floats_at(q, (rows, D)),
        floats_at(keys, (TILE, D)),
        floats_at(turned, (turns * TILE // LANES, D, LANES)),
        floats_at(values, (TILE, D)),
        floats_at(scores, (rows, TILE)),
        floats_at(out, (rows, D)),
        floats_at(largest, (rows,)),
        floats_at(largest + FLOAT * rows, (rows,)),
    )


# --- Reading the cache ------------------------------------------------------------------------------------


@njit(cache=True)
def load_tile(rows, part, head, first, n, head_dim, recent, tile):
    """Decode n rows of a cache, KEYS or VALUES, to a tile as float32; its padding stays as it is.

    recent: from the recent rows.
    """
    stride, done = FLOAT * tile.shape[1], 0
    while done < n:
        token, target = first + done, address_of(tile) + done * stride
        if recent:
            few = min(n - done, rows.ring - token % rows.ring)
            source = recent_address(rows, part, head, token)
            load_q8_0_rows(source, recent_row_bytes(rows), few, head_dim, target, stride)
        else:
            few = min(n - done, PAGE - token % PAGE)  # a window may begin anywhere in a page
            source = row_address(rows, part, head, token)
            call_job(rows.load, (source, rows.row_bytes, few, head_dim, target, stride))
        done += few
    if first == 0:
        add_back(rows, part, head, tile[0, :head_dim])


@njit(cache=True)
def tile_at(rows, part, head, first, n, head_dim, recent, tile):
    """Return where n rows of a page stand as float32, D numbers apart: there, or decoded in a tile.

    Rows of float32 that need no padding are read where they are: a copy would be one more trip.
    """
    if rows.is_float32 and rows.row_bytes == FLOAT * head_dim and head_dim == tile.shape[1]:
        return row_address(rows, part, head, first)
    load_tile(rows, part, head, first, n, head_dim, recent, tile)
    return address_of(tile)


# --- Products ---------------------------------------------------------------------------------------------


@njit(cache=True)
def score_tile(room):
    """scores = q . keys, all of a tile: keys turned, so that 16 of them fill a vector."""
    rows, D = room.q.shape
    keys, turned = address_of(room.keys), address_of(room.turned)
    for vector in range(TILE // LANES):
        for i in range(D // LANES):
            source, target = VECTOR * (vector * D + i), VECTOR * (vector * D + LANES * i)
            transpose_words(keys, source, FLOAT * D, turned, target)
    room.scores[:] = 0
    q, scores = address_of(room.q), address_of(room.scores)
    for vector in range(0, TILE // LANES, VECTORS):
        b = turned + vector * D * VECTOR
        for r in range(0, rows, ROWS):
            c = scores + FLOAT * TILE * r + VECTOR * vector
            multiply_tile(q + FLOAT * D * r, FLOAT * D, b, VECTOR, VECTOR * D, D, c, FLOAT * TILE)


@njit(cache=True)
def add_tile(room, n):
    """out += scores . values, the first n keys of a tile."""
    rows, D = room.out.shape
    values, scores, out = address_of(room.values), address_of(room.scores), address_of(room.out)
    for i in range(0, FLOAT * D, VECTORS * VECTOR):
        for r in range(0, rows, ROWS):
            a, c = scores + FLOAT * TILE * r, out + FLOAT * D * r + i
            multiply_tile(a, FLOAT * TILE, values + i, FLOAT * D, VECTOR, n, c, FLOAT * D)


# --- Softmax ----------------------------------------------------------------------------------------------


@njit(cache=True)
def weigh(scores, before):
    """Turn TILE scores, by address, into exp(score - largest).

    Returns the largest so far, of these and `before`, and the sum of the new weights.
    """
    top = load_floats(scores, 0)
    for at in range(VECTOR, FLOAT * TILE, VECTOR):
        top = larger(load_floats(scores, at), top)
    largest = max(before, most(top))
    shift, sum_ = repeat_float(-largest, top), zero_floats()
    for at in range(0, FLOAT * TILE, VECTOR):
        weights = exp_floats(add_floats(load_floats(scores, at), shift))
        store(scores, at, weights)
        sum_ = add_floats(sum_, weights)
    return largest, total(sum_)


@njit(cache=True)
def softmax_row(room, r, unseen, seen, softcap):
    """Turn a row of scores, which sees those from `unseen` to `seen`, into weights; shrink what was added."""
    scores = room.scores[r]
    if unseen >= seen:
        scores[:] = 0
        return
    if softcap:
        soften(scores[unseen:seen], softcap)
    scores[:unseen], scores[seen:] = -INFINITE, -INFINITE
    before = room.largest[r]
    largest, added = weigh(address_of(room.scores) + FLOAT * TILE * r, before)
    scores[:unseen], scores[seen:] = 0, 0  # exp has left a trace there
    if largest > before:
        shrink = np.float32(np.exp(before - largest))  # 0 at first, when `before` is -infinity
        scale_row(address_of(room.out) + FLOAT * r * room.out.shape[1], room.out.shape[1], shrink)
        room.total[r] *= shrink
        room.largest[r] = largest
    room.total[r] += added


@njit(cache=True)
def scale_row(x, n, factor):
    """x *= factor, float32 [n] by address; n a multiple of 16."""
    for at in range(0, FLOAT * n, VECTOR):
        numbers = load_floats(x, at)
        store(x, at, multiply(numbers, repeat_float(factor, numbers)))
