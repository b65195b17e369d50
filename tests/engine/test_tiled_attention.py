"""Attention in tiles, of a batch and of one token split over keys, against the definition in float64."""

import numpy as np
import pytest
from numba import get_num_threads

from blocks2tokens.model import attention_tile, batch_attention, split_attention
from blocks2tokens.model.attention_tile import TILE
from blocks2tokens.model.batch_attention import attend_batch
from blocks2tokens.model.cache_rows import rows_of
from blocks2tokens.model.split_attention import LEAST_PART, MOST_PARTS, attend_part, join_parts

CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # scores reach 20: their own rounding is seen in exp
RULES = {
    "plain": {},
    "scale": {"scale": 0.07},
    "softcap": {"softcap": 5.0},
    "window of one": {"window": 1},
    "window": {"window": 70},
    "sinks": {"sinks": True},
    "all": {"scale": 0.07, "softcap": 5.0, "window": 129, "sinks": True},
}
#         heads, heads of keys, head_dim: groups of 1 to 9, head sizes with and without a rest
SHAPES = [(9, 3, 64), (4, 4, 16), (8, 1, 128), (6, 3, 80), (9, 1, 20), (2, 2, 4), (71, 1, 16)]


def numbers(n_heads, n_kv_heads, head_dim, T, S, seed=0):
    """Return q, k, v with some large scores; the cache has room for 3 more tokens, which are poison."""
    rng = np.random.default_rng(seed)
    q = 2 * rng.standard_normal((T, n_heads, head_dim), np.float32)
    k, v = (rng.standard_normal((n_kv_heads, S + 3, head_dim), np.float32) for _ in range(2))
    k[:, S:], v[:, S:] = np.nan, np.nan
    return q, k, v


def definition(q, k, v, window=0, scale=None, softcap=0.0, sinks=None):
    """Attention in float64, a query at a time; q [T, n_heads, head_dim], k and v without spare room."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    T, n_heads, head_dim = q.shape
    S, group, out = k.shape[1], n_heads // k.shape[0], np.empty_like(q)
    for t in range(T):
        end = S - T + t + 1
        seen = slice(max(0, end - window) if window else 0, end)
        for h in range(n_heads):
            scores = k[h // group, seen] @ q[t, h] * (scale or head_dim**-0.5)
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            sink = -np.inf if sinks is None else sinks[h]
            largest = max(scores.max(), sink)
            weights = np.exp(scores - largest)
            out[t, h] = weights @ v[h // group, seen] / (weights.sum() + np.exp(sink - largest))
    return out


def with_sinks(rule, n_heads):
    sinks = np.linspace(-2, 12, n_heads).astype(np.float32)
    return rule | {"sinks": sinks} if "sinks" in rule else rule


def decoded(q, k, v, n_keys, window=0, scale=None, softcap=0.0, sinks=None, part_keys=None):
    """Attend for one token as a decoder does: q float32 [n_heads, head_dim]."""
    (n_heads, head_dim), n_kv_heads = q.shape, len(k)
    group, room = n_heads // n_kv_heads, split_attention.new_rooms(n_heads, n_kv_heads, head_dim, 1)[0]
    parts = split_attention.new_parts(1, n_heads, head_dim)[0]
    first = max(0, n_keys - window) if window else 0
    step = part_keys or split_attention.keys_of_a_part(n_keys - first)
    starts = list(range(first, n_keys, step))
    rows = rows_of(k, v)
    for h in range(n_kv_heads):
        own = slice(h * group, (h + 1) * group)
        for p, start in enumerate(starts):
            scale_, cap = np.float32(scale or head_dim**-0.5), np.float32(softcap)
            end = min(start + step, n_keys)
            attend_part(q[own], rows, h, n_keys - 1, start, end, scale_, cap, room, parts[p, own])
    out = np.empty(n_heads * head_dim, np.float32)
    sinks = np.full(n_heads, -np.inf, np.float32) if sinks is None else sinks
    join_parts(parts, len(starts), sinks, out)
    return out.reshape(n_heads, head_dim)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_in_tiles_is_the_definition(shape, rule):
    n_heads = shape[0]
    rule, rooms = with_sinks(RULES[rule], n_heads), batch_attention.new_rooms(*shape, get_num_threads())
    for T, S in ((1, 1), (5, 5), (70, 200), (2, TILE + 1), (130, 130)):
        q, k, v = numbers(*shape, T, S)
        out = attend_batch(q, k, v, S - T, rooms, **rule)
        assert np.allclose(out, definition(q, k[:, :S], v[:, :S], **rule), **CLOSE), (T, S)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_joined_are_the_definition(shape, rule):
    rule = with_sinks(RULES[rule], shape[0])
    for S in (1, 63, LEAST_PART + 1, 700, MOST_PARTS * LEAST_PART + 1):
        q, k, v = numbers(*shape, 1, S)
        out = decoded(q[0], k, v, S, **rule)
        assert np.allclose(out, definition(q, k[:, :S], v[:, :S], **rule)[0], **CLOSE), S


def test_a_cache_of_float16_is_read_as_its_numbers():
    q, k, v = numbers(9, 3, 64, 40, 150)
    halves = [x.astype(np.float16) for x in (k, v)]
    bits, wide = [x.view(np.uint16) for x in halves], [x.astype(np.float32) for x in halves]
    rooms = batch_attention.new_rooms(9, 3, 64, get_num_threads())
    assert np.array_equal(attend_batch(q, *bits, 110, rooms), attend_batch(q, *wide, 110, rooms))
    assert np.array_equal(decoded(q[0], *bits, 150), decoded(q[0], *wide, 150))


@pytest.mark.parametrize(("dtype", "head_dim", "copies"), [("f4", 64, 0), ("f4", 80, 2), ("f2", 64, 2)])
def test_one_token_reads_float32_where_it_is(dtype, head_dim, copies):
    """A copy of the cache would cost as much again as reading it: none is made, unless rows need padding."""
    q, k, v = numbers(4, 4, head_dim, 1, 300)
    k, v = (x.astype(dtype).view("u2" if dtype == "f2" else "f4") for x in (k, v))
    room, parts = (
        split_attention.new_rooms(4, 4, head_dim, 1)[0],
        split_attention.new_parts(1, 4, head_dim)[0],
    )
    attend_part(q[0, :1], rows_of(k, v), 0, 299, 0, 300, np.float32(0.1), np.float32(0), room, parts[0, :1])
    tiles = attention_tile.room_in(room, 1, head_dim, split_attention.TURNS)
    assert sum(tile.any() for tile in (tiles.keys, tiles.values)) == copies


def test_rows_that_lie_apart_are_read_too():
    q, k, v = numbers(4, 4, 64, 1, 300)
    apart = np.full((2, 4, 303, 96), np.nan, np.float32)
    apart[0, ..., :64], apart[1, ..., :64] = k, v
    assert np.array_equal(decoded(q[0], *apart[..., :64], 300), decoded(q[0], k, v, 300))


@pytest.mark.parametrize("step", [TILE, 2 * TILE, 640])
def test_it_does_not_matter_where_the_keys_are_split(step):
    q, k, v = numbers(9, 3, 64, 1, 600)
    whole = decoded(q[0], k, v, 600, part_keys=600)
    assert np.allclose(decoded(q[0], k, v, 600, part_keys=step), whole, **CLOSE)


def test_the_largest_score_may_come_last_and_be_huge():
    q, k, v = numbers(4, 2, 32, 1, 300)
    k[:, 299] = 40 * q[0, ::2]  # scores far beyond what exp could take
    expected = definition(q, k[:, :300], v[:, :300])
    rooms = batch_attention.new_rooms(4, 2, 32, 1)
    assert np.allclose(attend_batch(q, k, v, 299, rooms), expected, **CLOSE)
    assert np.allclose(decoded(q[0], k, v, 300), expected[0], **CLOSE)


def test_what_is_no_number_stays_none():
    q, k, v = numbers(4, 2, 32, 1, 300)
    k[0, 100, 3] = np.nan
    out = decoded(q[0], k, v, 300)
    assert np.isnan(out[:2]).all() and np.isfinite(out[2:]).all()


def test_a_room_used_before_gives_the_same_bits():
    q, k, v = numbers(6, 3, 80, 70, 200)
    rooms = batch_attention.new_rooms(6, 3, 80, get_num_threads())
    first = attend_batch(q, k, v, 130, rooms)
    attend_batch(1e3 * q, k, v, 130, rooms, window=3)
    assert np.array_equal(attend_batch(q, k, v, 130, rooms), first)


@pytest.mark.parametrize("n_keys", [1, 127, 128, 129, 2048, 2049, 8192, 131_072])
def test_parts_are_whole_tiles_and_hold_all_keys(n_keys):
    step, n = split_attention.keys_of_a_part(n_keys), split_attention.parts_of(n_keys)
    assert step % TILE == 0 and step >= LEAST_PART and n <= MOST_PARTS
    assert (n - 1) * step < n_keys <= n * step


def test_both_cores_have_work_at_any_length_that_costs_time():
    """Three heads of keys on two cores: no core has more than a tenth above its half from 512 keys on."""
    for n_keys in (512, 1000, 2048, 8192):
        step, n = split_attention.keys_of_a_part(n_keys), split_attention.parts_of(n_keys)
        lengths = [min(step, n_keys - p * step) for _ in range(3) for p in range(n)]
        busy = [0, 0]
        for length in lengths:
            busy[busy.index(min(busy))] += length
        assert max(busy) <= 1.1 * sum(busy) / 2 + LEAST_PART


def test_memory_does_not_grow_with_the_text():
    """The figure that both passes need beside the cache, counted: rows and a tile, whatever the length."""
    rows, tile = 48 * (64 + TILE + 64 + 2), 3 * TILE * 64
    assert batch_attention.new_rooms(9, 3, 64, 2).nbytes == 2 * 4 * (rows + tile)
    rows, tile = 8 * (64 + TILE + 64 + 2), 2 * TILE * 64
    assert split_attention.new_rooms(9, 3, 64, 2).nbytes == 2 * 4 * (rows + tile)
    assert split_attention.new_parts(1, 9, 64).nbytes == MOST_PARTS * 9 * (64 + 16) * 4
