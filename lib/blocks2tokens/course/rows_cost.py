"""What a pass of several rows costs: c(k), the time of k rows in times of one row.

    cost = measure(model)              passes of 1, 2, 3 ... 16 rows, each behind the same tokens
    cost.of(4)                         c(4); between what was measured in proportion
    cost.each()                        [c(1), c(2), ..., c(16)]
    draw({"SmolLM2": cost}, title)     the curves, with quartiles, beside "one after the other"

A pass reads each weight once, whatever its rows. So c(k) says what k tokens cost that are known beforehand:
guesses that are to be judged, or the next tokens of k texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import bench, plot
from blocks2tokens.course.bench import Timing
from blocks2tokens.model.transformer import MOST_ROWS

ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
BEHIND = 128  # tokens that the rows see, or as many as the context has room for
MARKS = ("o-", "s--", "^:", "d-.")


@dataclass(frozen=True)
class RowsCost:
    """Timings of passes, {rows: Timing}, one row among them."""

    timings: Mapping[int, Timing]

    def of(self, rows: float) -> float:
        """Return c(rows), from 1 to the most that were measured; 1.0 for one row."""
        return float(np.interp(rows, list(self.timings), self.medians())) / self.timings[1].median

    def each(self) -> list[float]:
        """Return c(1), c(2) and so on, to the most rows that were measured."""
        return [self.of(rows) for rows in range(1, max(self.timings) + 1)]

    def medians(self) -> list[float]:
        """Return the seconds of each that was measured, in order."""
        return [timing.median for timing in self.timings.values()]


def measure(model, rows: Sequence[int] = ROWS, repeats: int = 15, seconds: float = 5.0) -> RowsCost:
    """Measure passes of a b2t.Model, each of so many tokens of one text, in turn, for so many seconds."""
    transformer, vocabulary = model.transformer, model.config.vocab_size
    behind = min(BEHIND, model.config.context_length - MOST_ROWS)
    ids = [7 * i % vocabulary for i in range(behind + MOST_ROWS)]
    cache = transformer.new_cache(len(ids))
    transformer.next_logits(ids[:behind], cache)

    def run(n_rows):
        transformer.steps(ids[behind : behind + n_rows], cache)
        cache.truncate(behind)

    run(MOST_ROWS)  # all passes find their memory there
    return RowsCost(bench.interleaved({n: partial(run, n) for n in rows}, repeats, seconds))


def draw(costs: Mapping[str, RowsCost], title: str) -> Axes:
    """Draw c(k) over the rows of a pass, {name: cost}."""
    axes = plt.subplots()[1]
    most = max(max(cost.timings) for cost in costs.values())
    axes.plot([1, most], [1, most], color="0.55", lw=1)
    top = 1.15 * max(cost.of(max(cost.timings)) for cost in costs.values())
    place = min(most, top) * 0.9
    axes.annotate("one after the other", (place, place), (-6, 0), textcoords="offset points", ha="right")
    for mark, colour, (name, cost) in zip(MARKS, plot.COLOURS, costs.items(), strict=False):
        one, timings = cost.timings[1].median, cost.timings.values()
        low, high = ([abs(getattr(t, end) - t.median) / one for t in timings] for end in ("low", "high"))
        middle = [t.median / one for t in timings]
        axes.errorbar(list(cost.timings), middle, (low, high), fmt=mark, color=colour, capsize=3, label=name)
    axes.set(xlabel="rows of a pass, k", ylabel="c(k), in passes of one row", title=title)
    axes.set(xlim=(0.5, most + 0.5), ylim=(0, top))
    axes.legend(loc="lower right")
    return axes
