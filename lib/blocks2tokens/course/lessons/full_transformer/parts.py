"""The parts of lessons 19 and 20, as the rungs of the lesson on the full transformer share them.

    product(x, w)            x @ w.T, for a decoded matrix or a quantized one
    feed_forward(h, w)       gate and up, SwiGLU, down
    attention_of(model)      attention(h, w): heads, rotation, cache, attend, output
    nudged_streams(...)      the stream before each layer, the first norm a little off

h is a normed stream, float32 [T, dim]; w a layer's weights by name. For models of the llama architecture.
"""

from collections.abc import Callable, Sequence

import numpy as np

from blocks2tokens.generate import Model
from blocks2tokens.kernels import matmul
from blocks2tokens.model import KVCache, rope
from blocks2tokens.model.attention import attend
from blocks2tokens.model.layers import rms_norm, swiglu


def product(x, w):
    """Return x @ w.T, float32 [T, out]."""
    return x @ w.T if isinstance(w, np.ndarray) else matmul(x, w)


def feed_forward(h, w):
    """Return what the feed-forward half adds to the stream."""
    gate, up = product(h, w["ffn_gate"]), product(h, w["ffn_up"])
    return product(swiglu(gate, up), w["ffn_down"])


def attention_of(model: Model, cache: KVCache | None = None, layer: int = 0) -> Callable:
    """Return attention(h, w) for a layer of a model; with a cache, behind the tokens in it."""
    frequencies, head_dim = model.transformer.weights.rope_frequencies, model.config.head_dim

    def attention(h, w):
        q, k, v = (product(h, w[n]).reshape(len(h), -1, head_dim) for n in ("attn_q", "attn_k", "attn_v"))
        start = cache.length if cache else 0
        turns = rope.angles(np.arange(start, start + len(h)), frequencies)
        q, k = rope.rotate_adjacent(q, *turns), rope.rotate_adjacent(k, *turns)
        if cache:
            cache.put(layer, k, v)
            k, v = cache.get(layer, start + len(h))
        else:
            k, v = k.swapaxes(0, 1), v.swapaxes(0, 1)
        return product(attend(q, k, v).reshape(len(h), -1), w["attn_output"])

    return attention


def nudged_streams(
    streams: Callable, model: Model, ids: Sequence[int], keep: Callable, nudge: float
) -> np.ndarray:
    """Return streams(model, ids, norm, gated) with the first norm's output times 1 + nudge.

    `keep` rounds what norms and gates return, or does not.
    """
    factors = iter([np.float32(1 + nudge)])  # of the first norm; the others' are 1

    def norm(x, weight, eps):
        return keep(rms_norm(x, weight, eps) * next(factors, np.float32(1)))

    return streams(model, ids, norm, lambda gate, up: keep(swiglu(gate, up)))
