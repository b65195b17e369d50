"""The pictures of the lesson on batching.

draw_slots        who is in which slot, pass by pass: a Gantt chart
draw_ways         schedules with arrivals, one above the other, on one axis of time
draw_cost         c(k), and the tokens that k texts get in all
draw_gaps         when one text's tokens come while a long prompt is read, whole and in chunks
draw_load         latency over the load, simulated and measured, with the knee
draw_measured     the Gantt chart of texts that a batcher served
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.course.lessons.batching.load import Text

SHADES = ("#08306b", "#9fb8d0", "#4a78a8", "#dbe6f0", "#2a5a8a", "#bcd0e2", "#6f97bd", "#eef3f8")
DARK = (0, 2, 4)  # places of shades that need white letters
MARKS = ("o-", "s--", "^:", "d-.")


def _bar(axes: Axes, name: int, slot: int, start: float, end: float) -> None:
    shade = name % len(SHADES)
    axes.barh(slot, end - start, left=start, height=0.86, color=SHADES[shade], edgecolor="k", lw=0.7)
    colour = "w" if shade in DARK else "k"
    axes.text((start + end) / 2, slot, f"{name}", ha="center", va="center", color=colour, size=9)


def draw_slots(lengths: Sequence[int], ways: Mapping[str, tuple]) -> None:
    """Draw schedules {name: (slot of each text, its first pass)}, in passes."""
    n_slots = 1 + max(max(taken) for taken, _ in ways.values())
    figure, column = plt.subplots(len(ways), 1, figsize=(9, 0.5 + 1.7 * len(ways)), sharex=True)
    ends = {}
    for axes, (name, (taken, firsts)) in zip(column, ways.items(), strict=True):
        for text, (n, slot, first) in enumerate(zip(lengths, taken, firsts, strict=True)):
            _bar(axes, text, slot, first, first + n)
        ends[name] = max(first + n for n, first in zip(lengths, firsts, strict=True))
        idle = n_slots * ends[name] - sum(lengths)
        _finish_slots(axes, n_slots, f"{name}: {ends[name]} passes, {idle} rows stand idle")
    column[-1].set_xlabel("passes (the number in a bar is the text)")
    figure.suptitle("Who ends leaves its slot to who waits", weight="bold")


def draw_ways(found: Mapping[str, Sequence[Text]]) -> None:
    """Draw {way: texts} as simulated, one above the other, on one axis of time."""
    n_slots = 1 + max(text.slot for texts in found.values() for text in texts)
    figure, column = plt.subplots(len(found), 1, figsize=(9, 0.6 + 1.9 * len(found)), sharex=True)
    means = {}
    for axes, (name, texts) in zip(column, found.items(), strict=True):
        _draw_texts(axes, texts, n_slots)
        means[name] = float(np.mean([text.latency for text in texts]))
        title = (
            f"{name}: done at {max(t.ended for t in texts):.1f}, a text takes {means[name]:.1f} on average"
        )
        _finish_slots(axes, n_slots, title, arrivals=True)
    column[-1].set_xlabel("time, in passes of one row (the number in a bar is the text)")
    best, worst = min(means, key=means.get), max(means, key=means.get)
    share = means[best] / means[worst]
    figure.suptitle(f"{best}: a text takes {share:.0%} of the time that it takes when {worst}", weight="bold")


def _draw_texts(axes, texts, n_slots):
    for name, text in enumerate(texts):
        _bar(axes, name, text.slot, text.begun, text.ended)
        axes.plot(text.arrived, n_slots, "v", color=plot.RED, ms=6)


def _finish_slots(axes, n_slots, title, arrivals=False):
    names = [f"slot {slot}" for slot in range(n_slots)] + ["arrivals"] * arrivals
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_title(title, size="medium")


def draw_cost(c: Sequence[float], name: str) -> None:
    """Draw c(k), and the tokens in all that it allows, beside what no cost at all would."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    rows = range(1, len(c) + 1)
    left.plot(rows, c, "o-")
    left.plot([1, len(c)], [1, len(c)], ":", color="0.4", label="one after the other")
    left.set(xlabel="rows of a pass, k", ylabel="c(k), in passes of one row", ylim=(0, 1.3 * max(c)))
    left.set_title("What everybody in a pass waits", size="medium")
    in_all = [k / cost for k, cost in zip(rows, c, strict=True)]
    right.plot(rows, in_all, "o-", label="k / c(k)")
    right.plot(rows, rows, ":", color="0.4", label="if rows cost nothing")
    right.set(xlabel="texts at once, k", ylabel="tokens in all, one text = 1", ylim=(0, 1.3 * max(in_all)))
    right.set_title("What all get together", size="medium")
    for axes in (left, right):
        axes.legend(loc="lower right")
        axes.set_xticks([1, 2, *range(4, len(c) + 1, 4)])
    title = f"{name}: {len(c)} rows cost {c[-1]:.1f} passes, and give {in_all[-1]:.1f} times the tokens"
    figure.suptitle(title, weight="bold")


def draw_gaps(found: Mapping[str, Text]) -> None:
    """Draw {way: a text}: a mark for each token, beside the other's."""
    axes = plt.subplots(figsize=(9, 1.1 + 0.6 * len(found)))[1]
    for y, (_way, text) in enumerate(found.items()):
        axes.plot(text.tokens, [y] * len(text.tokens), "|", ms=18, mew=1.5, color="k")
        gaps = np.diff(text.tokens)
        at = int(gaps.argmax())
        axes.plot(text.tokens[at : at + 2], [y, y], lw=5, color=plot.ORANGE, solid_capstyle="butt")
    axes.set_yticks(range(len(found)), list(found))
    axes.set(ylim=(len(found) - 0.4, -0.6), xlabel="seconds; a stroke is a token")
    axes.grid(axis="y", visible=False)
    whole, chunks = (text.longest_gap for text in found.values())
    axes.set_title(f"In chunks the longest gap is {chunks / whole:.0%} of that at once")


def draw_load(rates: Sequence[float], found: Mapping[str, Sequence[float]], knee: float | None) -> Axes:
    """Draw {what: latency at each rate}; rates in texts a second, knee: where it bends."""
    axes = plt.subplots(figsize=(8, 3.8))[1]
    for (name, seconds), mark in zip(found.items(), MARKS, strict=False):
        axes.plot(rates, seconds, mark, label=name)
    if knee is not None:
        axes.axvline(knee, color="0.4", ls=":", label="the knee")
    axes.set(xlabel="texts that arrive in a second", ylabel="latency of a text, s", ylim=(0, None))
    bent = "No knee up to here" if knee is None else f"Latency has doubled at {knee:.3g} texts a second"
    axes.set_title(bent)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def draw_measured(texts: Sequence[Text], unit: str = "seconds") -> Axes:
    """Draw the slots of a batcher: each text from its beginning to its last token, a mark at its arrival."""
    n_slots = max(text.slot for text in texts) + 1
    axes = plt.subplots(figsize=(9, 0.9 + 0.42 * n_slots))[1]
    _draw_texts(axes, texts, n_slots)
    _finish_slots(axes, n_slots, "", arrivals=True)
    axes.set_title(f"{len(texts)} texts in {n_slots} slots: who ends makes room at once")
    axes.set_xlabel(unit)
    return axes
