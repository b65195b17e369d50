"""Prefill: a batch of tokens through all layers, each weight used for all of them.

    x float32 [T, dim]     T tokens behind those in the cache

The products are `kernels.matmul`'s, which takes the kernel that suits T rows. What lies between them is
compiled and shared by the cores: norms, rotations and gates by rows, attention by heads. In a mixture each
expert gets the tokens that go through it, in one batch.

All that is computed on the way has its place in memory that is there before, `batch_memory`; a function here
is given the buffers, {name: array}, fills one and returns it.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numba import get_num_threads, njit, prange

from blocks2tokens.jit.cores import takes_turns
from blocks2tokens.kernels import matmul_into
from blocks2tokens.model.batch_attention import attend_rows
from blocks2tokens.model.batch_memory import BatchMemory
from blocks2tokens.model.cache_rows import KEYS, VALUES, fit_query, keep_rows, turn
from blocks2tokens.model.compiled_layers import (
    GATE_KINDS,
    add,
    fill_angles,
    gate_times,
    normalize,
    rotate,
)
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.kv_cache import KVCache
from blocks2tokens.model.layers import top_experts
from blocks2tokens.model.rope import attention_factor
from blocks2tokens.model.weights import Layer, Weights

NOTHING = np.zeros(0, np.float32)
UNROTATED = np.zeros((0, 0), np.float32)

Buffers = Mapping[str, np.ndarray]


@takes_turns
@njit(parallel=True, cache=True)
def normalize_rows(x, weight, eps, out):
    """out = rms_norm(x), float32 [T, dim]."""
    for t in prange(x.shape[0]):
        normalize(x[t], weight, eps, out[t])


@takes_turns
@njit(parallel=True, cache=True)
def add_rows(x, delta):
    """x += delta, float32 [T, dim]."""
    for t in prange(x.shape[0]):
        add(x[t], delta[t])


@takes_turns
@njit(parallel=True, cache=True)
def add_rows_at(x, places, delta):
    """x[places] += delta, float32 [n, dim]; no place comes twice."""
    for i in prange(places.size):
        add(x[places[i]], delta[i])


@takes_turns
@njit(parallel=True, cache=True)
def gate_times_rows(kind, gate, up):
    """gate = gated(gate, up), float32 [T, ffn_dim]."""
    for t in prange(gate.shape[0]):
        gate_times(kind, gate[t], up[t])


@takes_turns
@njit(parallel=True, cache=True)
def finish_heads(x, bias, norm, eps, cos, sin, halves):
    """Add the bias, normalize and rotate each head in place; x float32 [T, heads, head_dim].

    bias float32 [heads * head_dim], norm [head_dim], cos and sin [T, head_dim / 2]; an empty one leaves its
    step out.
    """
    size = x.shape[2]
    for t in prange(x.shape[0]):
        for head in range(x.shape[1]):
            if bias.size:
                add(x[t, head], bias[head * size : (head + 1) * size])
            if norm.size:
                normalize(x[t, head], norm, eps, x[t, head])
            if cos.size:
                rotate(x[t, head], cos[t], sin[t], halves)


@takes_turns
@njit(parallel=True, cache=True)
def fit_queries(x, rows, n_kv_heads):
    """Make queries, float32 [T, n_heads, head_dim], fit the keys as they are stored."""
    group = x.shape[1] // n_kv_heads
    for t in prange(x.shape[0]):
        for head in range(x.shape[1]):
            fit_query(rows, head // group, x[t, head])


@takes_turns
@njit(parallel=True, cache=True)
def turn_heads(x, n):
    """Turn each head of x, float32 [T, heads, head_dim], n numbers at a time."""
    for t in prange(x.shape[0]):
        for head in range(x.shape[1]):
            turn(x[t, head], n)


@njit(cache=True)
def all_angles(first, frequencies, attention_factor, cos, sin):
    """Fill cos and sin, float32 [T, head_dim / 2], for positions `first` and on."""
    for t in range(cos.shape[0]):
        fill_angles(first + t, frequencies, attention_factor, cos[t], sin[t])


def run_batch(
    weights: Weights,
    c: ModelConfig,
    ids: np.ndarray,
    cache: KVCache,
    between_layers: Callable[[], None],
    watch: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
) -> np.ndarray:
    """Run ids, int64 [T], behind the tokens of the cache; return the final stream, float32 [T, dim].

    The next pass with this cache overwrites it. `between_layers` is called before each layer; what it raises
    leaves the cache as it was. `watch` gets each layer's number, queries and keys, float32 [T, heads,
    head_dim], rotated; it must not keep or change them.
    """
    T, eps = len(ids), np.float32(c.norm_eps)
    b = {name: rows_of(buffer, T) for name, buffer in _memory(weights, c, cache).buffers(T).items()}
    everywhere, local = _angles(weights, c, cache.length, b)
    x = weights.token_embd.rows(ids, b["raw"], b["x"])
    if c.embedding_scale != 1:
        x *= np.float32(c.embedding_scale)
    for i, layer in enumerate(weights.layers):
        between_layers()
        normalize_rows(x, layer.attn_norm, eps, b["attn_in"])
        found = _attention(layer, c, i, b, local if c.window_of(i) else everywhere, cache, watch)
        _add(x, found, layer.post_attention_norm, eps)
        normalize_rows(x, layer.ffn_norm, eps, b["ffn_in"])
        made = _mixture(layer, c, b) if c.n_experts else _feed_forward(layer, c, b, "ffn_in", "ffn_out")
        _add(x, made, layer.post_ffw_norm, eps)
    cache.advance(T)
    return x


def _memory(weights, c, cache) -> BatchMemory:
    if cache.batch_memory is None or cache.batch_memory.weights is not weights:
        cache.batch_memory = BatchMemory(weights, c)
    return cache.batch_memory


def rows_of(buffer: np.ndarray, T: int) -> np.ndarray:
    """Return the first T rows of a buffer [rows, n]; scratch, [n], and angles, [2, rows, n], stay whole."""
    return buffer[:T] if buffer.ndim == 2 else buffer


def _angles(weights, c: ModelConfig, first: int, b: Buffers):
    """Fill cos and sin, and return those for layers that see all, and for those with a window."""
    T, found = len(b["x"]), []
    for i, frequencies in enumerate((weights.rope_frequencies, weights.local_rope_frequencies)):
        found.append((b["cos"][i, :T], b["sin"][i, :T]))
        all_angles(first, frequencies, attention_factor(c.rope_scaling), *found[i])
    return found


def _add(x, made, norm, eps) -> None:
    """x += made, normalized first where the family does that; float32 [T, dim]."""
    if norm is not None:
        normalize_rows(made, norm, eps, made)
    add_rows(x, made)


def _attention(layer: Layer, c: ModelConfig, i: int, b: Buffers, angles, cache: KVCache, watch) -> np.ndarray:
    T, eps, halves = len(b["x"]), np.float32(c.norm_eps), c.family.rope_pairs == "halves"
    rows = cache.pass_rows(i, T)

    def heads(name, buffer, cos, sin):
        matmul_into(b["attn_in"], getattr(layer, name), b[buffer], b[f"{name}'s"])
        x = b[buffer].reshape(T, -1, c.head_dim)
        bias, norm = (getattr(layer, f"{name}_{part}", None) for part in ("bias", "norm"))
        given = (NOTHING if part is None else part for part in (bias, norm))
        finish_heads(x, *given, eps, cos, sin, halves)
        return x

    q, k = heads("attn_q", "q", *angles), heads("attn_k", "k", *angles)
    if watch:
        watch(i, q, k)
    if rows.turned:
        fit_queries(q, rows, c.n_kv_heads)
    keep_rows(k, rows, KEYS, cache.length)
    keep_rows(heads("attn_v", "v", UNROTATED, UNROTATED), rows, VALUES, cache.length)
    rule = c.window_of(i), c.score_scale, c.attn_softcap, layer.attn_sinks
    rooms, out = b["rooms"].reshape(get_num_threads(), -1), b["attended"].reshape(q.shape)
    rooms[:] = 0  # what pads a head stays so
    attend_rows(q, rows, c.n_kv_heads, cache.length, rooms, *rule, out)
    cache.keep_recent(i, rows, T)
    if rows.turned:
        turn_heads(out, rows.turned)
    return _product(layer, "attn_output", b["attended"], b["attn_out"], b)


def _feed_forward(layer: Layer, c: ModelConfig, b: Buffers, given: str, made: str) -> np.ndarray:
    """Fill buffer `made` with what the feed-forward part makes of buffer `given`, both float32 [T, dim]."""
    gate = _product(layer, "ffn_gate", b[given], b["gate"], b)
    up = _product(layer, "ffn_up", b[given], b["up"], b)
    gate_times_rows(GATE_KINDS.index(c.family.gate), gate, up)
    return _product(layer, "ffn_down", gate, b[made], b)


def _mixture(layer: Layer, c: ModelConfig, b: Buffers) -> np.ndarray:
    """Return the sum of what each token's experts make of it, by their shares; float32 [T, dim]."""
    h, out = b["ffn_in"], b["ffn_out"]
    chosen, shares = top_experts(_product(layer, "ffn_gate_inp", h, b["scores"], b), c.n_used)
    out[:] = 0
    for expert in np.unique(chosen):
        t, place = np.nonzero(chosen == expert)
        some = {name: rows_of(buffer, len(t)) for name, buffer in b.items()}
        np.take(h, t, axis=0, out=some["expert_in"], mode="clip")  # any other mode makes a copy first
        made = _feed_forward(layer.expert(expert), c, some, "expert_in", "expert_out")
        made *= shares[t, place, None]
        add_rows_at(out, t, made)
    return out


def _product(layer: Layer, name: str, x, out, b: Buffers) -> np.ndarray:
    """Fill out, float32 [T, rows], with x @ w.T + bias for a matrix of the layer, and return it."""
    matmul_into(x, getattr(layer, name), out, b[f"{name}'s"])
    bias = getattr(layer, f"{name}_bias")
    if bias is not None:
        out += bias
    return out
