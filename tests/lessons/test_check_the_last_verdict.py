"""What learners write in lesson 32, for test_check_learners.py, and what is the lesson's own."""

import json
from math import prod

import numpy as np
import pytest

from blocks2tokens.course import bench, ledger, models
from blocks2tokens.course.claims import UNTESTED
from blocks2tokens.course.lessons.the_last_verdict import exercises as lesson
from blocks2tokens.course.lessons.the_last_verdict import record, steps, targets
from blocks2tokens.course.report_claims import CLAIMS, MEASURED
from blocks2tokens.course.synthetic import Shape

# In a learner's way: with NumPy, or all pairs in a list


def whole(shares, factors, inverse=False, largest=False, as_one=False):
    shares, factors = np.array(shares, float), np.array(factors, float)
    if largest:
        factors[:] = factors.max()
    before = 1 if as_one else shares.sum()
    after = (shares / factors).sum()
    return float(after / before if inverse else before / after)


def mean_factor(shares, factors):
    return float(np.average(factors, weights=shares))


def over_product(alone, both):
    return both / float(np.prod(alone))


def bits(target, weights, bandwidth, tokens, cost):
    seconds = 1 / (target / tokens)
    return bandwidth * seconds / cost / weights * 8


def without(name):
    def wrong(target, weights, bandwidth, tokens, cost):
        if name == "tokens":
            tokens = cost = 1
        return bits(target, weights, bandwidth, tokens, 1 if name == "cost" else cost)

    return wrong


def pairs(
    costs, right, most, tokens="geometric", cost=True, of_one=False, few=False, ties=1, terms=0, own=1
):  # fmt: skip
    n, table = len(costs), []
    for m in range(1, most + 1):
        for k in range(n):
            rows = m * (k + 1)
            if rows > n:
                continue
            if tokens == "geometric":
                gain = sum(right**i for i in range(k + 1 + terms)) + own - 1
            else:
                gain = 1 + k if tokens == "all" else 1 + right * k
            gain *= 1 if of_one else m
            price = costs[min(m + k if few else rows, n) - 1] if cost else 1
            table.append((round(gain / price, 9), -ties * rows, -m, k))
    best = max(table)
    return -best[2], best[3]


def turned(costs, right, most):
    return pairs(costs, right, most)[::-1]


def for_one(costs, right, most):
    return pairs(costs, right, 1)


def verdict(value, error, limit, n=2, fails=True, strict=False, closed=False, turned_round=False):
    low, high = value - n * error, value + n * error
    words = ("does not hold", "holds") if turned_round else ("holds", "does not hold")
    if low > limit or (low == limit and not strict):
        return words[0]
    if fails and (high < limit or (closed and high == limit)):
        return words[1]
    return "open"


def changed(function, **arguments):
    def mutant(*given):
        return function(*given, **arguments)

    return mutant


WRONG = [
    ("together", lambda shares, factors: float(np.prod(factors)), "you multiply the factors"),
    ("together", mean_factor, "you take the mean of the factors"),
    ("together", lambda shares, factors: float(np.dot(shares, factors)), "you multiply shares and factors"),
    ("together", changed(whole, inverse=True), "upside down"),
    ("together", changed(whole, as_one=True), "you take the time before as 1"),
    ("together", changed(whole, largest=True), "you give every part the largest factor"),
    ("together", lambda *given: sum(given[0]) / whole(*given), "that is the time afterwards"),
    ("interplay", lambda alone, both: both / float(np.sum(alone)), "you add up the factors"),
    ("interplay", lambda alone, both: prod(alone) / both, "upside down"),
    ("interplay", lambda alone, both: both - prod(alone), "you subtract"),
    ("interplay", lambda alone, both: both / sorted(alone)[-1], "you compare with the best alone"),
    ("interplay", lambda alone, both: prod(alone), "that is what the product promises"),
    ("bits_allowed", lambda *given: bits(*given) / 8, "those are bytes"),
    ("bits_allowed", lambda t, w, *rest: bits(t, w, *rest) * w, "the bits of all weights"),
    ("bits_allowed", without("tokens"), "you read the weights once for each token"),
    ("bits_allowed", lambda t, w, b, n, c: bits(t, w, b, 1, c), "you leave `tokens` out"),
    ("bits_allowed", without("cost"), "you leave the cost out"),
    ("bits_allowed", lambda t, w, b, n, c: bits(t, w, b, n, 1 / c), "your cost is upside down"),
    ("bits_allowed", lambda t, w, b, n, c: bits(t, w, b, 1 / n, c), "your tokens are upside down"),
    ("bits_allowed", lambda *given: 1 / bits(*given), "your fraction is upside down"),
    ("best_use", changed(pairs, tokens="all"), "you count every guess as right"),
    ("best_use", changed(pairs, tokens="each"), "you count each guess by itself"),
    ("best_use", changed(pairs, terms=-1), "one term too few"),
    ("best_use", changed(pairs, own=0), "own token is missing"),
    ("best_use", changed(pairs, own=2), "own token twice"),
    ("best_use", lambda costs, right, most: (most, len(costs) // most - 1), "you fill the pass"),
    ("best_use", lambda costs, right, most: (most, 0), "you serve all and guess nothing"),
    ("best_use", changed(pairs, cost=False), "you leave the cost out"),
    ("best_use", changed(pairs, of_one=True), "you count the tokens of one stream"),
    ("best_use", changed(pairs, few=True), "your rows are too few"),
    ("best_use", changed(pairs, ties=-1), "of equals take the one with fewer rows"),
    ("best_use", turned, "the two are exchanged"),
    ("best_use", for_one, "you count the tokens of one stream"),
    ("judged", changed(verdict, n=0), "you look at the figure alone"),
    ("judged", changed(verdict, n=1), "one error is too few"),
    ("judged", lambda v, e, x: "holds" if v - 2 * e >= x else "does not hold", "nobody knows"),
    ("judged", lambda v, e, x: "holds" if v + 2 * e >= x else "does not hold", "it holds only where"),
    ("judged", changed(verdict, fails=False), "nothing of yours ever fails"),
    ("judged", changed(verdict, strict=True), "at the limit it holds"),
    ("judged", changed(verdict, closed=True), "is open"),
    ("judged", changed(verdict, turned_round=True), "the verdicts are exchanged"),
]
RIGHT = {
    "together": [whole],
    "interplay": [over_product],
    "bits_allowed": [bits],
    "best_use": [pairs],
    "judged": [verdict],
}


# The lesson's own parts


@pytest.mark.parametrize("label", lesson.use_cases())
def test_the_best_use_is_the_best_of_all_pairs(label):
    costs, right, most = lesson.use_cases()[label]
    assert targets.best_use(costs, right, most) == pairs(costs, right, most)


def test_a_model_of_a_small_shape_is_measured_and_removed():
    shape = Shape("recorded", "llama", 256, 1, 4, 2, 64, 256, 1024, 128)
    found = record.measure_model(shape, (1, 2), 0.2)
    assert set(found["seconds"]) == {"1", "2"} and all(s > 0 for s in found["seconds"].values())
    assert found["read"] > 0 and found["bytes"] < found["weights"]
    assert not record.synthetic.file_path(shape).exists()


def test_what_a_lesson_keeps_is_recorded(monkeypatch, tmp_path):
    """The lessons are run in a folder that is a learner's, so that their figures are kept."""
    seen = []

    def execute(notebook, folder):
        seen.append(folder)
        row = {"lesson": "20", "figure": next(iter(MEASURED["20"])), "value": 2.0, "cpu": "c", "date": "d"}
        (folder.parents[0] / ledger.KEPT).write_text(json.dumps([row]))

    monkeypatch.setattr(record.notebooks, "execute", execute)
    found = record.run_lessons(["20_attention", "32_the_last_verdict"])
    assert len(seen) == 1 and found[0]["lesson"] == "20"


def test_a_rate_is_of_decoding_whatever_the_prompt_takes(monkeypatch):
    """A prompt of 5 seconds and half a second for each token are two tokens a second."""

    def clocked(runs, repeats, seconds):
        slow = ("the report's engine", "its six suspects mended")
        took = {name: 2.0 if name in slow else 5.0 + 0.5 * run() for name, run in runs.items()}
        return {name: bench.Timing(0.0, took[name], took[name], took[name]) for name in runs}

    monkeypatch.setattr(steps, "repeating", lambda model: model.tokenizer.encode(steps.QUOTED))
    monkeypatch.setattr(steps.bench, "interleaved", clocked)
    found = steps.rates(models.austen(), 1, 1.0)
    assert list(found.values()) == pytest.approx([0.5, 0.5, 2.0, 2.0, 2.0, 4 / 7])


def test_an_unknown_part_is_named(capsys):
    assert record.main(["all"]) == 2 and "model, ledger" in capsys.readouterr().err


def test_every_sentence_has_a_verdict():
    """What was recorded closes all rows, with figures that some lesson still measures."""
    kept = record.recorded()["ledger"]
    assert all(row["figure"] in MEASURED[row["lesson"]] for row in kept)
    said = ledger.Ledger(CLAIMS, {row["figure"]: ledger.Evidence(**row) for row in kept}).verdicts()
    assert [number for number, word in said.items() if word.startswith(UNTESTED)] == []
