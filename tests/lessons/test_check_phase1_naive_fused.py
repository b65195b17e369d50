"""What learners write in lesson 09, for test_check_learners.py, and what is the lesson's own."""

import numpy as np
import pytest
from numba import njit

from blocks2tokens import FORMATS, KERNELS, QuantizedMatrix
from blocks2tokens.course import anatomy
from blocks2tokens.course.lessons.phase1_naive_fused import exercises as lesson
from blocks2tokens.kernels.report import decoders

NAMES = {e.name: e for e in lesson.EXERCISES}
FMT = FORMATS["Q5_K"]


# Mutants: q5_k_bytes_touched


def touched(
    begin=lambda block: 176 * block,
    inside=lambda f: f % 256,
    header=range(16),
    plane=lambda i: [16 + i % 32],
    nibble=lambda i: [48 + i // 64 * 32 + i % 32],
):
    def answer(f):
        places = [*header, *plane(inside(f)), *nibble(inside(f))]
        return [begin(f // 256) + place for place in places]

    return answer


def one_scale(f):
    s = f % 256 // 32
    header = [0, 1, 2, 3, 4 + s, 8 + s] if s < 4 else [0, 1, 2, 3, s, 4 + s, 8 + s]
    return touched(header=header)(f)


# Mutants: q5_k_weight


def fetch(
    nibble=lambda i: (48 + i // 64 * 32 + i % 32, i // 32 % 2),
    fifth=lambda i: (16 + i % 32, i // 32),
    join=lambda low, bit: low + 16 * bit,
    formula=lambda d, dmin, sc, m, q: d * sc * q - dmin * m,
    scale=lambda i: (2 + i // 32, 10 + i // 32),
    begin=lambda at: at,
):
    def answer(raw, at, header, i):
        (byte, is_high), (plane, bit) = nibble(i), fifth(i)
        low = int(raw[begin(at) + byte]) // (16 if is_high else 1) % 16
        q = join(low, int(raw[begin(at) + plane]) // 2**bit % 2)
        sc, m = scale(i)
        return formula(*(float(header[n]) for n in (0, 1, sc, m)), q)

    return answer


# Mutants: naive_fused_product


def loops(index=lambda k, j, K, N: k * N + j, ks=range, add=True, once=False, times_a=True, turned=False):
    def answer(a, raw, N, decode_element):
        M, K = a.shape
        out = np.zeros((N, M) if turned else (M, N), np.float32)
        total = 0
        for i in range(M):
            for j in range(N):
                if not once:
                    total = 0
                for k in ks(K):
                    product = decode_element(raw, index(k, j, K, N)) * (a[i, k] if times_a else 1)
                    total = total + product if add else product
                if turned:
                    out[j, i] = total
                else:
                    out[i, j] = total
        return out

    return answer


def sums(a, raw, N, decode_element):
    M, K = a.shape
    out = np.zeros((M, N), np.float32)
    for i in range(M):
        for j in range(N):
            out[i, j] = a[i].sum() * sum(decode_element(raw, k * N + j) for k in range(K))
    return out


def decoded_once(a, raw, N, decode_element):
    K = a.shape[1]
    B = np.array([[decode_element(raw, k * N + j) for j in range(N)] for k in range(K)], np.float32)
    return a @ B


def decoded_twice(a, raw, N, decode_element):
    loops()(a, raw, N, decode_element)
    return loops()(a, raw, N, decode_element)


# Mutants: the counts


def work(decodes, each=None):
    def answer(M, K, N, n):
        count = decodes(M, K, N)
        return count, count * n if each is None else each(M, K, N, n)

    return answer


def mkn(M, K, N):
    return M * K * N


WRONG = [
    (
        "q5_k_bytes_touched",
        touched(nibble=lambda i: [48 + i // 2], plane=lambda i: [16 + i // 8]),
        "two and eight to a byte",
    ),
    ("naive_fused_product", decoded_once, "from 30 decodes: you decode each weight once"),
    ("naive_fused_product", decoded_twice, "from 120 decodes"),
    ("q5_k_bytes_touched", touched(begin=lambda block: 0), "every index lands in block 0"),
    ("q5_k_bytes_touched", touched(begin=lambda block: block), "the block's number for its first byte"),
    ("q5_k_bytes_touched", touched(begin=lambda block: 144 * block), "as in Q4_K: with its plane"),
    ("q5_k_bytes_touched", touched(inside=lambda f: f), "your codes lie too far"),
    ("q5_k_bytes_touched", one_scale, "only the scale and the minimum in use"),
    ("q5_k_bytes_touched", touched(header=range(4)), "12 bytes of packed scales are missing"),
    ("q5_k_bytes_touched", touched(header=()), "the header is missing"),
    ("q5_k_bytes_touched", touched(plane=lambda i: []), "the fifth bit is missing: it lies in qh"),
    ("q5_k_bytes_touched", touched(nibble=lambda i: []), "the low four bits are missing"),
    ("q5_k_bytes_touched", touched(plane=lambda i: [16 + i // 8]), "byte i // 8 of qh"),
    ("q5_k_bytes_touched", touched(nibble=lambda i: [48 + i // 2]), "byte i // 2 of qs"),
    ("q5_k_bytes_touched", touched(nibble=lambda i: [48 + i]), "your codes take a byte each"),
    ("q5_k_bytes_touched", touched(nibble=lambda i: [16 + i // 64 * 32 + i % 32]), "qs begins at byte 16"),
    ("q5_k_weight", fetch(nibble=lambda i: (48 + i // 2, i % 2)), "your nibbles come in sequence"),
    (
        "q5_k_weight",
        fetch(nibble=lambda i: (48 + i // 64 * 32 + i % 32, 1 - i // 32 % 2)),
        "nibbles are exchanged",
    ),
    (
        "q5_k_weight",
        fetch(nibble=lambda i: (16 + i // 64 * 32 + i % 32, i // 32 % 2)),
        "there lies qh, and qs begins at byte 48",
    ),
    ("q5_k_weight", fetch(fifth=lambda i: (16 + i // 8, i % 8)), "your fifth bits come in sequence"),
    ("q5_k_weight", fetch(fifth=lambda i: (16 + i % 32, 7 - i // 32)), "counted from the top"),
    ("q5_k_weight", fetch(fifth=lambda i: (16 + i % 32, i % 8)), "you take bit l % 8"),
    ("q5_k_weight", fetch(join=lambda low, bit: low), "the fifth bit is missing: your codes"),
    ("q5_k_weight", fetch(join=lambda low, bit: low + bit), "shift it to the left by 4 before"),
    ("q5_k_weight", fetch(join=lambda low, bit: low + 32 * bit), "counts 16, not 32"),
    ("q5_k_weight", fetch(formula=lambda d, dmin, sc, m, q: d * sc * q + dmin * m), "wrong sign"),
    ("q5_k_weight", fetch(formula=lambda d, dmin, sc, m, q: d * sc * q), "the minimum is missing"),
    ("q5_k_weight", fetch(formula=lambda d, dmin, sc, m, q: d * sc * q - m), "dmin is missing"),
    ("q5_k_weight", fetch(formula=lambda d, dmin, sc, m, q: d * sc * q - d * m), "multiplied by d"),
    ("q5_k_weight", fetch(formula=lambda d, dmin, sc, m, q: sc * q - dmin * m), "d is missing"),
    ("q5_k_weight", fetch(formula=lambda d, dmin, sc, m, q: d * sc * (q - 16) - dmin * m), "as in Q5_0"),
    ("q5_k_weight", fetch(scale=lambda i: (i // 32, 8 + i // 32)), "your scales begin at header[0]"),
    ("q5_k_weight", fetch(scale=lambda i: (10 + i // 32, 2 + i // 32)), "scales and minimums are exchanged"),
    ("q5_k_weight", fetch(scale=lambda i: (2 + i // 32 * 2, 3 + i // 32 * 2)), "minimums in turn"),
    ("q5_k_weight", fetch(scale=lambda i: (2 + i % 8, 10 + i % 8)), "sub-block i % 8"),
    ("q5_k_weight", fetch(begin=lambda at: 0), "the first block whatever `at` is"),
    ("naive_fused_product", loops(lambda k, j, K, N: j * N + k), "k and j are exchanged"),
    ("naive_fused_product", loops(lambda k, j, K, N: j * K + k), "stored one after the other"),
    ("naive_fused_product", loops(lambda k, j, K, N: k * K + j), "a row of B has N weights, not K"),
    ("naive_fused_product", loops(lambda k, j, K, N: k), "every column gets the same weights"),
    ("naive_fused_product", loops(lambda k, j, K, N: j), "every k gets the same weight"),
    ("naive_fused_product", loops(add=False), "only the product of the last k"),
    ("naive_fused_product", loops(once=True), "start from 0 for each j"),
    ("naive_fused_product", loops(ks=lambda K: range(1, K)), "the first k is missing"),
    ("naive_fused_product", loops(ks=lambda K: range(K - 1)), "the last k is missing"),
    ("naive_fused_product", loops(turned=True), "your result is transposed"),
    ("naive_fused_product", loops(times_a=False), "you add up the weights alone"),
    ("naive_fused_product", sums, "you multiply sums"),
    ("naive_fused_work", work(lambda M, K, N: N * K), "you count each weight once: it is decoded"),
    ("naive_fused_work", work(lambda M, K, N: N * M), "one decode for each output"),
    ("naive_fused_work", work(lambda M, K, N: K * M), "you count the activations: the weights"),
    ("naive_fused_work", work(lambda M, K, N: 2 * K * M * N), "you count operations"),
    ("naive_fused_work", work(mkn, lambda M, K, N, n: n * N * K), "your bytes count each weight once"),
    ("naive_fused_work", work(mkn, lambda M, K, N, n: n), "your bytes are those of one call"),
    ("naive_fused_work", work(mkn, lambda M, K, N, n: N * K * M), "one byte a call"),
    ("naive_fused_work", work(mkn, lambda M, K, N, n: N * K * M * 4), "4 bytes a call"),
    ("naive_fused_work", work(mkn, lambda M, K, N, n: M * K * (n * N + 4)), "the activations as well"),
    ("naive_fused_work", lambda M, K, N, n: work(mkn)(M, K, N, n)[::-1], "decodes first, then the bytes"),
    ("nanoseconds_per_decode", lambda s, t, M, K, N: s * t / M / K / N, "these are seconds"),
    ("nanoseconds_per_decode", lambda s, t, M, K, N: 1e6 * s * t / M / K / N, "these are microseconds"),
    ("nanoseconds_per_decode", lambda s, t, M, K, N: 1e9 * s / M / K / N, "the threads are missing"),
    ("nanoseconds_per_decode", lambda s, t, M, K, N: 1e9 * s / t / M / K / N, "you divide by the threads"),
    ("nanoseconds_per_decode", lambda s, t, M, K, N: 1e9 * s * t / K / N, "M is missing"),
    ("nanoseconds_per_decode", lambda s, t, M, K, N: 1e9 * s * t / M / N, "K is missing"),
    ("nanoseconds_per_decode", lambda s, t, M, K, N: 5e8 * s * t / M / K / N, "two for each multiply-add"),
    ("nanoseconds_per_decode", lambda s, t, M, K, N: M * K * N / (1e9 * s * t), "turn the fraction round"),
]


def in_another_order(f):
    return touched()(f)[::-1]


def test_the_bytes_may_come_in_any_order():
    assert NAMES["q5_k_bytes_touched"].judge(in_another_order).kind == "right"


def with_a_list(a, raw, N, decode_element):
    out = [[sum(a[i, k] * decode_element(raw, k * N + j) for k in range(a.shape[1])) for j in range(N)]
           for i in range(len(a))]  # fmt: skip
    return np.array(out, dtype="f4")


def test_what_the_lesson_will_compile_must_compile():
    verdict = NAMES["naive_fused_product"].judge(with_a_list)
    assert verdict.kind == "wrong" and "Numba cannot compile your function" in verdict.message


def plain_loops(a, raw, N, decode_element):
    M, K = a.shape
    out = np.zeros((M, N), dtype=np.float32)
    for i in range(M):
        for j in range(N):
            for k in range(K):
                out[i, j] += a[i, k] * decode_element(raw, k * N + j)
    return out


def plain_weight(raw, at, header, i):
    s, l = i // 32, i % 32
    q = (raw[at + 48 + 32 * (s // 2) + l] >> (4 * (s % 2))) & 0xF
    q = q + 16 * ((raw[at + 16 + l] >> s) & 1)
    return header[0] * header[2 + s] * q - header[1] * header[10 + s]


RIGHT = {
    "q5_k_bytes_touched": [touched()],
    "q5_k_weight": [plain_weight],
    "naive_fused_product": [plain_loops],
    "naive_fused_work": [work(mkn)],
    "nanoseconds_per_decode": [lambda s, t, M, K, N: s * 1e9 * t / K / N / M],
}


# Answers that the engine has not as functions of their own agree with what it does


@pytest.mark.parametrize("f", range(0, 600, 7))
def test_the_bytes_touched_are_the_header_and_what_the_code_depends_on(f):
    code = anatomy.trace(FMT, f % 256)
    bits = [byte for name in ("qh", "qs") for byte, _ in code[name]]
    expected = {*range(16), *bits}
    answer = NAMES["q5_k_bytes_touched"].engine(f)
    assert set((answer - f // 256 * 176).tolist()) == expected
    assert len(answer) == decoders.element_bytes(FMT) and np.all(np.diff(answer) > 0)


def test_the_product_has_the_kernel_s_bits_in_python_and_compiled():
    rng = np.random.default_rng(0)
    w = QuantizedMatrix.quantize(rng.standard_normal((64, 12), np.float32), FMT, layout="report")
    a = rng.standard_normal((3, 64), np.float32)
    engine, decode = NAMES["naive_fused_product"].engine, decoders.ELEMENTS["Q5_K"]
    expected = KERNELS["phase1_naive_fused"](a, w)
    assert np.array_equal(engine(a, w.raw, 12, decode), expected)
    pointer = decoders.element_decoder(FMT)
    assert np.array_equal(njit(engine)(a, w.raw, 12, pointer), expected)


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K"])
def test_the_work_is_what_the_kernel_counts(name):
    M, K, N, fmt = 5, 64, 512, FORMATS[name]
    cost = KERNELS["phase1_naive_fused"].cost(M, K, N, fmt, 1)
    decodes, encoded = NAMES["naive_fused_work"].engine(M, K, N, decoders.element_bytes(fmt))
    assert decodes == cost.elements_decoded and encoded + 4 * M * K == cost.bytes_read
