"""Exercises of lesson 10: rows split over workers, and what more workers can bring.

check.row_range(f)                f(worker, n_workers, M) -> first, last
check.multiply_in_parts(f)        f(decode, a, raw, n_workers, out) -> out
check.speedup_and_efficiency(f)   f(before, after, n_workers) -> speed-up, efficiency
check.phase2_workers(f)           f(M, cores) -> workers
check.busiest_decodes(f)          f(M, K, N, cores) -> weights decoded by the busiest worker
"""

import numpy as np
from numba import prange

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.check.watched import (
    Counter,
    WatchedExercise,
    compiles,
    look,
    on_copies,
    with_names,
)
from blocks2tokens.formats import FORMATS
from blocks2tokens.kernels.report import phase2_optimized_fused as phase2
from blocks2tokens.kernels.report.decoders import element_decoder
from blocks2tokens.kernels.report.phase2_optimized_fused import multiply_rows
from blocks2tokens.matrix import QuantizedMatrix

# Where each worker's rows begin and end


def row_range(worker, n_workers, M):
    return worker * M // n_workers, (worker + 1) * M // n_workers


def _workers_and_rows():
    splits = [(1, 5), (2, 5), (3, 5), (4, 5), (4, 7), (5, 8), (16, 33), (16, 128), (6, 4)]
    return {
        f"worker {worker} of {n_workers}, {M} rows": (worker, n_workers, M)
        for n_workers, M in splits
        for worker in range(n_workers)
    }


def _chunks_rounded_down(worker, n_workers, M):
    size = M // n_workers
    return worker * size, (worker + 1) * size


def _rest_to_the_last(worker, n_workers, M):
    first, last = _chunks_rounded_down(worker, n_workers, M)
    return first, M if worker == n_workers - 1 else last


def _chunks_rounded_up(worker, n_workers, M):
    size = -(-M // n_workers)
    return min(worker * size, M), min((worker + 1) * size, M)


def _chunks_rounded_up_beyond(worker, n_workers, M):
    size = -(-M // n_workers)
    return worker * size, (worker + 1) * size


def _chunks_rounded_up_first_beyond(worker, n_workers, M):
    size = -(-M // n_workers)
    return worker * size, min((worker + 1) * size, M)


def _last_row_included(worker, n_workers, M):
    first, last = row_range(worker, n_workers, M)
    return first, last - 1


def _all_of_one_size(worker, n_workers, M):
    first, _ = row_range(worker, n_workers, M)
    return first, first + M // n_workers


def _first_and_number(worker, n_workers, M):
    first, last = row_range(worker, n_workers, M)
    return first, last - first


def _larger_parts_first(worker, n_workers, M):
    size, rest = divmod(M, n_workers)
    first = worker * size + min(worker, rest)
    return first, first + size + (worker < rest)


def _cuts_rounded_up(worker, n_workers, M):
    return -(-worker * M // n_workers), -(-(worker + 1) * M // n_workers)


def _cuts_rounded(worker, n_workers, M):
    return round(worker * M / n_workers), round((worker + 1) * M / n_workers)


def _divided_first(worker, n_workers, M):
    return worker // n_workers * M, (worker + 1) // n_workers * M


ROW_RANGE = WatchedExercise(
    name="row_range",
    engine=row_range,
    looks=(compiles(lambda: (2, 4, 7)),),
    cases=_workers_and_rows,
    parts=("first", "last"),
    mistakes=(
        Mistake(
            _chunks_rounded_down,
            "M // n_workers rows for each worker loses M % n_workers rows at the end: of 5 rows over 2 "
            "workers, row 4 is nobody's",
        ),
        Mistake(
            _rest_to_the_last,
            "your last worker takes all that is left: 7 rows over 4 workers become 1, 1, 1 and 4, and "
            "three workers wait for the last",
        ),
        Mistake(
            _chunks_rounded_up,
            "rounding the size up leaves workers without rows: 5 rows over 4 workers become 2, 2, 1 and "
            "0. Round where the cuts lie, not how long the parts are",
        ),
        Mistake(
            _chunks_rounded_up_beyond,
            "your last parts reach beyond row M - 1: compiled code would write there without a word. And "
            "rounding the size up leaves workers without rows",
        ),
        Mistake(
            _chunks_rounded_up_first_beyond,
            "rounding the size up leaves workers without rows, and some of yours begin beyond the last row",
        ),
        Mistake(
            _last_row_included,
            "your `last` is the last row itself: return the one behind it, as range(first, last) wants",
        ),
        Mistake(
            _all_of_one_size,
            "your parts begin at the right cut, and are all M // n_workers rows long: the rows left over "
            "between them are nobody's. A worker's rows end where those of worker + 1 begin",
        ),
        Mistake(_first_and_number, "you return the number of rows: the second value is where they end"),
        Mistake(
            _larger_parts_first,
            "a good split too: no row lost, sizes differ by one at most. But here cut w lies at "
            "w * M / n_workers, rounded down, which puts the smaller parts first",
        ),
        Mistake(_cuts_rounded_up, "your cuts are rounded up: round w * M / n_workers down"),
        Mistake(_cuts_rounded, "your cuts are rounded to the nearest row: round them down"),
        Mistake(
            _divided_first,
            "worker // n_workers * M divides first, and is 0 for every worker: multiply, then divide",
        ),
    ),
    hints=(
        "Cut w lies at w * M / n_workers, rounded down. Worker 0's rows begin at cut 0 and end at cut 1.",
        "// rounds down; multiply first, then divide. Where one worker's rows end, those of worker + 1 begin."
        "",
    ),
)

# The product, one part of the rows after another


def multiply_in_parts(decode, a, raw, n_workers, out):
    for worker in prange(n_workers):
        first, last = worker * len(a) // n_workers, (worker + 1) * len(a) // n_workers
        multiply_rows(decode, a, raw, first, last, out)
    return out


def _products():
    rng, fmt = np.random.default_rng(10), FORMATS["Q5_K"]
    cases = {}
    for M, K, N, n_workers in [(1, 64, 8, 1), (5, 64, 8, 2), (5, 32, 16, 3), (4, 64, 8, 4), (3, 64, 8, 5)]:
        a = rng.standard_normal((M, K), np.float32)
        w = QuantizedMatrix.quantize(rng.standard_normal((K, N), np.float32), fmt, layout="report")
        nothing = np.full((M, N), np.nan, np.float32)
        cases[f"{M} rows, {n_workers} workers"] = (element_decoder(fmt), a, w.raw, n_workers, nothing)
    return cases


def _for_each_worker(part):
    """Return a product that computes for each worker the rows that `part` gives."""

    def multiply(decode, a, raw, n_workers, out):
        for worker in range(n_workers):
            first, last = part(worker, n_workers, len(a))
            multiply_rows(decode, a, raw, first, min(last, len(a)), out)
        return out

    return multiply


def _only_the_first(decode, a, raw, n_workers, out):
    multiply_rows(decode, a, raw, *row_range(0, n_workers, len(a)), out)
    return out


def _all_but_the_last(decode, a, raw, n_workers, out):
    for worker in range(n_workers - 1):
        multiply_rows(decode, a, raw, *row_range(worker, n_workers, len(a)), out)
    return out


def _all_at_the_top(decode, a, raw, n_workers, out):
    for worker in range(n_workers):
        first, last = row_range(worker, n_workers, len(a))
        multiply_rows(decode, a[first:last], raw, 0, last - first, out)
    return out


def _rows_of_b_for_columns(decode, a, raw, n_workers, out):
    K, N = a.shape[1], out.shape[1]
    turned = np.array([[decode(raw, j * K + k) for j in range(N)] for k in range(K)], np.float32)
    for i in range(len(a)):
        for j in range(N):
            total = np.float32(0)
            for k in range(K):
                total += a[i, k] * turned[k, j]
            out[i, j] = total
    return out


def _one_product():
    return _products()["5 rows, 3 workers"]


@look
def _each_row_once(function):
    """Return what is wrong if workers compute the same rows, which the result does not show."""
    decode, a, raw, n_workers, out = _one_product()
    (M, K), N, counter = a.shape, out.shape[1], Counter(decode)
    parts = Counter(multiply_rows.py_func)
    with_names(function, multiply_rows=parts)(counter, a, raw, n_workers, out)
    rows = counter.calls // (K * N)
    if parts.calls == 1:
        return (
            f"the result is right, from one call for all {M} rows: of {n_workers} workers one works. Call "
            "multiply_rows for each worker, with its own rows"
        )
    if rows <= M:
        return None
    return (
        f"the result is right, and your {n_workers} workers have computed {rows} rows where there are {M}: "
        "workers do rows that are not theirs. Each has rows first to last - 1 of its own row_range"
    )


def _loop_that_can_be_shared(function):
    """Return what is wrong with a loop that the compiler will not hand to threads."""
    code = getattr(function, "__code__", None)
    if code is None or "prange" in code.co_names:
        return None
    return (
        "the result is right, and your loop over the workers is a plain one: compiled with parallel=True it "
        "still runs one worker after another. Only the rounds of a prange go to threads: "
        "for worker in prange(n_workers)"
    )


@look
def _same_bits_as_in_one_part(function):
    """Return what is wrong with sums in another order or type: the lesson's next cells compare bits."""
    if np.array_equal(on_copies(function, _one_product()), on_copies(multiply_in_parts, _one_product())):
        return None
    return (
        "right but for the last bits: you add up in another order or type than multiply_rows does, and the "
        "lesson compares bits. Call multiply_rows for the rows of each worker"
    )


MULTIPLY = WatchedExercise(
    name="multiply_in_parts",
    engine=multiply_in_parts,
    looks=(
        _each_row_once,
        _loop_that_can_be_shared,
        compiles(_one_product, tolerance=0),
        _same_bits_as_in_one_part,
    ),
    cases=_products,
    mistakes=(
        Mistake(
            _for_each_worker(_chunks_rounded_down),
            "the last M % n_workers rows are nobody's and were never filled: take the rows from row_range",
        ),
        Mistake(
            _only_the_first,
            "only the first worker's rows are filled: does `return` stand inside the loop?",
        ),
        Mistake(_all_but_the_last, "the last worker is missing: workers count from 0 to n_workers - 1"),
        Mistake(
            _for_each_worker(lambda worker, n_workers, M: (worker, worker + 1)),
            "each worker computes one row, its own number: it has all rows from first to last - 1",
        ),
        Mistake(
            _all_at_the_top,
            "every worker's rows land at the top of out: hand over all of a and out, with first and last",
        ),
        Mistake(_rows_of_b_for_columns, "you decode B[j, k]: weight f of B[k, j] is k * N + j"),
    ),
    hints=(
        "Two steps for each worker: row_range(worker, n_workers, len(a)) says which rows; multiply_rows "
        "fills them.",
        "for worker in prange(n_workers): ... and behind the loop, at its own depth, return out.",
    ),
    tolerance=1e-3,  # sums may be rounded in another order
)

# What the workers were worth


def speedup_and_efficiency(before, after, n_workers):
    speedup = before / after
    return speedup, speedup / n_workers


def _measurements():
    return {
        "from 12 to 3, 4 workers": (12.0, 3.0, 4),
        "from 12 to 4, 4 workers": (12.0, 4.0, 4),
        "from 10 to 5, 16 workers": (10.0, 5.0, 16),
        "from 10 to 20, 2 workers: slower": (10.0, 20.0, 2),
        "one worker, no change": (7.0, 7.0, 1),
    }


SPEEDUP = Exercise(
    name="speedup_and_efficiency",
    engine=speedup_and_efficiency,
    cases=_measurements,
    parts=("speed-up", "efficiency"),
    mistakes=(
        Mistake(
            lambda before, after, n_workers: (after / before, after / before / n_workers),
            "your speed-up is upside down: 12 before and 3 after is 4 times faster, 12 / 3",
        ),
        Mistake(
            lambda before, after, n_workers: (before / after - 1, (before / after - 1) / n_workers),
            "you take 1 off the speed-up: with no change at all it is 1, not 0",
        ),
        Mistake(
            lambda before, after, n_workers: (before / after, before / after * n_workers),
            "you multiply by the workers: efficiency is what one worker of them is worth, so divide",
        ),
        Mistake(
            lambda before, after, n_workers: (before / after, n_workers * after / before),
            "your efficiency is upside down: that is by how much the work grew",
        ),
        Mistake(
            lambda before, after, n_workers: (before / after, 100 * before / after / n_workers),
            "your efficiency is in percent: return the share, 1 for all",
        ),
        Mistake(
            lambda before, after, n_workers: (before / after, 1 - after / before),
            "your second value is the share of the time that was saved: efficiency compares the speed-up "
            "with the number of workers",
        ),
    ),
    hints=(
        "The speed-up says how many times faster: before / after.",
        "With perfect scaling n_workers are n_workers times faster. Efficiency is the share of that.",
    ),
    tolerance=1e-9,
)

# How many workers Phase 2 has


def _rows_and_cores():
    pairs = [(M, cores) for M in (1, 16, 31, 32, 33, 63, 64, 128) for cores in (1, 2, 16, 64)]
    return {f"{M} rows, {cores} cores": (M, cores) for M, cores in pairs}


def phase2_workers(M, cores):
    """Return how many workers share M rows."""
    # and in the engine: workers in kernels/report/phase2_optimized_fused.py
    return min(cores, M) if M >= 32 else 1


WORKERS = Exercise(
    name="phase2_workers",
    engine=phase2.workers,
    solution=phase2_workers,
    cases=_rows_and_cores,
    mistakes=(
        Mistake(
            lambda M, cores: min(cores, M),
            "you split at every M: below 32 rows Phase 2 does not, it has 1 worker",
        ),
        Mistake(
            lambda M, cores: min(cores, M) if M > 32 else 1,
            "32 rows are split already: `M >= 32`, not `M > 32`",
        ),
        Mistake(
            lambda M, cores: cores if M >= 32 else 1,
            "33 rows cannot keep 64 workers busy: there are at most M",
        ),
        Mistake(
            lambda M, cores: min(cores, M) if M >= 32 else 0,
            "below 32 rows you have no worker at all: one has to do it",
        ),
        Mistake(
            lambda M, cores: max(1, min(cores, M // 32)),
            "32 is where splitting begins, not the number of rows that each worker needs",
        ),
        Mistake(
            lambda M, cores: max(cores, M) if M >= 32 else 1,
            "max is the larger one: no more workers than cores, and no more than rows",
        ),
        Mistake(
            lambda M, cores: min(cores, M) if M < 32 else 1,
            "turned round: the rows are split from 32 on, not below",
        ),
    ),
    hints=(
        "Two cases: M below 32, and the others. In the first there is one worker, however many cores.",
        "In the second the smaller of cores and M: min(cores, M).",
    ),
)

# The busiest worker sets the time


def busiest_decodes(M, K, N, cores):
    rows = -(-M // phase2_workers(M, cores))  # rounded up
    return rows * K * N


def _shapes():
    shapes = [(128, 128, 128, 1), (128, 128, 128, 16), (33, 64, 32, 16), (100, 64, 32, 16), (40, 64, 8, 64)]
    shapes += [(31, 64, 8, 4), (1, 4096, 4096, 16), (32, 64, 8, 4), (33, 3, 5, 16)]
    return {f"M={M}, K={K}, N={N}, {cores} cores": (M, K, N, cores) for M, K, N, cores in shapes}


BUSIEST = Exercise(
    name="busiest_decodes",
    engine=busiest_decodes,
    cases=_shapes,
    mistakes=(
        Mistake(
            lambda M, K, N, cores: M * K * N,
            "these are the decodes of all workers together: the busiest one has only its own rows",
        ),
        Mistake(
            lambda M, K, N, cores: M * K * N // phase2.workers(M, cores),
            "that is the average: 33 rows over 16 workers are 2 rows for fifteen of them and 3 for one. "
            "Nobody is done before that one is",
        ),
        Mistake(
            lambda M, K, N, cores: M * K * N / phase2.workers(M, cores),
            "that is the average, and has fractions: rows are whole, so round them up before you multiply",
        ),
        Mistake(
            lambda M, K, N, cores: M // phase2.workers(M, cores) * K * N,
            "rows rounded down are the least busy worker's: 33 rows over 16 workers leave one with 3",
        ),
        Mistake(
            lambda M, K, N, cores: -(-M // min(cores, M)) * K * N,
            "you split at every M: 31 rows have 1 worker, whatever the number of cores",
        ),
        Mistake(
            lambda M, K, N, cores: -(-M // phase2.workers(M, cores)),
            "these are rows: each takes K * N decodes",
        ),
        Mistake(
            lambda M, K, N, cores: -(-M // phase2.workers(M, cores)) * K,
            "N is missing: a row of out has N numbers, each a sum of K decoded weights",
        ),
        Mistake(
            lambda M, K, N, cores: K * N,
            "that is one row, or all of the baseline: Phase 2 decodes K * N weights for each row",
        ),
    ),
    hints=(
        "How many workers are there, how many rows has the busiest of them, and how many decodes is a row?",
        "-(-M // n) divides and rounds up. A row of out takes K * N decodes.",
    ),
)

EXERCISES = [ROW_RANGE, MULTIPLY, SPEEDUP, WORKERS, BUSIEST]
