"""The small parts of a layer, each a few lines of NumPy.

rms_norm    x / rms(x) * weight
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
