"""The pictures of lesson 11 say what they are given."""

import matplotlib.pyplot as plt
import pytest

from blocks2tokens.course import plot
from blocks2tokens.course.lessons.phase3a_block_cache import pictures


@pytest.fixture(autouse=True)
def lesson_style():
    with plt.rc_context(plot.STYLE):
        yield
    plt.close("all")


def title(axes):
    return axes.get_title(loc="left")


def test_misses_are_marked_and_counted():
    axes = pictures.draw_look_ups([[0, 0, 1, 2], [0, 0, 1, 2]], {0, 2, 3}, K=4, N=6, size=8)
    assert [text.get_text() for text in axes.texts] == list("00120012")
    assert [text.get_color() == "w" for text in axes.texts] == [True, False, True, True] + 4 * [False]
    assert title(axes) == "3 misses (on red), 5 hits"


def test_a_lock_goes_from_one_writer_to_many_readers():
    texts = [text.get_text() for text in pictures.draw_lock().texts]
    assert {"-1", "0", "3", "one writer", "free"} <= set(texts)
    assert [texts.count(name) for name in ("lock_to_read", "unlock_read", "lock_to_write")] == [3, 3, 1]


def test_a_hit_is_the_sum_of_its_parts():
    axes = pictures.draw_hit({"index": 0.5, "+ map": 20.5, "+ lock": 20.0})
    assert [text.get_text() for text in axes.texts] == ["+0.5", "+20.0", "-0.5"]
    assert "40 times" in title(axes)


def test_maps_grow_with_the_workers():
    axes = pictures.draw_maps([65536, 131072], 131072, 11264)
    assert [bar.get_height() for bar in axes.patches] == [64, 128]
