"""Experts: matrices of one shape and format, one for each expert of a mixture.

    blk.i.ffn_gate_exps.weight    raw uint8 [n_experts, N, row bytes]    expert e is raw[e], a matrix [N, K]

A token goes through a few of them; the others' weights stay unread, in the mapped file.
"""

import numpy as np

from blocks2tokens.formats import Format
from blocks2tokens.matrix import QuantizedMatrix


class Experts:
    """`experts[e]` is a QuantizedMatrix; `shape` is (N, K) of each, `raw` the bytes of all."""

    def __init__(self, raw: np.ndarray, fmt: Format, shape: tuple[int, int]):
        """Wrap raw, uint8 [n_experts, N, row bytes], without a copy; ValueError unless it fits."""
        self.raw, self.format, self.shape = raw, fmt, shape
        self._matrices = [QuantizedMatrix(part, fmt, shape) for part in raw]

    def __len__(self) -> int:
        return len(self._matrices)

    def __getitem__(self, expert: int) -> QuantizedMatrix:
        return self._matrices[expert]

    @property
    def nbytes(self) -> int:
        """Bytes of all experts' blocks."""
        return self.raw.nbytes

    def dequantize(self) -> np.ndarray:
        """Decode all experts, float32 [n_experts, N, K]."""
        return self.format.dequantize(self.raw)
