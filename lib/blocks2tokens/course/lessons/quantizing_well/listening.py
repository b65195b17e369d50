"""What goes into a matrix while the model reads: a wrapper around the engine's matmul.

ids --first layer--> ... matmul(a, ffn_down) ...      a is what we want, float32 [tokens, 768]
"""

import copy
import lzma
from collections.abc import Sequence
from unittest import mock

import numpy as np

from blocks2tokens.course import models
from blocks2tokens.generate import Model
from blocks2tokens.kernels import matmul_into

PASSAGE = 256  # tokens that are read at one time


def inputs_of_down(model: Model, ids: Sequence[int]) -> np.ndarray:
    """Return what goes into ffn_down of layer 0, float32 [len(ids), its columns], for token ids."""
    first_layer = copy.copy(model.transformer)
    first_layer.weights = copy.copy(model.transformer.weights)
    first_layer.weights.layers = model.transformer.layers[:1]
    down, heard = first_layer.layers[0].ffn_down, []

    def listening(a, w, *memory):
        if w is down:
            heard.append(a.copy())  # its memory is used again
        matmul_into(a, w, *memory)

    with mock.patch("blocks2tokens.model.prefill.matmul_into", listening):
        for start in range(0, len(ids), PASSAGE):
            part = np.array(ids[start : start + PASSAGE])
            first_layer.hidden(part, model.transformer.new_cache(len(part)))
    return np.concatenate(heard)


def tokens_of(model: Model, name: str, n: int) -> list[int]:
    """Return the first n tokens of a text of the course, such as "austen_heldout.txt.xz"."""
    with lzma.open(models.DATA / name, "rt", encoding="utf-8") as file:
        return model.tokenizer.encode(file.read(6 * n))[:n]
