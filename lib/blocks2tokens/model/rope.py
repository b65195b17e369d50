"""Rotary positions: each pair of a head turns by position times frequency.

frequencies   float64 [head_dim / 2]      theta ** (-2i / head_dim): pair 0 turns fastest
angles        position * frequency        -> cos, sin float32 [T, head_dim / 2]

adjacent      pairs (2i, 2i + 1)                 llama: GGUF files store the rows of Q and K for it
halves        pairs (i, i + head_dim / 2)        the others

For contexts longer than those of the training the frequencies are lowered:

linear        all of them, by a factor
factors       each by its own: the tensor rope_freqs.weight, as Llama 3 files have it
yarn          those that turn less than once within the old context by the factor, those that turn more than
              32 times not at all, a ramp between; and all scores grow a little

Sources: Su et al., "RoFormer", 2021; Peng et al., "YaRN", 2023; ggml `rope_yarn`.
"""

from dataclasses import dataclass
from math import ceil, floor, log, pi

import numpy as np

TURNS_KEPT, TURNS_STRETCHED = 32, 1  # within the old context; yarn's beta_fast and beta_slow


@dataclass(frozen=True)
class RopeScaling:
    """How a file stretches positions: `kind` is "none", "linear" or "yarn"; the others matter for yarn.

    `attn_factor` multiplies the magnitude of rotated vectors, whatever the kind.
    """

    kind: str = "none"
    factor: float = 1.0
    original_context: int = 0
    attn_factor: float = 1.0


def frequencies(head_dim: int, theta: float) -> np.ndarray:
    """Return how far each pair turns from one position to the next, radians, float64 [head_dim / 2]."""
    return theta ** (-np.arange(0, head_dim, 2) / head_dim)


def scaled_frequencies(head_dim: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """Return the frequencies, float64 [head_dim / 2], lowered as a file asks for."""
    original = frequencies(head_dim, theta)
    if scaling.kind == "none":
        return original
    stretched = original / scaling.factor
    if scaling.kind == "linear":
        return stretched
    share = _share_kept(head_dim, theta, scaling)
    return stretched * (1 - share) + original * share


def attention_factor(scaling: RopeScaling) -> float:
    """Return what rotated vectors are multiplied by: 1, but for yarn, which sharpens attention."""
    sharper = 1 + 0.1 * log(scaling.factor) if scaling.kind == "yarn" and scaling.factor > 1 else 1.0
    return sharper * scaling.attn_factor


def _share_kept(head_dim, theta, scaling):
    """Return for each pair how much of its frequency yarn keeps, 1 for the fastest, 0 for the slowest."""

    def pair_that_turns(times):
        return head_dim * log(scaling.original_context / (times * 2 * pi)) / (2 * log(theta))

    first = max(0, floor(pair_that_turns(TURNS_KEPT)))
    last = min(head_dim - 1, ceil(pair_that_turns(TURNS_STRETCHED)))
    ramp = (np.arange(head_dim // 2) - first) / max(0.001, last - first)
    return 1 - np.clip(ramp, 0, 1)


def angles(positions: np.ndarray, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and sin, float32 [T, head_dim / 2], for positions, int [T]."""
    angle = positions[:, None] * frequencies
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rotate_adjacent(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotate pairs (2i, 2i + 1) of each head, x float32 [T, heads, head_dim]; cos, sin [T, head_dim / 2]."""
    out = np.empty_like(x)
    out[..., ::2], out[..., 1::2] = _rotated(x[..., ::2], x[..., 1::2], cos, sin)
    return out


def rotate_halves(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotate pairs (i, i + head_dim / 2) of each head; shapes as in `rotate_adjacent`."""
    half = x.shape[-1] // 2
    return np.concatenate(_rotated(x[..., :half], x[..., half:], cos, sin), axis=-1)


def _rotated(a, b, cos, sin):
    cos, sin = cos[:, None], sin[:, None]
    return a * cos - b * sin, a * sin + b * cos


ROTATE = {"adjacent": rotate_adjacent, "halves": rotate_halves}  # by ModelConfig.family.rope_pairs
