"""The pictures of lesson 14.

draw_worth        the bytes of a block, with the operations that each is good for
draw_intensity    operations for each byte over M, for some formats
draw_caches       how fast a sum reads arrays of many sizes
draw_roofs        the roofs of float32 and of integers, and where a product stands
draw_own_bytes    kernels by the bytes that must move, and by those that they move
draw_lower_roof   a roof below the roof: sums in order
draw_model        a whole model's point under the roof of some machine
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot, roofline
from blocks2tokens.formats import Format

Point = tuple[float, float]  # operations / byte, GFLOP/s


def draw_worth(fmt: Format, M: int = 1) -> Axes:
    """Draw a block of Q4_K, 16 bytes in a line, with the operations of each byte: the header has none."""
    worth = np.zeros((fmt.bytes_per_block // 16, 16), int)
    worth[1:] = 2 * M * fmt.block_size // (fmt.bytes_per_block - 16)
    axes = plt.subplots(figsize=(8, 3.8))[1]
    axes.imshow(worth, cmap="Blues", vmin=-worth.max() / 4, vmax=2 * worth.max(), aspect="auto")
    for (line, byte), operations in np.ndenumerate(worth):
        axes.text(byte, line, operations, ha="center", va="center")
    axes.set(xlabel="byte, within its 16", xticks=range(16))
    axes.set_yticks(range(len(worth)), ["header", *["codes"] * (len(worth) - 1)])
    axes.set_title(f"M = {M}: 128 bytes carry {worth.max()} operations each, 16 carry none")
    axes.grid(visible=False)
    return axes


def draw_intensity(
    rows: Sequence[int], curves: Mapping[str, Sequence[float]], weights_alone: Sequence[float]
) -> Axes:
    """Draw {format: operations / byte at each number of rows}, and Q4_K's if only weights had to move."""
    axes = plt.subplots()[1]
    axes.plot(rows, weights_alone, color=plot.GREY, ls=":", label="Q4_K, weights alone")
    for (name, curve), mark in zip(curves.items(), "os^", strict=False):
        axes.plot(rows, curve, mark + "-", label=name)
    axes.set(xscale="log", yscale="log", xlabel="M, rows of x; W is 4096 × 4096", ylabel="operations / byte")
    axes.set_title("Rows multiply what a byte is worth, until x weighs more than W")
    axes.legend()
    return axes


def draw_caches(rates: Mapping[int, float], bandwidth: float, caches: Mapping[str, int]) -> Axes:
    """Draw {bytes of an array: GB/s}; caches that end within the axis are named above it."""
    axes = plt.subplots()[1]
    axes.plot(rates.keys(), rates.values(), "o-", label="reordered sum, 1 core")
    axes.axhline(bandwidth, color="k", ls="--", lw=1, label="memory, all cores")
    for name, n_bytes in caches.items():
        if n_bytes <= 2 * max(rates):
            axes.axvline(n_bytes, color=plot.ORANGE, ls=":")
            place = {"xy": (n_bytes, 1), "xycoords": ("data", "axes fraction"), "xytext": (0, 2)}
            axes.annotate(
                f"{name} ends", **place, textcoords="offset points", ha="center", va="bottom", size=9
            )
    axes.set(xscale="log", ylim=(0, None), xlabel="bytes of the array", ylabel="GB/s")
    fastest, last = max(rates.values()), rates[max(rates)]
    title = f"At its fastest {fastest / last:.1f} times as fast as on the largest array"
    axes.set_title(title, pad=20)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def draw_roofs(limits: roofline.Ceilings, products: Mapping[str, float]) -> Axes:
    """Draw both roofs, and a line at the operations / byte of each named product."""
    axes = plt.subplots(figsize=(8, 4))[1]
    roofline.draw_both(axes, limits)
    for name, intensity in products.items():
        axes.axvline(intensity, color=plot.BLUE, ls=":")
        place = {"xy": (intensity, 0.08), "xycoords": ("data", "axes fraction"), "xytext": (4, 0)}
        axes.annotate(name, **place, textcoords="offset points")
    axes.set_title("Bytes set the limit on the slope, arithmetic on the flat part")
    axes.legend(loc="upper left")
    return axes


def draw_own_bytes(limits: roofline.Ceilings, must: Mapping[str, Point], own: Mapping[str, float]) -> Axes:
    """Draw kernels' points, and beside each, hollow, where its own operations / byte put it."""
    axes = plt.subplots(figsize=(9, 4))[1]
    roofline.draw(axes, limits.peak, limits.bandwidth, "roof, float32")
    roofline.draw_points(axes, must)
    for name, (intensity, speed) in must.items():
        axes.plot([intensity, own[name]], [speed, speed], color=roofline.MARKS[name][0])
    roofline.draw_points(axes, {name: (own[name], speed) for name, (_, speed) in must.items()}, "none")
    slowest = min(speed for _, speed in must.values())
    axes.set(xlim=(0.05, 100), ylim=(min(0.1, slowest / 3), 3 * limits.peak))
    name = min(own, key=own.get)
    share = roofline.share(limits, own[name], must[name][1])
    axes.set_title(f"By its own bytes (hollow), {name}\nreaches {share:.0%} of its roof")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return axes


def draw_lower_roof(limits: roofline.Ceilings, in_order: float, one: Point, many: Point) -> Axes:
    """Draw the roof of sums in order, GFLOP/s, under that of BLAS, and Phase 0 at M = 1 and 128 rows."""
    axes = plt.subplots(figsize=(9, 4))[1]
    roofline.draw(axes, limits.peak, limits.bandwidth, "roof, float32")
    roofline.draw(axes, in_order, limits.bandwidth, "sums in order", plot.RED, "--")
    roofline.draw_points(axes, {"phase0_baseline": one})
    roofline.draw_points(axes, {"phase0_baseline": many}, "none")
    below = roofline.attainable(many[0], in_order, limits.bandwidth) / many[1]
    axes.set_title(f"Sums in order: a lower roof, at M = 128 (hollow)\n{below:.1f} times Phase 0's speed")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    return axes


def draw_model(intensity: float, tokens: float, peak: float, bandwidth: float) -> Axes:
    """Draw a model's point on the roof of a machine; `tokens` a second are what the title says."""
    top = roofline.attainable(intensity, peak, bandwidth)
    axes = plt.subplots(figsize=(8, 3.8))[1]
    roofline.draw(axes, peak, bandwidth, f"{bandwidth} GB/s, {peak} GFLOP/s")
    axes.plot(intensity, top, "o", color=plot.ORANGE, ms=12, mec="0.2")
    limit = "bytes" if top < peak else "arithmetic"
    axes.set(ylim=(1, 3 * peak), title=f"{tokens:.1f} tokens/s at most, limited by {limit}")
    axes.legend(loc="lower right")
    return axes
