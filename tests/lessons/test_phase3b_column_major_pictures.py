"""The pictures of lesson 12 say what they are given."""

import matplotlib.pyplot as plt
import pytest

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
    titles = [title(axes) for axes in pictures.draw_paths(8, (1, 2, 4, 8, 16), 8)]
    assert titles == ["N = 1: 1 run", "N = 2: 2 runs", "N = 4: 4 runs", "N = 8: 8 runs", "N = 16: 8 runs"]


def test_the_cliff_has_its_numbers():
    axes = pictures.draw_widths([1, 2, 4], [1, 256, 512])
    assert [text.get_text() for text in axes.texts] == ["N = 1: 1", "N = 2: 256"]
