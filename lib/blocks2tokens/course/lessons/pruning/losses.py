"""What a smaller model loses, token by token, so that each figure has its interval.

    read(model, ids)             -> log-probabilities, float32 [T, vocab], of windows of 512
    lost(found, reference, ids)  -> Loss: nats a token more than the reference, and the KL divergence
                                    both as a mean and its standard error over the tokens

The nats are a difference on the same tokens: what makes a text hard for both falls out, and the interval is
narrower than that of either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, sqrt

import numpy as np

WINDOW = 512


@dataclass(frozen=True)
class Loss:
    """Nats a token, more than the reference; KL divergence; each with its standard error; perplexity."""

    perplexity: float
    nats: float
    nats_error: float
    kl: float
    kl_error: float

    def apart(self, other: "Loss") -> bool:
        """Return whether the nats of both differ by more than two standard errors of each."""
        return abs(self.nats - other.nats) > 2 * (self.nats_error + other.nats_error)

    def __str__(self):
        nats = f"{self.nats:+.3f} ± {2 * self.nats_error:.3f} nats"
        return f"perplexity {self.perplexity:7.2f}  {nats}  KL {self.kl:.3f} ± {2 * self.kl_error:.3f}"


def read(model, ids: Sequence[int], window: int = WINDOW) -> np.ndarray:
    """Return the log-probabilities behind each of ids but the last, float32 [T - 1, vocab]."""
    ids = np.asarray(ids)[:-1]
    parts = []
    for i in range(0, len(ids), window):
        logits = model.logits(ids[i : i + window])
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        parts.append(logits)
    return np.concatenate(parts)


def lost(found: np.ndarray, reference: np.ndarray, ids: Sequence[int]) -> Loss:
    """Compare log-probabilities, float32 [T - 1, vocab] each, on the ids that they predict."""
    targets = np.asarray(ids)[1:, None]
    nats, before = (-np.take_along_axis(x, targets, axis=1)[:, 0].astype(float) for x in (found, reference))
    kl = (np.exp(reference) * (reference - found)).sum(axis=1, dtype=np.float64)
    more = nats - before
    return Loss(exp(nats.mean()), more.mean(), _error(more), kl.mean(), _error(kl))


def _error(x: np.ndarray) -> float:
    return float(x.std(ddof=1) / sqrt(len(x)))
