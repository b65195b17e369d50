"""The pictures of the lesson on layers.

draw_damage         what a model loses without a part
draw_norms          rows of two numbers, before and after RMSNorm and LayerNorm
draw_stream         the size of the stream at each norm
draw_hands          pairs of a head as hands on dials, at a position; hands_panel moves it
draw_wavelengths    tokens for one turn, pair by pair
draw_by_position    what a change costs, by the position in the text
draw_scaling        which hands a scaled RoPE slows
draw_gate           silu beside relu, and what the gate makes of up
draw_gates          how far open a model's gates are
side_by_side        texts in columns
"""

import html
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.course.predict import written
from blocks2tokens.model import rope
from blocks2tokens.model.layers import swiglu

DIALS = 8
PROMPTS = {  # and how many tokens behind them
    "Austen": ("It was the opinion of the whole family that", 40),
    "SmolLM2": ("Once upon a time, in a small village by the sea, there lived an old fisherman who", 16),
}
TRAIL = 3  # earlier positions shown


def draw_damage(intact: float, damage: Mapping[str, float], blind: float) -> Axes:
    """Draw the loss, nats, of a model as it is, without parts, and of a blind guess.

    What is no number is printed instead.
    """
    for name, loss in damage.items():
        if not np.isfinite(loss):
            print(f"without {name}: {loss}")
    found = {f"without {name}": loss for name, loss in damage.items() if np.isfinite(loss)}
    losses = {"all there": intact, **found, "a blind guess": blind}
    colours = [plot.BLUE] + [plot.ORANGE] * len(found) + [plot.GREY]
    return plot.bars(losses, "nats", "Small parts, large damage", colours)


def draw_norms(points: np.ndarray) -> None:
    """Draw rows of two numbers, [n, 2], and where RMSNorm and LayerNorm put them."""
    centred = points - points.mean(axis=1, keepdims=True)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.9), sharex=True, sharey=True)
    for ax, rows, name in zip(axes, (points, centred), ("RMSNorm", "LayerNorm"), strict=True):
        normed = rows / np.sqrt(np.mean(rows**2, axis=1, keepdims=True))
        ax.plot(*np.stack([points, normed]).transpose(2, 0, 1), color="0.85", lw=0.8)
        ax.plot(*points.T, "o", color=plot.GREY, ms=3, label="before")
        ax.plot(*normed.T, "D", color=plot.BLUE, ms=5, label="after")
        ax.set(title=name, xlabel="x[0]", aspect="equal", xlim=(-4, 4), ylim=(-4, 4))
    axes[0].set_ylabel("x[1]")
    axes[1].legend(loc="lower right")
    figure.suptitle("RMSNorm keeps the direction; LayerNorm, of two numbers, a sign", weight="bold")


def draw_stream(before: Sequence[float], after: Sequence[float]) -> Axes:
    """Draw the size of the stream before and after each norm: two of each layer, then the last."""
    n_layers = len(before) // 2
    places = [f"{part} {i}" for i in range(n_layers) for part in ("attn", "ffn")] + ["output"]
    axes = plt.subplots(figsize=(8, 3.8))[1]
    axes.plot(places, before, "o-", color=plot.ORANGE, label="the stream, before the norm")
    axes.plot(places, after, "D-", color=plot.BLUE, label="after it: what the products see")
    axes.set(yscale="log", ylabel="root mean square", xlabel="norm of layer")
    first, later = before[2] / before[0], before[-1] / before[2]
    title = f"The stream grows {written(first)} × in layer 0, {written(later)} × in the others"
    axes.set_title(title)
    axes.tick_params(axis="x", rotation=60)
    axes.legend()
    return axes


def draw_hands(position: int = 3, head_dim: int = 64, theta: float = 10_000.0) -> None:
    """Draw eight pairs of a head as hands on dials, at a position (blue) and at the few before (grey)."""
    frequencies = rope.frequencies(head_dim, theta)
    figure, dials = plt.subplots(1, DIALS, figsize=(10, 2.3))
    for i, dial in zip(np.linspace(0, len(frequencies) - 1, DIALS).round().astype(int), dials, strict=True):
        dial.add_patch(plt.Circle((0, 0), 1, color="0.93"))
        for p in range(max(0, position - TRAIL), position + 1):
            hand = np.exp(1j * p * frequencies[i])
            style = {"color": plot.BLUE, "lw": 2.5} if p == position else {"color": "0.6", "lw": 1}
            dial.plot([0, hand.real], [0, hand.imag], **style)
        turns = position * frequencies[i] / (2 * np.pi)
        dial.set_title(f"pair {i}\n{turns:,.2f} turns", size=9, weight="normal", loc="center")
        dial.set(aspect="equal", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
        dial.axis("off")
    round_once = int(np.sum(position * frequencies >= 2 * np.pi))
    title = f"Position {position:,}: {round_once} of {len(frequencies)} pairs have gone round"
    figure.suptitle(f"{title} (head_dim {head_dim}, theta {theta:,.0f})", weight="bold")
    plt.show()


def hands_panel() -> widgets.Widget:
    """Return a panel over draw_hands: position, head_dim and theta."""
    sliders = {
        "position": widgets.IntSlider(100, 0, 2048, description="position", continuous_update=False),
        "head_dim": widgets.SelectionSlider(options=[16, 32, 64, 128], value=64, description="head_dim"),
        "theta": widgets.SelectionSlider(
            options=[1e2, 1e3, 1e4, 1e5, 5e5, 1e6], value=1e4, description="theta"
        ),
    }
    row = widgets.HBox(list(sliders.values()))
    return widgets.VBox([row, widgets.interactive_output(draw_hands, sliders)])


def draw_wavelengths(models: Mapping[str, tuple[int, float, int]]) -> Axes:
    """Draw the tokens for one turn of each pair, for {name: (head_dim, theta, context)}."""
    axes = plt.subplots(figsize=(8, 3.8))[1]
    for (name, (head_dim, theta, context)), mark, colour in zip(
        models.items(), "o^sD", plot.COLOURS, strict=False
    ):
        wavelength = 2 * np.pi / rope.frequencies(head_dim, theta)
        full = int(np.sum(wavelength <= context))
        label = f"{name}: {full} of {len(wavelength)} go round within the context"
        axes.plot(wavelength, mark, color=colour, ms=5, label=label)
        axes.axhline(context, color=colour, ls="--", lw=1)
        axes.annotate(f"context {context:,}", (0, context), (0, 4), textcoords="offset points", color="0.3")
    axes.set(yscale="log", xlabel="pair", ylabel="tokens for one turn")
    axes.set_title("The first hand turns in six tokens, the last in thousands of times that")
    axes.legend(loc="lower right")
    return axes


def draw_by_position(more: Mapping[str, np.ndarray]) -> Axes:
    """Draw how much more loss changes cost, {name: nats, [T]}, in bins that double with the position."""
    n = len(next(iter(more.values())))
    edges = [0, *(2**p for p in range(n.bit_length()) if 2**p < n), n]
    bins = list(pairwise(edges))
    axes = plt.subplots()[1]
    for (name, values), mark in zip(more.items(), "o^s", strict=False):
        axes.plot([values[a:b].mean() for a, b in bins], f"{mark}-", label=name)
    labels = [f"{a}" if b - a == 1 else f"{a}–{b - 1}" for a, b in bins]
    axes.set_xticks(range(len(bins)), labels, rotation=30)
    axes.set(xlabel="position in the text", ylabel="more loss than right, nats")
    axes.set_title("Little at first, much in a long text")
    axes.legend()
    return axes


def draw_scaling(head_dim: int = 128, theta: float = 500_000.0, context: int = 8192) -> Axes:
    """Draw the share of its speed that each hand keeps when a context grows eight times, in three ways."""
    original = rope.frequencies(head_dim, theta)
    scaled = {"Llama 3.1": llama3(original, context)}
    for kind in ("linear", "yarn"):
        scaling = rope.RopeScaling(kind, factor=8.0, original_context=context)
        scaled[kind] = rope.scaled_frequencies(head_dim, theta, scaling)
    axes = plt.subplots()[1]
    for (name, frequencies), mark in zip(scaled.items(), ("o-", "s--", "^:"), strict=True):
        turns = context * original / (2 * np.pi)
        axes.plot(turns, frequencies / original, mark, ms=4, label=f"{name}, 8 times")
    axes.set(xlabel="turns within the trained context", ylabel="share of its speed kept")
    axes.set(xscale="log", ylim=(0, 1.05))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title("Slow hands are slowed, fast ones keep their speed; linear slows all")
    axes.legend()
    return axes


def llama3(frequencies: np.ndarray, context: int, factor=8, low=1, high=4) -> np.ndarray:
    """Scale as Llama 3.1 does: fully below `low` turns within the context, not at all above `high`.

    Source: llama.cpp's converter, `rope_freqs`.
    """
    turns = context * frequencies / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return kept * frequencies + (1 - kept) * frequencies / factor


def draw_gate() -> None:
    """Draw silu beside relu, and silu(gate) * up for three values of up."""
    z = np.linspace(-6, 6, 241, dtype=np.float32)
    axes = plt.subplots(1, 2, figsize=(9, 3.4))[1]
    axes[0].plot(z, swiglu(z, np.ones_like(z)), color=plot.BLUE, label="silu")
    axes[0].plot(z, np.maximum(z, 0), "--", color=plot.ORANGE, label="relu")
    axes[0].set(title="silu: relu without the corner", xlabel="gate", ylabel="silu(gate)")
    for up, style in ((2, "-"), (1, "--"), (-1, ":")):
        axes[1].plot(z, swiglu(z, np.full_like(z, up)), style, color=plot.BLUE, label=f"up = {up}")
    axes[1].set(title="Shut on the left, a factor on the right", xlabel="gate", ylabel="silu(gate) * up")
    for ax in axes:
        ax.legend()


def draw_gates(opened: np.ndarray, shut: float) -> Axes:
    """Draw how many gates, silu(gate), are how far open; within `shut` of 0 they count as nearly shut."""
    axes = plt.subplots(figsize=(8, 3.2))[1]
    share = np.full(opened.size, 100 / opened.size)
    axes.hist(opened.ravel(), bins=np.arange(-0.5, 6.02, 0.1), weights=share, color=plot.BLUE)
    axes.axvspan(-shut, shut, color=plot.YELLOW, alpha=0.3, lw=0)
    axes.set(xlabel="silu(gate)", ylabel="% of the gates", xlim=(-0.5, 6))
    axes.set_title(f"{np.mean(np.abs(opened) < shut):.0%} of the gates are nearly shut (shaded)")
    return axes


def side_by_side(prompt: str, texts: Mapping[str, str]) -> HTML:
    """Return texts that continue a prompt as a table, one column for each of {heading: text}."""
    style = "text-align:left;vertical-align:top;white-space:pre-wrap;width:24em"
    heads = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in texts)
    lines = [html.escape(re.sub(r"\s*\n\s*", "\n", text.strip())) for text in texts.values()]
    columns = "".join(f"<td style='{style}'>{text}</td>" for text in lines)
    table = f"<table><tr>{heads}</tr><tr>{columns}</tr></table>"
    return HTML(f"<i>{html.escape(prompt)} …</i>{table}")
