"""The pictures of the lesson on tokens.

boxes                   tokens as coloured, numbered boxes
visible                 a token's bytes as text with its spaces seen
draw_ladder             a word's parts after each merge
draw_surprise           the surprise at each word, for several sets of ids
draw_bytes_per_token    how much text a token holds, by kind of text and vocabulary
draw_mergers            the time to merge a word over its length
"""

import html
from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.course.bench import Timing
from blocks2tokens.tokenizer import Tokenizer

BOX = "display:inline-block;color:#000;margin:1px;padding:1px 4px;text-align:center;background:"


def boxes(labels: Sequence[str], ids: Sequence[int], unknown: int | None = None, title: str = "") -> HTML:
    """Return tokens as boxes, each with its id below; the unknown token has another colour and a frame."""
    drawn = ""
    for n, (label, i) in enumerate(zip(labels, ids, strict=True)):
        colour = ("#CFE6F5", "#9CC9E8")[n % 2] if i != unknown else "#F3A683;border:2px dashed #000"
        drawn += f'<span style="{BOX}{colour}">{html.escape(label)}<br><small>{i}</small></span>'
    return HTML(f"<div><b>{html.escape(title)}</b></div><div>{drawn}</div>")


def visible(data: bytes) -> str:
    """Return bytes as text with its spaces seen, or in hexadecimal where they are no text."""
    try:
        return data.decode().replace(" ", "␣").replace("\n", "⏎")
    except UnicodeDecodeError:
        return data.hex(" ")


def draw_ladder(steps: Sequence[tuple[str, ...]], ranks: Mapping[tuple[str, str], int]) -> Axes:
    """Draw the parts after each merge, the new part filled, with its rank beside the row."""
    n_letters = len(steps[0])
    axes = plt.subplots(figsize=(8, 0.8 + 0.36 * len(steps)))[1]
    for row, parts in enumerate(steps):
        before = steps[max(row - 1, 0)]
        _row(axes, row, parts, before)
        for pair in pairwise(before):
            if "".join(pair) in parts:
                label = f"{' + '.join(pair)}, rank {ranks[pair]}"
                axes.text(n_letters + 0.3, row, label, va="center")
    axes.set(xlim=(0, n_letters + 4), ylim=(len(steps) - 0.4, -0.6), xticks=[], ylabel="merges applied")
    axes.set_yticks(range(len(steps)))
    axes.set_title(f"From {n_letters} letters to {len(steps[-1])} tokens: the lowest rank goes first")
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return axes


def _row(axes, row, parts, before):
    left = 0
    for part in parts:
        colour = "white" if part in before else plot.ORANGE
        axes.barh(row, len(part) - 0.1, 0.8, left + 0.05, color=colour, edgecolor="0.3")
        axes.text(left + len(part) / 2, row, part, ha="center", va="center")
        left += len(part)


def draw_surprise(words: Sequence[str], bits: Mapping[str, np.ndarray]) -> Axes:
    """Draw the surprise at each word in bits, two sets of ids side by side."""
    place, axes = np.arange(len(words)), plt.subplots()[1]
    styles = ({"color": plot.BLUE}, {"color": plot.ORANGE, "hatch": "//", "edgecolor": "white"})
    for shift, (name, values), style in zip((-0.2, 0.2), bits.items(), styles, strict=True):
        axes.bar(place + shift, values, 0.4, label=name, **style)
    axes.set_xticks(place, [word.strip() for word in words], rotation=45)
    axes.set(ylabel="surprise, bits", title="Lose the spaces, and the words come as a surprise")
    axes.margins(y=0.2)
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left", ncols=2)
    return axes


def draw_bytes_per_token(texts: Mapping[str, str], tokenizers: Mapping[str, Tokenizer]) -> Axes:
    """Draw the bytes that a token holds on average, for each text and each of two vocabularies."""
    place, axes = np.arange(len(texts)), plt.subplots(figsize=(8, 4.6))[1]
    styles = ({"color": plot.SKY, "hatch": "//", "edgecolor": "white"}, {"color": plot.BLUE})
    for shift, (name, tokenizer), style in zip((-0.2, 0.2), tokenizers.items(), styles, strict=True):
        held = [len(text.encode()) / len(tokenizer.encode(text)) for text in texts.values()]
        axes.bar_label(
            axes.barh(place + shift, held, 0.4, label=name, **style), fmt="%.1f", padding=3, size=9
        )
    axes.set_yticks(place, texts)
    axes.set(xlabel="bytes per token", title="Tokens hold most in the language that taught the merges")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.legend(loc="center right")
    return axes


def draw_mergers(timings: Mapping[int, Mapping[str, Timing]]) -> Axes:
    """Draw the milliseconds of each way to merge a word, over the letters in it."""
    axes = plt.subplots()[1]
    for name, style, colour in zip(
        next(iter(timings.values())), ("o-", "s--", "^:"), (plot.RED, plot.BLUE, "0.3"), strict=False
    ):
        medians = [t[name].median * 1e3 for t in timings.values()]
        axes.plot(list(timings), medians, style, color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel="letters in the word", ylabel="ms")
    axes.set_title("On a short word the plain loop will do; on a long one it blows up")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend()
    return axes
