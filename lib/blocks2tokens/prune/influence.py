"""Influence: how far each layer turns the stream, on a text.

    stream [T, dim] --> layer i --> stream [T, dim]
    influence[i] = mean over tokens of 1 - cos(stream before, stream behind)

The plain forward pass is listened to, at the norm that each layer begins with. All weights are in memory as
float32 meanwhile. Source: Men et al., "ShortGPT", 2024.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from blocks2tokens.generate import Model
from blocks2tokens.importance import LEAST, WINDOW
from blocks2tokens.model.forward import forward
from blocks2tokens.model.layers import rms_norm


def influence(model: Model, ids: Sequence[int]) -> np.ndarray:
    """Return the influence of each layer on token ids, float64 [n_layers], read in windows of WINDOW.

    Raises ValueError for fewer than LEAST ids, and for one outside the vocabulary.
    """
    ids, c = model.transformer.check_ids(ids), model.config
    if len(ids) < LEAST:
        raise ValueError(f"ids: expected a text of at least {LEAST} tokens, got {len(ids)}")
    first_norms = [layer.attn_norm for layer in model.transformer.layers]
    begins = {id(weight) for weight in (*first_norms, model.transformer.output_norm)}
    turned, window = np.zeros(c.n_layers), min(WINDOW, c.context_length)
    for i in range(0, len(ids), window):
        streams = []  # [T, dim] in front of each layer, and behind the last

        def listen(x, weight, eps, streams=streams):
            if id(weight) in begins:
                streams.append(x)
            return rms_norm(x, weight, eps)

        forward(model, ids[i : i + window], norm=listen)
        turned += [(1 - cosines(*pair)).sum() for pair in pairwise(streams)]
    return turned / len(ids)


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the cosine of the angle between each row of x and that of y, [T, dim] -> float64 [T]."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return (x * y).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
