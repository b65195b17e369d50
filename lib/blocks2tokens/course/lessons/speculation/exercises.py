"""Lesson 28, speculation: what a pass keeps, what it gives, where guesses come from, how many to make.

accept_guesses    guesses [k], the model's choices [k + 1]    -> the tokens that a pass gives
expected_tokens   rate, k                                     -> tokens a pass, on average
find_guess        the text so far, n, tokens                  -> what followed these n tokens before
keep_or_redraw    p, q [vocab], a guess drawn from q          -> chance that it stays, distribution if not
best_k            rate, c(1), c(2) ..., cost of a guess       -> how many to guess
"""

from functools import partial

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.check.watched import WatchedExercise

# accept_guesses: guesses [k], choices [k + 1] -> tokens


def accept_guesses(guesses, choices):
    """Return the tokens that a pass gives: right guesses, then one that the model chose itself.

    choices[i] is what the model takes behind the text and the guesses before number i.
    """
    # and in the engine: generate in speculate.py
    n = 0
    while n < len(guesses) and guesses[n] == choices[n]:
        n += 1
    return choices[: n + 1]


def pass_cases():
    return {
        "the second guess is wrong": ([5, 6, 7], [5, 9, 7, 8]),
        "the first guess is wrong": ([5, 6, 7], [4, 6, 7, 8]),
        "all guesses are right": ([5, 6, 7], [5, 6, 7, 8]),
        "no guess": ([], [3]),
        "a wrong one between right ones": ([5, 6, 7, 8], [5, 6, 2, 8, 9]),
        "guesses one place too late": ([5, 6, 7], [9, 5, 6, 7]),
        "one guess, right": ([4], [4, 4]),
    }


def right_ones(guesses, choices):
    return len(accept_guesses(guesses, choices)) - 1


def guesses_alone(guesses, choices):
    return guesses[: right_ones(guesses, choices)]


def with_the_wrong_guess(guesses, choices):
    return guesses[: right_ones(guesses, choices) + 1]


def last_one_lost(guesses, choices):
    return choices[: right_ones(guesses, choices) + 1][: max(1, len(guesses))]


def all_that_are_equal(guesses, choices):
    kept = [g for g, choice in zip(guesses, choices, strict=False) if g == choice]
    return [*kept, choices[len(kept)]]


def one_place_off(guesses, choices):
    n = 0
    while n < len(guesses) and guesses[n] == choices[n + 1]:
        n += 1
    return choices[: n + 1]


def with_the_last_choice(guesses, choices):
    return [*guesses_alone(guesses, choices), choices[-1]]


ACCEPT = WatchedExercise(
    name="accept_guesses",
    raised={
        "IndexError": (
            "where all guesses are right, or there is none, the guesses end before the choices do: stop there"
        ),
    },
    engine=accept_guesses,
    cases=pass_cases,
    mistakes=(
        Mistake(
            guesses_alone,
            "the model's own choice is lost: behind the last right guess it has chosen a token itself, so a "
            "pass gives at least one",
        ),
        Mistake(
            with_the_wrong_guess,
            "you keep the guess that was wrong: in its place stands what the model chose, "
            "choices[number of right guesses]",
        ),
        Mistake(
            last_one_lost,
            "when all guesses are right there is one choice more: k guesses can give k + 1 tokens",
        ),
        Mistake(
            with_the_last_choice,
            "you take the last choice: the one that counts is choices[number of right guesses]",
        ),
        Mistake(
            all_that_are_equal,
            "you go on behind a wrong guess: what the model chose there follows a text that there never was",
        ),
        Mistake(
            one_place_off,
            "off by one: guesses[i] is right if it is choices[i]; choices[0] comes before any guess is read",
        ),
        Mistake(
            lambda guesses, choices: choices,
            "you return all choices: those behind the first wrong guess follow a text that there never was",
        ),
        Mistake(
            lambda guesses, choices: [g for g, choice in zip(guesses, choices, strict=False) if g == choice],
            "you keep every guess that is right: behind the first wrong one nothing counts, but the model's "
            "own choice in its place does",
        ),
        Mistake(
            lambda guesses, choices: len(accept_guesses(guesses, choices)),
            "that is how many tokens the pass gives: return the tokens",
        ),
    ),
    hints=(
        "Walk along both lists. Where is the first guess that is not the model's choice? What is known of "
        "the choices behind it?",
        "Count the right guesses from the front, n of them. They are also the first n choices; choice "
        "number n is the model's own.",
    ),
)


# expected_tokens: rate, k -> tokens


def expected_tokens(rate, k):
    """Return how many tokens a pass with k guesses gives on average, if each is right with this rate."""
    # and in the engine: expected_tokens in speculate.py
    # the model's own token comes in any case; guess number i counts if all up to it are right
    return sum(rate**i for i in range(k + 1))


def rate_cases():
    return {
        "half of them, 3 guesses": (0.5, 3),
        "4 of 5, 4 guesses": (0.8, 4),
        "never right": (0.0, 5),
        "always right": (1.0, 4),
        "no guess": (0.7, 0),
        "9 of 10, 15 guesses": (0.9, 15),
    }


AT_A_RATE_OF_1 = (
    "the closed form is 0 / 0 at a rate of 1: there all guesses are right, and a pass gives k + 1 tokens"
)


def divided(rate, k):
    return np.float64(1 - rate ** (k + 1)) / np.float64(1 - rate)


EXPECTED = WatchedExercise(
    name="expected_tokens",
    raised={"ZeroDivisionError": AT_A_RATE_OF_1},
    engine=expected_tokens,
    cases=rate_cases,
    mistakes=(
        Mistake(
            lambda rate, k: 1 + rate * k,
            "too many: a right guess behind a wrong one is thrown away. Guess number i counts only if all "
            "up to it are right",
        ),
        Mistake(
            lambda rate, k: rate * k,
            "each guess counts by itself, and the model's own token is missing: guess number i counts only "
            "if all up to it are right",
        ),
        Mistake(
            lambda rate, k: sum(rate**i for i in range(1, k + 1)),
            "these are the right guesses alone: a pass also gives the token that the model chose itself",
        ),
        Mistake(
            lambda rate, k: sum(rate**i for i in range(k)),
            "one power too few: if all k guesses are right, the pass gives k + 1 tokens",
        ),
        Mistake(
            lambda rate, k: sum(rate**i for i in range(max(1, k))),
            "one power too few: if all k guesses are right, the pass gives k + 1 tokens",
        ),
        Mistake(
            lambda rate, k: 1 + k * rate**k,
            "all or nothing: guesses before the first wrong one count, too",
        ),
        Mistake(
            lambda rate, k: sum(rate**i for i in range(k + 2)),
            "one power too many: a pass with k guesses gives k + 1 tokens at most, also if all are right",
        ),
        Mistake(
            lambda rate, k: 1 / (1 - rate) if rate < 1 else k + 1,
            "that is the sum without an end: there are k guesses, so the last power is rate**k",
        ),
        Mistake(
            lambda rate, k: sum((i + 1) * rate**i * (1 - rate) for i in range(k + 1)),
            "where all k guesses are right no wrong one follows: k + 1 tokens come with probability rate**k, "
            "without the factor 1 - rate",
        ),
        Mistake(divided, AT_A_RATE_OF_1),
    ),
    hints=(
        "With what probability does a pass give at least 1 token? At least 2? At least 3? The mean of a "
        "count is the sum of these.",
        "At least i + 1 tokens come if the first i guesses are right, rate to the power of i. Which i are "
        "possible? (A closed form divides by 1 - rate: mind a rate of 1.)",
    ),
    tolerance=1e-6,  # float32 will do
)


# find_guess: history, n, tokens -> guess


def find_guess(history, n, tokens):
    """Return up to `tokens` ids that followed the last n ids of the text when they last came before."""
    # and in the engine: guesser in speculate.py keeps a dictionary of all places
    for start in range(len(history) - n - 1, -1, -1):
        if history[start : start + n] == history[-n:]:
            return history[start + n : start + n + tokens]
    return []


def text_cases():
    return {
        "came once before": ([1, 2, 3, 4, 9, 1, 2], 2, 2),
        "came twice before": ([1, 2, 3, 8, 1, 2, 5, 8, 1, 2], 2, 2),
        "never came before": ([1, 2, 3, 4, 5], 2, 3),
        "only its last token came before": ([7, 2, 3, 1, 2], 2, 3),
        "less follows than is wanted": ([4, 5, 6, 4, 5], 2, 9),
        "overlaps with itself": ([7, 7, 7, 7], 3, 4),
        "a text shorter than n": ([5, 5], 3, 4),
        "one token": ([3, 8, 3, 9, 3], 1, 1),
        "its last token came once more": ([1, 2, 3, 8, 2, 9, 1, 2], 2, 2),
        "another stood in the middle": ([1, 2, 3, 8, 1, 9, 3], 3, 2),
        "they came in another order": ([2, 1, 3, 8, 1, 2], 2, 2),
        "their digits came in other numbers": ([31, 24, 5, 6, 1, 2], 2, 2),
    }


def found_with(history, n, tokens, places=None, back=0, least=1, compared=None, most=True):
    """Return the right answer with a place for each mistake."""
    compared = compared or n
    starts = range(len(history) - n - least, -1, -1)
    for start in places(starts) if places else starts:
        if history[start + n - compared : start + n] == history[-compared:]:
            first = start + n - back
            return history[first : first + tokens] if most else history[first:]
    return []


def with_fewer(history, n, tokens):
    return next((found for m in range(n, 0, -1) if (found := find_guess(history, m, tokens))), [])


def in_any_order(history, n, tokens):
    last = sorted(history[-n:])
    starts = range(len(history) - n - 1, -1, -1)
    found = (start for start in starts if sorted(history[start : start + n]) == last)
    return next((history[start + n : start + n + tokens] for start in found), [])


def ends_at_tokens(history, n, tokens):
    guess = find_guess(history, n, len(history))
    first = len(history) - len(guess)
    return history[first:tokens] if guess else []


LOOKUP = Exercise(
    name="find_guess",
    engine=find_guess,
    cases=text_cases,
    mistakes=(
        Mistake(
            partial(found_with, places=lambda starts: starts[::-1]),
            "that is the first time they came: the last time is nearer to what is being said. Search from "
            "the end",
        ),
        Mistake(
            partial(found_with, least=0),
            "you find the end of the text itself, and nothing follows it: begin one place earlier",
        ),
        Mistake(
            lambda history, n, tokens: found_with(history, n, tokens, back=n),
            "you return the n tokens that were found: the guess is what followed them",
        ),
        Mistake(
            lambda history, n, tokens: found_with(history, n, tokens, least=n),
            "the place that you look at may overlap with the end: 7 7 7 7 ends with 7 7 7, and came so "
            "before, one place earlier",
        ),
        Mistake(
            lambda history, n, tokens: found_with(history, n, tokens, compared=1),
            "you compare one token: all n must be equal",
        ),
        Mistake(
            partial(found_with, places=lambda starts: (start for start in starts if start)),
            "you never look at place 0: range(..., 0, -1) ends with 1, range(..., -1, -1) with 0",
        ),
        Mistake(
            partial(found_with, back=-1),
            "off by one: the token right behind the place that was found is missing",
        ),
        Mistake(
            ends_at_tokens,
            "a slice says where it ends, not how long it is: [first : first + tokens]",
        ),
        Mistake(
            with_fewer,
            "where n tokens did not come before you look for fewer: here all n must be equal, or there is no "
            "guess",
        ),
        Mistake(
            in_any_order,
            "you compare which tokens there are: their order has to be the same, too",
        ),
        Mistake(
            partial(found_with, most=False),
            "more than `tokens`: a pass has rows for so many guesses only",
        ),
    ),
    hints=(
        "The last n tokens are history[-n:]. At which places before could the same n begin? Which of these "
        "is the nearest?",
        "Places from len(history) - n - 1 down to 0. At a match, the guess begins n places further on. And "
        "if there is none, an empty list.",
    ),
)


# keep_or_redraw: p, q [vocab], guess -> chance that it stays, what to draw from if it goes


def keep_or_redraw(p, q, guess):
    """Return the chance that the guess stays, and the distribution to draw from if it goes, [vocab].

    p is the model's distribution, q that from which the guess was drawn; they differ.
    """
    # Leviathan et al., 2023; where q is certain of one token, generate in speculate.py does the same
    keep = min(1.0, p[guess] / q[guess])
    missing = np.maximum(p - q, 0)  # what q gives too seldom
    redraw = missing / missing.sum()
    return keep, redraw


def draft_cases():
    p = np.array([0.5, 0.25, 0.125, 0.125])
    q = np.array([0.25, 0.5, 0.125, 0.125])
    one = np.array([0.0, 1.0, 0.0, 0.0])
    wide = np.array([0.125, 0.1875, 0.1875, 0.5])  # p - q and p / q differ in more than size
    return {
        "the draft likes it too much": (p, q, 1),
        "the draft likes it too little": (p, q, 0),
        "both like it alike": (p, q, 2),
        "a draft that is certain": (p, one, 1),
        "a draft that is wrong all over": (p, wide, 3),
        "what the model never says": (one * 0.75 + 0.25 * (np.arange(4) == 2), wide, 3),
    }


def drawn_with(
    p,
    q,
    guess,
    keep=lambda p, q, guess: min(1.0, p[guess] / q[guess]),
    missing=lambda p, q, guess: np.maximum(p - q, 0),
    scaled=True,
):
    """Return the right answer with a place for each mistake."""
    rest = missing(p, q, guess)
    return keep(p, q, guess), rest / rest.sum() if scaled and rest.sum() > 0 else rest


def p_where_it_stays(p, q, guess):
    return p if p[guess] >= q[guess] else np.maximum(p - q, 0)


def without_guess(p, q, guess):
    return np.where(np.arange(len(p)) == guess, 0, p)


KEEP = Exercise(
    name="keep_or_redraw",
    engine=keep_or_redraw,
    cases=draft_cases,
    mistakes=(
        Mistake(
            partial(drawn_with, keep=lambda p, q, guess: p[guess] / q[guess]),
            "a chance above 1: where the model likes the guess more than the draft did, it stays for "
            "certain, min(1, ...)",
        ),
        Mistake(
            partial(drawn_with, keep=lambda p, q, guess: min(1.0, q[guess] / p[guess]) if p[guess] else 1.0),
            "upside down: the chance must fall with q, what the draft says too often is to go more often",
        ),
        Mistake(
            partial(drawn_with, keep=lambda p, q, guess: p[guess]),
            "p[guess] alone: the draft has already drawn the guess with probability q[guess], divide by it",
        ),
        Mistake(
            partial(drawn_with, keep=lambda p, q, guess: min(p[guess], q[guess])),
            "min(p, q) is how often a guess is made and stays: it has been made already, divide by q[guess]",
        ),
        Mistake(
            partial(drawn_with, keep=lambda p, q, guess: max(1.0, p[guess] / q[guess])),
            "max(1, ...) is 1 or more: a chance is 1 at most, min(1, ...)",
        ),
        Mistake(
            partial(drawn_with, keep=lambda p, q, guess: float(p[guess] >= q[guess])),
            "all or nothing: what the draft says twice as often as it should is to stay half of the time",
        ),
        Mistake(
            partial(drawn_with, missing=lambda p, q, guess: p),
            "you draw from p again: what was kept comes on top, and q's favourites come out too often. Draw "
            "what is still missing",
        ),
        Mistake(
            partial(drawn_with, missing=lambda p, q, guess: q),
            "you draw from q again, and what it says too often comes once more: draw what is still missing",
        ),
        Mistake(
            partial(drawn_with, missing=lambda p, q, guess: np.where(p > q, p, 0)),
            "a part of these tokens comes as guesses already: missing is p - q, not all of p",
        ),
        Mistake(
            partial(drawn_with, missing=lambda p, q, guess: np.maximum(p / np.maximum(q, 1e-300) - 1, 0)),
            "p / q says how many times too seldom a token comes: missing is the difference, p - q",
        ),
        Mistake(
            partial(drawn_with, missing=without_guess),
            "p without the guess: right for a draft that is certain, but other tokens may have had more than "
            "their share, too. What is missing is p - q",
        ),
        Mistake(
            lambda p, q, guess: (1 - (right := keep_or_redraw(p, q, guess))[0], right[1]),
            "that is the chance that the guess goes: wanted is that it stays",
        ),
        Mistake(
            lambda p, q, guess: (np.minimum(1, p / np.maximum(q, 1e-300)), keep_or_redraw(p, q, guess)[1]),
            "you return a chance for every token: wanted is that of this guess, one number",
        ),
        Mistake(
            partial(drawn_with, missing=p_where_it_stays),
            "where the guess stays for certain you return p: the second value is the same for every guess, "
            "what q gives too seldom",
        ),
        Mistake(
            partial(drawn_with, missing=lambda p, q, guess: np.minimum(p, q)),
            "min(p, q) is what p and q have in common, and kept guesses reach it: missing is the rest of p",
        ),
        Mistake(
            partial(drawn_with, missing=lambda p, q, guess: np.abs(p - q)),
            "|p - q| also draws what q says too often: only where p is larger is something missing",
        ),
        Mistake(
            partial(drawn_with, missing=lambda p, q, guess: p - q, scaled=False),
            "p - q is below 0 where q is larger: that is no distribution. Cut at 0, and divide by the sum",
        ),
        Mistake(
            partial(drawn_with, missing=lambda p, q, guess: np.maximum(q - p, 0)),
            "upside down: q - p is what the draft says too often; missing is p - q",
        ),
        Mistake(
            partial(drawn_with, scaled=False),
            "the second does not sum to 1: divide it by its sum",
        ),
    ),
    hints=(
        "Both ways together must give p. A token comes as a guess with chance q. If q is below p, keep every "
        "one. If q is above, keep so many that p is left.",
        "What the kept guesses do not reach is p - q where that is above 0. Redraw from this, scaled to a "
        "sum of 1.",
    ),
    tolerance=1e-6,  # float32 will do
)


# best_k: rate, cost [rows], guess_cost -> k


def best_k(rate, cost, guess_cost):
    """Return how many tokens to guess, 0 to len(cost) - 1, for the most tokens in a time.

    cost[k] is the time of a pass of k + 1 rows, guess_cost that of one guess, in passes of one row. Of
    several k that are equally fast, the least.
    """
    # and in the engine: guesses in speculate.py
    pace = [expected_tokens(rate, k) / (cost[k] + k * guess_cost) for k in range(len(cost))]
    return int(np.argmax(pace))


FLAT_THEN_STEEP = [1.0, 1.0, 1.0, 1.25, 2.0, 2.25, 2.5, 3.0]
STEEP = [1.0, 1.75, 2.5, 3.25, 4.0]
STEP = [1.0, 2.25, 2.25, 2.25, 2.25]


def cost_cases():
    return {
        "rows for nothing up to 4, rate 0.8": (0.8, FLAT_THEN_STEEP, 0.0),
        "always right": (1.0, FLAT_THEN_STEEP, 0.0),
        "never right": (0.0, FLAT_THEN_STEEP, 0.0),
        "rate 0.5, a guess costs a quarter": (0.5, FLAT_THEN_STEEP, 0.25),
        "rate 0.8, a guess costs a quarter": (0.8, FLAT_THEN_STEEP, 0.25),
        "rate 0.8, a guess costs a pass": (0.8, FLAT_THEN_STEEP, 1.0),
        "rows cost nearly a pass each, rate 0.7": (0.7, STEEP, 0.0),
        "such rows, rate 0.95": (0.95, STEEP, 0.0),
        "the second row costs most, rate 0.9": (0.9, STEP, 0.0),
        "the second row costs most, and so does a guess, rate 0.8": (0.8, STEP, 0.25),
        "room for one row": (0.9, [1.0], 0.0),
    }


def chosen_with(
    rate,
    cost,
    guess_cost,
    tokens=expected_tokens,
    rows=lambda k: k,
    guesses=lambda k: k,
    first=0,
):
    """Return the right answer with a place for each mistake."""
    paces = [tokens(rate, k) / (cost[rows(k)] + guesses(k) * guess_cost) for k in range(len(cost))]
    return int(np.argmax(paces[first:])) + first if len(paces) > first else 0


def paces(rate, cost, guess_cost):
    return [expected_tokens(rate, k) / (cost[k] + k * guess_cost) for k in range(len(cost))]


def largest(pace):
    """Return the choice of the k whose pace(rate, k, cost[k], guess_cost) is the largest."""

    def choose(rate, cost, guess_cost):
        return int(np.argmax([pace(rate, k, c, guess_cost) for k, c in enumerate(cost)]))

    return choose


def up_to_the_first_top(rate, cost, guess_cost):
    pace = [*paces(rate, cost, guess_cost), 0]
    return next(k for k in range(len(cost)) if pace[k + 1] <= pace[k])


def last_of_the_best(rate, cost, guess_cost):
    pace = paces(rate, cost, guess_cost)
    return max(k for k in range(len(cost)) if pace[k] == max(pace))


BEST_K = WatchedExercise(
    name="best_k",
    raised={
        "IndexError": "cost[k] is for k guesses, the last k len(cost) - 1: range(len(cost)) has them all",
        "ValueError: attempt to get argmax of an empty": "not to guess is a choice, too: begin with k = 0",
    },
    engine=best_k,
    cases=cost_cases,
    mistakes=(
        Mistake(
            lambda rate, cost, guess_cost: chosen_with(rate, [1.0] * len(cost), 0.0),
            "the most tokens a pass, whatever the pass costs: divide by its time",
        ),
        Mistake(
            partial(chosen_with, guesses=lambda k: 0),
            "guesses are not free: k of them cost k * guess_cost on top of the pass",
        ),
        Mistake(
            partial(chosen_with, guesses=lambda k: min(k, 1)),
            "a draft makes its guesses one after the other: k of them cost k * guess_cost",
        ),
        Mistake(
            partial(chosen_with, rows=lambda k: max(0, k - 1)),
            "off by one: k guesses and the token before them are k + 1 rows, cost[k]",
        ),
        Mistake(
            partial(chosen_with, tokens=lambda rate, k: 1 + rate * k),
            "guesses behind a wrong one are thrown away: use expected_tokens(rate, k)",
        ),
        Mistake(
            partial(chosen_with, first=1),
            "not to guess is a choice, too: begin with k = 0",
        ),
        Mistake(
            largest(lambda rate, k, c, guess_cost: expected_tokens(rate, k) - c - k * guess_cost),
            "tokens minus time compares different things: tokens in a time are a quotient",
        ),
        Mistake(
            largest(lambda rate, k, c, guess_cost: expected_tokens(rate, k) / c - k * guess_cost),
            "what guesses cost is added to the time of the pass: the tokens over cost[k] + k * guess_cost",
        ),
        Mistake(
            partial(chosen_with, tokens=lambda rate, k: expected_tokens(rate, k) - 1),
            "these are the right guesses alone: a pass also gives the token that the model chose itself",
        ),
        Mistake(
            partial(chosen_with, tokens=lambda rate, k: expected_tokens(rate, k + 1)),
            "expected_tokens takes the number of guesses: k, the row more is counted in it",
        ),
        Mistake(
            last_of_the_best,
            "of several k that are equally fast take the least: further guesses bring nothing",
        ),
        Mistake(
            up_to_the_first_top,
            "you stop at the first k that is not faster: where c(k) has a step, a larger one may be. Try all",
        ),
        Mistake(
            lambda rate, cost, guess_cost: max(paces(rate, cost, guess_cost)),
            "that is the pace of the best k: wanted is k itself",
        ),
        Mistake(
            lambda rate, cost, guess_cost: best_k(rate, cost, guess_cost) + 1,
            "one too many: those are the rows of the pass, one more than the guesses",
        ),
    ),
    hints=(
        "For each k from 0 on: how many tokens does a pass give, and how long do it and its guesses take? "
        "Which k has the most tokens in a time?",
        "The quotient is expected_tokens(rate, k) over cost[k] + k * guess_cost; np.argmax of the list says "
        "where it is largest.",
    ),
    whole=True,
)

EXERCISES = [ACCEPT, EXPECTED, LOOKUP, KEEP, BEST_K]
