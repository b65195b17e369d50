"""Phase 3b of the report, "block cache V2, column-major": one decoded block, and the loops turned round.

    for j: for i: for k:    block, place = divmod(k * N + j, block size)
                            another block than the last one?  decode all of it
                            out[i, j] += a[i, k] * weights[place]

Only the loops are column-major; B lies as it lay, in blocks along N. Down a column, k steps over N weights
at once, so with N = 128 every second step lands in another block of 256, and with N >= 256 every step.
Rows of `a` are split as in Phase 2; each worker has one buffer, empty at the start of each column.
"""

import numpy as np
from numba import get_num_threads, njit, prange

from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.report.decoders import block_decoder
from blocks2tokens.kernels.report.phase2_optimized_fused import workers


@njit(cache=True)
def multiply_rows(decode_blocks, a, raw, size, n_bytes, first, last, out):
    """Fill rows first to last - 1 of out, float32 [M, N]."""
    K, N = a.shape[1], out.shape[1]
    weights = np.empty(size, np.float32)
    for j in range(N):
        held = -1
        for i in range(first, last):
            total = np.float32(0)
            for k in range(K):
                block, place = divmod(k * N + j, size)
                if block != held:
                    decode_blocks(raw[block * n_bytes : (block + 1) * n_bytes], weights)
                    held = block
                total += a[i, k] * weights[place]
            out[i, j] = total


@njit(parallel=True, cache=True)
def multiply(decode_blocks, a, raw, size, n_bytes, n_workers, out):
    """Fill out, float32 [M, N], from a, float32 [M, K], and raw, uint8 [bytes], blocks of `size` weights."""
    M = a.shape[0]
    for worker in prange(n_workers):
        first, last = worker * M // n_workers, (worker + 1) * M // n_workers
        multiply_rows(decode_blocks, a, raw, size, n_bytes, first, last, out)


def run(a, w):
    out, fmt = np.empty((a.shape[0], w.shape[1]), np.float32), w.format
    n_workers = workers(len(a), get_num_threads())
    multiply(block_decoder(fmt), a, w.raw, fmt.block_size, fmt.bytes_per_block, n_workers, out)
    return out


def blocks_met(K, N, size):
    """Return for each column, int [N], in how many runs of one block its K weights lie."""
    if size <= N:
        return np.full(N, K)
    columns = np.arange(N)
    return ((K - 1) * N + columns) // size - columns // size + 1 if K else np.zeros(N, int)


def count(M, K, N, fmt, cores):
    n_workers, met = workers(M, cores), blocks_met(K, N, fmt.block_size)
    fetched = np.where(met > 1, M * met, min(M, n_workers) * met)  # a lone block stays for the next row
    decoded = int(fetched.sum())
    return Cost(
        elements_decoded=decoded * fmt.block_size,
        blocks_decoded=decoded,
        lookups=0,
        bytes_read=decoded * fmt.bytes_per_block + 4 * M * K,
        temporary_bytes=4 * fmt.block_size * n_workers,
        multiply_adds=M * K * N,
    )


KERNEL = Kernel("phase3b_column_major", "report", "decode a block whenever the column enters one", run, count)
