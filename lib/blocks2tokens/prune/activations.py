"""Activations: what each matrix of a model meets on a text.

    input          of the matrices              width
    attn_norm      attn_q, attn_k, attn_v       dim
    attn_heads     attn_output                  n_heads * head_dim
    ffn_norm       ffn_gate, ffn_up             dim
    ffn_gated      ffn_down                     ffn_dim

    squares[layer, input]    float64 [width]          sum over tokens of the square of each column
    products[layer, input]   float32 [width, width]   X^T X, if asked for
    influence                float64 [n_layers]       mean of 1 - cos(stream before, stream behind the layer)

The plain forward pass is listened to: its norms, gate and attention are arguments. All weights are in memory
as float32 meanwhile. Source of the influence: Men et al., "ShortGPT", 2024.
"""

from collections.abc import Sequence

import numpy as np

from blocks2tokens.generate import Model
from blocks2tokens.jit.cores import one_blas_thread
from blocks2tokens.model.attention import attend
from blocks2tokens.model.forward import forward
from blocks2tokens.model.layers import GATES, rms_norm

INPUT = {"attn_q": "attn_norm", "attn_k": "attn_norm", "attn_v": "attn_norm", "attn_output": "attn_heads"}
INPUT |= {"ffn_gate": "ffn_norm", "ffn_up": "ffn_norm", "ffn_down": "ffn_gated"}
MATRICES = tuple(INPUT)
WINDOW = 512  # tokens read together
LEAST = 32  # tokens: from fewer, most columns of a matrix look alike


class Activations:
    """What a model's matrices meet on token ids; see the module's picture for `squares` and the others."""

    def __init__(self, model: Model, ids: Sequence[int], products: bool = False):
        """Run the model over ids; ValueError for fewer than LEAST, and for ids outside the vocabulary."""
        ids = model.transformer.check_ids(ids)
        if len(ids) < LEAST:
            raise ValueError(f"ids: expected at least {LEAST} tokens to learn from, got {len(ids)}")
        self.model, self.n_tokens = model, len(ids)
        self.squares: dict[tuple[int, str], np.ndarray] = {}
        self.products: dict[tuple[int, str], np.ndarray] | None = {} if products else None
        self.influence = np.zeros(model.config.n_layers)
        self._norms = _places_of_norms(model)
        window = min(WINDOW, model.config.context_length)
        for i in range(0, len(ids), window):
            self._before, self._layer = None, 0
            gated = GATES[model.config.family.gate]
            forward(model, ids[i : i + window], norm=self._norm, attend=self._attend, gated=self._gate(gated))
        self.influence /= len(ids)

    def norms(self, layer: int, matrix: str) -> np.ndarray:
        """Return the norm over all tokens of each input column of a matrix, float64 [K]."""
        return np.sqrt(self.squares[layer, INPUT[matrix]])

    def _norm(self, x, weight, eps):
        out = rms_norm(x, weight, eps)
        layer, name = self._norms.get(id(weight), (0, "of heads"))
        if name in ("attn_norm", "output_norm"):
            self._stream(layer, x)
        if name in ("attn_norm", "ffn_norm"):
            self._note(name, out)
        return out

    def _gate(self, gated):
        def listened(gate, up):
            out = gated(gate, up)
            self._note("ffn_gated", out)
            return out

        return listened

    def _attend(self, q, k, v, **rule):
        out = attend(q, k, v, **rule)  # [T, n_heads, head_dim]
        self._note("attn_heads", out.reshape(len(out), -1))
        return out

    def _note(self, name, x) -> None:
        """Add the inputs x, float32 [T, K], of some matrices of the layer that runs."""
        place = self._layer, name
        squares = np.square(x, dtype=np.float64).sum(axis=0)
        self.squares[place] = self.squares.get(place, 0) + squares
        if self.products is not None:
            with one_blas_thread():
                self.products[place] = self.products.get(place, 0) + x.T @ x

    def _stream(self, layer, x) -> None:
        """Compare the stream x in front of a layer, float32 [T, dim], with that in front of the last."""
        if self._before is not None:
            self.influence[layer - 1] += (1 - cosines(self._before, x)).sum()
        self._before, self._layer = x, layer


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the cosine of the angle between each row of x and that of y, [T, dim] -> float64 [T]."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return (x * y).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)


def _places_of_norms(model: Model) -> dict[int, tuple[int, str]]:
    """Return {id of a norm's weights: (layer, which)}; the last norm stands behind the last layer."""
    layers = model.transformer.layers
    places = {
        id(vars(w)[name]): (i, name) for i, w in enumerate(layers) for name in ("attn_norm", "ffn_norm")
    }
    return places | {id(model.transformer.output_norm): (len(layers), "output_norm")}
