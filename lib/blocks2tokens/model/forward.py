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
from blocks2tokens.model import attention, rope
from blocks2tokens.model.layers import GATES, feed_forward, mixture, plus, rms_norm, softcap


def forward(
    model,
    ids: Sequence[int],
    norm: Callable = rms_norm,
    rotate: Callable | None = None,
    gated: Callable | None = None,
    attend: Callable = attention.attend,
) -> np.ndarray:
    """Return the logits after each of ids, float32 [T, vocab], of what `b2t.load` returns.

    norm(x, weight, eps), rotate(x, cos, sin), gated(gate, up) and attend(q, k, v) take and return what the
    engine's do; without `rotate` and `gated`, those of the model's architecture. More ids than the model's
    context are allowed. Raises ValueError for an id outside the vocabulary.
    """
    c, t = model.config, model.transformer
    ids, eps = t.check_ids(ids), c.norm_eps
    turn, gated = rotate or rope.ROTATE[c.family.rope_pairs], gated or GATES[c.family.gate]
    everywhere = angles(t.weights.rope_frequencies, len(ids), c)  # cos and sin, [T, head_dim / 2] each
    local = angles(t.weights.local_rope_frequencies, len(ids), c)
    layers, output = decoded(model)
    with one_blas_thread():
        x = t.token_embd.rows(ids) * np.float32(c.embedding_scale)  # [T, dim]
        for i, w in enumerate(layers):
            cos, sin = local if c.window_of(i) else everywhere
            h = norm(x, w["attn_norm"], eps)  # [T, dim]
            q = plus(h @ w["attn_q"].T, w["attn_q_bias"])  # [T, n_heads * head_dim]
            k = plus(h @ w["attn_k"].T, w["attn_k_bias"])  # [T, n_kv_heads * head_dim]
            v = plus(h @ w["attn_v"].T, w["attn_v_bias"])  # [T, n_kv_heads * head_dim]
            q, k, v = (z.reshape(len(ids), -1, c.head_dim) for z in (q, k, v))  # [T, heads, head_dim]
            if c.family.head_norms:
                q, k = norm(q, w["attn_q_norm"], eps), norm(k, w["attn_k_norm"], eps)
            q, k = turn(q, cos, sin), turn(k, cos, sin)
            k, v = (z.swapaxes(0, 1).copy() for z in (k, v))  # [n_kv_heads, T, head_dim]
            found = attend(q, k, v, **special(c, i, w))  # [T, n_heads, head_dim]
            h = plus(found.reshape(len(ids), -1) @ w["attn_output"].T, w["attn_output_bias"])  # [T, dim]
            x = x + (norm(h, w["post_attention_norm"], eps) if c.family.post_norms else h)  # [T, dim]
            h = norm(x, w["ffn_norm"], eps)  # [T, dim]
            h = mixture(h, w, gated, c.n_used) if c.n_experts else feed_forward(h, w, gated)  # [T, dim]
            x = x + (norm(h, w["post_ffw_norm"], eps) if c.family.post_norms else h)  # [T, dim]
        return softcap(norm(x, t.output_norm, eps) @ output.T, c.logit_softcap)  # [T, vocab]


def special(c, layer, w):
    """Return what attention in this layer has that most models' has not, by `attend`'s names."""
    parts = {"window": c.window_of(layer), "softcap": c.attn_softcap, "sinks": w["attn_sinks"]}
    parts["scale"] = c.score_scale if c.score_scale != c.head_dim**-0.5 else None
    return {name: part for name, part in parts.items() if part is not None and np.any(part)}


def angles(frequencies, n_tokens, c):
    """Return cos and sin for positions 0 and on, scaled as the file asks for, float32 [T, head_dim / 2]."""
    factor = np.float32(rope.attention_factor(c.rope_scaling))
    return [factor * part for part in rope.angles(np.arange(n_tokens), frequencies)]


@lru_cache(maxsize=2)
def decoded(model) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Return each layer's weights, {name: float32}, and those of the logits, float32 [vocab, dim].

    Those of the two latest models stay in memory, 4 bytes for each weight.
    """
    layers = [{name: floats(w) for name, w in vars(layer).items()} for layer in model.transformer.layers]
    return layers, model.transformer.output.dequantize()


def floats(weights):
    """Return matrices as float32; vectors are that already."""
    return weights.dequantize() if hasattr(weights, "dequantize") else weights
