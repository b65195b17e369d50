"""Lesson 09, Phase 1, naive fused: what one weight costs, and how often it is paid.

q5_k_bytes_touched        flat index              -> the bytes that one call reads
q5_k_weight               block, its header, i    -> weight i
naive_fused_product       a, raw, N, decoder      -> a @ B, one decoded weight for each multiplication
naive_fused_work          sizes                   -> weights decoded, encoded bytes read
nanoseconds_per_decode    seconds, threads, sizes -> nanoseconds of one thread
"""

import numpy as np
from numba import njit

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.check.watched import Counter, WatchedExercise, compiles, look
from blocks2tokens.kernels.report import decoders

# q5_k_bytes_touched: f -> addresses in raw, int [18]


def q5_k_bytes_touched(f):
    """Return the bytes of raw that the report's decoder reads for weight f, in ascending order, int [18]."""
    at, i = f // 256 * 176, f % 256
    s, l = i // 32, i % 32
    return np.array([*range(at, at + 16), at + 16 + l, at + 48 + 32 * (s // 2) + l])


def index_cases():
    return {f"weight {f}": (f,) for f in (0, 1, 31, 32, 64, 100, 255, 256, 300, 700)}


def touched(block=lambda f: f // 256 * 176, place=lambda f: f % 256, header=16, high=None, low=None):
    """Return a list of bytes with a place for each mistake; high and low take s, l and i."""

    def addresses(f):
        at, i = block(f), place(f)
        s, l = i // 32, i % 32
        plane = at + 16 + (l if high is None else high(s, l, i))
        nibble = at + 48 + (32 * (s // 2) + l if low is None else low(s, l, i))
        return np.array([*range(at, at + header), plane, nibble])

    return addresses


def needed_only(f):
    """The header bytes of one scale and one minimum, as lesson 03 unpacks them."""
    at, s = f // 256 * 176, f % 256 // 32
    packed = (4 + s, 8 + s) if s < 4 else (s, 4 + s, 8 + s)
    return np.array([*range(at, at + 4), *(at + p for p in packed), *q5_k_bytes_touched(f)[16:]])


TOUCHED = WatchedExercise(
    name="q5_k_bytes_touched",
    engine=q5_k_bytes_touched,
    other_form=lambda function: lambda f: np.sort(function(f)),  # the bytes in any order
    cases=index_cases,
    mistakes=(
        Mistake(
            touched(block=lambda f: 0),
            "every index lands in block 0: block f // 256 begins at byte f // 256 * 176",
        ),
        Mistake(
            touched(block=lambda f: f // 256),
            "you take the block's number for its first byte: a block of Q5_K has 176",
        ),
        Mistake(
            touched(block=lambda f: f // 256 * 144),
            "your blocks have 144 bytes, as in Q4_K: with its plane of fifth bits a block of Q5_K has 176",
        ),
        Mistake(
            touched(place=lambda f: f),
            "from block 1 on your codes lie too far: the place in the block is f % 256",
        ),
        Mistake(
            needed_only,
            "you read only the scale and the minimum in use: this decoder unpacks all eight of both, so it "
            "reads the whole header, 16 bytes",
        ),
        Mistake(
            touched(header=4),
            "the 12 bytes of packed scales are missing: the header is d, dmin and scales, 16 bytes",
        ),
        Mistake(
            lambda f: q5_k_bytes_touched(f)[16:],
            "the header is missing: the two bytes of the code mean nothing without its scale and minimum",
        ),
        Mistake(
            lambda f: np.delete(q5_k_bytes_touched(f), 16),
            "the fifth bit is missing: it lies in qh, bytes 16 to 47",
        ),
        Mistake(
            lambda f: np.delete(q5_k_bytes_touched(f), 17),
            "the low four bits are missing: they lie in qs, from byte 48 on",
        ),
        Mistake(
            touched(high=lambda s, l, i: i // 8),
            "you look for the fifth bit of weight i in byte i // 8 of qh: it is bit s of byte l",
        ),
        Mistake(
            touched(low=lambda s, l, i: i // 2, high=lambda s, l, i: i // 8),
            "you let nibbles and fifth bits follow each other, two and eight to a byte: weight 1 would share "
            "its bytes with weight 0. Weight l of sub-block s has byte l of qh and byte 32 * (s // 2) + l of "
            "qs; it is weight 32 that shares them with weight 0",
        ),
        Mistake(
            touched(low=lambda s, l, i: i // 2),
            "you look for the nibble of weight i in byte i // 2 of qs: two neighbouring sub-blocks share "
            "32 bytes, 32 * (s // 2) + l",
        ),
        Mistake(
            touched(low=lambda s, l, i: i),
            "your codes take a byte each: two sub-blocks share 32 bytes of qs, 32 * (s // 2) + l",
        ),
        Mistake(
            touched(low=lambda s, l, i: 32 * (s // 2) + l - 32),
            "your qs begins at byte 16, as in Q4_K: in Q5_K it begins at byte 48, behind qh",
        ),
    ),
    hints=(
        "The block begins at byte at = f // 256 * 176, and the weight has place i = f % 256 in it: "
        "sub-block s = i // 32, l = i % 32.",
        "Bytes at to at + 15 are the header; then byte l of qh, which begins at at + 16; then byte "
        "32 * (s // 2) + l of qs, which begins at at + 48.",
    ),
)


# q5_k_weight: raw uint8 [bytes], at, header float32 [18], i -> one weight


def weight_cases():
    rng = np.random.default_rng(9)
    raw = rng.integers(0, 256, 2 * 176, dtype=np.uint8)
    header = np.empty(18, np.float32)
    header[:2] = rng.uniform(1, 2, 2)
    header[2:] = rng.permutation(63)[:16] + 1
    return {
        f"weight {i} of the block at byte {at}": (raw, at, header, i)
        for at in (0, 176)
        for i in (0, 1, 31, 32, 70, 100, 150, 191, 224, 255)
    }


def weight(
    raw,
    at,
    header,
    i,
    low=lambda raw, at, s, l, i: raw[at + 48 + 32 * (s // 2) + l] >> 4 * (s % 2) & 15,
    high=lambda raw, at, s, l, i: raw[at + 16 + l] >> s & 1,
    combine=lambda d, dmin, sc, m, q: d * sc * q - dmin * m,
    scales=2,
    mins=10,
    sub_block=lambda i: i // 32,
    counts=16,
    in_turn=False,
):
    """Decode weight i; each argument that is given replaces a right choice by a wrong one."""
    s, l = i // 32, i % 32
    q = np.float32(int(low(raw, at, s, l, i)) + counts * int(high(raw, at, s, l, i)))
    mine = sub_block(i)
    places = (2 + 2 * mine, 3 + 2 * mine) if in_turn else (scales + mine, mins + mine)
    return combine(header[0], header[1], *header[list(places)], q)


def wrong(**changes):
    return lambda raw, at, header, i: weight(raw, at, header, i, **changes)


def one_weight():
    return weight_cases()["weight 150 of the block at byte 176"]


def q5_k_weight(raw, at, header, i):
    """Return weight i of the Q5_K block at byte `at`; header is float32 [18]."""
    # and in the engine: q5_k_weight in kernels/report/decoders.py
    s, l = i // 32, i % 32
    nibble = raw[at + 48 + 32 * (s // 2) + l] >> (4 * (s % 2)) & 15
    bit = raw[at + 16 + l] >> s & 1
    q = np.float32(nibble | bit << 4)
    return header[0] * header[2 + s] * q - header[1] * header[10 + s]


WEIGHT = WatchedExercise(
    name="q5_k_weight",
    engine=decoders.q5_k_weight.py_func,
    solution=q5_k_weight,
    looks=(compiles(one_weight),),
    cases=weight_cases,
    mistakes=(
        Mistake(
            wrong(low=lambda raw, at, s, l, i: raw[at + 48 + i // 2] >> 4 * (i % 2) & 15),
            "your nibbles come in sequence, two from each byte: weight 1 is the low nibble of byte 1 of qs, "
            "and the high nibble of byte 0 is weight 32",
        ),
        Mistake(
            wrong(low=lambda raw, at, s, l, i: raw[at + 48 + 32 * (s // 2) + l] >> 4 * (1 - s % 2) & 15),
            "your nibbles are exchanged: even sub-blocks have the low ones, odd sub-blocks the high ones",
        ),
        Mistake(
            wrong(low=lambda raw, at, s, l, i: raw[at + 16 + 32 * (s // 2) + l] >> 4 * (s % 2) & 15),
            "your qs begins at byte 16 of the block, as in Q4_K: there lies qh, and qs begins at byte 48",
        ),
        Mistake(
            wrong(high=lambda raw, at, s, l, i: raw[at + 16 + i // 8] >> i % 8 & 1),
            "your fifth bits come in sequence: the one of weight l of sub-block s is bit s of byte l of qh",
        ),
        Mistake(
            wrong(high=lambda raw, at, s, l, i: raw[at + 16 + l] >> l % 8 & 1),
            "you take bit l % 8 of byte l of qh: a byte has a bit for each of 8 sub-blocks: bit s",
        ),
        Mistake(
            wrong(high=lambda raw, at, s, l, i: raw[at + 16 + l] >> 7 - s & 1),
            "your fifth bits are counted from the top: bit s of a byte is (byte >> s) & 1",
        ),
        Mistake(wrong(counts=0), "the fifth bit is missing: your codes never get beyond 15"),
        Mistake(wrong(counts=1), "the fifth bit counts 16: shift it to the left by 4 before you join it"),
        Mistake(wrong(counts=32), "the fifth bit counts 16, not 32: shift it to the left by 4"),
        Mistake(
            wrong(combine=lambda d, dmin, sc, m, q: d * sc * q + dmin * m),
            "the minimum has the wrong sign: it is subtracted",
        ),
        Mistake(
            wrong(combine=lambda d, dmin, sc, m, q: d * sc * q),
            "the minimum is missing: subtract dmin times the minimum of the sub-block",
        ),
        Mistake(
            wrong(combine=lambda d, dmin, sc, m, q: d * sc * q - m),
            "dmin is missing: the minimum counts units of dmin, header[1]",
        ),
        Mistake(
            wrong(combine=lambda d, dmin, sc, m, q: d * sc * q - d * m),
            "the minimum is multiplied by d: its unit is dmin, header[1]",
        ),
        Mistake(
            wrong(combine=lambda d, dmin, sc, m, q: sc * q - dmin * m),
            "d is missing: the scale counts units of d, header[0]",
        ),
        Mistake(
            wrong(combine=lambda d, dmin, sc, m, q: d * sc * (q - np.float32(16)) - dmin * m),
            "you subtract 16 from the code, as in Q5_0: codes of Q5_K start from 0",
        ),
        Mistake(
            wrong(scales=0, mins=8),
            "your scales begin at header[0]: d and dmin come first, the scales from header[2] on",
        ),
        Mistake(
            wrong(in_turn=True),
            "you take scales and minimums in turn: header[2] to [9] are scales, [10] to [17] minimums",
        ),
        Mistake(
            wrong(scales=10, mins=2),
            "scales and minimums are exchanged: header[2] to [9] are scales, [10] to [17] minimums",
        ),
        Mistake(
            wrong(sub_block=lambda i: i % 8),
            "you take the scale of sub-block i % 8: a sub-block is 32 neighbouring weights, i // 32",
        ),
        Mistake(
            lambda raw, at, header, i: weight(raw, 0, header, i),
            "you read the codes of the first block whatever `at` is: every place in raw begins with at +",
        ),
    ),
    hints=(
        "s = i // 32 and l = i % 32. The nibble is in byte at + 48 + 32 * (s // 2) + l, the low one for "
        "an even s; the fifth bit is bit s of byte at + 16 + l.",
        "The code is the nibble, with the fifth bit shifted to the left by 4. header[2 + s] is the scale, in "
        "units of header[0], and header[10 + s] the minimum, in units of header[1].",
    ),
    tolerance=1e-5,
)


# naive_fused_product: a float32 [M, K], raw uint8 [bytes], N, decode_element -> float32 [M, N]


def naive_fused_product(a, raw, N, decode_element):
    """Return a @ B, float32 [M, N]; B [K, N] lies in raw and is decoded weight by weight."""
    # and in the engine: multiply_rows in kernels/report/phase1_naive_fused.py
    M, K = a.shape
    out = np.empty((M, N), np.float32)
    for i in range(M):
        for j in range(N):
            total = np.float32(0)
            for k in range(K):
                total += a[i, k] * decode_element(raw, k * N + j)
            out[i, j] = total
    return out


def byte_as_weight(raw, f):
    """Decode the plainest format there is: byte f is weight f; round the end it begins again."""
    return np.float32(raw[f % raw.size])


def product_cases():
    rng = np.random.default_rng(10)

    def case(M, K, N):
        a = rng.integers(-9, 10, (M, K)).astype(np.float32)  # sums of whole numbers are exact
        return a, rng.integers(1, 100, K * N, dtype=np.uint8), N, byte_as_weight

    return {
        f"a [{M}, {K}] times B [{K}, {N}], a byte for each weight": case(M, K, N)
        for M, K, N in ((3, 4, 8), (2, 6, 5), (1, 5, 7), (5, 3, 2))
    }


def product(f=lambda k, j, K, N: k * N + j, first=0, add=True, fresh=True, last=0):
    """Return the right loops with a place for each mistake."""

    def multiply(a, raw, N, decode_element):
        (M, K), total = a.shape, np.float32(0)
        out = np.zeros((M, N), np.float32)
        for i in range(M):
            for j in range(N):
                total = np.float32(0) if fresh else total
                for k in range(first, K - last):
                    weight = a[i, k] * decode_element(raw, f(k, j, K, N))
                    total = total + weight if add else weight
                out[i, j] = total
        return out

    return multiply


def small_product():
    return product_cases()["a [2, 6] times B [6, 5], a byte for each weight"]


@look
def decodes_each_time(function):
    """Return what is wrong if weights are decoded less or more often than Phase 1 decodes them."""
    a, raw, N, decode = small_product()
    counter = Counter(decode)
    function(a, raw, N, counter)
    (M, K), found = a.shape, counter.calls
    if found == M * K * N:
        return None
    if found == K * N:
        return (
            f"the product is right, from {found} decodes: you decode each weight once and keep it, which is "
            f"the baseline. Phase 1 keeps nothing, and calls decode_element in the innermost loop, "
            f"{M} * {K} * {N} = {M * K * N} times"
        )
    return (
        f"the product is right, from {found} decodes: Phase 1 makes one for each multiplication, "
        f"{M} * {K} * {N} = {M * K * N}, in the innermost loop"
    )


def small_product_compiled():
    a, raw, N, decode = small_product()
    return a, raw, N, njit(decode)


def transposed(a, raw, N, decode_element):
    return np.ascontiguousarray(product()(a, raw, N, decode_element).T)


def of_the_sums(a, raw, N, decode_element):
    """Multiply sums, not weight by weight."""
    return product()(np.repeat(a.sum(axis=1, keepdims=True), a.shape[1], axis=1), raw, N, decode_element)


def without_a(a, raw, N, decode_element):
    return product()(np.ones_like(a), raw, N, decode_element)


PRODUCT = WatchedExercise(
    name="naive_fused_product",
    engine=naive_fused_product,
    looks=(decodes_each_time, compiles(small_product_compiled)),
    cases=product_cases,
    mistakes=(
        Mistake(
            product(f=lambda k, j, K, N: j * N + k),
            "k and j are exchanged in the flat index: B [K, N] is stored row by row, so f = k * N + j",
        ),
        Mistake(
            product(f=lambda k, j, K, N: j * K + k),
            "you read B as if its columns were stored one after the other, j * K + k: it is stored row by "
            "row, so f = k * N + j",
        ),
        Mistake(
            product(f=lambda k, j, K, N: k * K + j),
            "a row of B has N weights, not K: f = k * N + j",
        ),
        Mistake(
            product(f=lambda k, j, K, N: k),
            "every column gets the same weights: j is missing in f = k * N + j",
        ),
        Mistake(
            product(f=lambda k, j, K, N: j),
            "every k gets the same weight: k is missing in f = k * N + j",
        ),
        Mistake(product(add=False), "only the product of the last k is left: add them up, all K"),
        Mistake(
            product(fresh=False),
            "the sum goes on from one output to the next: start from 0 for each j",
        ),
        Mistake(product(first=1), "the first k is missing: k runs from 0"),
        Mistake(product(last=1), "the last k is missing: range(K) ends with K - 1"),
        Mistake(transposed, "your result is transposed: row i of a gives row i of out"),
        Mistake(without_a, "you add up the weights alone: multiply each by a[i, k]"),
        Mistake(of_the_sums, "you multiply sums: multiply a[i, k] by its weight for each k, then add"),
    ),
    hints=(
        "Three loops: i over the rows of a, j over the N columns, k over the K products that an output "
        "adds up. The weight B[k, j] is decode_element(raw, k * N + j).",
        "Make out with np.empty((M, N), np.float32). Start a total from np.float32(0) for each j, add K "
        "products to it, store it; return out behind all loops.",
    ),
)


# naive_fused_work: M, K, N, element_bytes -> weights decoded, encoded bytes read


def naive_fused_work(M, K, N, element_bytes):
    """Return how many weights Phase 1 decodes, and how many encoded bytes it reads for that."""
    return M * K * N, M * K * N * element_bytes


def size_cases():
    sizes = ((128, 128, 128, 18), (1, 256, 768, 18), (7, 64, 512, 17), (16, 512, 32, 20))
    return {f"{M} x {K} times {K} x {N}, {n} bytes a call": (M, K, N, n) for M, K, N, n in sizes}


def work(decodes=lambda M, K, N: M * K * N, each=1):
    return lambda M, K, N, n: (each * decodes(M, K, N), each * decodes(M, K, N) * n)


WORK = Exercise(
    name="naive_fused_work",
    engine=naive_fused_work,
    parts=("decodes", "encoded bytes"),
    cases=size_cases,
    mistakes=(
        Mistake(
            work(lambda M, K, N: K * N),
            "you count each weight once: it is decoded again for each of the M rows of a",
        ),
        Mistake(
            work(lambda M, K, N: M * N),
            "you count one decode for each output: an output adds up K products, each of another weight",
        ),
        Mistake(
            work(lambda M, K, N: M * K),
            "you count the activations: the weights are decoded, one for each i, j and k",
        ),
        Mistake(
            work(each=2),
            "you count operations, two for each multiply-add: there is one decode for each",
        ),
        Mistake(
            lambda M, K, N, n: (M * K * N, K * N * n),
            "your bytes count each weight once: every decode reads them again, nothing is kept",
        ),
        Mistake(
            lambda M, K, N, n: (M * K * N, n),
            "your bytes are those of one call: there are as many calls as decodes",
        ),
        Mistake(
            lambda M, K, N, n: (M * K * N, M * K * N),
            "you count one byte a call: a call reads element_bytes",
        ),
        Mistake(
            lambda M, K, N, n: (M * K * N, 4 * M * K * N),
            "you count 4 bytes a call, a float32: that is what comes out; element_bytes is what it reads",
        ),
        Mistake(
            lambda M, K, N, n: (M * K * N, M * K * N * n + 4 * M * K),
            "you count the activations as well: here only encoded bytes count",
        ),
        Mistake(
            lambda M, K, N, n: (M * K * N * n, M * K * N),
            "return the number of decodes first, then the bytes",
        ),
    ),
    hints=(
        "How many times does the innermost line of the three loops run?",
        "M * K * N times. Each time it decodes one weight and reads element_bytes for it.",
    ),
)


# nanoseconds_per_decode: seconds, threads, M, K, N -> nanoseconds of one thread


def nanoseconds_per_decode(seconds, threads, M, K, N):
    """Return the nanoseconds that one thread has for each of the M * K * N decodes it shares."""
    return seconds * threads / (M * K * N) * 1e9


def time_cases():
    return {
        "a tenth of a second, 1 thread, the report's size": (0.1, 1, 128, 128, 128),
        "a hundredth of a second, 4 threads": (0.01, 4, 64, 128, 256),
        "one row of a": (1e-3, 2, 1, 256, 512),
    }


NANOSECONDS = Exercise(
    name="nanoseconds_per_decode",
    engine=nanoseconds_per_decode,
    cases=time_cases,
    mistakes=(
        Mistake(
            lambda seconds, threads, M, K, N: seconds * threads / (M * K * N),
            "these are seconds: a second has 1e9 nanoseconds",
        ),
        Mistake(
            lambda seconds, threads, M, K, N: seconds * threads / (M * K * N) * 1e6,
            "these are microseconds: a second has 1e9 nanoseconds",
        ),
        Mistake(
            lambda seconds, threads, M, K, N: seconds / (M * K * N) * 1e9,
            "the threads are missing: while one second passes, each thread works for one",
        ),
        Mistake(
            lambda seconds, threads, M, K, N: seconds / threads / (M * K * N) * 1e9,
            "you divide by the threads: together they work for seconds * threads",
        ),
        Mistake(
            lambda seconds, threads, M, K, N: seconds * threads / (K * N) * 1e9,
            "M is missing: each of the K * N weights is decoded M times",
        ),
        Mistake(
            lambda seconds, threads, M, K, N: seconds * threads / (M * N) * 1e9,
            "K is missing: each of the M * N outputs takes K decodes",
        ),
        Mistake(
            lambda seconds, threads, M, K, N: seconds * threads / (2 * M * K * N) * 1e9,
            "you count two for each multiply-add: there is one decode for each",
        ),
        Mistake(
            lambda seconds, threads, M, K, N: M * K * N / (seconds * threads) / 1e9,
            "that is decodes for each nanosecond: turn the fraction round",
        ),
    ),
    hints=(
        "All threads together work for seconds * threads. How many decodes do they share?",
        "They share one decode for each i, j and k. A second has 1e9 nanoseconds.",
    ),
    tolerance=1e-9,
)

EXERCISES = [TOUCHED, WEIGHT, PRODUCT, WORK, NANOSECONDS]
