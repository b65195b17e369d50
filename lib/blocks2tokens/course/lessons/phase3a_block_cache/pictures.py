"""The pictures of lesson 11.

draw_look_ups   a small B by block, and which look-ups of which row miss
draw_lock       a read-write lock's number and what changes it
draw_hit        what each part adds to one look-up
draw_maps       the bytes of all maps over the workers
"""

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.course.predict import written


def draw_look_ups(asked: Sequence[Sequence[int]], misses: Collection[int], K: int, N: int, size: int) -> Axes:
    """Draw B [K, N] by block, and the blocks that each row of `a` asks for; misses count through all rows."""
    shades = plt.cm.colors.ListedColormap([plot.SKY, plot.YELLOW, plot.PURPLE])
    blocks, asked = np.arange(K * N).reshape(K, N) // size, np.asarray(asked)
    grid, strip = plt.subplots(1, 2, figsize=(10, 2.7), width_ratios=(1, 2.6))[1]
    for axes, numbers in ((grid, blocks), (strip, asked)):
        axes.imshow(numbers % 3, cmap=shades, vmin=0, vmax=2, alpha=0.6, aspect="auto")
        axes.grid(visible=False)
    for (k, j), block in np.ndenumerate(blocks):
        grid.text(j, k, block, ha="center", va="center")
    for step, block in enumerate(asked.ravel()):
        i, x = divmod(step, asked.shape[1])
        missed = step in misses
        if missed:
            strip.plot(x, i, "s", ms=15, color=plot.RED)
        strip.text(x, i, block, ha="center", va="center", color="w" if missed else "k", weight="bold")
    strip.vlines(np.arange(K - 0.5, asked.shape[1] - 1, K), -0.5, len(asked) - 0.5, color="w", lw=4)
    grid.set(xlabel="j", ylabel="k", title="B, by block", yticks=range(K))
    strip.set(xlabel="look-up of the row", ylabel="row of a", yticks=range(len(asked)))
    strip.set_xticks(range(0, asked.shape[1], K))
    strip.set_title(f"{len(misses)} misses (on red), {asked.size - len(misses)} hits")
    return strip


def draw_lock() -> Axes:
    """Draw the numbers of a read-write lock, and which call leads from which to which."""
    axes = plt.subplots(figsize=(9, 2.5))[1]
    states = {-1: "one writer", 0: "free", 1: "1 reader", 2: "2 readers", 3: "3 readers …"}
    for n, name in states.items():
        colour = plot.RED if n < 0 else plot.SKY if n else "0.9"
        axes.plot(n, 0, "o", ms=36, color=colour, mec="0.3")
        axes.text(n, 0, n, ha="center", va="center", weight="bold")
        axes.text(n, -0.8, name, ha="center", va="top")
    arrow = {"arrowstyle": "->", "color": "0.3", "shrinkA": 19, "shrinkB": 19, "lw": 1.4}
    arrow["connectionstyle"] = "arc3,rad=-0.35"
    for n in range(-1, 3):
        up, down = ("unlock_write", "lock_to_write") if n < 0 else ("lock_to_read", "unlock_read")
        axes.annotate("", (n + 1, 0), (n, 0), arrowprops=arrow)
        axes.annotate("", (n, 0), (n + 1, 0), arrowprops=arrow)
        axes.text(n + 0.5, 0.5, up, ha="center", size=9)
        axes.text(n + 0.5, -0.62, down, ha="center", size=9)
    axes.set(xlim=(-1.5, 3.5), ylim=(-1.3, 0.9), title="A read-write lock is one number; each arrow swaps it")
    axes.axis("off")
    return axes


def draw_hit(each: Mapping[str, float]) -> Axes:
    """Draw {what is done in a step, each the one before and one thing more: ns} as what each adds."""
    ends = np.array(list(each.values()))
    added = np.diff(ends, prepend=0)
    axes = plt.subplots(figsize=(9, 0.5 * len(each) + 0.8))[1]
    colours = [plot.ORANGE, plot.YELLOW, plot.BLUE, plot.SKY, plot.RED, plot.GREY]
    axes.barh(list(each), added, left=ends - added, color=colours, edgecolor="0.3")
    for row, (end, part) in enumerate(zip(ends, added, strict=True)):
        axes.annotate(
            f"{part:+.1f}", (max(end, end - part), row), (5, 0), textcoords="offset points", va="center"
        )
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="ns for each multiply-add, one thread")
    axes.set_title(
        f"The whole step takes {written(ends[-1] / ends[0])} times what its first bar, the work, takes"
    )
    return axes


def draw_maps(held: Sequence[int], baseline: int, matrix: int) -> Axes:
    """Draw the bytes of all maps with 1, 2, 3 ... workers, beside Phase 0's copies and the matrix."""
    axes = plt.subplots()[1]
    workers = range(1, len(held) + 1)
    axes.bar(workers, np.array(held) / 1024, color=plot.BLUE, label="Phase 3a, all maps")
    axes.axhline(baseline / 1024, color=plot.ORANGE, lw=2.5, label="Phase 0, B and its transpose")
    axes.axhline(matrix / 1024, color="0.3", ls="--", lw=2, label="the matrix, in Q5_K")
    axes.set(xlabel="workers", ylabel="KiB", title="Each worker keeps a whole decoded copy")
    axes.legend()
    return axes
