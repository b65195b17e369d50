"""Lesson 24, memory: lifetimes, what is in use at one time, places in an arena and in a block, pages.

lifetimes      steps                  -> {buffer: (first step, last step)}
peak_bytes     lives, sizes           -> the most bytes in use in one step
first_fit      lives, sizes           -> {buffer: offset} in one arena
bump           sizes, alignment       -> offsets of things one behind the other, and the end
page_faults    stretches, page        -> pages that are touched
"""

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.memory import pages
from blocks2tokens.kernels import scratch
from blocks2tokens.model import arena

# lifetimes: steps -> {buffer: (first, last)}


def steps_cases():
    return {
        "three steps": ([("x", "h"), ("h", "q"), ("q", "x")],),
        "used once": ([("x",), ("x", "h"), ("x",)],),
        "a pause between": ([("a", "b"), ("b", "c"), ("c",), ("a", "d"), ("d",)],),
        "one step": ([("x", "h")],),
    }


def lifetimes(steps):
    """Return {buffer: (first, last)}."""
    lives = {}
    for step, names in enumerate(steps):
        for name in names:
            first = lives[name][0] if name in lives else step
            lives[name] = first, step
    return lives


def lived(change):
    """Return a function that changes each life: change(first, last, number of steps, number of uses)."""

    def wrong(steps):
        uses = {name: sum(name in names for names in steps) for names in steps for name in names}
        right = arena.lifetimes(steps).items()
        return {name: change(first, last, len(steps), uses[name]) for name, (first, last) in right}

    return wrong


LIFETIMES = Exercise(
    name="lifetimes",
    engine=arena.lifetimes,
    cases=steps_cases,
    mistakes=(
        Mistake(
            lived(lambda first, last, steps, uses: (last, last)),
            "you forget the first use: when a buffer comes again, keep the step where it began",
        ),
        Mistake(
            lived(lambda first, last, steps, uses: (first, first)),
            "you keep the first use only: each later one moves the last step",
        ),
        Mistake(
            lived(lambda first, last, steps, uses: (first, last + 1)),
            "your last step is one too far: the last step that uses a buffer is included",
        ),
        Mistake(
            lived(lambda first, last, steps, uses: (first, steps - 1)),
            "all yours live to the end: then nothing is ever free",
        ),
        Mistake(
            lived(lambda first, last, steps, uses: (first, first + uses - 1)),
            "you count uses: a buffer that rests for some steps lives on",
        ),
        Mistake(
            lived(lambda first, last, steps, uses: (first, last - first)),
            "your second number is a length: wanted is the number of the last step",
        ),
        Mistake(
            lived(lambda first, last, steps, uses: (first + 1, last + 1)),
            "you count steps from 1: enumerate counts from 0",
        ),
    ),
    hints=(
        "Go through enumerate(steps). What do you know of a buffer that you meet for the first time?",
        "A buffer met before keeps its first step and gets a new last one: lives[name][0], step.",
    ),
    solution=lifetimes,
    twin=arena.lifetimes,
    whole=True,
)


# peak_bytes: lives, sizes -> bytes


def packing_cases():
    """Return {label: (lives, sizes)}; sizes are multiples of 64, as in the engine."""
    by_hand = {"a": (0, 0), "b": (0, 1), "c": (1, 2), "d": (2, 3), "e": (3, 3)}
    pause = {"x": (0, 5), "h": (0, 1), "q": (1, 2), "s": (2, 3), "gate": (3, 4), "up": (3, 5)}
    fullest_last = {"x": (0, 3), "h": (0, 1), "out": (3, 3)}
    two_deep = {"low": (2, 5), "wide": (0, 1), "upper": (2, 3), "between": (1, 2)}
    gaps = {"p": (3, 9), "q": (0, 5), "r": (6, 9), "s": (0, 2), "t": (1, 2), "u": (2, 2)}
    return {
        "five buffers": (by_hand, {"a": 192, "b": 128, "c": 256, "d": 64, "e": 192}),
        "a layer": (pause, {"x": 128, "h": 128, "q": 192, "s": 320, "gate": 256, "up": 384}),
        "gaps of several sizes": (gaps, {"p": 128, "q": 256, "r": 192, "s": 64, "t": 192, "u": 64}),
        "equal sizes": (by_hand, dict.fromkeys("abcde", 64)),
        "one": ({"x": (2, 4)}, {"x": 64}),
        "small ones first": ({"s": (0, 1), "t": (1, 2), "u": (0, 2)}, {"s": 64, "t": 128, "u": 576}),
        "the last step is the fullest": (fullest_last, {"x": 64, "h": 64, "out": 192}),
        "two alike": ({"v": (0, 1), "k": (0, 1)}, {"v": 64, "k": 64}),
        "a wide one beside two": (two_deep, {"low": 64, "wide": 192, "upper": 64, "between": 64}),
    }


def peak_bytes(lives, sizes):
    """Return the most bytes that are in use in one step."""
    end = max(last for first, last in lives.values())
    totals = []
    for step in range(end + 1):
        living = [name for name, (first, last) in lives.items() if first <= step <= last]
        totals.append(sum(sizes[name] for name in living))
    return max(totals)


def peak_where(alive, of=sum, steps=lambda end: range(end + 1)):
    """Return a function like peak_bytes, where alive(first, step, last) says what counts."""

    def wrong(lives, sizes):
        end = max(last for _, last in lives.values())
        found = [
            [sizes[name] for name, (first, last) in lives.items() if alive(first, step, last)]
            for step in steps(end)
        ]
        return max((of(some) for some in found if some), default=0)

    return wrong


PEAK = Exercise(
    name="peak_bytes",
    engine=arena.peak_bytes,
    cases=packing_cases,
    mistakes=(
        Mistake(
            peak_where(lambda first, step, last: True),
            "you add up all buffers: only those count that are in use in the same step",
        ),
        Mistake(
            peak_where(lambda first, step, last: first <= step < last),
            "the last step is missing: a buffer is in use in its last step, too",
        ),
        Mistake(
            peak_where(lambda first, step, last: first <= step <= last, steps=range),
            "you stop before the last step of all: steps count from 0, so range(last + 1) has them all",
        ),
        Mistake(
            peak_where(lambda first, step, last: first == step),
            "you count what begins in a step: what began before and lives on is there as well",
        ),
        Mistake(
            peak_where(lambda first, step, last: first <= step <= last, len),
            "you count buffers: wanted are their bytes",
        ),
        Mistake(
            peak_where(lambda first, step, last: first <= step <= last, max),
            "this is the largest buffer: those in use beside it need room, too",
        ),
    ),
    hints=(
        "For one step: which buffers have first <= step <= last? What do they weigh together?",
        "Do that for each step up to the largest last one, and take the largest sum.",
    ),
    solution=peak_bytes,
    twin=arena.peak_bytes,
    whole=True,
)


# first_fit: lives, sizes -> {buffer: offset}


def first_fit(lives, sizes):
    """Return {buffer: offset}, the longest life placed first."""
    offsets = {}
    for name in sorted(lives, key=lambda n: (lives[n][0] - lives[n][1], -sizes[n])):
        first, last = lives[name]
        met = [o for o in offsets if lives[o][0] <= last and first <= lives[o][1]]
        offset = 0
        for other in sorted(met, key=lambda o: offsets[o]):
            if offset + sizes[name] <= offsets[other]:
                break
            offset = max(offset, offsets[other] + sizes[other])
        offsets[name] = offset
    return offsets


def largest_first(lives, sizes):
    return sorted(lives, key=lambda name: -sizes[name])


def largest_life(lives, sizes):
    return sorted(lives, key=lambda name: lives[name][0] - lives[name][1])


def alike_turned_round(lives, sizes):
    return arena.longest_first(dict(reversed(lives.items())), sizes)


def placed(order=arena.longest_first, meet=None, gaps=True, fits=True, climbs=True):
    """Return a function like first_fit with another order, another rule for who meets, or no look at gaps."""
    meet = meet or (lambda a, b: a[0] <= b[1] and b[0] <= a[1])

    def wrong(lives, sizes):
        offsets = {}
        for name in order(lives, sizes):
            met = sorted((o for o in offsets if meet(lives[o], lives[name])), key=offsets.get)
            offset = 0
            for other in met:
                room = offsets[other] - offset
                if gaps and room > 0 and (room >= sizes[name] or not fits):
                    break
                end = offsets[other] + sizes[other]
                offset = max(offset, end) if climbs else end
            offsets[name] = offset
        return offsets

    return wrong


FIRST_FIT = Exercise(
    name="first_fit",
    engine=arena.first_fit,
    cases=packing_cases,
    mistakes=(
        Mistake(
            placed(order=lambda lives, sizes: list(lives)),
            "yours come in the order of the dict: place the one that lives longest first",
        ),
        Mistake(
            placed(order=largest_first),
            "you place the largest first: here the longest life comes first, and size decides between equals",
        ),
        Mistake(
            placed(order=largest_life),
            "you leave equals as they come: of those that live as long, the larger comes first",
        ),
        Mistake(
            placed(order=alike_turned_round),
            "two alike in life and in size change places: they come as in `lives`. sorted(..., reverse=True) "
            "leaves them so, [::-1] turns them round, and a name in the key sorts them by name",
        ),
        Mistake(
            placed(order=lambda lives, sizes: arena.longest_first(lives, sizes)[::-1]),
            "you place the shortest life first: the long ones then find no gap",
        ),
        Mistake(
            placed(meet=lambda a, b: True),
            "none of yours share a place: two that never live in the same step may",
        ),
        Mistake(
            placed(meet=lambda a, b: a[0] < b[1] and b[0] < a[1]),
            "two of yours overlap: one that ends in the step in which another begins is still in use there",
        ),
        Mistake(
            placed(gaps=False),
            "you place each above all that it meets: look for a gap below first",
        ),
        Mistake(
            placed(climbs=False),
            "you step down again: behind a wide one may come one that ends below it, so the offset is the "
            "larger of where you are and where that one ends",
        ),
        Mistake(
            placed(fits=False),
            "you take gaps that are too small: from the offset on, all its bytes must be free",
        ),
        Mistake(
            placed(meet=lambda a, b: False),
            "all of yours begin at 0: those that live in the same step must lie apart",
        ),
    ),
    hints=(
        "Sorted by the pair (first - last, -size), long lives come first. Two lives meet if neither is over "
        "before the other begins.",
        "Of those placed already, take the ones that it meets, by offset. Begin at 0; if it ends before the "
        "next one's offset, stop; else move behind that one.",
    ),
    solution=first_fit,
    twin=arena.first_fit,
    whole=True,
)


# bump: sizes, alignment -> offsets, end


def bump_cases():
    return {
        "three, to 64": ([100, 64, 1], 64),
        "whole lines": ([64, 128, 64], 64),
        "to 4096": ([5000, 10, 4096], 4096),
        "nothing in between": ([10, 0, 10], 16),
        "none": ([], 64),
    }


def bump(sizes, alignment):
    """Return the offset of each, and where the last one ends."""
    offsets, end = [], 0
    for size in sizes:
        offset = (end + alignment - 1) // alignment * alignment
        offsets.append(offset)
        end = offset + size
    return offsets, end


def bumped(up):
    """Return a function like bump with another way to round the end up: up(end, alignment)."""

    def wrong(sizes, alignment):
        offsets, end = [], 0
        for size in sizes:
            offsets.append(up(end, alignment))
            end = offsets[-1] + size
        return offsets, end

    return wrong


def round_up(n, alignment):
    return -(-n // alignment) * alignment


def end_rounded_up(sizes, alignment):
    offsets, end = scratch.bump(sizes, alignment)
    return offsets, round_up(end, alignment)


def multiples(sizes, alignment):
    return [alignment * i for i in range(len(sizes))], alignment * len(sizes)


def ends(sizes, alignment):
    offsets, end = scratch.bump(sizes, alignment)
    return [offset + size for offset, size in zip(offsets, sizes, strict=True)], end


BUMP = Exercise(
    name="bump",
    engine=scratch.bump,
    cases=bump_cases,
    mistakes=(
        Mistake(bumped(lambda end, a: end), "nothing is aligned: round each offset up to a multiple"),
        Mistake(
            bumped(lambda end, a: end // a * a),
            "you round down: a thing then begins before the one in front of it is over",
        ),
        Mistake(
            bumped(lambda end, a: end // a * a + a),
            "you add a whole alignment each time: an end that is a multiple already stays",
        ),
        Mistake(
            end_rounded_up,
            "your end is rounded up: the last thing ends where its bytes end",
        ),
        Mistake(multiples, "you give each thing one alignment: it takes as many bytes as its size says"),
        Mistake(ends, "these are the ends: wanted is where each begins"),
    ),
    hints=(
        "Keep one number, the end so far. Round it up, note it as the offset, add the size.",
        "Rounding up in whole numbers: (end + alignment - 1) // alignment * alignment",
    ),
    solution=bump,
    twin=scratch.bump,
    whole=True,
    parts=("offsets", "end"),
)


# page_faults: stretches, page -> pages


def page_cases():
    return {
        "one page": ([(0, 4096)], 4096),
        "a byte more": ([(0, 4097)], 4096),
        "across a border": ([(4000, 200)], 4096),
        "two in one page": ([(0, 100), (200, 100)], 4096),
        "one of two begins where the other ends": ([(0, 5000), (5000, 5000)], 4096),
        "far apart": ([(0, 1), (1 << 20, 1), (1 << 21, 1)], 4096),
        "nothing": ([(0, 0), (8192, 0)], 4096),
        "nothing within a page": ([(100, 0)], 4096),
        "large pages": ([(0, 5 << 20)], 2 << 20),
    }


def page_faults(stretches, page):
    """Return how many pages of fresh memory are touched."""
    touched = set()
    for start, n_bytes in stretches:
        first, end = start // page, -(-(start + n_bytes) // page)
        if n_bytes > 0:
            touched |= set(range(first, end))
    return len(touched)


def added(pages_of):
    """Return a function that adds up pages_of(start, bytes, page) over the stretches."""
    return lambda stretches, page: sum(pages_of(start, n, page) for start, n in stretches)


def of_one(start, n, page):
    return pages.page_faults([(start, n)], page)


def span(stretches, page):
    end = max(start + n for start, n in stretches)
    return -(-end // page)


def empty_too(stretches, page):
    return pages.page_faults([(start, max(n, 1)) for start, n in stretches], page)


def empty_within(stretches, page):
    return len({p for start, n in stretches for p in range(start // page, (start + n - 1) // page + 1)})


def number_of_last(stretches, page):
    """Return pages by numbers, the last of each stretch left out."""
    touched = set()
    for start, n in stretches:
        touched.update(range(start // page, (start + n) // page))
    return len(touched)


FAULTS = Exercise(
    name="page_faults",
    engine=pages.page_faults,
    cases=page_cases,
    mistakes=(
        Mistake(
            added(of_one),
            "a page counts twice: the second touch of a page is no fault, so collect the pages in a set",
        ),
        Mistake(
            added(lambda start, n, page: n // page),
            "you round down: a page of which one byte is touched is there as a whole",
        ),
        Mistake(
            added(lambda start, n, page: -(-n // page)),
            "you look at lengths alone: a short stretch may cross a border, and two may share a page",
        ),
        Mistake(
            number_of_last,
            "the last page is missing: the last byte is start + n_bytes - 1, and its page counts",
        ),
        Mistake(
            empty_too,
            "a stretch of no bytes touches nothing",
        ),
        Mistake(
            empty_within,
            "a stretch of no bytes within a page touches nothing: ask whether there are any bytes",
        ),
        Mistake(
            span,
            "you count all pages from 0 on: those between the stretches stay untouched",
        ),
        Mistake(
            lambda stretches, page: sum(n for _, n in stretches),
            "these are bytes: count pages",
        ),
    ),
    hints=(
        "The page of a byte is its place // page. Which pages has a stretch, from first byte to last?",
        "A set of all of range(start // page, (start + n_bytes - 1) // page + 1), if there are any bytes.",
    ),
    solution=page_faults,
    whole=True,
)

EXERCISES = [LIFETIMES, PEAK, FIRST_FIT, BUMP, FAULTS]
