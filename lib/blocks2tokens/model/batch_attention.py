"""Causal attention of a batch of queries, a tile of keys at a time: no matrix of all scores.

    a job: one head of keys and values, some queries of each query head that shares it     a Room's rows

            keys  0      64     128    192
    queries   0   #######                      a tile that none of the queries sees is never loaded;
             16   #######                      one on the diagonal is masked row by row;
             64   ####### #######              with a window, tiles before it are left out, too
            128   ####### ####### #######

A sink is a score that is there before the first tile: `total` begins with it. What is done to a tile:
`attention_tile`.
"""

import numpy as np
from numba import get_num_threads, njit, prange

from blocks2tokens.jit.cores import takes_turns
from blocks2tokens.jit.job_counter import new_counters, take_job
from blocks2tokens.model.attention_tile import (
    TILE,
    Rule,
    add_tile,
    load_tile,
    room_floats,
    room_in,
    score_tile,
    softmax_row,
)
from blocks2tokens.model.cache_rows import KEYS, PAGE, VALUES, LayerRows, is_recent, rows_of
from blocks2tokens.model.compiled_layers import INFINITE

ROWS = 64  # of queries against a tile, about: then loading and turning it costs little beside the products
TURNS = 1  # a Room has turned keys
assert PAGE % TILE == 0 and PAGE % ROWS == 0  # a tile lies in one page, and so do the queries of a block


@njit(cache=True)
def block_size(group):
    """Return how many tokens' queries a job takes, `group` heads of each."""
    return max(8, min(64, ROWS // group // 8 * 8))


def new_rooms(n_heads: int, n_kv_heads: int, head_dim: int, n_workers: int) -> np.ndarray:
    """Return the memory of all workers, float32 [n_workers, floats], zeros: all that `attend_batch` uses."""
    return np.zeros((n_workers, floats_of_a_worker(n_heads, n_kv_heads, head_dim)), np.float32)


def floats_of_a_worker(n_heads: int, n_kv_heads: int, head_dim: int) -> int:
    """Return how many float32 a worker's memory has."""
    group = n_heads // n_kv_heads
    return room_floats(group * block_size(group), head_dim, TURNS)


@njit(cache=True)
def begin_block(q, sinks, first, n, block, head, group, scale, room):
    """Copy the n queries of a block, scaled, and begin with the sinks; see `attend_block`."""
    for r in range(group * block):
        t, h = first + min(r % block, n - 1), head + r // block  # a short block repeats its last
        room.largest[r] = sinks[h]
        room.total[r] = 1 if sinks[h] > -INFINITE else 0
        for i in range(q.shape[2]):
            room.q[r, i] = q[t, h, i] * scale
    room.out[:] = 0


@njit(cache=True)
def softmax_tile(room, n_rows, block, end, start, in_tile, rule):
    """Turn the scores of the tile at `start` into weights; the first query of the block sees up to `end`."""
    for r in range(n_rows):
        behind = end + r % block - start  # keys of the tile and on that this query sees
        seen = max(0, min(in_tile, behind))
        unseen = max(0, min(seen, behind - rule.window)) if rule.window else 0
        softmax_row(room, r, unseen, seen, rule.softcap)


@njit(cache=True)
def attend_block(q, rows, kv_head, sinks, position, first, n, block, group, rule, out, room):
    """Attend for n queries from `first` on, up to a `block`, of the `group` heads that use one of a layer.

    q and out float32 [T, n_heads, head_dim]; query t sees the last of `position` + t + 1 keys, all or a
    window; the n are of one page; sinks float32 [n_heads], -infinity where there is none.
    """
    head = kv_head * group
    begin_block(q, sinks, first, n, block, head, group, rule.scale, room)
    n_keys, end = position + first + n, position + first + 1
    oldest = max(0, end - rule.window) if rule.window else 0
    for start in range(oldest // TILE * TILE, n_keys, TILE):
        in_tile, recent = min(TILE, n_keys - start), is_recent(rows, start, position + first)
        load_tile(rows, KEYS, kv_head, start, in_tile, q.shape[2], recent, room.keys)
        load_tile(rows, VALUES, kv_head, start, in_tile, q.shape[2], recent, room.values)
        score_tile(room)
        softmax_tile(room, group * block, block, end, start, in_tile, rule)
        add_tile(room, in_tile)
    for r in range(group * block):
        if r % block < n:
            for i in range(q.shape[2]):
                out[first + r % block, head + r // block, i] = room.out[r, i] / room.total[r]


@njit(cache=True)
def work(q, rows, n_kv_heads, sinks, position, rule, jobs, memory, out):
    """Take blocks, the longest first, until none are left; they begin at multiples of their size."""
    group = q.shape[1] // n_kv_heads
    block = block_size(group)
    before = position % block  # the first block's queries that other passes have made
    n_blocks = -(-(before + q.shape[0]) // block)
    room = room_in(memory, group * block, q.shape[2], TURNS)
    job = take_job(jobs, 0)
    while job < n_kv_heads * n_blocks:
        h, start = job % n_kv_heads, block * (n_blocks - 1 - job // n_kv_heads) - before
        first = max(0, start)
        n = min(q.shape[0], start + block) - first
        attend_block(q, rows, h, sinks, position, first, n, block, group, rule, out, room)
        job = take_job(jobs, 0)


@takes_turns
@njit(parallel=True, cache=True)
def share(q, rows, n_kv_heads, sinks, position, rule, jobs, rooms, n_workers, out):
    for i in prange(n_workers):
        work(q, rows, n_kv_heads, sinks, position, rule, jobs, rooms[i], out)


def attend_batch(
    q: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    position: int,
    rooms: np.ndarray,
    window: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    sinks: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the attended values, float32 [T, n_heads, head_dim]; q likewise, behind `position` others.

    keys, values: [n_kv_heads, capacity, head_dim], float32 or the bits of float16, of which the first
    `position` + T tokens are there. rooms: see `new_rooms`; as many work as it has rows, and no more than
    Numba's threads. What `attention.attend` defines; in `out`, where one is given.
    """
    rows = rows_of(keys, values)
    return attend_rows(q, rows, len(keys), position, rooms, window, scale, softcap, sinks, out)


def attend_rows(
    q: np.ndarray,
    rows: LayerRows,
    n_kv_heads: int,
    position: int,
    rooms: np.ndarray,
    window: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    sinks: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return what `attend_batch` does, of keys and values as `KVCache.rows` tells where they are."""
    out, n_heads = np.empty_like(q) if out is None else out, q.shape[1]
    rule = Rule(np.float32(scale or q.shape[2] ** -0.5), np.float32(softcap), window)
    sinks = np.full(n_heads, -INFINITE) if sinks is None else sinks
    n_workers = min(len(rooms), get_num_threads())
    share(q, rows, n_kv_heads, sinks, position, rule, new_counters(1), rooms, n_workers, out)
    return out
