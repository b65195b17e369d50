"""The pictures of lesson 09 say what they are given."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from blocks2tokens import FORMATS
from blocks2tokens.course import plot
from blocks2tokens.course.lessons.phase1_naive_fused import pictures
from blocks2tokens.kernels.report.decoders import element_bytes


@pytest.fixture(autouse=True)
def lesson_style():
    with plt.rc_context(plot.STYLE):
        yield
    plt.close("all")


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K"])
def test_filled_are_the_bytes_that_the_kernel_counts(name):
    fmt = FORMATS[name]
    header, code = pictures.bytes_read(fmt, 300)
    assert len(header) + len(code) == element_bytes(fmt)
    axes = pictures.draw_call(name, 300)
    colours = [to_hex(patch.get_facecolor()).upper() for patch in axes.patches]
    assert [i for i, c in enumerate(colours) if c == plot.BLUE] == code
    assert [i for i, c in enumerate(colours) if c == plot.ORANGE] == header
    assert f"{element_bytes(fmt)} of {fmt.bytes_per_block} bytes" in axes.get_title(loc="left")


def test_the_gap_is_told_at_both_ends():
    times = {1: {"a": 8e-3, "b": 2e-3, "c": 1e-3}, 64: {"a": 2.0, "b": 2e-2, "c": 1e-3}}
    axes = pictures.draw_rows(times, "a", "c")
    assert [text.get_text() for text in axes.texts] == ["8×", "2,000×"]
    assert axes.get_title(loc="left") == "a over c: 8× with 1 row, 2,000× with 64"
