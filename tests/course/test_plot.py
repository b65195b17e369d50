"""Shared pictures say what they are given."""

import matplotlib.pyplot as plt
import pytest

from blocks2tokens.course import plot


@pytest.fixture(autouse=True)
def lesson_style():
    with plt.rc_context(plot.STYLE):
        yield
    plt.close("all")


def test_dots_show_values_and_ratios_within_the_axes():
    values = {"slow": 1500.0, "reference": 3.0, "fast": 0.5}
    axes = plot.dots(values, "ms", "Fast is fast", "reference")
    assert [text.get_text() for text in axes.texts] == ["1,500 ms  (500×)", "3 ms", "0.5 ms  (1/6)"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(values)
    assert axes.get_title(loc="left") == "Fast is fast" and axes.get_xscale() == "log"
    axes.figure.canvas.draw()
    right = axes.get_window_extent().x1
    assert all(text.get_window_extent().x1 <= right for text in axes.texts)


@pytest.mark.parametrize("values", [{"a": 2.0, "b": 2.0}, {"a": 1e-3, "b": 2e9}])
def test_dots_leave_room_for_their_figures(values):
    axes = plot.dots(values, "weights", "Title", "a")
    axes.figure.canvas.draw()
    box = axes.get_window_extent()
    assert all(box.x0 <= t.get_window_extent().x0 and t.get_window_extent().x1 <= box.x1 for t in axes.texts)
