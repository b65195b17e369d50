"""Lesson 31, many machines: bytes on the wire, unequal shares, a token's time, bubbles, failures.

bytes_sent        way, n, n_layers, dim                            -> bytes that all send for a token
share_layers      n_layers, speeds, room                           -> layers of each machine
token_seconds     way, alone, n, n_layers, dim, latency, rate      -> seconds of a token of one text
texts_per_second  stages, hop, n_texts                             -> tokens a second of texts in turn
with_failures     work, interval, saving, restart, mtbf, n         -> expected seconds of a long job
"""

from functools import partial
from math import inf, log2

from blocks2tokens.course.check.exercise import Exercise, Mistake

# bytes_sent: way, n, n_layers, dim -> bytes


def bytes_sent(way, n, n_layers, dim):
    """Return the bytes that n machines send, all together, for one token; n is a power of two.

    "pipeline": each but the last sends the residual, `dim` float32. "tensor": two all-reduces a layer, in
    each round of which every machine sends `dim` float32. Ids and logits do not count.
    """
    # and in the engine: add_up in parallel/ranks.py
    if way == "pipeline":
        return (n - 1) * 4 * dim
    rounds = n.bit_length() - 1
    return 2 * n_layers * rounds * n * 4 * dim


def wire_cases():
    return {
        "two stages of SmolLM2": ("pipeline", 2, 30, 576),
        "eight stages of a 14B": ("pipeline", 8, 48, 5120),
        "one machine": ("pipeline", 1, 30, 576),
        "rows of SmolLM2 on two": ("tensor", 2, 30, 576),
        "rows of a 14B on eight": ("tensor", 8, 48, 5120),
        "rows on one machine": ("tensor", 1, 30, 576),
    }


def bytes_with(
    way,
    n,
    n_layers,
    dim,
    number=4,
    hops=lambda n: n - 1,
    sums=2,
    messages=lambda n: n * log2(n),
    each_layer=True,
):
    """Return the right answer with a place for each mistake."""
    if way == "pipeline":
        return hops(n) * number * dim
    return sums * (n_layers if each_layer else 1) * messages(n) * number * dim


BYTES = Exercise(
    name="bytes_sent",
    engine=bytes_sent,
    cases=wire_cases,
    mistakes=(
        Mistake(partial(bytes_with, number=1), "numbers, not bytes: a float32 has 4"),
        Mistake(
            partial(bytes_with, hops=lambda n: n),
            "one hop too many: the last stage keeps its residual and makes logits of it",
        ),
        Mistake(
            partial(bytes_with, sums=1),
            "one all-reduce a layer: attention ends with a sum, and so does the feed-forward part",
        ),
        Mistake(
            partial(bytes_with, messages=lambda n: log2(n)),
            "that is what one machine sends: in each round all n send",
        ),
        Mistake(
            partial(bytes_with, messages=lambda n: n * (n - 1)),
            "everybody sends to everybody: in rounds, partial sums are passed on, and log2(n) are enough",
        ),
        Mistake(
            partial(bytes_with, messages=lambda n: n * (n > 1)), "one round is enough for two machines only"
        ),
        Mistake(
            partial(bytes_with, sums=4),
            "twice too many: what one machine sends another receives, and it is counted once",
        ),
        Mistake(
            partial(bytes_with, each_layer=False),
            "the sums of one layer: each layer needs the whole residual of the one before",
        ),
    ),
    hints=(
        "How many messages are there, and how long is each? All are residuals of one token. In a pipeline "
        "they cross each border between stages once.",
        "Rounds double what a partial sum covers: 1, 2, 4 ... machines. Count rounds, senders in a round, "
        "sums in a layer, layers.",
    ),
)


# share_layers: n_layers, speeds, room -> layers of each machine


def share_layers(n_layers, speeds, room):
    """Return a list: how many layers each machine gets.

    One layer after the other goes to the machine that would be through first if it had that layer, too; of
    equals to the first one. A layer takes machine i 1 / speeds[i]; it has memory for room[i] of them.
    """
    # and in the engine: layer_shares in parallel/shares.py
    counts = [0] * len(speeds)
    for _ in range(n_layers):
        free = [i for i in range(len(speeds)) if counts[i] < room[i]]
        best = min(free, key=lambda i: (counts[i] + 1) / speeds[i])
        counts[best] += 1
    return counts


def machine_cases():
    """Speeds whose layer times add up exactly wherever two are equal: who adds times finds the same."""
    return {
        "three alike": (30, [20.0, 20.0, 20.0], [30, 30, 30]),
        "one twice as fast": (30, [16.0, 8.0, 8.0], [30, 30, 30]),
        "fast, with little memory": (48, [32.0, 8.0, 4.0], [12, 48, 48]),
        "shares that are no whole numbers": (10, [3.0, 2.0, 2.0], [10, 10, 10]),
        "a slow one that gets nothing": (4, [10.0, 9.0, 1.0], [4, 4, 4]),
        "hardly room": (7, [1.0, 8.0], [4, 3]),
        "one machine": (5, [7.0], [9]),
    }


def shares_with(n_layers, speeds, room, through=lambda k, speed: (k + 1) / speed, limited=True, last=False):
    """Return the right answer with a place for each mistake."""
    counts, places = [0] * len(speeds), range(len(speeds))
    for _ in range(n_layers):
        free = [i for i in places if counts[i] < room[i] or not limited]
        free = free[::-1] if last else free
        counts[min(free, key=lambda i: through(counts[i], speeds[i]))] += 1
    return counts


def by_proportion(n_layers, speeds, room):
    return [min(r, round(n_layers * s / sum(speeds))) for s, r in zip(speeds, room, strict=True)]


def rounded_down(n_layers, speeds, room):
    return [min(r, int(n_layers * s / sum(speeds))) for s, r in zip(speeds, room, strict=True)]


SHARES = Exercise(
    name="share_layers",
    engine=share_layers,
    cases=machine_cases,
    mistakes=(
        Mistake(
            partial(shares_with, through=lambda k, speed: k + 1),
            "all get as many, whatever their speed: then the slowest sets the pace",
        ),
        Mistake(
            partial(shares_with, through=lambda k, speed: k / speed),
            "you ask who is through first now: ask who would be with this layer, (layers + 1) / speed",
        ),
        Mistake(partial(shares_with, limited=False), "a machine gets more layers than it has memory for"),
        Mistake(partial(shares_with, last=True), "of equals the last one gets it: the first should"),
        Mistake(
            partial(shares_with, through=lambda k, speed: (k + 1) * speed),
            "upside down: a layer takes 1 / speed, so the fast one gets more",
        ),
        Mistake(
            by_proportion,
            "rounded proportions need not add up, and what a full machine cannot take is lost",
        ),
        Mistake(rounded_down, "proportions rounded down leave layers over, and nobody runs them"),
    ),
    hints=(
        "A loop over the layers: each has to go somewhere. Whom would it delay the least?",
        "Among the machines with room, the smallest (layers so far + 1) / speed. min with a key takes the "
        "first of equals.",
    ),
    parts=("layers",),
)


# token_seconds: way, alone, n, n_layers, dim, latency, rate -> seconds


def token_seconds(way, alone, n, n_layers, dim, latency, rate):
    """Return the seconds of one token of one text on n machines, a power of two.

    `alone`: on one machine. A message takes latency + bytes / rate, rate in bytes a second; a residual is
    `dim` float32, the id that goes back to the first stage 8 bytes. "tensor": two all-reduces a layer.
    """
    # and in the engine: pipeline_token and tensor_token in parallel/cost.py
    hop = latency + 4 * dim / rate
    if way == "tensor":
        return alone / n + 2 * n_layers * (n.bit_length() - 1) * hop
    return alone + (n - 1) * hop + (latency + 8 / rate if n > 1 else 0)


def network_cases():
    gigabit, fast = 1e9 / 8, 1e10 / 8
    return {
        "SmolLM2 on two, gigabit": ("pipeline", 0.005, 2, 30, 576, 1e-4, gigabit),
        "rows of it": ("tensor", 0.005, 2, 30, 576, 1e-4, gigabit),
        "a 14B on eight, 10 gigabit": ("pipeline", 0.45, 8, 48, 5120, 5e-5, fast),
        "rows of that": ("tensor", 0.45, 8, 48, 5120, 5e-5, fast),
        "far away": ("tensor", 0.45, 4, 48, 5120, 5e-3, gigabit),
        "one machine": ("pipeline", 0.005, 1, 30, 576, 1e-4, gigabit),
    }


def token_with(
    way,
    alone,
    n,
    n_layers,
    dim,
    latency,
    rate,
    split=False,
    back=True,
    sums=2,
    waits=True,
    bits=1,
    rounds=log2,
    number=4,
    whole=False,
    id_bytes=8,
    returns=lambda n: n > 1,
    senders=lambda n: 1,
):
    """Return the right answer with a place for each mistake."""
    late = latency if waits else 0
    hop = late + bits * number * dim / rate
    if way == "tensor":
        return (alone if whole else alone / n) + sums * n_layers * rounds(n) * senders(n) * hop
    size = 4 * dim if id_bytes is None else id_bytes
    returned = late + bits * size / rate if returns(n) and back else 0
    return (alone / n if split else alone) + (n - 1) * hop + returned


TOKEN = Exercise(
    name="token_seconds",
    engine=token_seconds,
    cases=network_cases,
    mistakes=(
        Mistake(
            partial(token_with, split=True),
            "a pipeline does not divide one text's time: its stages work one after the other",
        ),
        Mistake(
            partial(token_with, back=False),
            "the id has to go back: the first stage cannot begin the next token without it",
        ),
        Mistake(
            partial(token_with, id_bytes=None),
            "what goes back to the first stage is an id of 8 bytes, not a residual",
        ),
        Mistake(partial(token_with, id_bytes=4), "the id that goes back has 8 bytes"),
        Mistake(
            partial(token_with, id_bytes=0),
            "the id has 8 bytes: beside the latency of its message they take 8 / rate",
        ),
        Mistake(
            partial(token_with, returns=lambda n: True),
            "one machine has nobody to send an id to: for n = 1 there is no message",
        ),
        Mistake(partial(token_with, sums=1), "two all-reduces a layer, not one"),
        Mistake(
            partial(token_with, senders=lambda n: n),
            "all n send at the same time: a round takes as long as one message",
        ),
        Mistake(
            partial(token_with, sums=4),
            "twice too long: two that exchange send to each other at the same time",
        ),
        Mistake(
            partial(token_with, waits=False),
            "latency is missing: small messages are nearly all latency",
        ),
        Mistake(
            partial(token_with, bits=8),
            "eight times too many: the rate is in bytes a second already",
        ),
        Mistake(
            partial(token_with, rounds=lambda n: 1 if n > 1 else 0),
            "an all-reduce over n machines takes log2(n) rounds, one after the other",
        ),
        Mistake(
            partial(token_with, rounds=lambda n: n - 1),
            "not n - 1 rounds: partial sums double what they cover, so log2(n)",
        ),
        Mistake(partial(token_with, number=1), "numbers, not bytes: a float32 has 4"),
        Mistake(
            partial(token_with, whole=True),
            "rows are shared out: each machine computes 1 / n of every product",
        ),
    ),
    hints=(
        "First one message, then how many come one behind the other. What computes at the same time, and "
        "what in turn?",
        "In a pipeline nothing is computed at the same time for one text. With rows all machines compute, "
        "and then wait 2 * n_layers times for log2(n) rounds.",
    ),
    tolerance=1e-6,
)


# texts_per_second: stages, hop, n_texts -> tokens a second


def texts_per_second(stages, hop, n_texts):
    """Return the tokens a second of all n_texts together, once the pipeline is full.

    stages: the seconds of each. `hop`: of each message, that with the id back to the first stage among them.
    A text's next token begins when its last id is back, and when the stage is free.
    """
    # and in the engine: pipeline_rate in parallel/cost.py
    around = sum(stages) + len(stages) * hop
    return n_texts / max(around, n_texts * max(stages))


def turn_cases():
    return {
        "two stages, one text": ([2e-3, 2e-3], 1e-4, 1),
        "two stages, two texts": ([2e-3, 2e-3], 1e-4, 2),
        "two stages, three texts": ([2e-3, 2e-3], 1e-4, 3),
        "unequal stages, many texts": ([1e-3, 4e-3, 1e-3], 1e-4, 8),
        "unequal stages, two texts": ([1e-3, 2e-3, 1e-3], 1e-4, 2),
        "a slow network": ([1e-3] * 4, 5e-3, 4),
        "no network at all": ([1e-3] * 4, 0.0, 4),
    }


def rate_with(stages, hop, n_texts, hops=len, crowd=max, around=None):
    """Return the right answer with a place for each mistake."""
    once = sum(stages) + hops(stages) * hop
    return n_texts / (around or max)(once, n_texts * crowd(stages))


RATE = Exercise(
    name="texts_per_second",
    engine=texts_per_second,
    cases=turn_cases,
    mistakes=(
        Mistake(
            partial(rate_with, hops=lambda stages: len(stages) - 1),
            "the id's way back is missing: N stages make N messages around",
        ),
        Mistake(
            partial(rate_with, around=lambda once, busy: busy),
            "with few texts no stage is busy all the time: once around takes as long as one token",
        ),
        Mistake(
            partial(rate_with, around=lambda once, busy: once),
            "with many texts the slowest stage has to do all of them: no more than 1 / its seconds",
        ),
        Mistake(
            lambda stages, hop, n_texts: 1 / (sum(stages) + len(stages) * hop),
            "that is one text at a time: while one is in a stage, others are in the other stages",
        ),
        Mistake(
            lambda stages, hop, n_texts: n_texts / ((n_texts + len(stages) - 1) * max(stages)),
            "so long it takes to fill and drain, as in training: here the next token begins when its id is "
            "back, and nothing drains",
        ),
        Mistake(
            partial(rate_with, crowd=lambda stages: sum(stages) / len(stages)),
            "the mean stage does not set the pace, the slowest does",
        ),
        Mistake(
            partial(rate_with, hops=lambda stages: 0),
            "messages take time, too: a `hop` behind each stage",
        ),
        Mistake(
            lambda stages, hop, n_texts: (
                n_texts / max(sum(stages) + len(stages) * hop, n_texts * (max(stages) + hop))
            ),
            "while a message is on its way, its stage computes the next text: a hop keeps no stage busy",
        ),
        Mistake(
            lambda stages, hop, n_texts: 1 / rate_with(stages, hop, n_texts),
            "those are seconds for a token: wanted are tokens a second, all texts together",
        ),
        Mistake(
            lambda stages, hop, n_texts: rate_with(stages, hop, n_texts) / n_texts,
            "those are the tokens of one text: count those of all n_texts",
        ),
        Mistake(
            partial(rate_with, around=lambda once, busy: once + busy),
            "the two times run at once: the longer of them counts, not their sum",
        ),
    ),
    hints=(
        "Follow one text once around. Then look at one stage: how long is it busy with all texts?",
        "A round takes at least the way of one text, and at least n_texts times the slowest stage.",
    ),
    tolerance=1e-6,
)


# with_failures: work, interval, saving, restart, mtbf, n -> seconds


def with_failures(work, interval, saving, restart, mtbf, n):
    """Return the expected seconds of a job on n machines, each of which fails every `mtbf` seconds.

    It saves after each `interval` of work, which takes `saving`. A failure costs the restart and, on
    average, half an interval of work. Failures come during all of the time; inf if it never ends.
    """
    # and in the engine: expected_seconds in parallel/cost.py, without the halves
    paid = work * (1 + saving / interval)
    lost = (restart + interval / 2) * n / mtbf  # of each second
    return paid / (1 - lost) if lost < 1 else float("inf")


YEAR = 365.25 * 86_400


def failure_cases():
    day, hour = 86_400.0, 3600.0
    return {
        "one machine, a day": (day, hour, 60.0, 120.0, 5 * YEAR, 1),
        "a thousand machines, a month": (30 * day, hour, 60.0, 600.0, 5 * YEAR, 1000),
        "saved every minute": (day, 60.0, 30.0, 60.0, YEAR, 100),
        "saved once a day": (30 * day, day, 60.0, 600.0, YEAR, 100),
        "never through": (day, day, 60.0, 600.0, YEAR, 1000),
        "nothing to pay": (day, hour, 0.0, 0.0, 5 * YEAR, 16),
    }


def failures_with(work, interval, saving, restart, mtbf, n, half=0.5, machines=True, again=True, **other):
    """Return the right answer with a place for each mistake."""
    paid = work * (1 + (saving / interval if other.get("saves", True) else 0))
    each = restart * other.get("restarts", True) + half * (interval + saving * other.get("in_saving", False))
    lost = each * (n if machines else 1) / mtbf
    if again:
        return paid / (1 - lost) if lost < 1 or other.get("negative") else inf
    return paid + (work if other.get("first") else paid) * lost


FAILURES = Exercise(
    name="with_failures",
    engine=with_failures,
    cases=failure_cases,
    mistakes=(
        Mistake(
            partial(failures_with, machines=False),
            "n machines fail n times as often: one of them every mtbf / n seconds",
        ),
        Mistake(
            partial(failures_with, half=1.0),
            "not the whole interval is lost: a failure comes anywhere in it, on average half way",
        ),
        Mistake(
            partial(failures_with, half=0.0), "the work since the last saving is lost, too: half an interval"
        ),
        Mistake(partial(failures_with, restarts=False), "each failure costs the restart as well"),
        Mistake(
            partial(failures_with, negative=True),
            "a job that loses more than it does never ends: where the lost share is 1 or more, return "
            'float("inf"), not a time below 0',
        ),
        Mistake(
            partial(failures_with, in_saving=True),
            "half an interval of work is what a failure costs here, whenever it comes; what it costs while "
            "saving is left out",
        ),
        Mistake(
            partial(failures_with, saves=False),
            "saving takes time, work / interval times, whether anything fails or not",
        ),
        Mistake(
            partial(failures_with, again=False),
            "failures come in what is done again, too: the time is on both sides, T = paid + T * lost",
        ),
        Mistake(
            partial(failures_with, again=False, first=True),
            "failures come while it saves and starts again, too: the time is on both sides",
        ),
    ),
    hints=(
        "Let T be the answer. Of what does it consist: work, saving, and so much for each failure. How many "
        "failures are there in T?",
        "T = work and saving + T * n / mtbf * (what one failure costs). Solve for T; if the factor of T is 1 "
        "or more, it never ends.",
    ),
    tolerance=1e-6,
)

EXERCISES = [BYTES, SHARES, TOKEN, RATE, FAILURES]
