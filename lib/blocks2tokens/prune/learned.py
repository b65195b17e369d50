"""What is learned from a text that says what matters: a text's tokens may be given, or their Importance.

ids int [T]    -->  importance(model, ids)         sums of squared inputs of each matrix
Importance     -->  itself, and the ids that it was made from, if it tells them

norms [K] = root of the sums: how loud each input of a matrix is
"""

from collections.abc import Sequence

import numpy as np

from blocks2tokens.generate import Model
from blocks2tokens.importance import Importance, importance


def importance_of(model: Model, ids: Sequence[int] | Importance) -> Importance:
    """Return the importance of a model's matrices; ValueError for that of another model, too few ids."""
    if not isinstance(ids, Importance):
        return importance(model, ids)
    ids.check(model.file)
    return ids


def text_of(model: Model, ids: Sequence[int] | Importance, needs: str) -> Sequence[int]:
    """Return the ids of the text that somebody `needs`; ValueError for an importance without them.

    And for that of another model.
    """
    if not isinstance(ids, Importance):
        return ids
    ids.check(model.file)
    if ids.ids is None:
        raise ValueError(f"ids: {needs} needs the tokens of a text, which this importance does not tell")
    return ids.ids


def norms(importance: Importance, name: str) -> np.ndarray:
    """Return the norm of each input column of a matrix, float64 [K], by its tensor's name.

    Raises ValueError for a matrix that the importance has nothing of.
    """
    if name not in importance:
        raise ValueError(f"ids: expected the importance of all matrices, got none of {name}")
    return np.sqrt(importance.sums[name][0])
