"""What learners write in lesson 16, for test_check_learners.py, and what is the lesson's own."""

import numpy as np
import pytest
from numba import njit

from blocks2tokens import KERNELS, QuantizedMatrix
from blocks2tokens.course.lessons.integer_dot import exercises as lesson
from blocks2tokens.jit import cpu, vectors
from blocks2tokens.jit.vectors import (
    add_scaled_pairs,
    bytes_to_floats,
    dot_pairs,
    high_nibbles,
    load_8_floats,
    load_bytes,
    load_half,
    low_nibbles,
    multiply,
    multiply_add,
    packed_scales,
    pick_scales,
    repeat_bytes,
    repeat_float,
    to_floats,
    total,
    zero_floats,
    zero_ints,
    zeros_like,
)
from blocks2tokens.kernels.ours import quantized_activations

NAMES = {e.name: e for e in lesson.EXERCISES}


def codes_of(top=127, nearest=np.rint, magnitude=abs, one_scale=False, inverse=False, swap=False):
    def quantize(x, block):
        codes, d = [], []
        for start in range(0, len(x), block):
            part = x[start : start + block]
            largest = max(magnitude(v) for v in (x if one_scale else part))
            scale = largest / top
            codes += [int(nearest(v / scale)) if scale else 0 for v in part]
            d.append(top / largest if inverse and scale else np.inf if inverse else scale)
        codes, d = np.array(codes).astype(np.int8), np.array(d, np.float32)
        return (d, codes) if swap else (codes, d)

    return quantize


def sums_of(d_of=lambda d, g, per: d[g // per], start=int, over=1, a_block=False):
    def sums(codes, d, group):
        if a_block:
            group = len(codes) // len(d)
        per = len(codes) // len(d) // group
        found = []
        for g in range(len(codes) // group):
            s = start(0)
            for c in codes[g * group : (g + 1) * group]:
                s = start(int(s) + int(c))
            found.append(d_of(d, g, per) * s / (group if over == "mean" else 1))
        return np.array(found, np.float32)

    return sums


def dot_of(
    sign=-1,
    whole=int,
    code=int,
    scale=lambda s, g: s[g],
    d_of=lambda d, b: d[b],
    term=lambda o, s, d, c: o * s,
    product=lambda q, c: q * c,
):
    def dot(q, scales, offsets, codes, d, sums):
        result = 0.0
        with np.errstate(over="ignore"):
            for g in range(len(scales)):
                group, products = slice(32 * g, 32 * g + 32), whole(0)
                for a, b in zip(q[group], codes[group], strict=True):
                    products = whole(products + whole(product(code(a), code(b))))
                result += float(d_of(d, g // 8)) * float(scale(scales, g)) * float(products)
                result += sign * float(term(offsets[g], sums[g], d[g // 8], codes[group]))
        return result

    return dot


def order_of(width_of=int, weight=lambda byte, h: 64 * (byte // 32) + 32 * h + byte % 32, turn=1, last=list):
    def order(width):
        found, width = [], width_of(width)
        for start in range(0, 128, width):
            for high in (0, 1)[::turn]:
                for i in range(width):
                    found.append(weight(start + i, high))
        return np.array(last(found))

    return order


def places(order):
    where = [0] * 256
    for place, weight in enumerate(order):
        where[weight] = place
    return where


def row_of(starts=(16, 80), pairs="0213", x_step=64, same_x=False, of_x=True, mins_at=2, step=32, end=-1):
    """Return a kernel with loops over loads and nibbles; pick_scales gets names, so it cannot compile."""

    def dot(isa, raw, codes, d, sums):
        products, offsets = zero_floats(), zeros_like(load_8_floats(sums, 0))
        for b in range(d.size):
            sc, m = packed_scales(raw, 144 * b + 4)
            ints, place = zero_ints(), 256 * b
            for half, start in enumerate(starts):
                loaded = load_bytes(raw, 144 * b + start)
                for high in range(2):
                    q = high_nibbles(loaded) if high else low_nibbles(loaded)
                    x = load_bytes(codes, place)
                    if not (same_x and high == 0):
                        place += x_step
                    first, second = (4 * half + int(n) for n in pairs[2 * high : 2 * high + 2])
                    scales = pick_scales(repeat_bytes(sc), first % 8, second % 8)
                    ints = add_scaled_pairs(isa, ints, dot_pairs(isa, q, x), scales)
            scale = load_half(raw, 144 * b) * (d[b] if of_x else np.float32(1))
            products = multiply_add(to_floats(ints), repeat_float(scale, products), products)
            mins = bytes_to_floats(m)
            mins = multiply(mins, repeat_float(load_half(raw, 144 * b + mins_at), mins))
            offsets = multiply_add(mins, load_8_floats(sums, step * b), offsets)
        return total(products) + end * total(offsets)

    # The order of the scales "0213" reads: low nibbles 0 and 2, high nibbles 1 and 3.
    return dot


def four_vectors(isa, raw, codes, d, sums):
    """A right kernel, in a learner's way."""
    products, offsets = zero_floats(), zeros_like(load_8_floats(sums, 0))
    for b in range(len(d)):
        sc, m = packed_scales(raw, 144 * b + 4)
        sc = repeat_bytes(sc)
        one, two = load_bytes(raw, 144 * b + 16), load_bytes(raw, 144 * b + 16 + 64)
        x0, x1 = load_bytes(codes, 256 * b), load_bytes(codes, 256 * b + 64)
        x2, x3 = load_bytes(codes, 256 * b + 128), load_bytes(codes, 256 * b + 192)
        t = add_scaled_pairs(isa, zero_ints(), dot_pairs(isa, low_nibbles(one), x0), pick_scales(sc, 0, 2))
        t = add_scaled_pairs(isa, t, dot_pairs(isa, low_nibbles(two), x2), pick_scales(sc, 4, 6))
        t = add_scaled_pairs(isa, t, dot_pairs(isa, high_nibbles(one), x1), pick_scales(sc, 1, 3))
        t = add_scaled_pairs(isa, t, dot_pairs(isa, high_nibbles(two), x3), pick_scales(sc, 5, 7))
        floats = multiply(to_floats(t), repeat_float(d[b] * load_half(raw, 144 * b), products))
        products = multiply_add(floats, repeat_float(np.float32(1), products), products)
        mins = multiply(load_8_floats(sums, 32 * b), bytes_to_floats(m))
        offsets = multiply_add(mins, repeat_float(load_half(raw, 144 * b + 2), mins), offsets)
    return total(products) - total(offsets)


def second_block_forgets(isa, raw, codes, d, sums):
    return lesson.interpreted(row_of())(isa, raw[-144:], codes[-256:], d[-1:], sums[-8:])


def swapped_x(isa, raw, codes, d, sums):
    parts = codes.reshape(-1, 4, 64)[:, [0, 2, 1, 3]].reshape(-1)
    return lesson.interpreted(row_of())(isa, raw, np.ascontiguousarray(parts), d, sums)


def second_scales_again(isa, raw, codes, d, sums):
    raw = raw.reshape(-1, 144).copy()
    for block in raw:
        s = block[4:16]
        for j in range(4):
            low, m = s[j] & 63, (s[j + 8] >> 4) | (s[j + 4] >> 6) << 4
            s[j] = low | (low >> 4) << 6
            s[j + 8] = (low & 15) | (m & 15) << 4
    return lesson.interpreted(row_of())(isa, raw.reshape(-1), codes, d, sums)


def int8(value):
    return np.array(value).astype(np.int8)[()]


def int16(value):
    return np.array(value).astype(np.int16)[()]


def codes_clipped(low):
    def quantize(x, block):
        parts = x.reshape(-1, block)
        d = np.abs(parts).max(axis=1, keepdims=True) / np.float32(128)
        codes = np.clip(np.rint(parts / np.where(d > 0, d, 1)), low, 127)
        return codes.astype(np.int8).reshape(-1), d[:, 0]

    return quantize


def divides_zeros(x, block):
    parts = x.reshape(-1, block)
    d = np.abs(parts).max(axis=1, keepdims=True) / np.float32(127)
    return np.rint(parts / d).astype(np.int8).reshape(-1), d[:, 0]


def divides_where_it_can(x, block):
    """Divides zeros as well, and throws the result away."""
    parts = x.reshape(-1, block)
    d = np.abs(parts).max(axis=1, keepdims=True) / np.float32(127)
    return np.where(d > 0, np.rint(parts / d), 0).astype(np.int8).reshape(-1), d[:, 0]


def in_groups(products):
    def dot(q, scales, offsets, codes, d, sums):
        total = 0.0
        for g in range(len(scales)):
            part = slice(32 * g, 32 * (g + 1))
            total += d[g // 8] * scales[g] * products(q[part], codes[part]) - offsets[g] * sums[g]
        return total

    return dot


def all_at_once(q, scales, offsets, codes, d, sums):
    products = (q.astype(np.int32) * codes).reshape(-1, 32).sum(axis=1)
    return float((np.repeat(d, 8) * scales * products).sum() - offsets @ sums)


def weights_first(q, scales, offsets, codes, d, sums):
    w = q * np.repeat(scales, 32) - np.repeat(offsets, 32)
    return (w * codes * np.repeat(d, 256)).sum()


def number_by_number(type_):
    return lambda q, c: sum(type_(q[l]) * type_(c[l]) for l in range(len(q)))


WHOLE = {
    "np.int32": in_groups(number_by_number(np.int32)),
    "np.dot": in_groups(lambda q, c: np.dot(q.astype(np.int32), c)),
    "@": in_groups(lambda q, c: q.astype(int) @ c.astype(int)),
    "plain Python": in_groups(lambda q, c: sum(int(a) * int(b) for a, b in zip(q, c, strict=True))),
    "all at once": all_at_once,
}


@pytest.mark.parametrize("how", WHOLE)
def test_whole_numbers_pass(how):
    verdict = NAMES["dot_integers"].judge(WHOLE[how])
    assert verdict.kind == "right", verdict.message


def test_zeros_may_be_divided_if_the_result_is_not_used():
    assert NAMES["quantize_activations"].judge(divides_where_it_can).kind == "right"


def lost_its_axis(x, block):
    parts = x.reshape(-1, block)
    d = np.abs(parts).max(axis=1) / 127
    return np.rint(parts / np.where(d > 0, d, 1)).astype(np.int8).reshape(-1), d


def int_of_nothing(x, block):
    codes, d = np.empty(x.size, np.int8), np.abs(x.reshape(-1, block)).max(axis=1) / 127
    for i, value in enumerate(x):
        codes[i] = int(np.rint(value / d[i // block]))
    return codes, d


def test_an_exception_is_told_as_zeros_only_where_it_comes_from_zeros():
    message = NAMES["quantize_activations"].judge(lost_its_axis).message
    assert "could not be broadcast" in message and "matched from the right" in message
    assert "a block of zeros" not in message.split("\n")[1]
    message = NAMES["quantize_activations"].judge(int_of_nothing).message
    assert message.split("\n")[1].startswith("a block of zeros has d = 0")


def offsets_of_16(isa, raw, codes, d, sums):
    offsets = zero_floats()
    mins = bytes_to_floats(packed_scales(raw, 4)[1])
    return total(multiply_add(mins, load_8_floats(sums, 0), offsets))


def test_registers_of_two_lengths_are_explained():
    message = NAMES["dot_q4_k_row"].judge(offsets_of_16).message
    assert "ValueError" in message and "products has 16 floats" in message


WRONG = [
    ("quantize_activations", codes_clipped(-127), "over 128 steps and clip"),
    ("quantize_activations", codes_clipped(-128), "over 128 steps and clip"),
    ("quantize_activations", divides_zeros, "a block of zeros"),
    ("dot_integers", in_groups(lambda q, c: q.astype(np.float32) @ c), "by astype(float32)"),
    ("dot_integers", in_groups(lambda q, c: (q * np.float64(1) * c).sum()), "in floats, by multiply"),
    ("dot_integers", weights_first, "in floats, by multiply"),
    ("dot_integers", in_groups(number_by_number(float)), "in floats, by float"),
    ("dot_integers", in_groups(number_by_number(np.float32)), "in floats, by float"),
    ("dot_integers", in_groups(lambda q, c: np.dot(q.astype(np.int8), c)), "as np.dot of two int8 arrays"),
    ("dot_q4_k_row", lesson.row(keep_offsets=False), "your offsets begin anew"),
    ("quantize_activations", codes_of(nearest=int), "cut off, not rounded"),
    ("quantize_activations", codes_of(nearest=np.floor), "rounded down"),
    ("quantize_activations", codes_of(top=128), "overflows to -128"),
    ("quantize_activations", codes_of(magnitude=float), "not the largest magnitude"),
    ("quantize_activations", codes_of(one_scale=True), "one scale for all of x"),
    ("quantize_activations", codes_of(inverse=True), "your d is 127 / largest"),
    ("quantize_activations", codes_of(top=255), "255 steps"),
    ("quantize_activations", codes_of(swap=True), "return the codes first"),
    ("group_sums", sums_of(d_of=lambda d, g, per: 1), "leave out d"),
    ("group_sums", sums_of(start=int8), "wraps at 127"),
    ("group_sums", sums_of(d_of=lambda d, g, per: d[0]), "the first d for all"),
    ("group_sums", sums_of(d_of=lambda d, g, per: d[g % len(d)]), "repeat, not tile"),
    ("group_sums", sums_of(a_block=True), "one sum for each block"),
    ("group_sums", sums_of(over="mean"), "these are means"),
    ("dot_integers", dot_of(sign=0), "you forgot the offsets"),
    ("dot_integers", dot_of(sign=1), "you add the offsets"),
    ("dot_integers", dot_of(term=lambda o, s, d, c: o), "you take each offset once"),
    ("dot_integers", dot_of(term=lambda o, s, d, c: d * o * s), "in your offset term twice"),
    ("dot_integers", dot_of(term=lambda o, s, d, c: o * c.sum(dtype=int)), "sums bare codes"),
    ("dot_integers", dot_of(product=lambda q, c: int(int8(q * c))), "your products are int8"),
    ("dot_integers", dot_of(whole=int16), "your sum is int16"),
    ("dot_integers", dot_of(product=lambda q, c: q * (c % 256)), "as unsigned bytes"),
    ("dot_integers", dot_of(scale=lambda s, g: s[(g + 1) % len(s)]), "scale of the wrong sub-block"),
    ("dot_integers", dot_of(scale=lambda s, g: s[g // 8 * 8]), "one scale for the whole block"),
    ("dot_integers", dot_of(d_of=lambda d, b: 1), "d is missing"),
    ("dot_integers", dot_of(d_of=lambda d, b: d[0]), "take the first d for all"),
    ("order_of_codes", lambda width: list(range(256)), "the natural order"),
    ("order_of_codes", order_of(width_of=lambda width: 128), "all low nibbles of the block first"),
    ("order_of_codes", order_of(width_of=lambda width: 64), "whatever `width` says"),
    ("order_of_codes", order_of(last=places), "this is the inverse"),
    ("order_of_codes", order_of(weight=lambda byte, h: 2 * byte + h), "one after the other"),
    ("order_of_codes", order_of(weight=lambda byte, h: byte + 128 * h), "begin with weight 128"),
    ("order_of_codes", order_of(turn=-1), "before the low ones"),
    ("order_of_codes", order_of(width_of=lambda width: 1), "both nibbles of a byte"),
    ("order_of_codes", order_of(last=lambda o: [w // 32 for w in o[::32]]), "these are the 8 sub-blocks"),
    ("dot_q4_k_row", row_of(end=0), "you forgot the offsets"),
    ("dot_q4_k_row", row_of(end=1), "you add the offsets"),
    ("dot_q4_k_row", row_of(pairs="0123"), "scales of the wrong sub-blocks"),
    ("dot_q4_k_row", second_scales_again, "takes the scales of the first"),
    ("dot_q4_k_row", swapped_x, "the second 64 codes"),
    ("dot_q4_k_row", row_of(same_x=True), "the same activations"),
    ("dot_q4_k_row", row_of(starts=(0, 64)), "load the header"),
    ("dot_q4_k_row", row_of(starts=(16, 48)), "32 bytes behind the first"),
    ("dot_q4_k_row", row_of(of_x=False), "d[b] of the activations"),
    ("dot_q4_k_row", row_of(mins_at=0), "the minimums have dmin"),
    ("dot_q4_k_row", row_of(step=8), "loads count in bytes"),
    ("dot_q4_k_row", second_block_forgets, "only the last block is left"),
]


RIGHT = {
    "quantize_activations": [codes_of()],
    "group_sums": [sums_of()],
    "dot_integers": [dot_of()],
    "order_of_codes": [order_of()],
    "dot_q4_k_row": [four_vectors],
}


# Vector functions


needs_vectors = pytest.mark.skipif(
    vectors.INSTRUCTION_SETS[cpu.available()[0]] is None, reason="this CPU has no vector code"
)


def test_a_load_beyond_the_array_is_told():
    def reads_on(isa, raw, codes, d, sums):
        return total(to_floats(load_bytes(codes, 256 * d.size)))

    assert "a load of 64 bytes from byte 256" in NAMES["dot_q4_k_row"].judge(reads_on).message


@needs_vectors
def test_a_kernel_that_does_not_compile_is_told(monkeypatch):
    monkeypatch.delenv("BLOCKS2TOKENS_SIMD", raising=False)
    verdict = NAMES["dot_q4_k_row"].judge(row_of())
    assert verdict.kind == "wrong" and "Numba cannot compile it" in verdict.message


@pytest.mark.parametrize("module", [vectors, None])
def test_names_may_come_from_the_module(module):
    """`vectors.dot_pairs` has its twin as `dot_pairs` has."""
    function = (lambda: vectors.zero_ints()) if module else (lambda: zero_ints())
    assert np.array_equal(lesson.interpreted(function)(), np.zeros(16))


def in_order(a):
    """Return codes, d and sums of one row of activations as the lesson's row wants them."""
    codes, d, sums = a.codes[0, :, 0], a.d[0, :, 0], a.sums[0, :, 0]
    order = NAMES["order_of_codes"].engine(64)
    return codes[:, order].reshape(-1), np.ascontiguousarray(d), (d[:, None] * sums).reshape(-1)


@needs_vectors
@pytest.mark.parametrize("isa", [name for name in cpu.available() if vectors.INSTRUCTION_SETS[name]])
def test_the_row_is_the_engine_s(isa):
    """Compiled, interpreted and the engine's row: the same number."""
    rng = np.random.default_rng(0)
    w = QuantizedMatrix.quantize(rng.standard_normal((4, 768), dtype=np.float32), "Q4_K")
    x = rng.standard_normal((1, 768), dtype=np.float32)
    arguments = in_order(quantized_activations.quantize(x, 256, 32))
    compiled, kind = njit(lesson.dot_q4_k_row), vectors.INSTRUCTION_SETS[isa]
    for raw, expected in zip(w.raw, KERNELS["integer_dot"](x, w)[0], strict=True):
        twin = lesson.interpreted(lesson.dot_q4_k_row)(None, raw, *arguments)
        assert compiled(kind, raw, *arguments) == pytest.approx(expected, rel=1e-4, abs=1e-3)
        assert twin == pytest.approx(expected, rel=1e-4, abs=1e-3)


# What the exercises teach is what the kernels do


@pytest.mark.parametrize("block", [32, 256])
def test_activations_are_the_engine_s(block):
    x = np.random.default_rng(1).standard_normal((1, 1024), dtype=np.float32)
    made = quantized_activations.quantize(x, block, 32)
    codes, d = NAMES["quantize_activations"].engine(x[0], block)
    assert np.array_equal(codes, made.codes[0, :, 0].ravel()) and np.array_equal(d, made.d[0, :, 0])
    sums = NAMES["group_sums"].engine(codes, d, 32)
    whole = made.sums[0, :, 0] * (made.d[0, :, 0, None] if block == 256 else 1)
    assert np.array_equal(sums, whole.ravel())


def test_the_order_is_what_two_loads_meet():
    """Numbered weights, packed as Q4_K packs nibbles, come out of loads of 64 bytes in this order."""
    number = np.arange(256).reshape(4, 2, 32)
    low, high = number[:, 0].reshape(-1), number[:, 1].reshape(-1)  # of each of the 128 bytes
    met = [part[load : load + 64] for load in (0, 64) for part in (low, high)]
    assert np.array_equal(NAMES["order_of_codes"].engine(64), np.concatenate(met))
