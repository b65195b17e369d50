"""Decode one row of weights into cache and use it at once.

    row n of w, quantized  ->  K floats in cache  ->  one dot product for each row of x

No float32 copy of the matrix: K floats per core are all. The cores share the rows of w.
"""

import numpy as np
from numba import njit, prange

from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.scratch import with_own_memory

ROWS_AT_ONCE = 16  # rows of w that a core takes at a time


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def dot(a, b):
    total = np.float32(0)
    for k in range(a.size):
        total += a[k] * b[k]
    return total


@njit(parallel=True, cache=True)
def multiply(decode_row, x, raw, out):
    """Fill out, float32 [M, N], from x, float32 [M, K], and raw, uint8 [N, row bytes]."""
    N, K = raw.shape[0], x.shape[1]
    for chunk in prange((N + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE):
        row = np.empty(K, np.float32)
        for n in range(ROWS_AT_ONCE * chunk, min(ROWS_AT_ONCE * (chunk + 1), N)):
            decode_row(raw[n], row)
            for m in range(x.shape[0]):
                out[m, n] = dot(x[m], row)


def needs(M, w):
    return {}


def run_into(x, w, out, room):
    multiply(w.format.row_decoder, x, w.raw, out)


run = with_own_memory(needs, run_into)


def count(M, K, N, fmt, cores):
    return Cost(
        elements_decoded=N * K,
        blocks_decoded=N * K // fmt.block_size,
        lookups=0,
        bytes_read=N * fmt.row_bytes(K) + 4 * M * K,
        temporary_bytes=4 * K * cores,
        multiply_adds=M * N * K,
    )


KERNEL = Kernel(
    "fused_rows",
    "gguf",
    "decode a row into cache, use it for every row of x",
    run,
    count,
    needs=needs,
    run_into=run_into,
)
