"""What learners write in lesson 22, for test_check_learners.py, and what is the lesson's own."""

from collections import Counter
from operator import gt

import numpy as np

from blocks2tokens.course.lessons.where_the_time_goes import exercises as lesson

NAMES = {e.name: e for e in lesson.EXERCISES}

# bytes_moved, in a learner's way: a list of (reads, writes), summed


def moved(weights, bits, in_byte=8, zeroes=True, reads=True, writes=True, blocks=True, copied=2, rest=True):
    block = bits / in_byte if blocks else 0
    steps = [(0, 4), (block, 4), (0, 4), (4 * (copied - 1), 4), (4, 0)] if rest else [(block, 0)]
    if not zeroes:
        steps = [step for step in steps if step[0]]
    return sum(weights * (reads * read + writes * written) for read, written in steps)


# self_times, in a learner's way: a walk with a stack


def times(stage, own=True, below=False, adds=True, deep=99, leaves=False):
    found, waiting = Counter(), [(stage, 0)]
    while waiting:
        current, depth = waiting.pop()
        seconds = current.seconds
        if own:
            seconds -= sum(part.seconds for part in current.stages.values())
        if below:
            seconds -= sum(all_below(part) for part in current.stages.values())
        if not leaves or not current.stages:
            found[current.name] = seconds + (found[current.name] if adds else 0)
        if depth < deep:
            waiting += [(part, depth + 1) for part in reversed(current.stages.values())]
    return dict(found)


def times_written_last(stage):
    found = Counter()
    for part in stage.stages.values():
        found.update(times_written_last(part))
    found[stage.name] = stage.self_seconds
    return dict(found)


def times_less_one(stage):
    own = stage.seconds
    for part in stage.stages.values():
        own = stage.seconds - part.seconds
    found = Counter({stage.name: own})
    for part in stage.stages.values():
        found.update(times_less_one(part))
    return dict(found)


def times_taken_off(stage):
    """Take the seconds off the stage itself."""
    for part in stage.stages.values():
        stage.seconds -= part.seconds
    found = Counter({stage.name: stage.seconds})
    for part in stage.stages.values():
        found.update(times_taken_off(part))
    return dict(found)


def all_below(stage):
    return sum(part.seconds + all_below(part) for part in stage.stages.values())


# amdahl, in a learner's way: a second of work, before and after


def speedup(share, factor, shrinks=True, rest=True, swapped=False):
    if swapped:
        share = 1 - share
    before = 10.0
    part, others = before * share, before * (1 - share)
    after = (part / factor if shrinks else 0) + (others if rest else 0)
    return before / after if after else float("inf")


# lru_hit_rate, in a learner's way: a clock, and for each name when it was used


def hit_rate(
    accesses,
    sizes,
    capacity,
    refresh=True,
    oldest=True,
    drops=99,
    counts=False,
    refuses=gt,
    full=gt,
    result="rate",
):
    used, hits = {}, 0
    for now, name in enumerate(accesses):
        if name in used:
            hits += 1
            if refresh:
                used[name] = now
            continue
        size = {n: 1 if counts else sizes[n] for n in sizes}
        if refuses(size[name], capacity):
            continue
        for _ in range(drops):
            if not used or not full(sum(size[n] for n in used) + size[name], capacity):
                break
            del used[(min if oldest else max)(used, key=used.get)]
        used[name] = now
    misses = len(accesses) - hits
    rates = {"rate": hits / len(accesses), "hits": hits, "misses": misses / len(accesses)}
    return (rates | {"odds": hits / misses})[result]


def hit_rate_keeping(accesses, sizes, capacity):
    inside, hits = set(), 0
    for name in accesses:
        hits += name in inside
        if name not in inside and sum(sizes[n] for n in inside) + sizes[name] <= capacity:
            inside.add(name)
    return hits / len(accesses)


def hit_rate_without_limit(accesses, sizes, capacity):
    return sum(name in accesses[:i] for i, name in enumerate(accesses)) / len(accesses)


def hit_rate_taking_room_again(accesses, sizes, capacity):
    kept, used, hits = [], 0, 0
    for name in accesses:
        hits += name in kept
        if sizes[name] > capacity:
            continue
        while name not in kept and used + sizes[name] > capacity:
            used -= sizes[kept.pop(0)]
        kept.append(name)
        used += sizes[name]
    return hits / len(accesses)


def hit_rate_emptying(accesses, sizes, capacity):
    used, hits = {}, 0
    for name in accesses:
        if name in used:
            hits += 1
        elif sizes[name] <= capacity:
            if sum(used.values()) + sizes[name] > capacity:
                used.clear()
            used[name] = sizes[name]
    return hits / len(accesses)


def changed(function, **arguments):
    def mutant(*given):
        return function(*given, **arguments)

    return mutant


def at_least(size, capacity):
    return size >= capacity


def in_float32(function):
    return lambda *given: np.float32(function(*given))


def queue(accesses, sizes, capacity):
    kept, hits = [], 0
    for name in accesses:
        if name in kept:
            hits += 1
            continue
        while kept and sum(sizes[k] for k in kept) + sizes[name] > capacity:
            kept = kept[1:]
        if sizes[name] <= capacity:
            kept = [*kept, name]
    return hits / len(accesses)


WRONG = [
    ("lru_hit_rate", queue, "two things: a hit does not make its matrix the latest"),
    ("bytes_moved", lambda weights, bits: int(moved(weights, bits)), "you round down"),
    ("bytes_moved", lambda weights, bits: moved(weights, bits // 8 * 8), "bits // 8 is a whole number"),
    ("self_times", times_written_last, "replaces that of one of its name inside it"),
    ("self_times", times_less_one, "only the last of the stages"),
    ("self_times", times_taken_off, "your answers are right, but you wrote into stage"),
    ("amdahl", lambda share, factor: speedup(share, factor) - 1, "this is what is gained"),
    (
        "amdahl",
        lambda share, factor: factor / (share + factor * (1 - share)),
        "right until factor is infinite",
    ),
    ("lru_hit_rate", changed(hit_rate, full=at_least), "what fills the cache exactly has room"),
    ("lru_hit_rate", changed(hit_rate, refuses=at_least), "what fills the cache exactly has room"),
    (
        "lru_hit_rate",
        changed(hit_rate, refuses=at_least, full=at_least),
        "what fills the cache exactly has room",
    ),
    ("lru_hit_rate", hit_rate_taking_room_again, "a hit takes room again"),
    ("lru_hit_rate", hit_rate_emptying, "you empty the whole cache"),
    ("lru_hit_rate", changed(hit_rate, result="odds"), "this is hits over misses"),
    ("bytes_moved", changed(moved, zeroes=False), "you leave out the zeroes"),
    ("bytes_moved", changed(moved, writes=False), "you count reads only"),
    ("bytes_moved", changed(moved, reads=False), "you count writes only"),
    ("bytes_moved", changed(moved, in_byte=1), "you take bits for bytes"),
    ("bytes_moved", changed(moved, blocks=False), "the blocks are missing"),
    ("bytes_moved", changed(moved, copied=1), "one float is missing"),
    ("bytes_moved", changed(moved, rest=False), "what reading the blocks takes"),
    ("self_times", changed(times, own=False), "you count time twice"),
    ("self_times", changed(times, below=True), "you take off too much"),
    ("self_times", changed(times, adds=False), "a name in two places"),
    ("self_times", changed(times, deep=1), "you stop one level down"),
    ("self_times", changed(times, leaves=True), "only stages with nothing in them count"),
    ("amdahl", changed(speedup, shrinks=False), "you let the share vanish"),
    ("amdahl", lambda share, factor: 1 / speedup(share, factor), "this is the time that is left"),
    ("amdahl", lambda share, factor: (1 - share) + share * factor, "you add up factors"),
    ("amdahl", changed(speedup, rest=False), "you look at the share alone"),
    ("amdahl", changed(speedup, swapped=True), "you made the rest faster"),
    ("lru_hit_rate", changed(hit_rate, refresh=False), "you forget to refresh"),
    ("lru_hit_rate", changed(hit_rate, oldest=False), "you drop the latest used"),
    ("lru_hit_rate", hit_rate_keeping, "you never drop anything"),
    ("lru_hit_rate", hit_rate_without_limit, "yours has room for everything"),
    ("lru_hit_rate", changed(hit_rate, counts=True), "you count things"),
    ("lru_hit_rate", changed(hit_rate, drops=1), "you drop one at most"),
    ("lru_hit_rate", changed(hit_rate, refuses=lambda size, capacity: False), "larger than the whole cache"),
    ("lru_hit_rate", changed(hit_rate, result="hits"), "the number of hits"),
    ("lru_hit_rate", changed(hit_rate, result="misses"), "the share of misses"),
]
RIGHT = {
    "bytes_moved": [moved, in_float32(moved)],
    "self_times": [times],
    "amdahl": [speedup, in_float32(speedup)],
    "lru_hit_rate": [hit_rate, in_float32(hit_rate)],
}


def test_a_dict_of_another_kind_is_a_dict():
    exercise = NAMES["self_times"]
    assert exercise.judge(lambda stage: Counter(lesson.self_times(stage))).kind == "right"
    assert exercise.judge(lambda stage: Counter(lesson.self_times(stage), more=1.0)).kind == "wrong"


def emptied(stage):
    stage.stages.clear()
    return {stage.name: stage.seconds}


def times_in_one_dict(stage, found={}):  # noqa: B006 what a learner writes
    found[stage.name] = found.get(stage.name, 0) + stage.self_seconds
    for part in stage.stages.values():
        times_in_one_dict(part, found)
    return found


def test_a_stage_that_is_emptied_is_not_what_answers_are_measured_by():
    assert NAMES["self_times"].judge(emptied).kind == "wrong"


def test_a_dict_that_is_made_once_is_named():
    assert "one and the same dict at each call" in NAMES["self_times"].judge(times_in_one_dict).message
