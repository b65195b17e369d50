"""Sparse rows: of each row only the weights that are not 0, with one byte each for where they stand.

    W [N, K] in groups of 256 columns
    starts   int32 [N * K / 256 + 1]    where a group's weights begin; its next neighbour's start ends it
    places   uint8 [kept]               column within the group
    values   float32 or float16 [kept]

    bytes of a row = kept * (1 + bytes of a value) + 4 * K / 256

One row of x, and the cores share the rows. A dense row is read without the places; a sparse one jumps in x.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from blocks2tokens.formats.compiled import half_to_float
from blocks2tokens.jit.cores import in_turn

GROUP = 256  # columns that a byte tells apart
START_BYTES = 4
DTYPES = {"F32": np.float32, "F16": np.float16}


@dataclass(frozen=True)
class SparseRows:
    """A packed matrix, made by `pack`; see the module's picture."""

    shape: tuple[int, int]
    starts: np.ndarray
    places: np.ndarray
    values: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of all three arrays."""
        return self.starts.nbytes + self.places.nbytes + self.values.nbytes

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        """Return W @ x, float32 [N], for x float32 [K]; ValueError for another."""
        N, K = self.shape
        if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.shape != (K,):
            raise ValueError(f"x: expected float32 of shape ({K},), got {getattr(x, 'shape', x)!r}")
        out, is_half = np.empty(N, np.float32), self.values.dtype == np.float16
        values, read = (self.values.view(np.uint16), as_float) if is_half else (self.values, as_it_is)
        in_turn(multiply, read, self.starts, self.places, values, np.ascontiguousarray(x), out)
        return out


def pack(W: np.ndarray, fmt: str = "F32") -> SparseRows:
    """Return W, float32 [N, K], without its zeros; ValueError unless K is a multiple of 256.

    Values are float32, or for "F16" rounded to float16.
    """
    if W.ndim != 2 or W.dtype != np.float32 or W.shape[1] % GROUP:
        raise ValueError(f"W: expected float32 rows of a multiple of {GROUP}, got {W.dtype} {W.shape}")
    if W.size >= 2**31:
        raise ValueError(f"W: expected fewer than 2**31 weights, got {W.size:,}")
    groups = W.reshape(-1, GROUP)
    group, place = np.nonzero(groups)
    starts = np.searchsorted(group, np.arange(len(groups) + 1)).astype(np.int32)
    return SparseRows(W.shape, starts, place.astype(np.uint8), groups[group, place].astype(DTYPES[fmt]))


def row_bytes(K: int, kept: int, value_bytes: int) -> int:
    """Return the bytes of a row of K weights, of which some are kept."""
    return kept * (1 + value_bytes) + START_BYTES * (K // GROUP)


def break_even(value_bytes: int, dense_bits: float) -> float:
    """Return the share of zeros from which sparse rows have fewer bytes than dense ones of so many bits."""
    return 1 - (dense_bits - 8 * START_BYTES / GROUP) / (8 * (1 + value_bytes))


@njit
def as_it_is(value):
    return value


@njit
def as_float(bits):
    return half_to_float(bits)


@njit(parallel=True, fastmath={"reassoc", "contract", "nsz"})
def multiply(read, starts, places, values, x, out):
    """Fill out, float32 [N]: each row's kept weights times what x has in their places."""
    groups = x.size // GROUP
    for n in prange(out.size):
        total = np.float32(0)
        for g in range(groups):
            first, last = starts[n * groups + g], starts[n * groups + g + 1]
            kept, at, window = values[first:last], places[first:last], x[g * GROUP : (g + 1) * GROUP]
            for i in range(kept.size):
                total += read(kept[i]) * window[at[i]]
        out[n] = total
