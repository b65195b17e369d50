"""The pictures of lesson 09.

bytes_read   which bytes of a block one call of the report's decoder reads
draw_call    those bytes in the block
draw_rows    times of kernels over the rows of `a`, with the gap at both ends
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import anatomy, plot
from blocks2tokens.course.predict import written
from blocks2tokens.formats import FORMATS, Format


def bytes_read(fmt: Format, f: int) -> tuple[list[int], list[int]]:
    """Return the header's bytes and the code's bytes, places in the block, that one call reads for weight f.

    Of the header all fields, whole; of the codes the bytes that the weight depends on.
    """
    parts, traced = anatomy.fields(fmt), anatomy.trace(fmt, f % fmt.block_size)
    header = [parts[name] for name in parts if name not in anatomy.CODE_FIELDS]
    code = {byte for name in anatomy.CODE_FIELDS for byte, _ in traced.get(name, ())}
    return [first + i for first, size in header for i in range(size)], sorted(code)


def draw_call(name: str = "Q5_K", f: int = 677) -> Axes:
    """Draw the block of weight f of a format; filled is what one call reads."""
    fmt = FORMATS[name]
    header, code = bytes_read(fmt, f)
    n_rows = -(-fmt.bytes_per_block // 32)
    axes = plt.subplots(figsize=(10.5, 0.9 + 0.44 * n_rows))[1]
    for byte in range(fmt.bytes_per_block):
        y, x = divmod(byte, 32)
        colour, ink = (plot.BLUE, "w") if byte in code else (plot.ORANGE, "k")
        colour, ink = (colour, ink) if byte in (*code, *header) else ("0.95", "0.45")
        axes.add_patch(plt.Rectangle((x, y), 0.94, 0.9, color=colour, lw=0))
        axes.text(x + 0.47, y + 0.47, byte, ha="center", va="center", size=8, color=ink)
    read = len(header) + len(code)
    axes.set_title(f"{name}, weight {f}: {read} of {fmt.bytes_per_block} bytes, for a code of {name[1]} bits")
    axes.set_xlabel("orange: the header · blue, white on dark: the code")
    axes.set(xlim=(-0.3, 32.3), ylim=(n_rows + 0.1, -0.2), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    return axes


def draw_rows(times: Mapping[int, Mapping[str, float]], slow: str, fast: str) -> Axes:
    """Draw {M: {kernel: seconds}}, and how many times the slow one takes the fast one's, first and last."""
    rows = list(times)
    axes = plt.subplots()[1]
    for name, colour, mark in zip(times[rows[0]], (plot.ORANGE, plot.SKY, plot.BLUE), "osD", strict=True):
        axes.plot(rows, [1e3 * times[m][name] for m in rows], f"{mark}-", color=colour, label=name)
    gaps = np.array([times[m][slow] / times[m][fast] for m in rows])
    for m, gap in ((rows[0], gaps[0]), (rows[-1], gaps[-1])):
        axes.vlines(m, *(1e3 * times[m][name] for name in (fast, slow)), color="0.6", ls=":")
        top = (m, 1e3 * times[m][slow])
        axes.annotate(f"{written(gap)}×", top, (0, 7), textcoords="offset points", ha="center")
    axes.set(xscale="log", yscale="log", xticks=rows, xticklabels=rows)
    axes.set(xlabel="M, rows of a", ylabel="time, ms")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.09, y=0.14)
    axes.minorticks_off()
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(
        f"{slow} over {fast}: {written(gaps[0])}× with {rows[0]} row, {written(gaps[-1])}× with {rows[-1]}"
    )
    return axes
