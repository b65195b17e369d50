"""Prefill: a batch of tokens through all layers, each weight used for all of them.

    x float32 [T, dim]     T tokens behind those in the cache

The products are `kernels.matmul`'s, which takes the kernel that suits T rows. What lies between them is
compiled and shared by the cores: norms, rotations and gates by rows, attention by heads. In a mixture each
expert gets the tokens that go through it, in one batch.
"""

from collections.abc import Callable

import numpy as np
from numba import get_num_threads, njit, prange

from blocks2tokens.jit.cores import takes_turns
from blocks2tokens.kernels import matmul
from blocks2tokens.model.batch_attention import attend_rows, new_rooms
from blocks2tokens.model.cache_rows import KEYS, VALUES, row_address, store_row, turn
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
def gate_times_rows(kind, gate, up):
    """gate = gated(gate, up), float32 [T, ffn_dim]."""
    for t in prange(gate.shape[0]):
        gate_times(kind, gate[t], up[t])


@takes_turns
@njit(parallel=True, cache=True)
def finish_heads(x, bias, norm, eps, cos, sin, halves, turned):
    """Add the bias, normalize and rotate each head in place, and turn it; x float32 [T, heads, head_dim].

    bias float32 [heads * head_dim], norm [head_dim], cos and sin [T, head_dim / 2]; an empty one leaves its
    step out. turned: numbers that are turned together, as the cache wants its rows; 0: none.
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
            if turned:
                turn(x[t, head], turned)


@takes_turns
@njit(parallel=True, cache=True)
def store_rows(x, rows, part, first):
    """Store x, float32 [T, heads, head_dim], as the keys or the values of tokens `first` and on."""
    for t in prange(x.shape[0]):
        for head in range(x.shape[1]):
            store_row(rows.kind, x[t, head], row_address(rows, part, head, first + t))


@njit(cache=True)
def all_angles(first, frequencies, attention_factor, cos, sin):
    """Fill cos and sin, float32 [T, head_dim / 2], for positions `first` and on."""
    for t in range(cos.shape[0]):
        fill_angles(first + t, frequencies, attention_factor, cos[t], sin[t])


def run_batch(
    weights: Weights, c: ModelConfig, ids: np.ndarray, cache: KVCache, between_layers: Callable[[], None]
) -> np.ndarray:
    """Run ids, int64 [T], behind the tokens of the cache; return the final stream, float32 [T, dim].

    `between_layers` is called before each layer; what it raises leaves the cache as it was.
    """
    everywhere = _angles(weights.rope_frequencies, c, cache.length, len(ids))
    local = _angles(weights.local_rope_frequencies, c, cache.length, len(ids))
    x = weights.token_embd.rows(ids)
    if c.embedding_scale != 1:
        x *= np.float32(c.embedding_scale)
    h, eps = np.empty_like(x), np.float32(c.norm_eps)
    rooms = new_rooms(c.n_heads, c.n_kv_heads, c.head_dim, get_num_threads())
    for i, layer in enumerate(weights.layers):
        between_layers()
        normalize_rows(x, layer.attn_norm, eps, h)
        found = _attention(layer, c, i, h, local if c.window_of(i) else everywhere, cache, rooms)
        _add(x, found, layer.post_attention_norm, eps)
        normalize_rows(x, layer.ffn_norm, eps, h)
        made = _mixture(layer, c, h) if c.n_experts else _feed_forward(layer, c, h)
        _add(x, made, layer.post_ffw_norm, eps)
    cache.advance(len(ids))
    return x


def _angles(frequencies, c: ModelConfig, first: int, T: int) -> tuple[np.ndarray, np.ndarray]:
    angles = tuple(np.empty((T, len(frequencies)), np.float32) for _ in range(2))
    all_angles(first, frequencies, attention_factor(c.rope_scaling), *angles)
    return angles


def _add(x, made, norm, eps) -> None:
    """x += made, normalized first where the family does that; float32 [T, dim]."""
    if norm is not None:
        normalize_rows(made, norm, eps, made)
    add_rows(x, made)


def _attention(layer: Layer, c: ModelConfig, i: int, h, angles, cache: KVCache, rooms) -> np.ndarray:
    T, eps, halves = len(h), np.float32(c.norm_eps), c.family.rope_pairs == "halves"
    unrotated = np.empty((T, 0), np.float32)

    rows, n_kv_heads = cache.rows(i), c.n_kv_heads

    def heads(name, n, cos, sin):
        x = matmul(h, getattr(layer, name)).reshape(T, n, c.head_dim)
        bias, norm = (getattr(layer, f"{name}_{part}", None) for part in ("bias", "norm"))
        given = (NOTHING if part is None else part for part in (bias, norm))
        finish_heads(x, *given, eps, cos, sin, halves, rows.turned)
        return x

    q = heads("attn_q", c.n_heads, *angles)
    store_rows(heads("attn_k", n_kv_heads, *angles), rows, KEYS, cache.length)
    store_rows(heads("attn_v", n_kv_heads, unrotated, unrotated), rows, VALUES, cache.length)
    rule = c.window_of(i), c.score_scale, c.attn_softcap, layer.attn_sinks
    out = attend_rows(q, rows, n_kv_heads, cache.length, rooms, *rule)
    if rows.turned:
        finish_heads(out, NOTHING, NOTHING, eps, unrotated, unrotated, halves, rows.turned)
    return _product(out.reshape(T, -1), layer.attn_output, layer.attn_output_bias)


def _feed_forward(layer: Layer, c: ModelConfig, h) -> np.ndarray:
    """Return what the feed-forward part makes of h, float32 [T, dim]."""
    gate = _product(h, layer.ffn_gate, layer.ffn_gate_bias)
    gate_times_rows(GATE_KINDS.index(c.family.gate), gate, _product(h, layer.ffn_up, layer.ffn_up_bias))
    return _product(gate, layer.ffn_down, layer.ffn_down_bias)


def _mixture(layer: Layer, c: ModelConfig, h) -> np.ndarray:
    """Return the sum of what each token's experts make of it, by their shares; h float32 [T, dim]."""
    chosen, shares = top_experts(_product(h, layer.ffn_gate_inp, layer.ffn_gate_inp_bias), c.n_used)
    out = np.zeros_like(h)
    for expert in np.unique(chosen):
        t, place = np.nonzero(chosen == expert)
        out[t] += shares[t, place, None] * _feed_forward(layer.expert(expert), c, h[t])
    return out


def _product(x, w, bias) -> np.ndarray:
    """Return x @ w.T + bias, float32 [T, rows]."""
    out = matmul(x, w)
    if bias is not None:
        out += bias
    return out
