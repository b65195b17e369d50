"""Unpack weights into registers and use them for four rows of x. For 2 to 32 rows.

    16 rows of w  ->  words of codes, once for   x[m], x[m + 1], x[m + 2], x[m + 3]

Unpacking costs about as much as multiplying, so sharing it by four nearly halves the work for each row of
x. Rows that fill up the last four are zeros. All else is as in `simd_dot`.
"""

from blocks2tokens.kernels.kernel import Kernel
from blocks2tokens.kernels.ours import integer_dot
from blocks2tokens.kernels.ours.simd_dot import count_times, run_rows, vectors_for


def run(x, w):
    isa = vectors_for(w.format, *w.shape)
    return integer_dot.run(x, w) if isa == "plain" else run_rows(x, w, isa, 2 if len(x) <= 2 else 4)


def count(M, K, N, fmt, cores):
    if vectors_for(fmt, N, K) == "plain":
        return integer_dot.count(M, K, N, fmt, cores)
    return count_times(-(-M // 4), M, K, N, fmt)


KERNEL = Kernel(
    "simd_tiles", "gguf", "unpack 16 rows, use them for four rows of x", run, count, True, range(2, 64)
)
