"""Sixteen rows in NumPy: the engine's definitions of formats, run without vector code, give its products."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from blocks2tokens import KERNELS, QuantizedMatrix
from blocks2tokens.course import sixteen_rows
from blocks2tokens.course.lessons.crossover.exercises import make_panel
from blocks2tokens.kernels.ours import integer_dot, quantized_activations, unpack


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K"])
def test_the_definition_in_numpy_is_the_kernel(name):
    rng = np.random.default_rng(0)
    w = QuantizedMatrix.quantize(rng.standard_normal((16, 512), dtype=np.float32), name)
    x = rng.standard_normal((3, 512), dtype=np.float32)
    made = sixteen_rows.multiply(
        unpack.PACKED[name].unpack, w.raw, quantized_activations.quantize(x, 256, 32)
    )
    assert np.allclose(made, KERNELS["simd_dot"](x, w), rtol=1e-4, atol=1e-3)
    assert np.allclose(made, KERNELS["integer_dot"](x, w), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "codes"), [("Q4_K", integer_dot.codes_q4_k), ("Q5_K", integer_dot.codes_q5_k)]
)
def test_the_panel_has_the_plain_decoder_s_codes(name, codes):
    rng = np.random.default_rng(1)
    w = QuantizedMatrix.quantize(rng.standard_normal((16, 256), dtype=np.float32), name)
    q, rest = np.empty((16, 256), np.uint8), np.empty((2, 8), np.float32)
    for raw, row in zip(w.raw, q, strict=True):
        codes(raw, row, *rest)
    assert np.array_equal(sixteen_rows.panel(unpack.PACKED[name].unpack, w.raw), make_panel(q))


def test_the_picture_has_each_word_on_both_sides():
    left, right = sixteen_rows.draw_turned()
    shown = [
        sorted(text.get_text() for text in axes.texts if ":" in text.get_text()) for axes in (left, right)
    ]
    assert shown[0] == shown[1] and len(shown[0]) == 16
    plt.close("all")
