"""Which kernel for this format, this many rows of x, and this machine: measured once, then looked up.

    M        1         2         4         8     ...    512       rows of x
    Q4_K     simd_dot  simd_dot  simd_tiles ...         integer_gemm

The first product with a format times the kernels on a matrix of its own for each M of ROWS, which takes a
second or two, and keeps the times in the user's cache folder; from then on they are looked up. Between two
measured M the winner of the lower one is taken. Noise decides nothing that is beyond doubt: a kernel takes
part for the numbers of rows that it is meant for, `Kernel.rows`.
"""

import time
from dataclasses import dataclass

import numpy as np
from numba import get_num_threads
from tqdm import tqdm

from blocks2tokens.formats import Format
from blocks2tokens.jit import cpu
from blocks2tokens.kernels import measured
from blocks2tokens.matrix import QuantizedMatrix

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)  # of x
SHAPE = (2048, 4096)  # N, K of the matrix that is timed: decoded to float32, most caches do not hold it
REPEATS = 5  # timed runs of each kernel
REST = 0.05  # seconds between rounds
MARGIN = 0.95  # a later kernel must be faster by this factor: noise should not decide

TABLES = {}  # what this process has looked up
FORGOTTEN = []  # an entry for each time that it was measured anew


@dataclass(frozen=True)
class Choice:
    """A kernel's name and why it was picked."""

    kernel: str
    reason: str

    def __str__(self):
        return f"{self.kernel}: {self.reason}"


def choose(fmt: Format, M: int, candidates: dict) -> Choice:
    """Return the fastest of the candidates, {name: Kernel}, for M rows; times them if nobody did before."""
    table = winners(fmt, get_num_threads(), cpu.chosen(), candidates)
    rows = max((m for m in table if m <= M), default=min(table))
    name, seconds = table[rows]
    return Choice(name, f"fastest for {fmt.name} at M = {rows} on this machine ({seconds * 1e3:.3g} ms)")


def times_measured() -> int:
    """Return a number that changes when what was chosen before may be chosen no more."""
    return len(FORGOTTEN)


def winners(fmt: Format, n_threads: int, isa: str, candidates: dict) -> dict[int, tuple[str, float]]:
    """Return {M: (kernel, seconds)} for a format: looked up in memory, in the cache folder, or measured."""
    key = fmt.name, n_threads, isa, *candidates
    if key not in TABLES:
        kernels = tuple(candidates.values())
        TABLES[key] = fastest(kept(fmt, n_threads, isa, kernels), kernels)
    return TABLES[key]


def measure_anew(fmt: Format, candidates: dict) -> dict[tuple[str, int], float]:
    """Time the candidates again and forget what was; return {(kernel's name, M): seconds}."""
    TABLES.clear()
    FORGOTTEN.append(fmt.name)
    return kept(fmt, get_num_threads(), cpu.chosen(), tuple(candidates.values()), anew=True)


def kept(fmt, n_threads, isa, kernels, anew=False):
    """Return {(kernel's name, M): seconds} from the cache folder, or by measuring."""
    runs = {(kernel.name, M) for kernel in kernels for M in ROWS if M in kernel.rows}

    def check(rows):
        times = {(name, int(M)): measured.positive(seconds) for name, M, seconds in rows}
        if set(times) != runs:
            raise ValueError("times of other kernels")
        return times

    def measure():
        return [(*run, seconds) for run, seconds in calibrate(fmt, kernels).items()]

    depends_on = fmt.name, n_threads, cpu.with_bf16(isa), SHAPE, sorted(runs)
    return measured.kept(f"kernels-{fmt.name}", depends_on, measure, check, anew)


def calibrate(fmt: Format, kernels: tuple) -> dict[tuple[str, int], float]:
    """Time the kernels on a random matrix; return {(kernel's name, M): seconds}."""
    rng = np.random.default_rng(0)
    N, K = SHAPE
    if fmt.can_encode:
        rows = fmt.quantize(rng.standard_normal((64, K), dtype=np.float32))
    else:  # bytes below 64 make float16 scales below 2
        rows = rng.integers(0, 64, (64, fmt.row_bytes(K)), np.uint8)
    w = QuantizedMatrix(np.tile(rows, (N // 64, 1)), fmt, SHAPE)
    inputs = [rng.standard_normal((M, K), dtype=np.float32) for M in ROWS]
    return timed(kernels, inputs, w)


def fastest(times: dict, kernels: tuple) -> dict[int, tuple[str, float]]:
    """Return {M: (fastest kernel, its seconds)}."""
    table = {}
    for M in ROWS:
        candidates = [kernel.name for kernel in kernels if M in kernel.rows]
        best = min(times[name, M] for name in candidates)
        winner = next(name for name in candidates if times[name, M] * MARGIN <= best)
        table[M] = winner, times[winner, M]
    return table


def timed(kernels, inputs, w):
    """Return {(kernel's name, M): seconds}, the least of REPEATS, for each kernel that is meant for M rows.

    All are run before any is run again: a neighbour that takes the cores for a while then disturbs one repeat
    of each, and not all repeats of one. Each is run twice and the second run counts: the first wakes the
    threads, and compiles. After the kernels with BLAS, the last ones, its threads may spin for a while.
    """
    runs = [(kernel, x) for kernel in kernels for x in inputs if len(x) in kernel.rows]
    times = {(kernel.name, len(x)): float("inf") for kernel, x in runs}
    n_runs = REPEATS * len(runs)
    with tqdm(total=n_runs, desc=f"choosing kernels, {w.format.name}", delay=2, leave=False) as bar:
        for _ in range(REPEATS):
            for kernel, x in runs:
                kernel.product(x, w)
                before = time.perf_counter()
                kernel.product(x, w)
                key = kernel.name, len(x)
                times[key] = min(times[key], time.perf_counter() - before)
                bar.update()
            time.sleep(REST)
    return times
