"""The pictures of the lesson on attention, over the parts in attention_maps.

draw_habits       four heads of SmolLM2, one habit each
draw_by_hand      one query, from its numbers to what it finds
draw_outgrowth    where a cache outgrows a model's weights
draw_layouts      which lines of the CPU's cache three layouts touch
draw_lengths      attention's time over the text's length, beside the products'
draw_head         a head's weights, and what the last token looks at
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from blocks2tokens.course import plot
from blocks2tokens.course.bench import Timing
from blocks2tokens.course.lessons.attention import attention_maps
from blocks2tokens.course.lessons.attention.attention_maps import FILLED, READ, WRITTEN

HABITS = ((16, 0), (18, 8), (8, 1), (17, 5))  # layer, head


def draw_habits(seen: Sequence[tuple], words: Sequence[str]) -> None:
    """Draw four heads of SmolLM2 on the tokens of a text; `seen` is what attention_maps.record gives."""
    figure, row = plt.subplots(1, 4, figsize=(11.5, 3.7), sharey=True)
    for axes, (layer, head) in zip(row, HABITS, strict=True):
        attention_maps.draw(axes, attention_maps.weights(*seen[layer][:2])[head], words)
        axes.set_title(f"layer {layer}, head {head}", size="medium")
    figure.suptitle("One rule, four habits", weight="bold")


def draw_by_hand(q, k, scores, weights, v, found) -> None:
    """Draw q, [head_dim], k and v, [S, head_dim], scores and weights, [S], and found, [head_dim]."""
    parts = [(q, "query", 0), (k, "keys", 0), (scores[:, None], "scores", 0)]
    parts += [(weights[:, None], "weights", 2), (v, "values", 0), (found, "found", 2)]
    figure, row = plt.subplots(1, 6, figsize=(11, 2.2), width_ratios=[4, 4, 1.6, 1.6, 4, 4])
    for axes, part in zip(row, parts, strict=True):
        attention_maps.draw_numbers(axes, *part)
    title = "The third key answers best, so what is found is mostly the third value"
    figure.suptitle(title, weight="bold")


def draw_outgrowth(models: Mapping[str, tuple[int, int, int]]) -> plt.Axes:
    """Draw caches over the text for {name: (bytes a token, bytes of the weights, context)}."""
    axes = plt.subplots(figsize=(9, 4))[1]
    looks = ((plot.GREEN, "o"), (plot.RED, "s"), (plot.BLUE, "^"))
    for (name, counts), look in zip(models.items(), looks, strict=True):
        attention_maps.draw_growth(axes, name, *counts, *look)
    axes.set_title("Sharing keys moves the point where the cache outgrows the weights")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title="weights = cache at")
    return axes


def draw_layouts(places: Callable, layouts: Sequence[str]) -> None:
    """Draw 4 heads, room for 8 tokens of 8 numbers: filled by 5, head 1 read, a sixth token written.

    places(layout, kv_heads, tokens, n_kv_heads, capacity, head_dim) gives places in the flat array.
    """
    figure, row = plt.subplots(1, len(layouts), figsize=(10, 3.6), sharey=True)
    every = np.arange(4)
    for axes, layout in zip(row, layouts, strict=True):
        memory = np.zeros(256, int)
        for kind, heads, tokens in ((FILLED, every, range(5)), (READ, [1], range(5)), (WRITTEN, every, [5])):
            memory[places(layout, heads, tokens, 4, 8, 8)] = kind
        attention_maps.draw_memory(axes, memory, layout)
    row[0].set_ylabel("line")
    figure.suptitle('"head" keeps a head together, "transposed" scatters what is new', weight="bold")


def draw_lengths(times: Mapping[int, Mapping[str, Timing]], equal: float) -> plt.Axes:
    """Draw the time of each way to attend over the tokens in the cache, that of "matrices" as a line.

    `equal` is the length at which the cache has as many bytes as the matrices.
    """
    axes = plt.subplots(figsize=(9, 3.6))[1]
    ways = [name for name in next(iter(times.values())) if name != "matrices"]
    for name, mark in zip(ways, ("o-", "s--", "^:"), strict=True):
        medians = [1e6 * t[name].median for t in times.values()]
        axes.plot(list(times), medians, mark, label=f"attention, {name}")
    matrices = 1e6 * np.median([t["matrices"].median for t in times.values()])
    axes.axhline(matrices, color="k", ls="--", label="the layer's seven products")
    axes.axvline(equal, color=plot.GREY, ls=":", label="equal bytes")
    axes.set(xscale="log", yscale="log", xlabel="tokens in the cache", ylabel="µs a layer, one core")
    axes.set_xticks(list(times), list(times))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_title("The products cost the same at every length, attention grows")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return axes


def draw_head(weights: np.ndarray, words: Sequence[str], title: str) -> None:
    """Draw one head's weights, float32 [T, T], and those of the last token as bars."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2))
    attention_maps.draw(left, weights, words)
    left.set_title("each token", size="medium")
    right.barh(range(len(words)), weights[-1], color=plot.BLUE)
    right.set_yticks(range(len(words)), words, size=8)
    right.set(xlim=(0, 1), ylim=(len(words) - 0.5, -0.5), xlabel="weight")
    right.set_title("the last one", size="medium")
    figure.suptitle(title, weight="bold")
    plt.show()
