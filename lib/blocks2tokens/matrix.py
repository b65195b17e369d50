"""QuantizedMatrix: raw blocks, their format, and the shape they stand for.

    layout "gguf"     W [N, K] = [out, in]; raw uint8 [N, row bytes]; each row is whole blocks along K
    layout "report"   B [K, N] = [in, out]; raw uint8 [bytes]; blocks run along the flat row-major index

GGUF files store the first. The second is what the report's kernels read.
"""

from operator import index

import numpy as np

from blocks2tokens.formats import FORMATS, Format
from blocks2tokens.formats.format import checked, read_only

LAYOUTS = ("gguf", "report")


def _format(fmt: "Format | str") -> Format:
    if isinstance(fmt, Format):
        return fmt
    if not isinstance(fmt, str) or fmt not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {fmt!r}")
    return FORMATS[fmt]


def _shape(shape) -> tuple[int, int]:
    try:
        rows, columns = (index(n) for n in shape)
    except (TypeError, ValueError):
        raise ValueError(f"shape: expected two whole numbers, got {shape!r}") from None
    if rows < 0 or columns < 0:
        raise ValueError(f"shape: expected no negative dimension, got {shape!r}")
    return rows, columns


def _raw_shape(fmt, shape, layout):
    """Return the shape of the bytes of such a matrix; ValueError unless its weights fill whole blocks."""
    rows, columns = shape
    if layout == "gguf":
        return rows, fmt.row_bytes(columns)
    if rows * columns % fmt.block_size:
        raise ValueError(
            f"{fmt.name}: K * N must be a multiple of {fmt.block_size} weights, got K * N = {rows * columns} "
            f"for shape {shape}"
        )
    return (fmt.row_bytes(rows * columns),)


class QuantizedMatrix:
    """A matrix that stays quantized.

    raw      uint8, read-only view of the blocks; may lie in a mapped file
    format   the Format of the blocks
    shape    (N, K) for layout "gguf", (K, N) for layout "report"
    """

    def __init__(self, raw: np.ndarray, fmt: "Format | str", shape: tuple, layout: str = "gguf"):
        """Wrap raw blocks without a copy; ValueError unless they fit format, shape and layout."""
        if layout not in LAYOUTS:
            raise ValueError(f"layout: expected one of {LAYOUTS}, got {layout!r}")
        self._format, self._layout = _format(fmt), layout
        self._shape = _shape(shape)
        expected = _raw_shape(self.format, self.shape, layout)
        if checked(raw, np.uint8, "raw").shape != expected:
            raise ValueError(f"raw: {self.format.name} {self.shape} needs shape {expected}, got {raw.shape}")
        self._raw = read_only(raw)

    # Read-only: compiled kernels trust that these fit together, as checked above.
    raw = property(lambda self: self._raw)
    format = property(lambda self: self._format)
    shape = property(lambda self: self._shape)
    layout = property(lambda self: self._layout)

    @classmethod
    def quantize(cls, W: np.ndarray, fmt: "Format | str", layout: str = "gguf", **how) -> "QuantizedMatrix":
        """Quantize W, float32 [N, K] (layout "report": B, float32 [K, N]).

        `how` goes to Format.quantize: importance, effort. Raises ValueError as that does.
        """
        if checked(W, np.float32, "W").ndim != 2:
            raise ValueError(f"W: expected two dimensions, got shape {W.shape}")
        _raw_shape(_format(fmt), W.shape, layout)
        raw = _format(fmt).quantize(W if layout == "gguf" else W.reshape(-1), **how)
        return cls(raw, fmt, W.shape, layout)

    def __repr__(self):
        rows, columns = self.shape
        return f"QuantizedMatrix({self.format.name} {rows} x {columns}, {self.nbytes:,} bytes, {self.layout})"

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks."""
        return self.raw.nbytes

    def dequantize(self) -> np.ndarray:
        """Decode all weights, float32 of `shape`: a copy as large as the matrix was before."""
        return self.format.dequantize(self.raw).reshape(self.shape)

    def rows(
        self, indices: np.ndarray, raw: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Decode some rows, int [n] -> float32 [n, K]; layout "gguf" only (an embedding lookup).

        In `out`, where one is given, by way of `raw`, uint8 [n, row bytes]. IndexError for a row that is not
        there.
        """
        if self.layout != "gguf":
            raise ValueError(f'rows: only layout "gguf" stores row by row, got {self.layout!r}')
        if out is None:
            return self.format.dequantize(self.raw[indices])
        if not ((indices >= 0) & (indices < len(self.raw))).all():
            raise IndexError(f"rows: expected 0 to {len(self.raw) - 1}, got {indices}")
        np.take(self.raw, indices, axis=0, out=raw, mode="clip")  # any other mode makes a copy first
        return self.format.dequantize(raw, out)
