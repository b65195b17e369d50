"""The attention of a real model, to look into and to exchange.

    record(model, ids)               what `attend` gets, layer by layer
        q       float32 [T, n_heads, head_dim]      rotated
        k, v    float32 [n_kv_heads, T, head_dim]   k rotated
    loss(logits, ids)                how surprised a model is, nats per token
    weights(q, k)                    how much each token looks at each, float32 [n_heads, T, T]

    draw(...)            one head's weights, the tokens on both axes
    draw_numbers(...)    a small array, number by number
    draw_memory(...)     an array as lines of the CPU's cache, by what is read and written
    draw_growth(...)     the bytes of a cache over its length, beside those of the weights

For models of the llama architecture.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from blocks2tokens.course import plot
from blocks2tokens.generate import Model
from blocks2tokens.model.attention import attend
from blocks2tokens.model.forward import forward
from blocks2tokens.model.layers import softmax


def record(model: Model, ids: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return q, k and v of each layer, as `attend` gets them."""
    seen = []

    def note(*qkv):
        seen.append(qkv)
        return attend(*qkv)

    forward(model, ids, attend=note)
    return seen


def loss(logits: np.ndarray, ids: Sequence[int]) -> float:
    """Return the mean surprise at each next token, in nats; logits float32 [T, vocab] after each of ids."""
    probabilities = softmax(logits[:-1])[np.arange(len(ids) - 1), ids[1:]]
    return float(-np.log(probabilities).mean())


def weights(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return how much each of T tokens looks at each, float32 [n_heads, T, T], from q and k of a layer."""
    T, n_heads, head_dim = q.shape
    k = k.repeat(n_heads // len(k), axis=0)
    scores = q.swapaxes(0, 1) @ k.swapaxes(1, 2) * np.float32(head_dim**-0.5)
    scores[:, np.triu(np.full((T, T), True), 1)] = -np.inf
    return softmax(scores)


def draw(axes: Axes, weights: np.ndarray, words: Sequence[str]) -> None:
    """Draw weights, float32 [T, T], white 0 to dark 1: a row for each token that looks, a column for each."""
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(words)), words, rotation=90, size=8)
    axes.set_yticks(range(len(words)), words, size=8)
    axes.grid(visible=False)


def draw_numbers(axes: Axes, x: np.ndarray, title: str, digits: int = 0) -> None:
    """Draw x, [n] as a row or [rows, columns], each number in its square, the larger the darker."""
    x = np.atleast_2d(x)
    axes.imshow(np.abs(x), cmap="Blues", vmin=0, vmax=2 * np.abs(x).max())
    for (row, column), number in np.ndenumerate(x):
        axes.text(column, row, f"{number:.{digits}f}", ha="center", va="center")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, size="medium", loc="center")


EMPTY, FILLED, READ, WRITTEN = range(4)


def draw_memory(axes: Axes, memory: np.ndarray, title: str) -> None:
    """Draw memory, int [n] of EMPTY, FILLED, READ, WRITTEN, a line of 64 bytes, 16 float32, a row.

    The title says how many lines are read and written.
    """
    lines = memory.reshape(-1, 16)
    shades = ListedColormap(["white", "0.88", plot.BLUE, plot.ORANGE])
    axes.pcolormesh(lines, cmap=shades, vmin=EMPTY, vmax=WRITTEN, edgecolors="0.6", lw=0.4)
    read, written = (np.any(lines == kind, axis=1).sum() for kind in (READ, WRITTEN))
    axes.set_title(f"{title}: reads {read}, writes {written} lines", size="medium")
    axes.set(xticks=[0, 8, 16], yticks=range(0, len(lines) + 1, 4), ylim=(len(lines), 0))
    axes.set_xlabel("float32 in a line")
    axes.grid(visible=False)


def draw_growth(
    axes: Axes, name: str, per_token: int, weights: int, context: int, colour: str, mark: str
) -> None:
    """Draw the bytes of a cache, solid up to the context, and of the weights, dashed; mark where equal."""
    for stop, style in ((2**17, ":"), (context, "-")):
        tokens = np.array([2**8, stop])
        axes.plot(tokens, tokens * per_token, style, color=colour)
    axes.axhline(weights, ls="--", lw=1, color=colour)
    crossing = weights / per_token
    axes.plot(crossing, weights, mark, color=colour, ms=8, label=f"{name}: {crossing:,.0f} tokens")
    axes.set(xscale="log", yscale="log", xlabel="tokens in the cache (solid: within the context)")
    axes.set_ylabel("bytes")
