"""The helpers of lesson 14; its formulas are tested with the checks of that lesson."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from blocks2tokens import FORMATS, KERNELS
from blocks2tokens.course import roof
from blocks2tokens.kernels import simd


@pytest.mark.parametrize("layout", ["gguf", "report"])
@pytest.mark.parametrize("N", [16, 32, 80])
def test_a_random_matrix_can_be_multiplied(layout, N):
    w = roof.random_matrix(FORMATS["Q4_K"], 256, N, layout)
    kernel = KERNELS["fused_rows" if layout == "gguf" else "phase0_baseline"]
    out = kernel(np.ones((2, 256), np.float32), w)
    assert out.shape == (2, N) and np.isfinite(out).all() and out.any()


@pytest.mark.parametrize("name", [name for name in simd.available() if name != "plain"])
def test_the_integer_loop_adds_up_what_it_says(name):
    isa, rng = simd.INSTRUCTION_SETS[name], np.random.default_rng(1)
    q, x = rng.integers(0, 16, 512).astype(np.uint8), rng.integers(-9, 10, 640).astype(np.int8)
    expected = 0
    for i in range(0, 512, 128):
        for codes in (q[i : i + 64], q[i + 64 : i + 128]):
            expected += sum(int(codes.astype(int) @ x[i + 64 * n : i + 64 * n + 64]) for n in range(4))
    assert roof.dot_codes(isa, q, x, 1) == expected
    assert roof.dot_codes(isa, q, x, 3) == 3 * expected


def test_the_integer_ceiling_is_none_or_positive():
    peak = roof.integer_peak()
    assert peak is None if simd.chosen() == "plain" else peak > 0


def test_a_drawn_roof_rises_and_then_stays():
    axes = plt.subplots()[1]
    roof.draw(axes, 100.0, 20.0, "here")
    intensity, speed = axes.lines[0].get_data()
    assert np.allclose(speed, np.minimum(100, 20 * np.array(intensity)))
    plt.close("all")
