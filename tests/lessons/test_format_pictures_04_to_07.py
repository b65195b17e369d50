"""The pictures of lessons 04 to 07 show what they are given, and their titles say what is so."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

import blocks2tokens as b2t
from blocks2tokens.course import models, plot, requantize
from blocks2tokens.course.lessons.gguf import pictures as gguf
from blocks2tokens.course.lessons.q5_k import pictures as q5_k
from blocks2tokens.course.lessons.q6_k import pictures as q6_k
from blocks2tokens.course.lessons.quantizing_well import listening
from blocks2tokens.course.lessons.quantizing_well import pictures as search

matplotlib.use("Agg")
SMALLEST = 8  # points


@pytest.fixture(autouse=True)
def legible():
    """Draw in the course's style; afterwards no text is too small, and every figure has a title."""
    with plt.rc_context(plot.STYLE):
        yield
    figures = [plt.figure(number) for number in plt.get_fignums()]
    texts = [text for figure in figures for text in figure.findobj(plt.Text) if text.get_text().strip()]
    sizes, titles = [text.get_size() for text in texts], [plot.alt_text(figure) for figure in figures]
    plt.close("all")
    assert min(sizes, default=SMALLEST) >= SMALLEST and all(titles)


def title(axes):
    return axes.get_title("left")


def test_the_family_names_what_a_bit_divides_the_error_by():
    axes = q5_k.draw_family({"Q4_K": 0.08, "Q5_K": 0.04}, marked="Q5_K")
    assert title(axes) == "From 4.5 bits to 5.5, each bit divides the error by 2.0"


def test_owners_are_written_into_their_bits():
    plane = np.arange(256).reshape(8, 32) % 8
    q5_k.draw_owners({"one": plane, "another": plane[::-1]})
    axes = plt.gcf().axes[1]
    assert [int(t.get_text()) for t in axes.texts] == plane[::-1].ravel().tolist()


@pytest.mark.parametrize(("gain", "verdict"), [(1.1, "does not pay"), (1.3, "pays somewhere")])
def test_a_minimum_pays_where_it_gains_more_than_it_costs(gain, verdict):
    axes = q6_k.draw_gains({"Austen": [1.0, gain]}, (2, 3), 1.2)
    assert title(axes).endswith(verdict)


def test_scales_and_codes_are_counted():
    scales = np.array([[-128, -1, 5, 6], [1, 2, 3, -4]], np.int8)
    assert title(q6_k.draw_scales(scales)).startswith("38% of the scales are negative, and −128 is in 50%")
    axes = q6_k.draw_codes(np.array([[-32, -32, 0, 31]], np.int8))
    assert "code -32 leads" in title(axes) and axes.patches[0].get_height() == 2


def test_the_marked_byte_is_that_of_weight_64_and_on():
    axes = q6_k.draw_halves(13)
    marked = [bar for bar in axes.patches if bar.get_facecolor()[:3] == (0, 0, 0)]
    assert [bar.get_x() for bar in marked] == [13, 13] and "weight 77" in axes.get_xlabel()


def test_rungs_have_their_ratios():
    axes = q6_k.draw_rungs({"loops": 1000.0, "NumPy": 4.0, "engine": 2.0})
    assert [t.get_text() for t in axes.texts] == [
        "1,000 ns, 500 times the fastest",
        "4 ns, 2 times the fastest",
        "2 ns",
    ]
    assert title(axes) == "The largest step, 250 times, is from loops to NumPy"


@pytest.mark.parametrize(("error", "where"), [(0.005, "6% above"), (0.004, "15% below")])
def test_the_last_format_lies_above_or_below_the_line(error, where):
    assert where in title(q6_k.draw_line({"Q4_K": 0.0752, "Q8_0": error}))


def test_valleys_and_parabolas():
    rng = np.random.default_rng(0)
    block, ratios = rng.standard_normal(32).astype(np.float32), np.linspace(0.8, 1.2, 41)
    axes = search.draw_valleys(ratios, np.where(ratios > 1.1, 0.9, 1.0))
    assert title(axes) == "Many valleys: the deepest is 10% below the formula"
    curve, *kept = [
        line.get_ydata() for line in search.draw_parabolas(block, 8, ratios, (0.9, 1.0, 1.1)).lines
    ]
    assert len(kept) == 3
    for ratio, parabola in zip((0.9, 1.0, 1.1), kept, strict=True):
        assert np.all(curve <= np.array(parabola) + 1e-12)
        at = np.abs(ratios - ratio).argmin()
        assert np.isclose(curve[at], parabola[at])


def test_the_knob_stands_on_the_curve():
    rng = np.random.default_rng(1)
    block, ratios = rng.standard_normal(32).astype(np.float32), np.linspace(0.8, 1.2, 5)
    scale = block[abs(block).argmax()] / -8
    errors = [
        np.sqrt(np.mean((r * scale * np.clip(np.rint(block / (r * scale)), -8, 7) - block) ** 2))
        for r in ratios
    ]
    search.draw_knob(block, 8, 1.1, ratios, errors)
    curve, point = plt.gcf().axes[1].lines
    assert np.isclose(point.get_ydata()[0], curve.get_ydata()[3])


@pytest.mark.parametrize(
    ("learned", "start"),
    [([2.0, 1.5, 0.9], "Up to 128 tokens"), ([0.9, 0.8, 0.7], "It helps from the first")],
)
def test_too_little_calibration_does_harm(learned, start):
    assert title(search.draw_calibration(np.array([64, 128, 256]), learned, 1.0)).startswith(start)


def test_a_file_is_drawn_to_its_last_byte():
    file = b2t.GGUFFile(models.austen())
    gguf.draw_file(file, 60_000)
    top, bottom = plt.gcf().axes
    assert top.get_xlim()[1] == models.austen().stat().st_size
    assert bottom.get_xlim()[1] == min(t.offset for t in file.tensors.values())


def test_the_mix_marks_the_sensitive_matrices():
    axes = gguf.draw_mix(4, [0, 3])
    marked = [i for i, text in enumerate(axes.texts) if text.get_text() == "6.6"]
    assert marked == [4 * row + layer for row in (2, 6) for layer in (0, 3)] and "50% of 4" in title(axes)


def test_prices_are_differences_in_pairs():
    plain = np.array([3.0, 3.4])
    nats = {"F16": plain, "Q4_K": plain + np.array([0.004, 0.006]), "Q2_K": plain + 0.2}
    gguf.draw_prices({"F16": 14.0, "Q4_K": 4.0, "Q2_K": 2.0}, nats)
    left, right = plt.gcf().axes
    assert title(left) == "Q2_K costs 20%" and title(right) == "1 formats cost at most 0.5%"
    assert right.get_xlabel().endswith("left out, 2% or more: Q2_K")
    (bar,) = [each for each in right.containers if isinstance(each, ErrorbarContainer)]
    assert np.allclose(bar[0].get_xdata(), 0.5)


def test_what_goes_into_a_matrix_is_what_the_model_computes():
    """Against another way round: the inputs times the matrix are what the layer adds."""
    model = b2t.load(models.austen())
    ids = listening.tokens_of(model, "austen_heldout.txt.xz", 300)
    heard = listening.inputs_of_down(model, ids)
    assert heard.shape == (300, 768) and len(ids) == 300 and np.isfinite(heard).all()
    again = listening.inputs_of_down(model, ids[:256])
    assert np.allclose(heard[:256], again, rtol=1e-4, atol=1e-5)
    assert len(model.transformer.layers) == 8


def test_austen_in_its_own_format_says_what_austen_says():
    model, same = b2t.load(models.austen()), requantize.austen_in("F16")
    ids = model.tokenizer.encode("It is a truth universally acknowledged")
    assert np.array_equal(model.logits(ids), same.logits(ids))
    down = requantize.austen_in("Q4_K").transformer.layers[3].ffn_down
    W = model.transformer.layers[3].ffn_down.dequantize()
    assert np.array_equal(down.raw, b2t.QuantizedMatrix.quantize(W, "Q4_K").raw)
