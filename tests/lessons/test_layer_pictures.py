"""The pictures and counts of the lesson on layers say what is so."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.course import models
from blocks2tokens.course.lessons.layers import costs, pictures
from blocks2tokens.model import layers, rope

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(("position", "round_once"), [(6, 0), (7, 1), (100, 10), (46_000, 31), (48_000, 32)])
def test_the_hands_that_have_gone_round_are_counted(position, round_once):
    pictures.draw_hands(position)
    assert f"{round_once} of 32 pairs" in plt.gcf().get_suptitle()


def test_the_hands_stand_where_the_rotation_puts_them():
    pictures.draw_hands(position=5, head_dim=16, theta=100.0)
    cos, sin = rope.angles(np.array([5]), rope.frequencies(16, 100.0))
    hands = [dial.lines[-1].get_xydata()[1] for dial in plt.gcf().axes]
    assert np.allclose(hands, np.stack([cos[0], sin[0]], axis=1))


@pytest.mark.parametrize(("theta", "context"), [(1e4, 512), (1e5, 8192)])
def test_wavelengths_are_compared_with_the_context(theta, context):
    axes = pictures.draw_wavelengths({"a model": (64, theta, context)})
    turns = context * rope.frequencies(64, theta) / (2 * np.pi)
    assert axes.get_legend().get_texts()[0].get_text().startswith(f"a model: {np.sum(turns >= 1)} of 32")


def test_positions_are_binned_by_doubling():
    axes = pictures.draw_by_position({"its own position": np.arange(11.0)})
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2–3", "4–7", "8–10"]
    assert axes.lines[0].get_ydata().tolist() == [0, 1, 2.5, 5.5, 9]


def test_the_stream_has_a_place_for_each_norm():
    axes = pictures.draw_stream([1, 2, 3, 4, 5], [1] * 5)
    places = ["attn 0", "ffn 0", "attn 1", "ffn 1", "output"]
    assert [label.get_text() for label in axes.get_xticklabels()] == places


def test_the_growth_of_the_first_layer_is_told_apart():
    axes = pictures.draw_stream([0.1, 8, 12, 20, 60], [1] * 5)
    titles = axes.get_title("left") + axes.get_title()
    assert titles == "The stream grows 120 × in layer 0, 5 × in the others"


def test_norms_and_gate_can_be_drawn():
    pictures.draw_norms(np.random.default_rng(0).standard_normal((5, 2)))
    circle = plt.gcf().axes[0].lines[-1].get_xydata()
    assert np.allclose((circle**2).mean(axis=1), 1)
    pictures.draw_gate()
    silu = plt.gcf().axes[0].lines[0].get_xydata()
    assert np.allclose(silu[:, 1], silu[:, 0] / (1 + np.exp(-silu[:, 0])), atol=1e-6)


def test_texts_stand_side_by_side_and_cannot_be_markup():
    table = pictures.side_by_side("a & b", {"right": " one\n\n two", "wrong": "<script>"}).data
    assert "a &amp; b" in table and ">one\ntwo<" in table and "&lt;script&gt;" in table


def test_the_seven_products_are_those_of_a_real_layer():
    model = b2t.load(models.austen())
    first = model.transformer.layers[0]
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert costs.products(model.config) == [getattr(first, name).shape for name in names]


def test_each_part_of_a_layer_is_measured():
    shape = costs.Shape(dim=256, n_heads=2, n_kv_heads=1, head_dim=128, ffn_dim=512)
    seen = {}

    def norm(x, weight, eps):
        seen["norm"] = x.shape
        return layers.rms_norm(x, weight, eps)

    def rotate(x, cos, sin):
        seen["rotate"] = x.shape
        return rope.rotate_adjacent(x, cos, sin)

    def gated(gate, up):
        seen["gated"] = gate.shape
        return layers.swiglu(gate, up)

    seconds = costs.measure(shape, 3, norm, rotate, gated, repeats=1)
    assert list(seconds) == ["RMSNorm, twice", "RoPE", "SwiGLU", "seven products"]
    assert min(seconds.values()) > 0
    assert seen == {"norm": (3, 256), "rotate": (3, 3, 128), "gated": (3, 512)}


def test_damage_draws_what_is_a_number_and_prints_the_rest(capsys):
    axes = pictures.draw_damage(3.0, {"RoPE": 5.0, "norms": float("nan")}, blind=7.6)
    assert [bar.get_width() for bar in axes.patches] == [3, 5, 7.6]
    assert capsys.readouterr().out == "without norms: nan\n"


def test_a_scaled_hand_keeps_its_speed_if_it_is_fast():
    axes = pictures.draw_scaling()
    llama, linear, yarn = (line.get_ydata() for line in axes.lines)
    assert np.allclose(linear, 1 / 8)
    for kept in (llama, yarn):
        assert kept[0] == 1 and np.isclose(kept[-1], 1 / 8) and np.all(np.diff(kept) <= 1e-9)


def test_gates_that_are_nearly_shut_are_counted():
    axes = pictures.draw_gates(np.array([0.0, 0.1, 0.2, 5.0]), shut=0.3)
    titles = axes.get_title("left") + axes.get_title()
    assert titles.startswith("75%") and sum(bar.get_height() for bar in axes.patches[:-1]) == 100


def test_the_panel_has_a_slider_for_each_setting_of_the_hands():
    row, _ = pictures.hands_panel().children
    assert [slider.description for slider in row.children] == ["position", "head_dim", "theta"]


def test_shares_are_of_the_products(monkeypatch):
    seconds = {"RMSNorm, twice": 1.0, "RoPE": 2.0, "SwiGLU": 3.0, "seven products": 4.0}
    monkeypatch.setattr(costs, "measure", lambda shape, M, *functions: dict(seconds))
    found = costs.shares("a shape", {"NumPy": (), "compiled": ()})
    assert list(found.values()) == [25, 50, 75] * 2 and list(found)[3] == "RMSNorm, twice, compiled"
