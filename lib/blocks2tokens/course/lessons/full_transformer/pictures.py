"""The pictures of the lesson on the full transformer.

draw_pass           from ids to logits: every box with its shape, its format and its bytes
draw_agreement      log-probabilities of two programs, one against the other
draw_drift          how far a nudge moves the stream, layer by layer
draw_lens           the most likely token at each layer and position
draw_choices        a distribution over the next token, before and after it is cut and reshaped
draw_settings       the same for several settings of a sampler
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from blocks2tokens.course import plot
from blocks2tokens.course.bench import size
from blocks2tokens.generate import Model
from blocks2tokens.matrix import QuantizedMatrix

MATRIX, VECTOR, NOTHING, LAYER = "#CFE3F2", "0.9", "white", "0.965"  # fills: the darker, the more bytes
STREAM = 7  # where the stream runs, of a width of 100
COLUMNS = (14, 32, 56, 79)  # where a branch's boxes begin
WIDTHS = (13, 19, 18, 20)
HEIGHT = 6.2


def draw_pass(model: Model, T: int) -> None:
    """Draw the forward pass of T tokens through a model of the llama architecture."""
    c, t = model.config, model.transformer
    axes = plt.subplots(figsize=(10, 8.4))[1]
    axes.set(xlim=(0, 100), ylim=(93, -3))
    axes.axis("off")
    ids = "1 id becomes" if T == 1 else f"{T} ids become"
    axes.set_title(f"{c.name}: {ids} {T} × {c.vocab_size:,} logits")
    axes.plot([STREAM, STREAM], [-1, 91], color=plot.BLUE, lw=4, zorder=0, solid_capstyle="butt")
    _note(axes, STREAM + 3, 0, f"ids [{T}]")
    _box(axes, 1, 3, 27, _matrix("token_embd", t.token_embd), MATRIX)
    _note(axes, STREAM + 3, 12.4, f"x [{T}, {c.dim}], the stream: {size(4 * T * c.dim)} in float32")
    axes.add_patch(Rectangle((1.5, 15), 98, 57.5, color=LAYER, zorder=-1))
    axes.text(98, 17.3, f"one of {c.n_layers} layers", ha="right", va="center", weight="bold")
    _attention(axes, c, t.layers[0], T)
    _feed_forward(axes, c, t.layers[0], T)
    _box(axes, 1, 75, 13, ("output_norm", f"{c.dim}"), VECTOR)
    shared = " (token_embd again)" if t.output is t.token_embd else ""
    _box(axes, 1, 83.5, 27, _matrix("output" + shared, t.output), MATRIX)
    _note(axes, STREAM + 24, 86.6, f"logits [{T}, {c.vocab_size:,}]: {size(4 * T * c.vocab_size)} in float32")


def _attention(axes, c, layer, T):
    rows = (20, 27.5, 35)
    heads = (("attn_q", c.n_heads), ("attn_k", c.n_kv_heads), ("attn_v", c.n_kv_heads))
    _box(axes, COLUMNS[0], rows[1], WIDTHS[0], ("attn_norm", f"{c.dim}"), VECTOR)
    for y, (name, n) in zip(rows, heads, strict=True):
        _box(axes, COLUMNS[1], y, WIDTHS[1], _matrix(name, getattr(layer, name)), MATRIX)
        _arrow(axes, COLUMNS[0] + WIDTHS[0], rows[1] + 3.1, COLUMNS[1], y + 3.1)
        _arrow(axes, COLUMNS[1] + WIDTHS[1], y + 3.1, COLUMNS[2], y + 3.1)
        _note(axes, COLUMNS[2] + 0.8, y + 3.1, f"{name[-1]} [{T}, {n}, {c.head_dim}]")
    axes.add_patch(FancyBboxPatch((COLUMNS[2], 19.6), WIDTHS[2], 28.2, "round,pad=0.1", fc=NOTHING, ec="0.4"))
    _note(axes, COLUMNS[2] + 0.8, 43.8, "turn q, k; k, v into\nthe cache; attend")
    _box(axes, COLUMNS[3], rows[1], WIDTHS[3], _matrix("attn_output", layer.attn_output), MATRIX)
    _ends(axes, rows[1], 50.5)


def _feed_forward(axes, c, layer, T):
    rows = (53, 60.5)
    middle = 56.75
    _box(axes, COLUMNS[0], middle, WIDTHS[0], ("ffn_norm", f"{c.dim}"), VECTOR)
    for y, name in zip(rows, ("ffn_gate", "ffn_up"), strict=True):
        _box(axes, COLUMNS[1], y, WIDTHS[1], _matrix(name, getattr(layer, name)), MATRIX)
        _arrow(axes, COLUMNS[0] + WIDTHS[0], middle + 3.1, COLUMNS[1], y + 3.1)
        _arrow(axes, COLUMNS[1] + WIDTHS[1], y + 3.1, COLUMNS[2], middle + 3.1)
    _box(axes, COLUMNS[2], middle, WIDTHS[2], ("silu(gate) · up", f"[{T}, {c.ffn_dim:,}]"), NOTHING)
    _box(axes, COLUMNS[3], middle, WIDTHS[3], _matrix("ffn_down", layer.ffn_down), MATRIX)
    _ends(axes, middle, 69.5)


def _ends(axes, y, back):
    """Draw a branch's way out of the stream, at y, and its way back into it."""
    _arrow(axes, STREAM, y + 3.1, COLUMNS[0], y + 3.1)
    _arrow(axes, COLUMNS[2] + WIDTHS[2], y + 3.1, COLUMNS[3], y + 3.1)
    right = COLUMNS[3] + WIDTHS[3] / 2
    axes.plot([right, right, STREAM + 8], [y + HEIGHT, back, back], color="0.3", lw=1)
    _arrow(axes, STREAM + 8, back, STREAM + 1.4, back)
    axes.plot(STREAM, back, "o", ms=15, mfc="white", mec=plot.BLUE, mew=2)
    axes.text(STREAM, back, "+", ha="center", va="center", size=13, weight="bold")


def _matrix(name: str, w: QuantizedMatrix) -> tuple[str, str]:
    return name, f"{w.shape[0]:,} × {w.shape[1]:,}  {w.format.name}  {size(w.nbytes)}"


def _box(axes, x, y, width, lines, fill):
    """Draw a box whose upper left corner is (x, y), with a name and a line below it."""
    axes.add_patch(FancyBboxPatch((x, y), width, HEIGHT, "round,pad=0.1", fc=fill, ec="0.4"))
    axes.text(x + width / 2, y + HEIGHT * 0.3, lines[0], ha="center", va="center", size=9.5, weight="bold")
    axes.text(x + width / 2, y + HEIGHT * 0.74, lines[1], ha="center", va="center", size=8)


def _note(axes, x, y, text):
    axes.text(x, y, text, va="center", size=9)


def _arrow(axes, x0, y0, x1, y1):
    style = {"arrowstyle": "->", "color": "0.3", "shrinkA": 0, "shrinkB": 1}
    axes.annotate("", (x1, y1), (x0, y0), arrowprops=style)


def draw_agreement(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], labels: tuple[str, str]) -> None:
    """Draw for each {title: (theirs, ours)} one against the other: on the line, they agree."""
    figure, row = plt.subplots(1, len(pairs), figsize=(4.6 * len(pairs), 4.4))
    for axes, (title, (theirs, ours)) in zip(np.atleast_1d(row), pairs.items(), strict=True):
        low = min(theirs.min(), ours.min())
        axes.plot([low, 0], [low, 0], color="0.6", lw=1)
        axes.plot(theirs.ravel(), ours.ravel(), "o", ms=3, color=plot.BLUE, alpha=0.5, mew=0)
        axes.set(xlabel=labels[0], ylabel=labels[1], aspect="equal")
        axes.set_title(title, size="medium")
    figure.suptitle("Float weights agree to a hair, quantized ones to a tenth", weight="bold")


def draw_drift(drift: Mapping[str, np.ndarray]) -> Axes:
    """Draw the relative change of the stream behind each layer, {name: float [layers]}; 0 as 1e-9."""
    axes = plt.subplots()[1]
    for (name, values), style in zip(drift.items(), ("o-", "s--"), strict=True):
        axes.plot(np.maximum(values, 1e-9), style, label=name)
    axes.set(yscale="log", xlabel="behind layer", ylabel="change of the stream, relative")
    axes.set_title("Rounding lifts a millionth to a percent; exact sums keep it small")
    axes.legend(loc="center right")
    return axes


def draw_lens(words: Sequence[str], tokens: Sequence[Sequence[str]], p: np.ndarray) -> Axes:
    """Draw the most likely token, and how likely it is, float [layers, T], at each layer and position."""
    axes = plt.subplots(figsize=(10, 5.6))[1]
    axes.imshow(p, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    for (layer, t), value in np.ndenumerate(p):
        weight = "bold" if tokens[layer][t] == tokens[-1][t] else "normal"
        axes.text(t, layer, f"{_visible(tokens[layer][t])}\n{value:.2f}", ha="center", va="center", size=9)
        axes.texts[-1].set_weight(weight)
    axes.set_xticks(range(len(words)), [_visible(word) for word in words])
    axes.set_yticks(range(len(p)), ["embedding", *(f"layer {i}" for i in range(len(p) - 1))])
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    axes.set_title("Early layers know a token's habits, late ones the text (bold: the final answer)", size=12)
    return axes


def draw_choices(axes: Axes, words: Sequence[str], before: np.ndarray, after: np.ndarray) -> None:
    """Draw the probabilities of the most likely tokens before (grey) and after (blue)."""
    places = np.arange(len(words))
    axes.bar(places, before, 0.8, color="0.82", label="the model's")
    axes.bar(places, after, 0.4, color=plot.BLUE, label="the sampler's")
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, [_visible(word) for word in words], **slanted)
    axes.set(ylabel="probability", xlim=(-0.7, len(words) - 0.3))
    axes.grid(axis="x", visible=False)


def draw_settings(
    words: Sequence[str], before: np.ndarray, after: Mapping[str, np.ndarray], likely: np.ndarray
) -> None:
    """Draw the `likely` tokens, called words, for each {setting: probabilities of the whole vocabulary}."""
    size = (10, 0.9 + 2.4 * len(after))
    figure, rows = plt.subplots(len(after), 1, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axes, (setting, probabilities) in zip(rows[:, 0], after.items(), strict=True):
        draw_choices(axes, words, before[likely], probabilities[likely])
        axes.set_title(f"{setting}: {np.count_nonzero(probabilities):,} tokens left", size="medium")
    rows[0, 0].legend()
    figure.suptitle("What a sampler leaves of the model's distribution", weight="bold")


def _visible(token: str) -> str:
    """Show a token's leading space and line breaks."""
    return token.replace("\n", "↵").replace(" ", "␣")
