"""Measure functions side by side: time, peak memory, and bytes and number of allocations.

    round 0   a  b  c     compiles, fills caches: kept apart as `first`
    round 1   a  b  c  |
    round 2   a  b  c  |  median, lower and upper quartile of each column
    ...                |
    then once each        allocations of NumPy arrays, of compiled code, and the peak of both

Interleaving lets a noisy neighbour slow all of them, and not only the one that ran at the time. A short call
is made a few times in a row, and their median counts: right after a long one it finds its threads asleep or
without a core. All that measures has a budget of seconds: where it does not last, there are fewer rounds or
points, and it says so.

    bench.compare({"loops": f, "NumPy": g})     a table, with ratios to the first
    bench.interleaved(...)                      the timings alone
    bench.sweep(sizes, measure)                 what measure(size, seconds) gives, coarse sizes first
    bench.rate(tokens)                          how many a second come out of an iterator
    bench.allocations(f)                        what one call allocates, as Go's -benchmem counts it
    bench.sized(64, 256)                        the first, or with BLOCKS2TOKENS_FULL=1 the second
"""

import html
import os
import tracemalloc
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numba.core.runtime import _nrt_python, rtsys

from blocks2tokens.course import budget
from blocks2tokens.course.numpy_allocations import counting

BUDGET = 8.0  # seconds of a call of `interleaved` or `compare`, without the first round
SWEEP = 20.0  # seconds of a sweep
ROW, MOST_IN_A_ROW = 0.02, 5  # no further call in a row after so many seconds or calls

Point, Result = TypeVar("Point", bound=Hashable), TypeVar("Result")


def sized(small, full):
    """Return `full` if BLOCKS2TOKENS_FULL=1 asks for the large sizes, `small` otherwise."""
    return full if os.environ.get("BLOCKS2TOKENS_FULL") == "1" else small


@dataclass(frozen=True)
class Timing:
    """Seconds: the first call; median and quartiles of the others, `runs` where `asked` were wanted."""

    first: float
    median: float
    low: float
    high: float
    runs: int = 1
    asked: int = 1


@dataclass(frozen=True)
class Allocations:
    """What one call allocates.

    count    arrays made, by NumPy and by compiled code; a freed one still counts
    nbytes   bytes that NumPy asked for in all (compiled code does not tell)
    peak     bytes at most at one time, of what Python and NumPy hold
    """

    count: int
    nbytes: int
    peak: int


def interleaved(
    functions: Mapping[Hashable, Callable], repeats: int = 7, seconds: float = BUDGET
) -> dict[Hashable, Timing]:
    """Call each function once, then in turn `repeats` times, or as often as fits; return {name: Timing}.

    A turn of a short one is a few calls in a row. The first calls of all do not count: they compile. What is
    left out is said in a line below the cell.
    """
    with budget.progress((repeats + 1) * len(functions), "compiling") as bar:
        return _timings(functions, repeats, seconds, bar)


def _timings(functions, repeats, seconds, bar):
    runs, timings = [], {}
    for n in budget.rounds(repeats, seconds):
        most = MOST_IN_A_ROW if n else 1
        runs.append({name: _seconds(function, bar, most) for name, function in functions.items()})
        bar.set_description("measuring", refresh=False)
    first, *runs = runs
    for name in functions:
        low, median, high = np.percentile([run[name] for run in runs], (25, 50, 75))
        timings[name] = Timing(first[name], float(median), float(low), float(high), len(runs), repeats)
    return timings


def sweep(
    points: Iterable[Point], measure: Callable[[Point, float], Result], seconds: float = SWEEP
) -> dict[Point, Result]:
    """Return {point: measure(point, its share of the seconds)} in the order of the points.

    They are measured coarse first: both ends, always, then the middle, then what lies between, until the
    seconds are spent. A point may take more or less than its share; the others share what is left.
    """
    points, found, start = list(points), {}, budget.clock()
    with budget.progress(len(points), "points") as bar, budget.collected() as notes:
        for place, point in enumerate(budget.coarse_first(points)):
            left = seconds - (budget.clock() - start)
            if place > 1 and left <= 0:
                break
            found[point] = measure(point, max(0.0, left) / (len(points) - place))
            bar.update()
    if len(found) < len(points) or notes:
        fewer = ", some with fewer rounds" if notes else ""
        budget.note(f"Time for {len(found)} of {len(points)} points{fewer}.")
    return {point: found[point] for point in points if point in found}


def rate(items: Iterable, seconds: float = BUDGET) -> float:
    """Return how many items come in a second, from the first on; takes no more when the seconds are spent."""
    items = iter(items)
    next(items)
    start, n, spent = budget.clock(), 0, 0.0
    for _ in items:
        n, spent = n + 1, budget.clock() - start
        if spent >= seconds:
            break
    return n / spent if spent else 0.0


def allocations(function: Callable) -> Allocations:
    """Call a function twice, counting: once its allocations, once the peak of its memory."""
    _nrt_python.memsys_enable_stats()
    before = rtsys.get_allocation_stats().mi_alloc
    with counting() as arrays:
        function()
    compiled = rtsys.get_allocation_stats().mi_alloc - before
    return Allocations(arrays.count + compiled, arrays.nbytes, _peak(function))


def _peak(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _seconds(function, bar, most):
    """Return the median of a few calls in a row, of one where it is long."""
    row = []
    while len(row) < most and sum(row) < ROW:
        start = budget.clock()
        function()
        row.append(budget.clock() - start)
    bar.update()
    return float(np.median(row))


def compare(
    functions: Mapping[str, Callable],
    repeats: int = 7,
    costs: Mapping | None = None,
    seconds: float = BUDGET,
) -> "Table":
    """Time and count each function; the first is what the others are compared with.

    `costs` may give each name what it does by the count: {"weights decoded": n, "bytes read": n, ...}. The
    table has a column of runs if there was no time for all `repeats`.
    """
    rows = {}
    with budget.progress((repeats + 2) * len(functions), "compiling") as bar, budget.collected():
        timings = _timings(functions, repeats, seconds, bar)
        for name, function in functions.items():
            rows[name] = timings[name], allocations(function)
            bar.update()
    return Table(rows, dict(costs or {}))


@dataclass(frozen=True)
class Table:
    """Measurements by name; shows itself as a table."""

    rows: dict[str, tuple[Timing, Allocations]]
    costs: dict[str, dict[str, int]]

    def cells(self) -> list[list[str]]:
        """Return the table as text, header first."""
        counted = list(dict.fromkeys(key for cost in self.costs.values() for key in cost))
        fewer = any(t.runs < t.asked for t, _ in self.rows.values())
        header = ["", "median", *["runs"] * fewer, "quartiles", "against", "first call"]
        table = [[*header, "peak", "allocated", "allocs", *counted]]
        reference = next(iter(self.rows.values()))[0].median
        for name, (t, a) in self.rows.items():
            cost = self.costs.get(name, {})
            table.append(
                [
                    name,
                    seconds(t.median),
                    *[f"{t.runs} of {t.asked}"] * fewer,
                    f"{seconds(t.low)} – {seconds(t.high)}",
                    ratio(reference, t.median),
                    seconds(t.first),
                    size(a.peak),
                    size(a.nbytes),
                    f"{a.count:,}",
                    *(f"{cost[key]:,}" if key in cost else "" for key in counted),
                ]
            )
        return table

    def __repr__(self):
        cells = self.cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        return "\n".join("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells)

    def _repr_html_(self):
        header, *rows = [[html.escape(cell) for cell in row] for row in self.cells()]
        head = "".join(f"<th>{cell}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def ratio(reference: float, value: float) -> str:
    """Say how a time compares with a reference: "3.2× faster", "1.5× slower"."""
    if value == reference:
        return "1×"
    times = max(reference / value, value / reference)
    number = f"{times:,.0f}" if times >= 999.5 else f"{times:.3g}"  # no exponent
    return f"{number}× {'faster' if value < reference else 'slower'}"


def seconds(value: float) -> str:
    """Return a time with its unit, three digits."""
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if value * scale >= 0.9995:  # what three digits round up to 1
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def size(n_bytes: float) -> str:
    """Return a number of bytes with its unit, three digits."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes:.0f} B"
