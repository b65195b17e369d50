"""The forward pass in plain NumPy: every weight decoded to float32, no cache, no kernel.

    model, ids [T]  ->  logits [T, vocab]

The engine's twin, to read, to look into, and to test the engine against. Norm, rotation, gate and attention
are arguments: so a lesson runs a real model with the learner's own, with a wrong one, or with one that
writes down what it sees.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from blocks2tokens.jit.cores import one_blas_thread
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model import attention, rope
from blocks2tokens.model.layers import rms_norm, swiglu


def forward(
    model,
    ids: Sequence[int],
    norm: Callable = rms_norm,
    rotate: Callable | None = None,
    gated: Callable = swiglu,
    attend: Callable = attention.attend,
) -> np.ndarray:
    """Return the logits after each of ids, float32 [T, vocab], of what `b2t.load` returns.

    norm(x, weight, eps), rotate(x, cos, sin), gated(gate, up) and attend(q, k, v) take and return what the
    engine's do; without `rotate`, the pairs are those of the model's architecture. More ids than the model's
    context are allowed. Raises ValueError for an id outside the vocabulary.
    """
    c, t = model.config, model.transformer
    ids, eps = t.check_ids(ids), c.norm_eps
    cos, sin = rope.angles(np.arange(len(ids)), t.weights.rope_frequencies)  # [T, head_dim / 2]
    cos, sin = (np.float32(rope.attention_factor(c.rope_scaling)) * z for z in (cos, sin))
    turn = rotate or rope.ROTATE[c.family.rope_pairs]
    layers, output = decoded(model)
    with one_blas_thread():
        x = t.token_embd.rows(ids)  # [T, dim]
        for w in layers:
            h = norm(x, w["attn_norm"], eps)  # [T, dim]
            q = plus(h @ w["attn_q"].T, w["attn_q_bias"])  # [T, n_heads * head_dim]
            k = plus(h @ w["attn_k"].T, w["attn_k_bias"])  # [T, n_kv_heads * head_dim]
            v = plus(h @ w["attn_v"].T, w["attn_v_bias"])  # [T, n_kv_heads * head_dim]
            q, k, v = (z.reshape(len(ids), -1, c.head_dim) for z in (q, k, v))  # [T, heads, head_dim]
            if c.family.head_norms:
                q, k = norm(q, w["attn_q_norm"], eps), norm(k, w["attn_k_norm"], eps)
            q, k = turn(q, cos, sin), turn(k, cos, sin)
            k, v = (z.swapaxes(0, 1).copy() for z in (k, v))  # [n_kv_heads, T, head_dim]
            found = attend(q, k, v)  # [T, n_heads, head_dim]
            x = x + found.reshape(len(ids), -1) @ w["attn_output"].T  # [T, dim]
            h = norm(x, w["ffn_norm"], eps)  # [T, dim]
            gate, up = h @ w["ffn_gate"].T, h @ w["ffn_up"].T  # [T, ffn_dim]
            x = x + gated(gate, up) @ w["ffn_down"].T  # [T, dim]
        return norm(x, t.output_norm, eps) @ output.T  # [T, vocab]


def plus(product, bias):
    """Return a product with its bias, which most models do not have."""
    return product if bias is None else product + bias


@lru_cache(maxsize=2)
def decoded(model) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Return each layer's weights, {name: float32}, and those of the logits, float32 [vocab, dim].

    Those of the two latest models stay in memory, 4 bytes for each weight.
    """
    layers = [{name: floats(w) for name, w in vars(layer).items()} for layer in model.transformer.layers]
    return layers, model.transformer.output.dequantize()


def floats(weights):
    """Return a matrix as float32; vectors are that already."""
    return weights.dequantize() if isinstance(weights, QuantizedMatrix) else weights
