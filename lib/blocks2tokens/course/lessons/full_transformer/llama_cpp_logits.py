"""What llama.cpp expects behind each token of some texts: recorded, so that no lesson needs llama.cpp.

recorded("Austen")         texts: their ids, llama.cpp's 20 most likely tokens behind each, and how likely
log_probs(logits)          what logits say, in the same measure
agreement(logits, text)    how they compare

data/make_llama_cpp_logits.py writes the file.
"""

import json
from dataclasses import dataclass

import numpy as np

from blocks2tokens.course.models import DATA

RECORDED = DATA / "llama_cpp_logits.json"


@dataclass(frozen=True)
class Text:
    """A text of T tokens; row t stands behind ids[t], most likely tokens first."""

    text: str
    ids: np.ndarray  # int64 [T]
    top_ids: np.ndarray  # int64 [T, 20]
    top_log_probs: np.ndarray  # float64 [T, 20]


@dataclass(frozen=True)
class Agreement:
    """How logits compare with llama.cpp's.

    same          share of positions with the same most likely token
    difference    mean difference of the log-probabilities of llama.cpp's 20 most likely tokens
    ours          those log-probabilities by our logits, float64 [T, 20]
    """

    same: float
    difference: float
    ours: np.ndarray


def recorded(model: str) -> list[Text]:
    """Return llama.cpp's answers for "Austen" or "SmolLM2"."""
    answers = json.loads(RECORDED.read_text(encoding="utf-8"))["models"][model]
    arrays = ("ids", "top_ids", "top_log_probs")
    return [Text(one["text"], *(np.array(one[name]) for name in arrays)) for one in answers]


def log_probs(logits: np.ndarray) -> np.ndarray:
    """Return the log of the softmax over the last axis, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def agreement(logits: np.ndarray, text: Text) -> Agreement:
    """Compare logits, float32 [T, vocab], with llama.cpp's answers for the same ids."""
    ours = np.take_along_axis(log_probs(logits), text.top_ids, axis=1)
    same = np.mean(logits.argmax(axis=1) == text.top_ids[:, 0])
    return Agreement(float(same), float(np.abs(ours - text.top_log_probs).mean()), ours)
