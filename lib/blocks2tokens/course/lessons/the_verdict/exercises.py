"""Lesson 13, the verdict: rules for judging, factors that multiply, and three numbers that decide.

judge_ratio               three factors         -> verdict
judge_decoder             two runs, a reference -> verdict
factors_along             times, an order       -> the factor of each change
decoding_ratio            M, K, N               -> how much more Phase 1 decodes than Phase 0
flop_per_byte             M, bits per weight    -> operations for each byte read
tokens_per_second_at_most weights, bits, GB/s   -> the ceiling that reading sets
"""

from itertools import combinations, pairwise

import numpy as np

from blocks2tokens.course import ablation, claims, ledger
from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.claims import AT_1, AT_128, FAILS, HOLDS

# judge_ratio: claimed, at_128, at_1, three factors > 0 -> one of four verdicts


def ratio_cases():
    return {
        "claimed 120, found 120 and 120": (120.0, 120.0, 120.0),
        "claimed 120, found 105 and 1.9": (120.0, 105.0, 1.9),
        "claimed 16, found 53 and 20": (16.0, 53.0, 20.0),
        "claimed 184, found 377 and 9": (184.0, 377.0, 9.0),
        "claimed 120, found 90 and 70": (120.0, 90.0, 70.0),
        "claimed 90, found 120 and 100": (90.0, 120.0, 100.0),
        "claimed 100, found 60 and 80": (100.0, 60.0, 80.0),
        "claimed 100, found 140 and 160": (100.0, 140.0, 160.0),
        "claimed 100, found 160 and 140": (100.0, 160.0, 140.0),
        "claimed 0.5, found 0.4 and 0.6": (0.5, 0.4, 0.6),
        "claimed 0.5, found 0.2 and 1.4": (0.5, 0.2, 1.4),
        "claimed 2, found 5 and 0.6": (2.0, 5.0, 0.6),
    }


def within_a_factor(claimed, found):
    return max(claimed / found, found / claimed) <= 1.5


def judged(near=within_a_factor, words=(HOLDS, AT_128, AT_1, FAILS)):
    """Return a judge with these words for: both near, 128 rows only, one row only, neither."""

    def judge(claimed, at_128, at_1):
        return words[2 * (not near(claimed, at_128)) + (not near(claimed, at_1))]

    return judge


def least_quotient(claimed, found):
    return min(claimed / found, found / claimed) <= 1.5


def mean_judged(claimed, at_128, at_1):
    return HOLDS if within_a_factor(claimed, (at_128 + at_1) / 2) else FAILS


def judge_ratio(claimed, at_128, at_1):
    """Judge a claimed factor by the factors found for 128 rows and for one, all greater than 0."""
    # and in the engine: judge_ratio in course/claims.py
    many = max(claimed / at_128, at_128 / claimed) <= 1.5
    one = max(claimed / at_1, at_1 / claimed) <= 1.5
    if many and one:
        return ledger.HOLDS
    if many:
        return ledger.AT_128
    return ledger.AT_1 if one else ledger.FAILS


JUDGE = Exercise(
    name="judge_ratio",
    engine=claims.judge_ratio,
    solution=judge_ratio,
    cases=ratio_cases,
    mistakes=(
        Mistake(
            judged(lambda claimed, found: found / claimed <= 1.5),
            "you look in one direction only: found may be 1.5 times too small as well as too large, so take "
            "the greater of claimed / found and found / claimed",
        ),
        Mistake(
            judged(lambda claimed, found: claimed / found <= 1.5),
            "you look in one direction only: found may be 1.5 times too large as well as too small, so take "
            "the greater of claimed / found and found / claimed",
        ),
        Mistake(
            judged(lambda claimed, found: abs(claimed - found) <= 1.5),
            "you compare by a difference: of factors, compare the quotient. 90 and 120 are closer than 0.4 "
            "and 1.2",
        ),
        Mistake(
            judged(lambda claimed, found: abs(claimed - found) <= 0.5 * claimed),
            "50 % of the claim is not a factor of 1.5: below, it lets half of the claim pass, which is a "
            "factor of 2. Compare quotients",
        ),
        Mistake(
            judged(lambda claimed, found: abs(claimed - found) <= 0.5 * found),
            "50 % of what was found is not a factor of 1.5: above, it lets twice the claim pass. Compare "
            "quotients",
        ),
        Mistake(
            judged(least_quotient),
            "every claim holds with you: of two quotients, one over the other, the smaller is never above 1. "
            "Take the greater",
        ),
        Mistake(
            judged(words=(HOLDS, HOLDS, HOLDS, FAILS)),
            "you let a claim hold everywhere that holds for one of the two: say for which, ledger.AT_128 or "
            "ledger.AT_1",
        ),
        Mistake(
            judged(words=(HOLDS, HOLDS, FAILS, FAILS)),
            "you judge by 128 rows alone: that is what the report did. A claim that holds there only gets "
            "ledger.AT_128",
        ),
        Mistake(
            judged(words=(HOLDS, FAILS, FAILS, FAILS)),
            "you let a claim fall that holds for one of the two: say for which, ledger.AT_128 or ledger.AT_1",
        ),
        Mistake(
            judged(words=(HOLDS, AT_128, FAILS, FAILS)),
            "you never say ledger.AT_1: a claim may hold for one row and not for 128",
        ),
        Mistake(
            judged(words=(HOLDS, AT_1, AT_128, FAILS)),
            "you have the two cases the wrong way round: at_128 comes before at_1",
        ),
        Mistake(
            mean_judged,
            "you judge the mean of two cases: it is neither. Judge each, then say where the claim holds",
        ),
    ),
    hints=(
        "Two factors are within 1.5 of each other if neither quotient, claimed / found or found / claimed, "
        "is more than 1.5.",
        "Ask that twice, of at_128 and of at_1. Two answers, yes or no, are four verdicts.",
    ),
)


# judge_decoder: first, second, reference, float32 -> "holds" or "does not hold"


def with_wrong(right, count, rng):
    """Return weights of which so many are wrong, every other one too large, and the rest too small."""
    weights, at = right.copy(), rng.permutation(right.size)[:count]
    weights[at[::2]] += 4
    weights[at[1::2]] -= 4
    return weights


def decoder_cases():
    rng = np.random.default_rng(13)
    right = rng.standard_normal(1000).astype(np.float32)
    least, few, others, many = (with_wrong(right, count, rng) for count in (4, 10, 10, 11))
    out_of_order = right.reshape(-1, 2, 10).swapaxes(1, 2).reshape(-1)
    return {
        "right in both runs": (right, right, right),
        "wrong in both, in the same way": (right + 1, right + 1, right),
        "the right weights in another order": (out_of_order, out_of_order, right),
        "4 of 1000 are wrong": (least, least, right),
        "10 of 1000 are wrong": (few, few, right),
        "10 of 1000 are wrong, others in the second run": (few, others, right),
        "11 of 1000 are wrong": (many, many, right),
        "all are wrong, in the second run": (right, right + 1, right),
        "11 of 1000 are wrong, in the second run": (right, many, right),
        "11 of 1000 are wrong, in the first run": (many, right, right),
    }


def decoder_judged(holds):
    return lambda first, second, reference: HOLDS if holds(first, second, reference) else FAILS


def shares_judged(holds):
    """Return a judge by the two shares of right weights."""
    return decoder_judged(
        lambda first, second, right: holds(np.mean(first == right), np.mean(second == right))
    )


def judge_decoder(first, second, reference):
    """Judge "Correctness: All 19 tests passing" by two runs of a decoder and somebody else's."""
    right = min(np.mean(first == reference), np.mean(second == reference))
    return ledger.HOLDS if right >= 0.99 else ledger.FAILS


DECODER = Exercise(
    name="judge_decoder",
    engine=judge_decoder,
    cases=decoder_cases,
    mistakes=(
        Mistake(
            decoder_judged(lambda first, second, _: np.mean(first == second) >= 0.99),
            "you compare the decoder with itself, as the report's tests did: twice wrong in the same way is "
            "no difference. Ask the reference",
        ),
        Mistake(
            shares_judged(lambda first, _: first >= 0.99),
            "you look at the first run only: the second has to be right as well",
        ),
        Mistake(
            shares_judged(lambda _, second: second >= 0.99),
            "you look at the second run only: the first has to be right as well",
        ),
        Mistake(
            decoder_judged(
                lambda first, second, right: np.mean((first == right) & (second == right)) >= 0.99
            ),
            "two runs may each have 1 % wrong, and not the same: judge each by itself against the reference, "
            "neither one by the other nor what both have right",
        ),
        Mistake(
            shares_judged(lambda *shares: max(shares) >= 0.99),
            "one right run is enough for you: both have to be, so take the smaller share, or `and`",
        ),
        Mistake(
            shares_judged(lambda *shares: np.mean(shares) >= 0.99),
            "you judge the mean of two runs: a right one hides a wrong one. Each has to reach 99 %",
        ),
        Mistake(
            shares_judged(lambda *shares: min(shares) == 1),
            "you let no weight differ: 99 % was the rule, fixed before the result",
        ),
        Mistake(
            shares_judged(lambda *shares: min(shares) > 0.99),
            "exactly 99 % is enough: the rule says at least, >= 0.99",
        ),
        Mistake(
            decoder_judged(
                lambda first, second, reference: (
                    abs(first.mean() - reference.mean()) < 0.01
                    and abs(second.mean() - reference.mean()) < 0.01
                )
            ),
            "you compare means: weights in another order have the same mean. Compare weight by weight",
        ),
    ),
    hints=(
        "first == reference says for each weight whether it is right; np.mean of that is the share.",
        "Both runs have to reach 0.99, each against the reference.",
    ),
)


# factors_along: times {frozenset of changes: seconds}, order of changes -> factors, list


def engine_factors_along(times, order):
    """Return the factor of each change of an order: the time before it over the time after it."""
    return [factor for _, factor in ablation.chain(times, order)]


def factors_along(times, order):
    """Return, for each change, the time with the changes before it over the time with it as well."""
    # and in the engine: chain in course/ablation.py
    made = [frozenset(order[:n]) for n in range(len(order) + 1)]
    return [times[made[n]] / times[made[n + 1]] for n in range(len(order))]


def order_cases():
    rng = np.random.default_rng(13)
    changes = ("call", "scales", "reuse")
    subsets = [frozenset(made) for n in range(4) for made in combinations(changes, n)]
    independent = {made: 64.0 / 2 ** len(made) for made in subsets}
    uneven = {made: float(rng.uniform(1, 9)) * 3.0 ** (3 - len(made)) for made in subsets}
    return {
        "each change halves the time": (independent, changes),
        "call, scales, reuse": (uneven, changes),
        "reuse, scales, call": (uneven, changes[::-1]),
        "scales, reuse, call": (uneven, ("scales", "reuse", "call")),
    }


def made_after(order):
    return [frozenset(order[:n]) for n in range(len(order) + 1)]


def factors_upside_down(times, order):
    return [1 / factor for factor in factors_along(times, order)]


def factors_from_the_start(times, order):
    made = made_after(order)
    return [times[made[0]] / times[after] for after in made[1:]]


def factors_alone(times, order):
    return [times[frozenset()] / times[frozenset([change])] for change in order]


def factors_when_undone(times, order):
    everything = frozenset(order)
    return [times[everything - {change}] / times[everything] for change in order]


def differences(times, order):
    made = made_after(order)
    return [times[before] - times[after] for before, after in pairwise(made)]


def with_the_whole(times, order):
    factors = factors_along(times, order)
    return [*factors, float(np.prod(factors))]


def factors_backwards(times, order):
    return factors_along(times, tuple(order)[::-1])


FACTORS = Exercise(
    name="factors_along",
    engine=engine_factors_along,
    cases=order_cases,
    mistakes=(
        Mistake(
            factors_upside_down,
            "your factors are upside down: a change that halves the time is worth 2, the time before over "
            "the time after",
        ),
        Mistake(
            factors_from_the_start,
            "each of your factors counts from the start, so the last is the whole: divide by the time just "
            "before this change, not by the first",
        ),
        Mistake(
            factors_alone,
            "you make each change alone: the second is made on top of the first, so its time before is "
            "times[frozenset(order[:1])]",
        ),
        Mistake(
            factors_when_undone,
            "you undo each change alone from the end: the changes are made one after the other, from none",
        ),
        Mistake(
            differences,
            "these are seconds saved, which add up: a factor is a quotient, time before over time after",
        ),
        Mistake(
            factors_backwards,
            "you go through the order from its end: order[0] is the first change to be made",
        ),
        Mistake(with_the_whole, "one factor for each change: the whole is not one of them"),
    ),
    hints=(
        "After n changes, those made are frozenset(order[:n]), and times[...] of that is the time.",
        "The factor of change n divides the time after n - 1 changes by the time after n.",
    ),
    solution=factors_along,
    tolerance=1e-6,
)


# decoding_ratio: M, K, N -> weights decoded by Phase 1 / by Phase 0


def decoding_cases():
    return {
        "the report's size": (128, 128, 128),
        "M 16": (16, 128, 128),
        "one row, a token": (1, 128, 128),
        "three different sizes": (5, 64, 256),
    }


DECODING = Exercise(
    name="decoding_ratio",
    engine=ledger.decoding_ratio,
    cases=decoding_cases,
    mistakes=(
        Mistake(
            lambda M, K, N: 128.0,
            "128 is right at the report's size only: which of its three sizes is it?",
        ),
        Mistake(
            lambda M, K, N: float(N),
            "you divide by M * K: Phase 0 decodes the K * N weights of B once, and the rows of a use them "
            "again",
        ),
        Mistake(
            lambda M, K, N: float(K),
            "you divide by M * N, the number of results: Phase 0 decodes the K * N weights of B once",
        ),
        Mistake(
            lambda M, K, N: float(M * N),
            "you let Phase 0 decode K weights: it decodes all K * N of them, once",
        ),
        Mistake(
            lambda M, K, N: float(M * K * N),
            "this is what Phase 1 decodes: divide it by what Phase 0 does",
        ),
        Mistake(
            lambda M, K, N: 1 / M,
            "your ratio is upside down: Phase 1 over Phase 0",
        ),
        Mistake(
            lambda M, K, N: 256.0 * M,
            "Phase 0 decodes whole blocks, but all 256 weights of a block count: it decodes K * N weights",
        ),
    ),
    hints=(
        "Phase 1 decodes one weight for each of its multiply-adds. How many are there?",
        "M * K * N of them. Phase 0 decodes each weight of B, float32 [K, N], once.",
    ),
    tolerance=1e-6,
)


# flop_per_byte: M, bits per weight -> operations for each byte of encoded weights


def intensity_cases():
    return {
        "M 1, Q4_K": (1, 4.5),
        "M 1, float32": (1, 32),
        "M 16, Q5_K": (16, 5.5),
        "M 128, Q6_K": (128, 6.5625),
    }


INTENSITY = Exercise(
    name="flop_per_byte",
    engine=ledger.flop_per_byte,
    cases=intensity_cases,
    mistakes=(
        Mistake(
            lambda M, bits: M / (bits / 8),
            "you count one operation for each multiply-add: it is two, a multiplication and an addition",
        ),
        Mistake(
            lambda M, bits: 2 * M / bits,
            "these are operations for each bit: a byte has eight",
        ),
        Mistake(
            lambda M, bits: 2 / (bits / 8),
            "M is missing: a weight that was read is used for each of the M rows",
        ),
        Mistake(
            lambda M, bits: 2 * M / 4,
            "you read float32, four bytes for each weight: what is read is the encoded weight",
        ),
        Mistake(
            lambda M, bits: bits / 8 / (2 * M),
            "these are bytes for each operation: turn the quotient over",
        ),
        Mistake(
            lambda M, bits: 2 * M * bits / 8,
            "you multiply by the bytes of a weight: divide by them",
        ),
    ),
    hints=(
        "Take one weight: how many multiply-adds is it in, and how many bytes has it?",
        "M multiply-adds, two operations each, and bits / 8 bytes.",
    ),
    tolerance=1e-6,
)


# tokens_per_second_at_most: weights, bits per weight, GB/s -> tokens a second


def ceiling_cases():
    return {
        "14 billion weights of 4.5 bits, 80 GB/s": (14e9, 4.5, 80.0),
        "7 billion of 8.5 bits, 20 GB/s": (7e9, 8.5, 20.0),
        "135 million of 32 bits, 10 GB/s": (135e6, 32, 10.0),
    }


def tokens_per_second_at_most(weights, bits_per_weight, gigabytes_per_second):
    """Return the tokens a second that reading every weight once allows."""
    # and in the engine: tokens_per_second in course/ledger.py
    return gigabytes_per_second * 1e9 / (weights * bits_per_weight / 8)


CEILING = Exercise(
    name="tokens_per_second_at_most",
    engine=ledger.tokens_per_second,
    solution=tokens_per_second_at_most,
    cases=ceiling_cases,
    mistakes=(
        Mistake(
            lambda weights, bits, rate: rate * 1e9 / (weights * bits),
            "you divide by bits: the rate is in bytes, and a byte has eight",
        ),
        Mistake(
            lambda weights, bits, rate: rate * 1e9 / weights,
            "you read one byte for each weight: it is bits / 8 of a byte",
        ),
        Mistake(
            lambda weights, bits, rate: weights * bits / 8 / (rate * 1e9),
            "these are seconds for each token: turn the quotient over",
        ),
        Mistake(
            lambda weights, bits, rate: rate / (weights * bits / 8),
            "the rate is in billions of bytes: multiply it by 1e9",
        ),
        Mistake(
            lambda weights, bits, rate: rate * 2**30 / (weights * bits / 8),
            "GB are powers of ten here: 1e9 bytes, not 2**30",
        ),
        Mistake(
            lambda weights, bits, rate: rate * 1e9 / (weights * 4),
            "you read float32: the encoded weights have bits / 8 bytes each",
        ),
    ),
    hints=(
        "How many bytes does the model have? Each token reads all of them, once.",
        "A weight has bits_per_weight / 8 bytes, and a GB is 1e9. How often do the model's bytes go into "
        "those of a second?",
    ),
    tolerance=1e-6,
)

EXERCISES = [JUDGE, FACTORS, DECODING, INTENSITY, CEILING, DECODER]
