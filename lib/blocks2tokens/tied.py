"""Tied: an embedding that is the output matrix too has two kinds of errors.

    ids -> rows of token_embd -> layers -> x -> x @ token_embd.T -> logits
           an error of a row: all layers        an error E changes the logits
           read a stream that starts wrong      by x @ E.T

    KL  =  output * trace(E @ hessian @ E.T)  +  lookup * trace(E @ E.T)
        =  output * trace(E @ (hessian + share * I) @ E.T)        share = lookup / output

The hessian, of x, knows nothing of lookups, and what is rounded by it alone pays for good logits with rows
that are far off. In a lookup each column is taken to count as much as any other. Both factors are measured:
the KL where one use reads a coarse copy of the matrix, and the other the matrix as it is. In both a row
counts as often as its token comes; so one share serves all rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace

import numpy as np

from blocks2tokens.formats import FORMATS
from blocks2tokens.generate import Model
from blocks2tokens.importance import hessians as hessians_of_outputs
from blocks2tokens.kernels import unrounded
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.model import Transformer
from blocks2tokens.quality import Reference

EMBEDDING = "token_embd.weight"
COARSE = FORMATS["Q4_0"]  # of the copy: its errors are of the size of those to come, and above all noise
TOKENS = 512  # of the text that both uses are measured on


def hessians(model: Model, ids: Sequence[int], names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what `importance.hessians` does, float32 [experts, K, K]; for a tied embedding plus share * I.

    Raises ValueError as that does.
    """
    for name, hessian in hessians_of_outputs(model, ids, names):
        if name == EMBEDDING and hessian.shape[-1] % COARSE.block_size == 0:
            share = lookup_share(model, ids, hessian[0])
            hessian[0] += np.float32(share) * np.eye(hessian.shape[-1], dtype=np.float32)
        yield name, hessian


def lookup_share(model: Model, ids: Sequence[int], hessian: np.ndarray) -> float:
    """Return by how much the square of an error counts as a row, where its product with the hessian counts 1.

    hessian  float32 [K, K], of the output matrix. Measured on the first TOKENS of the text.
    """
    ids, matrix = np.asarray(ids)[: TOKENS + 1], model.transformer.token_embd
    coarse = QuantizedMatrix.quantize(matrix.dequantize(), COARSE)
    E = coarse.rows(ids) - matrix.rows(ids)
    of_output = float(np.einsum("nk,nk->", E @ hessian, E, dtype=np.float64))
    of_lookup = float(np.einsum("nk,nk->", E, E, dtype=np.float64))
    if of_output <= 0:
        return 0.0
    with unrounded():
        reference = Reference(model, ids)
        output, lookup = (_kl(model, reference, use, coarse) for use in ("output", "token_embd"))
    return (lookup / of_lookup) / max(output / of_output, 1e-30)


def _kl(model: Model, reference: Reference, use: str, matrix: QuantizedMatrix) -> float:
    """Return the KL where one use of the embedding, "output" or "token_embd", has another matrix."""
    transformer = Transformer(model.file, model.config)
    setattr(transformer.weights, use, matrix)
    changed = SimpleNamespace(config=model.config, transformer=transformer)
    return max(0.0, reference.measure(changed).kl.value)
