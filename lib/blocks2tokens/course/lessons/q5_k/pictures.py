"""The pictures of the lesson on Q5_K.

draw_family     error over bits, one point for each format of the family
draw_owners     which sub-block each bit of a plane belongs to, in one order and another
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.formats import FORMATS


def draw_family(errors: Mapping[str, float], marked: str) -> Axes:
    """Draw the relative error of formats, {name: error}, over their bits per weight; one is marked."""
    bits = [FORMATS[name].bits_per_weight for name in errors]
    axes = plt.subplots()[1]
    axes.plot(bits, list(errors.values()), "o-", color=plot.GREY)
    axes.plot(FORMATS[marked].bits_per_weight, errors[marked], "D", ms=10, color=plot.BLUE)
    for (name, error), x in zip(errors.items(), bits, strict=True):
        axes.annotate(name, (x, error), (9, 4), textcoords="offset points")
    first, *_, last = errors.values()
    ticks = [tick for tick in 0.01 * 2.0 ** np.arange(8) if last / 2 < tick < 2 * first]
    factor = (first / last) ** (1 / (bits[-1] - bits[0]))
    axes.set(yscale="log", yticks=ticks, yticklabels=[f"{t:g}" for t in ticks])
    axes.set(xlim=(bits[0] - 0.3, bits[-1] + 0.6), ylim=(last / 1.5, first * 1.8))
    axes.set(xlabel="bits per weight", ylabel="relative error (RMS)")
    axes.set_title(f"From {bits[0]:.1f} bits to {bits[-1]:.1f}, each bit divides the error by {factor:.1f}")
    axes.minorticks_off()
    return axes


def draw_owners(planes: Mapping[str, np.ndarray]) -> None:
    """Draw planes, {title: sub-block of each bit, int [8 bits, 32 bytes]}, one below the other."""
    shades = plt.cm.colors.ListedColormap(plot.COLOURS)
    rows = plt.subplots(len(planes), 1, figsize=(11, 2.7 * len(planes)), squeeze=False)[1][:, 0]
    for axes, (title, owner) in zip(rows, planes.items(), strict=True):
        axes.imshow(owner, cmap=shades, alpha=0.45, origin="lower", aspect="auto")
        for (bit, byte), s in np.ndenumerate(owner):
            axes.text(byte, bit, s, ha="center", va="center", size=9)
        axes.set(xlabel="byte of qh", ylabel="bit", title=title, yticks=range(8), xticks=range(0, 32, 4))
        axes.grid(visible=False)
