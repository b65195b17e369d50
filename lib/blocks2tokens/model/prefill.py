"""Prefill: a batch of tokens through all layers, each weight used for all of them.

    x float32 [T, dim]     T tokens behind those in the cache

The products are `kernels.matmul`'s, which takes the kernel that suits T rows. What lies between them is
compiled and shared by the cores: norms, rotations and gates by rows, attention by heads.
"""

from collections.abc import Callable

import numpy as np
from numba import njit, prange

from blocks2tokens.jit.cores import takes_turns
from blocks2tokens.kernels import matmul
from blocks2tokens.model.batch_attention import attend_batch
from blocks2tokens.model.compiled_layers import (
    add,
    fill_angles,
    normalize,
    rotate,
    silu_times,
    store_all,
)
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.kv_cache import KVCache
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
def silu_times_rows(gate, up):
    """gate = silu(gate) * up, float32 [T, ffn_dim]."""
    for t in prange(gate.shape[0]):
        silu_times(gate[t], up[t])


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
def store_rows(x, cache, first):
    """Store x, float32 [T, heads, head_dim], in a layer of the cache, [heads, capacity, head_dim]."""
    for t in prange(x.shape[0]):
        for head in range(x.shape[1]):
            store_all(x[t, head], cache[head, first + t])


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
    angles = tuple(np.empty((len(ids), c.head_dim // 2), np.float32) for _ in range(2))
    all_angles(cache.length, weights.rope_frequencies, attention_factor(c.rope_scaling), *angles)
    x = weights.token_embd.rows(ids)
    h, eps = np.empty_like(x), np.float32(c.norm_eps)
    for i, layer in enumerate(weights.layers):
        between_layers()
        normalize_rows(x, layer.attn_norm, eps, h)
        add_rows(x, _attention(layer, c, i, h, angles, cache))
        normalize_rows(x, layer.ffn_norm, eps, h)
        gate = matmul(h, layer.ffn_gate)
        silu_times_rows(gate, matmul(h, layer.ffn_up))
        add_rows(x, matmul(gate, layer.ffn_down))
    cache.advance(len(ids))
    return x


def _attention(layer: Layer, c: ModelConfig, i: int, h, angles, cache: KVCache) -> np.ndarray:
    T, eps, halves = len(h), np.float32(c.norm_eps), c.family.rope_pairs == "halves"
    unturned = np.empty((T, 0), np.float32)

    def heads(name, n, cos, sin):
        x = matmul(h, getattr(layer, name)).reshape(T, n, c.head_dim)
        bias, norm = (getattr(layer, f"{name}_{part}", None) for part in ("bias", "norm"))
        given = (NOTHING if part is None else part for part in (bias, norm))
        finish_heads(x, *given, eps, cos, sin, halves)
        return x

    keys, values = (part[i] for part in cache.for_numba())
    q = heads("attn_q", c.n_heads, *angles)
    store_rows(heads("attn_k", c.n_kv_heads, *angles), keys, cache.length)
    store_rows(heads("attn_v", c.n_kv_heads, unturned, unturned), values, cache.length)
    out = attend_batch(q, keys, values, cache.length)
    return matmul(out.reshape(T, -1), layer.attn_output)
