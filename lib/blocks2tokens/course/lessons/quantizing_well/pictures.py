"""The pictures of the lesson on quantizing well, all of one block and its scale but the last.

draw_valleys        the error of a block over its scale, with the formula's and the best
draw_parabolas      the same curve as the lower edge of parabolas, one for each set of codes
draw_knob           weights on the grid of a scale, and where that scale is on the curve
draw_calibration    the error of outputs over the tokens that an importance matrix was learned from
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot

STYLES = ((plot.GREEN, "--"), (plot.ORANGE, ":"), (plot.RED, "-."))
IN_UNITS = "scale, in units of the formula's"


def _codes(block, scale, nmax):
    return np.clip(np.rint(block / scale), -nmax, nmax - 1)


def draw_valleys(ratios: np.ndarray, errors: np.ndarray) -> Axes:
    """Draw errors [n] of a block over scales [n], in units of the formula's, which is 1."""
    best, formula = errors.argmin(), np.interp(1, ratios, errors)
    axes = plt.subplots()[1]
    axes.plot(ratios, errors, color=plot.BLUE)
    axes.plot(1, formula, "o", ms=10, color=plot.ORANGE, mec="black", label="the formula")
    axes.plot(ratios[best], errors[best], "D", ms=9, color=plot.RED, mec="black", label="the best")
    gain = 1 - errors[best] / formula
    axes.set(xlabel=IN_UNITS, ylabel="RMS error of the block")
    axes.set_title(f"Many valleys: the deepest is {gain:.0%} below the formula")
    axes.legend()
    return axes


def draw_parabolas(block: np.ndarray, nmax: int, ratios: np.ndarray, chosen: tuple[float, ...]) -> Axes:
    """Draw the squared error of a block over its scale, and with the codes of the chosen scales kept."""
    formula = block[abs(block).argmax()] / -nmax
    nearest = [np.mean((r * formula * _codes(block, r * formula, nmax) - block) ** 2) for r in ratios]
    axes = plt.subplots()[1]
    axes.plot(ratios, nearest, color=plot.BLUE, lw=3, alpha=0.6, label="nearest codes")
    for ratio, (colour, line) in zip(chosen, STYLES, strict=True):
        kept = [np.mean((r * formula * _codes(block, ratio * formula, nmax) - block) ** 2) for r in ratios]
        axes.plot(ratios, kept, line, color=colour, lw=1.8, label=f"codes of {ratio:.2f}")
    axes.set(xlabel=IN_UNITS, ylabel="mean squared error", ylim=(0.8 * min(nearest), max(nearest)))
    axes.set_title("The curve is the lower edge of many parabolas")
    axes.legend(ncols=2)
    return axes


def draw_knob(block: np.ndarray, nmax: int, ratio: float, ratios: np.ndarray, errors: np.ndarray) -> None:
    """Draw a block on the grid of a scale, `ratio` times the formula's, and that scale on the curve."""
    scale = ratio * block[abs(block).argmax()] / -nmax
    rounded = scale * _codes(block, scale, nmax)
    left, right = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=(2, 1))[1]
    for q in range(-nmax, nmax):
        left.axhline(scale * q, color="0.88", lw=0.8, zorder=0)
    left.plot(block, "o", color=plot.GREY, label="weights")
    left.plot(rounded, "x", color=plot.RED, mew=2, label="rounded")
    left.set(xlabel="weight", ylabel="value", title=f"{ratio:.3f} of the formula's scale")
    left.grid(visible=False)
    left.legend(ncols=2)
    error = np.sqrt(np.mean((rounded - block) ** 2))
    right.plot(ratios, errors, color=plot.BLUE)
    right.plot(ratio, error, "D", ms=9, color=plot.RED)
    right.set(xlabel="scale / formula's", title=f"error {error:.5f}")
    plt.show()


def draw_calibration(counts: np.ndarray, learned: list[float], uniform: float) -> Axes:
    """Draw the error of outputs with importance from so many tokens, and that with all inputs alike."""
    axes = plt.subplots()[1]
    axes.plot(counts, learned, "o-", color=plot.BLUE, label="importance from so many tokens")
    axes.axhline(uniform, color=plot.ORANGE, ls="--", label="all inputs alike")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, counts)
    axes.set(xlabel="tokens of calibration text", ylabel="relative error of outputs, Q2_K")
    harmful = [n for n, error in zip(counts, learned, strict=True) if error >= uniform]
    start = f"Up to {max(harmful)} tokens it does harm" if harmful else "It helps from the first tokens"
    axes.set_title(f"{start}; with {max(counts):,} it takes {1 - learned[-1] / uniform:.0%} off")
    axes.legend()
    return axes
