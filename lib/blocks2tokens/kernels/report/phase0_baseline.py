"""Phase 0 of the report, its baseline: decode everything, then multiply.

    B [K, N] in blocks  ->  B float32 [K, N]  ->  Bt float32 [N, K]  ->  dot products of rows

    out[i, j] = sum over k of a[i, k] * Bt[j, k]

The decoding runs in one thread. So does the transpose, row of B after row of B, which writes down the
columns of Bt: N cache lines at a time. Only the dot products are shared by the cores, rows of `a` to
each. Products of at most 2**20 multiply-adds skip the transpose and run the textbook loop in one thread.
"""

import numpy as np
from numba import get_num_threads, njit, prange

from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.report.decoders import block_decoder

TRANSPOSE_ABOVE = 1 << 20  # multiply-adds


def workers(M, cores):
    """Return into how many parts the rows of `a` are split: one for each core, if there are as many rows."""
    return max(1, min(cores, M))


@njit(cache=True)
def decode(decode_blocks, raw, B):
    """Fill B, float32 [K * N], from raw, uint8 [bytes]."""
    decode_blocks(raw, B)


@njit(cache=True)
def textbook(a, B, out):
    """Fill out, float32 [M, N], with a @ B: a, float32 [M, K], B, float32 [K, N]."""
    for i in range(a.shape[0]):
        for j in range(B.shape[1]):
            total = np.float32(0)
            for k in range(B.shape[0]):
                total += a[i, k] * B[k, j]
            out[i, j] = total


@njit(cache=True)
def transpose(B, Bt):
    """Copy B, float32 [K, N], to Bt, float32 [N, K], in the order of B."""
    for k in range(B.shape[0]):
        for j in range(B.shape[1]):
            Bt[j, k] = B[k, j]


@njit(cache=True)
def dot(a, b):
    """Sum a * b in order, as a compiler does that may not reorder a float sum."""
    total = np.float32(0)
    for k in range(a.size):
        total += a[k] * b[k]
    return total


@njit(cache=True)
def multiply_rows(a, Bt, first, last, out):
    """Fill rows first to last - 1 of out with dot products."""
    for i in range(first, last):
        for j in range(Bt.shape[0]):
            out[i, j] = dot(a[i], Bt[j])


@njit(parallel=True, cache=True)
def multiply_transposed(a, Bt, n_workers, out):
    """Fill out, float32 [M, N], from a, float32 [M, K], and Bt, float32 [N, K]."""
    M = a.shape[0]
    for worker in prange(n_workers):
        multiply_rows(a, Bt, worker * M // n_workers, (worker + 1) * M // n_workers, out)


def run(a, w):
    (M, K), N = a.shape, w.shape[1]
    B, out = np.empty((K, N), np.float32), np.empty((M, N), np.float32)
    decode(block_decoder(w.format), w.raw, B.reshape(-1))
    if M * K * N <= TRANSPOSE_ABOVE:
        textbook(a, B, out)
    else:
        Bt = np.empty((N, K), np.float32)
        transpose(B, Bt)
        multiply_transposed(a, Bt, workers(M, get_num_threads()), out)
    return out


def count(M, K, N, fmt, cores):
    copies = 2 if M * K * N > TRANSPOSE_ABOVE else 1
    return Cost(
        elements_decoded=K * N,
        blocks_decoded=K * N // fmt.block_size,
        lookups=0,
        bytes_read=fmt.row_bytes(K * N) + copies * 4 * K * N + 4 * M * K,
        temporary_bytes=copies * 4 * K * N,
        multiply_adds=M * K * N,
    )


KERNEL = Kernel("phase0_baseline", "report", "decode everything, transpose, multiply", run, count)
