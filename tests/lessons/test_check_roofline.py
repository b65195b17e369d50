"""What learners write in lesson 14, for test_check_learners.py, and what is the lesson's own."""

import math

import numpy as np
import pytest

from blocks2tokens import FORMATS, KERNELS
from blocks2tokens.course import ledger
from blocks2tokens.course.lessons.roofline import exercises as lesson

NAMES = {e.name: e for e in lesson.EXERCISES}


def intensity(each=2, weight_bytes=None, x=4, out=4, times_m=True, weights_again=False):
    def product_intensity(M, K, N, fmt):
        blocks = K * N // fmt.block_size
        moved = blocks * fmt.bytes_per_block
        if weight_bytes:
            moved = K * N * weight_bytes(fmt)
        if weights_again:
            moved = moved * M
        moved += x * M * K + out * M * N
        return each * (M if times_m else 1) * K * N / moved

    return product_intensity


def bytes_for_each_operation(M, K, N, fmt):
    return 1 / intensity()(M, K, N, fmt)


def roof(peak_too=True, slope=lambda intensity, bandwidth: intensity * bandwidth, higher=False):
    def attainable(intensity, peak, bandwidth):
        fed = slope(intensity, bandwidth)
        if not peak_too:
            return fed
        if (peak < fed) != higher:
            return peak
        return fed

    return attainable


def peak_alone(intensity, peak, bandwidth):
    return peak


def one_after_the_other(intensity, peak, bandwidth):
    seconds = intensity / peak + 1 / bandwidth
    return intensity / seconds


def rows(
    round_=lambda m: math.ceil(m), each=2, bytes_=lambda fmt: fmt.bits_per_weight / 8, balance=lambda b: b
):
    def ridge_rows(peak, bandwidth, fmt):
        return round_(balance(peak / bandwidth) * bytes_(fmt) / each)

    return ridge_rows


def up_always(m):
    return int(m) + 1


def balance_alone(peak, bandwidth, fmt):
    return math.ceil(peak / bandwidth)


def times_one_row(peak, bandwidth, fmt):
    one_row = 2 * fmt.block_size / fmt.bytes_per_block
    return math.ceil(peak / bandwidth * one_row)


def tokens(byte=8, giga=1e9, each=2, M_times=True, M_tokens=True, again=False, how="longer", peak_giga=1e9):
    def tokens_per_second(n_weights, bits, M, peak, bandwidth):
        read = n_weights * bits / byte / bandwidth / giga * (M if again else 1)
        multiply = each * n_weights * (M if M_times else 1) / peak / peak_giga
        took = {"longer": max(read, multiply), "both": read + multiply, "reading": read}
        took |= {"shorter": min(read, multiply), "multiplying": multiply}
        return (M if M_tokens else 1) / took[how]

    return tokens_per_second


def without_the_billions(n_weights, bits, M, peak, bandwidth):
    return M / max(n_weights * bits / 8 / bandwidth, 2 * n_weights * M / peak)


def seconds_for_each_token(n_weights, bits, M, peak, bandwidth):
    return max(n_weights * bits / 8 / bandwidth, 2 * n_weights * M / peak) / M / 1e9


def needed(weight=lambda bits: bits / 8, giga=1e9, passes=lambda rate, M: rate / M):
    def bandwidth_needed(n_weights, bits, rate, M):
        return n_weights * weight(bits) * passes(rate, M) / giga

    return bandwidth_needed


WRONG = [
    ("product_intensity", intensity(each=1), "one operation for each multiply-add"),
    ("product_intensity", intensity(weight_bytes=lambda f: f.bits_per_weight), "as they have bits"),
    ("product_intensity", intensity(weight_bytes=lambda f: f.bytes_per_block), "of a whole block"),
    (
        "product_intensity",
        intensity(weight_bytes=lambda f: f.block_size / f.bytes_per_block),
        "weights for each byte",
    ),
    ("product_intensity", intensity(times_m=False), "M is missing"),
    ("product_intensity", intensity(weights_again=True), "read the weights again"),
    ("product_intensity", intensity(weight_bytes=lambda f: 4), "W comes encoded"),
    ("product_intensity", intensity(x=0, out=0), "you move weights only"),
    ("product_intensity", intensity(out=0), "the result is missing"),
    ("product_intensity", intensity(x=0), "x is missing"),
    ("product_intensity", intensity(x=1, out=1), "are float32"),
    ("product_intensity", bytes_for_each_operation, "turn the quotient over"),
    ("attainable", roof(higher=True), "the higher of the two"),
    ("attainable", roof(peak_too=False), "the peak is missing"),
    ("attainable", peak_alone, "the bandwidth is missing"),
    ("attainable", roof(slope=lambda i, b: b / i), "divide by the intensity"),
    ("attainable", roof(slope=lambda i, b: b), "compare GB/s with GFLOP/s"),
    ("attainable", one_after_the_other, "you add the two times"),
    ("ridge_rows", rows(round_=int), "round down"),
    ("ridge_rows", rows(round_=lambda m: int(m + 0.5)), "to the nearest"),
    ("ridge_rows", rows(round_=float), "rows come whole"),
    ("ridge_rows", rows(round_=up_always), "even what is whole"),
    ("ridge_rows", rows(balance=math.ceil), "you round up peak / bandwidth, too"),
    ("ridge_rows", rows(balance=int), "you round down peak / bandwidth"),
    ("ridge_rows", rows(each=1), "one operation for each multiply-add"),
    ("ridge_rows", rows(bytes_=lambda fmt: fmt.bits_per_weight), "bits for bytes"),
    ("ridge_rows", rows(bytes_=lambda fmt: 4), "whatever the format"),
    ("ridge_rows", balance_alone, "the machine's balance"),
    ("ridge_rows", times_one_row, "you multiply by what one row"),
    ("tokens_per_second", tokens(byte=1), "bits for bytes"),
    ("tokens_per_second", tokens(giga=2**30), "GiB for GB"),
    ("tokens_per_second", tokens(how="both"), "you add reading and multiplying"),
    ("tokens_per_second", tokens(how="shorter"), "you wait for the shorter"),
    ("tokens_per_second", tokens(M_tokens=False), "passes a second"),
    ("tokens_per_second", tokens(again=True), "read the weights again"),
    ("tokens_per_second", tokens(how="reading"), "arithmetic is missing"),
    ("tokens_per_second", tokens(how="multiplying"), "reading is missing"),
    ("tokens_per_second", tokens(giga=1), "the bandwidth is in billions"),
    ("tokens_per_second", tokens(peak_giga=1), "the peak is in billions"),
    ("tokens_per_second", tokens(how="reading", M_tokens=False), "lesson 13's count"),
    ("tokens_per_second", tokens(M_times=False), "M is missing"),
    ("tokens_per_second", tokens(each=1), "one operation for each multiply-add"),
    ("tokens_per_second", without_the_billions, "in billions a second"),
    ("tokens_per_second", seconds_for_each_token, "seconds for each token"),
    ("bandwidth_needed", needed(weight=lambda bits: bits), "billions of bits"),
    ("bandwidth_needed", needed(giga=1024**3), "these are GiB"),
    ("bandwidth_needed", needed(giga=1), "bytes a second"),
    ("bandwidth_needed", needed(passes=lambda rate, M: rate), "M is missing"),
    ("bandwidth_needed", needed(passes=lambda rate, M: rate * M), "you multiply by M"),
    ("bandwidth_needed", needed(weight=lambda bits: 1), "one byte for each weight"),
    ("bandwidth_needed", needed(weight=lambda bits: 4), "you read float32"),
]


def in_float32(function):
    def rounded(*arguments):
        return np.float32(function(*arguments))

    return rounded


RIGHT = {
    "product_intensity": [intensity(), in_float32(intensity())],
    "attainable": [roof(), in_float32(roof())],
    "ridge_rows": [rows()],
    "tokens_per_second": [tokens(), in_float32(tokens())],
    "bandwidth_needed": [needed(), in_float32(needed())],
}


# The formulas agree with what the kernels count, and with one another


@pytest.mark.parametrize("fmt", ["Q4_K", "Q6_K", "Q8_0", "F32"])
@pytest.mark.parametrize(("M", "K", "N"), [(1, 512, 300), (128, 2048, 64)])
def test_the_intensity_is_that_of_a_kernel_that_reads_every_byte_once(M, K, N, fmt):
    cost = KERNELS["fused_rows"].cost(M, K, N, FORMATS[fmt], 1)
    expected = 2 * cost.multiply_adds / (cost.bytes_read + 4 * M * N)
    assert NAMES["product_intensity"].engine(M, K, N, FORMATS[fmt]) == pytest.approx(expected)


@pytest.mark.parametrize("fmt", ["Q4_K", "Q6_K", "Q8_0", "F32"])
def test_the_ridge_is_where_the_roof_turns(fmt):
    peak, bandwidth, bits = 203.0, 31.0, FORMATS[fmt].bits_per_weight
    M = NAMES["ridge_rows"].engine(peak, bandwidth, FORMATS[fmt])
    roof = NAMES["attainable"].engine
    assert roof(ledger.flop_per_byte(M, bits), peak, bandwidth) == peak
    assert roof(ledger.flop_per_byte(M - 1, bits), peak, bandwidth) < peak


def test_one_token_for_each_pass_is_what_lesson_13_counts():
    engine = NAMES["tokens_per_second"].engine
    assert engine(14e9, 4.5, 1, 1e6, 80) == pytest.approx(ledger.tokens_per_second(14e9, 4.5, 80))


@pytest.mark.parametrize("M", [1, 4])
def test_the_bandwidth_needed_gives_the_tokens_asked_for(M):
    needed = NAMES["bandwidth_needed"].engine(14e9, 4.5, 25, M)
    assert NAMES["tokens_per_second"].engine(14e9, 4.5, M, 1e6, needed) == pytest.approx(25)
