"""What learners write in lesson 24, for test_check_learners.py, and what is the lesson's own."""

import math

import numpy as np
import pytest

from blocks2tokens.course.lessons.memory import exercises as lesson
from blocks2tokens.course.lessons.memory import pages, pool
from blocks2tokens.model.arena import first_fit, lifetimes, peak_bytes

# lifetimes, in a learner's way: two dicts, one filled forwards and one backwards


def lives_of(steps, first=True, last=True, one_more=0, to_the_end=False, uses=False, length=False, begin=0):
    births, deaths, count = {}, {}, {}
    for number in range(len(steps)):
        for name in steps[number]:
            births.setdefault(name, number)
            count[name] = count.get(name, 0) + 1
    for number in range(len(steps) - 1, -1, -1):
        for name in steps[number]:
            deaths.setdefault(name, number)
    found = {}
    for name in births:
        begins = births[name] if first else deaths[name]
        ends = deaths[name] if last else births[name]
        if to_the_end:
            ends = len(steps) - 1
        if uses:
            ends = begins + count[name] - 1
        found[name] = (begins + begin, (ends - begins if length else ends) + one_more + begin)
    return found


# peak_bytes, in a learner's way: what comes and goes, summed up with NumPy


def peak(lives, sizes, goes_after=1, in_bytes=True):
    change = np.zeros(2 + max(last for _, last in lives.values()), np.int64)
    for name in lives:
        first, last = lives[name]
        weight = sizes[name] if in_bytes else 1
        change[first] += weight
        change[last + goes_after] -= weight
    return int(np.cumsum(change).max())


def peak_but_for_the_last_step(lives, sizes):
    use = np.zeros(max(last for _, last in lives.values()), np.int64)
    for name, (first, last) in lives.items():
        use[first : last + 1] += sizes[name]
    return int(use.max())


def peak_of_beginnings(lives, sizes):
    steps = {first for first, _ in lives.values()}
    return max(sum(sizes[n] for n, (first, _) in lives.items() if first == step) for step in steps)


def peak_of_all(lives, sizes):
    return sum(sizes.values())


def largest(lives, sizes):
    return max(sizes.values())


# first_fit, in a learner's way: every offset that may be the lowest is tried


def fit_by_trying(lives, sizes, order="longest", apart="lives", gaps=True, whole=True):
    names = list(lives)
    if order == "turned round":
        names.reverse()
    if order in ("longest", "shortest", "largest", "turned round"):
        names.sort(key=sizes.get, reverse=True)
    if order != "largest" and order != "given":
        names.sort(key=lambda name: lives[name][1] - lives[name][0], reverse=True)
    if order == "shortest":
        names.reverse()
    found = {}

    def together(a, b):
        if apart == "always":
            return True
        if apart == "never":
            return False
        steps = set(range(lives[a][0], lives[a][1] + 1)) & set(range(lives[b][0], lives[b][1] + 1))
        if apart == "inner":
            return lives[a][0] < lives[b][1] and lives[b][0] < lives[a][1]
        return bool(steps)

    for name in names:
        others = [(found[o], found[o] + sizes[o]) for o in found if together(o, name)]
        tries = [0, *sorted(end for _, end in others)] if gaps else [max((e for _, e in others), default=0)]
        for offset in tries:
            end = offset + (sizes[name] if whole else 1)
            if all(end <= begin or offset >= stop for begin, stop in others):
                found[name] = offset
                break
    return found


def fit_by_climbing(lives, sizes, climb):
    found = {}
    for name in sorted(lives, key=lambda n: (lives[n][1] - lives[n][0], sizes[n]), reverse=True):
        steps, offset = set(range(lives[name][0], lives[name][1] + 1)), 0
        others = [o for o in found if steps & set(range(lives[o][0], lives[o][1] + 1))]
        for begin, end in sorted((found[o], found[o] + sizes[o]) for o in others):
            if offset + sizes[name] <= begin:
                break
            offset = climb(offset, end)
        found[name] = offset
    return found


def fit_by_hand(lives, sizes):
    return fit_by_climbing(lives, sizes, max)


def fit_stepping_down(lives, sizes):
    return fit_by_climbing(lives, sizes, lambda offset, end: end)


def lives_in_lists(steps):
    return {name: list(life) for name, life in lives_of(steps).items()}


def lives_in_arrays(steps):
    return {name: np.array(life) for name, life in lives_of(steps).items()}


# bump, in a learner's way: padding, by the remainder


def places(sizes, alignment, pad=lambda rest, a: -rest % a, pad_end=False, ends=False, steps=False):
    at, found = 0, []
    for size in sizes:
        at += pad(at, alignment)
        found.append(at + size if ends else at)
        at += alignment if steps else size
    return found, at + (-at % alignment if pad_end else 0)


# page_faults, in a learner's way: pages marked in an array


def marked(stretches, page):
    ends = [start + n for start, n in stretches]
    pages = np.zeros(max(ends) // page + 1, bool)
    for start, n in stretches:
        if n:
            pages[start // page : (start + n - 1) // page + 1] = True
    return int(pages.sum())


def summed(stretches, page):
    return sum(marked([stretch], page) for stretch in stretches)


def floors(stretches, page):
    return sum(math.floor(n / page) for _, n in stretches)


def ceilings(stretches, page):
    return sum(math.ceil(n / page) for _, n in stretches)


def without_last(stretches, page):
    return len({p for start, n in stretches for p in range(start // page, (start + n) // page)})


def with_empty(stretches, page):
    first_and_last = [(start // page, max(start, start + n - 1) // page) for start, n in stretches]
    return len({p for first, last in first_and_last for p in range(first, last + 1)})


def unasked(stretches, page):
    return len({p for at, n in stretches for p in range(at // page, (at + n - 1) // page + 1)})


def up_to_the_end(stretches, page):
    return math.ceil(max(start + n for start, n in stretches) / page)


def in_bytes(stretches, page):
    total = 0
    for _, n in stretches:
        total += n
    return total


def changed(function, **arguments):
    def mutant(*given):
        return function(*given, **arguments)

    return mutant


WRONG = [
    ("lifetimes", changed(lives_of, first=False), "you forget the first use"),
    ("lifetimes", changed(lives_of, last=False), "you keep the first use only"),
    ("lifetimes", changed(lives_of, one_more=1), "your last step is one too far"),
    ("lifetimes", changed(lives_of, to_the_end=True), "all yours live to the end"),
    ("lifetimes", changed(lives_of, uses=True), "you count uses"),
    ("lifetimes", changed(lives_of, length=True), "your second number is a length"),
    ("lifetimes", changed(lives_of, begin=1), "you count steps from 1"),
    ("peak_bytes", peak_of_all, "you add up all buffers"),
    ("peak_bytes", changed(peak, goes_after=0), "the last step is missing"),
    ("peak_bytes", peak_but_for_the_last_step, "you stop before the last step of all"),
    ("peak_bytes", peak_of_beginnings, "you count what begins in a step"),
    ("peak_bytes", changed(peak, in_bytes=False), "you count buffers"),
    ("peak_bytes", largest, "this is the largest buffer"),
    ("first_fit", changed(fit_by_trying, order="given"), "in the order of the dict"),
    ("first_fit", changed(fit_by_trying, order="shortest"), "you place the shortest life first"),
    ("first_fit", changed(fit_by_trying, order="largest"), "you place the largest first"),
    ("first_fit", changed(fit_by_trying, order="equals"), "you leave equals as they come"),
    ("first_fit", changed(fit_by_trying, order="turned round"), "two alike in life and in size"),
    ("first_fit", fit_stepping_down, "you step down again"),
    ("first_fit", changed(fit_by_trying, apart="always"), "none of yours share a place"),
    ("first_fit", changed(fit_by_trying, apart="inner"), "two of yours overlap"),
    ("first_fit", changed(fit_by_trying, gaps=False), "you place each above all that it meets"),
    ("first_fit", changed(fit_by_trying, whole=False), "you take gaps that are too small"),
    ("first_fit", changed(fit_by_trying, apart="never"), "all of yours begin at 0"),
    ("bump", changed(places, pad=lambda rest, a: 0), "nothing is aligned"),
    ("bump", changed(places, pad=lambda rest, a: -(rest % a)), "you round down"),
    ("bump", changed(places, pad=lambda rest, a: a - rest % a), "you add a whole alignment"),
    ("bump", changed(places, pad_end=True), "your end is rounded up"),
    ("bump", changed(places, steps=True), "you give each thing one alignment"),
    ("bump", changed(places, ends=True), "these are the ends"),
    ("page_faults", summed, "a page counts twice"),
    ("page_faults", floors, "you round down"),
    ("page_faults", ceilings, "you look at lengths alone"),
    ("page_faults", without_last, "the last page is missing"),
    ("page_faults", with_empty, "a stretch of no bytes"),
    ("page_faults", unasked, "a stretch of no bytes within a page"),
    ("page_faults", up_to_the_end, "you count all pages from 0 on"),
    ("page_faults", in_bytes, "these are bytes"),
]
RIGHT = {
    "lifetimes": [lives_of, lives_in_lists, lives_in_arrays],
    "peak_bytes": [peak],
    "first_fit": [fit_by_trying, fit_by_hand],
    "bump": [places],
    "page_faults": [marked],
}


# The lesson's own parts


@pytest.mark.parametrize("function", [lives_in_lists, lives_in_arrays])
def test_lives_come_as_pairs_whatever_they_were_made_in(function):
    assert lesson.LIFETIMES(function)([("b",), ("a", "b")]) == {"b": (0, 1), "a": (1, 1)}


@pytest.mark.parametrize("function", [lambda s: {"x": np.arange(3)}, lambda s: {n: None for n, *_ in s}])
def test_lives_that_are_no_pairs_are_judged(function):
    assert lesson.LIFETIMES.judge(function).kind == "wrong"


def test_pages_of_memory_that_is_touched_are_the_faults_that_are_counted():
    if not pages.SETTING.exists():
        pytest.skip("counts faults as Linux does")
    block = pages.fresh(64 * pages.PAGE)
    found = pages.faults(lambda: block[:: 4 * pages.PAGE].fill(1))
    expected = pages.page_faults([(4 * i * pages.PAGE, 1) for i in range(16)], pages.PAGE)
    assert expected == 16 and expected <= found < expected + 30  # other threads fault, too
    assert block[:: 4 * pages.PAGE].all() and not block[1 :: 4 * pages.PAGE].any()


def test_every_way_to_touch_writes_the_same():
    found = pages.touch(1 << 20, 1)
    assert "first time" in found and found["again"][1] < 64
    assert all(timing.median > 0 for timing, _ in found.values())


def test_a_pool_gives_back_only_what_has_the_same_size():
    lives = lifetimes([("a",), ("b",), ("c", "b"), ("d",)])
    assert pool.pool_bytes(lives, {"a": 4, "b": 2, "c": 4, "d": 3}) == 4 + 2 + 3
    assert pool.pool_bytes({}, {}) == 0


@pytest.mark.parametrize("label", lesson.packing_cases())
def test_a_pool_lies_between_all_apart_and_what_is_in_use(label):
    lives, sizes = lesson.packing_cases()[label]
    found = pool.ways(lives, sizes)
    assert found["each its own"] >= found["a pool by size"] >= found["in use at one time"]
    assert found["one arena"] >= found["in use at one time"] == peak_bytes(lives, sizes)


def test_the_reports_pool_keeps_a_pair_for_each_size_of_matrix():
    assert pool.report_pool("14B") == 2 * 4 * 5120 * (5120 + 1024 + 13_824 + 152_064)


def test_a_case_of_first_fit_has_a_gap_that_is_too_small_and_one_that_is_not():
    lives, sizes = lesson.packing_cases()["gaps of several sizes"]
    assert first_fit(lives, sizes) != fit_by_trying(lives, sizes, gaps=False)
    assert first_fit(lives, sizes) != fit_by_trying(lives, sizes, whole=False)
