"""The pictures of lesson 01.

draw_bits              a number's bits in groups, each bit with what it counts
draw_shares            how often each code is used, with one step for all weights
draw_block_sizes       the error of blocks of many sizes, at equal bits
draw_errors_by_bits    every format: its bits and its error
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.formats import Format

NUDGE = {  # points from a format's marker to its name, where the usual place is taken
    "IQ4_XS": (-48, -4),
    "MXFP4": (-50, -4),
    "Q4_0": (8, 3),
    "Q4_K": (-4, -18),
    "IQ4_NL": (-62, -40),
    "Q5_K": (-38, -8),
    "Q3_K": (-38, -8),
    "Q6_K": (-38, -8),
}


def draw_bits(value: int, *groups: tuple[str, int, str], note: str = "") -> Axes:
    """Draw a number's bits, highest first, in groups (name, number of bits, colour)."""
    n = sum(count for _, count, _ in groups)
    axes = plt.subplots(figsize=(0.62 * n + 0.4, 2))[1]
    bits, start = f"{value:0{n}b}", 0
    for name, count, colour in groups:
        _draw_group(axes, start, bits[start : start + count], name, colour)
        start += count
    axes.set(ylim=(-0.4, 1.5), title=note or f"{value} in {n} bits")
    axes.set_axis_off()
    return axes


def _draw_group(axes, start, bits, name, colour):
    places = np.arange(start, start + len(bits))
    axes.bar(places, 1, 0.92, color=colour, alpha=0.35)
    for i, bit in enumerate(bits):
        axes.text(start + i, 0.5, bit, ha="center", va="center", size=16)
        axes.text(start + i, -0.25, 2 ** (len(bits) - 1 - i), ha="center", color="0.35")
    axes.text(places.mean(), 1.15, f"{name} = {int(bits, 2)}", ha="center", weight="bold")


def draw_shares(codes: np.ndarray) -> Axes:
    """Draw the share of each code from -7 to 7, float [any shape]."""
    axes = plt.subplots(figsize=(8, 2.6))[1]
    every = range(-7, 8)
    axes.bar(every, [np.mean(codes == code) for code in every], color=plot.RED)
    three = np.mean(np.abs(codes) <= 1)
    axes.set(xlabel="code", ylabel="share of the weights", xticks=every)
    axes.set_title(f"One step for the matrix: {three:.0%} of the weights share three codes")
    return axes


def draw_block_sizes(sizes: Sequence[int], errors: Mapping[str, Sequence[float]]) -> Axes:
    """Draw {model: error at equal bits, one for each block size}."""
    axes = plt.subplots()[1]
    for (label, values), style in zip(errors.items(), ("o-", "s--"), strict=False):
        axes.plot(sizes, values, style, label=label)
    axes.set_xscale("log", base=2)
    axes.set(xticks=sizes, xticklabels=sizes, ylim=(0, None))
    axes.set(xlabel="weights in a block", ylabel="relative error, at equal bits")
    axes.set_title("Tiny blocks pay too much for scales, huge ones suffer from outliers")
    axes.legend()
    return axes


def draw_errors_by_bits(formats: Sequence[Format], errors: Mapping[str, float], whose: str) -> Axes:
    """Draw formats by their bits per weight and their error, beside a line that halves with each bit."""
    axes = plt.subplots(figsize=(9, 5))[1]
    bits = np.array([2.5, 8.5])
    halved = errors["Q8_0"] * 2 ** (8.5 - bits)
    axes.plot(bits, halved, "--", color=plot.GREY, label="halved by each bit", zorder=1)
    for size, marker in {32: "o", 256: "s"}.items():
        own = [f for f in formats if f.block_size == size]
        places = [f.bits_per_weight for f in own], [errors[f.name] for f in own]
        axes.plot(*places, marker, ms=8, label=f"blocks of {size}")
    for f in formats:
        place, paper = (f.bits_per_weight, errors[f.name]), {"fc": "white", "lw": 0, "pad": 0.5}
        leader = {"arrowstyle": "-", "color": "0.5", "lw": 0.8, "shrinkB": 5}
        look = {"textcoords": "offset points", "size": 10, "bbox": paper, "arrowprops": leader}
        axes.annotate(f.name, place, NUDGE.get(f.name, (8, 4)), **look)
    percent = [0.5, 1, 2, 5, 10, 20]
    axes.set(yscale="log", xlabel="bits per weight", ylabel=f"relative error, {whose}")
    axes.set(yticks=[p / 100 for p in percent], yticklabels=[f"{p:g}%" for p in percent])
    axes.set_title("Each bit halves the error, and some formats beat that line")
    axes.legend()
    return axes
