"""The pictures of lesson 02.

draw_ruler     the weights of a block and the values that a format allows there
draw_offsets   the error of two formats as a block's mean leaves zero, and how far real blocks do
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import anatomy, plot
from blocks2tokens.formats import FORMATS


def draw_ruler(x: np.ndarray, name: str) -> Axes:
    """Draw weights, float32 [32], and the values that a format allows in their block."""
    fmt = FORMATS[name]
    block = fmt.quantize(x)
    used, marks = np.unique(fmt.dequantize(block)), anatomy.levels(fmt, block, 0)[1]
    axes = plt.subplots(figsize=(8, 2.8))[1]
    axes.hlines(marks, 0, 31, color="0.75", lw=0.8)
    axes.plot(x, "o", color=plot.BLUE)
    axes.set(xlabel="weight", ylabel="value")
    axes.set_title(f"{name} uses {len(used)} of its {len(marks)} values here")
    axes.grid(visible=False)
    return axes


def draw_offsets(
    offsets: Sequence[float], errors: Mapping[str, Sequence[float]], found: np.ndarray
) -> tuple[Axes, Axes]:
    """Draw {format: error at each offset of the mean}; below, how far off real blocks are, float [blocks]."""
    top, bottom = plt.subplots(2, 1, figsize=(8, 5), sharex=True, height_ratios=[2, 1])[1]
    for (name, values), style in zip(errors.items(), ("o-", "s--"), strict=True):
        top.plot(offsets, values, style, label=name)
    top.set(ylabel="error / spread", ylim=(0, 0.16))
    top.set_title("A minimum pays where a block's mean is more than one spread off ...")
    top.text(1.02, 0.01, "one spread")
    top.legend()
    share = np.full(len(found), 1 / len(found))
    bottom.hist(found, np.linspace(0, 2, 41), weights=share, color=plot.GREY)
    bottom.set(xlabel="offset of the mean, in spreads", ylabel="share of blocks")
    bottom.set_title(f"... and the farthest of Austen's {len(found):,} blocks is {found.max():.2f} off")
    for axes in (top, bottom):
        axes.axvline(1, color="0.3", lw=1, ls=":")
    return top, bottom
