"""Phase 1 of the report, "naive fused": decode one weight for every multiplication.

    for i: for j: for k:   out[i, j] += a[i, k] * decode_element(f),   f = k * N + j

Blocks run along the flat index f, that is along N, while the inner loop runs along K. So each step lands
in another block, and each call starts from nothing: find the block, read its whole header, unpack every
scale in it, use one, forget all. No float32 copy of B is ever made.
"""

import numpy as np
from numba import njit

from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.report.decoders import element_bytes, element_decoder


@njit(cache=True)
def multiply_rows(decode_element, a, raw, first, last, out):
    """Fill rows first to last - 1 of out, float32 [M, N], from a, float32 [M, K], and raw, uint8 [bytes]."""
    K, N = a.shape[1], out.shape[1]
    for i in range(first, last):
        for j in range(N):
            total = np.float32(0)
            for k in range(K):
                total += a[i, k] * decode_element(raw, k * N + j)
            out[i, j] = total


def run(a, w):
    out = np.empty((a.shape[0], w.shape[1]), np.float32)
    multiply_rows(element_decoder(w.format), a, w.raw, 0, len(a), out)
    return out


def count(M, K, N, fmt, cores):
    return Cost(
        elements_decoded=M * K * N,
        blocks_decoded=0,
        lookups=0,
        bytes_read=M * K * N * element_bytes(fmt) + 4 * M * K,
        temporary_bytes=0,
        multiply_adds=M * K * N,
    )


KERNEL = Kernel("phase1_naive_fused", "report", "decode one weight for every multiplication", run, count)
