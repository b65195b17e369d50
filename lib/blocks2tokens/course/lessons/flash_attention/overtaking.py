"""At which length of a prompt attention takes as long as a layer's matrices, on this machine.

    SmolLM2   all matrices of a layer, Q4_1            attention of all 9 heads, the engine's and NumPy's
    7B        a part of one matrix, Q4_0, scaled up    attention of one head of 32, scaled up

    seconds of BATCH tokens:  matrices  the same at every depth
                              attention grows with the tokens before them

A prompt of n tokens is taken in batches; its middle one stands behind n / 2. So attention overtakes the
matrices in a prompt twice as long as the depth at which a batch takes equally long.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numba import get_num_threads, njit

from blocks2tokens.course import bench, synthetic
from blocks2tokens.generate import Model
from blocks2tokens.kernels import matmul
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model import split_attention
from blocks2tokens.model.attention import attend
from blocks2tokens.model.batch_attention import attend_batch, new_rooms
from blocks2tokens.model.cache_rows import rows_of
from blocks2tokens.model.compiled_layers import INFINITE
from blocks2tokens.model.split_attention import attend_part, join_parts

BATCH = 128  # tokens
NOT_CAPPED = np.float32(0)
PART = 512  # rows of a 7B's matrix
MATRICES, TILES = "matrices", "in tiles"  # ways


def in_tiles(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Attend as the engine does for a prompt; q float32 [T, n_heads, d], k and v [n_kv_heads, S, d]."""
    T, n_heads, head_dim = q.shape
    n_kv_heads, S, _ = k.shape
    return attend_batch(q, k, v, S - T, new_rooms(n_heads, n_kv_heads, head_dim, get_num_threads()))


def in_parts(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Attend as the engine does for one token, on one core; q float32 [1, n_heads, d], k and v as above."""
    _, n_heads, head_dim = q.shape
    room = split_attention.new_rooms(n_heads, len(k), head_dim, 1)[0]
    parts, out = split_attention.new_parts(1, n_heads, head_dim)[0], np.empty(n_heads * head_dim, np.float32)
    _every_part(q[0], rows_of(k, v), *k.shape[:2], np.float32(head_dim**-0.5), room, parts, out)
    return out.reshape(q.shape)


@njit(cache=True)
def _every_part(q, rows, n_kv_heads, S, scale, room, parts, out):
    group = len(q) // n_kv_heads
    step, n_parts = split_attention.keys_of_a_part(S), split_attention.parts_of(S)
    for p in range(n_parts):
        first, last = p * step, min(S, (p + 1) * step)
        for kv in range(n_kv_heads):
            own = slice(kv * group, (kv + 1) * group)
            attend_part(q[own], rows, kv, S - 1, first, last, scale, NOT_CAPPED, room, parts[p, own])
    join_parts(parts, n_parts, np.full(len(q), -INFINITE), out)


def random_heads(n_heads: int, n_kv_heads: int, head_dim: int, T: int, S: int) -> tuple[np.ndarray, ...]:
    """Return q, k and v from a seed, float32, shaped as `in_tiles` takes them."""
    rng = np.random.default_rng(23)
    shapes = (T, n_heads, head_dim), (n_kv_heads, S, head_dim), (n_kv_heads, S, head_dim)
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


def smollm2(model: Model, depths, repeats: int = 5) -> dict[str, dict[int, float]]:
    """Return {way: {depth: seconds of BATCH tokens in a layer}}; matrices: the same at every depth."""
    c = model.config
    ways = {TILES: in_tiles, "whole scores": attend}
    matrices = [w for w in vars(model.transformer.layers[0]).values() if isinstance(w, QuantizedMatrix)]
    return measure(partial(products, matrices), ways, (c.n_heads, c.n_kv_heads, c.head_dim), depths, repeats)


def of_7b(depths, repeats: int = 5) -> dict[str, dict[int, float]]:
    """Return the same for a layer of the 7B, from one head and a part of one matrix."""
    shape = synthetic.SHAPES["7B"]
    rng = np.random.default_rng(7)
    part = QuantizedMatrix.quantize(rng.standard_normal((PART, shape.dim), np.float32), "Q4_0")
    head = measure(partial(products, [part]), {TILES: in_tiles}, (1, 1, shape.head_dim), depths, repeats)
    times = {MATRICES: layer_weights(shape) / part.shape[0] / part.shape[1], TILES: shape.n_heads}
    return {way: {d: times[way] * s for d, s in found.items()} for way, found in head.items()}


def layer_weights(c) -> int:
    """Return the weights of a layer's matrices; c has dim, n_heads, n_kv_heads, head_dim, ffn_dim."""
    return c.dim * (2 * c.n_heads * c.head_dim + 2 * c.n_kv_heads * c.head_dim + 3 * c.ffn_dim)


def products(matrices) -> None:
    """Multiply BATCH rows by each matrix."""
    for w in matrices:
        matmul(np.ones((BATCH, w.shape[1]), np.float32), w)


def measure(multiply: Callable, ways: Mapping[str, Callable], heads, depths, repeats):
    """Time the matrices and each way to attend at each depth, in turn."""
    data = {depth: random_heads(*heads, BATCH, depth + BATCH) for depth in depths}
    runs = {(way, depth): partial(f, *data[depth]) for way, f in ways.items() for depth in depths}
    times = bench.interleaved({MATRICES: multiply} | runs, repeats)
    found = {way: {d: times[way, d].median for d in depths} for way in ways}
    return {MATRICES: {d: times[MATRICES].median for d in depths}} | found


def equal_at(found: Mapping[str, Mapping[int, float]]) -> float:
    """Return the tokens of a prompt at which attention in tiles takes as long as the matrices.

    Attention takes as long as it has pairs: BATCH queries behind `depth` tokens meet depth + BATCH / 2 keys
    on average. The median of the times for such a key, over all depths, is what a longer text is judged by.
    """
    of_a_key = np.median([s / (depth + BATCH / 2) for depth, s in found[TILES].items()])
    matrices = np.median(list(found[MATRICES].values()))
    return float(2 * max(0.0, matrices / of_a_key - BATCH / 2))
