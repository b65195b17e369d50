"""Format: the one interface to every block format.

    x    float32 [..., K]          --quantize-->     raw uint8 [..., K / block_size * bytes_per_block]
    raw  uint8   [..., n_bytes]    --dequantize-->   float32 [..., K]

Everything that enters compiled code passes through the checks of this class.
"""

from functools import cached_property
from numbers import Integral

import numpy as np

from blocks2tokens.errors import UnsupportedError
from blocks2tokens.formats import compiled
from blocks2tokens.formats.best import improve_rows


def checked(array, dtype, name):
    """Return a C-contiguous array of at least one dimension and the given dtype, or raise ValueError."""
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name}: expected a NumPy array of {np.dtype(dtype)}, got {type(array).__name__}")
    if array.dtype != dtype:
        raise ValueError(f"{name}: expected dtype {np.dtype(dtype)}, got {array.dtype}")
    if array.ndim == 0:
        raise ValueError(f"{name}: expected at least one dimension, got a scalar")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array, got strides {array.strides}")
    return array


def first_index(mask):
    """Return the index of the first True in mask, or None."""
    return tuple(int(i) for i in np.unravel_index(mask.argmax(), mask.shape)) if mask.any() else None


def checked_importance(importance, K):
    """Return importance, float32 [K], finite and >= 0, or raise ValueError."""
    if checked(importance, np.float32, "importance").shape != (K,):
        raise ValueError(f"importance: expected shape ({K},), one for each column, got {importance.shape}")
    if (where := first_index(~(np.isfinite(importance) & (importance >= 0)))) is not None:
        raise ValueError(
            f"importance: expected finite values >= 0, got {importance[where]} at index {where[0]}"
        )
    return importance


def read_only(array):
    """Return a view that cannot be written: the type that compiled functions expect of their input."""
    view = array.view()
    view.flags.writeable = False
    return view


class Format:
    """A way to store weights in blocks.

    name             as ggml calls it, "Q4_K"
    ggml_type        its number in GGUF files
    block_size       weights in a block
    bytes_per_block  bytes of a block
    block            the block as a NumPy structured dtype, a field for each part
    """

    def __init__(self, name, module):
        self.name = name
        self.module = module
        self.ggml_type: int = module.GGML_TYPE
        self.block: np.dtype = module.BLOCK
        self.block_size: int = module.WEIGHTS
        self.bytes_per_block: int = module.BLOCK.itemsize

    def __repr__(self):
        return f"Format({self.name}: {self.block_size} weights in {self.bytes_per_block} bytes)"

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, scales included."""
        return 8 * self.bytes_per_block / self.block_size

    @property
    def can_encode(self) -> bool:
        """Is there an encoder? Formats that need a search over grids are decoded only."""
        return hasattr(self.module, "encode_row")

    @cached_property
    def row_decoder(self):
        """The compiled decoder of one row as a function pointer: (raw uint8 [bytes], out float32 [K])."""
        return compiled.pointer(self.module.decode_row, compiled.DECODE_ROW)

    def row_bytes(self, n_weights: int) -> int:
        """Return the bytes of a row of `n_weights`; ValueError unless they fill whole blocks."""
        if n_weights % self.block_size:
            raise ValueError(
                f"{self.name}: a row must be a multiple of {self.block_size} weights, got {n_weights}"
            )
        return n_weights // self.block_size * self.bytes_per_block

    def row_weights(self, n_bytes: int) -> int:
        """Return the weights in a row of `n_bytes`; ValueError unless they are whole blocks."""
        if n_bytes % self.bytes_per_block:
            raise ValueError(
                f"{self.name}: a row must be a multiple of {self.bytes_per_block} bytes, got {n_bytes}"
            )
        return n_bytes // self.bytes_per_block * self.block_size

    def blocks(self, raw: np.ndarray) -> np.ndarray:
        """View raw, uint8 [..., bytes], as structured blocks, `self.block` [..., n], without a copy."""
        self.row_weights(checked(raw, np.uint8, "raw").shape[-1])
        return raw.view(self.block)

    def dequantize(self, raw: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Decode raw, uint8 [..., bytes], to float32 [..., K], rows in parallel; in `out`, if one is given.

        Raises ValueError for another dtype or shape, a non-contiguous array, a row that is not whole blocks.
        """
        K = self.row_weights(checked(raw, np.uint8, "raw").shape[-1])
        shape = *raw.shape[:-1], K
        if out is None:
            out = np.empty(shape, np.float32)
        elif checked(out, np.float32, "out").shape != shape:
            raise ValueError(f"out: expected shape {shape}, got {out.shape}")
        if out.size:
            compiled.decode_rows(
                self.row_decoder, read_only(raw.reshape(-1, raw.shape[-1])), out.reshape(-1, K)
            )
        return out

    def dequantize_element(self, raw_row: np.ndarray, i: int) -> np.float32:
        """Decode weight `i` of one row, uint8 [bytes], headers and all: as costly as it sounds."""
        if checked(raw_row, np.uint8, "raw_row").ndim != 1:
            raise ValueError(f"raw_row: expected one dimension, got shape {raw_row.shape}")
        K = self.row_weights(raw_row.size)
        if not isinstance(i, Integral) or not 0 <= i < K:
            raise ValueError(f"i: expected a whole number, 0 <= i < {K}, got {i!r}")
        return np.float32(self.module.decode_element(raw_row, int(i)))

    def quantize(
        self, x: np.ndarray, importance: np.ndarray | None = None, effort: str = "ggml"
    ) -> np.ndarray:
        """Encode x, float32 [..., K], to uint8 [..., bytes], rows in parallel.

        importance  float32 [K], >= 0: how much an error in each column counts, the same for every row.
        effort      "ggml": byte for byte what ggml makes of x and this importance; like ggml's, the
                    encoders of Q8_0 and MXFP4 ignore importance.
                    "best": same layout, lower sum of importance * error**2, slower. Starts from what
                    "ggml" gives and keeps each block that it cannot better.
        F32, F16, BF16 and Q8_K have one encoding and ignore both.
        Raises ValueError for another dtype, length or effort, a non-contiguous array, rows that do not
        fill whole blocks, NaN, infinity, and importance below zero; UnsupportedError for a format that is
        decoded only (`can_encode`).
        """
        if not self.can_encode:
            raise UnsupportedError(f"{self.name}: this engine decodes it and has no encoder for it")
        n_bytes = self.row_bytes(checked(x, np.float32, "x").shape[-1])
        if (where := first_index(~np.isfinite(x))) is not None:
            raise ValueError(f"x: expected finite weights, got {x[where]} at index {where}")
        if importance is not None:
            importance = checked_importance(importance, x.shape[-1])
        if effort not in ("ggml", "best"):
            raise ValueError(f"effort: expected 'ggml' or 'best', got {effort!r}")
        raw = np.empty((*x.shape[:-1], n_bytes), np.uint8)
        if raw.size:
            rows = read_only(x.reshape(-1, x.shape[-1]))
            self.encode_rows(rows, importance, effort, raw.reshape(-1, n_bytes))
        return raw

    def encode_rows(self, x, importance, effort, raw):
        """Encode checked rows x, float32 [n, K], into raw, uint8 [n, bytes]."""
        module = self.module
        if importance is not None and hasattr(module, "encode_row_weighted"):
            encoder = compiled.pointer(module.encode_row_weighted, compiled.ENCODE_ROW_WEIGHTED)
            compiled.encode_rows_weighted(encoder, x, read_only(importance), raw)
        else:
            compiled.encode_rows(compiled.pointer(module.encode_row, compiled.ENCODE_ROW), x, raw)
        if effort == "best" and hasattr(module, "improve_block"):
            improver = compiled.pointer(module.improve_block, compiled.IMPROVE_BLOCK)
            weights = np.ones(x.shape[-1], np.float32) if importance is None else importance
            size = self.block_size, self.bytes_per_block
            improve_rows(self.row_decoder, improver, x, read_only(weights), raw, *size)
