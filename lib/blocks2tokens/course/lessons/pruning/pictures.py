"""The pictures of the lesson on pruning.

draw_by_hand      one row: sizes, norms of the inputs, scores, and what stays
draw_shares       nats lost over the share of weights that go, a line for each score
draw_bytes        bits for each weight over the share of zeros: sparse rows and dense ones
draw_influence    each layer's influence beside what the text loses without it
draw_speeds       how much faster a smaller model is, beside how many fewer bytes it reads
draw_frontier     nats lost over bytes: less of a model, fewer bits, and both
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from blocks2tokens.course import plot
from blocks2tokens.course.bench import Timing
from blocks2tokens.course.lessons.pruning import sparse_rows
from blocks2tokens.course.lessons.pruning.losses import Loss

FLOOR = 1e-3  # nats: what lies below is drawn here
LOOKS = ("o-", "s--", "^:", "D-.")


def draw_by_hand(weights: np.ndarray, norms: np.ndarray, keep: Mapping[str, np.ndarray]) -> None:
    """Draw one row of weights, [K], the norms of its inputs, [K], and {score: which weights stay}."""
    lines = {"weights": weights, "norms of inputs": norms, "size × norm": np.abs(weights) * norms}
    axes = plt.subplots(figsize=(8.5, 2.7))[1]
    for row, (name, values) in enumerate([*lines.items(), *keep.items()]):
        for column, value in enumerate(values):
            if name in keep:
                shade, text = (plot.SKY if value else "white"), ("stays" if value else "goes")
            else:
                shade, text = "0.95", f"{value:g}"
            axes.add_patch(plt.Rectangle((column, row), 1, 1, fc=shade, ec="0.6"))
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center")
    names = [*lines, *keep]
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    axes.set(xlim=(0, len(weights)), ylim=(len(names), 0), xticks=[])
    axes.grid(visible=False)
    axes.set_title("A small weight of a loud input stays, a large one of a quiet input goes")


def draw_shares(losses: Mapping[str, Mapping[float, Loss]], title: str) -> None:
    """Draw {score: {share: Loss}}, each with two standard errors."""
    axes = plt.subplots(figsize=(8, 3.4))[1]
    for (name, of_share), look in zip(losses.items(), LOOKS, strict=False):
        found = of_share.values()
        errors = [2 * loss.nats_error for loss in found]
        axes.errorbar(list(of_share), [loss.nats for loss in found], errors, fmt=look, capsize=4, label=name)
    axes.set(xlabel="share of the weights that go", ylabel="nats a token lost", title=title)
    axes.legend()


def draw_bytes(
    measured: Mapping[str, Mapping[float, Timing]], dense: Mapping[str, Timing], title: str
) -> None:
    """Draw bits for each weight by count, and times as measured, {format: {share of zeros: Timing}}."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9))
    figure.suptitle(title, weight="bold")
    shares, looks = np.linspace(0, 1, 50), {"F32": (plot.BLUE, "-"), "F16": (plot.ORANGE, "--")}
    for name, (colour, style) in looks.items():
        kept = (1 - shares) * 2**16
        bits = sparse_rows.row_bytes(2**16, kept, np.dtype(sparse_rows.DTYPES[name]).itemsize) / 2**13
        left.plot(shares, bits, style, color=colour, label=f"sparse {name}")
        found = measured[name]
        middle = [1e3 * t.median for t in found.values()]
        spread = [[1e3 * (t.median - t.low) for t in found.values()]]
        spread += [[1e3 * (t.high - t.median) for t in found.values()]]
        right.errorbar(list(found), middle, spread, fmt=f"o{style}", color=colour, capsize=4)
    ends = {"F32": (32, "-"), "F16": (16, "--"), "Q4_K": (4.5, ":")}
    for name, (bits, style) in ends.items():
        for axes, height in ((left, bits), (right, 1e3 * dense[name].median)):
            axes.axhline(height, color="0.35", ls=style, lw=1.2)
            at, side = (0.99, "right") if axes is left else (0.01, "left")  # where no other line passes
            axes.text(at, height, f"dense {name}", va="bottom", ha=side, size=10)
    left.set(xlabel="share of zeros", ylabel="bits a weight", ylim=(0, 44))
    right.set(xlabel="share of zeros", ylabel="ms a product", xlim=(0, 1))
    left.set_title("counted", size="medium")
    right.set_title("measured here", size="medium")
    right.set_ylim(0)
    left.legend(loc="upper right")


def draw_influence(influence: np.ndarray, kl: Sequence[float], same: bool) -> None:
    """Draw each layer's influence, [n_layers], beside the KL divergence without it."""
    figure, row = plt.subplots(1, 2, figsize=(10, 3.3))
    for axes, values, unit, colour in zip(
        row,
        (influence, kl),
        ("influence, 1 - cosine", "KL without it, nats"),
        (plot.SKY, plot.BLUE),
        strict=True,
    ):
        drawn = axes.bar(range(len(values)), values, color=colour, edgecolor="0.2")
        drawn[int(np.argmin(values))].set_hatch("///")
        second, highest = sorted(values)[-2:]
        axes.set_ylim(0, min(highest, 2 * second))
        if highest > 2 * second:  # its bar is cut, so that one sees the others
            axes.text(int(np.argmax(values)) + 0.5, 1.9 * second, f"to {highest:.2f}", va="top")
        axes.set(xlabel="layer", ylabel=unit, xticks=range(len(values)))
        axes.grid(axis="x", visible=False)
    word = "name the same layer" if same else "name different layers"
    figure.suptitle(f"The least influence, and the least harm (hatched), {word}", weight="bold")


def draw_speeds(
    counted: Mapping[str, float], measured: Mapping[str, tuple[float, float, float]], title: str
) -> None:
    """Draw how many times fewer bytes, and how many times as fast: low, middle, high."""
    axes = plt.subplots(figsize=(8, 1 + 0.55 * len(counted)))[1]
    places = np.arange(len(counted))
    axes.barh(places, list(counted.values()), height=0.55, color=plot.SKY, edgecolor="0.2", label="bytes")
    low, middle, high = np.array([measured[name] for name in counted]).T
    axes.errorbar(
        middle, places, xerr=[middle - low, high - middle], fmt="ko", capsize=4, label="tokens a second"
    )
    axes.set_yticks(places, list(counted))
    axes.invert_yaxis()
    axes.axvline(1, color="0.4", lw=1)
    axes.set(xlabel="times the whole model's", title=title)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def draw_frontier(points: Mapping[str, Mapping[str, tuple[int, Loss]]], title: str) -> None:
    """Draw {way: {name: (bytes, Loss)}}, each with two standard errors, on a logarithmic axis of nats."""
    axes = plt.subplots(figsize=(9, 4.6))[1]
    colours = (plot.ORANGE, plot.BLUE, plot.GREEN)
    looks = zip(points.items(), colours, ("s", "o", "D"), ("left", "left", "right"), strict=True)
    for (way, found), colour, look, side in looks:
        sizes = [n_bytes / 1e6 for n_bytes, _ in found.values()]
        nats = [max(loss.nats, FLOOR) for _, loss in found.values()]
        errors = [2 * loss.nats_error for _, loss in found.values()]
        below = [min(error, n - FLOOR / 2) for error, n in zip(errors, nats, strict=True)]
        axes.errorbar(sizes, nats, [below, errors], fmt=look, ms=7, color=colour, capsize=3, label=way)
        for name, size, height in zip(found, sizes, nats, strict=True):
            offset = (6, 5) if side == "left" else (-8, -4)
            axes.annotate(name, (size, height), offset, textcoords="offset points", size=9, ha=side)
    axes.set(yscale="log", xlabel="MB of the file", ylabel="nats a token lost", title=title)
    axes.set_ylim(FLOOR / 2, 3)
    axes.set_xlim(0, 16)
    axes.legend(loc="upper right")
