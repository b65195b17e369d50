"""The pictures of lesson 15.

draw_layouts   the blocks of a small matrix in both layouts, and what one output touches of them
draw_tiles     time for a weight over the bytes of the buffer that it is decoded into
draw_buffer    where among the caches a tile's buffer lies, and what one output needs
draw_wins      how many times as fast as the baseline fused_rows is, over M
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.formats import FORMATS

SUB_BLOCK = {"Q8_0": 32, "Q4_K": 32, "Q5_K": 32, "Q6_K": 16}  # weights that share a scale


def draw_layouts(K: int = 8, N: int = 4, size: int = 8, n: int = 1) -> list[Axes]:
    """Draw a matrix's blocks along N and along K, output n's walk along k, and its places in memory."""
    figure, rows = plt.subplots(2, 2, figsize=(9, 4.4), height_ratios=(5, 1))
    entered = [draw_layout(layout, rows[:, i], K, N, size, n) for i, layout in enumerate(("report", "gguf"))]
    title = f"The same {K} weights: scattered over {entered[0]} blocks, or in {entered[1]}"
    figure.suptitle(title, weight="bold")
    return list(rows.flat)


def draw_layout(layout: str, axes: Sequence[Axes], K: int, N: int, size: int, n: int) -> int:
    """Draw one layout, the matrix and below it memory; return how many blocks output n enters."""
    matrix, memory = axes
    number = np.arange(K * N)
    place = number.reshape(K, N) if layout == "report" else number.reshape(N, K).T
    shades = plt.cm.colors.ListedColormap([plot.SKY, "0.9", plot.ORANGE, "white"])
    style = {"cmap": shades, "vmin": 0, "vmax": 3, "alpha": 0.7, "aspect": "auto"}
    matrix.imshow(place // size % 4, **style)
    for (step, output), p in np.ndenumerate(place):
        weight = "bold" if output == n else "normal"
        matrix.text(output, step, p // size, ha="center", va="center", size=9, weight=weight)
    matrix.add_patch(plt.Rectangle((n - 0.42, -0.45), 0.84, K - 0.1, fill=False, lw=1.5))
    entered = 1 + int(np.count_nonzero(np.diff(place[:, n] // size)))
    title = f"{layout}: enters {entered} block{'s' if entered > 1 else ''}"
    matrix.set(xlabel="output n", ylabel="step k", xticks=range(N), title=title)
    memory.imshow((number // size % 4)[None], **style)
    memory.plot(place[:, n], np.zeros(K), "ko", ms=5)
    memory.set(xlabel="place in memory", yticks=[])
    for one in axes:
        one.grid(visible=False)
    return entered


def draw_tiles(sweep: Mapping[int, float], caches: Mapping[str, int]) -> Axes:
    """Draw {weights of a tile: ns for a weight} over the bytes of its buffer; caches are named above."""
    axes = plt.subplots()[1]
    axes.plot([4 * tile for tile in sweep], sweep.values(), "o-")
    for name, n_bytes in caches.items():
        axes.axvline(n_bytes, color="0.5", ls="--", lw=1)
        place = {"xy": (n_bytes, 1), "xycoords": ("data", "axes fraction"), "xytext": (0, 2)}
        axes.annotate(f"{name} ends", **place, textcoords="offset points", ha="center", va="bottom", size=9)
    axes.set(xscale="log", ylim=(0, None), xlabel="bytes of the buffer", ylabel="ns per weight")
    best = min(sweep, key=sweep.get)
    worst = sweep[max(sweep)] / sweep[best]
    title = f"Tiles of {best:,} weights are the fastest here, the whole matrix takes {worst:.1f} times that"
    axes.set_title(title, pad=20, size="medium")
    return axes


def draw_buffer(name: str, K: int, tile: int, caches: Mapping[str, int]) -> Axes:
    """Draw the caches and a tile's buffer among them; the title counts what one output needs."""
    n_bytes, sizes = 4 * tile, [*caches.values()]
    home = next((cache for cache, size in caches.items() if n_bytes <= size), "memory")
    bits = FORMATS[name].bits_per_weight + 64 * (home == "memory")
    edges = [64, *sizes, 8 * max([2**27, *sizes])]
    axes = plt.subplots(figsize=(9, 2.2))[1]
    for i, label in enumerate([*caches, "memory"]):
        axes.axvspan(edges[i], edges[i + 1], color=str(0.94 - 0.09 * i), lw=0)
        axes.text(edges[i] * 1.15, 0.62, label)
    axes.plot(n_bytes, -0.2, "D", color=plot.BLUE, ms=11)
    axes.set(xscale="log", xlim=(64, edges[-1]), ylim=(-1, 1), yticks=[], xlabel="bytes")
    title = f"{name}: a buffer of {n_bytes:,} bytes, {home}: {bits:g} bits a weight through memory"
    scales = f"an output of K = {K:,} unpacks {K // SUB_BLOCK[name]:,} scales"
    axes.set_title(f"{title}\n{scales}", size="medium")
    return axes


def draw_wins(wins: Mapping[int, float]) -> Axes:
    """Draw {M: times as fast as the baseline}; the title says at which M fused_rows wins."""
    axes = plt.subplots()[1]
    axes.plot(wins.keys(), wins.values(), "o-")
    axes.axhline(1, color="0.4", lw=1, ls="--")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(wins), [str(M) for M in wins])
    axes.set(ylim=(0, None), xlabel="M, rows of x", ylabel="times as fast as the baseline")
    won = [M for M, factor in wins.items() if factor > 1]
    where = "all of these M" if len(won) == len(wins) else f"M = {', '.join(map(str, won))}"
    title = f"fused_rows beats the baseline at {where if won else 'none of these M'}"
    axes.set_title(title, size="medium")
    return axes
