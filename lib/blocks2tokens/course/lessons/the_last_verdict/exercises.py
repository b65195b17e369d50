"""Lesson 32, the last verdict: factors together, what a target takes, the best use of a pass, a judgement.

together       shares, factors                          -> times as fast
interplay      alone, both                              -> over the product
bits_allowed   target, weights, bandwidth, tokens, cost -> bits
best_use       costs, right, most streams               -> streams, guesses
judged         value, error, limit                      -> "holds", "does not hold", "open"
"""

from math import prod

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.the_last_verdict import targets
from blocks2tokens.course.lessons.the_last_verdict.targets import FAILS, HOLDS, OPEN
from blocks2tokens.speculate import expected_tokens

# together: shares, factors -> factor


def share_cases():
    return {
        "two parts": ([0.9, 0.1], [10.0, 1.0]),
        "three": ([0.5, 0.3, 0.2], [2.0, 3.0, 1.0]),
        "one gets slower": ([0.6, 0.4], [4.0, 0.5]),
        "seconds, not shares": ([9.0, 3.0], [3.0, 3.0]),
        "nothing changes": ([0.7, 0.3], [1.0, 1.0]),
    }


def together(shares, factors):
    """Return how many times as fast the whole is."""
    after = 0
    for share, factor in zip(shares, factors, strict=True):
        after += share / factor
    return sum(shares) / after


def weighted(shares, factors):
    return sum(s * f for s, f in zip(shares, factors, strict=True)) / sum(shares)


def as_if_one(shares, factors):
    return 1 / sum(s / f for s, f in zip(shares, factors, strict=True))


TOGETHER = Exercise(
    name="together",
    engine=targets.together,
    cases=share_cases,
    mistakes=(
        Mistake(
            lambda shares, factors: prod(factors),
            "you multiply the factors: each acts on its part only, and the others take as long as before",
        ),
        Mistake(
            weighted,
            "you take the mean of the factors: add up times. A part that takes `share` takes share / factor "
            "afterwards",
        ),
        Mistake(
            lambda shares, factors: weighted(shares, factors) * sum(shares),
            "you multiply shares and factors: a part that becomes faster takes less time, share / factor",
        ),
        Mistake(
            lambda shares, factors: 1 / targets.together(shares, factors),
            "your fraction is upside down: the time before over the time after",
        ),
        Mistake(
            lambda shares, factors: sum(shares) / targets.together(shares, factors),
            "that is the time afterwards: wanted is how often it goes into the time before",
        ),
        Mistake(
            as_if_one,
            "you take the time before as 1: it is the sum of the shares, which may be seconds",
        ),
        Mistake(
            lambda shares, factors: targets.together(shares, [max(factors)] * len(factors)),
            "you give every part the largest factor: each has its own",
        ),
    ),
    hints=(
        "How long does each part take afterwards? Add that up.",
        "sum(shares) over the sum of share / factor.",
    ),
    solution=together,
    tolerance=1e-6,
)

# interplay: alone, both -> ratio


def interplay_cases():
    return {
        "they save the same": ([2.0, 3.0], 3.0),
        "independent": ([2.0, 3.0], 6.0),
        "one makes room": ([1.1, 2.0], 4.4),
        "three": ([2.0, 1.5, 1.25], 3.0),
        "one alone": ([2.5], 2.5),
    }


def interplay(alone, both):
    """Return what they are worth together, over the product of each alone."""
    expected = 1
    for factor in alone:
        expected *= factor
    return both / expected


INTERPLAY = Exercise(
    name="interplay",
    engine=targets.interplay,
    cases=interplay_cases,
    mistakes=(
        Mistake(
            lambda alone, both: both / sum(alone),
            "you add up the factors: twice and three times as fast would be six times",
        ),
        Mistake(
            lambda alone, both: prod(alone) / both,
            "upside down: what was found over what the product promises",
        ),
        Mistake(
            lambda alone, both: both - prod(alone),
            "you subtract: factors are compared by their ratio",
        ),
        Mistake(
            lambda alone, both: both / max(alone),
            "you compare with the best alone: the question is what all of them together would promise",
        ),
        Mistake(
            lambda alone, both: prod(alone), "that is what the product promises: what was found is `both`"
        ),
    ),
    hints=(
        "If the changes did not know of each other, what would they give together?",
        "Their product. Divide what was found by it.",
    ),
    solution=interplay,
    tolerance=1e-6,
)

# bits_allowed: target, weights, bandwidth, tokens, cost -> bits


def bits_cases():
    return {
        "one stream": (20.0, 14e9, 35e9, 1.0, 1.0),
        "30 a second": (30.0, 14e9, 60e9, 1.0, 1.0),
        "guesses": (20.0, 14e9, 35e9, 2.5, 1.1),
        "eight streams": (100.0, 14e9, 35e9, 8.0, 1.8),
        "a small model": (50.0, 1e9, 2e10, 1.0, 1.0),
    }


def bits_allowed(target, weights, bandwidth, tokens, cost):
    """Return the bits that a weight may have."""
    passes = target / tokens
    seconds_of_one_row = 1 / (passes * cost)
    n_bytes = bandwidth * seconds_of_one_row
    return 8 * n_bytes / weights


BITS = Exercise(
    name="bits_allowed",
    engine=targets.bits_allowed,
    cases=bits_cases,
    mistakes=(
        Mistake(
            lambda target, weights, bandwidth, tokens, cost: (
                targets.bits_allowed(target, weights, bandwidth, tokens, cost) / 8
            ),
            "those are bytes: a byte has eight bits",
        ),
        Mistake(
            lambda target, weights, bandwidth, tokens, cost: targets.bits_allowed(
                target, 1, bandwidth, tokens, cost
            ),
            "those are the bits of all weights together: wanted are those of one",
        ),
        Mistake(
            lambda target, weights, bandwidth, tokens, cost: targets.bits_allowed(
                target, weights, bandwidth, 1, 1
            ),
            "you read the weights once for each token: a pass gives `tokens` of them",
        ),
        Mistake(
            lambda target, weights, bandwidth, tokens, cost: targets.bits_allowed(
                target, weights, bandwidth, 1, cost
            ),
            "you leave `tokens` out: a pass gives so many, so fewer passes are needed",
        ),
        Mistake(
            lambda target, weights, bandwidth, tokens, cost: targets.bits_allowed(
                target, weights, bandwidth, tokens, 1
            ),
            "you leave the cost out: a pass of several rows takes `cost` times as long as one of one row",
        ),
        Mistake(
            lambda target, weights, bandwidth, tokens, cost: targets.bits_allowed(
                target, weights, bandwidth, tokens, 1 / cost
            ),
            "your cost is upside down: a pass that costs more leaves less time, and so fewer bits",
        ),
        Mistake(
            lambda target, weights, bandwidth, tokens, cost: targets.bits_allowed(
                target, weights, bandwidth, 1 / tokens, cost
            ),
            "your tokens are upside down: the more a pass gives, the fewer passes are needed",
        ),
        Mistake(
            lambda target, weights, bandwidth, tokens, cost: (
                1 / targets.bits_allowed(target, weights, bandwidth, tokens, cost)
            ),
            "your fraction is upside down: the more bandwidth, the more bits",
        ),
    ),
    hints=(
        "How many passes a second are needed? How long may one take, in passes of one row?",
        "In a second there are target / tokens passes, each worth `cost` of one row. What can be read in the "
        "time of one row are bandwidth / (passes * cost) bytes, for all weights.",
    ),
    solution=bits_allowed,
    tolerance=1e-6,
)

# best_use: costs, right, most streams -> (streams, guesses)

FLAT = [1.0, 1.02, 1.07, 1.1, 1.3, 1.5, 1.7, 1.85]


def use_cases():
    return {
        "one user, good guesses": (FLAT, 0.9, 1),
        "one user, poor guesses": (FLAT, 0.1, 1),
        "four users": (FLAT, 0.6, 4),
        "eight users": (FLAT, 0.6, 8),
        "rows are not free": ([1.0, 2.0, 3.0, 4.0], 0.5, 4),
        "rows are free": ([1.0, 1.0, 1.0, 1.0], 0.5, 2),
        "guesses are never right": (FLAT, 0.0, 3),
        "a step at three rows": ([1.0, 1.0, 2.5, 2.6], 0.8, 2),
    }


def best_use(costs, right, most_streams):
    """Return the (streams, guesses) with the most tokens in the time of a pass."""
    best, chosen = None, None
    for streams in range(1, most_streams + 1):
        for guesses in range(len(costs)):
            rows = streams * (1 + guesses)
            if rows > len(costs):
                break
            tokens = streams * sum(right**i for i in range(guesses + 1))
            score = tokens / costs[rows - 1], -rows, -streams
            if best is None or score > best:
                best, chosen = score, (streams, guesses)
    return chosen


def using(rate, ties=True, rows_of=lambda streams, guesses: streams * (guesses + 1)):
    """Return a function like best_use with another rate(streams, guesses, cost, right)."""

    def wrong(costs, right, most_streams):
        found = {}
        for streams in range(1, most_streams + 1):
            for guesses in range(len(costs)):
                rows = streams * (guesses + 1)
                if rows <= len(costs):
                    cost = costs[min(rows_of(streams, guesses), len(costs)) - 1]
                    found[streams, guesses] = (
                        rate(streams, guesses, cost, right),
                        -rows if ties else rows,
                        -streams,
                    )
        return max(found, key=found.get)

    return wrong


def mean_tokens(streams, guesses, cost, right):
    return streams * expected_tokens(right, guesses) / cost


BEST = Exercise(
    name="best_use",
    engine=targets.best_use,
    cases=use_cases,
    mistakes=(
        Mistake(
            using(lambda streams, guesses, cost, right: streams * (1 + guesses) / cost),
            "you count every guess as right: in the mean a stream gets 1 + a + a² + ... tokens of a pass",
        ),
        Mistake(
            using(lambda streams, guesses, cost, right: streams * (1 + right * guesses) / cost),
            "you count each guess by itself: one behind a wrong one is worth nothing, so 1 + a + a² + ...",
        ),
        Mistake(
            using(lambda streams, guesses, cost, right: mean_tokens(streams, guesses - 1, cost, right)),
            "one term too few: k guesses give 1 + a + ... + a^k, k + 1 terms",
        ),
        Mistake(
            using(
                lambda streams, guesses, cost, right: streams * (expected_tokens(right, guesses) - 1) / cost
            ),
            "a stream's own token is missing: 1 + a + ... + a^k, with the 1",
        ),
        Mistake(
            using(
                lambda streams, guesses, cost, right: streams * (expected_tokens(right, guesses) + 1) / cost
            ),
            "you count a stream's own token twice: a^0 is it, so a + ... + a^k beside the 1",
        ),
        Mistake(
            using(lambda streams, guesses, cost, right: streams * expected_tokens(right, guesses)),
            "you leave the cost out: more rows give more tokens, and take longer",
        ),
        Mistake(
            using(lambda streams, guesses, cost, right: expected_tokens(right, guesses) / cost),
            "you count the tokens of one stream: each stream gives as many, so try all numbers up to "
            "most_streams",
        ),
        Mistake(
            using(mean_tokens, rows_of=lambda streams, guesses: streams + guesses),
            "your rows are too few: each stream has its token and its own guesses, streams * (guesses + 1)",
        ),
        Mistake(
            using(mean_tokens, ties=False),
            "of equals take the one with fewer rows",
        ),
        Mistake(
            lambda costs, right, most_streams: targets.best_use(costs, right, most_streams)[::-1],
            "the two are exchanged: streams first, then guesses",
        ),
        Mistake(
            lambda costs, right, most_streams: (most_streams, len(costs) // most_streams - 1),
            "you fill the pass: more rows give more tokens, but what does a pass of so many cost?",
        ),
        Mistake(
            lambda costs, right, most_streams: (most_streams, 0),
            "you serve all and guess nothing: where rows are left over, guesses may pay",
        ),
    ),
    hints=(
        "Try all pairs. How many rows has a pass of so many streams, each with its token and its guesses?",
        "A stream gives 1 + a + ... + a^guesses tokens in the mean. All streams' tokens over the cost of so "
        "many rows: keep the best, of equals the one with fewer rows, then with fewer streams.",
    ),
    solution=best_use,
    whole=True,
    parts=("streams", "guesses"),
)

# judged: value, error, limit -> verdict


def judged_cases():
    return {
        "clearly above": (1.2, 0.05, 1.0),
        "just above": (1.05, 0.05, 1.0),
        "just below": (0.95, 0.05, 1.0),
        "clearly below": (0.8, 0.05, 1.0),
        "two errors above": (1.5, 0.25, 1.0),
        "between one error and two": (1.25, 0.1875, 1.0),
        "two errors below": (0.5, 0.25, 1.0),
        "no error": (1.0, 0.0, 1.0),
    }


def judged(value, error, limit):
    """Return "holds", "does not hold" or "open"."""
    if value - 2 * error >= limit:
        return "holds"
    if value + 2 * error < limit:
        return "does not hold"
    return "open"


def judging(errors=2.0, below=lambda high, limit: high < limit, above=lambda low, limit: low >= limit):
    """Return a function like judged, with another number of errors or other comparisons."""

    def wrong(value, error, limit):
        if above(value - errors * error, limit):
            return HOLDS
        return FAILS if below(value + errors * error, limit) else OPEN

    return wrong


JUDGED = Exercise(
    name="judged",
    engine=targets.judged,
    cases=judged_cases,
    mistakes=(
        Mistake(judging(0.0), "you look at the figure alone: its error says how sure it is"),
        Mistake(judging(1.0), "one error is too few: chance goes beyond it in one case of three. Take two"),
        Mistake(
            lambda value, error, limit: HOLDS if value - 2 * error >= limit else FAILS,
            "you never say open: between value - 2 errors and value + 2 errors nobody knows",
        ),
        Mistake(
            lambda value, error, limit: HOLDS if value + 2 * error >= limit else FAILS,
            "you never say open: it holds only where value - 2 errors, too, reaches the limit",
        ),
        Mistake(
            judging(below=lambda high, limit: False),
            "nothing of yours ever fails: it does not hold where value + 2 errors is below the limit",
        ),
        Mistake(
            judging(above=lambda low, limit: low > limit),
            "at the limit it holds: `at least` includes it",
        ),
        Mistake(
            judging(below=lambda high, limit: high <= limit),
            "what reaches the limit with two errors is open: it may still be at least as large",
        ),
        Mistake(
            lambda value, error, limit: {HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}[
                targets.judged(value, error, limit)
            ],
            "the verdicts are exchanged: at least as large holds",
        ),
    ),
    hints=(
        "Where would the figure be, if chance had been kind by two errors? And unkind?",
        "Both at or above the limit: holds. Both below: does not hold. Else nobody knows: open.",
    ),
    solution=judged,
)

EXERCISES = [TOGETHER, INTERPLAY, BITS, BEST, JUDGED]
