"""One row of weights, one row of 8-bit activations, 64 products at a time. For one row of x.

    x float32 [M, K]  ->  int8 codes, scales, sums       once
    row n of w        ->  vectors of codes               for each row of x, and never in memory
                      ->  out[m, n]

The cores share the rows of w. No float32 weight is ever made: a weight is a few bits in a register until
it is multiplied. Formats that have no vector code here are decoded row by row, and so are all of them where
the CPU has neither instruction set.
"""

import numpy as np
from numba import get_num_threads, njit, prange, types

from blocks2tokens.formats.compiled import BYTES_2D
from blocks2tokens.kernels import activations, integer_dot, simd
from blocks2tokens.kernels.integer_dot import pointer
from blocks2tokens.kernels.kernel import Cost, Kernel
from blocks2tokens.kernels.simd_rows import ORDERS, SIMD_FORMATS, rows_one_by_one
from blocks2tokens.kernels.team import new_tickets, take_job

JOBS = 8  # that each core takes, if all are as fast
SERIAL_BELOW = 1 << 20  # multiply-adds: less is done before another core would have begun
FLOATS_2D = types.float32[:, ::1]
OPERANDS = (types.int8[:, ::1], FLOATS_2D, FLOATS_2D, types.int64, types.int64, FLOATS_2D)


def isa_for(fmt):
    """Return the name of the instruction set to use for a format, "plain" if it has no vector code."""
    return simd.chosen() if fmt.name in SIMD_FORMATS else "plain"


def group_of(fmt):
    """Return how many weights share an offset."""
    return fmt.span // fmt.groups


def named(function, name):
    """Compile a function under a name of its own.

    Numba knows a compiled function in its cache by its name and the types of its arguments; of two functions
    that have both in common it would take either.
    """
    function.__name__ = function.__qualname__ = name
    return njit(cache=True)(function)


def for_each(make):
    """Return {(format, instruction set): make(name, format, instruction set)} for all that there are."""
    sets = {isa: kind for isa, kind in simd.INSTRUCTION_SETS.items() if kind is not None}
    return {
        (name, isa): make(f"{name}_{isa}".lower(), fmt, kind)
        for name, fmt in SIMD_FORMATS.items()
        for isa, kind in sets.items()
    }


def rows_of(name, fmt, isa):
    """Return the loop over rows for one format and instruction set."""

    def fill(raw, codes, d, sums, first, last, out):
        rows_one_by_one(fmt, isa, raw, codes, d, sums, first, last, out)

    return named(fill, f"rows_of_{name}")


ROWS = for_each(rows_of)


@njit(cache=True)
def work(fill, raw, codes, d, sums, jobs, step, out):
    """Take `step` rows of weights at a time until none are left."""
    N = raw.shape[0]
    first = step * take_job(jobs, 0)
    while first < N:
        fill(raw, codes, d, sums, first, min(N, first + step), out)
        first = step * take_job(jobs, 0)


@njit(parallel=True, cache=True)
def multiply(fill, raw, codes, d, sums, jobs, step, n_workers, out):
    """Fill out, float32 [M, N]. The cores take rows as they get done: one that is disturbed takes fewer."""
    for _ in prange(n_workers):
        work(fill, raw, codes, d, sums, jobs, step, out)


def run_rows(rows, x, w, isa):
    """Multiply by one of the loops over rows."""
    fmt, name = SIMD_FORMATS[w.format.name], w.format.name
    order = ORDERS.get(name, activations.NATURAL)
    a = activations.quantize(x, w.format.block_size, group_of(fmt), order, tile=(1, fmt.span))
    out = np.empty((x.shape[0], w.shape[0]), np.float32)
    n_threads = get_num_threads()
    if n_threads == 1 or out.size * x.shape[1] < SERIAL_BELOW:
        rows[name, isa](w.raw, *a, 0, w.shape[0], out)
    else:
        fill = pointer(rows[name, isa], types.void(BYTES_2D, *OPERANDS))
        step = -(-w.shape[0] // (JOBS * n_threads))
        multiply(fill, w.raw, *a, new_tickets(1), step, n_threads, out)
    return out


def run(x, w):
    isa = isa_for(w.format)
    return integer_dot.run(x, w) if isa == "plain" else run_rows(ROWS, x, w, isa)


def count_times(times, M, K, N, fmt):
    """Return the counts of a kernel that unpacks every weight so many times."""
    return Cost(
        elements_decoded=times * K * N,
        blocks_decoded=times * K * N // fmt.block_size,
        lookups=0,
        bytes_read=times * N * fmt.row_bytes(K) + 4 * M * K,
        temporary_bytes=0,
        multiply_adds=M * K * N,
    )


def count(M, K, N, fmt, cores):
    if fmt.name not in SIMD_FORMATS:
        return integer_dot.count(M, K, N, fmt, cores)
    return count_times(M, M, K, N, fmt)


KERNEL = Kernel(
    "simd_dot", "gguf", "the CPU's dot instruction on 64 bytes of codes", run, count, True, rows=range(1, 32)
)
