"""The small parts of a layer, each a few lines of NumPy.

rms_norm    x / rms(x) * weight
rope        rotate each adjacent pair (x[2i], x[2i + 1]) by position * theta ** (-2i / head_dim)
swiglu      silu(gate) * up, silu(z) = z / (1 + exp(-z))
softmax     exp(x - max) / sum
"""

import numpy as np


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """Scale each row of x, float32 [T, dim], to unit mean square, then by weight, float32 [dim].

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    mean_square = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean_square + np.float32(eps)) * weight


def rope_angles(positions: np.ndarray, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and sin, float32 [T, head_dim / 2], for positions, int [T].

    Source: Su et al., "RoFormer", 2021; `rope.freq_base` is theta.
    """
    frequency = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    angle = positions[:, None] * frequency
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rope(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotate adjacent pairs of each head; x float32 [T, heads, head_dim], cos and sin [T, head_dim / 2].

    GGUF files of the llama architecture store the rows of Q and K in the order that this pairing needs.
    """
    even, odd = x[..., ::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    out = np.empty_like(x)
    out[..., ::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out


def swiglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return silu(gate) * up, elementwise, float32 [T, ffn_dim].

    Source: Shazeer, "GLU Variants Improve Transformer", 2020.
    """
    with np.errstate(over="ignore"):  # exp(-gate) may be infinite: the quotient is then 0, as it should be
        return gate / (1 + np.exp(-gate)) * up


def softmax(x: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis; -inf entries get weight 0."""
    exp = np.exp(x - x.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)
