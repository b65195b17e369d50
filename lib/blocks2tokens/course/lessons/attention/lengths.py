"""Attention over a growing cache, timed beside a layer's seven products, on one core.

    measure(model, {"NumPy": attend}, [128, 256])     {128: {"NumPy": Timing, "matrices": Timing}, 256: ...}

Each call meets other numbers: keys and values lie in a pool larger than most caches, and the products are
those of the next layer each time, as in a model that writes.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import count, cycle

import numpy as np

from blocks2tokens.course import bench
from blocks2tokens.course.lessons.flash_attention.overtaking import in_parts as in_parts  # as the engine does
from blocks2tokens.generate import Model
from blocks2tokens.kernels import matmul
from blocks2tokens.matrix import QuantizedMatrix

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
