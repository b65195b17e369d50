"""Perplexity: how surprised a model is by a text that it has not seen.

ids      a b c d e f g h i j            windows of 4: each is read from a fresh cache
read     a b c d|e f g h|i
predict    b c d e|f g h i|j            every id but the first is predicted once

nats per token   mean of -log p(id | the ids before it in its window)
perplexity       e to that: a model as unsure as among so many equally likely tokens
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, log

import numpy as np
from tqdm import tqdm

from blocks2tokens.generate import Model

WINDOW = 2048  # ids at the most, unless asked for more: a cache for 131,072 would be 16 GiB in an 8B model
LARGEST = log(sys.float_info.max)
ROWS = 256  # positions whose logits are held at one time


@dataclass(frozen=True)
class Perplexity:
    """The mean surprise, in nats per token, over so many predicted tokens."""

    nats: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """e to the nats; infinity where that is beyond what a float holds."""
        return exp(self.nats) if self.nats < LARGEST else inf

    def __repr__(self):
        return f"perplexity {self.perplexity:.3f} ({self.nats:.4f} nats per token, {self.tokens:,} tokens)"


def perplexity(model: Model, ids: Sequence[int], window: int | None = None) -> Perplexity:
    """Return a model's surprise at token ids, read in consecutive windows.

    A window holds `window` ids, if None WINDOW or the model's context where that is less; each of them
    predicts the id behind it, the last one the first of the next window. Short windows give worse numbers:
    the first predictions of each have little to go by. Compare like with like.

    Raises ValueError for fewer than two ids, an id outside the vocabulary, a window beyond the context, and
    for a model whose logits are no finite numbers.
    """
    ids = model.transformer.check_ids(ids)
    if len(ids) < 2:
        raise ValueError(f"ids: expected at least 2, one to predict from another, got {len(ids)}")
    context = model.config.context_length
    window = min(WINDOW, context) if window is None else window
    if not isinstance(window, int | np.integer) or isinstance(window, bool) or not 1 <= window <= context:
        raise ValueError(f"window: expected a whole number, 1 to the context of {context}, got {window!r}")
    total = 0.0
    with tqdm(total=len(ids) - 1, desc="perplexity", unit=" tokens", delay=2, leave=False) as bar:
        for start in range(0, len(ids) - 1, int(window)):
            read = ids[start : start + int(window)]
            targets = ids[start + 1 : start + 1 + len(read)]
            surprise = _surprise(model, read[: len(targets)], targets)
            if not isfinite(surprise):
                end = start + len(targets)
                raise ValueError(f"the model's logits behind tokens {start} to {end} are no finite numbers")
            total += surprise
            bar.update(len(targets))
    return Perplexity(total / (len(ids) - 1), len(ids) - 1)


def _surprise(model: Model, read: np.ndarray, targets: np.ndarray) -> float:
    """Return the sum of -log p(target) over one window."""
    x = model.transformer.hidden(read, model.transformer.new_cache(len(read)))
    total = 0.0
    for i in range(0, len(x), ROWS):
        logits = model.transformer.project(x[i : i + ROWS])
        with np.errstate(invalid="ignore"):  # of infinities: they are found in the sum
            logits -= logits.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(logits, targets[i : i + ROWS, None], axis=1)
        normalizer = np.log(np.exp(logits, out=logits).sum(axis=1, dtype=np.float64))
        total += float(normalizer.sum() - chosen.sum(dtype=np.float64))
    return total
