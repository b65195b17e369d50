"""Unpack 256 weights into registers and use them for four rows of x. For 2 to 32 rows.

    row n of w  ->  vectors of codes, once for   x[m], x[m + 1], x[m + 2], x[m + 3]

Unpacking costs about as much as dotting, so sharing it by four nearly halves the work for each row of x.
Rows left over by four go one by one. All else is as in `simd_dot`.
"""

from blocks2tokens.kernels import integer_dot
from blocks2tokens.kernels.kernel import Kernel
from blocks2tokens.kernels.simd_dot import count_times, for_each, isa_for, named, run_rows
from blocks2tokens.kernels.simd_rows import SIMD_FORMATS, rows_by_four


def tiles_of(name, fmt, isa):
    """Return the loop over rows for one format and instruction set."""

    def fill(raw, codes, d, sums, first, last, out):
        rows_by_four(fmt, isa, raw, codes, d, sums, first, last, out)

    return named(fill, f"tiles_of_{name}")


ROWS = for_each(tiles_of)


def run(x, w):
    isa = isa_for(w.format)
    return integer_dot.run(x, w) if isa == "plain" else run_rows(ROWS, x, w, isa)


def count(M, K, N, fmt, cores):
    if fmt.name not in SIMD_FORMATS:
        return integer_dot.count(M, K, N, fmt, cores)
    return count_times(M // 4 + M % 4, M, K, N, fmt)


KERNEL = Kernel(
    "simd_tiles",
    "gguf",
    "unpack 256 weights, use them for four rows of x",
    run,
    count,
    True,
    rows=range(2, 64),
)
