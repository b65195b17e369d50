"""Key frames: what the keys of each head have in common, found in one short pass, once for a model.

    frames   float32 [n_layers, n_kv_heads, FRAME, head_dim]      what they are for: see `cache_rows`

        MEAN    of the keys behind the first SINKS tokens. Slow pairs of RoPE hardly rotate within a text, so
                half of a key, and more, is the same for all tokens.
        FIRST   the key of the first token: many heads rest there, and it is far from the others.
        SCALE   of channel i   (mean of q_i^2 / mean of k_i^2) ^ 1/4,  k without MEAN; of geometric mean 1
        BACK    (FIRST - MEAN) * SCALE, turned

Turning spreads the error of a key evenly over the scaled channels: an error of score q . k is then
proportional to the root of  sum (k_i s_i)^2 * sum (q_i / s_i)^2.  That SCALE makes it smallest.

The pass reads IDS tokens spread over the vocabulary, which need not make sense: nothing is chosen by them but
the point and the unit from which keys are measured. Any frame gives right scores; a good one small errors.

Sources: Zhang et al., "SageAttention", 2024; Xiao et al., "SmoothQuant", 2023; Xiao et al., "Attention
Sinks", 2023.
"""

from collections.abc import Callable

import numpy as np

from blocks2tokens.model.cache_rows import BACK, FIRST, FRAME, MEAN, SCALE, turn, turned
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.kv_cache import KVCache
from blocks2tokens.model.prefill import run_batch
from blocks2tokens.model.weights import Weights

IDS = 256
SINKS = 4  # first tokens, whose keys are like no others
SPREAD = 19349663  # a prime: multiples of it, modulo the vocabulary's size, are all over it
LEAST = 1e-6  # of a channel's mean square, in parts of the largest: one that is 0 needs a scale, too


def measured(weights: Weights, c: ModelConfig, between_layers: Callable[[], None]) -> np.ndarray:
    """Return a model's frames; it runs over IDS tokens, or as many as its context has."""
    n = min(IDS, c.context_length)
    ids = SPREAD * np.arange(n, dtype=np.int64) % c.vocab_size
    frames = np.empty((c.n_layers, c.n_kv_heads, FRAME, c.head_dim), np.float32)

    def watch(layer, q, k):
        frames[layer] = framed(q, k)

    cache = KVCache(c.n_layers, c.n_kv_heads, c.head_dim, n, "float16")
    cache.prepare(n)
    run_batch(weights, c, ids, cache, between_layers, watch)
    return frames


def framed(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return the frames of a layer, float32 [n_kv_heads, FRAME, head_dim].

    q float32 [T, n_heads, head_dim] and k [T, n_kv_heads, head_dim] are those of a text's first tokens.
    """
    T, n_kv_heads, head_dim = k.shape
    out = np.empty((n_kv_heads, FRAME, head_dim), np.float32)
    out[:, FIRST], rest = k[0], k[min(SINKS, T - 1) :]
    out[:, MEAN] = rest.mean(axis=0)
    asked = np.square(q.reshape(T, n_kv_heads, -1, head_dim)).mean(axis=(0, 2))
    spread = np.square(rest - out[:, MEAN]).mean(axis=0)
    scale = np.power(above_zero(asked) / above_zero(spread), 0.25)
    out[:, SCALE] = scale / np.exp(np.log(scale).mean(axis=-1, keepdims=True))
    out[:, BACK] = (out[:, FIRST] - out[:, MEAN]) * out[:, SCALE]
    for head in range(n_kv_heads):
        turn(out[head, BACK], turned("q4_0", head_dim))
    return out


def above_zero(squares: np.ndarray) -> np.ndarray:
    """Return mean squares, [heads, head_dim], none of them below a small part of its head's largest."""
    most = squares.max(axis=-1, keepdims=True)
    return np.maximum(squares, np.where(most > 0, LEAST * most, 1))
