"""Unpack weights into registers and use them for four rows of x. For 2 to 32 rows.

    16 rows of w  ->  words of codes, once for   x[m], x[m + 1], x[m + 2], x[m + 3]

Unpacking costs about as much as multiplying, so sharing it by four nearly halves the work for each row of
x. Rows that fill up the last four are zeros. All else is as in `simd_dot`. Floats are used for up to eight.
"""

from blocks2tokens.kernels.kernel import Kernel
from blocks2tokens.kernels.ours import float_dot, integer_dot
from blocks2tokens.kernels.ours.simd_dot import compiled_job, count_times, job_needs, run_job, vectors_for
from blocks2tokens.kernels.ours.unpack import PACKED
from blocks2tokens.kernels.scratch import with_own_memory


def rows_at_once(M, fmt):
    """Return how many rows of x make a tile, if there are M."""
    if M > 4 and PACKED[fmt.name].is_float:
        return float_dot.TILE
    return 2 if M <= 2 else 4


def needs(M, w):
    if vectors_for(w.format, *w.shape) == "plain":
        return integer_dot.needs(M, w)
    n_rows = rows_at_once(M, w.format)
    return job_needs(M, w, n_rows, n_rows)


def run_into(x, w, out, room):
    isa = vectors_for(w.format, *w.shape)
    if isa == "plain":
        integer_dot.run_into(x, w, out, room)
    else:
        n_rows = rows_at_once(len(x), w.format)
        run_job(compiled_job(w.format.name, isa, n_rows), x, w, out, room)


run = with_own_memory(needs, run_into)


def count(M, K, N, fmt, cores):
    if vectors_for(fmt, N, K) == "plain":
        return integer_dot.count(M, K, N, fmt, cores)
    return count_times(-(-M // rows_at_once(M, fmt)), M, K, N, fmt)


KERNEL = Kernel(
    "simd_tiles",
    "gguf",
    "unpack 16 rows, use them for four rows of x",
    run,
    count,
    True,
    range(2, 64),
    needs,
    run_into,
)
