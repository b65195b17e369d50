"""Error feedback: round a row column by column, and let the columns behind make up for each error.

    w [K]          one row of a matrix, float32; changed while it is rounded
    U [K, K]       upper triangle with U.T @ U = inverse of the damped hessian (x.T @ x), float32
    column j       q = nearest(w[j]);  e = (w[j] - q) / U[j, j];  w[j + 1:] -= e * U[j, j + 1:]

That is the change of the columns behind that makes the error of the outputs smallest. The scales of a block
are chosen when its first column is reached, for the weights as they are by then. So the file stays an
ordinary one, and only which code a weight gets is new.

Which bits of a block are codes is asked of the decoder, see `code_bits`: one function serves every format.

Source: Frantar et al. 2022, GPTQ. Into blocks with scales of scales: ours.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit, prange

from blocks2tokens.formats.compiled import as_in_c
from blocks2tokens.formats.format import Format
from blocks2tokens.jit.cores import one_blas_thread, takes_turns

FORMATS = (
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
)
DAMPING = 0.01  # of the hessian's mean diagonal, added to it: GPTQ's


class Codes(NamedTuple):
    """Where a format keeps its codes, and what they stand for.

    places   int64 [weights, bits]   bit number of each bit of each code in the block, lowest first
    levels   float32 [2 ** bits]     what the codes stand for, ascending, from 0 to 1 of a sub-block's range
    codes    int64 [2 ** bits]       the code of each level
    """

    places: np.ndarray
    levels: np.ndarray
    codes: np.ndarray

    def write(self, raw: np.ndarray, levels: np.ndarray) -> None:
        """Set the codes of blocks, uint8 [n, bytes], to levels, integers [n, weights]."""
        bits = np.unpackbits(raw, axis=1, bitorder="little")
        codes = self.codes[levels]
        for b in range(self.places.shape[1]):
            bits[:, self.places[:, b]] = (codes >> b) & 1
        raw[:] = np.packbits(bits, axis=1, bitorder="little")


@cache
def code_bits(fmt: Format) -> Codes:
    """Find the bits of the codes: turning one of them round changes one weight, and those of scales many."""
    n_bits = 8 * fmt.bytes_per_block
    x = np.full(fmt.block_size, 0.7, np.float32)  # as large as the others, and none near zero, where a bit of
    x[1::2] *= -1  # the sign would change nothing: so the bits of all codes are ordered alike
    block = np.unpackbits(fmt.quantize(x), bitorder="little")
    turned = block[None] ^ np.eye(n_bits, dtype=np.uint8)
    changes = fmt.dequantize(np.packbits(turned, axis=1, bitorder="little"))
    changes -= fmt.dequantize(np.packbits(block, bitorder="little"))
    owner = np.where((changes != 0).sum(axis=1) == 1, (changes != 0).argmax(axis=1), -1)
    size = np.abs(changes).max(axis=1)
    own = [np.flatnonzero(owner == i) for i in range(fmt.block_size)]
    places = np.array([bits[np.argsort(size[bits], kind="stable")] for bits in own])
    return Codes(places, *_levels(fmt, block, places))


def _levels(fmt: Format, block: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the levels of a format in ascending order, from 0 to 1, and their codes."""
    n = 2 ** places.shape[1]
    blocks = np.repeat(block[None], n, axis=0)
    for b in range(places.shape[1]):
        blocks[:, places[0, b]] = np.arange(n) >> b & 1
    values = fmt.dequantize(np.packbits(blocks, axis=1, bitorder="little"))[:, 0]
    order = np.argsort(values, kind="stable")
    low, high = values[order[0]], values[order[-1]]
    return ((values[order] - low) / (high - low)).astype(np.float32), order


def triangle(hessian: np.ndarray) -> np.ndarray:
    """Return U, float64 [K, K], of a hessian [K, K]: upper triangle, U.T @ U = inverse of it, damped.

    A column that the text never used gets the mean of the others.
    """
    damped = hessian.astype(np.float64)
    diagonal = np.diagonal(damped)
    mean = diagonal.mean() or 1.0
    damped[np.diag_indices_from(damped)] += np.where(diagonal > 0, DAMPING * mean, mean)
    with one_blas_thread():
        return np.linalg.cholesky(np.linalg.inv(damped)).T


def factor(hessian: np.ndarray) -> np.ndarray:
    """Return the triangle of a hessian as `encode` takes it, float32 [K, K]."""
    return triangle(hessian).astype(np.float32, order="C")


def encode(
    fmt: Format, x: np.ndarray, U: np.ndarray, importance: np.ndarray | None, effort: str
) -> np.ndarray:
    """Encode x, float32 [rows, K], to uint8 [rows, bytes], each error fed into the columns behind.

    `U` is a `factor`; importance and effort are those of `Format.quantize`, which chooses the scales.
    Raises ValueError for a format that is not in FORMATS, a U of another shape, and as `Format.quantize`.
    """
    if fmt.name not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {fmt.name}")
    n_bytes, K, size = fmt.row_bytes(x.shape[-1]), x.shape[-1], fmt.block_size
    if U.shape != (K, K) or U.dtype != np.float32:
        raise ValueError(f"U: expected float32 {(K, K)}, got {U.dtype} {U.shape}")
    codes, w = code_bits(fmt), x.copy()
    halfway = (codes.levels[1:] + codes.levels[:-1]) / 2
    out = np.empty((len(x), n_bytes), np.uint8)
    for i in range(K // size):
        columns = slice(size * i, size * (i + 1))
        part = np.ascontiguousarray(w[:, columns])
        weights = None if importance is None else importance[columns]
        raw = fmt.quantize(part, importance=weights, effort=effort)
        low, high = (_at_level(fmt, codes, raw, level) for level in (0, len(codes.levels) - 1))
        levels, errors = np.empty(part.shape, np.uint8), np.empty_like(part)
        within = np.ascontiguousarray(U[columns, columns])
        round_columns(part, low, high, codes.levels, halfway, within, levels, errors)
        codes.write(raw, levels)
        out[:, fmt.bytes_per_block * i : fmt.bytes_per_block * (i + 1)] = raw
        w[:, columns.stop :] -= errors @ U[columns, columns.stop :]
    return out


def _at_level(fmt: Format, codes: Codes, raw: np.ndarray, level: int) -> np.ndarray:
    """Return what blocks would decode to with all codes at one level, float32 [rows, weights]."""
    changed = raw.copy()
    codes.write(changed, np.full((len(raw), fmt.block_size), level))
    return fmt.dequantize(changed)


@as_in_c
def nearest(position, halfway):
    """Return the index of the level nearest to a position from 0 to 1."""
    index = 0
    for boundary in halfway:
        index += position > boundary
    return index


@takes_turns
@njit(parallel=True, cache=True, error_model="numpy")
def round_columns(w, low, high, table, halfway, U, levels, errors):
    """Round w to values from low to high; write levels, uint8, and errors: all float32 [rows, n] but that.

    errors[j] is (w[j] - q) / U[j, j]: fed back within the n columns, for w is changed, and left to the caller
    for those behind. table float32 [levels], halfway between its numbers, U float32 [n, n].
    """
    for row in prange(w.shape[0]):
        for j in range(w.shape[1]):
            span = high[row, j] - low[row, j]
            level = nearest((w[row, j] - low[row, j]) / span, halfway) if span != 0 else 0
            error = (w[row, j] - (low[row, j] + span * table[level])) / U[j, j]
            levels[row, j], errors[row, j] = level, error
            for k in range(j + 1, w.shape[1]):
                w[row, k] -= error * U[j, k]
