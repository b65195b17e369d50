"""What a layer's small parts cost beside its seven products.

    products    attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down
    norms       two for each layer
    rotation    of q and k
    gate        silu(gate) * up

A shape is anything with a ModelConfig's dim, n_heads, n_kv_heads, head_dim and ffn_dim. Attention itself,
whose cost grows with the text, is left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from blocks2tokens.course import bench
from blocks2tokens.formats import FORMATS
from blocks2tokens.kernels import matmul
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model import rope

DIFFERENT_ROWS = 64  # of a matrix to be timed; repeated, for a time does not depend on the values


@dataclass(frozen=True)
class Shape:
    """The sizes of a layer; names as in ModelConfig."""

    dim: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int


def products(shape) -> list[tuple[int, int]]:
    """Return the shapes [N, K] of a layer's seven matrices, in the order of the module's picture."""
    q_dim, kv_dim = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    attention = [(q_dim, shape.dim), (kv_dim, shape.dim), (kv_dim, shape.dim), (shape.dim, q_dim)]
    return [*attention, (shape.ffn_dim, shape.dim), (shape.ffn_dim, shape.dim), (shape.dim, shape.ffn_dim)]


def measure(
    shape,
    M: int,
    norm: Callable,
    rotate: Callable,
    gated: Callable,
    repeats: int = 7,
    seconds: float = bench.BUDGET,
) -> dict[str, float]:
    """Return the seconds of each part of one layer for M tokens, {part: median}; weights in Q4_K.

    norm(x, weight, eps), rotate(x, cos, sin) and gated(gate, up) are what is to be timed; the products
    are `b2t.matmul`'s.
    """
    rng = np.random.default_rng(0)

    def numbers(*size):
        return rng.standard_normal((M, *size), np.float32)

    weights = [_matrix(N, K, rng) for N, K in products(shape)]
    inputs = {K: numbers(K) for K in {w.shape[1] for w in weights}}
    x, weight, eps = numbers(shape.dim), np.ones(shape.dim, np.float32), np.float32(1e-5)
    heads = numbers(shape.n_heads + shape.n_kv_heads, shape.head_dim)
    cos, sin = rope.angles(np.arange(M), rope.frequencies(shape.head_dim, 10_000.0))
    gate, up = numbers(shape.ffn_dim), numbers(shape.ffn_dim)
    runs = {
        "RMSNorm, twice": lambda: [norm(x, weight, eps) for _ in range(2)],
        "RoPE": lambda: rotate(heads, cos, sin),
        "SwiGLU": lambda: gated(gate, up),
        "seven products": lambda: [matmul(inputs[w.shape[1]], w) for w in weights],
    }
    return {part: timing.median for part, timing in bench.interleaved(runs, repeats, seconds).items()}


def shares(shape, rungs: Mapping[str, tuple[Callable, Callable, Callable]]) -> dict[str, float]:
    """Return {"part, rung": its time for one token in % of that of the seven products}.

    rungs {name: (norm, rotate, gated)}, as `measure` takes them.
    """
    found = {}
    for rung, functions in rungs.items():
        seconds = measure(shape, 1, *functions)
        whole = seconds.pop("seven products")
        found |= {f"{part}, {rung}": 100 * t / whole for part, t in seconds.items()}
    return found


def _matrix(N, K, rng):
    some = FORMATS["Q4_K"].quantize(rng.standard_normal((DIFFERENT_ROWS, K), np.float32))
    return QuantizedMatrix(np.resize(some, (N, some.shape[1])), "Q4_K", (N, K))
