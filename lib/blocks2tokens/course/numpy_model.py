"""The forward pass in plain NumPy: every weight decoded to float32, no cache, no kernel.

    x = token_embd[ids]                                          [T, dim]
    each layer
        h = norm(x)
        q, k, v = h @ attn_q.T, h @ attn_k.T, h @ attn_v.T       [T, heads, head_dim]
        x = x + attend(rotate(q), rotate(k), v) @ attn_output.T
        h = norm(x)
        x = x + gated(h @ ffn_gate.T, h @ ffn_up.T) @ ffn_down.T
    logits = norm(x) @ output.T                                  [T, vocab]

The engine's twin to look into. Norm, rotation and gate are arguments: so a lesson runs a real model with
the learner's own, with a wrong one, or with one that writes down what it sees.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from blocks2tokens.generate import Model
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model import rope
from blocks2tokens.model.attention import attend
from blocks2tokens.model.layers import rms_norm, swiglu
from blocks2tokens.model.prefill import one_blas_thread
from blocks2tokens.model.rope import ROTATE


def forward(
    model: Model,
    ids: Sequence[int],
    norm: Callable = rms_norm,
    rotate: Callable | None = None,
    gated: Callable = swiglu,
) -> np.ndarray:
    """Return the logits after each of ids, float32 [T, vocab].

    norm(x, weight, eps), rotate(x, cos, sin) and gated(gate, up) take and return what the engine's do;
    without `rotate`, the pairs are those of the model's architecture. More ids than the model's context
    are allowed. Raises ValueError for an id outside the vocabulary.
    """
    c, t = model.config, model.transformer
    ids = t.check_ids(ids)
    cos, sin = rope.angles(np.arange(len(ids)), t.weights.rope_frequencies)
    size = np.float32(rope.magnitude(c.rope_scaling))
    turn = rotate or ROTATE[c.family.rope_pairs]
    layers, output = decoded(model)
    x = t.token_embd.rows(ids)
    with one_blas_thread():
        for w in layers:
            h = norm(x, w["attn_norm"], c.norm_eps)
            x = x + _attention(w, h, c, norm, lambda heads: turn(heads, size * cos, size * sin))
            h = norm(x, w["ffn_norm"], c.norm_eps)
            x = x + gated(h @ w["ffn_gate"].T, h @ w["ffn_up"].T) @ w["ffn_down"].T
        return norm(x, t.output_norm, c.norm_eps) @ output.T


@lru_cache(maxsize=2)
def decoded(model: Model) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Return each layer's weights, {name: float32}, and those of the logits, float32 [vocab, dim].

    Those of the two latest models stay in memory, 4 bytes for each weight.
    """
    layers = [{name: _floats(w) for name, w in vars(layer).items()} for layer in model.transformer.layers]
    return layers, model.transformer.output.dequantize()


def _floats(weights):
    return weights.dequantize() if isinstance(weights, QuantizedMatrix) else weights


def _attention(w, h, c, norm, turn):
    q, k, v = (_heads(h, w, name, c.head_dim) for name in ("attn_q", "attn_k", "attn_v"))
    if w["attn_q_norm"] is not None:
        q, k = norm(q, w["attn_q_norm"], c.norm_eps), norm(k, w["attn_k_norm"], c.norm_eps)
    out = attend(turn(q), turn(k).swapaxes(0, 1), v.swapaxes(0, 1))
    return out.reshape(len(h), -1) @ w["attn_output"].T


def _heads(h, w, name, head_dim):
    """Return h times a matrix, plus its bias if it has one, float32 [T, heads, head_dim]."""
    out = h @ w[name].T
    if w[f"{name}_bias"] is not None:
        out = out + w[f"{name}_bias"]
    return out.reshape(len(h), -1, head_dim)
