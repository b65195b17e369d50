"""The first bytes of a file as a picture: each in its field, words as words, other bytes as numbers.

hexdump.draw(data[:64], {"magic": 4, "version": 4, ...}, "How a file begins")
"""

from itertools import cycle

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from blocks2tokens.course import plot

BYTES_IN_A_ROW = 32


def draw(data: bytes, fields: dict[str, int], title: str, start: int = 0) -> Axes:
    """Draw bytes in rows, under them the field that they belong to; `fields` is {name: bytes}, in order.

    `start` is the place of the first byte in its file. Bytes behind the last field stay grey.
    """
    n_rows = -(-len(data) // BYTES_IN_A_ROW)
    axes = plt.subplots(figsize=(10, 0.75 * n_rows + 0.6))[1]
    axes.set_axis_off()
    at = 0
    for (name, size), colour in zip(fields.items(), cycle(plot.COLOURS[:7])):
        _draw_field(axes, data, at, min(at + size, len(data)), colour, name)
        at += size
    _draw_field(axes, data, at, len(data), plot.GREY, "")
    for row in range(n_rows):
        label = start + BYTES_IN_A_ROW * row
        axes.text(-0.3, 2 * row + 0.45, f"{label:,}", ha="right", va="center", size=8, color="0.4")
    axes.set(xlim=(-2.2, BYTES_IN_A_ROW + 0.1), ylim=(2 * n_rows, -0.2), title=title)
    return axes


def _draw_field(axes, data, first, end, colour, name):
    """Draw the bytes first..end in one colour, and the name under the longest of their runs in a row."""
    runs = []
    while first < end:
        row, column = divmod(first, BYTES_IN_A_ROW)
        size = min(end - first, BYTES_IN_A_ROW - column)
        for i in range(size):
            _draw_byte(axes, column + i, 2 * row, data, first + i, colour)
        axes.plot([column + 0.05, column + size - 0.1], [2 * row + 1.1] * 2, color=colour, lw=2.5)
        runs.append((size, column, row))
        first += size
    if runs and name:
        size, column, row = max(runs)
        axes.text(column + size / 2 - 0.02, 2 * row + 1.48, name, ha="center", va="center", size=8.5)


def _draw_byte(axes, x, y, data, at, colour):
    """Draw one byte: as a character where it stands in a word, else as a number."""
    axes.add_patch(Rectangle((x, y), 0.94, 0.95, color=colour, alpha=0.25, lw=0))
    neighbours = data[at - 1 : at] + data[at + 1 : at + 2]
    is_text = _is_character(data[at]) and any(map(_is_character, neighbours))
    text, size = (chr(data[at]), 10) if is_text else (f"{data[at]:02x}", 7)
    weight, ink = ("bold", "black") if is_text else ("normal", "0.35")
    axes.text(x + 0.47, y + 0.5, text, ha="center", va="center", size=size, weight=weight, color=ink)


def _is_character(byte):
    return 32 < byte < 127
