"""Austen with other matrices in its layers, to ask of a format what it does to text.

austen_with(change)     change(W) -> QuantizedMatrix, for each matrix W of each layer, float32 [out, in]
austen_in("Q4_K")       all of them in one format
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from blocks2tokens.course import models
from blocks2tokens.generate import Model, load
from blocks2tokens.matrix import QuantizedMatrix


def austen_with(change: Callable[[np.ndarray], QuantizedMatrix]) -> Model:
    """Return Austen with change(W) in the place of each matrix W of its layers, float32 [out, in]."""
    model = load(models.austen())
    layers = model.transformer.layers
    for i, layer in enumerate(layers):
        matrices = {name: w for name, w in vars(layer).items() if isinstance(w, QuantizedMatrix)}
        layers[i] = replace(layer, **{name: change(w.dequantize()) for name, w in matrices.items()})
    return model


def austen_in(name: str) -> Model:
    """Return Austen with each matrix of its layers in the format called `name`."""
    return austen_with(lambda W: QuantizedMatrix.quantize(W, name))
