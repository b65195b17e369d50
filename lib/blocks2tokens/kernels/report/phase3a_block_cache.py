"""Phase 3a of the report, "block cache": each worker keeps every block that it has decoded in a map.

    for i: for j: for k:    block, place = divmod(k * N + j, block size)
                            lock to read, look the block up, unlock
                            not there?  lock to write, look again, decode, insert, unlock
                            out[i, j] += a[i, k] * weights[place]

    map: block number -> weights, float32 [block size]

A map for each worker, rows of `a` split as in Phase 2; nothing is ever evicted. Every block is decoded
once for each worker, and nearly every look-up finds it there. The look-up itself is the cost: one lock,
one hash, one unlock for each multiplication, though nobody else ever asks for the lock.
"""

import numpy as np
from numba import get_num_threads, njit, prange, types
from numba.typed import Dict

from blocks2tokens.jit.lock import lock_to_read, lock_to_write, new_lock, unlock_read, unlock_write
from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.report.decoders import block_decoder
from blocks2tokens.kernels.report.phase2_optimized_fused import workers

new_lock = njit(cache=True)(new_lock)
WEIGHTS = types.float32[::1]


@njit(cache=True)
def fetch(cache, lock, decode_blocks, raw, block, size, n_bytes):
    """Return the weights of a block, float32 [size], from the cache, which decodes and keeps a new one."""
    lock_to_read(lock)
    weights = cache.get(block)
    unlock_read(lock)
    if weights is not None:
        return weights
    lock_to_write(lock)
    if block not in cache:
        decoded = np.empty(size, np.float32)
        decode_blocks(raw[block * n_bytes : (block + 1) * n_bytes], decoded)
        cache[block] = decoded
    weights = cache[block]
    unlock_write(lock)
    return weights


@njit(cache=True)
def multiply_rows(decode_blocks, a, raw, size, n_bytes, first, last, out):
    """Fill rows first to last - 1 of out, float32 [M, N], with a cache of their own."""
    K, N = a.shape[1], out.shape[1]
    cache, lock = Dict.empty(types.int64, WEIGHTS), new_lock()
    for i in range(first, last):
        for j in range(N):
            total = np.float32(0)
            for k in range(K):
                block, place = divmod(k * N + j, size)
                total += a[i, k] * fetch(cache, lock, decode_blocks, raw, block, size, n_bytes)[place]
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


def count(M, K, N, fmt, cores):
    n_workers = workers(M, cores) if M else 0
    weights = n_workers * K * N
    return Cost(
        elements_decoded=weights,
        blocks_decoded=weights // fmt.block_size,
        lookups=M * K * N,
        bytes_read=n_workers * fmt.row_bytes(K * N) + 4 * weights + 4 * M * K,
        temporary_bytes=4 * weights,
        multiply_adds=M * K * N,
    )


KERNEL = Kernel("phase3a_block_cache", "report", "look every weight's block up in a locked map", run, count)
