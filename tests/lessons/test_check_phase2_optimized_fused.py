"""What learners write in lesson 10, for test_check_learners.py, and what is the lesson's own."""

import math

import numpy as np
from numba import prange

from blocks2tokens.course import check
from blocks2tokens.kernels.report.phase2_optimized_fused import multiply_rows

# Right, in other words than the engine's


def row_range(worker, n_workers, M):
    cuts = [math.floor(w * M / n_workers) for w in range(n_workers + 1)]
    return cuts[worker], cuts[worker + 1]


def fill(decode, a, raw, rows, out):
    K, N = a.shape[1], out.shape[1]
    for i in rows:
        for j in range(N):
            out[i, j] = sum(float(a[i, k]) * float(decode(raw, k * N + j)) for k in range(K))
    return out


def multiply_in_parts(decode, a, raw, n_workers, out):
    for worker in prange(n_workers):
        for i in range(worker, len(a), n_workers):  # row by row in turn: right as well
            multiply_rows(decode, a, raw, i, i + 1, out)
    return out


def speedup_and_efficiency(before, after, n_workers):
    return [before / after, before / (after * n_workers)]


def phase2_workers(M, cores):
    if M < 32:
        return 1
    return sorted([M, cores])[0]


def busiest_decodes(M, K, N, cores):
    n = phase2_workers(M, cores)
    parts = [row_range(worker, n, M) for worker in range(n)]
    return max(last - first for first, last in parts) * K * N


RIGHT = {
    f.__name__: [f]
    for f in (row_range, multiply_in_parts, speedup_and_efficiency, phase2_workers, busiest_decodes)
}


# Wrong


def rest_to_the_last(worker, n_workers, M):
    first = worker * (M // n_workers)
    if worker == n_workers - 1:
        return first, M
    return first, first + M // n_workers


def clipped(worker, n_workers, M):
    size = math.ceil(M / n_workers)
    rows = list(range(M))[worker * size : (worker + 1) * size]
    return (rows[0], rows[-1] + 1) if rows else (M, M)


def array_split(worker, n_workers, M):
    sizes = [len(part) for part in np.array_split(np.arange(M), n_workers)]
    return sum(sizes[:worker]), sum(sizes[: worker + 1])


def in_parts(part):
    """Return a product whose worker w computes the rows in range(*part(w, n_workers, M))."""

    def multiply(decode, a, raw, n_workers, out):
        for worker in range(n_workers):
            fill(decode, a, raw, [i for i in range(*part(worker, n_workers, len(a))) if i < len(a)], out)
        return out

    return multiply


def returns_too_early(decode, a, raw, n_workers, out):
    for worker in range(n_workers):
        fill(decode, a, raw, range(*row_range(worker, n_workers, len(a))), out)
        return out


def one_worker_too_few(decode, a, raw, n_workers, out):
    for worker in range(1, n_workers):
        fill(decode, a, raw, range(*row_range(worker - 1, n_workers, len(a))), out)
    return out


def at_the_top(decode, a, raw, n_workers, out):
    for worker in range(n_workers):
        first, last = row_range(worker, n_workers, len(a))
        fill(decode, a[first:last], raw, range(last - first), out)
    return out


def j_and_k_exchanged(decode, a, raw, n_workers, out):
    (M, K), N = a.shape, out.shape[1]
    for i in range(M):
        for j in range(N):
            out[i, j] = sum(float(a[i, k]) * float(decode(raw, j * K + k)) for k in range(K))
    return out


def sums_that_become_float64(decode, a, raw, n_workers, out):
    M, K, N = a.shape[0], a.shape[1], out.shape[1]
    for worker in prange(n_workers):
        for i in range(worker * M // n_workers, (worker + 1) * M // n_workers):
            for j in range(N):
                total = 0.0  # in Python a float32 is what it becomes
                for k in range(K):
                    total += a[i, k] * decode(raw, k * N + j)
                out[i, j] = total
    return out


def from_the_last_k_on(decode, a, raw, n_workers, out):
    M, K, N = a.shape[0], a.shape[1], out.shape[1]
    for worker in prange(n_workers):
        for i in range(worker * M // n_workers, (worker + 1) * M // n_workers):
            for j in range(N):
                total = np.float32(0)
                for k in range(K - 1, -1, -1):
                    total += a[i, k] * decode(raw, k * N + j)
                out[i, j] = total
    return out


def all_rows_each(decode, a, raw, n_workers, out):
    for _ in range(n_workers):
        multiply_rows(decode, a, raw, 0, len(a), out)
    return out


def all_rows_in_loops_of_its_own(decode, a, raw, n_workers, out):
    for _ in range(n_workers):
        fill(decode, a, raw, range(len(a)), out)
    return out


def one_call(decode, a, raw, n_workers, out):
    multiply_rows(decode, a, raw, 0, len(a), out)
    return out


def one_after_another(decode, a, raw, n_workers, out):
    for worker in range(n_workers):
        first, last = worker * len(a) // n_workers, (worker + 1) * len(a) // n_workers
        multiply_rows(decode, a, raw, first, last, out)
    return out


def filled(decode, a, raw, n_workers, out):
    for worker in prange(n_workers):
        fill(decode, a, raw, range(*row_range(worker, n_workers, len(a))), out)
    return out


def from_linspace(worker, n_workers, M):
    cuts = np.linspace(0, M, n_workers + 1).astype(int)
    return cuts[worker], cuts[worker + 1]


WRONG = [
    ("multiply_in_parts", one_call, "of 3 workers one works"),
    ("multiply_in_parts", one_after_another, "Only the rounds of a prange"),
    ("multiply_in_parts", sums_that_become_float64, "another function in compiled code"),
    ("multiply_in_parts", from_the_last_k_on, "the lesson compares bits"),
    ("multiply_in_parts", all_rows_each, "your 3 workers have computed 15 rows where there are 5"),
    ("multiply_in_parts", all_rows_in_loops_of_its_own, "workers do rows that are not theirs"),
    ("row_range", lambda w, n, M: (w * (M // n), (w + 1) * (M // n)), "row 4 is nobody's"),
    ("row_range", lambda w, n, M: (w * M // n, w * M // n + M // n), "right cut, and are all M // n_workers"),
    ("row_range", lambda w, n, M: [w * M // n, (w + 1) * M // n], "only out of a tuple"),
    ("row_range", lambda w, n, M: np.arange(n + 1)[w : w + 2] * M // n, "you return an array, and"),
    ("row_range", lambda w, n, M: (float(w * M // n), float((w + 1) * M // n)), "a float, and a place"),
    ("row_range", from_linspace, "right in Python, but the lesson compiles it"),
    ("row_range", rest_to_the_last, "takes all that is left"),
    ("row_range", clipped, "leaves workers without rows: 5 rows over 4"),
    (
        "row_range",
        lambda w, n, M: (w * math.ceil(M / n), (w + 1) * math.ceil(M / n)),
        "reach beyond row M - 1",
    ),
    (
        "row_range",
        lambda w, n, M: (w * math.ceil(M / n), min((w + 1) * math.ceil(M / n), M)),
        "some of yours begin beyond",
    ),
    ("row_range", lambda w, n, M: (row_range(w, n, M)[0], row_range(w, n, M)[1] - 1), "is the last row its"),
    ("row_range", lambda w, n, M: (w * M // n, (w + 1) * M // n - w * M // n), "the number of rows"),
    ("row_range", array_split, "a good split too"),
    ("row_range", lambda w, n, M: (math.ceil(w * M / n), math.ceil((w + 1) * M / n)), "cuts are rounded up"),
    ("row_range", lambda w, n, M: (round(w * M / n), round((w + 1) * M / n)), "to the nearest row"),
    ("row_range", lambda w, n, M: (w // n * M, (w + 1) // n * M), "divides first"),
    (
        "multiply_in_parts",
        in_parts(lambda w, n, M: (w * (M // n), w * (M // n) + M // n)),
        "nobody's and were",
    ),
    ("multiply_in_parts", returns_too_early, "inside the loop"),
    ("multiply_in_parts", one_worker_too_few, "the last worker is missing"),
    ("multiply_in_parts", in_parts(lambda w, n, M: (w, w + 1)), "one row, its own number"),
    ("multiply_in_parts", at_the_top, "land at the top"),
    ("multiply_in_parts", j_and_k_exchanged, "you decode B[j, k]"),
    ("speedup_and_efficiency", lambda b, a, n: (a / b, a / b / n), "12 before and 3 after"),
    ("speedup_and_efficiency", lambda b, a, n: ((b - a) / a, (b - a) / a / n), "1 off the speed-up"),
    ("speedup_and_efficiency", lambda b, a, n: (b / a, n * b / a), "so divide"),
    ("speedup_and_efficiency", lambda b, a, n: (b / a, n / (b / a)), "the work grew"),
    ("speedup_and_efficiency", lambda b, a, n: (b / a, b / a / n * 100), "in percent"),
    ("speedup_and_efficiency", lambda b, a, n: (b / a, (b - a) / b), "share of the time that was saved"),
    ("phase2_workers", lambda M, cores: cores if cores < M else M, "split at every M"),
    ("phase2_workers", lambda M, cores: 1 if M <= 32 else min(M, cores), "not `M > 32`"),
    ("phase2_workers", lambda M, cores: 1 if M < 32 else cores, "at most M"),
    ("phase2_workers", lambda M, cores: (M >= 32) * min(M, cores), "no worker at all"),
    ("phase2_workers", lambda M, cores: min(cores, M // 32) or 1, "not the number of rows that each"),
    ("phase2_workers", lambda M, cores: 1 if M < 32 else max(M, cores), "max is the larger one"),
    ("phase2_workers", lambda M, cores: 1 if M >= 32 else min(M, cores), "turned round"),
    ("busiest_decodes", lambda M, K, N, cores: M * K * N, "all workers together"),
    (
        "busiest_decodes",
        lambda M, K, N, cores: M * K * N // phase2_workers(M, cores),
        "that is the average: 33",
    ),
    ("busiest_decodes", lambda M, K, N, cores: M * K * N / phase2_workers(M, cores), "and has fractions"),
    ("busiest_decodes", lambda M, K, N, cores: M // phase2_workers(M, cores) * K * N, "least busy worker's"),
    ("busiest_decodes", lambda M, K, N, cores: math.ceil(M / min(M, cores)) * K * N, "split at every M: 31"),
    ("busiest_decodes", lambda M, K, N, cores: math.ceil(M / phase2_workers(M, cores)), "these are rows"),
    ("busiest_decodes", lambda M, K, N, cores: math.ceil(M / phase2_workers(M, cores)) * K, "N is missing"),
    ("busiest_decodes", lambda M, K, N, cores: N * K, "that is one row"),
]


def test_what_the_lesson_will_compile_must_compile():
    verdict = check.multiply_in_parts.judge(filled)
    assert verdict.kind == "wrong" and "Numba cannot compile your function" in verdict.message


def test_what_numba_does_not_know_is_named_with_what_it_knows_instead():
    message = check.row_range.judge(from_linspace).message
    assert ".astype(np.int64), in the line" in message
