"""What learners write in lesson 28, for test_check_learners.py, and what is the lesson's own."""

import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens import speculate
from blocks2tokens.course import models, rows_cost
from blocks2tokens.course.bench import Timing
from blocks2tokens.course.lessons.speculation import exercises as lesson
from blocks2tokens.course.lessons.speculation.passes import (
    Watched,
    acceptance,
    agreeing,
    by_place,
    equal_at_first,
    written_in_passes,
)
from blocks2tokens.course.lessons.speculation.writing import gains
from blocks2tokens.speculate import Pace


def accept(behind=lambda choices, n: [choices[n]], stops=True, shift=0, keep=lambda guesses, n: []):
    """A learner's loop that collects what stays."""

    def accept_guesses(guesses, choices):
        kept, n = [], 0
        for i, guess in enumerate(guesses):
            if guess == choices[i + shift]:
                kept.append(choices[i])
                n += 1
            elif stops:
                break
        return kept + keep(guesses, n) + behind(choices, n)

    return accept_guesses


def but_not_when_all_are_right(guesses, choices):
    kept = accept()(guesses, choices)
    return kept if len(kept) <= len(guesses) or not guesses else kept[:-1]


def and_the_wrong_one(guesses, n):
    return guesses[n : n + 1]


def nothing(choices, n):
    return []


def and_the_last_choice(guesses, choices):
    return accept(nothing)(guesses, choices) + choices[-1:]


def without_an_end(guesses, choices):
    n = 0
    while guesses[n] == choices[n]:
        n += 1
    return choices[: n + 1]


def chain(first=1.0, last=0, step=None):
    """A learner's loop: the chance that all guesses so far are right, and the sum of these."""

    def expected(rate, k):
        total, chance = first, 1.0
        for _ in range(k + last):
            chance *= rate
            total += rate if step else chance
        return total

    return expected


def all_or_nothing(rate, k):
    return (k + 1) * rate**k + 1 - rate**k


def by_first_wrong(rate, k):
    """n right guesses and then a wrong one; where all are right, too."""
    return sum((n + 1) * rate**n * (1 - rate) for n in range(k + 1))


def by_number_of_right_ones(rate, k):
    return sum((n + 1) * rate**n * (1 - rate) for n in range(k)) + (k + 1) * rate**k


def closed_in_numpy(rate, k):
    powers = np.array([1.0, rate]) ** (k + 1)
    return (powers[0] - powers[1]) / (1 - np.array(rate))


def closed_form_alone(rate, k):
    return (1 - rate ** (k + 1)) / (1 - rate)


def in_float32(rate, k):
    return np.sum(np.float32(rate) ** np.arange(k + 1, dtype=np.float32))


def closed_form(rate, k):
    return float(k + 1) if rate == 1 else (1 - rate ** (k + 1)) / (1 - rate)


def find(
    direction=-1,
    last=1,
    returned=0,
    limit=True,
    equal=lambda a, b: a == b,
    overlap=True,
    first=0,
    late=0,
    length=lambda start, tokens: start + tokens,
):
    """A learner's search through the places behind n tokens."""

    def find_guess(history, n, tokens):
        ends = range(n + first, len(history) + 1 - last)[::direction]
        for end in ends:
            if not overlap and end > len(history) - n:
                continue
            if equal(history[end - n : end], history[len(history) - n :]):
                start = end - returned * n + late
                return history[start : length(start, tokens)] if limit else history[start:]
        return []

    return find_guess


def three_then_two(history, n, tokens):
    guess = find()(history, n, tokens)
    return guess if guess or n == 1 else three_then_two(history, n - 1, tokens)


def by_dictionary(history, n, tokens):
    behind = {tuple(history[end - n : end]): end for end in range(n, len(history))}
    end = behind.get(tuple(history[-n:]), len(history))
    return tuple(history[end : end + tokens])


def as_text(history, n, tokens):
    text, last = (",".join(map(str, ids)) for ids in (history, history[-n:]))
    at = text[:-1].rfind(last) if n < len(history) else -1
    start = text[:at].count(",") + n
    return history[start : start + tokens] if at >= 0 else []


def with_a_smaller_n(history, n, tokens):
    return find()(history, min(n, len(history) - 1), tokens)


def in_an_array(history, n, tokens):
    ids = np.array(history)
    ends = [end for end in range(n, len(ids)) if np.array_equal(ids[end - n : end], ids[len(ids) - n :])]
    return ids[ends[-1] :][:tokens] if ends else ids[:0]


def of_any_order(a, b):
    return set(a) == set(b) and sorted(a) == sorted(b)


def by_both_ends(a, b):
    return a[0] == b[0] and a[-1] == b[-1]


def by_the_last(a, b):
    return a[-1] == b[-1]


def draw(chance=lambda p, q: min(p / q, 1), left=lambda p, q, here: max(p - q, 0), scale=True):
    """A learner's loop over the vocabulary."""

    def keep_or_redraw(p, q, guess):
        rest = [left(p[i], q[i], i == guess) for i in range(len(p))]
        total = sum(rest) if scale else 1
        return chance(p[guess], q[guess]), np.array([r / total for r in rest])

    return keep_or_redraw


def drawn_in_float32(p, q, guess):
    return draw()(p.astype(np.float32), q.astype(np.float32), guess)


def for_every_token(p, q, guess):
    with np.errstate(divide="ignore"):
        return np.where(p < q, p / q, 1), draw()(p, q, guess)[1]


def p_if_it_stays(p, q, guess):
    return (1, p) if p[guess] >= q[guess] else draw()(p, q, guess)


def mean(rate, k):
    return sum(rate**i for i in range(k + 1))


def choose(tokens=mean, rows=0, start=0, guesses=lambda k, g: k * g, cost=lambda c: c, minus=False, **ways):
    """A learner's search for the largest quotient."""
    last, stops, answer = (ways.get(name) for name in ("last", "stops", "answer"))

    def best_k(rate, costs, guess_cost):
        best, found = -1e9, 0
        for k in range(start, len(costs)):
            time = cost(costs[max(0, k - rows)]) + guesses(k, guess_cost)
            pace = tokens(rate, k) - time if minus else tokens(rate, k) / time
            if pace > best or (last and pace == best):
                best, found = pace, k
            elif stops:
                break
        return answer(best, found) if answer else found

    return best_k


def first_of_the_best(pace):
    def best_k(rate, cost, guess_cost):
        return max(range(len(cost)), key=lambda k: pace(mean(rate, k), cost[k], k * guess_cost))

    return best_k


minus_the_guesses = first_of_the_best(lambda tokens, cost, guesses: tokens / cost - guesses)
times_the_pass = first_of_the_best(lambda tokens, cost, guesses: tokens / (cost + cost * guesses))


def one_row_further(rate, cost, guess_cost):
    return int(np.argmax([mean(rate, k) / (cost[k + 1] + k * guess_cost) for k in range(len(cost))]))


def one_at_least(rate, cost, guess_cost):
    return 1 + int(np.argmax([mean(rate, k) / (c + k * guess_cost) for k, c in enumerate(cost)][1:]))


def vectorized(rate, cost, guess_cost):
    k = np.arange(len(cost))
    return np.argmax(np.cumsum(rate**k) / (np.array(cost) + k * guess_cost))


def appended(rate, cost, guess_cost):
    """Right but for what it does to its argument, as to a list."""
    cost.append(1e9)
    return choose()(rate, cost, guess_cost)


WRONG = [
    ("accept_guesses", accept(nothing), "the model's own choice is lost"),
    ("accept_guesses", accept(nothing, keep=and_the_wrong_one), "you keep the guess that was wrong"),
    ("accept_guesses", but_not_when_all_are_right, "k guesses can give k + 1 tokens"),
    ("accept_guesses", and_the_last_choice, "you take the last choice"),
    ("accept_guesses", accept(stops=False), "you go on behind a wrong guess"),
    ("accept_guesses", accept(shift=1), "off by one"),
    ("accept_guesses", lambda guesses, choices: list(choices), "you return all choices"),
    ("accept_guesses", accept(nothing, stops=False), "you keep every guess that is right"),
    ("accept_guesses", lambda guesses, choices: len(accept()(guesses, choices)), "return the tokens"),
    ("expected_tokens", chain(step=True), "a right guess behind a wrong one is thrown away"),
    ("expected_tokens", chain(0.0, step=True), "the model's own token is missing"),
    ("expected_tokens", chain(0.0), "the right guesses alone"),
    ("expected_tokens", chain(last=-1), "one power too few"),
    ("expected_tokens", lambda rate, k: np.sum(rate ** np.arange(k)), "one power too few"),
    ("expected_tokens", all_or_nothing, "all or nothing"),
    ("expected_tokens", chain(last=1), "one power too many"),
    ("expected_tokens", lambda rate, k: k + 1 if rate == 1 else 1 / (1 - rate), "without an end"),
    ("expected_tokens", by_first_wrong, "no wrong one follows"),
    ("expected_tokens", closed_in_numpy, "0 / 0 at a rate of 1"),
    ("find_guess", find(1), "the first time they came"),
    ("find_guess", find(last=0), "the end of the text itself"),
    ("find_guess", find(returned=1), "what followed them"),
    ("find_guess", find(overlap=False), "may overlap"),
    ("find_guess", find(equal=by_the_last), "you compare one token"),
    ("find_guess", find(limit=False), "more than `tokens`"),
    ("find_guess", find(first=1), "you never look at place 0"),
    ("find_guess", find(late=1), "right behind the place"),
    ("find_guess", find(length=lambda start, tokens: tokens), "where it ends, not how long"),
    ("find_guess", three_then_two, "you look for fewer"),
    ("find_guess", find(equal=of_any_order), "their order has to be the same"),
    ("find_guess", find(equal=by_both_ends), "another stood in the middle: "),
    ("find_guess", as_text, "their digits came in other numbers: "),
    ("find_guess", with_a_smaller_n, "a text shorter than n: "),
    ("keep_or_redraw", draw(lambda p, q: p / q), "a chance above 1"),
    ("keep_or_redraw", draw(lambda p, q: min(1, q / p) if p else 1), "must fall with q"),
    ("keep_or_redraw", draw(lambda p, q: p), "p[guess] alone"),
    ("keep_or_redraw", draw(lambda p, q: 1 if p >= q else 0), "all or nothing"),
    ("keep_or_redraw", draw(min), "it has been made already"),
    ("keep_or_redraw", draw(lambda p, q: max(p / q, 1)), "max(1, ...) is 1 or more"),
    ("keep_or_redraw", draw(left=lambda p, q, here: q), "you draw from q again"),
    ("keep_or_redraw", draw(left=lambda p, q, here: p if p > q else 0), "comes as guesses already"),
    (
        "keep_or_redraw",
        draw(left=lambda p, q, here: max(p / q - 1 if q else p * 1e30, 0)),
        "missing is the difference",
    ),
    ("keep_or_redraw", draw(left=lambda p, q, here: p), "you draw from p again"),
    ("keep_or_redraw", draw(left=lambda p, q, here: 0 if here else p), "p without the guess"),
    ("keep_or_redraw", draw(left=lambda p, q, here: abs(p - q)), "only where p is larger"),
    ("keep_or_redraw", draw(left=lambda p, q, here: p - q, scale=False), "is no distribution"),
    ("keep_or_redraw", draw(left=lambda p, q, here: max(q - p, 0)), "q - p is what the draft says too"),
    ("keep_or_redraw", draw(scale=False), "does not sum to 1"),
    ("keep_or_redraw", draw(lambda p, q: 1 - min(p / q, 1)), "the chance that the guess goes"),
    ("keep_or_redraw", for_every_token, "a chance for every token"),
    ("keep_or_redraw", p_if_it_stays, "where the guess stays for certain"),
    ("keep_or_redraw", draw(left=lambda p, q, here: min(p, q)), "have in common"),
    ("best_k", choose(guesses=lambda k, g: 0, cost=lambda c: 1), "whatever the pass costs"),
    ("best_k", choose(guesses=lambda k, g: 0), "guesses are not free"),
    ("best_k", choose(guesses=lambda k, g: g if k else 0), "one after the other"),
    ("best_k", choose(rows=1), "off by one"),
    ("best_k", choose(lambda rate, k: 1 + k * rate), "use expected_tokens"),
    ("best_k", choose(start=1), "not to guess is a choice"),
    ("best_k", choose(minus=True), "tokens minus time"),
    ("best_k", minus_the_guesses, "is added to the time of the pass"),
    ("best_k", times_the_pass, "is added to the time of the pass"),
    ("best_k", choose(lambda rate, k: mean(rate, k) - 1), "the right guesses alone"),
    ("best_k", choose(lambda rate, k: mean(rate, k + 1)), "the row more is counted in it"),
    ("best_k", choose(last=True), "equally fast"),
    ("best_k", choose(stops=True), "where c(k) has a step"),
    ("best_k", choose(answer=lambda pace, k: pace), "the pace of the best k"),
    ("best_k", choose(answer=lambda pace, k: k + 1), "the rows of the pass"),
    ("best_k", appended, "you wrote into cost"),
]

RIGHT = {
    "accept_guesses": [accept(), lambda guesses, choices: tuple(accept()(guesses, choices))],
    "expected_tokens": [chain(), closed_form, by_number_of_right_ones, in_float32],
    "find_guess": [find(), by_dictionary, in_an_array],
    "keep_or_redraw": [draw(), drawn_in_float32],
    "best_k": [
        choose(),
        first_of_the_best(lambda tokens, cost, guesses: tokens / (cost + guesses)),
        vectorized,
    ],
}

RAISED = [
    ("accept_guesses", without_an_end, "the guesses end before the choices do"),
    ("expected_tokens", closed_form_alone, "0 / 0 at a rate of 1"),
    ("best_k", one_row_further, "range(len(cost)) has them all"),
    ("best_k", one_at_least, "begin with k = 0"),
]


@pytest.mark.parametrize(("name", "function", "words"), RAISED)
def test_an_exception_is_explained_by_the_exercise(name, function, words):
    verdict = {e.name: e for e in lesson.EXERCISES}[name].judge(function)
    assert verdict.kind == "wrong" and words in verdict.message.split("\n")[1], verdict


# The exercises agree with the engine, and with what they are said to be


def test_expected_tokens_is_the_engine_s():
    for rate in (0.0, 0.3, 0.9, 1.0):
        for k in (0, 1, 7):
            assert lesson.expected_tokens(rate, k) == speculate.expected_tokens(rate, k)


def test_a_guess_is_the_engine_s():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3):
        text = [int(i) for i in rng.integers(0, 3, 60)]
        guess = b2t.PromptLookup(n=n).guesser(None)
        for end in range(1, len(text)):
            assert lesson.find_guess(text[:end], n, 6) == guess(text[:end], 6), (n, end)


def test_the_pace_guesses_as_many():
    for rate, cost, guess_cost in lesson.cost_cases().values():
        pace = Pace()
        pace.rate, pace.guess_seconds = rate, guess_cost
        pace.seconds = dict(enumerate(cost, start=1))
        assert pace.guesses(len(cost) - 1) == lesson.best_k(rate, cost, guess_cost)


def draws(p, q, rule, n, rng):
    """Return how often each token is drawn by a rule."""
    guesses, found = rng.choice(len(q), n, p=q), np.zeros(len(p), int)
    for guess in guesses:
        keep, redraw = rule(p, q, guess)
        token = guess if rng.random() < keep else rng.choice(len(p), p=redraw / redraw.sum())
        found[token] += 1
    return found


def chi_square(counts, p):
    wanted = counts.sum() * p
    return float(((counts - wanted) ** 2 / wanted).sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_rule_keeps_the_distribution_and_others_do_not(seed):
    rng = np.random.default_rng(seed)
    p, q = (rng.dirichlet(np.ones(6)) for _ in range(2))
    limit = 20.5  # 5 degrees of freedom: above it once in a thousand times
    assert chi_square(draws(p, q, lesson.keep_or_redraw, 4000, rng), p) < limit
    for wrong in (lambda p, q, guess: (1.0, p), draw(left=lambda p, q, here: p)):
        assert chi_square(draws(p, q, wrong, 4000, rng), p) > limit


# Passes


class Counting:
    """Guesses that the text counts upwards."""

    tokens = 4

    def guesser(self, model):
        return lambda history, most: [history[-1] + 1 + i for i in range(most)]


def test_passes_are_told_from_a_text_and_its_guesses():
    watched, text = Watched(Counting()), [1, 2, 3, 7, 8, 9, 20]
    guess = watched.guesser(None)
    assert watched.tokens == 4
    guess([0, 1], 2)
    guess([0, 1, 2, 3, 7], 4)
    passes = watched.passes([0], text)
    assert [(p.first, len(p.guesses), p.right) for p in passes] == [(0, 0, 0), (1, 2, 2), (4, 4, 2)]
    assert sum(p.right + 1 for p in passes) == len(text)
    assert acceptance(passes) == 4 / 5 and acceptance(passes[:1]) == 0.0
    assert equal_at_first([1, 2], [1, 2, 3]) == 2 and equal_at_first([], [1]) == 0


def test_a_text_takes_the_passes_that_its_agreement_allows():
    agrees = np.array([False, True, True, False, True, False, False])
    # token 0 is the prompt's; then 1 2 3, 4 5, 6
    assert [written_in_passes(agrees, k) for k in (0, 1, 2, 9)] == [6, 4, 3, 3]


def test_rates_by_place_are_of_guesses_whose_forerunners_were_right():
    agrees = np.array([True, True, False, True])
    assert by_place(agrees, 3) == [3 / 4, 1 / 2, 0.0]
    assert by_place(np.array([False, False]), 3) == [0.0]


def test_gains_are_quotients_of_runs_of_one_text(monkeypatch):
    times = iter(range(0, 1000))
    monkeypatch.setattr("blocks2tokens.course.budget.clock", lambda: next(times))
    found = gains({"plain": lambda: iter([1, 2, 3]), "other": lambda: [1, 2, 3]}, seconds=1e9, rounds=3)
    assert found == {"plain": (1.0, 1.0, 1.0), "other": (1.0, 1.0, 1.0)}
    with pytest.raises(ValueError, match="other: expected the text of plain"):
        gains({"plain": lambda: [1, 2], "other": lambda: [1, 3]}, seconds=1e9)


def test_a_draft_agrees_where_its_first_choice_is_the_text():
    class Model:
        def logits(self, ids):
            return np.eye(9, dtype=np.float32)[[i + 1 for i in ids]]

    assert agreeing(Model(), [3, 4, 5, 7, 8], 2).tolist() == [True, False, True]


# c(k)


def test_the_cost_of_rows_is_in_passes_of_one():
    cost = rows_cost.RowsCost({n: Timing(1.0, s, s, s) for n, s in {1: 0.5, 2: 0.5, 4: 1.0}.items()})
    assert cost.each() == [1.0, 1.0, 1.5, 2.0] and cost.of(4) == 2.0


def test_the_cost_of_rows_is_measured():
    model = b2t.load(models.austen())
    cost = rows_cost.measure(model, rows=(1, 3), repeats=2, seconds=0.1)
    assert list(cost.timings) == [1, 3] and cost.of(1) == 1.0 and min(cost.medians()) > 0
