"""The pictures of lesson 17 show what they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from blocks2tokens.course import crossover
from blocks2tokens.course.lessons.crossover import pictures


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_ratios_stand_beside_a_line_at_one():
    axes = pictures.draw_ratios({"M = 1": 3.0, "M = 128": 0.4}, "Here")
    assert [text.get_text() for text in axes.texts] == ["3 ×", "0.4 ×"]
    assert list(axes.lines[0].get_xdata()) == [1, 1]


def test_two_lines_cross_where_they_take_the_same():
    axes = pictures.draw_two_lines()
    assert axes.texts[0].get_text() == "18 · 1 + 1 = 18 · 0.5 + 10"


@pytest.mark.parametrize("meet", [4.0, np.inf])
def test_the_title_says_how_far_off_the_lines_are(meet):
    seconds = {name: {1: 2e-9, 2: 3e-9, 4: 5e-9} for name in ("fused_rows", "dequantize_then_blas")}
    curves = crossover.Curves("Q4_K", 1, seconds)
    exact, half = (1.0, 1.0), (0.5, 0.5)
    lines = {"fused_rows": exact, "dequantize_then_blas": half}
    axes = pictures.draw_lines(curves, lines, dict.fromkeys(lines, half), meet)
    assert axes.get_title().endswith("a factor of 2.0")
    assert len(axes.lines) == 6 + np.isfinite(meet)


def test_a_panel_is_drawn_as_it_was_made():
    axes = pictures.draw_panel(lambda codes: codes.reshape(16, 4, 4).transpose(1, 0, 2))
    turned = axes[1].collections[0].get_array().reshape(4, 64)
    assert all(list(line) == list(np.repeat(range(16), 4)) for line in turned)
