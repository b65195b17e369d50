"""The pictures of lesson 16.

draw_whole_numbers   sums of codes, and what is applied to them
draw_path_of_64      64 codes and 64 activations on their way to 16 sums
draw_order_of_load   the sub-blocks in a load, and in x
waterfall            the story's kernels, from Phase 1 on
draw_rounding        activations, one of them far out, and their codes
draw_cpus            how many instructions the engine's code is on other CPUs
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import cycles, plot
from blocks2tokens.kernels import listing

OWN = "your kernel"


def draw_whole_numbers(q: Sequence[int], c: Sequence[int], scale: float, offset: float, d: float) -> Axes:
    """Draw codes of weights and activations, their products, and what is applied after the sums."""
    axes = plt.subplots(figsize=(8, 3.3))[1]
    products = [a * b for a, b in zip(q, c, strict=True)]
    for y, name, values, colour in (
        (3, "q", q, plot.YELLOW),
        (2, "c", c, plot.SKY),
        (1, "q·c", products, "w"),
    ):
        axes.text(-0.25, y, name, ha="right", va="center", weight="bold")
        for i, value in enumerate(values):
            box = plt.Rectangle((i, y - 0.38), 0.92, 0.76, fc=colour, ec="0.4", alpha=0.75)
            axes.add_patch(box)
            axes.text(i + 0.46, y, f"{value:g}", ha="center", va="center")
    codes, dots = sum(c), sum(products)
    taken, made = codes * d * offset, dots * d * scale
    axes.text(4.15, 2, f"Σ = {codes:g},    times d · offset:   {taken:g}", va="center")
    axes.text(4.15, 1, f"Σ = {dots:g},  times d · scale:   {made:g}", va="center")
    axes.text(4.15, 0.1, f"{made:g} − {taken:g} = {made - taken:g}", va="center", weight="bold")
    axes.set(xlim=(-1, 8), ylim=(-0.3, 3.5), title="Whole numbers inside, scales and offsets outside")
    axes.axis("off")
    return axes


def draw_path_of_64() -> Axes:
    """Draw 64 codes and 64 activations, and the two instructions that make 16 sums of them."""
    axes = plt.subplots(figsize=(10, 3.3))[1]
    steps = [
        (3, 64, plot.YELLOW, "64 codes q\n8 bits"),
        (2.2, 64, plot.SKY, "64 activations c\n8 bits"),
        (1.1, 32, plot.GREEN, "dot_pairs\n16 bits"),
        (0, 16, plot.ORANGE, "add_scaled_pairs\n32 bits"),
    ]
    for y, n, colour, name in steps:
        for i in range(n):
            place, width = (i * 64 / n, y), 64 / n - 0.15
            axes.add_patch(plt.Rectangle(place, width, 0.62, fc=colour, ec="0.4", lw=0.6, alpha=0.8))
        axes.text(-1, y + 0.3, name, ha="right", va="center")
    axes.text(65, 1.4, "q₀c₀ + q₁c₁", va="center")
    axes.text(65, 0.3, "sum + p₀s₀ + p₁s₁", va="center")
    axes.set(xlim=(-15, 80), ylim=(-0.2, 3.8))
    axes.set_title("Two instructions multiply a register of pairs and scale them")
    axes.axis("off")
    return axes


def draw_order_of_load() -> Axes:
    """Draw the sub-blocks in 64 bytes of a file, as a load gives them, and as x has them."""
    axes = plt.subplots(figsize=(10, 3.2))[1]
    colours = [plot.SKY, plot.YELLOW, plot.GREEN, plot.PURPLE]

    def draw_parts(y, numbers, name):
        for i, n in enumerate(numbers):
            box = plt.Rectangle((2.4 * i, y), 2.32, 0.7, fc=colours[n], ec="0.4", alpha=0.75)
            axes.add_patch(box)
            axes.text(2.4 * (i + 0.5), y + 0.35, f"sub-block {n}", ha="center", va="center", size=9)
        axes.text(-0.2, y + 0.35, name, ha="right", va="center")

    draw_parts(2.9, [1, 3], "high nibbles")
    draw_parts(2.1, [0, 2], "low nibbles")
    draw_parts(0.6, [0, 2, 1, 3], "as they come out")
    draw_parts(-0.5, [0, 1, 2, 3], "as x has them")
    axes.text(2.4, 3.9, "64 bytes of the file", ha="center")
    for x, name in ((2.4, "low nibbles"), (7.2, "high nibbles")):
        axes.text(x, 1.42, name, ha="center", va="bottom", size=9)
        axes.plot([x - 2.35, x + 2.3], [1.37, 1.37], color="0.3")
    axes.set(xlim=(-2.4, 10.2), ylim=(-0.7, 4.4))
    axes.set_title("Codes come out of a load in another order than x has")
    axes.axis("off")
    return axes


def says(factor: float) -> str:
    """Say how a kernel compares with Phase 1, which takes `factor` times its time."""
    if 0.9 < factor < 1.1:
        return "the same"
    if factor < 1:
        return f"{1 / factor:.3g}× slower"
    return f"{factor:,.0f}× faster" if factor >= 100 else f"{factor:.3g}× faster"


def waterfall(each: Mapping[str, float]) -> Axes:
    """Draw ns for each multiply-add, Phase 1 on top, with the factor to it; squares are the report's."""
    report = sorted((name for name in each if name.startswith("phase")), key=lambda name: name[5] == "0")
    names = [*report, *(name for name in each if name not in report)]
    values = [each[name] for name in names]
    axes = plt.subplots(figsize=(9.5, 0.5 * len(names)))[1]
    for y, (name, value) in enumerate(zip(names, values, strict=True)):
        colour = plot.RED if name in report else plot.BLUE if name == OWN else plot.SKY
        mark = "s" if name in report else "*" if name == OWN else "o"
        axes.plot(value, y, mark, color=colour, mec="0.2", ms=13 if mark == "*" else 9)
        time = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        text = f"{time} ns   {says(values[0] / value) if y else 'Phase 1'}"
        axes.annotate(text, (value, y), (11, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.set(xscale="log", xlabel="ns for each multiply-add", xlim=(min(values) / 2, max(values) * 100))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(f"From the slowest to the fastest: {max(values) / min(values):,.0f} times")
    return axes


def draw_rounding(x: np.ndarray, codes: np.ndarray, d: np.ndarray, outlier: int) -> Axes:
    """Draw activations, float32 [K], and what their codes stand for, all but number `outlier`.

    The title says how far the others are off.
    """
    others = np.arange(x.size) != outlier
    rounded = np.repeat(d, x.size // d.size) * codes
    error = np.sqrt(np.mean((rounded - x)[others] ** 2) / np.mean(x[others] ** 2))
    axes = plt.subplots(figsize=(8.5, 3))[1]
    places = np.flatnonzero(others)
    axes.plot(places, x[others], "o", ms=3, color="0.5", label="x")
    axes.plot(places, rounded[others], "_", ms=7, color=plot.BLUE, label="d · code")
    axes.set(xlabel="activation", ylabel="value", ylim=(-3.5, 3.5))
    blocks = f"blocks of {x.size // d.size}"
    axes.set_title(f"One value of {x[outlier]:g}, {blocks}: the others are off by {error:.2%}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def draw_cpus(name: str = "Q4_K") -> Axes:
    """Draw how many instructions the engine's code for 256 weights is on each CPU of a table.

    Beside them, where llvm-mca is installed and knows the CPU, the cycles that its model gives.
    """
    shades = plot.BLUE, plot.SKY, plot.YELLOW, plot.ORANGE, plot.GREEN
    colours = dict(zip(listing.DOTS, shades, strict=True))
    counts = {cpu: listing.per_256(name, cpu, len(listing.loop_of(name, cpu))) for cpu in listing.CPUS}
    axes = plt.subplots(figsize=(9.5, 0.34 * len(counts) + 0.9))[1]
    for isa, colour in colours.items():
        some = [cpu for cpu, its in listing.CPUS.items() if its == isa]
        axes.barh(some, [counts[cpu] for cpu in some], color=colour, edgecolor="0.3", height=0.7, label=isa)
    for y, cpu in enumerate(cpu for isa in colours for cpu, its in listing.CPUS.items() if its == isa):
        modelled = f", about {cycles.cycles(name, cpu):.0f} cycles" if cycles.knows(cpu) else ""
        axes.text(counts[cpu] + 1, y, f"{counts[cpu]:.0f}{modelled}", va="center")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, 1.3 * max(counts.values())), xlabel="instructions for 256 weights and one row of x")
    widest = max(counts.values()) / min(counts.values())
    axes.set_title(
        f"One definition, {len(counts)} CPUs: wider registers, up to {widest:.1f} times fewer instructions"
    )
    axes.legend(loc="upper right")
    return axes
