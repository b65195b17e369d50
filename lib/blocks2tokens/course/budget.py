"""Seconds that a loop may measure for: it ends early rather than late, and says what is missing.

    for n in rounds(7, seconds=8):            0, then 1 to 7, or as many as fit
    coarse_first([1, 2, 4, 8, 16, 32])        1 32 4 2 8 16: who stops early has the whole range
    with progress(80, "measuring") as bar:    a line on stderr after two seconds, gone at the end

Round 0 compiles and is not counted, round 1 is always run: there is a median even where time is short. On a
quiet machine all rounds fit; with busy neighbours fewer do, which shows as a line below the cell:

    Time for 3 of 7 rounds.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

clock = time.perf_counter
DELAY = 2.0  # seconds until a line of progress is shown

_notes: list[str] | None = None  # where notes are kept instead of printed
_shown = False  # is there a line of progress


def rounds(repeats: int, seconds: float) -> Iterator[int]:
    """Yield 0, then 1 to `repeats`; none begins that would end too late if it took as long as the last.

    Time counts from the end of round 0. Notes how many rounds there were, if not all.
    """
    yield 0
    start = before = clock()
    for n in range(1, repeats + 1):
        yield n
        now = clock()
        if n < repeats and (now - start) + (now - before) > seconds:
            note(f"Time for {n} of {repeats} rounds.")
            return
        before = now


def coarse_first(points: Sequence) -> list:
    """Return the points in another order: the ends, then the middle of each gap, widest gaps first."""
    if not points:
        return []
    last = len(points) - 1
    order, gaps = list(dict.fromkeys((0, last))), [(0, last)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return [points[i] for i in order]


def note(text: str) -> None:
    """Print a line, or keep it for whoever collects them."""
    if _notes is None:
        print(text)
    else:
        _notes.append(text)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collect the notes of what is measured inside; they are not printed."""
    global _notes
    outside, _notes = _notes, []
    try:
        yield _notes
    finally:
        _notes = outside


@contextmanager
def progress(total: int, what: str) -> Iterator[tqdm]:
    """Show a line of progress, on stderr, as long as it takes more than DELAY; none inside another.

    It comes also while the first step goes on, which may be one that compiles for a while.
    """
    global _shown
    if _shown:
        yield tqdm(disable=True)
        return
    with tqdm(total=total, desc=what, delay=DELAY, leave=False, mininterval=0.5) as bar:

        def show():
            bar.last_print_t = time.time()  # or tqdm would not wipe it off
            bar.refresh()

        timer = threading.Timer(DELAY, show)
        timer.daemon = True
        if not bar.disable:
            timer.start()
        _shown = True
        try:
            yield bar
        finally:
            _shown = False
            timer.cancel()
