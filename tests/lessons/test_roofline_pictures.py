"""The pictures of lesson 14 show what they are given."""

import matplotlib.pyplot as plt
import pytest

from blocks2tokens import FORMATS
from blocks2tokens.course import roofline
from blocks2tokens.course.lessons.roofline import pictures

LIMITS = roofline.Ceilings(2, 100.0, 400.0, 20.0)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_a_block_s_operations_are_those_of_its_weights():
    for M in (1, 3):
        axes = pictures.draw_worth(FORMATS["Q4_K"], M)
        assert sum(int(text.get_text()) for text in axes.texts) == M * 2 * 256
        assert f"M = {M}" in axes.get_title()


def test_every_format_has_its_curve():
    axes = pictures.draw_intensity([1, 2], {"Q4_K": [3, 6], "F32": [0.5, 1]}, [3.5, 7])
    assert [list(line.get_ydata()) for line in axes.lines] == [[3.5, 7], [3, 6], [0.5, 1]]


def test_caches_that_end_outside_are_not_named():
    axes = pictures.draw_caches({1 << 10: 40.0, 1 << 20: 10.0}, 12.0, {"L1d": 1 << 15, "L3": 1 << 28})
    assert [text.get_text() for text in axes.texts] == ["L1d ends"]
    assert "4.0 times" in axes.get_title()


def test_roofs_name_the_products_and_leave_out_what_was_not_measured():
    axes = pictures.draw_roofs(LIMITS, {"Q4_K, M = 1": 3.5})
    assert len(axes.lines) == 3 and axes.texts[0].get_text() == "Q4_K, M = 1"
    assert len(pictures.draw_roofs(LIMITS._replace(integer_peak=None), {}).lines) == 1


def test_a_kernel_moves_to_the_bytes_that_it_moves():
    must = {"fused_rows": (3.5, 7.0), "dequantize_then_blas": (3.5, 2.0)}
    axes = pictures.draw_own_bytes(LIMITS, must, {"fused_rows": 3.5, "dequantize_then_blas": 0.2})
    assert "dequantize_then_blas\nreaches 50%" in axes.get_title()
    assert [line.get_xdata()[0] for line in axes.lines[-2:]] == [3.5, 0.2]


def test_the_lower_roof_says_how_far_above_it_is():
    axes = pictures.draw_lower_roof(LIMITS, 10.0, (3.5, 1.0), (400.0, 5.0))
    assert max(axes.lines[1].get_ydata()) == 10 and "2.0 times" in axes.get_title()


@pytest.mark.parametrize(("intensity", "limit"), [(3.2, "bytes"), (320, "arithmetic")])
def test_a_model_is_limited_by_one_of_two(intensity, limit):
    axes = pictures.draw_model(intensity, 9.0, 500, 80)
    assert axes.get_title() == f"9.0 tokens/s at most, limited by {limit}"
