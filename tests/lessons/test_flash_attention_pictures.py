"""The pictures of the lesson on flash attention, and what it times beside a layer's matrices."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from blocks2tokens.course.lessons.flash_attention import overtaking, pictures
from blocks2tokens.course.lessons.flash_attention.exercises import tiles_seen
from blocks2tokens.course.synthetic import SHAPES
from blocks2tokens.model.attention import attend


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def titles():
    return [axes.get_title("left") + axes.get_title() for axes in plt.gcf().axes]


def test_each_step_is_measured_against_its_best():
    pictures.draw_rescaling([1, 3, 2])
    assert titles() == ["best 1, total 1.00", "best 3, total 1.14", "best 3, total 1.50"]


@pytest.mark.parametrize(("way", "held"), [("whole", 1024), ("row", 17), ("tile", 64)])
def test_a_moment_holds_what_its_way_holds(way, held):
    state = pictures.state_of_scores(way, 32, 8, 8, (2, 1))
    assert (state == pictures.HELD).sum() == held
    t, s = np.indices(state.shape)
    assert way == "whole" or set(state[s >= t + 8]) == {pictures.UNSEEN}


def test_moments_say_how_many_scores_they_hold():
    pictures.draw_moments()
    assert titles() == [f"{way}: {n} scores held" for way, n in (("whole", 1024), ("row", 17), ("tile", 64))]


def test_tiles_are_drawn_as_they_are_counted():
    axes = pictures.draw_tiles(tiles_seen, 512, 16, 64)
    assert len(axes.patches) == 32 * 8 and "144 of 256" in titles()[0]
    dark = [box for box in axes.patches if box.get_facecolor() == pictures.SHADES(pictures.HELD)]
    assert len(dark) == 32


def test_the_first_free_core_takes_the_next_job():
    assert pictures.finishing([4, 4, 4], 2) == [[(0, 0, 4), (2, 4, 4)], [(1, 0, 4)]]
    pictures.draw_parts(3, 8192, 4)
    assert "16,384" in titles()[0] and "12,288" in titles()[1]


def test_held_has_a_line_for_each_way():
    axes = pictures.draw_held({"whole": {512: 10, 1024: 40}, "tile": {512: 5, 1024: 5}})
    assert [line.get_label() for line in axes.lines] == ["whole", "tile"]


def test_ways_of_attending_are_the_definition():
    heads = overtaking.random_heads(9, 3, 64, 40, 140)
    assert np.allclose(overtaking.in_tiles(*heads), attend(*heads), atol=1e-5)
    one = overtaking.random_heads(4, 2, 32, 1, 300)
    assert np.allclose(overtaking.in_parts(*one), attend(*one), atol=1e-5)


def test_weights_of_a_layer_are_its_matrices():
    assert overtaking.layer_weights(SHAPES["7B"]) == 4 * 4096**2 + 3 * 4096 * 11_008


def test_they_are_equal_where_the_lines_meet():
    found = {"matrices": {0: 5.0, 100: 5.0}, "in tiles": {0: 0.64, 100: 1.64}}
    assert overtaking.equal_at(found) == pytest.approx(872)  # twice the depth, 436
    axes = pictures.draw_overtaking(found, 300, "A model")
    labels = [line.get_label() for line in axes.lines]
    assert labels == ["attention, in tiles", "the layer's matrices", "equal multiply-adds"]
