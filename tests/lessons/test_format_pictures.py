"""The pictures of lessons 00 to 03 show what they are given, in letters that can be read."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from blocks2tokens.convert import TARGETS
from blocks2tokens.course import plot
from blocks2tokens.course.lessons.q4_k import pictures as q4_k
from blocks2tokens.course.lessons.scales_and_mins import pictures as scales_and_mins
from blocks2tokens.course.lessons.start_here import pictures as start_here
from blocks2tokens.course.lessons.why_blocks import pictures as why_blocks
from blocks2tokens.formats import FORMATS
from blocks2tokens.formats.q4_k import unpack_scales

SMALLEST = 8  # points


@pytest.fixture(autouse=True)
def styled():
    with plt.rc_context(plot.STYLE):
        yield
    plt.close("all")


def texts(axes):
    """Return what is written in and about a picture, drawn; not the numbers at its axes."""
    axes.figure.canvas.draw()
    legend = axes.get_legend().get_texts() if axes.get_legend() else []
    named = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
    return [text for text in [*axes.texts, *legend, *named] if text.get_text()]


def is_legible(axes):
    """Is no letter too small, and nothing cut off at the figure's edge?"""
    edge = axes.figure.bbox
    for text in texts(axes):
        box = text.get_window_extent()
        assert text.get_size() >= SMALLEST, text
        assert box.x0 >= edge.x0 - 1 and box.x1 <= edge.x1 + 1, text
    return True


def labels_are_apart(axes):
    """Do no two of the labels in a picture overlap?"""
    axes.figure.canvas.draw()
    boxes = [(text.get_text(), plt.Text.get_window_extent(text)) for text in axes.texts]  # no leader lines
    for i, (name, box) in enumerate(boxes):
        for other, second in boxes[i + 1 :]:
            assert not box.overlaps(second), f"{name} and {other}"
    return True


def title(axes):
    return axes.get_title(loc="left") or axes.get_title()


# Lesson 00


def test_levels_are_drawn_below_the_weights():
    axes = start_here.draw_levels(np.ones(32), np.zeros(32), np.arange(16))
    assert len(axes.lines) == 2 + 16 and "16 levels" in title(axes) and is_legible(axes)


@pytest.mark.parametrize(
    ("values", "said"),
    [({1: 10, 2: 15}, "2 cores read 1.5 times as fast as one"), ({1: 10}, "One core alone can read")],
)
def test_ceilings_say_what_more_cores_do(values, said):
    left, right = start_here.draw_ceilings(values, {1: 100.0, 2: 200.0})
    assert title(left) == said and title(right) == "2 cores multiply 2.0 times as fast as one"
    assert is_legible(left) and is_legible(right)


def test_engines_are_drawn_for_each_model():
    speeds, tops = {"Austen": (69.3, 1451), "SmolLM2": (3.27, 298)}, {"Austen": 2297, "SmolLM2": 350}
    first, second = start_here.draw_engines(speeds, tops)
    assert title(first) == "Austen: from 69.3 to 1,451 tokens a second"
    assert title(second) == "SmolLM2: from 3.27 to 298 tokens a second"
    assert [bar.get_width() for bar in first.patches] == [69.3, 1451, 2297]
    assert is_legible(first) and is_legible(second)


# Lesson 01


def test_bits_are_drawn_highest_first():
    axes = why_blocks.draw_bits(0b10110110, ("high", 4, plot.RED), ("low", 4, plot.BLUE))
    shown = [text.get_text() for text in axes.texts]
    assert [shown[i] for i in (0, 2, 4, 6)] == ["1", "0", "1", "1"]  # between them, what each counts
    assert "high = 11" in shown and "low = 6" in shown and "182" in title(axes)
    assert is_legible(axes) and labels_are_apart(axes)


def test_shares_are_of_all_codes():
    axes = why_blocks.draw_shares(np.array([0.0, 0, 1, -7]))
    assert [bar.get_height() for bar in axes.patches][:1] == [0.25]
    assert sum(bar.get_height() for bar in axes.patches) == 1 and "75%" in title(axes)
    assert is_legible(axes)


def test_block_sizes_draw_a_line_for_each_model():
    axes = why_blocks.draw_block_sizes([8, 16, 32], {"a": [3, 2, 1], "b": [1, 2, 3]})
    assert [list(line.get_ydata()) for line in axes.lines] == [[3, 2, 1], [1, 2, 3]]
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle() and is_legible(axes)


def test_every_format_is_named_and_no_name_lies_on_another():
    formats = [f for f in FORMATS.values() if f.block_size > 1 and f.name in TARGETS]
    x = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32)
    errors = {f.name: np.sqrt(np.mean((f.dequantize(f.quantize(x)) - x) ** 2)) for f in formats}
    axes = why_blocks.draw_errors_by_bits(formats, errors, "Gaussian")
    assert {text.get_text() for text in axes.texts} == {f.name for f in formats}
    assert is_legible(axes) and labels_are_apart(axes)


# Lesson 02


def test_the_ruler_says_how_many_values_are_used():
    x = np.repeat(np.float32([1, 2]), 16)
    axes = scales_and_mins.draw_ruler(x, "Q4_1")
    assert "uses 2 of its 16 values" in title(axes) and is_legible(axes)


def test_offsets_are_drawn_above_what_was_found():
    lines = {"Q4_0": [0.08, 0.14], "Q4_1": [0.11, 0.11]}
    top, bottom = scales_and_mins.draw_offsets([0, 2], lines, np.array([0.1, 0.2, 0.76]))
    assert [list(line.get_ydata()) for line in top.lines[:2]] == list(lines.values())
    assert "3 blocks is 0.76 off" in title(bottom) and is_legible(top) and is_legible(bottom)


# Lesson 03


def test_ranges_are_drawn_at_their_bits():
    axes = q4_k.draw_ranges({32: 0.1, 256: 0.2}, 0.15)
    assert list(axes.lines[0].get_xdata()) == [5.0, 4.125]
    assert [text.get_text() for text in axes.texts] == ["each 32", "each 256"]
    assert is_legible(axes) and labels_are_apart(axes)


def test_each_bit_is_drawn_with_its_owner():
    one_bit = np.packbits(np.eye(96, dtype=np.uint8), axis=1, bitorder="little")
    numbers = np.concatenate(unpack_scales(one_bit), axis=1)
    axes = q4_k.draw_owners(numbers.argmax(axis=1), numbers.max(axis=1), "Q4_K")
    shown = [text.get_text() for text in axes.texts]
    assert shown[:8] == ["s0: 1", "s0: 2", "s0: 4", "s0: 8", "s0: 16", "s0: 32", "s4: 16", "s4: 32"]
    assert [bool(box.get_hatch()) for box in axes.patches[:64:8]] == [False] * 4 + [True] * 4
    assert is_legible(axes) and labels_are_apart(axes)


def test_both_orders_hold_every_weight():
    for axes in q4_k.draw_orders():
        drawn = np.concatenate([line.get_ydata() for line in axes.lines])
        assert sorted(drawn) == list(range(256)) and is_legible(axes)


def test_the_correlation_is_that_of_the_weights():
    x = np.random.default_rng(0).standard_normal(1000)
    assert "correlation is 1.00" in title(q4_k.draw_both(x, x))
    assert "correlation is -1.00" in title(axes := q4_k.draw_both(x, -x)) and is_legible(axes)


def test_outliers_are_drawn_at_their_sizes():
    axes = q4_k.draw_outliers([3, 10], {"Q4_0": [1, 2], "Q4_1": [2, 3], "Q4_K": [3, 9]})
    assert [list(line.get_ydata()) for line in axes.lines] == [[1, 2], [2, 3], [3, 9]]
    assert len({line.get_marker() for line in axes.lines}) == 3 and is_legible(axes)
