"""The pictures of lesson 28 show what they are given."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from blocks2tokens.course import plot, rows_cost
from blocks2tokens.course.bench import Timing
from blocks2tokens.course.lessons.speculation import pictures
from blocks2tokens.course.lessons.speculation.passes import Pass
from blocks2tokens.course.lessons.speculation.pictures import CORRECTED, GUESSED, OWN


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


PASSES = [Pass(0, (), 0), Pass(1, (5, 6), 2), Pass(4, (9,), 0), Pass(5, (7, 8), 1)]


def test_each_token_is_of_one_kind():
    expected = [OWN, GUESSED, GUESSED, OWN, CORRECTED, GUESSED, CORRECTED]
    assert pictures.kinds(PASSES, 7) == expected
    assert pictures.kinds(PASSES, 6) == expected[:6], "the text may end among the guesses"


def test_a_text_is_all_its_tokens_in_lines():
    pieces = ["one", " two", "\n", " three", " four", "five"]
    assert pictures.lines_of(pieces, columns=12) == [[0, 1, 2], [3, 4], [5]]
    axes = pictures.draw_passes(pieces, PASSES, "6 tokens in 4 passes")
    assert texts(plt.gcf()) == ["one", " two", "⏎", " three", " four", "five"]
    assert len(axes.patches) == 6 and plot.alt_text(plt.gcf()) == "6 tokens in 4 passes"


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["b", "x", "d"], "One pass, 3 rows: 1 guesses right, 2 tokens of the text"),
        (["b", "c", "d"], "One pass, 3 rows: 2 guesses right, 3 tokens of the text"),
    ],
)
def test_a_pass_by_hand_parts_at_the_first_wrong_guess(chosen, said):
    axes = pictures.draw_judged(["z", "a"], ["b", "c"], chosen)
    assert plot.alt_text(axes.figure) == said
    assert texts(plt.gcf()) == ["a", "b", chosen[0], "b", "c", chosen[1], "c", "–", chosen[2]]


def test_draws_and_gains_have_their_values():
    axes = pictures.draw_texts({"quoting": (1.5, 2.0, 2.5), "a story": (0.9, 1.0, 1.1)}, "Faster")
    assert texts(plt.gcf()) == ["2.00×", "1.00×"] and [bar.get_width() for bar in axes.patches] == [2.0, 1.0]
    axes = pictures.draw_draws(np.array([0.5, 0.5]), {"rule": np.array([30, 10])}, "Drawn")
    assert [bar.get_height() for bar in axes.patches] == [0.75, 0.25]


def test_the_draft_s_picture_has_both_lines():
    pictures.draw_draft([0.7, 0.8], {1: (1.0, 1.1, 1.2), 2: (1.1, 1.2, 1.3)}, {1: 1.2, 2: 1.3}, "At best 1.2")
    left, right = plt.gcf().axes
    assert [bar.get_height() for bar in left.patches] == [0.7, 0.8]
    assert [list(line.get_ydata()) for line in right.lines[:2]] == [[1.2, 1.3], [1.1, 1.2]]


@pytest.mark.parametrize(("rate", "said"), [(0.9, "k = 3 is best"), (0.0, "do not guess")])
def test_the_gain_names_the_best_k(rate, said):
    axes = pictures.draw_gain([1.0, 1.0, 1.0, 1.0, 9.0], rate, 0.0)
    assert said in plot.alt_text(axes.figure)


def test_c_is_drawn_in_passes_of_one_row():
    timings = {n: Timing(1.0, s, 0.9 * s, 1.2 * s) for n, s in {1: 2.0, 4: 3.0}.items()}
    axes = rows_cost.draw({"a model": rows_cost.RowsCost(timings)}, "c(k)")
    (drawn,) = axes.containers
    line, _, (bars,) = drawn.lines
    assert line.get_ydata().tolist() == [1.0, 1.5]
    assert np.allclose(np.diff([s[:, 1] for s in bars.get_segments()], axis=1).ravel(), [0.3, 0.45])
