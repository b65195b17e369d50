"""The pictures of lesson 10 say what they are given."""

import matplotlib.pyplot as plt
import pytest

from blocks2tokens.course import plot
from blocks2tokens.course.lessons.phase2_optimized_fused import pictures


@pytest.fixture(autouse=True)
def lesson_style():
    with plt.rc_context(plot.STYLE):
        yield
    plt.close("all")


def title(axes):
    return axes.get_title(loc="left")


def test_every_row_shows_its_worker_and_who_is_idle():
    axes = pictures.draw_splits(lambda w, n, M: (min(2 * w, M), min(2 * w + 2, M)), "T", M=3, splits=(3,))
    assert [text.get_text() for text in axes.texts] == ["0", "0", "1", "2 idle"]
    assert title(axes) == "T"


def test_scaling_stands_beside_the_report():
    axes = pictures.draw_scaling({1: 1.0, 2: 1.5})
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[2:] == ["run again, 2 cores: 2.0×", "report, 16 threads: 7.3×"]
    assert title(axes) == "The same loops on 2 threads: 1.50 times faster"


@pytest.mark.parametrize(
    ("faster", "said"),
    [({1: 1.0, 2: 0.96}, "2 threads: no faster (0.96 ×)"), ({1: 1.0}, "1 thread: no faster")],
)
def test_what_is_no_faster_is_called_so(faster, said):
    assert said in title(pictures.draw_scaling(faster))


def test_the_cliff_has_both_phases():
    axes = pictures.draw_cliff(
        {1: {"Phase 1": 1e-3, "Phase 2": 2e-3}, 32: {"Phase 1": 3e-3, "Phase 2": 1e-3}}
    )
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[1.0, 3.0], [2.0, 1.0]]


def test_the_bound_is_told_for_16_cores():
    axes = pictures.draw_bound([1.6 / n for n in range(1, 129)], 0.05)
    assert title(axes) == "16 cores, scaling perfectly: 2× the baseline's time"


def test_the_busiest_worker_sets_the_bound():
    axes = pictures.draw_shares([1, 1, 2], 3)
    assert [bar.get_hatch() for bar in axes.patches] == [None, None, "///"]
    assert "at most 2.0 times faster" in title(axes)
