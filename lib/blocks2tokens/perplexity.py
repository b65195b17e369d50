"""Perplexity: how surprised a model is by a text that it has not seen.

ids      a b c d e f g h i j            windows of 4: each is read from a fresh cache
read     a b c d|e f g h|i
predict    b c d e|f g h i|j            every id but the first is predicted once

nats per token   mean of -log p(id | the ids before it in its window)
perplexity       e to that: a model as unsure as among so many equally likely tokens
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
from tqdm import tqdm

from blocks2tokens.generate import Model

ROWS = 256  # positions whose logits are held at one time


@dataclass(frozen=True)
class Perplexity:
    """The mean surprise, in nats per token, over so many predicted tokens."""

    nats: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return exp(self.nats)

    def __repr__(self):
        return f"perplexity {self.perplexity:.3f} ({self.nats:.4f} nats per token, {self.tokens:,} tokens)"


def perplexity(model: Model, ids: Sequence[int], window: int | None = None) -> Perplexity:
    """Return a model's surprise at token ids, read in consecutive windows.

    A window holds `window` ids, the model's whole context if None; each of them predicts the id behind it,
    the last one the first of the next window. Short windows give worse numbers: the first predictions of
    each have little to go by. Compare like with like.

    Raises ValueError for fewer than two ids, an id outside the vocabulary and a window beyond the context.
    """
    ids = model.transformer.check_ids(ids)
    if len(ids) < 2:
        raise ValueError(f"ids: expected at least 2, one to predict from another, got {len(ids)}")
    context = model.config.context_length
    window = context if window is None else window
    if not isinstance(window, int | np.integer) or isinstance(window, bool) or not 1 <= window <= context:
        raise ValueError(f"window: expected a whole number, 1 to the context of {context}, got {window!r}")
    total = 0.0
    with tqdm(total=len(ids) - 1, desc="perplexity", unit=" tokens", delay=2, leave=False) as bar:
        for start in range(0, len(ids) - 1, int(window)):
            read = ids[start : start + int(window)]
            targets = ids[start + 1 : start + 1 + len(read)]
            total += _surprise(model, read[: len(targets)], targets)
            bar.update(len(targets))
    return Perplexity(total / (len(ids) - 1), len(ids) - 1)


def _surprise(model: Model, read: np.ndarray, targets: np.ndarray) -> float:
    """Return the sum of -log p(target) over one window."""
    x = model.transformer.hidden(read, model.transformer.new_cache(len(read)))
    total = 0.0
    for i in range(0, len(x), ROWS):
        logits = model.transformer.project(x[i : i + ROWS])
        logits -= logits.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(logits, targets[i : i + ROWS, None], axis=1)
        normalizer = np.log(np.exp(logits, out=logits).sum(axis=1, dtype=np.float64))
        total += float(normalizer.sum() - chosen.sum(dtype=np.float64))
    return total
