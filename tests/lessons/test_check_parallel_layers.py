"""What learners write in lesson 30, for test_check_learners.py, and what is the lesson's own."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from blocks2tokens.course.lessons.parallel_layers import cores, schedule
from blocks2tokens.course.lessons.parallel_layers import exercises as lesson

# stage_ends, in a learner's way: a list for each stage, filled from the left


def timetable(seconds, streams, later=max, arrives=True, free=True, when="end"):
    rows, before = [], [0.0] * streams
    for takes in seconds:
        row, mine = [], 0.0
        for stream in range(streams):
            begin = later(before[stream] if arrives else 0.0, mine if free else 0.0)
            mine = begin + takes
            row.append(begin if when == "start" else mine)
        rows.append(row)
        before = [begin + takes for begin in row] if when == "start" else row
    return rows


def timetable_as_array(seconds, streams):
    return np.array(timetable(seconds, streams))


def in_lockstep(seconds, streams):
    tick = max(seconds)
    return [[tick * (s + m + 1) for m in range(streams)] for s in range(len(seconds))]


def at_one_pace(seconds, streams):
    first = [sum(seconds[: s + 1]) for s in range(len(seconds))]
    return [[begin + m * max(seconds) for m in range(streams)] for begin in first]


def turned(seconds, streams):
    return np.transpose(timetable(seconds, streams))


def whole(seconds, streams):
    table = np.zeros((len(seconds) + 1, streams + 1), dtype=np.int64)
    for s, takes in enumerate(seconds, start=1):
        for m in range(1, streams + 1):
            table[s, m] = max(table[s - 1, m], table[s, m - 1]) + takes
    return table[1:, 1:]


def in_a_row(seconds, streams):
    now, rows = 0.0, [[] for _ in seconds]
    for _ in range(streams):
        for row, takes in zip(rows, seconds, strict=True):
            now += takes
            row.append(now)
    return rows


def padded(seconds, streams):
    return [[0.0] * (streams + 1), *([0.0, *row] for row in timetable(seconds, streams))]


# busy_share, in a learner's way: marked on a fine grid of time, or by formula


def idle_first(seconds, streams):
    done = np.array(timetable(seconds, streams))
    end, n = done[-1][-1], len(seconds)
    idle = sum(end - takes * streams for takes in seconds)
    return 1 - idle / (n * end)


def idle(seconds, streams):
    return 1 - idle_first(seconds, streams)


def idle_of_each(seconds, streams):
    end = timetable(seconds, streams)[-1][-1]
    return np.array([(end - takes * streams) / end for takes in seconds])


def until_its_last(seconds, streams):
    return sum(seconds) * streams / sum(row[-1] for row in timetable(seconds, streams))


def first_to_last(seconds, streams):
    rows = zip(timetable(seconds, streams), seconds, strict=True)
    return sum(seconds) * streams / sum(row[-1] - row[0] + takes for row, takes in rows)


def over_all_times(seconds, streams):
    return sum(seconds) * streams / np.sum(timetable(seconds, streams))


def busy_cores(seconds, streams):
    return sum(seconds) * streams / timetable(seconds, streams)[-1][-1]


def of_one_stream(seconds, streams):
    return idle_first(seconds, streams) / streams


def formula(seconds, streams):
    return streams / (len(seconds) + streams - 1)


def slowest_everywhere(seconds, streams):
    return max(seconds) * streams / timetable(seconds, streams)[-1][-1]


def time_over_work(seconds, streams):
    return 1 / idle_first(seconds, streams)


# largest_part, in a learner's way: every cut is tried


def every_cut(layers, cores):
    n, best = len(layers), sum(layers)
    for k in range(min(cores, n)):
        for cuts in combinations(range(1, n), k):
            ends = [0, *cuts, n]
            best = min(best, max(sum(layers[a:b]) for a, b in pairwise(ends)))
    return best


def equal_counts(layers, cores):
    parts = [layers[i * len(layers) // cores : (i + 1) * len(layers) // cores] for i in range(cores)]
    return max(sum(part) for part in parts)


def mean(layers, cores):
    return int(np.ceil(sum(layers) / cores))


def bound(layers, cores):
    return max(mean(layers, cores), *layers)


def any_order(layers, cores):
    filled = np.zeros(cores, int)
    for size in sorted(layers)[::-1]:
        filled[filled.argmin()] += size
    return int(filled.max())


def until_full(layers, cores):
    filled, core = [0] * cores, 0
    for size in layers:
        if filled[core] >= sum(layers) / cores and core < cores - 1:
            core += 1
        filled[core] += size
    return max(filled)


def joined(layers, cores):
    parts = np.array(layers)
    while len(parts) > cores:
        i = (parts[1:] + parts[:-1]).argmin()
        parts = np.concatenate([parts[:i], [parts[i] + parts[i + 1]], parts[i + 2 :]])
    return parts.max()


def by_limit(
    least=max,
    count=lambda parts: parts,
    first_of=lambda size: size,
    fits=lambda filled, limit: filled <= limit,
):
    """A learner's search, one limit after the other."""

    def largest_part(layers, cores):
        limit = least(layers)
        while limit < sum(layers):
            parts, filled = 1, 0
            for size in layers:
                if fits(filled + size, limit):
                    filled += size
                else:
                    parts, filled = parts + 1, first_of(size)
            if count(parts) <= cores:
                break
            limit += 1
        return limit

    return largest_part


# speed_up and tokens_at_most


def amdahl(alone, shared, waits, wait, cores, wait_alone=False, all_shared=False, once=False, divided=False):
    waiting = wait if once else waits * wait
    if cores == 1 and not wait_alone:
        waiting = 0
    if divided:
        waiting /= cores
    time = (alone + shared) / cores if all_shared else alone + shared / cores
    return (alone + shared) / (time + waiting)


def no_waits(alone, shared, waits, wait, cores):
    return amdahl(alone, shared, 0, wait, cores)


def waits_above_too(alone, shared, waits, wait, cores):
    return (alone + shared + waits * wait) / (alone + shared / cores + waits * wait)


def waits_by_cores(less):
    def speed_up(alone, shared, waits, wait, cores):
        return amdahl(alone, shared, waits * (cores - less), wait, cores)

    return speed_up


def slow_down(*arguments):
    return 1 / amdahl(*arguments)


def rate(n_bytes, one_core, all_cores, cores):
    together = one_core * cores
    if together > all_cores:
        together = all_cores
    return together / n_bytes


def changed(function, **arguments):
    def mutant(*given):
        return function(*given, **arguments)

    return mutant


WRONG = [
    ("stage_ends", changed(timetable, free=False), "your stages do several streams at once"),
    ("stage_ends", changed(timetable, arrives=False), "do not wait for the stage before"),
    ("stage_ends", changed(timetable, later=lambda a, b: a + b), "you wait for both, one after the other"),
    ("stage_ends", changed(timetable, later=min), "you begin when the first of the two is over"),
    ("stage_ends", changed(timetable, when="start"), "these are the times at which stages begin"),
    ("stage_ends", in_lockstep, "in step with the slowest"),
    ("stage_ends", turned, "rows and columns are exchanged"),
    ("stage_ends", at_one_pace, "keeps the pace of the slowest"),
    ("stage_ends", whole, "your array has integers"),
    ("stage_ends", in_a_row, "has left the last stage"),
    ("stage_ends", padded, "the row and the column of zeros"),
    ("stage_ends", lambda *given: timetable(*given)[-1], "the last stage alone"),
    ("busy_share", lambda *given: 1 - idle_of_each(*given), "the share of each stage"),
    ("busy_share", until_its_last, "leaves when its last stream is through"),
    ("busy_share", first_to_last, "comes with its first stream"),
    ("busy_share", over_all_times, "you add up times of day"),
    ("busy_share", lambda *given: 100 * idle_first(*given), "that is per cent"),
    ("busy_share", busy_cores, "that is how many stages are busy"),
    ("busy_share", idle, "this is the share of bubbles"),
    ("busy_share", of_one_stream, "you count the work of one stream"),
    ("busy_share", formula, "that is right where all stages take as long"),
    ("busy_share", slowest_everywhere, "as busy as the slowest"),
    ("busy_share", time_over_work, "upside down"),
    ("largest_part", joined, "you join the smallest neighbours"),
    ("largest_part", by_limit(lambda layers: 0), "goes below the largest layer"),
    ("largest_part", by_limit(count=lambda parts: parts - 1), "one core too few"),
    ("largest_part", by_limit(first_of=lambda size: 0), "a layer is lost"),
    ("largest_part", by_limit(fits=lambda filled, limit: filled < limit), "as the limit"),
    ("largest_part", equal_counts, "the same number of layers"),
    ("largest_part", mean, "that is the mean"),
    ("largest_part", lambda layers, cores: np.sum(layers) / cores, "that is the mean"),
    (
        "largest_part",
        lambda layers, cores: max(np.mean(layers) * len(layers) / cores, *layers),
        "lower bound",
    ),
    ("largest_part", bound, "that is a lower bound"),
    ("largest_part", any_order, "in any order"),
    ("largest_part", until_full, "you fill each core up to its share"),
    ("largest_part", lambda layers, cores: sorted(layers)[-1], "that is the largest layer"),
    ("largest_part", lambda layers, cores: int(np.sum(layers)), "that is all of it"),
    ("speed_up", no_waits, "nobody waits"),
    ("speed_up", changed(amdahl, wait_alone=True), "your one core waits for itself"),
    ("speed_up", changed(amdahl, all_shared=True), "you share everything"),
    ("speed_up", changed(amdahl, divided=True), "you share the waiting"),
    ("speed_up", slow_down, "upside down"),
    ("speed_up", changed(amdahl, once=True), "you wait once"),
    ("speed_up", lambda f, g, waits, wait, n: 1 / (f + (1 - f) / n), "Amdahl's law for shares"),
    ("speed_up", lambda f, g, *rest: (f + g) / amdahl(f, g, *rest), "that is the time of so many cores"),
    ("speed_up", waits_above_too, "your one core waits as all do"),
    ("speed_up", waits_by_cores(0), "you multiply the waiting"),
    ("speed_up", waits_by_cores(1), "you multiply the waiting"),
    ("speed_up", lambda f, g, *rest: g * amdahl(f, g, *rest) / (f + g), "its time is alone + shared"),
    ("speed_up", lambda *given: max(amdahl(*given), 1.0), "slower than one core"),
    ("tokens_at_most", lambda b, one, every, n: min(one, every) / b, "you count one core"),
    ("tokens_at_most", lambda b, *rest: b * rate(b, *rest), "that is bytes a second"),
    ("tokens_at_most", lambda b, one, every, n: n * one / b, "your cores read more than memory gives"),
    ("tokens_at_most", lambda b, one, every, n: every / b, "one core alone cannot read as fast"),
    ("tokens_at_most", lambda b, one, every, n: n * min(one, every) / b, "your cores read more"),
    ("tokens_at_most", lambda b, one, every, n: max(n * one, every) / b, "you take the larger of the two"),
    ("tokens_at_most", lambda *arguments: int(rate(*arguments)), "what stands behind the point"),
    ("tokens_at_most", lambda b, one, every, n: [every, one][n == 1] / b, "need not read as fast as all"),
    ("tokens_at_most", lambda b, one, every, n: rate(b, one, every, n) / n, "what each core reads"),
    ("tokens_at_most", lambda *arguments: 1 / rate(*arguments), "that is seconds for a token"),
]
RIGHT = {
    "stage_ends": [timetable, timetable_as_array],
    "busy_share": [idle_first],
    "largest_part": [every_cut, by_limit()],
    "speed_up": [amdahl],
    "tokens_at_most": [rate],
}


# The lesson's own parts


@pytest.mark.parametrize("streams", [1, 5])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_every_way_gives_the_same_numbers(stages, streams):
    weights = cores.random_layers(7, 48)
    x = np.random.default_rng(0).standard_normal((streams, 48), np.float32).clip(-1, 1)
    expected = x
    for layer in weights.astype(np.float64):
        expected = (expected @ layer.T).clip(-1, 1)
    for found in (
        cores.one_core(weights, x),
        cores.rows_over_cores(weights, x),
        cores.together(weights, x),
        cores.pipeline(weights, x, stages),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_trace_has_every_stage_with_every_stream_in_order():
    weights, trace = cores.random_layers(4, 32), []
    cores.pipeline(weights, np.ones((3, 32), np.float32), 2, trace)
    assert sorted(entry[:2] for entry in trace) == [(s, m) for s in range(2) for m in range(3)]
    for stage in range(2):
        own = [entry for entry in trace if entry[0] == stage]
        assert [entry[1] for entry in own] == [0, 1, 2]
        assert all(a[3] <= b[2] for a, b in pairwise(own))


def test_a_row_is_handed_over_to_both_kinds_of_worker():
    found = cores.hand_over(np.zeros(8, np.float32), 3)
    assert list(found) == ["a thread", "a process"] and all(seconds > 0 for seconds in found.values())


def test_the_pasted_solution_takes_no_long_time_for_real_layers():
    """Layers have millions of bytes: raising a limit byte by byte would take minutes."""
    tries, layers = [], [2_211_840] * 30 + [30_081_024]

    class Counted(list):
        def __iter__(self):
            tries.append(1)
            return super().__iter__()

    assert lesson.largest_part(Counted(layers), 2) == schedule.largest_part(layers, 2)
    assert len(tries) < 40


@pytest.mark.parametrize("label", lesson.layer_cases())
def test_the_best_cut_is_the_best_of_all(label):
    layers, n = lesson.layer_cases()[label]
    assert schedule.largest_part(layers, n) == every_cut(layers, n)
