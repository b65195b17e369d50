"""The pictures of the lesson on Q6_K.

draw_gains      what a minimum divides the error by, over the bits of a code
draw_scales     how often each scale occurs in blocks
draw_codes      how often each code occurs
draw_halves     which weights are in which bits of half a block
draw_rungs      nanoseconds for a weight, rung by rung
draw_line       error over bits, beside the line that halves it with each bit
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.course.predict import written
from blocks2tokens.formats import FORMATS

MARKS = ("o-", "s--", "^:")
HALF = [  # height, bytes of the first half and their bits, quarter
    (0.0, "ql[0..31]   high nibble", 2),
    (1.0, "ql[0..31]    low nibble", 0),
    (2.4, "ql[32..63]  high nibble", 3),
    (3.4, "ql[32..63]   low nibble", 1),
    (4.8, "qh[0..31]      bits 7, 6", 3),
    (5.8, "qh[0..31]      bits 5, 4", 2),
    (6.8, "qh[0..31]      bits 3, 2", 1),
    (7.8, "qh[0..31]      bits 1, 0", 0),
]
QUARTERS = ((plot.SKY, ""), (plot.ORANGE, "//"), (plot.GREEN, ".."), (plot.PURPLE, "xx"))
HEIGHT = 0.92


def draw_gains(gains: Mapping[str, Sequence[float]], bits: Sequence[int], needed: float) -> Axes:
    """Draw {weights: what a minimum divides the error by, one for each number of bits}, and what it costs."""
    axes = plt.subplots()[1]
    for (name, gain), mark in zip(gains.items(), MARKS, strict=False):
        axes.plot(bits, gain, mark, label=name)
    axes.axhline(needed, color="black", lw=1)
    axes.text(bits[0], needed + 0.01, "what it costs")
    axes.set(xlabel="bits of a code", ylabel="error without / with a minimum", xticks=bits)
    first, gain = next(iter(gains.items()))
    verdict = "does not pay" if max(gain) < needed else "pays somewhere"
    axes.set_title(f"For 16 weights of {first} a minimum {verdict}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def draw_scales(scales: np.ndarray) -> Axes:
    """Draw how often each scale occurs, int8 [blocks, 16]."""
    axes = plt.subplots()[1]
    axes.hist(scales.ravel(), bins=np.arange(-128, 129, 4), color=plot.BLUE, edgecolor="white", lw=0.4)
    axes.set(xlabel="scale of a sub-block, int8", ylabel="sub-blocks")
    negative, odd = (scales < 0).mean(), (scales == -128).any(axis=1).mean()
    axes.set_title(f"{negative:.0%} of the scales are negative, and −128 is in {odd:.0%} of the blocks")
    return axes


def draw_codes(codes: np.ndarray) -> Axes:
    """Draw how often each code occurs, int8 [blocks, 256], -32 to 31."""
    axes = plt.subplots()[1]
    axes.hist(codes.ravel(), bins=np.arange(-32.5, 32), color=plot.BLUE, edgecolor="white", lw=0.4)
    axes.set(xlabel="code", ylabel="weights")
    values, counts = np.unique(codes, return_counts=True)
    axes.set_title(f"The largest weight of each sub-block piles up: code {values[counts.argmax()]} leads")
    return axes


def draw_halves(byte: int) -> Axes:
    """Draw which weights are in which bits of the first half of a block; one byte's are marked."""
    axes = plt.subplots(figsize=(9, 4.2))[1]
    for y, _, quarter in HALF:
        colour, hatch = QUARTERS[quarter]
        style = {"color": colour, "alpha": 0.55, "hatch": hatch, "edgecolor": "0.45", "lw": 0}
        axes.barh(y, 32, height=HEIGHT, align="edge", **style)
        text = f"weights {32 * quarter} to {32 * quarter + 31}"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}
        axes.text(16.5, y + HEIGHT / 2, text, va="center", bbox=box)
        if quarter == 2:
            axes.barh(y, 1, left=byte, height=HEIGHT, align="edge", color="black")
    labels = [label for _, label, _ in HALF]
    axes.set_yticks([y + HEIGHT / 2 for y, _, _ in HALF], labels, family="monospace")
    axes.set(
        xlabel=f"byte, 0 to 31; black: weight {64 + byte} = 64 + {byte}", xticks=(0, 8, byte, 16, 24, 32)
    )
    axes.set_title("Neighbours in memory are neighbours in the row: 32 bytes, 32 weights")
    axes.grid(visible=False)
    axes.invert_yaxis()
    return axes


def draw_rungs(ns: Mapping[str, float]) -> Axes:
    """Draw nanoseconds for a weight, {rung: ns}, slowest first, as points on a log axis with their ratios."""
    names, values = list(ns), list(ns.values())
    axes = plt.subplots(figsize=(8, 0.9 + 0.5 * len(ns)))[1]
    axes.plot(values, names, "o", ms=10, color=plot.BLUE)
    for name, value in ns.items():
        times = "" if value == min(values) else f", {written(value / min(values))} times the fastest"
        text = f"{written(value)} ns{times}"
        axes.annotate(text, (value, name), (10, 0), textcoords="offset points", va="center")
    axes.set(xscale="log", xlabel="ns per weight, log scale", xlim=(min(values) / 2, max(values) * 60))
    axes.margins(y=0.15)
    axes.invert_yaxis()
    steps = [before / after for before, after in pairwise(values)]
    if steps:
        i = int(np.argmax(steps))
        axes.set_title(f"The largest step, {written(steps[i])} times, is from {names[i]} to {names[i + 1]}")
    return axes


def draw_line(errors: Mapping[str, float]) -> Axes:
    """Draw the relative error of formats, {name: error}, over bits, and the line that halves the first's."""
    bits = np.array([FORMATS[name].bits_per_weight for name in errors])
    values = np.array(list(errors.values()))
    line = values[0] / 2 ** (bits - bits[0])
    axes = plt.subplots()[1]
    axes.plot(bits, line, "--", color=plot.GREY, label="half for each bit")
    axes.plot(bits, values, "o", ms=9, color=plot.BLUE, label="Austen")
    for name, x, y in zip(errors, bits, values, strict=True):
        axes.annotate(f"{name} {y:.2g}", (x, y), (9, 5), textcoords="offset points")
    axes.set(xlabel="bits per weight", ylabel="relative error", yscale="log")
    axes.set(xlim=(bits[0] - 0.2, bits[-1] + 0.9), ylim=(min(values) / 1.8, max(values) * 1.6))
    above = values[-1] / line[-1] - 1
    axes.set_title(f"{list(errors)[-1]} lies {abs(above):.0%} {'above' if above > 0 else 'below'} the line")
    axes.legend()
    return axes
