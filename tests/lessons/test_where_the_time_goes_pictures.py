"""The pictures of the lesson on where the time goes say what is so."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from blocks2tokens.course.lessons.where_the_time_goes import pictures, profiler
from blocks2tokens.course.lessons.where_the_time_goes.slow_engine import FIXES


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def title(axes):
    """Return a title; where it is depends on the style."""
    return axes.get_title("left") + axes.get_title()


def test_what_if_takes_parts_out():
    token = profiler.Stage("token", 10.0, stages={"transpose": profiler.Stage("transpose", 8.0)})
    axes = pictures.what_if(token, ["transpose"])
    assert title(axes) == "Without transpose: 5 times faster" and len(axes.patches) == 1
    panel = pictures.what_if_panel(token)
    assert panel.children[0].value == ("transpose",)
    assert {value for _, value in panel.children[0].options} == set(FIXES)


def test_a_profile_names_its_stages():
    token = profiler.Stage("token", 10.0, stages={"rope": profiler.Stage("rope", 8.0)})
    axes = pictures.draw_profile(token, "t")
    assert [text.get_text() for text in axes.texts] == ["token 100%", "RoPE 80%"]


def test_bytes_add_up_to_what_is_moved():
    axes = pictures.draw_bytes(0.5, 24.5)
    assert sum(bar.get_width() for bar in axes.patches) == 24.5
    assert title(axes).startswith("49 times")


def test_gains_show_bound_and_measurement():
    bounds = {"RoPE": (1, 1.01, 1.02), "all six": (1.09, 1.1, 1.11)}
    gains = {"RoPE": (0.9, 1, 1.2), "all six": (1, 1.15, 1.2)}
    axes = pictures.draw_gains(bounds, gains, "t")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["RoPE", "all six"]
    drawn = [line.get_xdata().tolist() for line in axes.lines[:-1]]
    expected = [[[low, high], [median]] for found in (bounds, gains) for low, median, high in found.values()]
    assert drawn == [line for both in expected for line in both]


def test_hit_rates_are_drawn_for_both_policies():
    axes = pictures.draw_hit_rates(dict.fromkeys("abcdefghij", 1), 10, 0.3, "title")
    keeps, lru = (line.get_ydata() for line in axes.lines[:2])
    assert np.all(keeps >= lru) and lru[0] == 0 and lru[-1] == keeps[-1] == pytest.approx(0.9)
    assert sorted(set(lru)) == [0, pytest.approx(0.9)]


def test_steps_stand_in_one_row_there_and_here():
    axes = pictures.draw_steps({"dot": 0.5}, {"transpose": 8.0, "dot": 1.5}, "t")
    there, here = (line.get_xydata().tolist() for line in axes.lines)
    assert there == [[0.5, 1]] and here == [[8, 0], [1.5, 1]]
