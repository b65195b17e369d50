"""The pictures of the capstone.

draw_pieces    a capstone file from bytes to text: its pieces in order, and whose each one is
draw_lessons   all lessons as boxes, each filled as far as its exercises are done
draw_costs     what two engines take, beside each other
"""

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from blocks2tokens.course import bench, plot
from blocks2tokens.course.capstone.pieces import LENT, PASSED, WRITTEN
from blocks2tokens.course.progress import DONE
from blocks2tokens.course.setup import notebooks

STAGES = {  # from left to right: the pieces that make it
    "file": ("read_string", "read_value", "align", "read_header"),
    "blocks": ("decode_q8_0", "decode_q4_0", "decode_q4_1", "dequantize_q4_k", "dequantize_q6_k"),
    "weights": ("decode_rows",),
    "layer": ("rms_norm", "rope_angles", "rotate_adjacent", "swiglu", "causal_weights", "layer_forward"),
    "attention": ("self_attention",),
    "logits": ("forward_pass",),
    "text": ("bpe", "speak"),
}
LOOKS = {  # told apart in grey, too
    WRITTEN: {"facecolor": plot.BLUE, "hatch": ""},
    PASSED: {"facecolor": plot.SKY, "hatch": "///"},
    LENT: {"facecolor": "white", "hatch": ""},
}
NEW = {"read_header", "decode_rows", "self_attention", "forward_pass", "speak"}  # of this lesson
LETTERS = {WRITTEN: "white", PASSED: "black", LENT: "black"}
PARTS = {"1": "formats", "2": "the report", "3": "fused right", "4": "the transformer", "5": "beyond"}


def draw_pieces(whose: Mapping[str, str], title: str) -> Axes:
    """Draw the pieces of a file, {piece: whose}, below what they make; a thick frame: of this lesson."""
    axes = plt.subplots(figsize=(11, 3.4))[1]
    for column, (stage, names) in enumerate(STAGES.items()):
        left = 1.62 * column
        axes.annotate(stage, (left + 0.72, 0.35), ha="center", weight="bold", size=11)
        if column:
            arrow = {"arrowstyle": "->", "color": "0.3", "lw": 1.5}
            axes.annotate("", (left + 0.1, 0.45), (left - 0.38, 0.45), arrowprops=arrow)
        for row, name in enumerate(names):
            of = whose.get(name, LENT)
            frame = {"edgecolor": "black", "lw": 2.6} if name in NEW else {"edgecolor": "0.45", "lw": 1}
            axes.add_patch(Rectangle((left, -0.62 * row - 0.6), 1.44, 0.5, **LOOKS[of], **frame))
            box = {"facecolor": LOOKS[of]["facecolor"], "edgecolor": "none", "pad": 1}
            axes.annotate(
                name,
                (left + 0.72, -0.62 * row - 0.35),
                ha="center",
                va="center",
                size=9,
                color=LETTERS[of],
                bbox=box,
            )
    handles = [Patch(**look, edgecolor="0.45", label=of) for of, look in LOOKS.items()]
    axes.legend(handles=handles, loc="lower right", fontsize=9)
    axes.set(xlim=(-0.1, 1.62 * len(STAGES)), ylim=(-4.0, 0.75), title=title)
    axes.set_axis_off()
    return axes


def draw_lessons(states: Mapping[str, Mapping[str, str]]) -> Axes:
    """Draw {lesson: {exercise: state}} as boxes, a row for each part, filled by what is done."""
    paths = {path.stem[3:]: path for path in notebooks.find(notebooks.NOTEBOOKS)}
    rows: dict[str, list[str]] = {part: [] for part in PARTS}
    for lesson in states:
        rows[paths[lesson].parent.name[0]].append(lesson)
    widest = max(map(len, rows.values()))
    axes = plt.subplots(figsize=(11, 5))[1]
    for y, (part, lessons) in enumerate(rows.items()):
        axes.annotate(f"{part} · {PARTS[part]}", (-0.1, -y - 0.45), ha="right", va="center", size=10)
        for x, lesson in enumerate(lessons):
            _draw_lesson(axes, x, -y, paths[lesson].stem[:2], lesson, states[lesson])
    every = [state for exercises in states.values() for state in exercises.values()]
    title = f"{every.count(DONE)} of {len(every)} exercises are yours"
    axes.set(xlim=(-1.75, widest), ylim=(-len(rows) + 0.05, 0.12), title=title)
    axes.set_axis_off()
    return axes


def _draw_lesson(axes, x, y, number, lesson, exercises):
    done = list(exercises.values()).count(DONE)
    axes.add_patch(Rectangle((x, y - 0.86), 0.92 * done / len(exercises), 0.84, facecolor=plot.SKY))
    axes.add_patch(Rectangle((x, y - 0.86), 0.92, 0.84, facecolor="none", edgecolor="0.4"))
    words = textwrap.fill(lesson.replace("_", " "), 12)
    axes.annotate(
        f"{number} · {done}/{len(exercises)}", (x + 0.46, y - 0.14), ha="center", va="center", size=9
    )
    axes.annotate(words, (x + 0.46, y - 0.54), ha="center", va="center", size=8, linespacing=1.1)


def draw_costs(figures: Mapping[str, Mapping[str, float]], title: str) -> list[Axes]:
    """Draw {what: {engine: bytes}} as bars, a panel for each."""
    panels = list(plt.subplots(1, len(figures), figsize=(11, 2.4))[1])
    for axes, (what, values) in zip(panels, figures.items(), strict=True):
        colours = [plot.GREY, plot.BLUE][: len(values)]
        drawn = axes.barh(list(values), list(values.values()), color=colours, height=0.6)
        axes.bar_label(drawn, [bench.size(value) for value in values.values()], padding=4, fontsize=10)
        axes.invert_yaxis()
        axes.set_title(what, fontsize=11)
        axes.set_xticks([])
        axes.grid(visible=False)
        axes.margins(x=0.35)
    panels[0].figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return panels
