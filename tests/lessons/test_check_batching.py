"""What learners write in lesson 29, for test_check_learners.py, and what is the lesson's own."""

import heapq

import numpy as np
import pytest

from blocks2tokens.course.lessons.batching import exercises as lesson
from blocks2tokens.course.lessons.batching import load
from blocks2tokens.serving import scheduler


def most(
    rate=lambda k, t: k / t, fits=lambda k, t, s: t <= s, k_of=lambda i: i + 1, last=False, of=1, default=None
):
    """A learner's loop that keeps the best so far."""

    def rows_to_run(c, slowest):
        best = None
        for i, t in enumerate(c):
            if not fits(i + 1, t, slowest):
                continue
            if best is None or rate(i + 1, t) > best[0] or (last and rate(i + 1, t) == best[0]):
                best = rate(i + 1, t), k_of(i)
        return best[of] if best else default

    return rows_to_run


def climb(c, slowest):
    k = 1
    for more in range(2, len(c) + 1):
        if c[more - 1] > slowest or more / c[more - 1] <= k / c[k - 1]:
            break
        k = more
    return k


def until_too_slow(c, slowest):
    best = 1
    for k, t in enumerate(c, start=1):
        if t > slowest:
            break
        if k / t > best / c[best - 1]:
            best = k
    return best


def by_heap(lengths, slots):
    heap = [(0, slot) for slot in range(slots)]
    taken, firsts = np.zeros(len(lengths), int), np.zeros(len(lengths), int)
    for i, n in enumerate(lengths):
        start, slot = heapq.heappop(heap)
        taken[i], firsts[i] = slot, start
        heapq.heappush(heap, (start + n, slot))
    return taken, firsts


def by_passes(order=None, ready=lambda slot, busy: busy[slot] == 0, pause=0, slot_order=range, first=0):
    """A learner's simulation, a pass at a time."""

    def continuous(lengths, slots):
        queue = sorted(range(len(lengths)), key=order(lengths)) if order else list(range(len(lengths)))
        busy, taken, firsts, now = [0] * slots, [0] * len(lengths), [0] * len(lengths), first
        while queue:
            for slot in slot_order(slots):
                if queue and ready(slot, busy):
                    text = queue.pop(0)
                    busy[slot], taken[text], firsts[text] = lengths[text] + pause, slot, now
            busy, now = [max(0, n - 1) for n in busy], now + 1
        return taken, firsts

    return continuous


def batches(lengths, slots):
    start, taken, firsts = 0, [], []
    while len(taken) < len(lengths):
        some = lengths[len(taken) : len(taken) + slots]
        for slot, _ in enumerate(some):
            taken.append(slot)
            firsts.append(start)
        start += max(some)
    return taken, firsts


def in_turn(lengths, slots):
    free = {slot: 0 for slot in range(slots)}
    taken, firsts = [], []
    for i, n in enumerate(lengths):
        taken.append(i % slots)
        firsts.append(free[i % slots])
        free[i % slots] += n
    return taken, firsts


def latest(lengths, slots):
    free, taken, firsts = [0] * slots, [], []
    for n in lengths:
        slot = int(np.argmax(free))
        taken.append(slot)
        firsts.append(free[slot])
        free[slot] += n
    return taken, firsts


def ends(lengths, slots):
    taken, firsts = by_heap(lengths, slots)
    return taken, firsts + np.array(lengths)


def up_to_its_last_pass(lengths, slots):
    last, taken, firsts = np.zeros(slots, int), [], []
    for n in lengths:
        taken.append(int(last.argmin()))
        firsts.append(int(last.min()))
        last[taken[-1]] += n - 1
    return taken, firsts


def overwritten(lengths, slots):
    free = dict.fromkeys(range(slots), 0)
    taken, firsts = [], []
    for n in lengths:
        slot = min(free, key=free.get)
        taken.append(slot)
        firsts.append(free[slot])
        free[slot] = n
    return taken, firsts


def by_sets(there=lambda at, now, rows: at <= now, limit=99, copy=list, early=False):
    """A learner's queue of numbers, which leave the list of those that run."""

    def finish_times(arrivals, lengths, slots, c):
        done, left, rows, now, coming = {}, dict(enumerate(lengths)), [], 0.0, 0
        while len(done) < len(lengths):
            if not rows:
                now = max(now, arrivals[coming])
            for _ in range(min(limit, slots - len(rows))):
                if coming < len(lengths) and there(arrivals[coming], now, rows):
                    rows.append(coming)
                    coming += 1
            if not early:
                now += c[len(rows) - 1]
            for text in copy(rows):
                left[text] -= 1
                if left[text] == 0:
                    done[text] = now
                    rows.remove(text)
            if early:
                now += c[len(rows) - 1]
        return [done[text] for text in range(len(lengths))]

    return finish_times


def by_texts(
    price=lambda c, rows, slots: c[len(rows) - 1],
    there=lambda text, now, c, rows: text["at"] <= now,
    open_to=lambda rows, slots: len(rows) < slots,
    idle=lambda now, first: max(now, first),
    answer=lambda text: text["end"],
):
    """A learner's queue of dicts."""

    def finish_times(arrivals, lengths, slots, c):
        texts = [{"at": a, "left": n, "end": 0.0} for a, n in zip(arrivals, lengths, strict=True)]
        queue, rows, now = texts[:], [], 0.0
        while queue or rows:
            if not rows:
                now = idle(now, queue[0]["at"])
            if open_to(rows, slots):
                while queue and len(rows) < slots and there(queue[0], now, c, rows):
                    rows.append(queue.pop(0))
            if not rows:
                now += 1
                continue
            now += price(c, rows, slots)
            for text in rows:
                text["left"] -= 1
                text["end"] = now
            rows = [text for text in rows if text["left"]]
        return np.array([answer(text) for text in texts])

    return finish_times


def latencies(arrivals, lengths, slots, c):
    return np.array(by_texts()(arrivals, lengths, slots, c)) - np.array(arrivals)


def cuts(n, chunk):
    sizes = []
    while n >= 2 * chunk:
        sizes.append(chunk)
        n -= chunk
    return [*sizes, n]


def cut_while(more, last=True):
    def chunks_of(n, chunk):
        sizes = []
        while more(n, chunk):
            sizes.append(chunk)
            n -= chunk
        return sizes + [n] * (last and n > 0)

    return chunks_of


def at_least_two(n, chunk):
    rest = n % chunk
    return [chunk] * (n // chunk - 1) + [chunk + rest]


def equal(n, chunk):
    return [len(part) for part in np.array_split(np.arange(n), -(-n // chunk))]


def let_in(
    tokens=lambda prompt, most: prompt + most,
    pages_for=lambda n, page: (n + page - 1) // page,
    held=lambda shared, page: shared // page,
    leave=True,
    pay=True,
    slots_count=True,
    enough=lambda price, pages: price <= pages,
    late=False,
):
    """A learner's loop that counts down."""

    def admit(waiting, slots, pages, page):
        begun = 0
        for prompt, most, shared in waiting:
            if slots_count and slots == begun:
                return begun
            price = pages_for(tokens(prompt, most), page) - held(shared, page)
            if enough(price, pages):
                pages -= price if pay else 0
                begun += 1
            elif leave:
                return begun + late
        return begun

    return admit


def by_tokens(waiting, slots, pages, page):
    room = np.cumsum([prompt + most - shared for prompt, most, shared in waiting])
    return min(slots, int((room <= pages * page).sum()))


def each_rounded(waiting, slots, pages, page):
    begun = 0
    for prompt, most, shared in waiting[:slots]:
        pages -= -(-prompt // page) - -most // page - shared // page
        if pages < 0:
            break
        begun += 1
    return begun


def in_whole_pages(waiting, slots, pages, page):
    """What is shared fills its pages."""
    needed = np.cumsum([np.ceil((prompt + most - shared) / page) for prompt, most, shared in waiting])
    return min(slots, np.count_nonzero(needed <= pages))


WRONG = [
    ("rows_to_run", most(k_of=lambda i: i), "one too few"),
    ("rows_to_run", most(rate=lambda k, t: k), "the most rows that are allowed"),
    ("rows_to_run", most(fits=lambda k, t, s: True), "`slowest` is not looked at"),
    ("rows_to_run", most(fits=lambda k, t, s: k <= s), "you compare rows with `slowest`"),
    ("rows_to_run", most(rate=lambda k, t: 1 / t), "what one of them gets"),
    ("rows_to_run", most(last=True), "as many tokens take the least"),
    ("rows_to_run", climb, "behind a step of c(k)"),
    ("rows_to_run", until_too_slow, "the first pass that is too slow"),
    ("rows_to_run", most(fits=lambda k, t, s: t < s, default=1), "as long as `slowest`"),
    ("rows_to_run", most(of=0), "that is how many tokens"),
    ("continuous", batches, "the static schedule"),
    ("continuous", in_turn, "dealt out in turn"),
    ("continuous", by_passes(slot_order=lambda slots: range(slots - 1, -1, -1)), "take the lowest number"),
    ("continuous", by_passes(pause=1), "a pass is lost"),
    ("continuous", by_passes(order=lambda lengths: lambda i: lengths[i]), "the shortest go first"),
    ("continuous", latest, "the slot that is free last"),
    ("continuous", lambda lengths, slots: by_heap(lengths, slots)[::-1], "are exchanged"),
    ("continuous", lambda lengths, slots: np.transpose(by_heap(lengths, slots)).tolist(), "a pair for each"),
    ("continuous", ends, "note when a text begins"),
    ("continuous", by_passes(first=1), "counted from 0"),
    ("continuous", up_to_its_last_pass, "two texts in one row"),
    ("continuous", overwritten, "add the length"),
    ("finish_times", by_texts(price=lambda c, rows, slots: 1), "as long as one row"),
    ("finish_times", by_texts(price=lambda c, rows, slots: c[slots - 1]), "as long as a full one"),
    ("finish_times", by_texts(price=lambda c, rows, slots: len(rows)), "one after the other"),
    ("finish_times", by_texts(there=lambda *_: True), "before it has arrived"),
    ("finish_times", by_texts(open_to=lambda rows, slots: not rows), "only when nobody runs"),
    (
        "finish_times",
        by_texts(there=lambda text, now, c, rows: text["at"] < now + c[max(0, len(rows) - 1)]),
        "during a pass",
    ),
    ("finish_times", by_texts(idle=lambda now, first: now), "no pass is made"),
    ("finish_times", latencies, "how long each took"),
    ("finish_times", by_sets(copy=lambda rows: rows), "the one behind is skipped"),
    ("finish_times", by_sets(limit=1), "you let one text in"),
    ("finish_times", by_sets(there=lambda at, now, rows: at < now), "at the very moment"),
    ("finish_times", by_sets(there=lambda at, now, rows: at < now or not rows), "at the very moment"),
    ("finish_times", by_texts(idle=lambda now, first: first), "your time goes back"),
    ("finish_times", by_sets(early=True), "when its pass has ended"),
    ("finish_times", lambda *case: np.sort(by_texts()(*case)), "in the order in which texts end"),
    ("chunks_of", cut_while(lambda n, chunk: n >= chunk), "the rest stands alone"),
    ("chunks_of", lambda n, chunk: [chunk] * (n // chunk) + [n % chunk], "and is 0 where"),
    ("chunks_of", lambda n, chunk: cuts(n, chunk)[::-1], "the rest is read first"),
    ("chunks_of", lambda n, chunk: len(cuts(n, chunk)), "how many chunks"),
    ("chunks_of", cut_while(lambda n, chunk: False), "all at once"),
    ("chunks_of", cut_while(lambda n, chunk: n >= chunk, last=False), "the rest is lost"),
    ("chunks_of", cut_while(lambda n, chunk: n > 2 * chunk), "two whole chunks"),
    ("chunks_of", equal, "equal parts"),
    ("chunks_of", at_least_two, "shorter than a chunk"),
    ("admit", let_in(tokens=lambda prompt, most: prompt), "pages for the prompt alone"),
    ("admit", let_in(pages_for=lambda n, page: n // page), "round up"),
    ("admit", let_in(leave=False), "somebody overtakes"),
    ("admit", let_in(slots_count=False), "no more than `slots` rows"),
    ("admit", let_in(pay=False), "the next finds fewer"),
    ("admit", let_in(held=lambda shared, page: 0), "not needed again"),
    ("admit", by_tokens, "you count tokens"),
    ("admit", let_in(pages_for=lambda n, page: n, held=lambda shared, page: shared), "tokens with pages"),
    ("admit", each_rounded, "round up their sum"),
    ("admit", let_in(held=lambda shared, page: shared), "in tokens"),
    ("admit", let_in(pages_for=lambda n, page: n // page + 1), "just fill their pages"),
    ("admit", let_in(enough=lambda price, pages: price < pages), "just enough"),
    ("admit", let_in(late=True), "who does not fit"),
    ("admit", lambda waiting, *free: waiting[: let_in()(waiting, *free)], "how many"),
]

RIGHT = {
    "rows_to_run": [most()],
    "continuous": [by_heap, by_passes()],
    "finish_times": [by_texts(), by_sets()],
    "chunks_of": [cuts],
    "admit": [let_in(), in_whole_pages],
}


# The plain answers agree with the engine


@pytest.mark.parametrize("n", [1, 63, 64, 127, 128, 130, 500])
def test_chunks_are_the_engine_s(n):
    chunk, start, sizes = scheduler.CHUNK, 0, []
    while start < n:
        end = n if start == scheduler.last_chunk(n) else start + chunk
        sizes.append(end - start)
        start = end
    assert lesson.chunks_of(n, chunk) == sizes


# What the lesson simulates


C = [1.0, 1.0, 1.25, 1.5]
LENGTHS = [5, 2, 7, 1, 3, 4, 2]


def test_a_simulation_agrees_with_the_plain_one():
    arrivals = load.poisson(7, 0.3)
    texts = load.simulate("continuous", arrivals, LENGTHS, 4, C)
    assert np.allclose([text.ended for text in texts], lesson.finish_times(arrivals, LENGTHS, 4, C))


def test_a_static_batch_waits_to_be_full_and_a_dynamic_one_for_so_long():
    arrivals = [0.0, 1.0, 5.0, 6.0]
    begun = {
        way: [text.begun for text in load.simulate(way, arrivals, [1, 2, 1, 1], 3, C, patience)]
        for way, patience in (("static", 0), ("dynamic", 2.0), ("continuous", 0))
    }
    assert begun["static"] == [5.0, 5.0, 5.0, 7.25]  # a pass of three, and one of one
    assert begun["dynamic"] == [2.0, 2.0, 6.0, 6.0]
    assert begun["continuous"] == [0.0, 1.0, 5.0, 6.0]


def test_arrivals_come_at_their_rate():
    arrivals = load.poisson(4000, 0.5)
    gaps = np.diff(arrivals)
    assert arrivals[0] == 0 and gaps.min() >= 0
    assert abs(gaps.mean() - 2) < 0.1 and abs(gaps.std() - 2) < 0.15  # as large as their mean: exponential


def test_the_knee_is_where_latency_has_grown():
    assert load.knee([1, 2, 3], [1.0, 1.5, 2.5]) == 3
    assert load.knee([1, 2, 3], [1.0, 1.5, 2.0]) is None
