"""KVCache: rows of four types against ggml's blocks and float64; pages taken, shared, copied, given back."""

import copy
import gc
import pickle

import gguf
import numpy as np
import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.course import bench
from blocks2tokens.model import KVCache, cache_rows, key_frame, rope
from blocks2tokens.model.batch_attention import attend_batch, attend_rows, new_rooms
from blocks2tokens.model.cache_rows import (
    BACK,
    FEEDBACK,
    FIRST,
    MEAN,
    PAGE,
    RECENT,
    SCALE,
    TYPES,
    VALUE,
    row_bytes,
    rows_of,
    turn,
)
from blocks2tokens.model.pages import PagePool
from blocks2tokens.model.prefill import fit_queries
from blocks2tokens.model.split_attention import attend_part, join_parts, new_parts

QUANTIZED = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}
N_LAYERS, N_KV_HEADS = 2, 3


def random_floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def filled(n_tokens, kind="float32", head_dim=64, capacity=None, seed=0, pool=None):
    """Return a cache of random tokens, and their keys and values, [n_layers, n, n_kv_heads, head_dim]."""
    cache = KVCache(N_LAYERS, N_KV_HEADS, head_dim, capacity or n_tokens, kind, pool)
    shape = N_LAYERS, n_tokens, N_KV_HEADS, head_dim
    keys, values = random_floats(*shape, seed=seed), random_floats(*shape, seed=seed + 1)
    for layer in range(N_LAYERS):
        cache.put(layer, keys[layer], values[layer])
    cache.advance(n_tokens)
    return cache, keys, values


def hadamard(n):
    """Return Hadamard's matrix by Sylvester's doubling, float64 [n, n], with rows of length 1."""
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(n)


# --- Rows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
def test_rows_are_ggml_s_blocks(kind, head_dim):
    x = random_floats(PAGE, head_dim)
    x[3], x[5, 7], x[6] = 0, 300, 0.25
    n_bytes = row_bytes(kind, head_dim)
    rows, (store_row, load_rows) = np.zeros((len(x), n_bytes), np.uint8), TYPES[kind]
    for i, row in enumerate(x):
        store_row(row.ctypes.data, head_dim, rows.ctypes.data + i * n_bytes, 0, 0)
    fmt = b2t.FORMATS[kind.upper()]
    if kind == "q8_0":
        assert np.array_equal(rows, fmt.quantize(x))
    else:
        check_scales(x.reshape(-1, 32), rows.reshape(-1, fmt.bytes_per_block))
    out = np.full((len(x), head_dim + 3), np.nan, np.float32)
    load_rows(rows.ctypes.data, n_bytes, len(x), head_dim, out.ctypes.data, out.strides[0])
    assert np.array_equal(out[:, :head_dim], gguf.dequantize(rows, QUANTIZED[kind]))
    assert np.all(np.isnan(out[:, head_dim:]))


def check_scales(x, blocks):
    """Check that no scale that is tried would have been better than those of blocks of q4_0, by float64."""
    largest = x[np.arange(len(x)), np.abs(x).argmax(axis=1)].astype(float)
    tried = np.outer(largest / -8, 1.15 - 0.05 * np.arange(8)).astype(np.float16).astype(float)[..., None]
    inverse = np.divide(1, tried, out=np.zeros_like(tried), where=tried != 0)
    codes = np.clip(np.floor(x[:, None] * inverse + 8.5), 0, 15)
    errors = np.square(tried * (codes - 8) - x[:, None]).sum(axis=2)  # [blocks, scales]
    found = np.square(gguf.dequantize(blocks, QUANTIZED["q4_0"]).reshape(x.shape) - x.astype(float)).sum(
        axis=1
    )
    assert np.allclose(found, errors.min(axis=1), rtol=1e-4, atol=1e-12)
    ggml = gguf.dequantize(b2t.FORMATS["Q4_0"].quantize(x), QUANTIZED["q4_0"])
    theirs = np.square(ggml - x.astype(float)).sum(axis=1)
    assert np.all(found <= 1.0001 * theirs) and np.median(found / np.maximum(theirs, 1e-12)) < 0.95


@pytest.mark.parametrize("n", [1, 2, 32, 64, 128, 256])
def test_turning_is_hadamard_s_matrix(n):
    x = random_floats(3 * n)
    expected = (x.reshape(3, n) @ hadamard(n)).reshape(-1)
    turned = x.copy()
    turn(turned, n)
    assert np.allclose(turned, expected, atol=1e-5)
    turn(turned, n)
    assert np.allclose(turned, x, atol=1e-5)


@pytest.mark.parametrize(("head_dim", "n"), [(64, 64), (96, 32), (128, 128), (192, 64), (256, 256)])
def test_turned_keys_and_queries_have_the_same_products(head_dim, n):
    assert cache_rows.turned("q4_0", head_dim) == n and not cache_rows.turned("q8_0", head_dim)
    q, k = random_floats(head_dim), random_floats(head_dim, seed=1)
    expected = q.astype(float) @ k
    turn(q, n), turn(k, n)
    assert np.isclose(q @ k, expected, atol=1e-4)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("head_dim", [32, 64, 96])
def test_a_cache_gives_what_was_put_as_near_as_its_type_comes(kind, head_dim):
    cache, keys, values = filled(2 * PAGE + 5, kind, head_dim)
    for layer in range(N_LAYERS):
        for found, given in zip(cache.get(layer, len(keys[0])), (keys[layer], values[layer]), strict=True):
            error = np.std(found - given.swapaxes(0, 1))
            assert error <= {"float32": 0, "float16": 3e-4, "q8_0": 0.007, "q4_0": 0.1}[kind]
    recent = 2 * N_LAYERS * N_KV_HEADS * RECENT * head_dim // 32 * 34 if kind == "q4_0" else 0
    assert cache.nbytes == cache.bytes_per_token * (2 * PAGE + 5) + recent
    assert cache.bytes_per_token == 2 * N_LAYERS * N_KV_HEADS * row_bytes(kind, head_dim)


# --- Frames of keys ---------------------------------------------------------------------------------------


def moments(x):
    """Return the moments of x, float32 [n, heads, head_dim], where it is."""
    x = x.astype(float)
    return key_frame.Moments(x.mean(axis=0), np.einsum("thi,thj->hij", x, x) / len(x))


def frame_of(q, k):
    """Return the frames of a layer for queries and keys, float32 [n, heads, head_dim]; a random VALUE."""
    frame = key_frame.framed(k[0], moments(q), moments(k[4:]))
    frame[:, VALUE] = 3 * random_floats(*k.shape[1:], seed=11)
    return frame


def frames_of(keys, seed=9):
    """Return frames for keys, float32 [n_layers, n, n_kv_heads, head_dim], and queries from a seed."""
    q = random_floats(keys.shape[1], 2 * N_KV_HEADS, keys.shape[3], seed=seed)
    return np.array([frame_of(q, layer) for layer in keys])


def like_a_model_s(n, head_dim=64, seed=0):
    """Return random keys with much in common, and a first one that is like none."""
    keys = random_floats(N_LAYERS, n, N_KV_HEADS, head_dim, seed=seed)
    keys += 4 * random_floats(N_LAYERS, 1, N_KV_HEADS, head_dim, seed=seed + 1)
    keys *= np.exp(random_floats(head_dim, seed=seed + 2))
    keys[:, 0] *= -3
    return keys


@pytest.mark.parametrize("pairs", ["adjacent", "halves"])
def test_moments_are_those_of_all_positions(pairs):
    n, span, f = 9, 50, rope.frequencies(32, 10000.0)
    x = 1 + random_floats(n, 2, 32)
    seen = rope.ROTATE[pairs](x, *rope.angles(np.arange(n), f))
    found = key_frame.moments(seen, f, pairs, span)
    places = [rope.ROTATE[pairs](x[4:], *rope.angles(np.full(n - 4, p), f)) for p in range(span)]
    expected = moments(np.concatenate(places))
    assert np.allclose(found.mean, expected.mean, atol=1e-5)
    assert np.allclose(found.products, expected.products, atol=1e-4)


def test_a_frame_is_what_keys_have_in_common():
    keys, n = like_a_model_s(40), 40
    q = random_floats(n, 2 * N_KV_HEADS, 64, seed=5)
    frame = frame_of(q, keys[0])
    rest = keys[0, 4:].astype(float)
    assert np.array_equal(frame[:, FIRST], keys[0, 0])
    assert np.allclose(frame[:, MEAN], rest.mean(axis=0), atol=1e-4)
    asked = np.square(q.reshape(n, N_KV_HEADS, 2, 64).astype(float)).mean(axis=(0, 2))
    expected = asked**0.1 / rest.var(axis=0) ** 0.4
    ratio = frame[:, SCALE] / expected
    assert np.allclose(ratio, ratio[:, :1], rtol=1e-3) and np.allclose(
        np.log(frame[:, SCALE]).mean(1), 0, atol=1e-5
    )
    back = (frame[:, FIRST] - frame[:, MEAN]) * frame[:, SCALE]
    assert np.allclose(frame[:, BACK], back @ hadamard(64), atol=1e-3)


def test_feedback_makes_up_for_an_error_as_well_as_the_numbers_behind_it_can():
    q = random_floats(500, 64) @ random_floats(64, 64, seed=1) * np.exp(random_floats(64, seed=2))
    turned = q @ hadamard(64)
    found = key_frame.feedback((q.T @ q / 500).astype(float), 64)
    assert np.array_equal(found, np.triu(found, 1))
    for i in (0, 17, 62):  # least squares: the numbers behind i that cancel an error of 1 there
        expected = np.linalg.lstsq(turned[:, i + 1 :], turned[:, i], rcond=None)[0]
        left = [
            np.square(turned[:, i] - turned[:, i + 1 :] @ x).mean() for x in (found[i, i + 1 :], expected)
        ]
        assert left[1] <= left[0] < 1.3 * left[1] + 0.02 * np.square(turned).mean()


def test_channels_that_nobody_asks_for_have_a_frame():
    q, k = np.zeros((6, 2, 32), np.float32), np.zeros((6, 1, 32), np.float32)
    k[:, :, 3] = 7
    frame = frame_of(q, k)
    assert np.isfinite(frame).all() and (frame[:, SCALE] > 0).all() and np.all(frame[:, MEAN, 3] == 7)


def errors_of_scores(keys, q, frames):
    """Return the root of the mean squared error of scores, for each token of layer 1."""
    n = keys.shape[1]
    cache = KVCache(N_LAYERS, N_KV_HEADS, 64, n, "q4_0", frames=frames)
    cache.put(1, keys[1], keys[1])
    wrong = (cache.get(1, n)[0] - keys[1].swapaxes(0, 1)) @ q.T
    return np.sqrt(np.square(wrong).mean(axis=(0, 2)))


def test_a_frame_makes_the_errors_of_scores_smaller():
    keys = like_a_model_s(3 * PAGE)
    q = random_floats(50, 64, seed=4)
    none, own = errors_of_scores(keys, q, None), errors_of_scores(keys, q, frames_of(keys))
    assert np.mean(own[1:]) < np.mean(none[1:]) / 2 and own[0] < none[0] / 10


def test_the_first_value_is_exact_where_it_is_the_frame_s():
    n, keys = PAGE + 1, like_a_model_s(PAGE + 1)
    frames, values = frames_of(keys), random_floats(n, N_KV_HEADS, 64, seed=8)
    values[0] = frames[1, :, VALUE] @ hadamard(64)
    cache = KVCache(N_LAYERS, N_KV_HEADS, 64, n, "q4_0", frames=frames)
    cache.put(1, keys[1], values)
    wrong = np.abs(cache.get(1, n)[1].swapaxes(0, 1) - values).max(axis=(1, 2))
    assert wrong[0] < 1e-4 and wrong[1:PAGE].min() > 0.02


def test_feedback_makes_the_errors_of_scores_smaller_where_queries_are_alike():
    keys, few = like_a_model_s(3 * PAGE), random_floats(4, 64, seed=6)
    q = random_floats(400, N_KV_HEADS, 4) @ (8 * few) + random_floats(400, N_KV_HEADS, 64, seed=7)
    frames = np.array([frame_of(q, layer) for layer in keys])
    without = frames.copy()
    without[:, :, FEEDBACK:] = 0
    asked = q[:, 0]
    fed, plain = (errors_of_scores(keys, asked, one)[1:] for one in (frames, without))
    assert np.mean(fed) < 0.7 * np.mean(plain)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.ones((1, 1, 69, 64)), "frames: expected float32 .*got float64"),
        (np.ones((1, 2, 69, 64), np.float32), r"expected float32 \(1, 1, 69, 64\), got float32 \(1, 2"),
        (np.zeros((1, 1, 69, 64), np.float32), "scales above zero"),
        (np.full((1, 1, 69, 64), np.nan, np.float32), "finite numbers"),
    ],
)
def test_frames_that_make_no_sense(frames, message):
    with pytest.raises(ValueError, match=message):
        KVCache(1, 1, 64, 10, "q4_0", frames=frames)


def test_forks_and_copies_have_the_frames_of_their_origin():
    keys = like_a_model_s(PAGE + 3)
    cache = KVCache(N_LAYERS, N_KV_HEADS, 64, 2 * PAGE, "q4_0", frames=frames_of(keys))
    for layer in range(N_LAYERS):
        cache.put(layer, keys[layer], keys[layer])
    cache.advance(PAGE + 3)
    for other in (cache.fork(), pickle.loads(pickle.dumps(cache))):
        assert np.array_equal(other.frames, cache.frames)
        assert np.array_equal(other.get(1, PAGE + 3)[0], cache.get(1, PAGE + 3)[0])


def test_keys_from_other_frames_are_rounded_again():
    keys, n = like_a_model_s(PAGE + 3), PAGE + 3
    one = KVCache(N_LAYERS, N_KV_HEADS, 64, n, "q4_0", frames=frames_of(keys))
    for layer in range(N_LAYERS):
        one.put(layer, keys[layer], keys[layer])
    one.advance(n)
    other = KVCache(N_LAYERS, N_KV_HEADS, 64, n, "q4_0", frames=1.01 * one.frames)
    other.fill(*one.used(), one.frames)
    assert other.length == n and not np.array_equal(other.used()[0], one.used()[0])
    a, b, exact = (x.astype(float) for x in (one.get(1, n)[0], other.get(1, n)[0], keys[1].swapaxes(0, 1)))
    assert np.std(b - exact) < 1.7 * np.std(a - exact)
    same = KVCache(N_LAYERS, N_KV_HEADS, 64, n, "q4_0", frames=one.frames.copy())
    same.fill(*one.used(), one.frames)
    assert np.array_equal(same.used()[0], one.used()[0])


# --- Attention over pages, against float64 ----------------------------------------------------------------


def attend_in_float64(q, keys, values, position, window):
    """Attend by the definition; q [T, n_heads, head_dim], keys and values [n_kv_heads, n, head_dim]."""
    out = np.zeros(q.shape)
    for t in range(len(q)):
        last = position + t + 1
        first = max(0, last - window) if window else 0
        for head in range(q.shape[1]):
            kv = head * len(keys) // q.shape[1]
            scores = keys[kv, first:last].astype(float) @ q[t, head] / np.sqrt(q.shape[2])
            weights = np.exp(scores - scores.max())
            out[t, head] = weights @ values[kv, first:last] / weights.sum()
    return out


@pytest.mark.parametrize("kind", [*TYPES, "q4_0 in frames"])
@pytest.mark.parametrize("window", [0, 70])
def test_attention_reads_pages_of_any_type(kind, window):
    n, T, head_dim = 3 * PAGE + 7, 5, 64
    cache, keys, values = filled(n, kind.split()[0], head_dim)
    if "frames" in kind:
        keys = like_a_model_s(n)
        cache = KVCache(N_LAYERS, N_KV_HEADS, head_dim, n, "q4_0", frames=frames_of(keys))
        cache.put(1, keys[1], values[1])
        cache.advance(n)
    q = random_floats(T, 2 * N_KV_HEADS, head_dim, seed=5)
    expected = attend_in_float64(q, *cache.get(1, n), n - T, window)
    rows, given, n_heads = cache.rows(1), q.copy(), q.shape[1]
    if rows.turned:
        fit_queries(given, rows, N_KV_HEADS)
    rooms = new_rooms(n_heads, N_KV_HEADS, head_dim, 1)
    batch = attend_rows(given, rows, N_KV_HEADS, n - T, rooms, window)
    if rows.turned:
        turn(batch.reshape(-1), rows.turned)
    assert np.allclose(batch, expected, atol=2e-5)
    first, parts, out = (
        n - window if window else 0,
        new_parts(1, n_heads, head_dim)[0],
        np.empty(q[0].size, "f4"),
    )
    scale, softcap, group = np.float32(head_dim**-0.5), np.float32(0), n_heads // N_KV_HEADS
    for part, (a, b) in enumerate([(first, n - 30), (n - 30, n)]):  # a part may begin in the middle of a page
        for head in range(N_KV_HEADS):
            own = slice(head * group, (head + 1) * group)
            attend_part(given[-1, own], rows, head, n - 1, a, b, scale, softcap, rooms[0], parts[part, own])
    join_parts(parts, 2, np.full(n_heads, -np.inf, np.float32), out)
    if rows.turned:
        turn(out, rows.turned)
    assert np.allclose(out.reshape(n_heads, -1), expected[-1], atol=2e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_array_in_one_piece_is_pages_too(dtype):
    keys, values = (random_floats(N_KV_HEADS, 150, 32, seed=i).astype(dtype) for i in range(2))
    q = random_floats(4, N_KV_HEADS, 32, seed=3)
    bits = (keys, values) if dtype == np.float32 else (keys.view(np.uint16), values.view(np.uint16))
    found = attend_batch(q, *bits, 146, new_rooms(N_KV_HEADS, N_KV_HEADS, 32, 1))
    assert np.allclose(found, attend_in_float64(q, keys, values, 146, 0), atol=2e-5)
    assert len(rows_of(*bits).table) == 3


# --- Pages ------------------------------------------------------------------------------------------------


def test_pages_are_taken_as_tokens_come():
    cache = filled(1, capacity=10 * PAGE)[0]
    assert len(cache.pages) == cache.pool.n_used == 1
    cache.prepare(PAGE - 1)
    assert len(cache.pages) == 1
    cache.prepare(PAGE)
    assert len(cache.pages) == 2
    assert [*cache.table] == [page.address for page in cache.pages] + [0] * 9
    assert all(page.address % 64 == 0 for page in cache.pages)


def test_rewinding_gives_pages_back():
    cache, keys, _ = filled(3 * PAGE)
    cache.truncate(PAGE + 1)
    assert len(cache.pages) == cache.pool.n_used == 2 and cache.table[2] == 0
    assert np.array_equal(cache.get(0, PAGE + 1)[0], keys[0, : PAGE + 1].swapaxes(0, 1))
    cache.truncate(0)
    assert cache.pages == () and cache.pool.n_used == 0


def test_a_fork_copies_nothing_and_the_first_to_write_copies_one_page():
    cache = filled(2 * PAGE + 10, capacity=4 * PAGE)[0]
    fork = cache.fork()
    assert fork.pages == cache.pages and cache.pool.n_used == 3
    before = [part.copy() for part in cache.used()]
    token = np.ones((1, N_KV_HEADS, 64), np.float32)
    for layer in range(N_LAYERS):
        fork.put(layer, token, token)
    fork.advance(1)
    assert fork.pages[:2] == cache.pages[:2] and fork.pages[2] is not cache.pages[2]
    assert cache.pool.n_used == 4 and [page.users for page in cache.pages] == [2, 2, 1]
    own = cache.pages
    cache.put(0, 2 * token, 2 * token)  # it is the only one left that holds its last page
    assert cache.pages == own
    assert all(np.array_equal(a, b) for a, b in zip(before, cache.used(), strict=True))
    assert np.all(fork.get(0, fork.length)[0][:, -1] == 1)
    assert np.array_equal(fork.used()[0][:, :, :-1], cache.used()[0])


def test_a_fork_may_have_another_capacity():
    cache = filled(PAGE + 3)[0]
    larger = cache.fork(5 * PAGE)
    assert (larger.capacity, larger.length, larger.pages) == (5 * PAGE, PAGE + 3, cache.pages)
    with pytest.raises(ValueError, match=f"capacity: expected at least {PAGE + 3}, got 3"):
        cache.fork(3)


def test_pages_live_as_long_as_a_cache_holds_them():
    cache = filled(2 * PAGE)[0]
    pool, fork = cache.pool, copy.deepcopy(cache)
    fork.truncate(PAGE)
    gc.disable()
    try:
        del cache
        assert pool.n_used == 1 and [page.users for page in fork.pages] == [1]
        del fork
        assert pool.n_used == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", TYPES)
def test_a_pickled_cache_is_another_of_the_same(kind):
    cache = filled(PAGE + 3, kind)[0]
    other = pickle.loads(pickle.dumps(cache))
    assert other.kind == kind and other.length == cache.length and other.pages != cache.pages
    assert all(np.array_equal(a, b) for a, b in zip(cache.used(), other.used(), strict=True))


def test_a_pool_may_run_out_of_pages():
    pool = PagePool(filled(1)[0].pool.page_bytes, limit=3)
    cache, other = filled(2 * PAGE, pool=pool, capacity=4 * PAGE)[0], filled(1, pool=pool, capacity=100)[0]
    with pytest.raises(ValueError, match=f"cache: all 3 pages of {PAGE} tokens are in use"):
        cache.prepare(1)
    assert (cache.length, len(cache.pages)) == (2 * PAGE, 2)
    del other
    cache.prepare(1)
    fork = cache.fork()
    fork.truncate(1)
    with pytest.raises(ValueError, match="cache: all 3 pages"):
        fork.prepare(1)  # a copy would be a fourth
    assert fork.pages == cache.pages[:1] and cache.pages[0].users == 2


# --- Prefixes ---------------------------------------------------------------------------------------------


def test_a_cache_begins_with_what_others_have_read():
    ids = list(range(3 * PAGE))
    cache = filled(2 * PAGE + 9)[0]
    cache.publish(ids)
    other = KVCache(*cache.shape, 4 * PAGE, pool=cache.pool)
    assert cache.pool.n_found(ids) == other.begin_with(ids) == other.length == 2 * PAGE
    assert other.pages == cache.pages[:2] and cache.pool.n_used == 3
    assert other.begin_with([*ids[: PAGE + 5], 9, *ids[PAGE + 6 :]]) == PAGE  # as far as the ids are the same
    assert other.begin_with([1, *ids[1:]]) == 0 and other.pages == ()
    assert other.begin_with(ids[: PAGE - 1]) == 0  # only pages that are full
    with pytest.raises(ValueError, match="300 tokens do not fit into 256"):
        other.begin_with(range(300))


def test_a_page_that_is_written_into_is_found_no_more():
    ids = list(range(2 * PAGE))
    cache = filled(2 * PAGE)[0]
    cache.publish(ids)
    other = KVCache(*cache.shape, 2 * PAGE, pool=cache.pool)
    assert other.begin_with(ids) == 2 * PAGE
    cache.truncate(PAGE + 1)
    cache.prepare(1)  # a copy: the other one holds the page too, and may be found with it
    assert cache.pages[1] is not other.pages[1] and cache.pool.n_found(ids) == 2 * PAGE
    other.truncate(PAGE + 1)
    other.prepare(1)  # the last that held it
    assert cache.pool.n_found(ids) == PAGE
    del cache, other
    gc.collect()


def test_a_page_is_found_as_long_as_somebody_holds_it():
    ids, cache = list(range(PAGE)), filled(PAGE)[0]
    pool = cache.pool
    cache.publish(ids)
    del cache
    gc.collect()
    assert pool.n_found(ids) == 0


# --- Bad input, and models --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "Q8_0", None, 4])
def test_a_type_that_there_is_not(kind):
    with pytest.raises(ValueError, match="cache: expected one of float32, float16, q8_0, q4_0, got"):
        KVCache(1, 1, 64, 10, kind)


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("head_dim", [16, 48, 80])
def test_heads_that_are_not_made_of_blocks(kind, head_dim):
    with pytest.raises(
        b2t.UnsupportedError, match=f"{kind} has blocks of 32 numbers, .* heads of {head_dim}"
    ):
        KVCache(1, 1, head_dim, 10, kind)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A model with heads of 32 numbers."""
    sizes = {"n_heads": 4, "n_kv_heads": 2, "dim": 128, "context_length": 3 * PAGE}
    return small_model(**sizes).write(tmp_path_factory.mktemp("models") / "small.gguf")


def stepped(transformer, ids):
    """Return the logits after each of ids, one token at a time."""
    cache = transformer.new_cache(len(ids))
    return np.array([transformer.step(int(i), cache).copy() for i in ids])


def spread(found, expected):
    """Return the error of logits as a part of their spread."""
    return np.std(found - expected) / np.std(expected)


@pytest.mark.parametrize("kind", [*QUANTIZED, "float16"])
def test_a_model_says_nearly_the_same_with_each_type(path, kind):
    exact, other = b2t.load(path).transformer, b2t.load(path, cache=kind).transformer
    n = 2 * PAGE + 10
    ids = np.random.default_rng(1).integers(3, 320, n)
    expected = exact.project(exact.hidden(ids, exact.new_cache(n)))
    batch = other.project(other.hidden(ids, other.new_cache(n)))
    single = stepped(other, ids)
    assert 0 < spread(batch, expected) < {"float16": 0.002, "q8_0": 0.02, "q4_0": 0.3}[kind]
    assert spread(single, batch) < {"float16": 0.002, "q8_0": 0.01, "q4_0": 0.15}[kind]  # a code may differ


# --- Recent rows in q4_0 ----------------------------------------------------------------------------------


def put(cache, keys, values, first, last):
    """Bring tokens `first` to last - 1 of all, [n_layers, n, n_kv_heads, head_dim], in one pass."""
    for layer in range(N_LAYERS):
        cache.put(layer, keys[layer, first:last], values[layer, first:last])
    cache.advance(last - first)


@pytest.fixture
def used_memory(monkeypatch):
    """Pages come with what somebody else has left in them, which is none of what a test puts there."""
    take = PagePool.take

    def taken(self):
        page = take(self)
        page.data[:] = 0x55
        return page

    monkeypatch.setattr(PagePool, "take", taken)


def same(one, other):
    """Do two caches hold the same, recent rows too?"""
    pairs = zip((*one.used(), one.recent()), (*other.used(), other.recent()), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_token_sees_its_own_page_in_eight_bits():
    n = 2 * PAGE + 20
    cache, *given = filled(n, "q4_0")
    for part, numbers in zip(cache.get(1, n), given, strict=True):
        wrong = np.abs(part.swapaxes(0, 1) - numbers[1]).max(axis=(1, 2))
        assert wrong[2 * PAGE :].max() < 0.03 < 0.1 < wrong[: 2 * PAGE].min()
    assert cache.recent().shape == (N_LAYERS, 2, N_KV_HEADS, 20, 68)


@pytest.mark.parametrize("n", [5, PAGE, PAGE + 1, 2 * PAGE - 1, 3 * PAGE + 40])
def test_recent_rows_do_not_depend_on_how_tokens_came(n, used_memory):
    cache, *given = filled(n, "q4_0")
    for step in (1, 16, 17, PAGE + 16):
        other = KVCache(N_LAYERS, N_KV_HEADS, 64, n, "q4_0")
        for first in range(0, n, step):
            put(other, *given, first, min(n, first + step))
        assert same(cache, other), step


@pytest.mark.parametrize("n", [1, 50, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE - 3])
def test_guesses_that_were_wrong_leave_recent_rows_as_they_were(n, used_memory):
    """Sixteen tokens come in one pass, or one by one; all are taken back, and others come."""
    keys, values = (random_floats(N_LAYERS, n + 40, N_KV_HEADS, 64, seed=i) for i in range(2))
    plain = KVCache(N_LAYERS, N_KV_HEADS, 64, n + 40, "q4_0")
    put(plain, keys, values, 0, n)
    guessed = plain.fork()
    for _ in range(3):
        put(guessed, -keys, values, n, n + 16)
        guessed.truncate(n)
        for i in range(n, n + 16):
            put(guessed, values, keys, i, i + 1)
        guessed.truncate(n)
        assert same(guessed, plain)
    for cache in (plain, guessed):
        put(cache, keys, values, n, n + 40)
    assert same(guessed, plain)


def test_recent_rows_that_are_gone_come_from_four_bits():
    n, length = 4 * PAGE, PAGE + 30
    cache, *given = filled(n, "q4_0")
    pages = [part[:, :, :length].copy() for part in cache.used()]
    cache.truncate(length)
    shorter = KVCache(N_LAYERS, N_KV_HEADS, 64, n, "q4_0")
    shorter.fill(*pages)
    assert same(cache, shorter)
    for part, numbers in zip(cache.get(1, length), given, strict=True):
        assert 0.05 < np.std(part.swapaxes(0, 1) - numbers[1, :length]) < 0.11
    put(cache, *given, length, n)  # and the next page's are there again
    assert np.array_equal(cache.recent(), filled(n, "q4_0")[0].recent())


def test_a_fork_shares_recent_rows_until_it_writes():
    n = PAGE + 10
    cache, *given = filled(n, "q4_0", capacity=3 * PAGE)
    before, recent = cache.recent(), cache.pool.recent
    fork = cache.fork()
    assert recent.n_used == 1 and same(cache, fork)
    fork.prepare(1)
    assert recent.n_used == 2
    put(fork, *given, 0, 3 * PAGE - n)
    assert np.array_equal(cache.recent(), before)
    del fork
    assert recent.n_used == 1


@pytest.mark.parametrize("n_tokens", [1, 16, 100])
@pytest.mark.parametrize("following", [10, 50])
def test_a_pass_that_is_broken_off_leaves_recent_rows_as_they_were(n_tokens, following, used_memory):
    n = PAGE + 40
    cache, *given = filled(n, "q4_0", capacity=5 * PAGE)
    before = copy.deepcopy(cache)
    with pytest.raises(KeyboardInterrupt), cache.all_or_nothing():
        put(cache, *given, 0, n_tokens)
        cache.prepare(n_tokens)
        cache.put(0, given[1][0, :n_tokens], given[0][0, :n_tokens])
        raise KeyboardInterrupt
    assert same(cache, before) and cache.pool.recent.n_used <= 3
    for one in (cache, before):
        one._of_pass[:] = 0x55
        put(one, *given, 0, following)
    assert same(cache, before)


@pytest.mark.parametrize("recent", [np.zeros((1, 2, 2, 5, 68), np.uint8), np.zeros((2, 2, 3, 5, 68), "i1")])
def test_recent_rows_that_do_not_fit(recent):
    cache = filled(PAGE + 5, "q4_0")[0]
    with pytest.raises(ValueError, match=r"recent: expected uint8 .*, got"):
        cache.fill(*(part.copy() for part in cache.used()), recent=recent)


def test_rows_of_one_pass_see_what_single_tokens_see(path):
    """Guesses are judged as rows of one pass, over the end of a page, and taken back."""
    t = b2t.load(path, cache="q4_0").transformer
    ids = np.random.default_rng(2).integers(3, 320, 2 * PAGE + 20)
    single, several = t.new_cache(len(ids)), t.new_cache(len(ids))
    expected = np.array([t.step(int(i), single).copy() for i in ids])
    first = 0
    for n, kept in ((16, 16), (16, 3), (9, 9), (16, 11), (16, 16), (16, 9), (16, 16), (16, 12), (16, 16)):
        found = t.steps(ids[first : first + n], several)[:kept]
        assert np.array_equal(found, expected[first : first + kept])
        several.truncate(first + kept)
        first += kept
    assert first > PAGE


def test_turning_helps_where_one_number_is_far_larger():
    keys = random_floats(PAGE, N_KV_HEADS, 64)
    keys[..., 5] = 12 + keys[..., 5]  # a channel that is large in all tokens, as models have them
    q = random_floats(PAGE, N_KV_HEADS, 64, seed=1)
    errors = {}
    for n in (0, 64):
        turned_keys, turned_q = keys.copy(), q.copy()
        if n:
            turn(turned_keys.reshape(-1), n), turn(turned_q.reshape(-1), n)
        fmt = b2t.FORMATS["Q4_0"]
        errors[n] = np.std(np.sum((fmt.dequantize(fmt.quantize(turned_keys)) - turned_keys) * turned_q, -1))
    assert errors[64] < errors[0] / 1.3


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_model_whose_heads_do_not_fit_is_refused(kind, tmp_path):
    path = small_model().write(tmp_path / "narrow.gguf")  # heads of 16
    with pytest.raises(b2t.UnsupportedError, match=f"{kind} has blocks of 32"):
        b2t.load(path, cache=kind)


def test_a_token_makes_no_array_within_a_page(path):
    for kind in TYPES:
        transformer = b2t.load(path, cache=kind).transformer
        cache = transformer.new_cache(9)
        transformer.next_logits([3, 4, 5, 6], cache)
        found = bench.allocations(lambda t=transformer, c=cache: t.step(5, c))
        assert (found.count, found.nbytes) == (0, 0)


def test_a_model_goes_on_from_pages_that_another_cache_has_read(path):
    long = small_model(n_heads=4, n_kv_heads=2, dim=128, context_length=256).write(path.parent / "long.gguf")
    transformer = b2t.load(long).transformer
    ids = np.random.default_rng(2).integers(3, 320, 150).tolist()
    cache, other = transformer.new_cache(150), transformer.new_cache(150)
    expected = transformer.next_logits(ids, cache).copy()
    cache.publish(ids)
    assert other.begin_with(ids[:-1]) == 2 * PAGE
    assert np.allclose(transformer.next_logits(ids[2 * PAGE :], other), expected, atol=1e-4)


def test_a_model_whose_pages_are_all_in_use_says_so_and_goes_on_once_one_is_free(path):
    long = small_model(n_heads=4, n_kv_heads=2, dim=128, context_length=256).write(path.parent / "full.gguf")
    transformer = b2t.load(long).transformer
    expected = transformer.step(5, transformer.new_cache(1)).copy()
    gc.collect()
    transformer.pool.limit = 1
    cache, other = transformer.new_cache(200), transformer.new_cache(200)
    full = f"cache: all 1 pages of {PAGE} tokens are in use"
    with pytest.raises(ValueError, match=full):
        transformer.next_logits(list(range(3, 3 + PAGE + 1)), cache)
    assert cache.length == 0
    assert np.array_equal(transformer.step(5, cache), expected)
    for run in (lambda: transformer.step(5, other), lambda: transformer.next_logits([5, 6], other)):
        with pytest.raises(ValueError, match=full):
            run()
        assert other.length == 0
    cache.truncate(0)
    assert np.array_equal(transformer.step(5, other), expected)
