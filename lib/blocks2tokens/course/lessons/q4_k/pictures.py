"""The pictures of lesson 03.

draw_ranges     what shared scales cost in bits and in error, and where 6-bit scales lie
draw_owners     which of 16 numbers each bit of the twelve bytes of scales belongs to
draw_orders     two orders of the nibbles
draw_both       right weights and wrong ones, as histograms
draw_outliers   the error of the other weights as one of them grows
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from blocks2tokens.course import plot


def draw_ranges(errors: Mapping[int, float], six_bit: float) -> Axes:
    """Draw {weights that share a scale and a minimum: error}, and the error of 6-bit ones for each 32."""
    axes = plt.subplots()[1]
    bits = [4 + 32 / size for size in errors]
    label = "float16 scale and minimum"
    axes.plot(bits, errors.values(), "o-", color=plot.GREY, label=label)
    for x, (size, y) in zip(bits, errors.items(), strict=True):
        near = {"textcoords": "offset points", "color": "0.3", "size": 10}
        axes.annotate(f"each {size}", (x, y), (6, 6), **near)
    axes.plot(4.5, six_bit, "*", ms=17, color=plot.BLUE, label="6-bit scale and minimum, each 32")
    axes.set(xlabel="bits per weight", ylabel="relative error (RMS)")
    axes.set(ylim=(0, 1.15 * max(errors.values())), xlim=(4, max(bits) + 0.25))
    axes.set_title("Quantized scales leave the curve: the error of 5 bits for 4.5")
    axes.legend(loc="lower left")
    return axes


def draw_owners(owners: np.ndarray, counts: np.ndarray, title: str) -> Axes:
    """Draw 12 bytes as columns, bit 7 on top: whose each bit is, int [96], and what it counts there.

    Numbers 0 to 7 are scales, 8 to 15 minimums, hatched; each sub-block has its colour.
    """
    axes = plt.subplots(figsize=(10, 3.6))[1]
    for place, (owner, count) in enumerate(zip(owners, counts, strict=True)):
        byte, bit = divmod(place, 8)
        look = {"fc": plot.COLOURS[owner % 8], "alpha": 0.45, "ec": "white", "lw": 0}
        hatch = "////" if owner > 7 else None
        axes.add_patch(Rectangle((byte, bit), 0.94, 0.92, hatch=hatch, **look))
        middle = {"ha": "center", "va": "center", "size": 10, "bbox": {"fc": "white", "lw": 0, "pad": 1}}
        axes.text(byte + 0.47, bit + 0.46, f"{'sm'[owner // 8]}{owner % 8}: {count}", **middle)
    axes.set(xlim=(0, 12), ylim=(0, 8), xlabel="byte of scales", ylabel="bit", title=title)
    axes.set(xticks=np.arange(12) + 0.47, xticklabels=range(12))
    axes.set(yticks=np.arange(8) + 0.46, yticklabels=range(8))
    axes.grid(visible=False)
    return axes


def draw_orders() -> tuple[Axes, Axes]:
    """Draw which weights' codes the 128 bytes of qs hold: in sequence, and in chunks as Q4_K has them."""
    place = np.arange(128)
    left, right = plt.subplots(1, 2, sharey=True, figsize=(9, 3.4))[1]
    for axes, low, gap, title in (
        (left, 2 * place, 1, "One behind the other"),
        (right, place + place // 32 * 32, 32, "Q4_K: 32 weights apart"),
    ):
        axes.plot(place, low, ".", ms=4, color=plot.BLUE, label="low nibble")
        axes.plot(place, low + gap, "x", ms=4, color=plot.RED, label="high nibble")
        axes.set(xlabel="byte of qs", title=title, xticks=range(0, 129, 32), yticks=range(0, 257, 64))
    left.set_ylabel("weight")
    left.legend()
    return left, right


def draw_both(right: np.ndarray, wrong: np.ndarray) -> Axes:
    """Draw histograms of right and of wrong weights, arrays of one shape, and name their correlation."""
    axes = plt.subplots()[1]
    bins = np.linspace(-5 * right.std(), 5 * right.std(), 61)
    axes.hist(right.ravel(), bins, color=plot.BLUE, alpha=0.45, label="right")
    look = {"histtype": "step", "color": plot.RED, "lw": 2, "label": "both mistakes"}
    axes.hist(wrong.ravel(), bins, **look)
    together = np.corrcoef(right.ravel(), wrong.ravel())[0, 1]
    title = f"Both look like weights; their correlation is {together:.2f}"
    axes.set(xlabel="weight", ylabel="how many", title=title)
    axes.legend()
    return axes


def draw_outliers(sizes: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Axes:
    """Draw {format: error of the other weights, one for each size of the outlier}."""
    axes = plt.subplots()[1]
    looks = zip("soD", (plot.GREY, plot.ORANGE, plot.BLUE), strict=True)
    for (name, values), (marker, colour) in zip(errors.items(), looks, strict=True):
        axes.plot(sizes, values, marker + "-", color=colour, label=name)
    axes.set(xscale="log", xlabel="one outlier, in spreads of the other weights")
    axes.set(ylabel="error of the rest (RMS)", xticks=sizes, xticklabels=sizes, ylim=(0, None))
    axes.set_title("In Q4_K an outlier spoils its neighbours' scales")
    axes.minorticks_off()
    axes.legend()
    return axes
