"""The pictures of lessons 30 and 32, on machines of one core and of many: nothing covers anything."""

from itertools import pairwise

import pytest
from matplotlib import pyplot as plt

from blocks2tokens.course.lessons.parallel_layers import pictures as layers
from blocks2tokens.course.lessons.the_last_verdict import pictures as verdict


@pytest.fixture(autouse=True)
def no_figure_stays():
    yield
    plt.close("all")


def drawn(axes):
    axes.figure.canvas.draw()
    return axes.figure.canvas.get_renderer()


@pytest.mark.parametrize("cores", [1, 2, 6, 64])
def test_the_numbers_of_cores_stand_apart(cores):
    """Up to 16 cores are computed one by one, and more would be too many labels for the axis."""
    shown = {k: 30.0 * k for k in {*range(1, min(cores, 16) + 1), cores}}
    axes = layers.draw_cores({1: 30.0, cores: 50.0}, shown, shown, "Cores")
    renderer = drawn(axes)
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    assert labels[-1].get_text() == str(cores)
    boxes = [label.get_window_extent(renderer) for label in labels]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_the_legend_covers_no_number():
    """All streams at once are by far the most, and last."""
    ways = ("one core", "pipeline", "rows over cores", "rows, all streams at once")
    rates = {way: {"one stream": 1.0, "8 streams": 1.1} for way in ways}
    rates[ways[-1]]["8 streams"] = 5.0
    axes = layers.draw_ways(rates, "Ways")
    renderer = drawn(axes)
    legend = axes.get_legend().get_window_extent(renderer)
    assert [text for text in axes.texts if text.get_window_extent(renderer).overlaps(legend)] == []


@pytest.mark.parametrize("best", [5.0, 25.0, 90.0])
def test_the_target_s_name_is_on_no_bar_and_below_the_title(best):
    axes = verdict.draw_target({"one stream": 3.5, "16 streams": best}, "Target")
    renderer = drawn(axes)
    (name,) = (text for text in axes.texts if "target" in text.get_text())
    box = name.get_window_extent(renderer)
    assert box.y1 < axes.get_window_extent(renderer).y1
    assert not any(bar.get_window_extent(renderer).overlaps(box) for bar in axes.containers[0])


def test_a_picture_counts_one_and_many():
    assert layers.bubbles(1, 1).get_title().startswith("1 core, 1 stream:")
    assert layers.bubbles(4, 2).get_title().startswith("4 cores, 2 streams:")
