"""The pictures of lesson 08.

draw_blocks   B with block and place in every cell, one column framed
draw_sizes    GFLOP/s over the size, one line for each rung
draw_parts    the shares of decoding, transpose and dot products
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot

ONE_SUM = ("textbook", "matrix turned")  # rungs whose every addition waits for the one before


def draw_blocks(K: int, N: int, size: int, j: int) -> Axes:
    """Draw B [K, N], each weight as block:place, with column j framed."""
    block, place = np.divmod(np.arange(K * N).reshape(K, N), size)
    axes = plt.subplots(figsize=(8, 3.8))[1]
    shades = plt.cm.colors.ListedColormap(plot.COLOURS)
    axes.imshow(block, cmap=shades, alpha=0.45, vmin=0, vmax=7, aspect="auto")
    for (k, column), b in np.ndenumerate(block):
        axes.text(column, k, f"{b}:{place[k, column]}", ha="center", va="center", size=9)
    axes.add_patch(plt.Rectangle((j - 0.5, -0.5), 1, K, fill=False, lw=3))
    met = len(set(block[:, j]))
    axes.set_title(f"Column {j} needs {met} of {block.max() + 1} blocks")
    axes.set(xlabel="j, the outputs", ylabel="k, the inputs", xticks=range(N), yticks=range(K))
    axes.grid(visible=False)
    return axes


def draw_sizes(curves: Mapping[int, Mapping[str, float]], best: float) -> Axes:
    """Draw {n: {rung: GFLOP/s}} for products of n x n x n below the most that one core reached."""
    sizes, rungs = list(curves), list(next(iter(curves.values())))
    axes = plt.subplots(figsize=(8, 4))[1]
    colours = (plot.GREY, plot.ORANGE, plot.RED, plot.GREEN, plot.BLUE)
    for name, mark, colour in list(zip(rungs, "vo^Ds", colours, strict=True))[::-1]:
        line = [curve[name] for curve in curves.values()]
        axes.plot(sizes, line, f"{mark}-", color=colour, label=name)
    best = max(best, *(rate for curve in curves.values() for rate in curve.values()))
    axes.axhline(best, color="k", ls="--", lw=1, label="the most of one core")
    axes.set(xscale="log", yscale="log", xticks=sizes, xticklabels=sizes)
    axes.yaxis.set_major_formatter("{x:g}")
    highest = max(curve[name] for curve in curves.values() for name in ONE_SUM)
    title = f"A sum in order: {highest / best:.0%} of what one core can do, at most"
    axes.set(xlabel="M = K = N", ylabel="GFLOP/s", title=title)
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def draw_parts(cases: Mapping[tuple, Mapping[str, float]], title: str | None = None) -> Axes:
    """Draw {(M, K, N): {part: seconds}} as shares; without a title, say which part of the last is most."""
    axes = plt.subplots(figsize=(8, 1.1 + 0.5 * len(cases)))[1]
    labels = [f"M = {M}\n{K} × {N}" for M, K, N in cases]
    shares = {name: _shares(cases, name) for name in next(iter(cases.values()))}
    left, looks = np.zeros(len(cases)), ((plot.YELLOW, "k"), (plot.BLUE, "w"), ("0.75", "k"))
    for (name, some), (colour, ink) in zip(shares.items(), looks, strict=True):
        drawn = axes.barh(labels, some, left=left, color=colour, edgecolor="0.3", label=name)
        inside = [f"{x:.0f}" if x > 3 else "" for x in some]
        axes.bar_label(drawn, inside, label_type="center", color=ink)
        left += some
    most = max(shares, key=lambda name: shares[name][-1])
    axes.invert_yaxis()
    axes.set(xlabel="% of the time", title=title or f"{shares[most][-1]:.0f} % of the time: {most}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(visible=False)
    return axes


def _shares(cases, name):
    """Return the % of the time that a part takes in each case."""
    return np.array([100 * parts[name] / sum(parts.values()) for parts in cases.values()])
