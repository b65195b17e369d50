"""Lesson 22, where the time goes: bytes, bounds, a profile and a cache.

bytes_moved     weights, bits                -> bytes that the report's product moves for one row
self_times      a stage and those in it      -> {name: seconds of its own}
amdahl          share, factor                -> how many times faster the whole gets
lru_hit_rate    accesses, sizes, capacity    -> share of accesses that the cache answers
"""

from operator import ge, gt

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.where_the_time_goes import profiler, slow_engine
from blocks2tokens.course.lessons.where_the_time_goes.profiler import Stage

# bytes_moved: weights, bits -> bytes


def moved_cases():
    return {
        "1,000 weights of 4.5 bits": (1_000, 4.5),
        "a matrix of 5120 x 13824, Q6_K": (5120 * 13824, 6.5625),
        "one weight of 8 bits": (1, 8),
    }


def moved(for_each):
    """Return a function that takes so many bytes for each weight, given its bits."""
    return lambda weights, bits: weights * for_each(bits)


BYTES = Exercise(
    name="bytes_moved",
    engine=slow_engine.bytes_moved,
    cases=moved_cases,
    mistakes=(
        Mistake(
            moved(lambda bits: bits / 8 + 16), "you leave out the zeroes: B and Bt are filled with them first"
        ),
        Mistake(
            moved(lambda bits: bits / 8 + 8),
            "you count reads only: what is written crosses the memory bus as well",
        ),
        Mistake(moved(lambda bits: 16.0), "you count writes only: blocks, B and the rows are read as well"),
        Mistake(moved(lambda bits: bits + 24), "you take bits for bytes: a byte has eight"),
        Mistake(
            lambda weights, bits: int(weights * (bits / 8 + 24)),
            "you round down: a few weights need not fill whole bytes, and of one this would leave nearly "
            "nothing. Keep the fraction, / instead of //",
        ),
        Mistake(
            moved(lambda bits: bits // 8 + 24),
            "bits // 8 is a whole number: 4.5 bits are 0.5625 bytes, bits / 8",
        ),
        Mistake(moved(lambda bits: 24.0), "the blocks are missing: they are read, bits / 8 bytes a weight"),
        Mistake(
            moved(lambda bits: bits / 8 + 20),
            "one float is missing: the copy reads B and writes Bt, the dot products read once more",
        ),
        Mistake(
            moved(lambda bits: bits / 8), "this is what reading the blocks takes: now B and Bt, 4 bytes each"
        ),
    ),
    hints=(
        "Go down the table's two columns; everything but the blocks is float32.",
        "For each weight: how many of the table's entries are a float32 of it, and what do the blocks take?",
    ),
    tolerance=1e-6,
)


# self_times: Stage -> {name: seconds}


def tree(name, seconds, *parts):
    return Stage(name, float(seconds), stages={part.name: part for part in parts})


def stage_cases():
    rope = tree("rope", 2, tree("allocations", 1))
    matmul = tree("matmul", 60, tree("transpose", 45), tree("dot", 8), tree("allocations", 4))
    feed_forward = tree("matmul", 30, tree("transpose", 20), tree("dot", 6))
    return {
        "token 5, nothing in it": (tree("token", 5),),
        "token 16, in it rope 4 and dot 8": (tree("token", 16, tree("rope", 4), tree("dot", 8)),),
        "three deep": (tree("token", 64, tree("attention block", 63, matmul)),),
        "token 32, in it rope 16, in it token 4": (tree("token", 32, tree("rope", 16, tree("token", 4))),),
        "one name in two places": (
            tree(
                "token",
                128,
                tree("attention block", 70, matmul, rope),
                tree("feed-forward", 32, feed_forward),
            ),
        ),
    }


def self_times(stage):
    """Return {name: self seconds} of a stage and all stages in it."""
    times = {stage.name: stage.seconds - sum(part.seconds for part in stage.stages.values())}
    for part in stage.stages.values():
        for name, seconds in self_times(part).items():
            times[name] = times.get(name, 0.0) + seconds
    return times


def total_times(stage):
    times = {stage.name: stage.seconds}
    for part in stage.stages.values():
        for name, seconds in total_times(part).items():
            times[name] = times.get(name, 0.0) + seconds
    return times


def descendants(stage):
    return sum(part.seconds + descendants(part) for part in stage.stages.values())


def less_all_below(stage):
    times = {stage.name: stage.seconds - descendants(stage)}
    for part in stage.stages.values():
        for name, seconds in less_all_below(part).items():
            times[name] = times.get(name, 0.0) + seconds
    return times


def last_of_a_name(stage):
    times = {stage.name: stage.self_seconds}
    for part in stage.stages.values():
        times |= last_of_a_name(part)
    return times


def own_afterwards(stage):
    times = {}
    for part in stage.stages.values():
        for name, seconds in own_afterwards(part).items():
            times[name] = times.get(name, 0.0) + seconds
    return times | {stage.name: stage.self_seconds}


def less_the_last(stage):
    *_, last = (0.0, *(part.seconds for part in stage.stages.values()))
    times = {stage.name: stage.seconds - last}
    for part in stage.stages.values():
        for name, seconds in less_the_last(part).items():
            times[name] = times.get(name, 0.0) + seconds
    return times


def outermost_only(stage):
    return {stage.name: stage.self_seconds} | {p.name: p.self_seconds for p in stage.stages.values()}


def leaves_only(stage):
    times = {} if stage.stages else {stage.name: stage.seconds}
    for part in stage.stages.values():
        for name, seconds in leaves_only(part).items():
            times[name] = times.get(name, 0.0) + seconds
    return times


SELF = Exercise(
    name="self_times",
    engine=profiler.self_times,
    cases=stage_cases,
    mistakes=(
        Mistake(
            total_times,
            "you count time twice: stage.seconds holds the seconds of the stages in it, so take those off",
        ),
        Mistake(
            less_all_below,
            "you take off too much: the children's seconds hold the grandchildren's already",
        ),
        Mistake(
            last_of_a_name,
            "a name in two places keeps only one of its times: add them up",
        ),
        Mistake(
            own_afterwards,
            "a stage's own time replaces that of one of its name inside it: add to what is there",
        ),
        Mistake(less_the_last, "only the last of the stages in it is taken off: take off all of them"),
        Mistake(outermost_only, "you stop one level down: stages have stages that have stages"),
        Mistake(leaves_only, "only stages with nothing in them count: the others have time of their own too"),
    ),
    hints=(
        "A stage's own time: stage.seconds less the sum of part.seconds for part in stage.stages.values().",
        "Call the function for each part, and add its times to yours by name: times.get(name, 0) + seconds.",
    ),
    solution=self_times,
)


# amdahl: share, factor -> factor of the whole


def amdahl_cases():
    return {
        "half, twice as fast": (0.5, 2.0),
        "5 %, ten times": (0.05, 10.0),
        "95 %, ten times": (0.95, 10.0),
        "75 %, gone": (0.75, float("inf")),
        "all of it, three times": (1.0, 3.0),
        "nothing": (0.0, 100.0),
        "30 %, made slower": (0.3, 0.5),
    }


AMDAHL = Exercise(
    name="amdahl",
    engine=profiler.amdahl,
    cases=amdahl_cases,
    mistakes=(
        Mistake(
            lambda share, factor: 1 / (1 - share) if share < 1 else float("inf"),
            "you let the share vanish: it still takes share / factor",
        ),
        Mistake(
            lambda share, factor: 1 - share + share / factor,
            "this is the time that is left: how many times faster is one over it",
        ),
        Mistake(
            lambda share, factor: 1 / (1 - share + share / factor) - 1,
            "this is what is gained: how many times faster is 1 for what stays as it was",
        ),
        Mistake(
            lambda share, factor: factor / (factor * (1 - share) + share),
            "right until factor is infinite: inf / inf is no number. Divide share by factor, and that is 0",
        ),
        Mistake(
            lambda share, factor: 1 - share + share * factor,
            "you add up factors: times add up, 1 - share and share / factor; then turn the sum over",
        ),
        Mistake(
            lambda share, factor: factor / share if share else float("inf"),
            "you look at the share alone: the rest, 1 - share, takes as long as before",
        ),
        Mistake(
            lambda share, factor: 1 / (share + (1 - share) / factor),
            "you made the rest faster, and left the share as it was",
        ),
    ),
    hints=(
        "Say the whole took 1. How long does the rest take now, and how long the part that got faster?",
        "1 - share, and share / factor. The old time over the new one is the answer.",
    ),
    tolerance=1e-6,
)


# lru_hit_rate: accesses [names], sizes {name: bytes}, capacity -> share


def cache_cases():
    rounds = ["q", "k", "ffn"] * 4
    favourite = ["q", "k", "q", "v", "q", "ffn", "q", "k", "q", "v", "k"]
    equal = dict.fromkeys(["q", "k", "v", "ffn", "output"], 4)
    uneven = {"q": 3, "k": 1, "v": 2, "ffn": 6, "output": 20}
    return {
        "all of it fits": (rounds, equal, 12),
        "in order, one too many": (rounds, equal, 11),
        "one that is used again and again": (favourite, dict.fromkeys(equal, 1), 2),
        "uneven sizes": (["k", "v", "k", "ffn", "v", "k", "q", "k", "v", "ffn", "k"], uneven, 7),
        "one that never fits": (["q", "k", "output", "q", "k", "output", "q"], uneven, 10),
        "two must go for one": (["q", "v", "k", "ffn", "k", "q", "v", "k", "q"], uneven, 8),
        "the same twice, then a third": (["v", "q", "q", "k", "v"], equal, 12),
        "one that just fits": (["ffn", "ffn", "k", "k", "ffn"], uneven, 6),
    }


def simulated(
    victim,
    refresh=True,
    size=lambda sizes, name: sizes[name],
    most=None,
    too_large=gt,
    full=gt,
    takes_again=False,
):
    """Return a cache's simulator with a place for each mistake.

    victim is the one that goes, of the kept; too_large and full compare bytes with capacity; takes_again: a
    hit takes room.
    """

    def hit_rate(accesses, sizes, capacity):
        kept, hits = [], 0
        for name in accesses:
            if name in kept:
                hits += 1
                if refresh:
                    if not takes_again:
                        kept.remove(name)
                    kept.append(name)
            elif not too_large(size(sizes, name), capacity):
                dropped = 0
                while kept and full(sum(size(sizes, k) for k in kept) + size(sizes, name), capacity):
                    if dropped == most:
                        break
                    kept.pop(victim)
                    dropped += 1
                kept.append(name)
        return hits / len(accesses)

    return hit_rate


def first_in_first_out(accesses, sizes, capacity):
    """Drop what came first, everything if something too large comes."""
    kept, hits = [], 0
    for name in accesses:
        if name in kept:
            hits += 1
        else:
            kept.append(name)
            while sum(sizes[k] for k in kept) > capacity:
                kept.pop(0)
    return hits / len(accesses)


def never_full(accesses, sizes, capacity):
    return 1 - len(set(accesses)) / len(accesses)


def keeps_what_does_not_fit(accesses, sizes, capacity):
    kept, hits = [], 0
    for name in accesses:
        if name in kept:
            hits += 1
            kept.remove(name)
        while kept and sum(sizes[k] for k in kept) + sizes[name] > capacity:
            kept.pop(0)
        kept.append(name)
    return hits / len(accesses)


def number_of_hits(accesses, sizes, capacity):
    return slow_engine.lru_hit_rate(accesses, sizes, capacity) * len(accesses)


def misses(accesses, sizes, capacity):
    return 1 - slow_engine.lru_hit_rate(accesses, sizes, capacity)


def hits_over_misses(accesses, sizes, capacity):
    share = slow_engine.lru_hit_rate(accesses, sizes, capacity)
    return share / (1 - share)


def emptied(accesses, sizes, capacity):
    kept, hits = [], 0
    for name in accesses:
        hits += name in kept
        if name not in kept and sizes[name] <= capacity:
            is_full = sum(sizes[k] for k in kept) + sizes[name] > capacity
            kept = [name] if is_full else [*kept, name]
    return hits / len(accesses)


EXACTLY_FULL = "what fills the cache exactly has room: it is too much only when it is more than capacity, >"

CACHE = Exercise(
    name="lru_hit_rate",
    engine=slow_engine.lru_hit_rate,
    cases=cache_cases,
    mistakes=(
        Mistake(
            simulated(0, refresh=False),
            "you forget to refresh: a hit makes it the latest used. Yours drops what came first (FIFO)",
        ),
        Mistake(
            first_in_first_out,
            "two things: a hit does not make its matrix the latest used, so yours drops what came first "
            "(FIFO); and what is larger than the whole cache drives all others out",
        ),
        Mistake(simulated(-1), "you drop the latest used (MRU): the one used the longest ago must go"),
        Mistake(
            slow_engine.keep_first_hit_rate,
            "you never drop anything: when there is no room, the one used the longest ago goes",
        ),
        Mistake(never_full, "yours has room for everything: compare with capacity"),
        Mistake(
            simulated(0, size=lambda sizes, name: 1),
            "you count things: capacity is in bytes, and sizes differ",
        ),
        Mistake(simulated(0, most=1), "you drop one at most: go on until the new one fits"),
        Mistake(
            keeps_what_does_not_fit,
            "what is larger than the whole cache is not kept, and nothing has to go for it",
        ),
        Mistake(simulated(0, full=ge), EXACTLY_FULL),
        Mistake(simulated(0, too_large=ge), EXACTLY_FULL),
        Mistake(simulated(0, too_large=ge, full=ge), EXACTLY_FULL),
        Mistake(
            simulated(0, takes_again=True),
            "a hit takes room again with you: take its name out before you append it at the end",
        ),
        Mistake(
            emptied,
            "you empty the whole cache: only those used the longest ago go, until there is room",
        ),
        Mistake(hits_over_misses, "this is hits over misses: divide by all accesses"),
        Mistake(number_of_hits, "this is the number of hits: divide by len(accesses)"),
        Mistake(misses, "this is the share of misses"),
    ),
    hints=(
        "Keep a list of names, from the longest ago to the latest. A hit moves its name to the end.",
        "On a miss, while the bytes used and the new size are more than capacity, drop kept[0]; then append.",
    ),
    tolerance=1e-6,
)

EXERCISES = [BYTES, SELF, AMDAHL, CACHE]
