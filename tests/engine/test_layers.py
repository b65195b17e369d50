"""The parts of a layer, each against its definition in plain float64 loops; and the cache."""

import math

import numpy as np
import pytest

from blocks2tokens.model import KVCache, rope
from blocks2tokens.model.attention import attend
from blocks2tokens.model.layers import rms_norm, softmax, swiglu

CLOSE = {"rtol": 2e-5, "atol": 2e-6}  # float32 against float64, some hundred roundings


def random_floats(*shape, seed=0, size=1.0):
    return (size * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


# --- Normalization, gate, softmax -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_rms_norm_is_its_definition(size):
    x, weight, eps = random_floats(3, 70, size=size), random_floats(70, seed=1), 1e-5
    out = rms_norm(x, weight, eps)
    assert out.dtype == np.float32 and out.shape == x.shape
    for t in range(3):
        mean_square = sum(float(value) ** 2 for value in x[t]) / 70
        for i in range(70):
            expected = float(x[t, i]) / math.sqrt(mean_square + eps) * float(weight[i])
            assert math.isclose(out[t, i], expected, rel_tol=1e-5, abs_tol=1e-7)


def test_rms_norm_of_zeros_is_zero():
    zeros, ones = np.zeros((1, 8), np.float32), np.ones(8, np.float32)
    assert np.array_equal(rms_norm(zeros, ones, 1e-5), zeros)


def test_swiglu_is_its_definition():
    gate, up = random_floats(4, 33, size=3), random_floats(4, 33, seed=1)
    out = swiglu(gate, up)
    assert out.dtype == np.float32
    for t in range(4):
        for i in range(33):
            z = float(gate[t, i])
            expected = z / (1 + math.exp(-z)) * float(up[t, i])
            assert math.isclose(out[t, i], expected, rel_tol=1e-5, abs_tol=1e-7)


@pytest.mark.filterwarnings("error")
def test_swiglu_of_extremes_is_finite_and_silent():
    gate = np.array([[-1e30, -200, -90, 0, 90, 200, 1e30]], np.float32)
    assert np.allclose(swiglu(gate, np.ones_like(gate)), [[0, 0, 0, 0, 90, 200, 1e30]], rtol=1e-6, atol=1e-30)


@pytest.mark.filterwarnings("error")
def test_softmax_is_its_definition():
    x = random_floats(2, 3, 9, size=4)
    x[0, 1, 4:] = -np.inf
    x[1, 2] += 1000  # exp would overflow
    out = softmax(x)
    assert out.dtype == np.float32
    for row, weights in zip(x.reshape(-1, 9).tolist(), out.reshape(-1, 9).tolist(), strict=True):
        exp = [math.exp(value - max(row)) for value in row]
        assert np.allclose(weights, [value / sum(exp) for value in exp], **CLOSE)
    assert np.all(out[0, 1, 4:] == 0) and np.allclose(out.sum(axis=-1), 1)


# --- Rotary positions -------------------------------------------------------------------------------------


ROTATE = {"adjacent": rope.rotate_adjacent, "halves": rope.rotate_halves}


def pair(name, i, head_dim):
    """Return which two numbers of a head make pair i."""
    return (2 * i, 2 * i + 1) if name == "adjacent" else (i, i + head_dim // 2)


def rotated(x, first, name, theta=10_000.0):
    head_dim = x.shape[-1]
    positions = np.arange(first, first + len(x))
    return ROTATE[name](x, *rope.angles(positions, rope.frequencies(head_dim, theta)))


@pytest.mark.parametrize("name", ROTATE)
@pytest.mark.parametrize(
    ("head_dim", "theta", "first"), [(2, 10_000.0, 0), (6, 500_000.0, 3), (64, 10_000.0, 900)]
)
def test_rope_rotates_each_pair(name, head_dim, theta, first):
    x = random_floats(5, 3, head_dim)
    before = x.copy()
    out = rotated(x, first, name, theta)
    assert out.dtype == np.float32 and np.array_equal(x, before)
    for t in range(5):
        for head in range(3):
            for i in range(head_dim // 2):
                angle = (first + t) * theta ** (-2 * i / head_dim)
                places = list(pair(name, i, head_dim))
                a, b = (float(value) for value in x[t, head, places])
                expected = [
                    a * math.cos(angle) - b * math.sin(angle),
                    a * math.sin(angle) + b * math.cos(angle),
                ]
                assert np.allclose(out[t, head, places], expected, **CLOSE)


@pytest.mark.parametrize("name", ROTATE)
def test_rope_leaves_position_zero_and_every_length_as_they_are(name):
    x = random_floats(4, 2, 8)
    out = rotated(x, 0, name)
    assert np.array_equal(out[0], x[0])
    assert np.allclose((out**2).sum(axis=-1), (x**2).sum(axis=-1), **CLOSE)


@pytest.mark.parametrize("name", ROTATE)
def test_rotated_products_depend_on_distance_alone(name):
    q, k = random_floats(1, 1, 16), random_floats(1, 1, 16, seed=2)

    def product(q_position, k_position):
        return (rotated(q, q_position, name) * rotated(k, k_position, name)).sum()

    assert math.isclose(product(7, 3), product(104, 100), rel_tol=1e-4)
    assert not math.isclose(product(7, 3), product(7, 4), rel_tol=1e-2)


def test_a_linear_factor_slows_every_pair():
    scaling = rope.RopeScaling("linear", 4.0)
    assert np.allclose(rope.scaled_frequencies(16, 1e4, scaling), rope.frequencies(16, 1e4) / 4)
    assert rope.attention_factor(scaling) == 1


def test_yarn_slows_slow_pairs_and_keeps_fast_ones():
    scaling = rope.RopeScaling("yarn", 4.0, original_context=2048)
    original = rope.frequencies(64, 1e4)
    kept = rope.scaled_frequencies(64, 1e4, scaling) / original
    turns = original * 2048 / (2 * np.pi)
    assert np.allclose(kept[turns > 40], 1) and np.allclose(kept[turns < 0.8], 1 / 4)
    assert np.all(np.diff(kept) <= 1e-12) and np.any((kept > 0.3) & (kept < 0.9))
    assert rope.attention_factor(scaling) == pytest.approx(1 + 0.1 * math.log(4))


# --- Attention --------------------------------------------------------------------------------------------


def attend_by_definition(q, k, v):
    """q [T][n_heads][head_dim], k and v [n_kv_heads][S][head_dim], float64, one number at a time."""
    T, n_heads, head_dim = q.shape
    n_kv_heads, S, _ = k.shape
    out = np.zeros(q.shape)
    for t in range(T):
        for head in range(n_heads):
            shared = head // (n_heads // n_kv_heads)
            seen = range(S - T + t + 1)  # query t is token S - T + t
            dots = [sum(float(q[t, head, i]) * float(k[shared, s, i]) for i in range(head_dim)) for s in seen]
            weights = [math.exp((dot - max(dots)) / math.sqrt(head_dim)) for dot in dots]
            for s in seen:
                out[t, head] += weights[s] / sum(weights) * v[shared, s].astype(np.float64)
    return out


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(1, 1), (4, 4), (4, 2), (6, 2), (4, 1), (9, 3)])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 7), (5, 5), (3, 8), (2, 2)])
def test_attention_is_its_definition(n_heads, n_kv_heads, T, S):
    q = random_floats(T, n_heads, 6)
    k, v = random_floats(n_kv_heads, S, 6, seed=1, size=2), random_floats(n_kv_heads, S, 6, seed=2)
    out = attend(q, k, v)
    assert out.dtype == np.float32 and out.shape == (T, n_heads, 6)
    assert np.allclose(out, attend_by_definition(q, k, v), **CLOSE)


def test_a_token_sees_nothing_of_its_future():
    q, k, v = random_floats(4, 4, 8), random_floats(2, 6, 8, seed=1), random_floats(2, 6, 8, seed=2)
    before = attend(q, k, v)
    k[:, 4:], v[:, 4:] = 10, 1e3  # tokens 4 and 5 are queries 2 and 3
    after = attend(q, k, v)
    assert np.array_equal(after[:2], before[:2])
    assert not np.isclose(after[2:], before[2:]).any()


def test_attention_takes_what_a_cache_gives():
    cache = KVCache(n_layers=2, n_kv_heads=2, head_dim=8, capacity=9)
    k, v, q = random_floats(5, 2, 8), random_floats(5, 2, 8, seed=1), random_floats(3, 4, 8, seed=2)
    cache.put(1, k, v)
    expected = attend_by_definition(q, k.transpose(1, 0, 2), v.transpose(1, 0, 2))
    assert np.allclose(attend(q, *cache.get(1, 5)), expected, **CLOSE)


# --- The cache --------------------------------------------------------------------------------------------


def test_cache_keeps_what_was_put_in_the_order_of_tokens():
    cache = KVCache(n_layers=3, n_kv_heads=2, head_dim=4, capacity=6)
    k, v = random_floats(3, 5, 2, 4), random_floats(3, 5, 2, 4, seed=1)
    for start, end in [(0, 2), (2, 3), (3, 5)]:
        for layer in range(3):
            cache.put(layer, k[layer, start:end], v[layer, start:end])
        cache.advance(end - start)
        assert cache.length == end
    for layer in range(3):
        keys, values = cache.get(layer, 5)
        assert np.array_equal(keys, k[layer].transpose(1, 0, 2))
        assert np.array_equal(values, v[layer].transpose(1, 0, 2))
        assert keys.dtype == values.dtype == np.float32


def test_what_is_not_counted_yet_is_overwritten():
    cache = KVCache(n_layers=1, n_kv_heads=1, head_dim=2, capacity=3)
    for value in (1, 2):  # a pass that broke off, and the same pass again
        cache.put(0, np.full((2, 1, 2), value, np.float32), np.full((2, 1, 2), value, np.float32))
    cache.advance(2)
    assert cache.length == 2 and np.all(cache.get(0, 2)[0] == 2)


@pytest.mark.parametrize(("used", "more"), [(4, 1), (0, 5), (3, 2)])
def test_a_full_cache_takes_no_more(used, more):
    cache = KVCache(n_layers=1, n_kv_heads=2, head_dim=4, capacity=4)
    cache.prepare(used)
    cache.advance(used)
    tokens = np.zeros((more, 2, 4), np.float32)
    with pytest.raises(ValueError, match=f"{more} more tokens do not fit, {used} of 4 used"):
        cache.put(0, tokens, tokens)
