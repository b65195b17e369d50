"""The pictures of the lesson on attention, and what it times beside a layer's products."""

import timeit

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

import blocks2tokens as b2t
from blocks2tokens.course.bench import Timing
from blocks2tokens.course.lessons.attention import lengths, pictures
from blocks2tokens.model.attention import attend


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def austen(austen_path):
    return b2t.load(austen_path)


def test_habits_name_their_heads():
    rng = np.random.default_rng(0)
    seen = [(rng.standard_normal((3, 9, 8)), rng.standard_normal((3, 3, 8)), None)] * 30
    pictures.draw_habits(seen, ["a", "b", "c"])
    titles = [axes.get_title("left") + axes.get_title() for axes in plt.gcf().axes]
    assert titles == [f"layer {layer}, head {head}" for layer, head in pictures.HABITS]


def test_by_hand_every_number_stands_in_its_square():
    q, k, v = np.array([2, 0]), np.array([[0, 2], [1, 3]]), np.array([[0, 8], [4, 0]])
    pictures.draw_by_hand(q, k, np.array([0, 2]), np.array([0.1, 0.9]), v, np.array([3.6, 0.8]))
    numbers = [[text.get_text() for text in axes.texts] for axes in plt.gcf().axes]
    found = ["3.60", "0.80"]
    assert numbers == [["2", "0"], list("0213"), ["0", "2"], ["0.10", "0.90"], list("0840"), found]


def test_outgrowth_says_at_which_length():
    counts = {"one": (10, 1000, 4096), "two": (20, 1000, 4096), "three": (40, 1000, 4096)}
    axes = pictures.draw_outgrowth(counts)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["one: 100 tokens", "two: 50 tokens", "three: 25 tokens"]


def test_layouts_count_the_lines_that_are_read_and_written():
    def places(layout, heads, tokens, n_kv_heads, capacity, head_dim):
        index = np.ix_(heads, tokens, np.arange(head_dim))
        return ((index[1] * n_kv_heads + index[0]) * head_dim + index[2]).ravel()

    pictures.draw_layouts(places, ("token", "again"))
    titles = [axes.get_title("left") + axes.get_title() for axes in plt.gcf().axes]
    assert titles == [f"{layout}: reads 5, writes 2 lines" for layout in ("token", "again")]


def test_lengths_are_drawn_beside_the_products():
    times = {n: {"a": Timing(0, n / 1e6, 0, 0), "matrices": Timing(0, 5e-6, 0, 0)} for n in (128, 256)}
    for found in times.values():
        found["b"] = found["c"] = found["a"]
    axes = pictures.draw_lengths(times, equal=200)
    assert np.allclose(axes.lines[0].get_xydata(), [[128, 128], [256, 256]])
    assert np.allclose(axes.lines[3].get_ydata(), 5)


def test_a_head_is_drawn_with_what_its_last_token_looks_at():
    weights = np.array([[1, 0], [0.25, 0.75]])
    pictures.draw_head(weights, ["a", "b"], "t")
    assert [bar.get_width() for bar in plt.gcf().axes[1].patches] == [0.25, 0.75]


def test_heads_attend_as_the_definition_does():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((1, 6, 8), (2, 5, 8), (2, 5, 8)))
    assert np.allclose(lengths.in_parts(q, k, v), attend(q, k, v), atol=1e-5)


def test_what_is_timed_as_the_engines_is_compiled_as_a_whole():
    """Called from Python, head by head, it took twenty times as long."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(s).astype(np.float32) for s in ((1, 9, 64), (3, 128, 64), (3, 128, 64)))
    best = {}
    for way in (lengths.in_parts, attend):
        calls = timeit.repeat(lambda way=way: way(q, k, v), number=1, repeat=30)
        best[way] = min(calls)
    assert best[lengths.in_parts] < 2 * best[attend]


def test_each_way_is_timed_at_each_length_on_other_numbers(austen):
    seen = []

    def way(q, k, v):
        seen.append((q.shape, k.shape, float(k[0, 0, 0])))

    times = lengths.measure(austen, {"way": way}, [2, 4], repeats=2)
    assert list(times) == [2, 4] and set(times[2]) == {"way", "matrices"}
    assert {k for _, k, _ in seen} == {(4, 2, 64), (4, 4, 64)}
    assert len({value for *_, value in seen}) == len(seen)
