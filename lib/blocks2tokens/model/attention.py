"""Causal attention with grouped queries.

q       [T, n_heads, head_dim]                 query t sees the tokens up to its own position
k, v    [n_kv_heads, S, head_dim]              n_heads / n_kv_heads queries share one
scores  [n_kv_heads, group, T, S] = q . k / sqrt(head_dim), masked, softmax over S
out     [T, n_heads, head_dim]    = scores . v
"""

import numpy as np

from blocks2tokens.model.layers import softmax


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the attended values, float32 [T, n_heads, head_dim].

    The T queries are the last T of the S tokens in k and v. Source: Vaswani et al., "Attention Is All
    You Need", 2017; Ainslie et al., "GQA", 2023.
    """
    T, n_heads, head_dim = q.shape
    n_kv_heads, S, _ = k.shape
    grouped = q.reshape(T, n_kv_heads, n_heads // n_kv_heads, head_dim).transpose(1, 2, 0, 3)
    scores = grouped @ k.transpose(0, 2, 1)[:, None] * np.float32(head_dim**-0.5)
    if T > 1:
        future = np.arange(S) > np.arange(S - T, S)[:, None]  # [T, S]
        scores[..., future] = -np.inf
    out = softmax(scores) @ v[:, None]  # [n_kv_heads, group, T, head_dim]
    return out.transpose(2, 0, 1, 3).reshape(T, n_heads, head_dim)
