"""Lesson 29, batching: rows worth running, who takes a free slot, a queue under load, chunks, admission.

rows_to_run     c(k), the slowest that is allowed      -> k
continuous      lengths of texts, slots                -> slot and first pass of each
finish_times    arrivals, lengths, slots, c(k)         -> when each text is complete
chunks_of       tokens of a prompt, chunk              -> tokens of each chunk
admit           who waits, free slots, free pages      -> how many of them begin
"""

from functools import partial
from operator import le, lt

from blocks2tokens.course.check.exercise import Exercise, Mistake
from blocks2tokens.course.lessons.batching import load

# rows_to_run: c [16], slowest -> k


def rows_to_run(c, slowest):
    """Return the k with most tokens in all, where a pass takes at most `slowest` passes of one row.

    c[k - 1] is what a pass of k rows takes; of several k with as many tokens, the least.
    """
    allowed = [k for k in range(1, len(c) + 1) if c[k - 1] <= slowest]
    return max(allowed, key=lambda k: k / c[k - 1])


FLAT = [1, 1, 1.25, 1.25, 1.5, 1.75, 1.75, 2, 2.5, 2.5, 2.75, 3, 3.25, 3.5, 3.75, 4]
STEPS = [1, 1.25, 1.5, 1.5, 3, 3, 3, 3.25, 5, 5, 5, 5, 7, 7, 7, 7]
LINE = [1, 2, 3, 4, 5, 6, 7, 8]
BUMP = [1, 1, 1.75, 1.75, 1.75, 1.75]  # more rows give more, then less, then more
MEASURED = [1, 1.5, 1.25, 2, 2.25]  # no line is drawn by a clock


def load_cases():
    return {
        "nearly flat, nobody in a hurry": (FLAT, 100),
        "nearly flat, at most twice as slow": (FLAT, 2.25),
        "nearly flat, not slower at all": (FLAT, 1),
        "in steps, at most three times": (STEPS, 3),
        "in steps, nobody in a hurry": (STEPS, 100),
        "no gain": (LINE, 8),
        "a step, then flat": (BUMP, 100),
        "three rows are faster than two": (MEASURED, 1.25),
    }


def rows_with(c, slowest, gain=lambda k, c: k / c[k - 1], allowed=lambda k, c, s: c[k - 1] <= s, first=1):
    """Return the right answer with a place for each mistake."""
    found = [k for k in range(1, len(c) + 1) if allowed(k, c, slowest)]
    return max(found, key=lambda k: gain(k, c)) - 1 + first


def up_to_the_first_top(c, slowest):
    k = 1
    while k < len(c) and c[k] <= slowest and (k + 1) / c[k] > k / c[k - 1]:
        k += 1
    return k


def up_to_the_first_slow(c, slowest):
    fast = next((k for k, cost in enumerate(c) if cost > slowest), len(c))
    return rows_to_run(c[:fast], slowest)


def last_of_the_best(c, slowest):
    gains = {k: k / cost for k, cost in enumerate(c, start=1) if cost <= slowest}
    return max(k for k in gains if gains[k] == max(gains.values()))


ROWS_TO_RUN = Exercise(
    name="rows_to_run",
    engine=rows_to_run,
    cases=load_cases,
    mistakes=(
        Mistake(partial(rows_with, first=0), "one too few: c[0] is a pass of one row"),
        Mistake(
            partial(rows_with, gain=lambda k, c: k),
            "the most rows that are allowed: where c jumps, more rows give fewer tokens",
        ),
        Mistake(
            partial(rows_with, allowed=lambda k, c, s: True),
            "`slowest` is not looked at: each of the k texts gets its token after c(k)",
        ),
        Mistake(
            partial(rows_with, allowed=lambda k, c, s: k <= s),
            "you compare rows with `slowest`: what a text waits for is c(k), not k",
        ),
        Mistake(
            partial(rows_with, gain=lambda k, c: 1 / c[k - 1]),
            "that is what one of them gets: all k together get k tokens a pass",
        ),
        Mistake(
            last_of_the_best,
            "of several k with as many tokens take the least: more rows let everybody wait, and give nothing",
        ),
        Mistake(
            up_to_the_first_top,
            "you stop at the first k that gives no more: behind a step of c(k) there can be more. Try all",
        ),
        Mistake(
            up_to_the_first_slow,
            "you stop at the first pass that is too slow: c(k) is measured, and one of more rows may be "
            "faster. Look at all",
        ),
        Mistake(
            lambda c, slowest: max(
                (k for k in range(1, len(c) + 1) if c[k - 1] < slowest), key=lambda k: k / c[k - 1], default=1
            ),
            "a pass may be as long as `slowest`: <=, not <",
        ),
        Mistake(
            lambda c, slowest: (k := rows_to_run(c, slowest)) / c[k - 1],
            "that is how many tokens they get in all: wanted is k",
        ),
    ),
    hints=(
        "A pass of k rows gives k tokens and takes c[k - 1]. Which k are allowed, and which of these gives "
        "most tokens for its time?",
        "Filter by c[k - 1] <= slowest, then take the max by k / c[k - 1]: it keeps the first of equal ones.",
    ),
)


# continuous: lengths, slots -> slots, first passes


def continuous(lengths, slots):
    """Return the slot of each text and the pass that it begins with; a text takes as many passes as tokens.

    All wait from the beginning, in this order. Who comes next takes the slot that is free first, of several
    the one with the lowest number.
    """
    # and in the engine: Scheduler._admit in serving/scheduler.py
    free, taken, firsts = [0] * slots, [], []
    for n_tokens in lengths:
        slot = free.index(min(free))
        taken.append(slot)
        firsts.append(free[slot])
        free[slot] += n_tokens
    return taken, firsts


def queue_cases():
    return {
        "one long text": ([9, 2, 2, 2, 2], 2),
        "three slots": ([3, 5, 2, 4, 1, 6, 2], 3),
        "all alike": ([4, 4, 4, 4], 2),
        "more slots than texts": ([3, 1], 4),
        "one slot": ([2, 3, 1], 1),
        "a short one before a long one": ([1, 7, 3, 1, 8, 2, 2, 5], 3),
    }


def queue_with(
    lengths,
    slots,
    pick=lambda free, i: free.index(min(free)),
    begin=lambda free, slot: free[slot],
    lost=0,
    order=lambda lengths: range(len(lengths)),
):
    """Return the right answer with a place for each mistake."""
    free, taken, firsts = [0] * slots, [0] * len(lengths), [0] * len(lengths)
    for place, i in enumerate(order(lengths)):
        slot = pick(free, place)
        taken[i], firsts[i] = slot, begin(free, slot)
        free[slot] = firsts[i] + lengths[i] + lost
    return taken, firsts


def last_of_the_free(free, i):
    return max(slot for slot, at in enumerate(free) if at == min(free))


def length_for_the_place(lengths, slots):
    free, taken, firsts = [0] * slots, [], []
    for n_tokens in lengths:
        slot = free.index(min(free))
        taken.append(slot)
        firsts.append(free[slot])
        free[slot] = n_tokens
    return taken, firsts


CONTINUOUS = Exercise(
    name="continuous",
    engine=continuous,
    cases=queue_cases,
    mistakes=(
        Mistake(
            load.static,
            "that is the static schedule: nobody begins before the longest of a batch has ended",
        ),
        Mistake(
            partial(queue_with, pick=lambda free, i: i % len(free)),
            "slots are dealt out in turn: take the one that is free first, whichever it is",
        ),
        Mistake(
            partial(queue_with, pick=last_of_the_free),
            "of several free slots take the lowest number",
        ),
        Mistake(
            partial(queue_with, lost=1),
            "a pass is lost between two texts: the next begins with the pass behind the last one's end",
        ),
        Mistake(
            partial(queue_with, order=lambda lengths: sorted(range(len(lengths)), key=lambda i: lengths[i])),
            "the shortest go first: nobody knows how long a text will be; first come, first served",
        ),
        Mistake(
            partial(queue_with, pick=lambda free, i: free.index(max(free))),
            "you take the slot that is free last",
        ),
        Mistake(
            lambda lengths, slots: continuous(lengths, slots)[::-1],
            "the two are exchanged: first the slots, then the passes",
        ),
        Mistake(
            lambda lengths, slots: list(zip(*continuous(lengths, slots), strict=True)),
            "you return a pair for each text: wanted are two lists, slots and first passes",
        ),
        Mistake(
            lambda lengths, slots: (
                (found := continuous(lengths, slots))[0],
                [first + n for first, n in zip(found[1], lengths, strict=True)],
            ),
            "those are the passes from which the slots are free again: note when a text begins before you "
            "add its length",
        ),
        Mistake(
            lambda lengths, slots: (
                (found := continuous(lengths, slots))[0],
                [first + 1 for first in found[1]],
            ),
            "passes are counted from 0: the first text begins with pass 0",
        ),
        Mistake(
            partial(queue_with, begin=lambda free, slot: free[slot], lost=-1),
            "two texts in one row: the next begins with the pass behind the last one's end",
        ),
        Mistake(
            length_for_the_place,
            "a slot that was taken at pass 4 for 3 tokens is free at 7, not at 3: add the length",
        ),
    ),
    hints=(
        "Keep for each slot the pass from which it is free. Who comes next looks for the smallest of them.",
        "free.index(min(free)) is the lowest slot that is free first. The text begins at free[slot], and the "
        "slot is free again n_tokens later.",
    ),
    parts=("slots", "first passes"),
)


# finish_times: arrivals, lengths, slots, c -> times


def finish_times(arrivals, lengths, slots, c):
    """Return when each text is complete; times in passes of one row, arrivals in order.

    Before a pass, who has arrived takes a free slot. A pass of k rows takes c[k - 1] and gives each of them a
    token.
    """
    # and in the engine: Scheduler.turn in serving/scheduler.py
    now, waiting, left, ends = 0.0, list(range(len(lengths))), {}, [0.0] * len(lengths)
    while waiting or left:
        if not left:
            now = max(now, arrivals[waiting[0]])
        while waiting and len(left) < slots and arrivals[waiting[0]] <= now:
            text = waiting.pop(0)
            left[text] = lengths[text]
        now += c[len(left) - 1]
        for text in list(left):
            left[text] -= 1
            if not left[text]:
                ends[text] = now
                del left[text]
    return ends


def arrival_cases():
    return {
        "two together": ([0, 0], [3, 2], 2, [1, 1.25]),
        "the second comes later": ([0, 1.5], [3, 3], 2, [1, 1.25]),
        "it waits for a slot": ([0, 0.5, 1], [2, 4, 2], 2, [1, 1.5]),
        "nothing to do for a while": ([0.25, 9.5, 9.5], [2, 3, 1], 3, [1, 1.25, 1.5]),
        "three slots": ([0, 0.5, 1, 1.25, 6], [4, 2, 5, 1, 2], 3, [1, 1.25, 1.75]),
        "one slot": ([0, 1, 2], [2, 2, 1], 1, [1]),
        "two come during a pass": ([0, 0.25, 0.5], [4, 1, 2], 3, [1, 1.25, 1.75]),
    }


def finish_with(
    arrivals,
    lengths,
    slots,
    c,
    cost=lambda c, k, slots: c[k - 1],
    arrived=lambda at, now, step: at <= now,
    may=lambda left, slots: len(left) < slots,
    jump=True,
    given=lambda end, arrival: end,
):
    """Return the right answer with a place for each mistake."""
    now, waiting, left, ends = 0.0, list(range(len(lengths))), {}, [0.0] * len(lengths)
    while waiting or left:
        if not left and jump:
            now = max(now, arrivals[waiting[0]])
        open_now = may(left, slots)
        while waiting and open_now and len(left) < slots:
            if not arrived(arrivals[waiting[0]], now, c[max(0, len(left) - 1)]):
                break
            text = waiting.pop(0)
            left[text] = lengths[text]
        now += cost(c, len(left), slots) if left else 1
        for text in list(left):
            left[text] -= 1
            if not left[text]:
                ends[text] = given(now, arrivals[text])
                del left[text]
    return ends


def finish_in_lists(
    arrivals, lengths, slots, c, ready=None, at_most=None, now_at=max, skips=False, tokens_first=False
):
    """Return the right answer from lists, with a place for each mistake of this form."""
    now, waiting, running, ends = 0.0, list(range(len(lengths))), [], [0.0] * len(lengths)
    left = list(lengths)
    while waiting or running:
        if not running:
            now = now_at(now, arrivals[waiting[0]])
        begun = 0
        while waiting and len(running) < slots and begun != at_most:
            is_first = not running
            if not (ready(arrivals[waiting[0]], now, is_first) if ready else arrivals[waiting[0]] <= now):
                break
            running.append(waiting.pop(0))
            begun += 1
        now += 0 if tokens_first else c[len(running) - 1]
        for text in running if skips else list(running):
            left[text] -= 1
            if not left[text]:
                ends[text] = now
                running.remove(text)
        now += c[len(running) - 1] if tokens_first else 0
    return ends


FINISH = Exercise(
    name="finish_times",
    engine=finish_times,
    cases=arrival_cases,
    mistakes=(
        Mistake(
            partial(finish_with, cost=lambda c, k, slots: 1),
            "every pass takes as long as one row: a pass of k rows takes c[k - 1]",
        ),
        Mistake(
            partial(finish_with, cost=lambda c, k, slots: c[slots - 1]),
            "every pass takes as long as a full one: k are the rows that run, not the slots",
        ),
        Mistake(
            partial(finish_with, cost=lambda c, k, slots: k),
            "one after the other: k rows share a pass, which takes c[k - 1]",
        ),
        Mistake(
            partial(finish_with, arrived=lambda at, now, step: True),
            "you let a text begin before it has arrived",
        ),
        Mistake(
            partial(finish_with, may=lambda left, slots: not left),
            "new texts begin only when nobody runs: that is the static batch",
        ),
        Mistake(
            partial(finish_with, arrived=lambda at, now, step: at < now + step),
            "who arrives during a pass joins the next one, not this one",
        ),
        Mistake(
            partial(finish_with, jump=False),
            "where nobody runs no pass is made: time goes on to the next arrival, not by a pass",
        ),
        Mistake(
            partial(finish_with, given=lambda end, arrival: end - arrival),
            "that is how long each took: the time of day was asked for",
        ),
        Mistake(
            partial(finish_in_lists, skips=True),
            "you take texts out of the list that your loop goes through: the one behind is skipped. Loop "
            "over a copy, list(...)",
        ),
        Mistake(
            partial(finish_in_lists, at_most=1),
            "before a pass you let one text in: all who have arrived begin, as long as there is a slot",
        ),
        *(
            Mistake(
                partial(finish_in_lists, ready=ready),
                "who arrives at the very moment at which a pass begins is in it: <=, not <",
            )
            for ready in (
                lambda at, now, is_first: at < now,
                lambda at, now, is_first: at < now or is_first,
            )
        ),
        Mistake(
            partial(finish_in_lists, now_at=lambda now, arrival: arrival),
            "your time goes back: who arrived while others ran begins now, at max(now, arrival)",
        ),
        Mistake(
            partial(finish_in_lists, tokens_first=True),
            "a token is there when its pass has ended: add c first, then give the tokens",
        ),
        Mistake(
            lambda arrivals, lengths, slots, c: sorted(finish_times(arrivals, lengths, slots, c)),
            "your times are in the order in which texts end: wanted is the order in which they came",
        ),
    ),
    hints=(
        "A loop over passes, with four lines: if nobody runs, go to the next arrival; let those in who have "
        "arrived while there is a slot; add the pass to the time; give each a token, and take out who is "
        "complete.",
        "Keep {text: tokens left} of those that run. len of it is k, and the pass takes c[k - 1].",
    ),
    tolerance=1e-9,
)


# chunks_of: n, chunk -> sizes


def chunks_of(n, chunk):
    """Return the tokens of each chunk of a prompt of n: `chunk` each, and the rest goes with the last."""
    # and in the engine: last_chunk in serving/scheduler.py
    whole = max(0, n // chunk - 1)
    return [chunk] * whole + [n - whole * chunk]


def prompt_cases():
    return {
        "shorter than a chunk": (40, 64),
        "a chunk and a bit": (100, 64),
        "two chunks": (128, 64),
        "two and a bit": (130, 64),
        "one token": (1, 64),
        "a long one": (1000, 64),
        "other chunks": (1000, 128),
    }


def rest_alone(n, chunk):
    return [chunk] * (n // chunk) + ([n % chunk] if n % chunk else [])


def too_long_a_last(n, chunk):
    whole = max(0, -(-n // chunk) - 2)
    return [chunk] * whole + [n - whole * chunk]


def in_equal_parts(n, chunk):
    parts = -(-n // chunk)
    return [n // parts + (i < n % parts) for i in range(parts)]


CHUNKS = Exercise(
    name="chunks_of",
    engine=chunks_of,
    cases=prompt_cases,
    mistakes=(
        Mistake(
            rest_alone,
            "the rest stands alone: a pass for a few rows costs nearly what one for many does, so it goes "
            "with the chunk before it",
        ),
        Mistake(
            lambda n, chunk: [chunk] * (n // chunk) + [n % chunk],
            "the rest stands alone, and is 0 where nothing is left over: it goes with the chunk before it",
        ),
        Mistake(
            lambda n, chunk: chunks_of(n, chunk)[::-1],
            "the rest is read first: then the cuts are elsewhere for each prompt. It goes with the last",
        ),
        Mistake(
            lambda n, chunk: len(chunks_of(n, chunk)),
            "that is how many chunks there are: wanted are the tokens of each, a list",
        ),
        Mistake(lambda n, chunk: [n], "all at once: then everybody waits for all of it"),
        Mistake(lambda n, chunk: [chunk] * (n // chunk), "the rest is lost"),
        Mistake(
            too_long_a_last,
            "the last has two whole chunks when nothing is left over: 128 are 64 and 64",
        ),
        Mistake(
            in_equal_parts, "equal parts: who shares a prompt's beginning needs the same cuts, at 64, 128"
        ),
        Mistake(
            lambda n, chunk: [chunk] * max(0, n // chunk - 1) + [chunk + n % chunk],
            "a prompt that is shorter than a chunk is a chunk of its own length",
        ),
    ),
    hints=(
        "How many chunks are whole and not the last? One less than n // chunk, and never less than none.",
        "[chunk] * whole, and behind them what is left: n - whole * chunk.",
    ),
)


# admit: waiting [(prompt, most, shared)], slots, pages, page -> n


def admit(waiting, slots, pages, page):
    """Return how many of those who wait may begin now; first come, first served, nobody overtakes.

    Each is (prompt tokens, most tokens of the answer, tokens of the prompt in pages that others hold);
    slots and pages are those that are free, a page has room for `page` tokens.
    """
    # and in the engine: Scheduler._admit in serving/scheduler.py
    n = 0
    for prompt, most, shared in waiting:
        needed = -(-(prompt + most) // page) - shared // page
        if n == slots or needed > pages:
            break
        n, pages = n + 1, pages - needed
    return n


def waiting_cases():
    mixed = [(100, 60, 0), (10, 20, 0), (300, 100, 0), (5, 5, 0), (5, 5, 0)]
    return {
        "room for all": (mixed, 8, 20, 64),
        "three slots": (mixed, 3, 20, 64),
        "the third does not fit": (mixed, 8, 9, 64),
        "the first does not fit": (mixed, 8, 2, 64),
        "a beginning that is shared": ([(200, 50, 192), (200, 50, 192), (200, 50, 0)], 8, 3, 64),
        "just enough": ([(64, 64, 0), (65, 63, 0), (1, 1, 0)], 8, 4, 64),
        "small pages": ([(9, 3, 0), (8, 9, 8), (4, 5, 0)], 8, 5, 4),
        "nobody": ([], 8, 20, 64),
        "no free slot": (mixed, 0, 20, 64),
        "short ones, a page each": ([(5, 5, 0)] * 6, 8, 3, 64),
    }


def admit_with(
    waiting,
    slots,
    pages,
    page,
    tokens=lambda prompt, most: prompt + most,
    up=True,
    shares=True,
    overtakes=False,
    takes=True,
    counts_slots=True,
):
    """Return the right answer with a place for each mistake."""
    n = 0
    for prompt, most, shared in waiting:
        all_of_it = tokens(prompt, most)
        needed = -(-all_of_it // page) if up else all_of_it // page
        needed -= shared // page if shares else 0
        if counts_slots and n == slots:
            break
        if needed > pages:
            if overtakes:
                continue
            break
        n, pages = n + 1, pages - (needed if takes else 0)
    return n


def pages_for(prompt, most, shared, page):
    return -(-(prompt + most) // page) - shared // page


def admit_by(waiting, slots, pages, page, price=pages_for, fits=le, late=False):
    """Return the right answer in another form, with a place for each mistake."""
    n = 0
    for text in waiting:
        needed = price(*text, page)
        if n == slots or not fits(needed, pages):
            return n + (late and n != slots)
        pages, n = pages - needed, n + 1
    return n


ADMIT = Exercise(
    name="admit",
    engine=admit,
    cases=waiting_cases,
    mistakes=(
        Mistake(
            partial(admit_with, tokens=lambda prompt, most: prompt),
            "pages for the prompt alone: the answer needs its own, or two texts wait for each other for ever",
        ),
        Mistake(partial(admit_with, up=False), "a page that is begun is a page: round up"),
        Mistake(
            partial(admit_with, overtakes=True),
            "somebody overtakes: a text that needs much would wait for ever behind small ones",
        ),
        Mistake(partial(admit_with, counts_slots=False), "there are no more than `slots` rows"),
        Mistake(partial(admit_with, takes=False), "who begins takes his pages: the next finds fewer"),
        Mistake(partial(admit_with, shares=False), "pages that others hold already are not needed again"),
        Mistake(
            partial(admit_by, price=lambda prompt, most, shared, page: (prompt + most - shared) / page),
            "you count tokens: a page belongs to one text, even where it is nearly empty. Round up for each",
        ),
        Mistake(
            partial(admit_by, price=lambda prompt, most, shared, page: prompt + most - shared),
            "you compare tokens with pages: `page` tokens are one page",
        ),
        Mistake(
            partial(
                admit_by,
                price=lambda prompt, most, shared, page: (
                    -(-prompt // page) - (-most // page) - shared // page
                ),
            ),
            "the answer goes on in the prompt's last page: round up their sum, not each",
        ),
        Mistake(
            partial(
                admit_by, price=lambda prompt, most, shared, page: pages_for(prompt, most, 0, page) - shared
            ),
            "`shared` is in tokens: shared // page are its pages",
        ),
        Mistake(
            partial(
                admit_by,
                price=lambda prompt, most, shared, page: (prompt + most) // page + 1 - shared // page,
            ),
            "where tokens just fill their pages no further page is needed: round up with -(-n // page)",
        ),
        Mistake(partial(admit_by, fits=lt), "just enough pages are enough"),
        Mistake(
            partial(admit_by, late=True),
            "you count the first one who does not fit: look before you count",
        ),
        Mistake(
            lambda waiting, slots, pages, page: waiting[: admit(waiting, slots, pages, page)],
            "those are the ones who begin: wanted is how many",
        ),
    ),
    hints=(
        "Go through them in order. A text needs the pages of prompt + most, rounded up, less those that are "
        "shared. Stop at the first who finds no slot or too few pages.",
        "-(-(prompt + most) // page) rounds up; shared // page are there already. Take them off `pages`.",
    ),
)

EXERCISES = [ROWS_TO_RUN, CONTINUOUS, FINISH, CHUNKS, ADMIT]
