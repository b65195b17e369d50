"""Prefill: a batch of tokens through all layers, each weight used for all of them.

    x float32 [T, dim]     T tokens behind those in the cache

The products are `kernels.matmul`'s, which takes the kernel that suits T rows. What lies between them is
compiled and shared by the cores: norms by rows, attention by heads.
"""

from contextlib import AbstractContextManager
from functools import lru_cache

import numpy as np
from threadpoolctl import ThreadpoolController

from blocks2tokens.kernels import matmul
from blocks2tokens.model import rope
from blocks2tokens.model.attention import attend
from blocks2tokens.model.layers import rms_norm, swiglu

ROTATE = {"adjacent": rope.rotate_adjacent, "halves": rope.rotate_halves}


def run_batch(weights, c, ids, cache):
    """Run ids, int64 [T], behind the tokens of the cache; return the final stream, float32 [T, dim]."""
    positions = np.arange(cache.length, cache.length + len(ids))
    cos, sin = (
        rope.magnitude(c.rope_scaling) * part for part in rope.angles(positions, weights.rope_frequencies)
    )
    cos, sin = cos.astype(np.float32), sin.astype(np.float32)
    x = weights.token_embd.rows(ids)
    for i, layer in enumerate(weights.layers):
        x = x + _attention(layer, c, i, rms_norm(x, layer.attn_norm, c.norm_eps), cos, sin, cache)
        h = rms_norm(x, layer.ffn_norm, c.norm_eps)
        x = x + matmul(swiglu(matmul(h, layer.ffn_gate), matmul(h, layer.ffn_up)), layer.ffn_down)
    cache.advance(len(ids))
    return x


def _attention(layer, c, i, h, cos, sin, cache):
    T = len(h)

    def head_parts(matrix, bias, n):
        out = matmul(h, matrix)
        return (out if bias is None else out + bias).reshape(T, n, c.head_dim)

    q = head_parts(layer.attn_q, layer.attn_q_bias, c.n_heads)
    k = head_parts(layer.attn_k, layer.attn_k_bias, c.n_kv_heads)
    v = head_parts(layer.attn_v, layer.attn_v_bias, c.n_kv_heads)
    if layer.attn_q_norm is not None:
        q, k = rms_norm(q, layer.attn_q_norm, c.norm_eps), rms_norm(k, layer.attn_k_norm, c.norm_eps)
    rotate = ROTATE[c.family.rope_pairs]
    cache.put(i, rotate(k, cos, sin), v)
    keys, values = cache.get(i, cache.length + T)
    out = attend(rotate(q, cos, sin), keys.astype(np.float32), values.astype(np.float32))
    return matmul(out.reshape(T, -1), layer.attn_output)


@lru_cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread() -> AbstractContextManager:
    """Keep BLAS to one thread for a while.

    Its other threads spin while they wait, and so take the cores from Numba's and from everybody else:
    on two busy cores a pass over a prompt is several times slower with them.
    """
    return _thread_pools().limit(limits=1, user_api="blas")
