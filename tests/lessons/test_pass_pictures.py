"""The pictures of the full transformer say what the model's file says."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.course.bench import size
from blocks2tokens.course.lessons.full_transformer import parts, pictures
from blocks2tokens.model import forward, layers


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def texts():
    return [text.get_text() for axes in plt.gcf().axes for text in axes.texts]


@pytest.fixture(params=[True, False], ids=["tied", "own output"])
def model(request, tmp_path):
    formats = {"attn_k": "Q8_0", "ffn_down": "Q4_0", "token_embd": "F16"}
    made = small_model(tied=request.param, formats=formats, n_layers=3)
    return b2t.load(made.write(tmp_path / "model.gguf"))


def test_every_matrix_stands_in_the_pass_with_shape_format_and_bytes(model):
    pictures.draw_pass(model, T=7)
    found, t = texts(), model.transformer
    matrices = {name: w for name, w in vars(t.layers[0]).items() if isinstance(w, b2t.QuantizedMatrix)}
    tied = " (token_embd again)" if t.output is t.token_embd else ""
    for name, w in (matrices | {"token_embd": t.token_embd, "output" + tied: t.output}).items():
        line = f"{w.shape[0]:,} × {w.shape[1]:,}  {w.format.name}  {size(w.nbytes)}"
        assert line in found and found[found.index(name) + 1] == line


def test_the_pass_names_the_arrays_between_the_boxes(model):
    pictures.draw_pass(model, T=7)
    found = "\n".join(texts())
    for part in ("ids [7]", "x [7, 64]", "q [7, 4, 16]", "k [7, 2, 16]", "v [7, 2, 16]", "[7, 96]"):
        assert part in found
    assert "logits [7, 320]" in found and "one of 3 layers" in found


@pytest.mark.parametrize(
    ("T", "said"), [(1, "1 id becomes 1 × 320 logits"), (2, "2 ids become 2 × 320 logits")]
)
def test_the_title_counts_the_ids(model, T, said):
    pictures.draw_pass(model, T)
    axes = plt.gca()
    assert (axes.get_title(loc="left") or axes.get_title()).endswith(f": {said}")


def test_agreement_draws_every_pair_of_numbers():
    rng = np.random.default_rng(0)
    pairs = {name: tuple(-rng.random((2, 4, 20))) for name in ("a", "b")}
    pictures.draw_agreement(pairs, ("theirs", "ours"))
    for axes, (name, (theirs, ours)) in zip(plt.gcf().axes, pairs.items(), strict=True):
        points = axes.lines[-1]
        assert name in (axes.get_title(loc) for loc in ("left", "center"))
        assert np.array_equal(points.get_xdata(), theirs.ravel())
        assert np.array_equal(points.get_ydata(), ours.ravel())


def test_the_lens_is_bold_where_the_final_answer_stands():
    tokens = [["a", " b"], [" c", " b"], [" c", "\n"]]
    axes = pictures.draw_lens(["x", " y"], tokens, np.full((3, 2), 0.5))
    cells = {text.get_position(): text for text in axes.texts}
    bold = {place for place, text in cells.items() if text.get_weight() == "bold"}
    assert bold == {(0, 1), (0, 2), (1, 2)}
    assert cells[0, 1].get_text() == "␣c\n0.50" and cells[1, 2].get_text() == "↵\n0.50"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "␣y"]


def test_choices_draw_both_distributions():
    axes = plt.subplots()[1]
    before, after = np.array([0.5, 0.3, 0.2]), np.array([0.7, 0.3, 0])
    pictures.draw_choices(axes, [" a", "b", "c"], before, after)
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [*before, *after]


def test_settings_say_how_many_tokens_they_leave():
    before = np.array([0.4, 0.3, 0.2, 0.1])
    after = {"k 1": np.array([1, 0, 0, 0]), "p 0.6": np.array([0.6, 0.4, 0, 0])}
    pictures.draw_settings(["a", "b"], before, after, np.array([0, 1]))
    titles = [axes.get_title("left") + axes.get_title() for axes in plt.gcf().axes]
    assert titles == ["k 1: 1 tokens left", "p 0.6: 2 tokens left"]
    assert [bar.get_height() for bar in plt.gcf().axes[1].patches] == [0.4, 0.3, 0.6, 0.4]


def test_drift_is_drawn_for_each_way_to_round():
    axes = pictures.draw_drift({"exact": np.array([0.0, 1e-6]), "8 bits": np.array([0.01, 0.02])})
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1e-9, 1e-6], [0.01, 0.02]]


def test_the_parts_are_those_of_the_plain_pass(austen_path):
    """With a norm around them, and the sums: a layer of forward.py, with and without a cache."""
    austen = b2t.load(austen_path)
    ids, eps = [5, 9, 300, 17], austen.config.norm_eps
    seen = []

    def noting(x, weight, eps):
        seen.append(x)
        return layers.rms_norm(x, weight, eps)

    forward.forward(austen, ids, norm=noting)
    w = forward.decoded(austen)[0][0]
    for cache in (None, austen.transformer.new_cache(8)):
        attention = parts.attention_of(austen, cache)
        x = seen[0] + attention(layers.rms_norm(seen[0], w["attn_norm"], eps), w)
        np.testing.assert_allclose(x, seen[1], rtol=1e-4, atol=1e-2 if cache else 1e-4)
        x = x + parts.feed_forward(layers.rms_norm(x, w["ffn_norm"], eps), w)
        np.testing.assert_allclose(x, seen[2], rtol=1e-4, atol=1e-2 if cache else 1e-4)


def test_a_nudge_is_given_to_the_first_norm_alone():
    def streams(model, ids, norm, gated):
        x, ones = np.ones((1, 4), np.float32), np.ones(4, np.float32)
        return [norm(x, ones, 0), norm(x, ones, 0), gated(x, x)]

    first, second, gated = parts.nudged_streams(streams, None, (), lambda x: 2 * x, 0.5)
    assert np.allclose(first, 3) and np.allclose(second, 2)
    assert np.allclose(gated, 2 * layers.swiglu(np.float32(1), np.float32(1)))
