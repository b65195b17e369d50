"""Rows of any matrix against one row of x: the piece of work that a decoding core takes at a time.

    weights, row_bytes    address of row 0 of a matrix; row n is n * row_bytes behind it
    first, last           out[n] is filled for first <= n < last
    x, K                  address of float32 [K]
    codes, d, sums        addresses of x as `quantized_activations`, in tiles of one row
    row                   address of room for K float32, to decode a row or to leave sums in
    out                   address of float32 [N]
    coming                address of the rows that this core will multiply next

Several rows of x at a time are a tile: `lane_tile`.

All formats have the same signature, twelve whole numbers, so that a model of mixed formats is one loop with
a call for each job. `lane_rows` takes sixteen rows at a time, as `simd_dot` does; `float_rows` decodes a row
and dots floats, as `fused_rows` does: on CPUs without vector code, and for matrices that it does not fit.
"""

from functools import cache

from numba import types

from blocks2tokens.formats import Format
from blocks2tokens.formats.compiled import pointer
from blocks2tokens.jit.lanes import ROWS
from blocks2tokens.jit.naming import named
from blocks2tokens.jit.pointers import bytes_at, floats_at
from blocks2tokens.jit.vectors import load_float, store_float
from blocks2tokens.kernels import prefetching
from blocks2tokens.kernels.ours.fused_rows import dot
from blocks2tokens.kernels.ours.panels import rows as multiply_rows
from blocks2tokens.kernels.ours.panels import tag_of
from blocks2tokens.kernels.ours.unpack import PACKED

SIGNATURE = types.void(*[types.int64] * 12)


@cache
def lane_rows(name: str, isa_name: str):
    """Return the job for a format with vector code, as a function pointer; the matrix has 16 rows or more."""
    packed, tag = PACKED[name], tag_of(name, isa_name, 1, prefetching.chosen())
    size, is_float = packed.weights, packed.is_float

    def rows(weights, row_bytes, first, last, x, K, codes, d, sums, row, out, coming):
        codes = x if is_float else codes
        for n in range(first, last, ROWS):
            start = max(0, min(n, last - ROWS))
            at = weights + start * row_bytes
            following = at + ROWS * row_bytes if n + ROWS < last else coming
            multiply_rows(tag, at, row_bytes, K // size, codes, d, sums, row, following)
            for i in range(n, min(n + ROWS, last)):
                store_float(out, 4 * i, load_float(row, 4 * (i - start)))

    return pointer(named(rows, f"lane_rows_{name}_{isa_name}".lower()), SIGNATURE)


@cache
def lane_tile(name: str, isa_name: str, n_rows: int):
    """Return the job for n_rows rows of x, whose codes are a tile; each weight is unpacked once for all.

    In the place of x are the bytes from a row of out to the next; where weights are floats, x itself is the
    tile, in the place of the codes. A row of out is to the last bit what `lane_rows` makes of its row of x.
    """
    tag, size = tag_of(name, isa_name, n_rows, prefetching.chosen()), PACKED[name].weights

    def tile(weights, row_bytes, first, last, out_bytes, K, codes, d, sums, room, out, coming):
        for n in range(first, last, ROWS):
            start = max(0, min(n, last - ROWS))
            at = weights + start * row_bytes
            following = at + ROWS * row_bytes if n + ROWS < last else coming
            multiply_rows(tag, at, row_bytes, K // size, codes, d, sums, room, following)
            for m in range(n_rows):
                for i in range(n, min(n + ROWS, last)):
                    made = load_float(room, 4 * (ROWS * m + i - start))
                    store_float(out + m * out_bytes, 4 * i, made)

    return pointer(named(tile, f"lane_tile_{name}_{isa_name}_{n_rows}".lower()), SIGNATURE)


@cache
def float_rows(fmt: Format):
    """Return the job for any format, by way of float32, as a function pointer."""
    decode_row = fmt.module.decode_row

    def rows(weights, row_bytes, first, last, x, K, codes, d, sums, row, out, coming):
        inputs, decoded = floats_at(x, K), floats_at(row, K)
        for n in range(first, last):
            decode_row(bytes_at(weights + n * row_bytes, row_bytes), decoded)
            store_float(out, 4 * n, dot(inputs, decoded))

    return pointer(named(rows, f"float_rows_{fmt.name}".lower()), SIGNATURE)
