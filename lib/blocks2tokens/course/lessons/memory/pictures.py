"""The pictures of the lesson on memory.

draw_lifetimes   a bar for each buffer, from its first step to its last
draw_arena       the arena: steps to the right, bytes upwards, each buffer where it lies
draw_in_use      the bytes in use step by step, beside what an arena and a pool take
draw_touch       what writing takes: again, and for the first time
packed           a pass's arena for T tokens, buffers placed in one order or another; packed_panel chooses
"""

from collections.abc import Callable, Mapping

import ipywidgets as widgets
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from blocks2tokens.course import bench, plot
from blocks2tokens.course.bench import Timing
from blocks2tokens.generate import Model
from blocks2tokens.model.arena import Life, end_of, fit, in_use, longest_first, peak_bytes
from blocks2tokens.model.batch_memory import ALWAYS, Plan

SCRATCH, STREAM, OTHER = plot.ORANGE, plot.GREY, plot.SKY
HATCHES = {SCRATCH: "///", STREAM: "...", OTHER: ""}  # they stay apart in grey
ORDERS: dict[str, Callable] = {
    "longest life first": longest_first,
    "largest first": lambda lives, sizes: sorted(lives, key=lambda name: -sizes[name]),
    "in order of use": lambda lives, sizes: sorted(lives, key=lambda name: lives[name]),
    "smallest first": lambda lives, sizes: sorted(lives, key=sizes.get),
}


def kind(name: str) -> str:
    """Return a buffer's colour: scratch of a product, what lives all the time, or what is computed."""
    return SCRATCH if name.endswith("'s") else STREAM if name in ALWAYS else OTHER


def label(name: str) -> str:
    """Return how a buffer is called in a picture."""
    return f"scratch of {name[:-2]}" if name.endswith("'s") else name


def draw_lifetimes(lives: Mapping[str, Life], sizes: Mapping[str, int], title: str) -> Axes:
    """Draw each buffer as a bar over the steps in which it lives, with its size."""
    names = sorted(lives, key=lambda name: lives[name])
    axes = plt.subplots(figsize=(9, 1.2 + 0.27 * len(names)))[1]
    steps = 1 + max(last for _, last in lives.values())
    for row, name in enumerate(names):
        first, last = lives[name]
        colour = kind(name)
        bar = {"color": colour, "edgecolor": "0.2", "hatch": HATCHES[colour], "height": 0.72}
        axes.barh(row, last + 1 - first, left=first, **bar)
        inside = last + 1 - first >= steps - 1
        at = (first + 0.2 if inside else last + 1.12, row)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1} if inside else None
        axes.annotate(written(sizes[name]), at, va="center", size=9, bbox=box)
    axes.set_yticks(range(len(names)), [label(name) for name in names], size=9)
    axes.set(ylim=(len(names) - 0.4, -0.6), xlim=(0, steps + 1.2), xlabel="step", title=title)
    axes.set_xticks([step + 0.5 for step in range(steps)], range(steps))
    axes.grid(visible=False)
    return axes


def written(n_bytes: int) -> str:
    """Write a buffer's size: with its unit, or as it is where numbers are small."""
    return bench.size(n_bytes) if n_bytes >= 1000 else str(n_bytes)


def draw_arena(
    lives: Mapping[str, Life],
    offsets: Mapping[str, int],
    sizes: Mapping[str, int],
    title: str,
    axes: Axes | None = None,
) -> Axes:
    """Draw each buffer as a rectangle, from its first step to its last, from its offset to its end."""
    axes = axes or plt.subplots(figsize=(9, 4.4))[1]
    top, unit, name_of_unit = end_of(offsets, sizes), 1, "bytes"
    if top >= 1e5:
        unit, name_of_unit = 1e6, "MB"
    for name, offset in offsets.items():
        (first, last), colour = lives[name], kind(name)
        size = first, offset / unit
        box = Rectangle(size, last + 1 - first, sizes[name] / unit, facecolor=colour, edgecolor="0.15")
        box.set(hatch=HATCHES[colour], alpha=0.85)
        axes.add_patch(box)
        if sizes[name] > 0.045 * top:
            _name_in(axes, name, first, last, (offset + sizes[name] / 2) / unit)
    bound, steps = peak_bytes(lives, sizes), 1 + max(last for _, last in lives.values())
    axes.plot((0, steps), (bound / unit,) * 2, color="black", lw=2, ls="--")
    axes.annotate("in use at\none time", (1.01 * steps, bound / unit), va="center", size=9)
    axes.set(xlim=(0, 1.12 * steps), ylim=(0, 1.06 * max(top, bound) / unit))
    axes.set(xlabel="step", ylabel=f"offset in the arena, {name_of_unit}", title=title)
    axes.set_xticks([step + 0.5 for step in range(steps)], range(steps))
    axes.grid(visible=False)
    return axes


def _name_in(axes, name, first, last, middle):
    text, wide = name.removesuffix("'s").replace("attn_output", "output"), last + 1 - first
    plain = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.9}
    size = 9 if len(text) <= 5 * wide else 8
    axes.annotate(text, (first + wide / 2, middle), ha="center", va="center", size=size, bbox=plain)


def draw_in_use(
    lives: Mapping[str, Life], sizes: Mapping[str, int], limits: Mapping[str, int], title: str
) -> Axes:
    """Draw the bytes in use in each step, and lines for {what: bytes}."""
    steps = 1 + max(last for _, last in lives.values())
    axes = plt.subplots(figsize=(9, 3.4))[1]
    used = [in_use(lives, sizes, step) / 1e6 for step in range(steps)]
    axes.bar(range(steps), used, width=0.9, color=plot.SKY, edgecolor="0.2")
    looks = ((plot.BLUE, "-"), (plot.ORANGE, "--"), (plot.RED, ":"))
    for (what, n_bytes), (colour, style) in zip(limits.items(), looks, strict=False):
        axes.axhline(n_bytes / 1e6, color=colour, ls=style, lw=2.5, label=f"{what}: {bench.size(n_bytes)}")
    axes.set(xlabel="step", ylabel="MB in use", title=title, xticks=range(steps))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return axes


def draw_touch(found: Mapping[str, tuple[Timing, int]], title: str) -> Axes:
    """Draw the time of each way to write a block, with its page faults."""
    values = {f"{how}\n{n:,} page faults": timing.median * 1e3 for how, (timing, n) in found.items()}
    colours = [plot.BLUE, plot.ORANGE, plot.GREEN][: len(values)]
    return plot.bars(values, "ms", title, colours)


def packed(model: Model, T: int = 512, order: str = "longest life first") -> Axes:
    """Draw the arena of a pass over T tokens, its buffers placed in one of ORDERS."""
    plan = Plan(model.transformer.weights, model.config, T)
    offsets = fit(ORDERS[order](plan.lives, plan.sizes), plan.lives, plan.sizes)
    total = end_of(offsets, plan.sizes)
    more = f"{total / plan.peak - 1:.0%} above" if total > plan.peak else "just"
    title = f"{T} tokens, {order}: {bench.size(total)}, {more} what is in use at one time"
    return draw_arena(plan.lives, offsets, plan.sizes, title)


def packed_panel(model: Model) -> widgets.Widget:
    """Return a panel over `packed`: choose the tokens of a batch, and who is placed first."""
    tokens = widgets.SelectionSlider(options=[2**n for n in range(1, 10)], value=512, description="tokens")
    order = widgets.Dropdown(options=list(ORDERS), description="order")

    def show(T, order):
        packed(model, T, order)
        plt.show()

    shown = widgets.interactive_output(show, {"T": tokens, "order": order})
    return widgets.VBox([widgets.HBox([tokens, order]), shown])
