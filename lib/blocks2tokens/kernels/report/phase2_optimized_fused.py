"""Phase 2 of the report, "optimized fused": Phase 1 with the rows of `a` split over the cores.

    core 0:  rows 0 .. M/2 - 1 of out    \\
    core 1:  rows M/2 .. M - 1 of out    /  each with Phase 1's loops, weight by weight

From 32 rows on. Below that it is Phase 1. Nothing else changed: the same loops, the same calls, as many
decoded weights.
"""

import numpy as np
from numba import get_num_threads, njit, prange

from blocks2tokens.kernels.kernel import Kernel
from blocks2tokens.kernels.report import phase1_naive_fused as phase1
from blocks2tokens.kernels.report.decoders import element_decoder

SPLIT_FROM = 32  # rows of a

multiply_rows = phase1.multiply_rows


def workers(M, cores):
    """Return into how many parts the rows of `a` are split."""
    return min(cores, M) if M >= SPLIT_FROM else 1


@njit(parallel=True, cache=True)
def multiply(decode_element, a, raw, n_workers, out):
    """Fill out, float32 [M, N], from a, float32 [M, K], and raw, uint8 [bytes]."""
    M = a.shape[0]
    for worker in prange(n_workers):
        first, last = worker * M // n_workers, (worker + 1) * M // n_workers
        multiply_rows(decode_element, a, raw, first, last, out)


def run(a, w):
    out = np.empty((a.shape[0], w.shape[1]), np.float32)
    multiply(element_decoder(w.format), a, w.raw, workers(len(a), get_num_threads()), out)
    return out


KERNEL = Kernel(
    "phase2_optimized_fused", "report", "Phase 1, its rows split over the cores", run, phase1.count
)
