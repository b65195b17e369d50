"""The pictures of lesson 26.

draw_trade          KL against bytes: llama.cpp's files and ours
draw_budgets        the same of SmolLM2, on two texts
draw_paired         the surprise of each token in two models
draw_sensitivity    what each matrix alone adds to KL, by layer
draw_predictions    expected KL against measured
draw_mix            the bits of each matrix under a budget, and where that is on the curve
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from blocks2tokens.course import plot
from blocks2tokens.formats import FORMATS
from blocks2tokens.mix import choose, curve

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
EMBEDDING = "token_embd.weight"


def draw_trade(rows: Sequence[Mapping]) -> None:
    """Draw recorded files: megabytes of their tensors, and KL, with lines through our mixes."""
    axes = plt.subplots(figsize=(8, 4))[1]
    kinds = {"llama.cpp": ("s", plot.ORANGE), "ours mix": ("o", plot.BLUE), "ours Q4_K_M": ("D", plot.GREEN)}
    for kind, (marker, colour) in kinds.items():
        points = sorted((r["bytes"] / 1e6, r["kl"]) for r in rows if r["name"].startswith(kind))
        line = "-" if kind == "ours mix" else "none"
        axes.plot(*zip(*points, strict=True), marker, ls=line, color=colour, ms=8, mec="0.2", label=kind)
    for r in rows:
        if r["name"].startswith("llama.cpp") and "importance" not in r["name"]:
            name = r["name"].removeprefix("llama.cpp ")
            axes.annotate(name, (r["bytes"] / 1e6, r["kl"]), (8, 6), textcoords="offset points")
    share = ratio(rows, "ours mix, bytes of Q4_K_M", "llama.cpp Q4_K_M")
    title = f"At the bytes of Q4_K_M, {share:.0%} of its divergence"
    axes.set(yscale="log", xlabel="megabytes of tensors", ylabel="KL, nats per token", title=title)
    axes.legend()


def draw_budgets(rows: Sequence[Mapping]) -> None:
    """Draw recorded files of SmolLM2: megabytes, and KL with its standard error, a panel for each text."""
    texts = list(rows[0]["texts"])
    panels = plt.subplots(1, len(texts), figsize=(10, 3.8), sharey=True)[1]
    kinds = {"llama.cpp": ("s", plot.ORANGE, "none"), "ours": ("o", plot.BLUE, "-")}
    for axes, text in zip(panels, texts, strict=True):
        for kind, (marker, colour, line) in kinds.items():
            of_kind = sorted((r for r in rows if r["name"].startswith(kind)), key=lambda r: r["bytes"])
            found = [r["texts"][text] for r in of_kind]
            x = [r["bytes"] / 1e6 for r in of_kind]
            y, errors = [f["kl"] for f in found], [f["kl_error"] for f in found]
            axes.errorbar(x, y, errors, fmt=marker, ls=line, color=colour, ms=7, mec="0.2", label=kind)
        shares = [f["kl"] / f["theirs"] for f in (r["texts"][text] for r in rows) if "theirs" in f]
        title = f"{text}: {min(shares):.2f} to {max(shares):.2f} of llama.cpp's KL"
        axes.set(yscale="log", xlabel="megabytes of the file", title=title)
    panels[0].set_ylabel("KL, nats per token")
    panels[0].legend()


def ratio(rows: Sequence[Mapping], ours: str, theirs: str) -> float:
    """Return how many times the KL of one recorded file another has."""
    kl = {row["name"]: row["kl"] for row in rows}
    return kl[ours] / kl[theirs]


def draw_paired(a: np.ndarray, b: np.ndarray, names: tuple[str, str], errors: tuple[float, float]) -> None:
    """Draw the surprise of each token in two models; `errors` are those of unpaired and paired means."""
    axes = plt.subplots(figsize=(5.2, 4.4))[1]
    axes.plot([0, a.max()], [0, a.max()], color="0.6", lw=1)
    axes.scatter(a, b, s=9, color=plot.BLUE, alpha=0.5)
    title = f"Paired, the difference is {errors[0] / errors[1]:.0f} times as certain"
    axes.set(xlabel=f"{names[0]}, nats", ylabel=f"{names[1]}, nats", title=title)


def draw_sensitivity(probes: Mapping[str, float]) -> None:
    """Draw what each matrix of a layer adds to KL when it alone has two bits."""
    values, n_layers = _by_layer(probes)
    axes = plt.subplots(figsize=(9, 3.2))[1]
    axes.imshow(np.log10(values), cmap="Blues", aspect="auto")
    middle = (np.log10(values).max() + np.log10(values).min()) / 2
    for (row, layer), value in np.ndenumerate(values):
        shade = "white" if np.log10(value) > middle else "black"
        axes.text(layer, row, f"{1000 * value:.2g}", ha="center", va="center", size=9, color=shade)
    spread = values.max() / values.min()
    title = f"Alone in 2 bits: {spread:.0f} times from least to most (thousandths of a nat)"
    axes.set(yticks=range(len(MATRICES)), yticklabels=MATRICES, xticks=range(n_layers))
    axes.set(xlabel="layer", title=title)
    axes.grid(visible=False)


def _by_layer(values: Mapping[str, float]) -> tuple[np.ndarray, int]:
    n_layers = 1 + max(int(name.split(".")[1]) for name in values if name.startswith("blk."))
    table = [[values[f"blk.{i}.{part}.weight"] for i in range(n_layers)] for part in MATRICES]
    return np.array(table, float), n_layers


def draw_predictions(expected: Sequence[float], measured: Sequence[float], names: Sequence[str]) -> None:
    """Draw expected against measured KL, with the line where they are equal."""
    axes = plt.subplots(figsize=(7.4, 4.2))[1]
    ends = [min(*expected, *measured) / 1.5, max(*expected, *measured) * 1.5]
    axes.plot(ends, ends, color="0.6", lw=1)
    for i, (x, y, name) in enumerate(zip(measured, expected, names, strict=True)):
        colour = plot.COLOURS[i // 2 % len(plot.COLOURS)]
        axes.plot(x, y, "os"[i % 2], ms=8, color=colour, mec="0.2", ls="none", label=name)
    off = np.exp(np.median(abs(np.log(np.array(expected) / measured))))
    title = f"Expected KL: within {off:.2f} times, for half of them"
    axes.set(xscale="log", yscale="log", xlabel="measured, nats per token", ylabel="expected", title=title)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def draw_mix(sizes: Mapping, losses: Mapping, budget: int) -> None:
    """Draw the mix that a budget of bytes buys, and its place on the curve."""
    smallest = sum(min(formats.values()) for formats in sizes.values())
    mix = choose(sizes, losses, max(budget, smallest))
    bits = {name: FORMATS[f].bits_per_weight for name, f in mix.formats.items()}
    values = _by_layer(bits)[0]
    left, right = plt.subplots(1, 2, figsize=(10, 3.2), width_ratios=(2, 1))[1]
    left.imshow(values, cmap="Blues", vmin=2, vmax=9, aspect="auto")
    for (row, layer), value in np.ndenumerate(values):
        shade = "white" if value > 6 else "black"
        left.text(layer, row, f"{value:.3g}", ha="center", va="center", size=9, color=shade)
    title = f"{mix.nbytes / 1e6:.2f} MB: embedding {bits[EMBEDDING]:.3g} bits, layers"
    left.set(yticks=range(len(MATRICES)), yticklabels=MATRICES, xlabel="layer", title=title)
    left.grid(visible=False)
    points = np.array(curve(sizes, losses))
    right.plot(points[:, 0] / 1e6, points[:, 1], color=plot.BLUE)
    right.plot(mix.nbytes / 1e6, mix.kl, "o", color=plot.ORANGE, ms=10, mec="0.2")
    title = f"expected KL {mix.kl:.2g}"
    right.set(yscale="log", xlabel="megabytes", ylabel="nats per token", title=title)
