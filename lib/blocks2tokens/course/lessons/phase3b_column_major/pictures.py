"""The pictures of lesson 12.

draw_path     the blocks of B and the walk down one column
draw_paths    the same for several widths, side by side
draw_widths   block decodes for each column over the width of B
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot

MOST = 128  # weights whose block numbers can be read


def draw_path(K: int, N: int, size: int, j: int, axes: Axes | None = None) -> Axes:
    """Draw the blocks of B [K, N] and the walk down column j; black where it enters a block."""
    axes = axes or plt.subplots(figsize=(9, 3.2))[1]
    blocks = (np.arange(K)[:, None] * N + np.arange(N)) // size
    shades = plt.cm.colors.ListedColormap([plot.SKY, "0.88", plot.ORANGE, "white"])
    axes.imshow(blocks % 4, cmap=shades, vmin=0, vmax=3, alpha=0.7, aspect="auto")
    enters = np.flatnonzero(np.diff(blocks[:, j], prepend=-1))
    look = {"color": "black", "ms": max(4, min(15, 120 / K))}
    axes.plot([j, j], [0, K - 1], color="black", lw=1.5)
    axes.plot(np.full(K, j), np.arange(K), "o", mfc="white", **look)
    axes.plot(np.full(len(enters), j), enters, "o", **look)
    if K * N <= MOST:
        for (row, column), block in np.ndenumerate(blocks):
            ink = "white" if column == j and row in enters else "black"
            axes.text(column, row, block, color=ink, ha="center", va="center", size=9)
    runs = f"{len(enters)} run" + "s" * (len(enters) > 1)
    axes.set(xlabel="column j", ylabel="step k", title=f"N = {N}: {runs}")
    axes.set_xticks(range(0, N, max(1, N // 4)))
    axes.grid(visible=False)
    return axes


def draw_paths(K: int, widths: Sequence[int], size: int) -> list[Axes]:
    """Draw the walk down a column of matrices of several widths."""
    shares = [2 + width**0.8 for width in widths]
    figure, row = plt.subplots(1, len(widths), figsize=(10.5, 3.6), width_ratios=shares)
    for axes, width in zip(row, widths, strict=True):
        draw_path(K, width, size, min(1, width - 1), axes)
        runs = axes.get_title(loc="left").split(": ")[1]
        axes.set(xlabel=f"j, N = {width}", ylabel="")
        axes.set_title(runs, loc="left", size="medium")
    row[0].set_ylabel("step k")
    figure.suptitle("The wider B, the shorter the stay in a block", weight="bold", x=0.01, ha="left")
    return list(row)


def draw_widths(widths: Sequence[int], per_column: Sequence[float]) -> Axes:
    """Draw the block decodes for each column over N, for columns of one block's worth of weights."""
    axes = plt.subplots()[1]
    axes.plot(widths, per_column, "o-", color=plot.RED, label="Phase 3b")
    axes.axhline(1, color=plot.BLUE, ls="--", label="needed: one block's worth")
    for width, each in zip(widths, per_column, strict=True):
        if width in (1, 2, 128, 256):
            right = {"textcoords": "offset points", "va": "center", "color": "0.2"}
            axes.annotate(f"N = {width}: {each:,.0f}", (width, each), (9, -9), **right)
    axes.set_xscale("log", base=2)
    axes.set(yscale="log", ylim=(0.4, 3 * max(per_column)))
    axes.set(xlabel="N, columns of B", ylabel="block decodes for each column")
    axes.set_title("One buffer is enough for one column, and for no more")
    axes.legend(loc="center right")
    return axes
