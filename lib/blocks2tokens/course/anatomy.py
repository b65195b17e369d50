"""The picture of a block: every field in its place and colour, and a weight traced to its bits.

    anatomy.draw("Q4_K")                   the bytes of a block, coloured by field
    anatomy.draw("Q4_K", raw, weight=37)   the same, the bits of weight 37 marked, its value worked out
    anatomy.trace(fmt, 37)                 which bits those are: {field: [(byte, bit), ...]}
    anatomy.levels(fmt, raw, 37)           its code, and the value that each possible code would have

Which bits a weight depends on is not written down anywhere here: each bit of some random blocks is
flipped, the block decoded, and what changed belongs to that bit.
"""

from dataclasses import dataclass
from functools import lru_cache

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from blocks2tokens.course import models, plot
from blocks2tokens.formats import FORMATS, Format
from blocks2tokens.gguf_file import GGUFFile

IN_A_ROW, IN_A_ROW_OF_FEW = 32, 24  # bytes; a block of few bytes is drawn larger
WIDTH = 10  # inches
CODE_FIELDS = ("qs", "ql", "qh", "hmask")  # low bits of a code first
PROBES = 6  # random blocks: enough that no code is 0 in all of them, which would hide its scale's bits


def fields(fmt: Format) -> dict[str, tuple[int, int]]:
    """Return {field: (first byte, number of bytes)} of a block, in order."""
    parts = ((name, fmt.block.fields[name]) for name in fmt.block.names)
    return {name: (offset, dtype.itemsize) for name, (dtype, offset) in parts}


@lru_cache
def _influence(name: str) -> np.ndarray:
    """Return which bits matter to which weights, bool [bytes, 8, weights], found by flipping each."""
    fmt = FORMATS[name]
    rng = np.random.default_rng(0)
    flips = np.eye(8 * fmt.bytes_per_block, dtype=np.uint8)
    masks = np.packbits(flips, axis=1, bitorder="little")  # [8 * bytes, bytes], one bit each
    matters = np.zeros((len(masks), fmt.block_size), bool)
    for _ in range(PROBES):
        block = _tame_block(fmt, rng)
        matters |= fmt.dequantize(block ^ masks) != fmt.dequantize(block)
    return matters.reshape(fmt.bytes_per_block, 8, fmt.block_size)


def _tame_block(fmt: Format, rng) -> np.ndarray:
    """Return a random block, uint8 [bytes], whose float fields are ordinary numbers."""
    block = rng.integers(0, 256, fmt.bytes_per_block, dtype=np.uint8)
    view = block.view(fmt.block)
    for name in fmt.block.names:
        if fmt.block[name].kind == "f":
            view[name] = rng.uniform(1, 2)
        elif name == "e":
            view[name] = 127
    return block


def trace(fmt: Format, weight: int) -> dict[str, list[tuple[int, int]]]:
    """Return the bits that a weight depends on, {field: [(byte, bit), ...]}; bit 0 is the lowest.

    Raises ValueError for a weight outside the block.
    """
    if not 0 <= weight < fmt.block_size:
        raise ValueError(f"weight: expected 0 <= weight < {fmt.block_size}, got {weight}")
    bits = np.argwhere(_influence(fmt.name)[:, :, weight])
    found = {}
    for name, (first, size) in fields(fmt).items():
        own = [(int(byte), int(bit)) for byte, bit in bits if first <= byte < first + size]
        if own:
            found[name] = own
    return found


def levels(fmt: Format, raw: np.ndarray, weight: int) -> tuple[int, np.ndarray]:
    """Return a weight's code and the values of all codes in its place, float32 [number of codes].

    `raw` is one block, uint8 [bytes]. In a linear format the values are equally spaced: the first is
    what code 0 stands for, the step is the scale.
    """
    traced = trace(fmt, weight)
    bits = [place for name in CODE_FIELDS for place in traced.get(name, ())]
    code = sum(int(raw[byte] >> bit & 1) << i for i, (byte, bit) in enumerate(bits))
    blocks = np.repeat(raw[None], 2 ** len(bits), axis=0)
    for i, (byte, bit) in enumerate(bits):
        blocks[:, byte] &= 255 ^ (1 << bit)
        blocks[:, byte] |= ((np.arange(len(blocks)) >> i & 1) << bit).astype(np.uint8)
    return code, fmt.dequantize(blocks)[:, weight]


@dataclass(frozen=True)
class _Grid:
    """Where bytes stand: `columns` of them in a row, on a sheet `width` bytes wide; sizes in points."""

    columns: int
    width: int
    size: float

    @classmethod
    def of(cls, fmt):
        if fmt.bytes_per_block > 2 * IN_A_ROW_OF_FEW:
            return cls(IN_A_ROW, IN_A_ROW, 10)
        n_rows = -(-fmt.bytes_per_block // IN_A_ROW_OF_FEW)
        return cls(-(-fmt.bytes_per_block // n_rows), IN_A_ROW_OF_FEW, 12.5)

    def place(self, byte):
        return divmod(byte, self.columns)

    def letters(self, text):
        """Return about how wide a text of 11 points is, in bytes."""
        return 0.088 * len(text) * (self.width + 2.2) / WIDTH


def example(fmt: Format) -> np.ndarray:
    """Return a block of real weights, uint8 [bytes]: the first of a matrix of Austen."""
    file = GGUFFile(models.austen())
    tensor = file.tensors["blk.1.ffn_down.weight"]
    weights = FORMATS["F16"].dequantize(file.raw(tensor.name))[0, : fmt.block_size]
    return fmt.quantize(weights)


def draw(fmt: Format | str, raw: np.ndarray | None = None, weight: int | None = None) -> Axes:
    """Draw a block, uint8 [bytes], by default one of real weights; trace a weight if one is named."""
    fmt = FORMATS[fmt] if isinstance(fmt, str) else fmt
    raw, grid = example(fmt) if raw is None else raw, _Grid.of(fmt)
    n_rows = grid.place(fmt.bytes_per_block - 1)[0] + 1
    traced = {} if weight is None else trace(fmt, weight)
    height = 0.042 * grid.size * n_rows + 0.8 + (0.64 * len(traced) + 0.3 if traced else 0)
    axes = plt.subplots(figsize=(WIDTH, height))[1]
    axes.set_axis_off()
    colours = {name: plot.COLOURS[i % len(plot.COLOURS)] for i, name in enumerate(fields(fmt))}
    _draw_bytes(axes, grid, fmt, raw, colours, {byte for bits in traced.values() for byte, _ in bits})
    bottom = _draw_legend(axes, grid, fmt, colours, n_rows)
    if traced:
        bottom = _draw_trace(axes, raw, traced, colours, bottom)
    axes.set(xlim=(-2, grid.width + 0.2), ylim=(bottom, -0.2))
    axes.set_title(_title(fmt, raw, weight))
    return axes


def _title(fmt, raw, weight):
    if weight is None:
        return f"{fmt.name}: {fmt.block_size} weights in {fmt.bytes_per_block} bytes"
    code, values = levels(fmt, raw, weight)
    return f"{fmt.name}, weight {weight}: code {code} of 0 to {len(values) - 1}, value {values[code]:.5g}"


def _draw_bytes(axes, grid, fmt, raw, colours, marked):
    middle = {"ha": "center", "va": "center", "size": grid.size}
    for name, (first, size) in fields(fmt).items():
        for byte in range(first, first + size):
            row, column = grid.place(byte)
            alpha, ink = (0.95, _ink(colours[name])) if byte in marked else (0.28, "black")
            axes.add_patch(Rectangle((column, row), 0.94, 0.9, color=colours[name], alpha=alpha, lw=0))
            axes.text(column + 0.47, row + 0.47, f"{raw[byte]:02x}", color=ink, **middle)
    for first in range(0, fmt.bytes_per_block, grid.columns):
        row = grid.place(first)[0]
        axes.text(-0.25, row + 0.47, f"{first}", ha="right", va="center", size=10, color="0.35")


def _ink(colour):
    """Return black or white, whichever reads better on a colour."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _draw_legend(axes, grid, fmt, colours, n_rows):
    x = 0.0
    for name, (first, size) in fields(fmt).items():
        last = first + size - 1
        text = f"{name}: byte{'s' if size > 1 else ''} {first}" + (f"–{last}" if size > 1 else "")
        axes.add_patch(Rectangle((x, n_rows + 0.35), 0.8, 0.6, color=colours[name], alpha=0.6, lw=0))
        axes.text(x + 1.0, n_rows + 0.68, text, va="center", size=11)
        x += 1.7 + grid.letters(text)
    return n_rows + 1.2


def _draw_trace(axes, raw, traced, colours, top):
    """Draw, a line for each field, the bytes that the weight touches as bits, its own ones filled."""
    for line, (name, bits) in enumerate(traced.items()):
        y = top + 0.3 + 1.35 * line
        axes.text(-0.25, y + 0.5, name, ha="right", va="center", size=11, weight="bold")
        for slot, byte in enumerate(sorted({byte for byte, _ in bits})):
            x = 7.6 * slot
            axes.text(x, y + 1.1, f"byte {byte}", size=10, color="0.3", va="center")
            for bit in range(8):
                own = (byte, bit) in bits
                place = (x + 0.85 * (7 - bit), y)
                face = colours[name] if own else "white"
                axes.add_patch(Rectangle(place, 0.8, 0.85, fc=face, ec=colours[name], lw=0.8))
                text, ink = str(raw[byte] >> bit & 1), _ink(colours[name]) if own else "0.35"
                axes.text(place[0] + 0.4, y + 0.44, text, ha="center", va="center", size=11, color=ink)
    return top + 0.4 + 1.35 * len(traced)
