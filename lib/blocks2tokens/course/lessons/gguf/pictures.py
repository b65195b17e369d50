"""The pictures of the lesson on GGUF.

draw_file       a file as a strip: header, embedding, layers; below it what the header is made of
draw_mix        the bits of each matrix of each layer in Q4_K_M
draw_prices     perplexity against megabytes, and what each format costs with its uncertainty
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from blocks2tokens.course import plot
from blocks2tokens.course.lessons.gguf.windows import apart
from blocks2tokens.formats import FORMATS
from blocks2tokens.gguf_file import GGUFFile

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
SENSITIVE = ("attn_v", "ffn_down")
LONG_LISTS = ("tokens", "token_type", "merges")  # of the vocabulary
NARROW = 0.035  # share of a strip that has no room for a label
HIGH_RISE = 0.02  # of perplexity: beyond this, a format is left out of the panel of small differences


def draw_file(file: GGUFFile, after_metadata: int) -> None:
    """Draw what the bytes of a model file are for; `after_metadata` is where its key-value pairs end."""
    tensors = {name: tensor.nbytes for name, tensor in file.tensors.items()}
    start = min(tensor.offset for tensor in file.tensors.values())
    layers = range(file.metadata[f"{file.metadata['general.architecture']}.block_count"])
    parts = {"header": start, "token_\nembd": tensors["token_embd.weight"]}
    for i in layers:
        parts[f"layer {i}"] = sum(n for name, n in tensors.items() if name.startswith(f"blk.{i}."))
    parts["rest"] = start + sum(tensors.values()) - sum(parts.values())
    header = {key: len(file.metadata.encoded(f"tokenizer.ggml.{key}")[1]) for key in LONG_LISTS}
    vocabulary = sum(header.values())
    header |= {"other": after_metadata - vocabulary, "infos": start - after_metadata}
    top, bottom = plt.subplots(2, 1, figsize=(10, 3))[1]
    _strip(top, parts, f"The header is {start / sum(parts.values()):.1%} of the file ...")
    _strip(bottom, header, f"... and {vocabulary / start:.0%} of it is vocabulary")
    bottom.set_xlabel("bytes")


def _strip(axes, parts, title):
    """Draw {label: bytes} side by side; a part too narrow for its label has none."""
    total, left = sum(parts.values()), 0
    for (label, size), shade in zip(parts.items(), cycle(("0.92", "0.78")), strict=False):
        colour = plot.ORANGE if label == "header" else shade
        axes.barh(0, size, left=left, color=colour, edgecolor="black", lw=0.6)
        if size > NARROW * total:
            axes.text(left + size / 2, 0, label, ha="center", va="center", size=9)
        left += size
    axes.set(yticks=[], xlim=(0, total), title=title)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(visible=False)


def draw_mix(n_layers: int, six_bit_layers: Sequence[int]) -> Axes:
    """Draw the bits of each matrix in Q4_K_M, whose sensitive ones have six bits in the layers given."""
    bits = np.full((len(MATRICES), n_layers), FORMATS["Q4_K"].bits_per_weight)
    for matrix in SENSITIVE:
        bits[MATRICES.index(matrix), list(six_bit_layers)] = FORMATS["Q6_K"].bits_per_weight
    axes = plt.subplots(figsize=(10, 2.8))[1]
    axes.imshow(bits, cmap="Blues", vmin=3, vmax=9, aspect="auto")
    for (row, layer), value in np.ndenumerate(bits):
        axes.text(layer, row, f"{value:.1f}", ha="center", va="center", size=9)
    share = len(six_bit_layers) / n_layers
    title = f"Q4_K_M: six bits for {' and '.join(SENSITIVE)} in {share:.0%} of {n_layers} layers"
    axes.set(yticks=range(len(MATRICES)), yticklabels=MATRICES, xlabel="layer", title=title)
    axes.grid(visible=False)
    return axes


def draw_prices(sizes: Mapping[str, float], nats: Mapping[str, np.ndarray]) -> None:
    """Draw the price of each format from megabytes and nats per token in each window; the first is plain.

    Both map the name of a format to its figures. A bar is one standard error of the difference.
    """
    plain = next(iter(nats.values()))
    found = {name: apart(each, plain) for name, each in nats.items()}
    rise, error = ({name: each[i] for name, each in found.items()} for i in (0, 1))
    left, right = plt.subplots(1, 2, figsize=(11, 3.9), width_ratios=(4, 5))[1]
    small = [name for name in nats if name != next(iter(nats)) and rise[name] < HIGH_RISE]
    _draw_sizes(left, sizes, {name: np.exp(each.mean()) for name, each in nats.items()}, rise)
    for name in small:
        label, mix = f"{name}, {sizes[name]:.2f} MB", name == "Q4_K_M"
        style = {"fmt": "D" if mix else "o", "color": plot.ORANGE if mix else plot.BLUE, "capsize": 3}
        right.errorbar(100 * rise[name], label, xerr=100 * error[name], **style)
    right.axvline(0, color=plot.GREY, lw=1)
    right.invert_yaxis()
    most = max((rise[name] for name in small), default=0)
    dear = [name for name in nats if rise[name] >= HIGH_RISE]
    left_out = f"; left out, {HIGH_RISE:.0%} or more: {', '.join(dear)}" if dear else ""
    right.set(xlabel=f"perplexity above F16's (%){left_out}")
    right.set_title(f"{len(small)} formats cost at most {most:.1%}")


def _draw_sizes(axes, sizes, perplexity, rise):
    for name, value in perplexity.items():
        mix = name == "Q4_K_M"
        axes.plot(sizes[name], value, "D" if mix else "o", color=plot.ORANGE if mix else plot.BLUE)
        if mix or rise[name] >= HIGH_RISE or sizes[name] in (max(sizes.values()), min(sizes.values())):
            place, ha = ((0, -17), "center") if mix else ((7, 5), "left")
            axes.annotate(name, (sizes[name], value), place, textcoords="offset points", size=9, ha=ha)
    worst = max(rise, key=rise.get)
    axes.set(xlabel="megabytes", ylabel="perplexity", title=f"{worst} costs {rise[worst]:.0%}")
    axes.margins(x=0.14, y=0.12)
