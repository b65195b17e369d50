"""The helpers of lesson 14; its formulas are tested with the checks of that lesson."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from blocks2tokens import FORMATS, KERNELS
from blocks2tokens.course import roofline
from blocks2tokens.course.hardware import Ceilings
from blocks2tokens.jit import cpu
from blocks2tokens.jit.lanes import ISAS


@pytest.mark.parametrize("layout", ["gguf", "report"])
@pytest.mark.parametrize("N", [16, 32, 80])
def test_a_random_matrix_can_be_multiplied(layout, N):
    w = roofline.random_matrix(FORMATS["Q4_K"], 256, N, layout)
    kernel = KERNELS["fused_rows" if layout == "gguf" else "phase0_baseline"]
    out = kernel(np.ones((2, 256), np.float32), w)
    assert out.shape == (2, N) and np.isfinite(out).all() and out.any()


@pytest.mark.parametrize("name", [n for n in cpu.available() if n in ISAS and ISAS[n].shares == 1])
def test_the_integer_loop_adds_up_what_it_says(name):
    rng, n = np.random.default_rng(1), 16
    q, x = rng.integers(0, 16, 64 * n).astype(np.uint8), rng.integers(-9, 10, 64 * (n + 3)).astype(np.int8)
    expected = [int(q.astype(int) @ x[64 * m : 64 * m + q.size]) for m in range(4)]
    for rounds in (1, 3):
        totals = np.zeros((4, 16), np.int32)
        roofline.dot_codes(name)(q, x, totals, rounds)
        assert totals.sum(axis=1).tolist() == [rounds * row for row in expected]


def test_the_integer_ceiling_is_none_or_positive():
    peak = roofline.integer_peak()
    assert peak is None if cpu.chosen() == "plain" else peak > 0


def test_the_ceilings_of_one_core_are_those_that_were_measured(monkeypatch):
    monkeypatch.setattr(
        roofline.hardware, "measure", lambda: Ceilings({1: 10.0, 4: 30.0}, {1: 90.0, 4: 350.0})
    )
    monkeypatch.setattr(roofline, "integer_peak", lambda: 200.0)
    assert roofline.ceilings(1) == (1, 90.0, 200.0, 10.0)
    assert roofline.ceilings() == (4, 350.0, 800.0, 30.0)
    monkeypatch.setattr(roofline, "integer_peak", lambda: None)
    assert roofline.ceilings().integer_peak is None


def test_the_picture_has_both_roofs_and_every_kernel():
    limits = roofline.Ceilings(2, 100.0, 400.0, 20.0)
    points = {name: (3.5, 10.0) for name in (*KERNELS, "your kernel")}
    axes = roofline.picture(limits, points, {"fused_rows": (300.0, 50.0)}, "here")
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names[:2] == ["roof, float32, 2 cores", "roof, 8-bit integers"] and set(names[2:]) == set(points)
    assert len(axes.lines) == 2 + len(points) + 1
    styles = [(line.get_color(), line.get_marker()) for line in axes.lines[2:-1]]
    assert len(set(styles)) == len(styles)
    plt.close("all")


def test_ceilings_say_of_what_they_are():
    several, one = str(roofline.Ceilings(4, 350.4, 800.0, 30.04)), str(roofline.Ceilings(1, 90.0, None, 10.0))
    assert (
        several.startswith("4 cores: 30.0 GB/s") and "350 GFLOP/s" in several and "1,536 × 1,536" in several
    )
    assert several.endswith("800 GOP/s in 8-bit integers, from the nearest cache, one core's times 4")
    assert one.startswith("1 core:") and one.endswith("no vector code for integers here")


def test_a_point_is_work_for_each_byte_and_work_in_a_second():
    assert roofline.point(1, 1000, 1000, FORMATS["F32"], 1e-3) == pytest.approx((0.5, 2), rel=1e-2)


def test_a_share_is_of_the_roof_that_the_kernel_is_under():
    limits = roofline.Ceilings(1, 100.0, 400.0, 20.0)
    assert roofline.share(limits, 1, 10) == roofline.share(limits, 1, 10, True) == 0.5
    assert roofline.share(limits, 1000, 100) == 1 and roofline.share(limits, 1000, 100, True) == 0.25
    assert roofline.share(limits._replace(integer_peak=None), 1000, 100, True) == 1


def test_a_drawn_roof_rises_and_then_stays():
    axes = plt.subplots()[1]
    roofline.draw(axes, 100.0, 20.0, "here")
    intensity, speed = axes.lines[0].get_data()
    assert np.allclose(speed, np.minimum(100, 20 * np.array(intensity)))
    plt.close("all")
