"""The pictures of lesson 08 say what they are given."""

import matplotlib.pyplot as plt
import pytest

from blocks2tokens.course import plot
from blocks2tokens.course.lessons.phase0_baseline import pictures

PARTS = {"decode": 1.0, "transpose": 2.0, "dot products": 1.0}


@pytest.fixture(autouse=True)
def lesson_style():
    with plt.rc_context(plot.STYLE):
        yield
    plt.close("all")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_every_weight_has_its_block_and_place():
    axes = pictures.draw_blocks(8, 12, 16, 3)
    assert len(axes.texts) == 96 and texts(axes)[12 * 5 + 3] == "3:15"
    assert axes.get_title(loc="left") == "Column 3 needs 6 of 6 blocks"


def test_the_title_tells_the_best_of_the_sums_in_order():
    rungs = ("textbook", "loops turned", "matrix turned", "matrix turned, reordered", "BLAS")
    curves = {
        n: dict(zip(rungs, (2, 20, factor * 4, 30, 90), strict=True)) for n, factor in ((64, 2), (128, 1))
    }
    axes = pictures.draw_sizes(curves, 100.0)
    assert len(axes.lines) == 6 and "8% of what" in axes.get_title(loc="left")
    assert "9% of what" in pictures.draw_sizes(curves, 50.0).get_title(loc="left")  # BLAS did more


def test_parts_are_shares_of_the_whole():
    axes = pictures.draw_parts({(1, 8, 8): PARTS, (2, 8, 8): PARTS})
    assert texts(axes) == ["25", "25", "50", "50", "25", "25"]
    assert axes.get_title(loc="left") == "50 % of the time: transpose"
    assert pictures.draw_parts({(1, 8, 8): PARTS}, "Mine").get_title(loc="left") == "Mine"
