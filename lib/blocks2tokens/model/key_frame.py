"""Key frames: what the keys of each head have in common, found in one short pass, once for a model.

    frames   float32 [n_layers, n_kv_heads, frame_rows, head_dim]      what they are for: see `cache_rows`

        MEAN      of the keys behind the first SINKS tokens. Slow pairs of RoPE hardly rotate within a text,
                  so half of a key, and more, is the same for all tokens.
        FIRST     the key of the first token: many heads rest there, and it is far from the others.
        SCALE     of channel i, (mean of q_i^2) ^ 0.1 / (mean of k_i^2) ^ 0.4,  k without MEAN; of geometric
                  mean 1
        BACK      (FIRST - MEAN) * SCALE, turned
        VALUE     the first token's value, turned
        FEEDBACK  -U_ij / U_ii for j > i, where the upper triangle U has U' U = the inverse of the mean of
                  q q', of queries scaled and turned

Turning spreads the error of a key evenly over the scaled channels. Queries do not ask evenly: few directions
have most of their length. Each number's error is therefore made up for by the numbers that are rounded after
it, as far as queries see both (`formats.feedback`). What is left, of a score's error squared, is the product
of det(mean of q q'), which no scale changes, and of the keys' squares, which equal channels make smallest:
then SCALE would have powers 0 and 0.5. A little of q's, as without feedback (0.25 and 0.25), was better.

The pass reads a short text, at positions 0 and on, and a cache is for longer ones. So means and products of
pairs are those of the same keys and queries at all positions of a SPAN, which a formula gives: pair j, as a
complex number z_j, has rotated by exp(i p f_j) at position p, and the mean of that over p is `mean_rotation`.
Any frame gives right scores; a good one small errors.

Sources: Zhang et al., "SageAttention", 2024; Xiao et al., "SmoothQuant", 2023; Xiao et al., "Attention
Sinks", 2023; Frantar et al., "GPTQ", 2022.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from blocks2tokens.formats.feedback import triangle
from blocks2tokens.model.cache_rows import BACK, FEEDBACK, FIRST, MEAN, SCALE, VALUE, frame_rows, turn, turned
from blocks2tokens.model.config import ModelConfig
from blocks2tokens.model.kv_cache import KVCache
from blocks2tokens.model.prefill import run_batch
from blocks2tokens.model.rope import ROTATE, angles
from blocks2tokens.model.weights import Weights

IDS = 256
SINKS = 4  # first tokens, whose keys are like no others
SPAN = 2048  # positions
ASKED, HELD = 0.1, 0.4  # powers of the mean squares of queries and keys
LEAST = 1e-6  # of a channel's mean square, in parts of the largest: one that is 0 needs a scale, too
SPREAD = 19349663  # a prime: multiples of it, modulo the vocabulary's size, are all over it
TEXT = """\
The lamp in the harbour office was still burning when Anna came down the stairs. "You are early," said the
clerk, and he put his pen away. She shook her head; the boat from the islands, she told him, had been seen
an hour ago, and nobody had thought of sending word. What could have kept them for so long?

Question: How far is it from the town to the lighthouse, and how would you go there?
Answer: About 12 kilometres. There are three ways:
1. by bus, which takes 25 minutes and costs $3.40;
2. on foot, along the coast (bring water in July and August);
3. by boat, if the wind is not too strong.

def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values) if values else None

In 1869 the chemist Mendeleev wrote the elements down in the order of their weights. Those that were alike
came back after every seventh or eighth, so he left gaps for some that had not been found yet, and he was
right. Later it was understood that the order is not that of weights but of the charge of the nucleus.
"""


class Moments(NamedTuple):
    """What queries or keys are like at all positions of a span."""

    mean: np.ndarray  # float64 [heads, head_dim]
    products: np.ndarray  # float64 [heads, head_dim, head_dim]: the mean of x x'


def measured(
    weights: Weights, c: ModelConfig, text: Sequence[int] | None, between_layers: Callable[[], None]
) -> np.ndarray:
    """Return a model's frames, from the first IDS ids of a text; None: from as many of the vocabulary."""
    spread = SPREAD * np.arange(IDS, dtype=np.int64) % c.vocab_size
    ids = np.array(text[:IDS] if text else spread, np.int64)[: c.context_length]
    frames = np.empty((c.n_layers, c.n_kv_heads, frame_rows(c.head_dim), c.head_dim), np.float32)
    span = min(SPAN, c.context_length)

    def watch(layer, q, k):
        local = c.window_of(layer)
        frequencies = weights.local_rope_frequencies if local else weights.rope_frequencies
        seen = [moments(x, frequencies, c.family.rope_pairs, span) for x in (q, k)]
        frames[layer] = framed(k[0], *seen)

    cache = KVCache(c.n_layers, c.n_kv_heads, c.head_dim, len(ids), "float16")
    cache.prepare(len(ids))
    run_batch(weights, c, ids, cache, between_layers, watch)
    for layer in range(c.n_layers):
        frames[layer, :, VALUE] = cache.get(layer, 1)[1][:, 0]
        for head in range(c.n_kv_heads):
            turn(frames[layer, head, VALUE], turned("q4_0", c.head_dim))
    return frames


def moments(x: np.ndarray, frequencies: np.ndarray, pairs: str, span: int) -> Moments:
    """Return the moments over a span of positions of x, float32 [T, heads, head_dim], of positions 0 and on.

    `frequencies` float64 [head_dim / 2] and `pairs`, "adjacent" or "halves", say how x was rotated.
    """
    T, _, head_dim = x.shape
    x = ROTATE[pairs](x, *angles(-np.arange(T), frequencies))[min(SINKS, T - 1) :]  # as if at position 0
    channels = np.arange(head_dim).reshape((-1, 2) if pairs == "adjacent" else (2, -1))
    channels = channels.T if pairs == "adjacent" else channels  # [real or imaginary part, pairs]
    z = (x[..., channels[0]] + 1j * x[..., channels[1]]).swapaxes(0, 1)  # [heads, T, pairs]
    mean = z.mean(axis=1) * mean_rotation(frequencies, span)
    across, along = frequencies[:, None] - frequencies, frequencies[:, None] + frequencies
    apart = z.swapaxes(1, 2) @ z.conj() / z.shape[1] * mean_rotation(across, span)
    alike = z.swapaxes(1, 2) @ z / z.shape[1] * mean_rotation(along, span)
    rotated = np.concatenate([mean.real, mean.imag], axis=-1)
    above = np.concatenate([(apart + alike).real, (alike - apart).imag], axis=-1)
    below = np.concatenate([(alike + apart).imag, (apart - alike).real], axis=-1)
    products = np.concatenate([above, below], axis=-2) / 2
    order = np.argsort(channels.reshape(-1))  # from pairs' parts to channels
    return Moments(rotated[:, order], products[:, order][:, :, order])


def mean_rotation(frequencies: np.ndarray, span: int) -> np.ndarray:
    """Return the mean of exp(i p f) over p = 0 to span - 1, complex, for each frequency f, radians."""
    half = frequencies / 2
    below = span * np.sin(half)
    still = np.abs(below) < 1e-9
    size = np.where(still, 1.0, np.sin(span * half) / np.where(still, 1.0, below))
    return size * np.exp(1j * half * (span - 1))


def framed(first: np.ndarray, queries: Moments, keys: Moments) -> np.ndarray:
    """Return the frames of a layer, float32 [n_kv_heads, frame_rows, head_dim].

    `first` are the keys of a text's first token, float32 [n_kv_heads, head_dim]; queries have as many heads,
    or a multiple. VALUE is 0, nothing is known of values here.
    """
    n_kv_heads, head_dim = first.shape
    out = np.zeros((n_kv_heads, frame_rows(head_dim), head_dim), np.float32)
    asked = queries.products.reshape(n_kv_heads, -1, head_dim, head_dim).mean(axis=1)
    held = np.diagonal(keys.products, axis1=1, axis2=2) - np.square(keys.mean)
    squares = np.diagonal(asked, axis1=1, axis2=2)
    scale = above_zero(squares) ** ASKED / above_zero(held) ** HELD
    out[:, FIRST], out[:, MEAN] = first, keys.mean
    out[:, SCALE] = scale / np.exp(np.log(scale).mean(axis=-1, keepdims=True))
    out[:, BACK] = (out[:, FIRST] - out[:, MEAN]) * out[:, SCALE]
    n = turned("q4_0", head_dim)
    for head in range(n_kv_heads):
        turn(out[head, BACK], n)
        out[head, FEEDBACK:] = feedback(asked[head] / np.outer(out[head, SCALE], out[head, SCALE]), n)
    return out


def feedback(products: np.ndarray, n: int) -> np.ndarray:
    """Return FEEDBACK for queries whose mean of q q', scaled, is `products`, [head_dim, head_dim]."""
    for _ in range(2):  # rows, then columns
        products = np.array(products.T, np.float32, order="C")
        turn(products.reshape(-1), n)
    U = triangle(products)
    return np.triu(-U / np.diagonal(U)[:, None], 1)


def above_zero(squares: np.ndarray) -> np.ndarray:
    """Return mean squares, [heads, head_dim], none of them below a small part of its head's largest."""
    most = squares.max(axis=-1, keepdims=True)
    return np.maximum(squares, np.where(most > 0, LEAST * most, 1))
