"""Sampler: from the logits of one position to one token id.

    logits [vocab] -> repetition penalty -> top-k -> top-p -> temperature -> draw

The order is llama.cpp's: top-p looks at the probabilities before the temperature reshapes them.
Temperature 0 is greedy: the largest logit, the first of equal ones.
"""

from collections.abc import Sequence
from math import isfinite
from numbers import Integral

import numpy as np

from blocks2tokens.model.layers import softmax


class Sampler:
    """Chooses tokens.

    temperature         0 greedy; 1 the model's own probabilities; more is bolder
    top_k               keep the k most likely tokens; 0 keeps all
    top_p               keep the most likely tokens until their probabilities add up to p; 1 keeps all
    repetition_penalty  divide positive logits of tokens already seen by it, multiply negative ones; 1 off
    repetition_window   how many of the last tokens count as seen
    seed                the same seed gives the same choices; None a fresh one each time
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        repetition_window: int = 64,
        seed: int | None = None,
    ):
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature: expected a number >= 0, got {temperature}")
        if not isinstance(top_k, Integral) or top_k < 0:
            raise ValueError(f"top_k: expected a whole number >= 0, got {top_k!r}")
        if not 0 < top_p <= 1:
            raise ValueError(f"top_p: expected 0 < top_p <= 1, got {top_p}")
        if not 0 < repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty: expected a number > 0, got {repetition_penalty}")
        if not isinstance(repetition_window, Integral) or repetition_window < 1:
            raise ValueError(f"repetition_window: expected a whole number >= 1, got {repetition_window!r}")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.repetition_penalty, self.repetition_window = repetition_penalty, repetition_window
        self._rng = np.random.default_rng(seed)

    def __call__(self, logits: np.ndarray, history: Sequence[int] = ()) -> int:
        """Return a token id for logits, float32 [vocab]; `history` are the tokens so far.

        Raises ValueError for another shape or dtype, for tokens so far that have no logit, and for logits
        that name no most likely token: one of NaN or +infinity, or none above -infinity.
        """
        logits = np.asarray(logits)
        if logits.dtype.kind != "f":
            raise ValueError(f"logits: expected floating-point numbers, got {logits.dtype}")
        if logits.ndim != 1 or not isfinite(logits.max(initial=-np.inf)):
            raise ValueError(f"logits: expected one dimension and a finite largest value, got {logits!r}")
        if self.repetition_penalty != 1 and len(history):
            logits = self._penalize(logits, history)
        if self.temperature == 0:
            return int(np.argmax(logits))
        ids = self._keep(logits)
        kept = logits[ids].astype(np.float64)
        probabilities = softmax((kept - kept[0]) / self.temperature)
        return int(self._rng.choice(ids, p=probabilities))

    def _penalize(self, logits, history):
        recent = np.asarray(history[-self.repetition_window :])
        if recent.ndim != 1 or recent.dtype.kind not in "iu":
            raise ValueError(f"history: expected token ids in one dimension, got {recent!r}")
        seen = np.unique(recent)
        if seen[0] < 0 or seen[-1] >= len(logits):
            bad = seen[0] if seen[0] < 0 else seen[-1]
            raise ValueError(f"history: expected 0 <= id < {len(logits)}, got {bad}")
        penalized = logits.copy()
        value = logits[seen]
        penalized[seen] = np.where(
            value > 0, value / self.repetition_penalty, value * self.repetition_penalty
        )
        return penalized

    def _keep(self, logits):
        """Return the ids that top-k and top-p keep, most likely first."""
        ids = np.argsort(-logits, kind="stable")
        if self.top_k:
            ids = ids[: self.top_k]
        if self.top_p < 1:
            reached = np.cumsum(softmax(logits[ids].astype(np.float64))) >= self.top_p
            ids = ids[: int(reached.argmax()) + 1] if reached.any() else ids
        return ids
