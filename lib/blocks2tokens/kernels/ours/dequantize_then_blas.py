"""Decode the whole matrix to float32, then let BLAS multiply.

    w [N, K] quantized  ->  W float32 [N, K]  ->  x @ W.T

The report's baseline in the layout of GGUF files. The decoding is paid once per call and shared by the
M rows of x: dear at M = 1, cheap at M = 128. It needs a float32 copy of the matrix each time, unless that
is float32 already.
"""

import numpy as np

from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.scratch import with_own_memory


def needs(M, w):
    return {} if is_decoded(w) else {"W": (w.shape, np.float32)}


def is_decoded(w):
    """Do the bytes of the matrix lie as float32 that NumPy can multiply with as they are?"""
    return w.format.name == "F32" and w.raw.ctypes.data % np.dtype(np.float32).alignment == 0


def run_into(x, w, out, room):
    W = w.raw.view(np.float32) if is_decoded(w) else w.format.dequantize(w.raw, room["W"])
    np.matmul(x, W.T, out=out)


run = with_own_memory(needs, run_into)


def count(M, K, N, fmt, cores):
    copy = 0 if fmt.name == "F32" else np.dtype(np.float32).itemsize * N * K
    return Cost(
        elements_decoded=N * K,
        blocks_decoded=N * K // fmt.block_size,
        lookups=0,
        bytes_read=N * fmt.row_bytes(K) + copy + 4 * M * K,
        temporary_bytes=copy,
        multiply_adds=M * N * K,
    )


KERNEL = Kernel(
    "dequantize_then_blas",
    "gguf",
    "decode everything, then multiply",
    run,
    count,
    needs=needs,
    run_into=run_into,
)
