"""The pictures of the lesson on where the time goes.

draw_profile        a token, and below each stage what it is made of
draw_bytes          the bytes that a product moves for one weight, step by step
draw_gains          what mending a part gained, beside what it can gain at most
draw_hit_rates      a cache's hit rate over its capacity
waterfalls          from SlowEngine to ours, along both orders
draw_steps          what each step of a product takes for a weight, there and here
what_if             the profile as if some parts took no time; what_if_panel chooses them
"""

from collections.abc import Iterable, Mapping

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blocks2tokens.course import ablation, plot
from blocks2tokens.course.lessons.where_the_time_goes import profiler
from blocks2tokens.course.lessons.where_the_time_goes.profiler import Stage
from blocks2tokens.course.lessons.where_the_time_goes.slow_engine import (
    CULPRITS,
    FIXES,
    LABELS,
    ORDERS,
    SUSPECTS,
    keep_first_hit_rate,
    lru_hit_rate,
    made_along,
    rate,
    steps,
)

Spread = tuple[float, float, float]  # lower quartile, median, upper quartile

COLOURS = {  # dark, middle and light stay apart in grey: culprits, suspects, and what only holds others
    **dict.fromkeys(CULPRITS, (plot.BLUE, "white")),
    **dict.fromkeys(SUSPECTS, (plot.ORANGE, "black")),
}


def draw_profile(token: Stage, title: str) -> Axes:
    """Draw a token's stages: the steps of the product blue, the suspects orange."""
    return profiler.draw(token, title, LABELS, COLOURS)


def draw_bytes(needed: float, moved: float) -> Axes:
    """Draw the bytes that a product moves for one weight: its blocks, which are needed, and the rest."""
    parts = {"blocks": needed, "zeroes": 8, "B, decoded": 4, "read and copied": 8, "read for the dots": 4}
    title = f"{moved / needed:.0f} times the bytes that a token needs"
    return plot.bars(parts, "bytes", title, [plot.BLUE] + [plot.ORANGE] * 4)


def draw_gains(bounds: Mapping[str, Spread], gains: Mapping[str, Spread], title: str) -> Axes:
    """Draw for each fix what it can gain at most and what was measured, times faster than before."""
    axes = plt.subplots(figsize=(9, 0.9 + 0.5 * len(bounds)))[1]
    kinds = (
        (bounds, -0.17, "black", "|", "at most, by Amdahl's law, and quartiles"),
        (gains, 0.17, plot.BLUE, "o", "measured, and quartiles"),
    )
    for found, shift, colour, mark, label in kinds:
        for row, name in enumerate(bounds):
            low, median, high = found[name]
            axes.plot((low, high), (row + shift,) * 2, color=colour, lw=3, alpha=0.45)
            axes.plot(median, row + shift, mark, color=colour, ms=9, mew=2.5, label=None if row else label)
    axes.axvline(1, color="0.4", lw=0.8)
    axes.set(yticks=range(len(bounds)), yticklabels=list(bounds), ylim=(len(bounds) - 0.4, -0.6))
    axes.set(xlabel="times faster than SlowEngine", title=title)
    axes.grid(axis="y", visible=False)
    axes.figure.legend(loc="outside lower center", ncols=2)
    return axes


def draw_hit_rates(sizes: Mapping[str, int], tokens: int, share: float, title: str) -> Axes:
    """Draw the hit rate over the capacity, in shares of the model, for matrices that are read in order."""
    axes, capacities = plt.subplots()[1], np.linspace(0.02, 1.1, 55)
    accesses, whole = list(sizes) * tokens, sum(sizes.values())
    policies = {"keeps what came first": keep_first_hit_rate, "least recently used": lru_hit_rate}
    for (label, policy), style in zip(
        policies.items(), ({"ls": "--", "color": plot.ORANGE}, {}), strict=True
    ):
        rates = [policy(accesses, sizes, capacity * whole) for capacity in capacities]
        axes.plot(capacities, rates, lw=2.5, label=label, **({"color": plot.BLUE} | style))
    axes.axvline(share, color="black", lw=1, ls=":")
    axes.annotate(" the report's 8 GB of 26.3", (share, 0.93))
    axes.set(xlabel="capacity, in models in float32", ylabel=f"hit rate, {tokens} tokens", title=title)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return axes


def waterfalls(times: Mapping[frozenset | str, float], title: str) -> Figure:
    """Draw the way from SlowEngine to ours along both orders, tokens a second behind each step."""
    figure, rows = plt.subplots(len(ORDERS), 1, figsize=(9, 3.3 * len(ORDERS)), sharex=True)
    for axes, (name, order) in zip(rows, ORDERS.items(), strict=True):
        after = [times[made] for made in made_along(order)[1:]] + [times["ours"]]
        labelled = [
            (f"{label}: {rate(seconds)}", factor)
            for (label, factor), seconds in zip(steps(times, order), after, strict=True)
        ]
        ends = f"SlowEngine: {rate(times[frozenset()])} tokens/s", "ours"
        ablation.waterfall(labelled, f"{title}, {name}", ends, axes)
    rows[0].set_xlabel("")
    return figure


def draw_steps(there: Mapping[str, float], here: Mapping[str, float], title: str) -> Axes:
    """Draw what each step takes for a weight, {step: ns}, in the report's profile and on this machine."""
    axes = plt.subplots(figsize=(9, 1.2 + 0.5 * len(here)))[1]
    for found, mark, colour, label in (
        (there, "s", plot.ORANGE, "the report's profile"),
        (here, "o", plot.BLUE, "this machine"),
    ):
        rows = [list(here).index(step) for step in found]
        axes.plot(list(found.values()), rows, mark, color=colour, ms=9, label=label)
        for row, value in zip(rows, found.values(), strict=True):
            below = (0, -14) if found is there else (0, 8)
            axes.annotate(f"{value:.2g}", (value, row), below, textcoords="offset points", ha="center")
    axes.set(yticks=range(len(here)), yticklabels=list(here), ylim=(len(here) - 0.4, -0.6))
    axes.set(xscale="log", xlabel="ns for a weight", title=title)
    axes.margins(x=0.1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="y", visible=False)
    axes.figure.legend(loc="outside lower center", ncols=2)
    return axes


def what_if(token: Stage, vanished: Iterable[str] = ()) -> Axes:
    """Draw the profile of a token, a Stage, as if the parts of these names took no time."""
    vanished = tuple(vanished)
    left = profiler.without(token, vanished)
    gone = ", ".join(LABELS[part] for part in vanished) or "nothing"
    title = f"Without {gone}: {token.seconds / left.seconds:.3g} times faster"
    return draw_profile(left, title)


def what_if_panel(token: Stage) -> widgets.Widget:
    """Return a panel over what_if: choose the parts that take no time."""
    options = [(LABELS[part], part) for part in FIXES]
    parts = widgets.SelectMultiple(
        options=options, value=("transpose",), rows=len(FIXES), description="without"
    )

    def show(parts):
        what_if(token, parts)
        plt.show()

    return widgets.HBox([parts, widgets.interactive_output(show, {"parts": parts})])
