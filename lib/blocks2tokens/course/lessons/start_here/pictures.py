"""The pictures of lesson 00.

draw_levels     the weights of a block, and where rounding has put them
draw_ceilings   how fast this machine reads and multiplies, on one core and on all
draw_engines    for each model: the naive engine, the last one, and what memory allows
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot, predict


def draw_levels(weights: np.ndarray, rounded: np.ndarray, levels: np.ndarray) -> Axes:
    """Draw weights and rounded weights, float32 [32], over the values that are allowed."""
    axes = plt.subplots()[1]
    before = "32 weights of Austen, 16 bits each"
    axes.plot(weights, "o", color=plot.GREY, label=before)
    after = f"after Q4_1: {len(levels)} levels, 5 bits each"
    axes.plot(rounded, "x", color=plot.RED, ms=9, mew=2, label=after)
    for level in levels:
        axes.axhline(level, color="0.85", lw=0.7, zorder=0)
    axes.grid(visible=False)
    axes.set(xlabel="weight", ylabel="value")
    axes.set_title(f"A block keeps its weights, rounded to {len(levels)} levels")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def draw_ceilings(read: Mapping[int, float], multiply: Mapping[int, float]) -> tuple[Axes, Axes]:
    """Draw {cores: GB/s read} beside {cores: GFLOP/s}."""
    left, right = plt.subplots(1, 2, figsize=(10, 2.4))[1]
    for axes, values, unit, does, colour in (
        (left, read, "GB/s", "read", plot.BLUE),
        (right, multiply, "GFLOP/s", "multiply", plot.ORANGE),
    ):
        bars = {f"{n} core" + "s" * (n > 1): value for n, value in values.items()}
        plot.bars(bars, unit, _gain(values, does), colour, axes=axes)
        axes.margins(x=0.3)
    return left, right


def _gain(values, does):
    """Say what all cores do beside one."""
    one, most = values[min(values)], max(values)
    if most == 1:
        return f"One core alone can {does}"
    return f"{most} cores {does} {values[most] / one:.1f} times as fast as one"


def draw_engines(speeds: Mapping[str, tuple[float, float]], tops: Mapping[str, float]) -> list[Axes]:
    """Draw {model: tokens/s of the naive engine and of the last} and {model: what memory allows}."""
    rows = plt.subplots(len(speeds), 1, figsize=(9, 2.4 * len(speeds)), squeeze=False)[1][:, 0]
    colours = [plot.RED, plot.BLUE, plot.GREY]
    for axes, (label, (naive, last)) in zip(rows, speeds.items(), strict=True):
        title = f"{label}: from {predict.written(naive)} to {predict.written(last)} tokens a second"
        engines = {"naive": naive, "at the end": last, "what memory allows": tops[label]}
        plot.bars(engines, "tokens/s", title, colours, axes=axes)
        axes.margins(x=0.25)
    return list(rows)
