"""Lesson 30, parallel layers: a pipeline's times and bubbles, layers over cores, what bounds many cores.

stage_ends         seconds of stages, streams        -> when each stage is done with each stream
busy_share         seconds of stages, streams        -> the share of time that is work
largest_part       bytes of layers, cores            -> bytes of the fullest core, at best
speed_up           alone, shared, waits, wait, cores -> times as fast as one core
tokens_at_most     bytes, one core, all cores, cores -> tokens a second
"""

from functools import partial
from itertools import pairwise

import numpy as np

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.parallel_layers import schedule

# stage_ends: seconds, streams -> [stages, streams]


def pipeline_cases():
    return {
        "two stages, three streams": ([2.0, 2.0], 3),
        "the second is slower": ([1.0, 3.0], 3),
        "the first is slower": ([3.0, 1.0], 3),
        "three stages": ([1.0, 4.0, 2.0], 4),
        "one stream": ([1.0, 2.0, 3.0], 1),
        "one stage": ([2.0], 3),
        "parts of a second": ([0.5, 1.25, 0.75], 3),
    }


def stage_ends(seconds, streams):
    """Return when each stage is done with each stream, [stages, streams]."""
    done = np.zeros((len(seconds), streams))
    for s in range(len(seconds)):
        for m in range(streams):
            arrives = done[s - 1, m] if s > 0 else 0
            free = done[s, m - 1] if m > 0 else 0
            done[s, m] = max(arrives, free) + seconds[s]
    return done


def finishing(begin):
    """Return a function like stage_ends, where begin(arrives, free) says when a stage begins."""

    def wrong(seconds, streams):
        done = np.zeros((len(seconds), streams))
        for s, takes in enumerate(seconds):
            for m in range(streams):
                arrives = done[s - 1, m] if s else 0.0
                free = done[s, m - 1] if m else 0.0
                done[s, m] = begin(arrives, free) + takes
        return done

    return wrong


def in_integers(seconds, streams):
    done = np.zeros((len(seconds), streams), int)
    for s, takes in enumerate(seconds):
        for m in range(streams):
            done[s, m] = max(done[s - 1, m] if s else 0, done[s, m - 1] if m else 0) + takes
    return done


def one_after_the_other(seconds, streams):
    return np.cumsum(seconds)[:, None] + sum(seconds) * np.arange(streams)


def with_zeros_before(seconds, streams):
    return np.pad(schedule.stage_ends(seconds, streams), ((1, 0), (1, 0)))


def starts(seconds, streams):
    return schedule.stage_ends(seconds, streams) - np.asarray(seconds)[:, None]


def in_step(seconds, streams):
    ticks = np.add.outer(np.arange(len(seconds)), np.arange(streams)) + 1
    return ticks * float(max(seconds))


def at_the_slowest_pace(seconds, streams):
    return np.cumsum(seconds)[:, None] + max(seconds) * np.arange(streams)


FINISH = Exercise(
    name="stage_ends",
    engine=schedule.stage_ends,
    cases=pipeline_cases,
    mistakes=(
        Mistake(
            finishing(lambda arrives, free: arrives),
            "your stages do several streams at once: a stage begins with one when it is done with the one "
            "before",
        ),
        Mistake(
            finishing(lambda arrives, free: free),
            "your stages do not wait for the stage before: a stream must have come through it first",
        ),
        Mistake(
            finishing(lambda arrives, free: arrives + free),
            "you wait for both, one after the other: a stage begins at the later of the two",
        ),
        Mistake(
            finishing(min),
            "you begin when the first of the two is over: both must be, so take the later",
        ),
        Mistake(
            starts,
            "these are the times at which stages begin: wanted is when they are done",
        ),
        Mistake(
            in_step,
            "all stages of yours move in step with the slowest: each begins as soon as it can",
        ),
        Mistake(
            at_the_slowest_pace,
            "every stage of yours keeps the pace of the slowest: one before it is sooner done, and waits",
        ),
        Mistake(
            lambda seconds, streams: schedule.stage_ends(seconds, streams).T,
            "rows and columns are exchanged: a row for each stage, a column for each stream",
        ),
        Mistake(
            in_integers,
            "your array has integers, which cut off what stands behind the point: np.zeros((...)) has floats",
        ),
        Mistake(
            one_after_the_other,
            "a stream of yours begins when the one before has left the last stage: it may enter a stage "
            "as soon as that is free",
        ),
        Mistake(
            with_zeros_before,
            "the row and the column of zeros that you began with are still there: return done[1:, 1:]",
        ),
        Mistake(
            lambda seconds, streams: schedule.stage_ends(seconds, streams)[-1],
            "that is the last stage alone: a row for each stage",
        ),
    ),
    hints=(
        "Two things must be over before a stage begins: the stage before it with the same stream, and the "
        "stage itself with the stream before.",
        "Take the later of the two, 0 where there is none, and add the stage's seconds. Go through the "
        "stages, and in each through the streams.",
    ),
    solution=stage_ends,
    tolerance=1e-12,
)


# busy_share: seconds, streams -> share


def busy_share(seconds, streams):
    """Return the share of all stages' time that is work."""
    end = stage_ends(seconds, streams)[-1, -1]
    work = streams * sum(seconds)
    return work / (len(seconds) * end)


def share_where(work, time):
    """Return a function like busy_share: work(seconds, streams) over time(seconds, end)."""
    return lambda seconds, streams: (
        work(seconds, streams) / time(seconds, schedule.stage_ends(seconds, streams)[-1, -1])
    )


def all_work(seconds, streams):
    return sum(seconds) * streams


BUSY = Exercise(
    name="busy_share",
    engine=schedule.busy_share,
    cases=pipeline_cases,
    mistakes=(
        Mistake(
            share_where(all_work, lambda seconds, end: end),
            "that is how many stages are busy on average: each of them is there all the time, so divide by "
            "their number, too",
        ),
        Mistake(
            lambda seconds, streams: 1 - schedule.busy_share(seconds, streams),
            "this is the share of bubbles: wanted is that of work",
        ),
        Mistake(
            share_where(lambda seconds, streams: sum(seconds), lambda seconds, end: len(seconds) * end),
            "you count the work of one stream: every stream goes through all stages",
        ),
        Mistake(
            lambda seconds, streams: streams / (streams + len(seconds) - 1),
            "that is right where all stages take as long as each other: take the times as they are",
        ),
        Mistake(
            share_where(
                lambda seconds, streams: max(seconds) * streams * len(seconds),
                lambda seconds, end: len(seconds) * end,
            ),
            "you count every stage as busy as the slowest: each works for its own seconds",
        ),
        Mistake(
            lambda seconds, streams: 1 / schedule.busy_share(seconds, streams),
            "your fraction is upside down: work over time",
        ),
        Mistake(
            lambda seconds, streams: 100 * schedule.busy_share(seconds, streams),
            "that is per cent: wanted is a share, 1 at most",
        ),
        Mistake(
            lambda seconds, streams: (
                np.array(seconds) * streams / schedule.stage_ends(seconds, streams)[-1, -1]
            ),
            "that is the share of each stage: wanted is that of all together, one number",
        ),
        Mistake(
            lambda seconds, streams: (
                sum(seconds) * streams / schedule.stage_ends(seconds, streams)[:, -1].sum()
            ),
            "a core of yours leaves when its last stream is through: all are there to the end",
        ),
        Mistake(
            lambda seconds, streams: (
                sum(seconds)
                * streams
                / np.ptp(np.c_[starts(seconds, streams), schedule.stage_ends(seconds, streams)], axis=1).sum()
            ),
            "a core of yours comes with its first stream and leaves with its last: all are there from the "
            "start to the end",
        ),
        Mistake(
            lambda seconds, streams: sum(seconds) * streams / schedule.stage_ends(seconds, streams).sum(),
            "you add up times of day: how long all of it takes is the last of them, stage_ends(...)[-1, -1]",
        ),
    ),
    hints=(
        "How long does all of it take? stage_ends tells: the last stage with the last stream.",
        "In that time each stage could have worked. They did work: sum(seconds) for each stream.",
    ),
    solution=busy_share,
    tolerance=1e-12,
)


# largest_part: bytes of layers, cores -> bytes


def layer_cases():
    return {
        "equal layers": ([5] * 6, 3),
        "a large one at the end": ([2, 2, 2, 2, 9], 2),
        "large ones at both ends": ([8, 1, 1, 1, 8], 3),
        "greedy goes wrong": ([4, 3, 3, 2, 6], 3),
        "another such": ([1, 9, 2, 2, 2, 9, 1], 3),
        "one core": ([3, 1, 2], 1),
        "as many cores as layers": ([3, 1, 2], 3),
        "more cores than layers": ([3, 1], 4),
        "large first": ([9, 1, 1, 1], 2),
        "large and small in turn": ([5, 1, 5, 1, 5], 2),
        "small ones in the middle": ([3, 1, 2, 3], 2),
        "a layer larger than half of all": ([1, 20, 1, 1], 3),
    }


def largest_part(layers, cores):
    """Return the least bytes that the fullest core can have."""

    def parts(limit):
        """Count the cores that are needed if none may have more than `limit`."""
        n, filled = 1, 0
        for size in layers:
            if filled + size > limit:
                n, filled = n + 1, 0
            filled += size
        return n

    too_low, enough = max(layers) - 1, sum(layers)
    while enough - too_low > 1:
        middle = (too_low + enough) // 2
        if parts(middle) > cores:
            too_low = middle
        else:
            enough = middle
    return enough


def same_number(layers, cores):
    cuts = [i * len(layers) // cores for i in range(cores + 1)]
    return max(sum(layers[a:b]) for a, b in pairwise(cuts))


def filled_to_the_mean(layers, cores):
    """Give each core layers until it has its share, the last core the rest."""
    share, parts = sum(layers) / cores, [0]
    for size in layers:
        if parts[-1] >= share and len(parts) < cores:
            parts.append(0)
        parts[-1] += size
    return max(parts)


def smallest_pairs(layers, cores):
    """Join the two neighbours that are smallest together, as long as there are too many parts."""
    parts = list(layers)
    while len(parts) > cores:
        pairs = [a + b for a, b in pairwise(parts)]
        i = pairs.index(min(pairs))
        parts[i : i + 2] = [pairs[i]]
    return max(parts)


def searched(layers, cores, least=max, first=1, full=0, lost=False):
    """Return the least limit by the count of cores, with a place for each mistake."""

    def parts(limit):
        n, filled = first, 0
        for size in layers:
            if filled + size > limit - full:
                n, filled = n + 1, 0 if lost else size
            else:
                filled += size
        return n

    low, high = least(layers), sum(layers)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if parts(middle) <= cores else (middle + 1, high)
    return low


def in_any_order(layers, cores):
    parts = [0] * cores
    for size in sorted(layers, reverse=True):
        parts[parts.index(min(parts))] += size
    return max(parts)


MEAN = "that is the mean: a layer cannot be cut, so the fullest core may have more"

LARGEST = Exercise(
    name="largest_part",
    engine=schedule.largest_part,
    cases=layer_cases,
    mistakes=(
        Mistake(
            same_number,
            "you give each core the same number of layers: count their bytes, the last one may be large",
        ),
        *(Mistake(mean, MEAN) for mean in (lambda a, n: sum(a) / n, lambda a, n: -(-sum(a) // n))),
        *(
            Mistake(bound, "that is a lower bound, the mean or the largest layer: it need not be reached")
            for bound in (
                lambda layers, cores: max(max(layers), sum(layers) / cores),
                lambda layers, cores: max(max(layers), -(-sum(layers) // cores)),
            )
        ),
        Mistake(
            in_any_order,
            "you put layers on cores in any order: a core takes layers that follow each other, or a row "
            "would go to and fro",
        ),
        Mistake(
            filled_to_the_mean,
            "you fill each core up to its share before the next begins: the last one that still fits may be "
            "one too many. Ask what is the least limit with which so many cores are enough",
        ),
        Mistake(
            smallest_pairs,
            "you join the smallest neighbours: two such pairs side by side can be a bad cut. Ask what is the "
            "least limit with which so many cores are enough",
        ),
        Mistake(
            partial(searched, least=lambda layers: 0),
            "your limit goes below the largest layer, which then fits on no core: begin with max(layers)",
        ),
        Mistake(
            partial(searched, first=0),
            "one core too few: the first one is there before any limit is reached, so begin to count with 1",
        ),
        Mistake(
            partial(searched, lost=True),
            "a layer is lost: the one that no longer fits is the first on the next core",
        ),
        Mistake(
            partial(searched, full=1),
            "a core may have as many bytes as the limit: begin the next one with >, not >=",
        ),
        Mistake(lambda layers, cores: max(layers), "that is the largest layer: a core has several"),
        Mistake(lambda layers, cores: sum(layers), "that is all of it: share it among the cores"),
    ),
    hints=(
        "Turn the question round: if no core may have more than `limit` bytes, how many cores are needed? "
        "Fill one after the other.",
        "The limit lies between the largest layer and the sum of all. Try the middle, and go on in the half "
        "where it must be: one byte after the other would be millions of tries.",
    ),
    solution=largest_part,
    whole=True,
)


# speed_up: alone, shared, waits, wait, cores -> factor


def amdahl_cases():
    return {
        "nothing alone": (0.0, 8.0, 0, 0.0, 4),
        "a tenth alone": (1.0, 9.0, 0, 0.0, 4),
        "with waits": (0.5, 8.0, 150, 0.002, 4),
        "waits eat it up": (0.0, 1.0, 1000, 0.01, 16),
        "one core": (1.0, 9.0, 150, 0.002, 1),
        "many cores": (1.0, 9.0, 150, 0.001, 1000),
    }


def speed_up(alone, shared, waits, wait, cores):
    """Return how many times as fast so many cores are as one."""
    together = alone + shared / cores
    if cores > 1:
        together += waits * wait
    return (alone + shared) / together


SPEED_UP = Exercise(
    name="speed_up",
    engine=schedule.speed_up,
    cases=amdahl_cases,
    mistakes=(
        Mistake(
            lambda alone, shared, waits, wait, cores: (alone + shared) / (alone + shared / cores),
            "nobody waits: behind each stage all wait for the last one, which takes `wait` seconds each time",
        ),
        Mistake(
            lambda alone, shared, waits, wait, cores: (
                (alone + shared) / (alone + shared / cores + waits * wait)
            ),
            "your one core waits for itself: alone, there is nobody to wait for",
        ),
        Mistake(
            lambda alone, shared, waits, wait, cores: (
                (alone + shared) / ((alone + shared) / cores + (waits * wait if cores > 1 else 0))
            ),
            "you share everything: what one core does alone takes as long as before",
        ),
        Mistake(
            lambda alone, shared, waits, wait, cores: (
                (alone + shared) / (alone + (shared + (waits * wait if cores > 1 else 0)) / cores)
            ),
            "you share the waiting: all wait at the same time, so more cores do not shorten it",
        ),
        Mistake(
            lambda alone, shared, waits, wait, cores: (
                1 / schedule.speed_up(alone, shared, waits, wait, cores)
            ),
            "your fraction is upside down: the time of one core over that of all",
        ),
        Mistake(
            lambda alone, shared, waits, wait, cores: (
                (alone + shared) / (alone + shared / cores + (wait if cores > 1 else 0))
            ),
            "you wait once: there are `waits` of them",
        ),
        Mistake(
            lambda alone, shared, waits, wait, cores: 1 / (alone + (1 - alone) / cores),
            "that is Amdahl's law for shares: alone and shared are seconds, and so is their sum",
        ),
        Mistake(
            lambda alone, shared, waits, wait, cores: (
                (alone + shared) / schedule.speed_up(alone, shared, waits, wait, cores)
            ),
            "that is the time of so many cores: wanted is how often it goes into that of one",
        ),
        Mistake(
            lambda alone, shared, waits, wait, cores: (
                (alone + shared + waits * wait) / (alone + shared / cores + waits * wait)
            ),
            "your one core waits as all do: alone, there is nobody to wait for",
        ),
        *(
            Mistake(
                lambda alone, shared, waits, wait, cores, more=more: (
                    (alone + shared)
                    / (alone + shared / cores + (waits * wait * (cores - more) if cores > 1 else 0))
                ),
                "you multiply the waiting by the cores: all wait at the same time",
            )
            for more in (0, 1)
        ),
        Mistake(
            lambda alone, shared, waits, wait, cores: (
                shared / (alone + shared / cores + (waits * wait if cores > 1 else 0))
            ),
            "one core does both parts: its time is alone + shared",
        ),
        Mistake(
            lambda alone, shared, waits, wait, cores: max(
                1, schedule.speed_up(alone, shared, waits, wait, cores)
            ),
            "below 1 it is slower than one core, and that can be: leave it as it is",
        ),
    ),
    hints=(
        "What does one core take? It does both parts, and waits for nobody.",
        "Together: the part alone as before, the shared part divided, and waits * wait if there is more than "
        "one core.",
    ),
    solution=speed_up,
    tolerance=1e-12,
)


# tokens_at_most: bytes, one core, all cores, cores -> tokens a second


def memory_cases():
    return {
        "one core": (5e8, 1e10, 2.5e10, 1),
        "two": (5e8, 1e10, 2.5e10, 2),
        "three, and memory gives no more": (5e8, 1e10, 2.5e10, 3),
        "sixteen": (5e8, 1e10, 2.5e10, 16),
        "a small model": (1e7, 1.2e10, 4e10, 2),
        "no whole number": (6e8, 1e10, 2.5e10, 2),
    }


def tokens_at_most(n_bytes, one_core, all_cores, cores):
    """Return the tokens a second that memory allows."""
    bandwidth = min(cores * one_core, all_cores)
    return bandwidth / n_bytes


TOKENS = Exercise(
    name="tokens_at_most",
    engine=schedule.tokens_at_most,
    cases=memory_cases,
    mistakes=(
        Mistake(
            lambda n_bytes, one_core, all_cores, cores: cores * one_core / n_bytes,
            "your cores read more than memory gives: from some number on, more of them bring nothing",
        ),
        Mistake(
            lambda n_bytes, one_core, all_cores, cores: all_cores / n_bytes,
            "one core alone cannot read as fast as all together",
        ),
        Mistake(
            lambda n_bytes, one_core, all_cores, cores: min(one_core, all_cores) / n_bytes,
            "you count one core, however many there are",
        ),
        Mistake(
            lambda n_bytes, one_core, all_cores, cores: min(cores * one_core, all_cores),
            "that is bytes a second: how many tokens do they make?",
        ),
        Mistake(
            lambda n_bytes, one_core, all_cores, cores: max(cores * one_core, all_cores) / n_bytes,
            "you take the larger of the two: both are limits, so the smaller holds",
        ),
        Mistake(
            lambda n_bytes, one_core, all_cores, cores: n_bytes / min(cores * one_core, all_cores),
            "that is seconds for a token: wanted are tokens a second",
        ),
        Mistake(
            lambda n_bytes, one_core, all_cores, cores: min(cores * one_core, all_cores) // n_bytes,
            "you cut off what stands behind the point: / divides, // only in whole numbers",
        ),
        Mistake(
            lambda n_bytes, one_core, all_cores, cores: (one_core if cores == 1 else all_cores) / n_bytes,
            "two cores need not read as fast as all: cores * one_core, up to all_cores",
        ),
        Mistake(
            lambda n_bytes, one_core, all_cores, cores: min(one_core, all_cores / cores) / n_bytes,
            "that is what each core reads: the token is read by all together",
        ),
    ),
    hints=(
        "How many bytes a second come in, with so many cores? Two limits hold at once.",
        "min(cores * one_core, all_cores), over the bytes of a token.",
    ),
    solution=tokens_at_most,
    tolerance=1e-12,
)

EXERCISES = [FINISH, BUSY, LARGEST, SPEED_UP, TOKENS]
