"""Sixteen rows side by side, in NumPy: what `ours/unpack.py` says of a format, run without vector code.

    raw[n : n + 16]  --Rows-->  words, uint32 [16]: the same 4 bytes of each row
                     --unpack-->  codes and scales, given to `out`
                     --Products-->  x @ W.T of these rows          --Panel-->  [K / 4, 16, 4] codes

`Words` has the operators and methods that the formats of blocks of 256 use; Q4_K's and Q5_K's definitions
run with it as they stand.
"""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.kernels.ours.unpack import PACKED

ROWS = 16


class Words(np.ndarray):
    """Sixteen words, uint32, one of each row; >> << & | are NumPy's."""

    def codes(self):
        """Return the four bytes of each word, uint8 [16, 4]."""
        return np.asarray(self, "<u4").view(np.uint8).reshape(ROWS, 4)

    def halves(self):
        """Return the low two bytes of each word, a float16, as float32."""
        return np.asarray(self, "<u4").astype("<u2").view(np.float16).astype(np.float32)


class Rows:
    """One block of each of sixteen rows; `words` brings some of its bytes, as `jit.lanes.Rows` does."""

    def __init__(self, blocks):
        """Take uint8 [16, block bytes]."""
        self.blocks, self.builder, self.isa = blocks, None, SimpleNamespace(signed=False)

    def words(self, offset, count):
        """Return `count` Words from byte `offset` on."""
        part = np.ascontiguousarray(self.blocks[:, offset : offset + 4 * count]).view("<u4")
        return [np.ascontiguousarray(word).view(Words) for word in part.T]

    def chunk(self, offset):
        """Return 16 bytes of each row as four Words."""
        return self.words(offset, 4)


class Panel:
    """Takes what `unpack` gives, and keeps the codes: the panel of one block, uint8 [K / 4, 16, 4]."""

    def __init__(self):
        self.quads = []

    def group(self, g, codes, scale):
        self.quads += [word.codes() for word in codes]

    def end(self, d, offset, pairs):
        pass


class Products:
    """Takes what `unpack` gives, and multiplies it by one block of activations: `out`, float32 [16]."""

    def __init__(self, codes, d, sums):
        """Take int8 [256], a float32 and the sums of the groups' codes, int16 [groups]."""
        self.x, self.d, self.sums, self.total = codes.astype(np.int32), d, sums, np.zeros(ROWS, np.int64)

    def group(self, g, codes, scale):
        words, byte, _ = scale
        x = self.x.reshape(len(self.sums), len(codes), 4)[g]
        dots = sum(word.codes().astype(np.int32) @ four for word, four in zip(codes, x, strict=True))
        self.total += dots * words.codes()[:, byte]

    def end(self, d, offset, pairs):
        mins = np.concatenate([word.codes() for word in pairs[0]], axis=1).astype(np.int64)
        self.out = self.d * (d * self.total - offset * (mins @ self.sums))


def multiply(unpack, raw, a):
    """Return rows of activations, tiles of one row, times 16 rows of weights, float32 [M, 16]."""
    size = next(packed.size for packed in PACKED.values() if packed.unpack is unpack)
    out = np.zeros((a.n_rows, ROWS), np.float32)
    for m in range(a.n_rows):
        for b in range(a.d.shape[1]):
            products = Products(a.codes[m, b, 0], a.d[m, b, 0], a.sums[m, b, 0])
            unpack(Rows(raw[:, size * b : size * (b + 1)]), products)
            out[m] += products.out
    return out


def panel(unpack, blocks):
    """Return the codes of one block of each of 16 rows, uint8 [K / 4, 16, 4]."""
    made = Panel()
    unpack(Rows(blocks), made)
    return np.array(made.quads)


# --- A picture --------------------------------------------------------------------------------------------

SHOWN = (0, 1, 2, 15)  # of the rows


def draw_turned() -> list[Axes]:
    """Draw 16 bytes of each row, and the same bytes as four vectors with a word of each row."""
    axes = plt.subplots(1, 2, figsize=(10, 3.2), width_ratios=(16, 17))[1]
    shades = [plot.SKY, plot.YELLOW, plot.GREEN, plot.ORANGE]
    names = [f"row {n}" for n in SHOWN]

    def cell(one, x, y, width, text, shade):
        box = plt.Rectangle((x, y), width, 0.8, fc=shade, ec="0.4", alpha=0.7)
        one.add_patch(box)
        one.text(x + width / 2, y + 0.4, text, ha="center", va="center", size=9)

    for y, n in enumerate(SHOWN):
        for word in range(4):
            cell(axes[0], 4 * word, y, 3.8, f"{n}: word {word}", shades[y])
    for word in range(4):
        for x, n in enumerate(SHOWN):
            cell(axes[1], 4 * x + (x == 3), word, 3.8, f"{n}: word {word}", shades[x])
        axes[1].text(12.4, word + 0.4, "…", ha="center", va="center")
    axes[0].set_yticks(np.arange(4) + 0.4, names)
    axes[1].set_yticks(np.arange(4) + 0.4, [f"vector {word}" for word in range(4)])
    axes[1].set_xticks([1.9, 5.9, 9.9, 14.9], [f"lane {n}" for n in SHOWN])
    axes[0].set_xticks([])
    titles = ("In memory: 16 bytes of each row", "In registers: row n is lane n")
    for one, title, right in zip(axes, titles, (16, 17), strict=True):
        one.set(xlim=(-0.2, right), ylim=(4, -0.2), title=title)
        one.grid(visible=False)
        one.tick_params(length=0)
        one.spines[:].set_visible(False)
    axes[0].text(-0.6, 2.9, "⋮", ha="right", va="center")
    return list(axes)
