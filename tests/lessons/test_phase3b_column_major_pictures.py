"""The pictures of lesson 12 say what they are given."""

from itertools import pairwise

import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text

from blocks2tokens.course import plot
from blocks2tokens.course.lessons.phase3b_column_major import pictures
from blocks2tokens.kernels.report.phase3b_column_major import blocks_met


@pytest.fixture(autouse=True)
def lesson_style():
    with plt.rc_context(plot.STYLE):
        yield
    plt.close("all")


def title(axes):
    return axes.get_title(loc="left")


@pytest.mark.parametrize(("K", "N", "j"), [(8, 1, 0), (8, 4, 1), (8, 16, 5), (32, 128, 64)])
def test_a_path_is_black_where_it_enters_a_block(K, N, j):
    axes = pictures.draw_path(K, N, 8, j)
    entered = axes.lines[-1].get_ydata()
    assert len(entered) == blocks_met(K, N, 8)[j] and entered[0] == 0
    assert title(axes).startswith(f"N = {N}: {len(entered)} run")
    assert len(axes.texts) == (K * N if K * N <= pictures.MOST else 0)


def test_paths_stand_side_by_side():
    row = pictures.draw_paths(8, (1, 2, 4, 8, 16), 8)
    assert [title(axes) for axes in row] == ["1 run", "2 runs", "4 runs", "8 runs", "8 runs"]
    assert row[0].get_xlabel() == "j, N = 1"
    row[0].figure.canvas.draw()
    written = [t for axes in row for t in axes.findobj(Text) if t.get_text() == title(axes)]
    boxes = [text.get_window_extent() for text in written]
    assert len(boxes) == len(row)
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_the_cliff_has_its_numbers():
    axes = pictures.draw_widths([1, 2, 4], [1, 256, 512])
    assert [text.get_text() for text in axes.texts] == ["N = 1: 1", "N = 2: 256"]
