"""The pictures of lesson 17; those of curves over M are in course/crossover.py.

draw_ratios      how many times as fast as the baseline something is
draw_two_lines   a kernel with little to start with, one with little for each row, and where they cross
draw_lines       lines from bytes, lines from two measurements, and what was measured
draw_panel       whose bytes a load takes, before and after 16 rows were turned
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import crossover, plot

Line = tuple[float, float]  # a and b: ns for a weight, and for each row of x


def draw_ratios(ratios: Mapping[str, float], title: str) -> Axes:
    """Draw {what: how many times as fast as the baseline it is}; a line where both are as fast."""
    axes = plot.bars(dict(ratios), "×", title)
    axes.set_xlabel("times as fast as the baseline")
    axes.axvline(1, color="k", ls="--", lw=1, zorder=0)
    for text in axes.texts:
        text.set_bbox({"fc": "w", "ec": "none", "pad": 1})
    return axes


def draw_two_lines(first: Line = (1, 1), second: Line = (10, 0.5)) -> Axes:
    """Draw time over M of two kernels, a + b * M each, and the M at which they take the same."""
    M = np.linspace(0, 40, 9)
    axes = plt.subplots(figsize=(8, 3.4))[1]
    for (a, b), style, colour in zip((first, second), ("o-", "^-"), (plot.ORANGE, plot.RED), strict=True):
        axes.plot(M, a + b * M, style, color=colour, label=f"a = {a:g}, b = {b:g}")
    (a1, b1), (a2, b2) = first, second
    meet = (a2 - a1) / (b1 - b2)
    axes.axvline(meet, color="k", ls=":")
    text = f"{meet:g} · {b1:g} + {a1:g} = {meet:g} · {b2:g} + {a2:g}"
    place = (meet + 4, a1)
    axes.annotate(text, (meet, a1 + b1 * meet), place, arrowprops={"arrowstyle": "->"})
    axes.set(xlabel="M", ylabel="time for a weight", title="Little to start with, or little for each row")
    axes.legend()
    return axes


def draw_lines(
    curves: crossover.Curves, lines: Mapping[str, Line], bounds: Mapping[str, Line], meet: float
) -> Axes:
    """Draw measured curves as marks, `lines` dashed, `bounds` dotted; the title says how far off lines are.

    The dotted vertical line is the M at which the lines cross.
    """
    axes = plt.subplots(figsize=(8, 3.8))[1]
    rows, off = np.array(curves.rows), 1.0
    for name, (a, b) in lines.items():
        colour, mark = crossover.LINES[name]
        times = np.array([1e9 * curves.time(name, M) / curves.weights for M in rows])
        least, each = bounds[name]
        axes.plot(rows, a + b * rows, "--", color=colour)
        axes.plot(rows, least + each * rows, ":", color=colour)
        axes.plot(rows, times, mark, color=colour, label=name)
        ratio = times / (a + b * rows)
        off = max(off, *ratio, *(1 / ratio))
    if np.isfinite(meet):
        axes.axvline(meet, color="k", ls=":")
    axes.set(xscale="log", yscale="log", xlabel="M", ylabel="ns for a weight")
    crossover.label_rows(axes, curves.rows)
    axes.set_title(f"Two constants foretell all M, within a factor of {off:.1f}")
    axes.legend()
    return axes


def draw_panel(make_panel: Callable[[np.ndarray], np.ndarray]) -> Sequence[Axes]:
    """Draw whose codes lie where: 16 codes of 16 rows, and the panel that `make_panel` makes of them."""
    axes = plt.subplots(1, 2, figsize=(10, 3.6))[1]
    whose = np.repeat(np.arange(16, dtype=np.uint8)[:, None], 16, axis=1)
    turned = np.asarray(make_panel(whose)).reshape(4, 64)
    titles = "16 rows: a load takes one row", "The panel: a load takes a quad of each"
    labels = ("k, the inputs", "row of w, n"), ("byte of a load of 64", "load")
    for one, picture, title, (across, down) in zip(axes, (whose, turned), titles, labels, strict=True):
        one.pcolormesh(picture, cmap="cividis")
        one.set(title=title, xlabel=across, ylabel=down)
        one.invert_yaxis()
        one.grid(visible=False)
    axes[0].hlines(range(17), 0, 16, color="w", lw=1)
    axes[1].vlines(range(0, 65, 4), 0, 4, color="w", lw=1)
    axes[1].hlines(range(5), 0, 64, color="w", lw=1)
    style = {"ha": "center", "va": "center", "size": 8, "bbox": {"fc": "w", "ec": "none", "pad": 0.6}}
    for n in range(16):
        axes[0].text(8, n + 0.5, n, **style)
        axes[1].text(4 * n + 2, 0.5, n, **style)
    axes[1].set_yticks([0.5, 1.5, 2.5, 3.5], ["k 0–3", "4–7", "8–11", "12–15"])
    return axes
