"""The pictures of lesson 27 show what they are given."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from blocks2tokens.course import plot
from blocks2tokens.course.bench import Timing
from blocks2tokens.course.lessons.pruning import pictures
from blocks2tokens.course.lessons.pruning.losses import Loss


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def loss(nats):
    return Loss(20.0, nats, 0.01, nats, 0.01)


def timing(seconds):
    return Timing(1.0, seconds, 0.9 * seconds, 1.1 * seconds)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_by_hand_says_of_each_weight_whether_it_stays():
    pictures.draw_by_hand(np.array([1.0, -2.0]), np.array([4.0, 0.5]), {"by size": np.array([False, True])})
    assert texts(plt.gcf()) == ["1", "-2", "4", "0.5", "4", "1", "goes", "stays"]


def test_shares_have_their_intervals():
    pictures.draw_shares({"magnitude": {0.5: loss(0.1), 0.7: loss(0.4)}}, "More is lost")
    (axes,) = plt.gcf().axes
    (drawn,) = axes.containers
    line, _, (bars,) = drawn.lines
    assert line.get_ydata().tolist() == [0.1, 0.4]
    assert np.allclose(np.diff([segment[:, 1] for segment in bars.get_segments()], axis=1), 0.04)


def test_bits_meet_where_they_are_equal():
    times = {share: timing(1e-3) for share in (0.5, 0.9)}
    dense = {name: timing(2e-3) for name in ("F32", "F16", "Q4_K")}
    pictures.draw_bytes({"F32": times, "F16": times}, dense, "Fewer bytes")
    left, right = plt.gcf().axes
    shares, bits = left.lines[1].get_data()
    assert np.interp(0.339, shares, bits) == pytest.approx(16, rel=0.01)
    assert plot.alt_text(plt.gcf()) and right.get_ylim()[0] == 0


def test_the_least_of_each_is_hatched():
    pictures.draw_influence(np.array([0.5, 0.1, 0.2]), [0.9, 0.3, 0.2], False)
    hatched = [[bool(bar.get_hatch()) for bar in axes.patches] for axes in plt.gcf().axes]
    assert hatched == [[False, True, False], [False, False, True]]
    assert "name different layers" in plot.alt_text(plt.gcf())


def test_a_bar_that_is_far_above_the_others_is_cut_and_says_so():
    pictures.draw_influence(np.array([5.0, 0.1, 0.2]), [0.3, 0.3, 0.2], False)
    left, right = plt.gcf().axes
    assert left.get_ylim()[1] == 0.4 and texts(plt.gcf()) == ["to 5.00"]
    assert right.get_ylim()[1] == 0.3


def test_speeds_stand_beside_bytes():
    pictures.draw_speeds({"half of the layers": 1.8}, {"half of the layers": (1.5, 1.7, 1.9)}, "As fast")
    (axes,) = plt.gcf().axes
    assert [bar.get_width() for bar in axes.patches] == [1.8]
    assert axes.containers[1].lines[0].get_xdata().tolist() == [1.7]


def test_the_frontier_names_its_points_and_keeps_them_on_the_axis():
    ways = {"less": {"layers": (8_000_000, loss(0.7))}, "bits": {"Q8_0": (8_000_000, loss(-0.001))}}
    pictures.draw_frontier(ways | {"both": {"Q4_K": (4_000_000, loss(0.02))}}, "Bits win")
    (axes,) = plt.gcf().axes
    assert texts(plt.gcf()) == ["layers", "Q8_0", "Q4_K"]
    heights = [drawn.lines[0].get_ydata()[0] for drawn in axes.containers]
    assert heights == [0.7, pictures.FLOOR, 0.02] and axes.get_ylim()[0] < pictures.FLOOR
