"""Encoder: how the weights of each tensor become blocks, by what is known of their inputs.

    importance   effort    what is made small                   how
    none         "ggml"    ggml's own weighted error            `Format.quantize`, byte for byte ggml's
    given        "ggml"    the same, weighted by column         as llama-quantize --imatrix
    none         "best"    sum of error ** 2                    `formats.best`
    given        "best"    sum of mean(x ** 2) * error ** 2     `formats.best`
    with text    "best"    error of the outputs, over the text  `formats.feedback`

The error of a tied embedding is that of its rows too, see `tied`. One hessian at a time is worked with; they
come in the order of the tensors in the file.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from blocks2tokens.formats import FORMATS, feedback
from blocks2tokens.generate import Model
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.importance import Importance, affordable
from blocks2tokens.tied import hessians

EFFORTS = ("ggml", "best")


class Encoder:
    """encoder(name, matrix, weights) returns the blocks of some rows of a tensor."""

    def __init__(
        self,
        file: GGUFFile,
        formats: Mapping[str, str],
        importance: Importance | None,
        effort: str,
        model: Callable[[], Model],
    ):
        """`formats` says what each tensor becomes; it is called with the tensors in their order in `file`.

        `model` loads the file's model, and is called only where errors are fed back.
        """
        self.file, self.formats, self.importance, self.effort = file, formats, importance, effort
        self._hessians: Iterator = iter(())
        self._now: tuple = None, 0, None, None
        self.fed = self._with_feedback()
        if self.fed:
            self._hessians = hessians(model(), importance.ids, self.fed)
        self._hessian = None

    def _with_feedback(self) -> list[str]:
        """Return the tensors whose errors are fed back."""
        if self.effort != "best" or self.importance is None or self.importance.ids is None:
            return []
        return [
            name
            for name, made in self.formats.items()
            if name in self.importance
            and made in feedback.FORMATS
            and made != self.file.format(name).name
            and affordable(self.file, name)
        ]

    def __call__(self, name: str, matrix: int, weights: np.ndarray) -> np.ndarray:
        """Encode weights, float32 [rows, K], of a tensor, in a mixture of expert `matrix`."""
        fmt = FORMATS[self.formats[name]]
        if name in self.fed:
            return feedback.encode(fmt, weights, *self._factor(name, matrix), self.effort)
        important = None
        if self.importance is not None and name in self.importance:
            important = self.importance.mean(name)[matrix]
        return fmt.quantize(weights, importance=important, effort=self.effort)

    def _factor(self, name: str, matrix: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the factor of a matrix's hessian, and its diagonal, made once for all its rows."""
        if self._hessian is None or self._hessian[0] != name:
            self._hessian = next(self._hessians)
            assert self._hessian[0] == name, "tensors come in the order of the file"
        if self._now[:2] != (name, matrix):
            hessian = self._hessian[1][matrix]
            self._now = name, matrix, feedback.factor(hessian), np.diagonal(hessian).copy()
        return self._now[2:]
