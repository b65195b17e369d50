"""The pictures of lesson 31: who has which weights, an all-reduce, turns, networks, a thousand machines."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.parallel import simulate
from blocks2tokens.parallel.cost import Link

SHADES = ("#08306b", "#9fb8d0", "#dddddd", "white")  # of machines
INK = ("white", "black", "black", "black")
MARKS = ("o-", "s--", "^:", "d-.")


def draw_ways(n_layers: int = 4) -> None:
    """Draw which machine of two has which weights, and what they send, for both ways."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9))
    for layer in range(n_layers):
        machine = layer * 2 // n_layers
        _box(left, 0, layer, 4, machine, f"layer {layer}: machine {machine}")
        for machine in range(2):
            _box(right, 2 * machine, layer, 2, machine, f"machine {machine}")
        right.text(4.15, layer + 0.42, "2 sums", va="center", size=9)
    left.annotate("", (4.3, n_layers / 2 + 0.3), (4.3, n_layers / 2 - 0.5), arrowprops={"arrowstyle": "->"})
    left.text(4.45, n_layers / 2 - 0.08, "1 residual", va="center", size=9)
    left.annotate("", (-0.3, 0.2), (-0.3, n_layers - 0.3), arrowprops={"arrowstyle": "->"})
    left.text(-0.45, n_layers / 2, "1 id", va="center", ha="right", size=9)
    titles = ("pipeline: layers over machines", "tensor: rows over machines")
    for axes, title in zip((left, right), titles, strict=True):
        axes.set(xlim=(-1.3, 5.9), ylim=(n_layers, -0.1))
        axes.set_title(title, size="medium")
        axes.axis("off")
    figure.suptitle("Layers over machines send once; rows over machines send in every layer", weight="bold")


def _box(axes, x, y, width, machine, text):
    axes.add_patch(plt.Rectangle((x, y), width, 0.85, fc=SHADES[machine], ec="k"))
    axes.text(x + width / 2, y + 0.43, text, ha="center", va="center", color=INK[machine], size=9)


def draw_rounds(rounds: Sequence[Sequence[float]]) -> None:
    """Draw what each machine has before and after each round of an all-reduce."""
    axes = plt.subplots(figsize=(8, 2.9))[1]
    for column, values in enumerate(rounds):
        for machine, value in enumerate(values):
            axes.text(3 * column, machine, f"{value:g}", ha="center", va="center", size=12)
            if column + 1 < len(rounds):
                for source in (machine, machine ^ (1 << column)):
                    ends = (3 * column + 2.6, machine), (3 * column + 0.4, source)
                    style = {"arrowstyle": "->", "ls": "-" if source == machine else "--", "color": "0.3"}
                    axes.annotate("", *ends, arrowprops=style)
    n = len(rounds[0])
    axes.set(xlim=(-1, 3 * len(rounds) - 2), ylim=(n - 0.5, -0.5))
    axes.set_yticks(range(n), [f"machine {i}" for i in range(n)])
    names = ["before", *(f"after round {i}" for i in range(1, len(rounds)))]
    axes.set_xticks([3 * i for i in range(len(rounds))], names)
    axes.grid(visible=False)
    axes.set_title(f"{n} machines: after {len(rounds) - 1} rounds all have the sum")


def draw_turns(stages: Sequence[float], hop: float, counts: Sequence[int], n_tokens: int = 4) -> None:
    """Draw which text each stage has in hand, for so many texts; seconds in ms."""
    figure, row = plt.subplots(len(counts), 1, figsize=(9, 1.1 + 1.25 * len(counts)), sharex=True)
    for axes, n_texts in zip(np.atleast_1d(row), counts, strict=True):
        for stage, text, start, seconds in turns(stages, hop, n_texts, n_tokens):
            axes.barh(stage, 1e3 * seconds, left=1e3 * start, color=SHADES[text % 4], edgecolor="k")
            middle = 1e3 * (start + seconds / 2)
            axes.text(middle, stage, "ABCD"[text % 4], ha="center", va="center", size=9, color=INK[text % 4])
        axes.set_yticks(range(len(stages)), [f"stage {s}" for s in range(len(stages))])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{n_texts} text{'s' * (n_texts > 1)}", size="medium")
    axes.set_xlabel("ms")
    figure.suptitle("A second text fills what the first leaves empty", weight="bold")


def turns(stages, hop, n_texts, n_tokens) -> list[tuple[int, int, float, float]]:
    """Return (stage, text, start, seconds) of each piece of work; the id goes back by one hop, too."""
    free, back, found = [0.0] * len(stages), [0.0] * n_texts, []
    for _ in range(n_tokens):
        for text in range(n_texts):
            now = back[text]
            for stage, seconds in enumerate(stages):
                start = max(now, free[stage])
                found.append((stage, text, start, seconds))
                free[stage] = start + seconds
                now = free[stage] + hop
            back[text] = now
    return found


def draw_networks(predicted: Mapping[str, Mapping[str, float]], measured: Mapping) -> None:
    """Draw {way: {network: seconds a token}}, predicted and measured.

    The title compares the slowest network with one rank: all rows there, and the stages without a message.
    """
    figure, row = plt.subplots(1, 2, figsize=(10, 3.3))
    for axes, way in zip(row, predicted, strict=True):
        places = np.arange(len(predicted[way]))
        told = [1e3 * s for s in predicted[way].values()]
        found = [1e3 * measured[way][name] for name in predicted[way]]
        axes.bar(places - 0.2, told, 0.4, color=SHADES[2], edgecolor="k", label="predicted")
        axes.bar(places + 0.2, found, 0.4, color=SHADES[0], edgecolor="k", label="measured")
        axes.set_xticks(places, [name.replace(", ", ",\n") for name in predicted[way]], size=9)
        axes.set(ylabel="ms a token", ylim=(0, 1.4 * max(told + found)))
        axes.grid(axis="x", visible=False)
        axes.set_title(way, size="medium")
    row[0].legend(loc="upper left", ncols=2)
    *_, slow = predicted["tensor"]
    by_rows = measured["tensor"][slow] / measured["rows_alone"]
    by_layers = measured["pipeline"][slow] / sum(measured["stages"])
    title = f"{slow}, against one rank: rows take {by_rows:.2g}, layers {by_layers:.2g} times as long"
    figure.suptitle(title, weight="bold")


def draw_scaling(seconds: Callable, counts: Sequence[int], links: Mapping[str, Link], alone: float) -> None:
    """Draw tokens a second of one text by the number of machines: seconds(way, n, link)."""
    figure, row = plt.subplots(1, 2, figsize=(10, 3.5), sharey=True)
    for axes, way in zip(row, ("pipeline", "tensor"), strict=True):
        for (name, link), mark in zip(links.items(), MARKS, strict=False):
            axes.plot(counts, [1 / seconds(way, n, link) for n in counts], mark, label=name)
        axes.axhline(1 / alone, color=plot.GREY, lw=1)
        axes.set(xscale="log", yscale="log", xlabel="machines")
        axes.set_xticks(counts, counts)
        axes.minorticks_off()
        axes.set_title(way, size="medium")
    row[0].set_ylabel("tokens a second, one text")
    low, high = row[0].get_ylim()
    ticks = [t for t in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low < t < high]
    row[0].set_yticks(ticks, [f"{t:g}" for t in ticks])
    row[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(
        "A pipeline never speeds one text up; rows do, as far as the network lets them", weight="bold"
    )


def draw_thousand(
    stage: float, link: Link, dim: int, counts: Sequence[int], jitters: Sequence[float]
) -> dict:
    """Draw, and return {jitter: [share of the time that stages work]}, for pipelines full of texts."""
    axes, found = plt.subplots(figsize=(8, 3.4))[1], {}
    for jitter, mark in zip(jitters, MARKS, strict=False):
        found[jitter] = [busy(stage, n, link, dim, jitter) for n in counts]
        axes.plot(counts, found[jitter], mark, label=f"times vary by {jitter:.0%}")
    axes.set(xscale="log", xlabel="machines, a stage each", ylabel="share of time at work", ylim=(0, 1.05))
    axes.set_xticks(counts, [f"{n:,}" for n in counts])
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    worst = found[jitters[-1]][-1]
    axes.set_title(f"{counts[-1]:,} stages that waver work {worst:.0%} of the time")
    return found


def busy(stage: float, n: int, link: Link, dim: int, jitter: float) -> float:
    """Return the share of the time that the stages of a full pipeline compute; texts are on the way, too."""
    n_texts = int(np.ceil(n * (stage + link.hop(4 * dim)) / stage)) + 1
    ends = simulate.pipeline_ends(np.full(n, stage), link, dim, n_texts, 4, jitter, seed=n)
    mean = stage * np.exp(jitter**2 / 2)  # of a time whose logarithm is normal
    return min(1.0, simulate.rate(ends) * mean)


def draw_failures(
    expected: Callable, simulated: Callable, intervals: Sequence[float], counts: Sequence[int], work: float
) -> Axes:
    """Draw how many times as long a job takes as its work, by minutes between savings: lines and dots."""
    axes = plt.subplots(figsize=(8, 3.6))[1]
    for n, mark in zip(counts, MARKS, strict=False):
        minutes = [t / 60 for t in intervals]
        line = axes.plot(
            minutes, [expected(t, n) / work for t in intervals], mark[1:], label=f"{n:,} machines"
        )
        dots = [simulated(t, n) / work for t in intervals]
        axes.plot(minutes, dots, mark[0], color=line[0].get_color())
    axes.set(
        xscale="log", xlabel="minutes of work between two savings", ylabel="times as long", ylim=(1, None)
    )
    axes.set_xticks([t / 60 for t in intervals], [f"{t / 60:,.0f}" for t in intervals])
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title("Too often costs, too seldom costs; dots are simulated")
    return axes
