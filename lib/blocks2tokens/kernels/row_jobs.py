"""Rows of any matrix against one row of x: the piece of work that a decoding core takes at a time.

    data      uint8 [file]         the whole mapped file; row n of a matrix is at byte `at` + n * row_bytes
    x         float32 [K]
    codes, d, sums                 x as 8-bit activations, [1, K], [1, K / block], [1, K / group], with zeros
                                   behind the end up to whole units of the weights
    row       float32 [>= K]       room to decode a row in
    out       float32 [N]          out[n] for first <= n < last

All formats have the same signature, so that a model of mixed formats is one loop with a call for each job.
Formats with vector code dot integers, as `simd_dot` does; the others decode a row into `row` and dot
floats, as `fused_rows` does.
"""

from functools import cache

from numba import types

from blocks2tokens.formats import Format
from blocks2tokens.formats.compiled import BYTES, pointer
from blocks2tokens.kernels import simd
from blocks2tokens.kernels.fused_rows import dot
from blocks2tokens.kernels.simd import address_of
from blocks2tokens.kernels.simd_dot import FLOATS_2D, group_of, named
from blocks2tokens.kernels.simd_rows import ORDERS, SIMD_FORMATS, one, rounded

SIGNATURE = types.void(
    BYTES,  # data
    types.int64,  # at
    types.int64,  # row_bytes
    types.int64,  # first
    types.int64,  # last
    types.float32[::1],  # x
    types.int8[:, ::1],  # codes
    FLOATS_2D,  # d
    FLOATS_2D,  # sums
    types.float32[::1],  # row
    types.float32[::1],  # out
)


@cache
def integer_rows(name: str, isa_name: str):
    """Return the job for a format with vector code, as a function pointer."""
    fmt, isa = SIMD_FORMATS[name], simd.INSTRUCTION_SETS[isa_name]

    def rows(data, at, row_bytes, first, last, x, codes, d, sums, row, out):
        a, weights = rounded(fmt, codes, d, sums), address_of(data) + at
        for n in range(first, last):
            out[n] = one(fmt, isa, weights, n * row_bytes, row_bytes, a, 0)

    return pointer(named(rows, f"integer_rows_{name}_{isa_name}".lower()), SIGNATURE)


@cache
def float_rows(fmt: Format):
    """Return the job for any format, by way of float32, as a function pointer."""
    decode_row = fmt.module.decode_row

    def rows(data, at, row_bytes, first, last, x, codes, d, sums, row, out):
        for n in range(first, last):
            decode_row(data[at + n * row_bytes : at + (n + 1) * row_bytes], row[: x.size])
            out[n] = dot(x, row[: x.size])

    return pointer(named(rows, f"float_rows_{fmt.name}".lower()), SIGNATURE)


def activation_kind(fmt: Format) -> tuple[int, int, int, tuple[int, ...]]:
    """Return how x is rounded for a format with vector code: block, group, unit, order of the codes."""
    unit = SIMD_FORMATS[fmt.name]
    return fmt.block_size, group_of(unit), unit.span, ORDERS.get(fmt.name, (0,))
