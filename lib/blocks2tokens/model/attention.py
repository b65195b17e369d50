"""Causal attention with grouped queries.

q       [T, n_heads, head_dim]                 query t sees the tokens up to its own position
k, v    [n_kv_heads, S, head_dim]              n_heads / n_kv_heads queries share one
scores  [n_kv_heads, group, T, S] = q . k / sqrt(head_dim), masked, softmax over S
out     [T, n_heads, head_dim]    = scores . v

Some families add to that:

window    a query sees the latest so many tokens, itself among them     [gemma, Mistral]
softcap   scores stay between -softcap and softcap                      [gemma2]
sinks     [n_heads], a score of each head that takes part in the softmax and brings no value    [gpt-oss]
"""

import numpy as np

from blocks2tokens.model.layers import softcap as cap
from blocks2tokens.model.layers import softmax


def attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    window: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    sinks: np.ndarray | None = None,
) -> np.ndarray:
    """Return the attended values, float32 [T, n_heads, head_dim].

    The T queries are the last T of the S tokens in k and v. `window` 0: a query sees all before it; `scale`
    None: 1 / sqrt(head_dim). Source: Vaswani et al., "Attention Is All You Need", 2017; Ainslie et al.,
    "GQA", 2023; Beltagy et al., "Longformer", 2020 (windows); Xiao et al., "Attention Sinks", 2023.
    """
    T, n_heads, head_dim = q.shape
    n_kv_heads, S, _ = k.shape
    grouped = q.reshape(T, n_kv_heads, n_heads // n_kv_heads, head_dim).transpose(1, 2, 0, 3)
    scores = grouped @ k.transpose(0, 2, 1)[:, None] * np.float32(scale or head_dim**-0.5)
    scores = cap(scores, softcap)
    before = np.arange(S - T, S)[:, None] - np.arange(S)  # [T, S], how long before the query a token was
    scores[..., (before < 0) | (before >= (window or S))] = -np.inf
    if sinks is not None:
        sink = np.broadcast_to(sinks.reshape(n_kv_heads, -1, 1, 1), (*scores.shape[:3], 1))
        scores = np.concatenate([scores, sink], axis=-1)
    out = softmax(scores)[..., :S] @ v[:, None]  # [n_kv_heads, group, T, head_dim]
    return out.transpose(2, 0, 1, 3).reshape(T, n_heads, head_dim)
