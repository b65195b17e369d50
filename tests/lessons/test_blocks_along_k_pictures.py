"""The pictures of lesson 15 show what they are given."""

import matplotlib.pyplot as plt
import pytest

from blocks2tokens.course.lessons.blocks_along_k import pictures

CACHES = {"L1d": 1 << 15, "L2": 1 << 20}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_the_layouts_show_the_same_output_in_four_blocks_and_in_one():
    report, gguf, *memory = pictures.draw_layouts()
    assert report.get_title() == "report: enters 4 blocks" and gguf.get_title() == "gguf: enters 1 block"
    assert "4 blocks, or in 1" in report.figure.get_suptitle()
    assert [list(axes.lines[0].get_xdata()) for axes in memory] == [list(range(1, 32, 4)), list(range(8, 16))]


def test_the_best_tile_is_named():
    axes = pictures.draw_tiles({32: 3.0, 256: 1.0, 4096: 2.5}, CACHES)
    assert axes.get_title().startswith("Tiles of 256 weights") and "2.5 times" in axes.get_title()
    assert [text.get_text() for text in axes.texts] == ["L1d ends", "L2 ends"]


@pytest.mark.parametrize(("tile", "home", "bits"), [(256, "L1d", 4.5), (1 << 22, "memory", 68.5)])
def test_a_buffer_lies_in_the_smallest_cache_that_holds_it(tile, home, bits):
    title = pictures.draw_buffer("Q4_K", 4096, tile, CACHES).get_title()
    assert f"{home}: {bits:g} bits" in title and "128 scales" in title


@pytest.mark.parametrize(
    ("wins", "said"),
    [
        ({1: 3, 8: 1.2, 64: 0.5}, "at M = 1, 8"),
        ({1: 3, 8: 2}, "at all of these M"),
        ({1: 0.9, 8: 0.4}, "at none of these M"),
    ],
)
def test_the_title_says_where_fusing_wins(wins, said):
    axes = pictures.draw_wins(wins)
    assert axes.get_title().endswith(said) and list(axes.lines[0].get_xdata()) == list(wins)
