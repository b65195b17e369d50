"""The pictures of the lesson on the cache's types and pages.

draw_by_hand    eight numbers in four bits, as they are and turned
draw_channels   keys of one head as they are and turned, token by channel
draw_price      Kullback-Leibler divergence over bytes a token, for each type
draw_tables     block tables of caches: which pages they hold, and which of them together
draw_view       what a query sees of a text: all, a window, a window and sinks
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from blocks2tokens.course import plot


def draw_by_hand(rows: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> None:
    """Draw {label: (numbers, what four bits make of them)}, each float32 [n], side by side."""
    figure, axes = plt.subplots(1, len(rows), figsize=(9, 2.8), sharey=True)
    for ax, (label, (x, stored)) in zip(axes, rows.items(), strict=True):
        places = np.arange(len(x))
        ax.bar(places - 0.2, x, 0.4, color=plot.GREY, label="is")
        ax.bar(places + 0.2, stored, 0.4, color=plot.ORANGE, hatch="//", edgecolor="k", label="stored")
        ax.set_title(f"{label}: error {np.std(stored - x):.2f}", size="medium")
        ax.set(xlabel="number", xticks=places)
    axes[0].legend()
    figure.suptitle(title, weight="bold")


def draw_channels(parts: Mapping[str, np.ndarray], title: str) -> None:
    """Draw {label: float32 [tokens, channels]} as maps, and below them the largest of each channel."""
    figure, axes = plt.subplots(2, len(parts), figsize=(10, 4.6), sharex=True, height_ratios=[3, 1])
    most = max(np.abs(x).max() for x in parts.values())
    for (top, low), (label, x) in zip(axes.T, parts.items(), strict=True):
        image = top.imshow(x, cmap="RdBu", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
        top.grid(False)
        top.set_title(label, size="medium")
        low.bar(np.arange(x.shape[1]), np.abs(x).max(axis=0), 1, color=plot.BLUE)
        low.set(xlabel="channel", ylim=(0, most))
    axes[0, 0].set_ylabel("token")
    axes[1, 0].set_ylabel("largest")
    figure.colorbar(image, ax=axes[0, :].tolist())
    figure.suptitle(title, weight="bold")


def draw_price(found: Mapping[str, tuple[int, float]], title: str) -> plt.Axes:
    """Draw {type: (bytes a token, Kullback-Leibler divergence in nats)} on logarithmic axes."""
    axes = plt.subplots(figsize=(7.5, 3.6))[1]
    for (kind, (n_bytes, kl)), mark in zip(found.items(), "os^Dv", strict=False):
        axes.plot(n_bytes / 1024, kl, mark, ms=9, color=plot.RED if "not" in kind else plot.BLUE)
        beside = {"xytext": (9, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(kind, (n_bytes / 1024, kl), **beside)
    axes.set(xscale="log", yscale="log", xlabel="KB a token", ylabel="KL to float32, nats")
    ticks = sorted({n_bytes / 1024 for n_bytes, _ in found.values()})
    axes.set_xticks(ticks, [f"{tick:.1f}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0] / 1.2, ticks[-1] * 1.8)
    axes.margins(y=0.15)
    axes.set_title(title)
    return axes


def draw_tables(caches: Mapping[str, Sequence[object]], title: str) -> None:
    """Draw {name: the pages of a cache} as rows of boxes; what several hold is coloured."""
    axes = plt.subplots(figsize=(8, 0.7 * len(caches) + 1))[1]
    pages = list(dict.fromkeys(page for held in caches.values() for page in held))
    holders = [sum(page in held for held in caches.values()) for page in pages]
    for row, (name, held) in enumerate(caches.items()):
        axes.text(-0.2, row, name, ha="right", va="center")
        for i, page in enumerate(held):
            shared = holders[pages.index(page)] > 1
            face = plot.SKY if shared else "white"
            axes.add_patch(plt.Rectangle((i, row - 0.35), 0.9, 0.7, fc=face, ec="k", hatch="//" * shared))
            axes.text(i + 0.45, row, pages.index(page), ha="center", va="center", bbox={"fc": "w", "ec": "w"})
    axes.set(xlim=(-2, max(map(len, caches.values()))), ylim=(len(caches) - 0.4, -0.6))
    axes.axis("off")
    axes.set_title(title)
    plt.show()


def draw_view(losses: Mapping[str, float], masks: Mapping[str, np.ndarray], title: str) -> None:
    """Draw {name: bool [T, T], what each token sees} with the loss of each below its name."""
    figure, row = plt.subplots(1, len(masks), figsize=(9, 3), sharey=True)
    for axes, (name, mask) in zip(row, masks.items(), strict=True):
        axes.imshow(mask, cmap="Greys", vmin=0, vmax=1.5, interpolation="nearest")
        axes.grid(False)
        axes.set_title(f"{name}\nloss {losses[name]:.2f}", size="medium")
        axes.set_xlabel("token seen")
    row[0].set_ylabel("token that looks")
    figure.suptitle(title, weight="bold")
