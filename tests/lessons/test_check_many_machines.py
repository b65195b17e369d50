"""What learners write in lesson 31, for test_check_learners.py, and what is the lesson's own."""

import math

import numpy as np
import pytest

from blocks2tokens.course.lessons.many_machines import exercises as lesson
from blocks2tokens.parallel import cost, simulate
from blocks2tokens.parallel.cost import Link, Shape
from blocks2tokens.parallel.shares import Machine, layer_shares


def wire(number=4, hops=lambda n: n - 1, sums=2, rounds=None, senders=lambda n: n, layers=lambda x: x):
    """A learner's count, message by message."""

    def bytes_sent(way, n, n_layers, dim):
        message = number * dim
        if way == "pipeline":
            return sum(message for _ in range(hops(n)))
        total, covered, i = 0, 1, 0
        while covered < n and (rounds is None or i < rounds):
            total, covered, i = total + senders(n) * message, covered * 2, i + 1
        return total * sums * layers(n_layers)

    return bytes_sent


def everybody(way, n, n_layers, dim):
    pairs = n * (n - 1)
    return 4 * dim * (n - 1 if way == "pipeline" else 2 * n_layers * pairs)


def share(cost=lambda k, v: (k + 1) / v, full=lambda k, r: k >= r, better=lambda a, b: a < b):
    """A learner's loop over machines."""

    def share_layers(n_layers, speeds, room):
        mine = [0 for _ in speeds]
        for _ in range(n_layers):
            best, least = None, None
            for i, v in enumerate(speeds):
                t = cost(mine[i], v)
                if not full(mine[i], room[i]) and (best is None or better(t, least)):
                    best, least = i, t
            mine[best] += 1
        return mine

    return share_layers


def times_added_up(n_layers, speeds, room):
    """Rounds otherwise than a product does."""
    through, mine = [0.0] * len(speeds), [0] * len(speeds)
    for _ in range(n_layers):
        best = min(
            (i for i in range(len(speeds)) if mine[i] < room[i]), key=lambda i: through[i] + 1 / speeds[i]
        )
        through[best] += 1 / speeds[best]
        mine[best] += 1
    return mine


def proportions(to_whole):
    def share_layers(n_layers, speeds, room):
        total = sum(speeds)
        return [min(room[i], to_whole(n_layers * speeds[i] / total)) for i in range(len(speeds))]

    return share_layers


def token(
    parts=1, back=8, sums=2, wait=1, bits=1, rounds=math.log2, number=4, divides=True, least=2, at_once=True
):  # fmt: skip
    """A learner's sum of messages."""

    def token_seconds(way, alone, n, n_layers, dim, latency, rate):
        def message(size):
            return wait * latency + bits * size / rate

        if way == "pipeline":
            total = alone / n if parts > 1 else alone
            for _ in range(n - 1):
                total += message(number * dim)
            size = 4 * dim if back == "residual" else back
            return total + (message(size) if size is not None and n >= least else 0)
        one_round = message(number * dim) * (1 if at_once else n)
        return (alone / n if divides else alone) + sums * n_layers * rounds(n) * one_round

    return token_seconds


def turns(hops=0, rule=None):
    """A learner's rule for once around."""

    def texts_per_second(stages, hop, n_texts):
        way = sum(t + hop for t in stages) - hops * hop
        busy = n_texts * max(stages)
        if rule:
            return rule(way, busy, n_texts, stages)
        return n_texts / way if way > busy else n_texts / busy

    return texts_per_second


def hop_is_work(stages, hop, n_texts):
    return min(n_texts / sum(t + hop for t in stages), 1 / (max(stages) + hop))


def failing(half=2, n_times=True, restarts=1, saves=1, again=True, first=False, ends=1, in_saving=0):
    """A learner's equation, iterated."""

    def with_failures(work, interval, saving, restart, mtbf, n):
        once = work + saves * saving * work / interval
        each = restarts * restart + ((interval + in_saving * saving) / half if half else 0)
        share = each * (n if n_times else 1) / mtbf
        if not again:
            return once + share * (work if first else once)
        return once / (1 - share) if share < ends else math.inf

    return with_failures


WRONG = [
    ("bytes_sent", wire(number=1), "numbers, not bytes"),
    ("bytes_sent", wire(hops=lambda n: n), "one hop too many"),
    ("bytes_sent", wire(sums=1), "one all-reduce a layer"),
    ("bytes_sent", wire(senders=lambda n: 1), "what one machine sends"),
    ("bytes_sent", wire(senders=lambda n: 2 * n), "another receives"),
    ("bytes_sent", everybody, "everybody sends to everybody"),
    ("bytes_sent", wire(rounds=1), "one round"),
    ("bytes_sent", wire(layers=lambda x: 1), "the sums of one layer"),
    ("share_layers", share(lambda k, v: k + 1), "whatever their speed"),
    ("share_layers", share(lambda k, v: k / v), "you ask who is through first now"),
    ("share_layers", share(full=lambda k, r: False), "than it has memory for"),
    ("share_layers", share(better=lambda a, b: a <= b), "of equals the last one"),
    ("share_layers", share(lambda k, v: (k + 1) * v), "upside down"),
    ("share_layers", proportions(round), "rounded proportions need not add up"),
    ("share_layers", proportions(math.floor), "rounded down leave layers over"),
    ("token_seconds", token(parts=2), "a pipeline does not divide"),
    ("token_seconds", token(back=None), "the id has to go back"),
    ("token_seconds", token(back="residual"), "an id of 8 bytes, not a residual"),
    ("token_seconds", token(back=4), "the id that goes back has 8 bytes"),
    ("token_seconds", token(back=0), "they take 8 / rate"),
    ("token_seconds", token(least=1), "nobody to send an id to"),
    ("token_seconds", token(at_once=False), "all n send at the same time"),
    ("token_seconds", token(sums=4), "twice too long"),
    ("token_seconds", token(sums=1), "two all-reduces a layer"),
    ("token_seconds", token(wait=0), "latency is missing"),
    ("token_seconds", token(bits=8), "eight times too many"),
    ("token_seconds", token(rounds=lambda n: min(1, n - 1)), "an all-reduce over n machines takes"),
    ("token_seconds", token(rounds=lambda n: n - 1), "not n - 1 rounds"),
    ("token_seconds", token(number=1), "numbers, not bytes"),
    ("token_seconds", token(divides=False), "rows are shared out"),
    ("texts_per_second", turns(hops=1), "the id's way back is missing"),
    ("texts_per_second", turns(rule=lambda way, busy, n, s: n / busy), "with few texts"),
    ("texts_per_second", turns(rule=lambda way, busy, n, s: n / way), "with many texts"),
    ("texts_per_second", turns(rule=lambda way, busy, n, s: 1 / way), "one text at a time"),
    ("texts_per_second", lambda s, hop, n: turns()(s, 0, n), "messages take time, too"),
    ("texts_per_second", hop_is_work, "a hop keeps no stage busy"),
    ("texts_per_second", turns(rule=lambda way, busy, n, s: max(way, busy) / n), "seconds for a token"),
    ("texts_per_second", turns(rule=lambda way, busy, n, s: 1 / max(way, busy)), "the tokens of one text"),
    (
        "texts_per_second",
        turns(rule=lambda way, busy, n, s: n / (max(s) * (len(s) - 1 + n))),
        "fill and drain",
    ),
    (
        "texts_per_second",
        turns(rule=lambda way, busy, n, s: n / max(way, n * float(np.mean(s)))),
        "the mean stage does not set the pace",
    ),
    ("texts_per_second", turns(rule=lambda way, busy, n, s: n / (way + busy)), "the longer of them counts"),
    ("with_failures", failing(n_times=False), "fail n times as often"),
    ("with_failures", failing(half=1), "not the whole interval"),
    ("with_failures", failing(half=0), "half an interval"),
    ("with_failures", failing(restarts=0), "costs the restart as well"),
    ("with_failures", failing(ends=1e9), "never ends"),
    ("with_failures", failing(in_saving=1), "saving is left out"),
    ("with_failures", failing(saves=0), "saving takes time"),
    ("with_failures", failing(again=False), "failures come in what is done again"),
    ("with_failures", failing(again=False, first=True), "while it saves and starts again"),
]


RIGHT = {
    "bytes_sent": [wire()],
    "share_layers": [share(), times_added_up],
    "token_seconds": [token()],
    "texts_per_second": [turns()],
    "with_failures": [failing()],
}


# The plain answers agree with the engine


@pytest.mark.parametrize("case", lesson.network_cases().values(), ids=lesson.network_cases())
def test_a_token_costs_what_the_engine_says(case):
    way, alone, n, n_layers, dim, latency, rate = case
    link, shape = Link(latency, rate), Shape(n_layers, dim, 0)
    engine = cost.tensor_token(alone, n, link, shape) - cost.rounds(n) * latency  # of the logits
    if way == "pipeline":
        engine = cost.pipeline_token([alone / n] * n, link, dim)
    assert engine == pytest.approx(lesson.token_seconds(*case))


def test_turns_take_what_the_simulation_takes():
    for stages, hop, n_texts in lesson.turn_cases().values():
        ends = simulate.pipeline_ends(np.array(stages), Link(hop, math.inf), 1, n_texts, 400)
        assert simulate.rate(ends) == pytest.approx(lesson.texts_per_second(stages, hop, n_texts), rel=0.01)


def test_shares_are_the_engine_s_where_each_gets_one():
    for n_layers, speeds, room in lesson.machine_cases().values():
        found = lesson.share_layers(n_layers, speeds, room)
        machines = [Machine(s, r) for s, r in zip(speeds, room, strict=True)]
        if min(found):
            assert layer_shares(n_layers, 1, machines) == found


def test_failures_cost_nearly_what_the_exact_equation_says():
    for work, interval, saving, restart, mtbf, n in lesson.failure_cases().values():
        found = lesson.with_failures(work, interval, saving, restart, mtbf, n)
        if interval + restart < mtbf / n / 20:
            exact = cost.expected_seconds(work, interval, saving, restart, mtbf / n)
            assert found == pytest.approx(exact, rel=0.01)
