"""What learners write in lesson 13, for test_check_learners.py, and what is the lesson's own."""

import math
from operator import le, lt

import numpy as np
import pytest

from blocks2tokens.course.lessons.the_verdict import exercises as lesson
from blocks2tokens.formats import FORMATS
from blocks2tokens.kernels import KERNELS

NAMES = {e.name: e for e in lesson.EXERCISES}


# judge_ratio, in a learner's way: ask, answer, one `if` at a time


def near(claimed, found, up=True, down=True):
    return not ((up and found > claimed * 1.5) or (down and found * 1.5 < claimed))


def judge(claimed, at_128, at_1, near=near, both="holds", many="holds at 128 rows", one="holds at one row"):
    if near(claimed, at_128) and near(claimed, at_1):
        return both
    if near(claimed, at_128):
        return many
    if near(claimed, at_1):
        return one
    return "does not hold"


def judge_mean(claimed, at_128, at_1):
    return "holds" if near(claimed, 0.5 * at_128 + 0.5 * at_1) else "does not hold"


# judge_decoder


def correct(first, second, reference, runs=(0, 1), least=0.99, of_both=max, allowed=le):
    given = [np.asarray(first), np.asarray(second)]
    wrong = [int((given[run] != reference).sum()) for run in runs]
    most = round((1 - least) * reference.size)
    return "holds" if allowed(of_both(wrong), most) else "does not hold"


def correct_in_both(first, second, reference):
    wrong = sum(a != c or b != c for a, b, c in zip(first, second, reference, strict=True))
    return "holds" if wrong <= 10 else "does not hold"


def correct_in_turn(first, second, reference):
    return correct(first, reference, second)


def correct_by_mean(first, second, reference):
    far = [abs(float(np.mean(run - reference))) for run in (first, second)]
    return "holds" if max(far) < 0.01 else "does not hold"


def changed(function, **arguments):
    def mutant(*given):
        return function(*given, **arguments)

    return mutant


# factors_along


def factors(times, order, quotient=lambda before, after: before / after):
    made, found = set(), []
    for change in order:
        before = times[frozenset(made)]
        made.add(change)
        found.append(quotient(before, times[frozenset(made)]))
    return found


def factors_from_start(times, order):
    start = times[frozenset()]
    return [start / times[frozenset(order[: n + 1])] for n in range(len(order))]


def factors_each_alone(times, order):
    return np.array([times[frozenset()] / times[frozenset({change})] for change in order])


def factors_undone(times, order):
    last = times[frozenset(order)]
    return [times[frozenset(c for c in order if c != change)] / last for change in order]


def factors_and_whole(times, order):
    found = factors(times, order)
    return [*found, times[frozenset()] / times[frozenset(order)]]


def factors_reversed(times, order):
    return factors(times, list(reversed(order)))


# The counts


def decoded(phase, M, K, N):
    return KERNELS[phase].cost(M, K, N, FORMATS["Q4_K"], 1).elements_decoded


def decoding(M, K, N):
    return decoded("phase1_naive_fused", M, K, N) / decoded("phase0_baseline", M, K, N)


def intensity(M, bits, per_multiply_add=2, bits_in_byte=8, bytes_read=None):
    K, N = 3, 5
    read = bytes_read * K * N if bytes_read else K * N * bits / bits_in_byte
    return per_multiply_add * M * K * N / read


def ceiling(weights, bits, rate, giga=1e9, each=None):
    each = bits / 8 if each is None else each
    return rate * giga / each / weights


def in_numpys_words(claimed, at_128, at_1):
    """Return NumPy's own kind of str."""
    return np.array([judge(claimed, at_128, at_1)])[0]


def in_float32(function):
    return lambda *given: np.float32(function(*given))


WRONG = [
    ("judge_ratio", changed(judge, near=changed(near, down=False)), "1.5 times too small as well"),
    ("judge_ratio", changed(judge, near=changed(near, up=False)), "1.5 times too large as well"),
    ("judge_ratio", changed(judge, near=lambda c, f: -1.5 <= c - f <= 1.5), "you compare by a difference"),
    ("judge_ratio", changed(judge, near=lambda c, f: c / 2 <= f <= 1.5 * c), "50 % of the claim is not"),
    ("judge_ratio", changed(judge, many="holds", one="does not hold"), "you judge by 128 rows alone"),
    ("judge_ratio", changed(judge, many="does not hold", one="does not hold"), "you let a claim fall"),
    ("judge_ratio", changed(judge, one="does not hold"), "you never say ledger.AT_1"),
    ("judge_ratio", changed(judge, many="holds at one row", one="holds at 128 rows"), "wrong way round"),
    ("judge_ratio", judge_mean, "the mean of two cases"),
    ("judge_ratio", changed(judge, near=lambda c, f: abs(c - f) <= f / 2), "50 % of what was found"),
    ("judge_ratio", changed(judge, near=lambda c, f: f <= 1.5 * c or c <= 1.5 * f), "every claim holds"),
    ("judge_ratio", changed(judge, many="holds", one="holds"), "you let a claim hold everywhere"),
    ("judge_decoder", lambda f, s, r: correct(f, f, s), "you compare the decoder with itself"),
    ("judge_decoder", changed(correct, runs=[0]), "you look at the first run only"),
    ("judge_decoder", changed(correct, runs=[1]), "you look at the second run only"),
    ("judge_decoder", changed(correct, least=1), "you let no weight differ"),
    ("judge_decoder", correct_by_mean, "you compare means"),
    ("judge_decoder", correct_in_both, "neither one by the other nor what both"),
    ("judge_decoder", correct_in_turn, "neither one by the other nor what both"),
    ("judge_decoder", changed(correct, of_both=min), "one right run is enough for you"),
    ("judge_decoder", changed(correct, of_both=np.mean), "the mean of two runs"),
    ("judge_decoder", changed(correct, allowed=lt), "exactly 99 % is enough"),
    ("factors_along", changed(factors, quotient=lambda before, after: after / before), "upside down"),
    ("factors_along", factors_from_start, "counts from the start"),
    ("factors_along", factors_each_alone, "you make each change alone"),
    ("factors_along", factors_undone, "you undo each change alone"),
    ("factors_along", changed(factors, quotient=lambda before, after: before - after), "seconds saved"),
    ("factors_along", factors_reversed, "from its end"),
    ("factors_along", factors_and_whole, "the whole is not one of them"),
    ("decoding_ratio", lambda M, K, N: 128, "right at the report's size only"),
    ("decoding_ratio", lambda M, K, N: M * K * N / (M * K), "you divide by M * K"),
    ("decoding_ratio", lambda M, K, N: M * K * N / (M * N), "you divide by M * N"),
    ("decoding_ratio", lambda M, K, N: M * K * N / K, "you let Phase 0 decode K weights"),
    ("decoding_ratio", lambda M, K, N: M * K * N, "divide it by what Phase 0 does"),
    ("decoding_ratio", lambda M, K, N: K * N / (M * K * N), "upside down"),
    ("decoding_ratio", lambda M, K, N: M * K * N / (K * N // 256), "all 256 weights of a block count"),
    ("flop_per_byte", changed(intensity, per_multiply_add=1), "one operation for each multiply-add"),
    ("flop_per_byte", changed(intensity, bits_in_byte=1), "operations for each bit"),
    ("flop_per_byte", lambda M, bits: intensity(1, bits), "M is missing"),
    ("flop_per_byte", changed(intensity, bytes_read=4), "you read float32"),
    ("flop_per_byte", lambda M, bits: 1 / intensity(M, bits), "bytes for each operation"),
    ("flop_per_byte", lambda M, bits: 2 * M * (bits / 8), "you multiply by the bytes"),
    ("tokens_per_second_at_most", lambda w, bits, rate: ceiling(w, bits, rate, each=bits), "by bits"),
    ("tokens_per_second_at_most", changed(ceiling, each=1), "one byte for each weight"),
    ("tokens_per_second_at_most", lambda *given: 1 / ceiling(*given), "seconds for each token"),
    ("tokens_per_second_at_most", changed(ceiling, giga=1), "multiply it by 1e9"),
    ("tokens_per_second_at_most", changed(ceiling, giga=1024**3), "powers of ten"),
    ("tokens_per_second_at_most", changed(ceiling, each=4), "you read float32"),
]
RIGHT = {
    "judge_ratio": [judge, in_numpys_words],
    "judge_decoder": [correct],
    "factors_along": [factors, in_float32(factors)],
    "decoding_ratio": [decoding, in_float32(decoding)],
    "flop_per_byte": [intensity, in_float32(intensity)],
    "tokens_per_second_at_most": [ceiling, in_float32(ceiling)],
}


def test_another_word_is_shown():
    message = NAMES["judge_ratio"].judge(lambda claimed, at_128, at_1: "true").message
    assert "expected 'holds', got str 'true'" in message


def by_distance(first, second, reference):
    apart = max(float(np.abs(run - reference).mean()) for run in (first, second))
    return "holds" if apart <= 0.01 else "does not hold"


@pytest.mark.parametrize(
    "judge",
    [
        changed(correct, least=0.98),
        changed(correct, least=0.989),
        changed(correct, least=0.995),
        by_distance,
    ],
)
def test_a_decoder_is_judged_by_99_of_100_weights(judge):
    assert NAMES["judge_decoder"].judge(judge).kind == "wrong"


def judged_by(within):
    return changed(judge, near=within)


@pytest.mark.parametrize(
    "within",
    [
        lambda a, b: abs(math.log(a) - math.log(b)) <= math.log(1.5),
        lambda a, b: abs(np.log2(b / a)) < np.log2(1.5),
        lambda a, b: 1 / 1.5 <= a / b <= 1.5,
        lambda a, b: max(a, b) < 1.5 * min(a, b),
    ],
)
def test_a_factor_of_1_5_may_be_asked_for_in_any_way(within):
    """No case lies at the limit itself, where logarithms are a rounding away."""
    assert NAMES["judge_ratio"].judge(judged_by(within)).kind == "right"


@pytest.mark.parametrize(
    "near_128",
    [lambda a, b: max(a / b, b // a) <= 1.5, lambda a, b: max(a // b, b / a) <= 1.5],
)
def test_a_quotient_of_128_rows_is_no_whole_number(near_128):
    def judge_apart(claimed, at_128, at_1):
        words = ("does not hold", "holds at one row", "holds at 128 rows", "holds")
        return words[2 * near_128(claimed, at_128) + near(claimed, at_1)]

    assert NAMES["judge_ratio"].judge(judge_apart).kind == "wrong"
