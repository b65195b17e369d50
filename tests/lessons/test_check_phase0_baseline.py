"""What learners write in lesson 08, for test_check_learners.py, and what is the lesson's own."""

import importlib.util

import numpy as np
import pytest
from numba import njit

from blocks2tokens import FORMATS, QuantizedMatrix
from blocks2tokens.course.lessons.phase0_baseline import exercises as lesson
from blocks2tokens.kernels.report import decoders, phase0_baseline

NAMES = {e.name: e for e in lesson.EXERCISES}


def place(f=lambda k, j, N: k * N + j):
    def block_and_place(k, j, N, block_size):
        return f(k, j, N) // block_size, f(k, j, N) % block_size

    return block_and_place


def exchanged(k, j, N, block_size):
    f = k * N + j
    return f % block_size, f // block_size


def each_row_anew(k, j, N, block_size):
    blocks_in_a_row = (N + block_size - 1) // block_size
    return k * blocks_in_a_row + j // block_size, j % block_size


def place_in_row(k, j, N, block_size):
    return (k * N + j) // block_size, j % block_size


def rows_of_blocks(k, j, N, block_size):
    f = k * block_size + j
    return f // block_size, f % block_size


def row_k_begins(k, j, N, block_size):
    return k * N // block_size, j % block_size


def counts_weights(k, j, N, block_size):
    f = k * N + j
    return f, f % block_size


def by_rows(zero=True, add=True, ks=lambda K: range(K), row=lambda i, k: i):
    def multiply(a, B, out):
        if zero:
            out[:] = 0
        for i in range(a.shape[0]):
            for k in ks(B.shape[0]):
                if add:
                    out[row(i, k)] += a[i, k] * B[k]
                else:
                    out[row(i, k)] = a[i, k] * B[k]
        return out

    return multiply


def zero_inside(a, B, out):
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            out[i] = 0
            for j in range(B.shape[1]):
                out[i, j] += a[i, k] * B[k, j]
    return out


def in_textbook_order(a, B, out):
    for i in range(a.shape[0]):
        for j in range(B.shape[1]):
            total = np.float32(0)
            for k in range(a.shape[1]):
                total += a[i, k] * B[k, j]
            out[i, j] = total
    return out


def down_columns(a, B, out):
    for i in range(len(a)):
        for j in range(B.shape[1]):
            out[i, j] = np.sum(a[i] * B[:, j])
    return out


def row_at_once(a, B, out):
    for i in range(a.shape[0]):
        out[i] = 0
        for k in range(a.shape[1]):
            out[i] += a[i, k] * B[k]
    return out


def k_outside(a, B, out):
    out[:] = 0
    for k in range(len(B)):
        for i in range(len(a)):
            out[i] += a[i, k] * B[k]
    return out


def numpy_multiplies(a, B, out):
    out[:] = a @ B
    return out


def zeroes_all(a, Bt, first, last, out):
    out[...] = 0
    for i in range(first, last):
        for j in range(len(Bt)):
            for k in range(Bt.shape[1]):
                out[i, j] += a[i, k] * Bt[j, k]
    return out


def some_rows(start=None, stop=0, to=0, source=0, fresh=True, add=True, keep=False):
    def multiply(a, Bt, first, last, out):
        rows = range(a.shape[0]) if start == "all" else range(first, last + stop)
        total = 0
        for i in rows:
            total = 0
            for j in range(Bt.shape[0]):
                if not keep:
                    total = 0
                if not fresh:
                    total = out[i, j]
                for k in range(a.shape[1]):
                    product = a[i - source * first, k] * Bt[j, k]
                    total = total + product if add else product
                out[i - to * first, j] = total
        return out

    return multiply


def temporaries(each=4, above=lambda M, K, N: M * K * N > 2**20, copies=(1, 2), out=0, size=None):
    def count(M, K, N):
        numbers = size(M, K, N) if size else K * N
        return each * numbers * copies[above(M, K, N)] + out * M * N

    return count


def row_by_row_elsewhere(a, B, out):
    out = np.zeros(out.shape, np.float32)
    for i in range(len(a)):
        for k in range(len(B)):
            for j in range(B.shape[1]):
                out[i, j] += a[i, k] * B[k, j]
    return out


def some_rows_elsewhere(a, Bt, first, last, out):
    mine = out.copy()
    for i in range(first, last):
        for j in range(len(Bt)):
            total = 0.0
            for k in range(Bt.shape[1]):
                total += a[i, k] * Bt[j, k]
            mine[i, j] = total
    return mine


WRONG = [
    ("gflops", lambda M, K, N, s: M * K * N / s * 1e-9, "one operation for each multiply-add"),
    ("gflops", lambda M, K, N, s: 2 * M * K * N / s, "divide by 1e9"),
    ("gflops", lambda M, K, N, s: 2 * M * K * N / s / 10**6, "millions of operations"),
    ("gflops", lambda M, K, N, s: 2 * N * K / s / 1e9, "M is missing"),
    ("gflops", lambda M, K, N, s: 2 * N * M / s / 1e9, "K is missing"),
    ("gflops", lambda M, K, N, s: M * N * (K + (K - 1)) / s / 1e9, "K - 1 additions"),
    ("gflops", lambda M, K, N, s: 2 * M * M * M / s / 1e9, "M for all three sizes"),
    ("gflops", lambda M, K, N, s: 2 * M * K * N / 1e9 * s, "multiply by the seconds"),
    ("block_and_place", place(lambda k, j, N: j * N + k), "k and j are exchanged"),
    ("block_and_place", exchanged, "return the block first"),
    ("block_and_place", each_row_anew, "blocks run on across the end of a row"),
    ("block_and_place", rows_of_blocks, "a row has N of them"),
    ("block_and_place", row_k_begins, "forget that j moves on"),
    ("block_and_place", place_in_row, "weight (1, 3) has place 15, not 3"),
    ("block_and_place", counts_weights, "your first number counts weights"),
    ("multiply_row_by_row", by_rows(add=False), "only the product of the last k"),
    ("multiply_row_by_row", zero_inside, "before the loop over k, not in it"),
    ("multiply_row_by_row", by_rows(zero=False), "what stood in out before"),
    ("multiply_row_by_row", by_rows(row=lambda i, k: k), "land in row k of out"),
    ("multiply_row_by_row", by_rows(ks=lambda K: range(1, K)), "the first k is missing"),
    ("multiply_row_by_row", by_rows(ks=lambda K: range(K - 1)), "the last k is missing"),
    ("multiply_row_by_row", in_textbook_order, "in the textbook's order, i, j, k"),
    ("multiply_row_by_row", down_columns, "60 times instead of 15"),
    ("multiply_row_by_row", k_outside, "with k outside"),
    ("multiply_row_by_row", numpy_multiplies, "no loop of yours reads an element of B"),
    ("multiply_row_by_row", row_by_row_elsewhere, "out is as it was"),
    ("multiply_some_rows", some_rows_elsewhere, "out is as it was"),
    ("multiply_some_rows", some_rows(start="all"), "you fill every row"),
    ("multiply_some_rows", zeroes_all, "set all the others to 0"),
    ("multiply_some_rows", some_rows(stop=1), "first row of the next worker"),
    ("multiply_some_rows", some_rows(to=1), "land at the top of out"),
    ("multiply_some_rows", some_rows(source=1), "you read a from its row 0"),
    ("multiply_some_rows", some_rows(fresh=False), "what stood in out before"),
    ("multiply_some_rows", some_rows(add=False), "only the product of the last k"),
    ("multiply_some_rows", some_rows(keep=True), "start from 0 for each j"),
    ("baseline_temporaries", temporaries(each=1), "you count weights"),
    ("baseline_temporaries", temporaries(copies=(2, 2)), "two copies always"),
    ("baseline_temporaries", temporaries(copies=(1, 1)), "one copy always"),
    ("baseline_temporaries", temporaries(above=lambda M, K, N: M * K * N >= 2**20), "exactly 2**20"),
    ("baseline_temporaries", temporaries(above=lambda M, K, N: K * N > 2**20), "you compare K * N"),
    ("baseline_temporaries", temporaries(above=lambda M, K, N: 2 * M * K * N > 2**20), "compare operations"),
    ("baseline_temporaries", temporaries(out=4), "you count out as well"),
    ("baseline_temporaries", temporaries(size=lambda M, K, N: M * N), "M * N is the result"),
    ("baseline_temporaries", temporaries(each=8), "float32 has 4"),
]


def with_dot(a, Bt, first, last, out):
    for i in range(first, last):
        for j in range(len(Bt)):
            out[i, j] = np.dot(a[i], Bt[j])
    return out


def with_a_list(a, Bt, first, last, out):
    for i in range(first, last):
        out[i] = [sum(x * y for x, y in zip(a[i], row, strict=True)) for row in Bt]
    return out


def test_what_the_lesson_will_compile_must_compile():
    verdict = NAMES["multiply_some_rows"].judge(with_a_list)
    assert verdict.kind == "wrong" and "Numba cannot compile your function" in verdict.message
    if not importlib.util.find_spec("scipy"):
        verdict = NAMES["multiply_some_rows"].judge(with_dot)
        assert verdict.kind == "wrong" and "SciPy" in verdict.message


def test_a_function_that_is_compiled_already_comes_back_plain():
    """The next cell compiles it, and Numba refuses to compile twice."""
    assert NAMES["multiply_row_by_row"](njit(row_at_once)) is row_at_once


RIGHT = {
    "gflops": [lambda M, K, N, s: M * K * N / s * 2e-9],
    "block_and_place": [place()],
    "multiply_row_by_row": [row_at_once],
    "multiply_some_rows": [some_rows()],
    "baseline_temporaries": [temporaries()],
}


def test_out_is_there_to_be_written_into():
    """A row too many is a mistake; that out was written into is none."""
    verdict = NAMES["multiply_some_rows"].judge(some_rows(stop=1))
    assert "row `last`" in verdict.message and "copy()" not in verdict.message


@pytest.mark.parametrize("name", ["multiply_row_by_row", "multiply_some_rows"])
def test_the_engine_s_version_compiles_as_the_lesson_needs_it(name):
    assert NAMES[name].judge(njit(NAMES[name].engine)).kind == "right"


# Answers that no kernel has as a function of its own agree with what the kernels do


def test_the_place_is_where_the_report_s_decoder_finds_the_weight():
    fmt, rng = FORMATS["Q5_K"], np.random.default_rng(0)
    w = QuantizedMatrix.quantize(rng.standard_normal((16, 48), np.float32), fmt, layout="report")
    B, n_bytes = w.dequantize(), fmt.bytes_per_block
    for k, j in np.ndindex(B.shape):
        block, place = NAMES["block_and_place"].engine(k, j, 48, 256)
        weight = decoders.ELEMENTS["Q5_K"](w.raw[block * n_bytes :], place)
        assert weight == B[k, j]


def test_row_by_row_gives_the_textbook_s_bits():
    rng = np.random.default_rng(1)
    a, B = rng.standard_normal((5, 9), np.float32), rng.standard_normal((9, 7), np.float32)
    textbook, out = np.empty((5, 7), np.float32), np.empty((5, 7), np.float32)
    phase0_baseline.textbook(a, B, textbook)
    assert np.array_equal(NAMES["multiply_row_by_row"].engine(a, B, out), textbook)


def test_gflops_counts_each_multiply_add_of_the_kernel_twice():
    adds = phase0_baseline.KERNEL.cost(16, 64, 512, FORMATS["Q5_K"], 1).multiply_adds
    assert NAMES["gflops"].engine(16, 64, 512, 1e-9) == pytest.approx(2 * adds)
