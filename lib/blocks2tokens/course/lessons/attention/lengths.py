"""Attention over a growing cache, timed beside a layer's seven products, on one core.

    measure(model, {"NumPy": attend}, [128, 256])     {128: {"NumPy": Timing, "matrices": Timing}, 256: ...}

Each call meets other numbers: keys and values lie in a pool larger than most caches, and the products are
those of the next layer each time, as in a model that writes.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import count, cycle

import numpy as np
from numba import njit

from blocks2tokens.course import bench
from blocks2tokens.generate import Model
from blocks2tokens.kernels import matmul
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model.compiled_layers import attend_head

POOL = 1 << 24  # float32, 64 MiB


def measure(
    model: Model, ways: Mapping[str, Callable], lengths: Iterable[int], repeats: int
) -> dict[int, dict[str, bench.Timing]]:
    """Time each way to attend, way(q, k, v) -> [1, n_heads, head_dim], at each number of tokens.

    q float32 [1, n_heads, head_dim], k and v [n_kv_heads, tokens, head_dim].
    """
    c, rng = model.config, np.random.default_rng(0)
    pool, turn = rng.standard_normal(POOL, np.float32), count()
    q = rng.standard_normal((1, c.n_heads, c.head_dim), np.float32)
    products = _products(model, rng)

    def cache(n):
        size = 2 * c.n_kv_heads * n * c.head_dim
        start = next(turn) * size % (POOL - size)
        return pool[start : start + size].reshape(2, c.n_kv_heads, n, c.head_dim)

    def at(n, seconds):
        runs = {name: lambda way=way: way(q, *cache(n)) for name, way in ways.items()}
        return bench.interleaved(runs | {"matrices": products}, repeats, seconds)

    return bench.sweep(lengths, at)


def _products(model, rng):
    """Return a function that makes the products of one layer with one row, of the next at each call."""
    layers = cycle(model.transformer.layers)
    rows = {K: rng.standard_normal((1, K), np.float32) for K in (model.config.dim, model.config.ffn_dim)}

    def run():
        for w in vars(next(layers)).values():
            if isinstance(w, QuantizedMatrix):
                matmul(rows[w.shape[1]], w)

    return run


def attend_by_heads(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Attend as the engine does for one token: its compiled loop, head by head; shapes as in `measure`."""
    out, scores = np.empty_like(q), np.empty(k.shape[1], np.float32)
    _every_head(q[0], k, v, np.float32(q.shape[2] ** -0.5), scores, out[0])
    return out


@njit(cache=True)  # from Python, each call that leaves out softcap and sink would cost 0.1 ms
def _every_head(q, k, v, scale, scores, out):
    for h in range(len(q)):
        kv = h // (len(q) // len(k))
        attend_head(q[h], k[kv], v[kv], scale, scores, out[h])
