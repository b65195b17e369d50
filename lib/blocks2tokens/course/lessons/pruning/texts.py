"""The two texts of the lesson: one to learn from what matters, and one that nobody has learned from.

calibration(model, n)   the first n tokens of what Austen was trained on, data/austen_train.txt.xz
heldout(model, n)       the first n of the chapters that were held out, data/austen_heldout.txt.xz
"""

from blocks2tokens.course import models

CHARACTERS = 10  # more than a token has on average


def calibration(model, n: int) -> list[int]:
    """Return n token ids to prune by."""
    return model.tokenizer.encode(models.training_text()[: CHARACTERS * n])[:n]


def heldout(model, n: int) -> list[int]:
    """Return n token ids to judge by."""
    return model.tokenizer.encode(models.heldout_text()[: CHARACTERS * n])[:n]
