"""The pictures and tools of the lesson on tokens say what is so."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from blocks2tokens.course.lessons.tokens import bpe, pictures, texts

RANKS = {("e", "r"): 0, ("l", "o"): 1, ("lo", "w"): 2}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def labels(axes):
    return [text.get_text() for text in axes.texts]


def test_boxes_show_each_token_and_cannot_be_markup():
    drawn = pictures.boxes(["<b>", "x"], [5, 0], unknown=0, title="a & b").data
    assert "&lt;b&gt;" in drawn and "<small>5</small>" in drawn and "a &amp; b" in drawn
    assert drawn.count("dashed") == 1


def test_what_is_no_text_is_shown_in_hexadecimal():
    assert pictures.visible(b" a\n") == "␣a⏎" and pictures.visible(b"\xc3") == "c3"


def test_a_ladder_has_a_row_for_each_step_and_names_its_merges():
    steps = [tuple("lower"), ("l", "o", "w", "er"), ("lo", "w", "er"), ("low", "er")]
    axes = pictures.draw_ladder(steps, RANKS)
    assert len(axes.patches) == 5 + 4 + 3 + 2
    merges = [label for label in labels(axes) if "rank" in label]
    assert merges == ["e + r, rank 0", "l + o, rank 1", "lo + w, rank 2"]


def test_surprise_is_drawn_for_both_sets_of_ids():
    axes = pictures.draw_surprise([" a", " b"], {"right": np.array([1, 2]), "wrong": np.array([3, 4])})
    assert [bar.get_height() for bar in axes.patches] == [1, 2, 3, 4]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]


def test_bytes_per_token_are_those_of_the_tokenizer():
    letters = SimpleNamespace(encode=list)
    pairs = SimpleNamespace(encode=lambda text: text[::2])
    axes = pictures.draw_bytes_per_token({"a": "abcd", "é": "éé"}, {"letters": letters, "pairs": pairs})
    assert [bar.get_width() for bar in axes.patches] == [1, 2, 2, 4]


def test_mergers_are_drawn_over_the_length():
    timings = {n: {"plain": SimpleNamespace(median=n / 1000)} for n in (4, 8)}
    assert pictures.draw_mergers(timings).lines[0].get_xydata().tolist() == [[4, 4], [8, 8]]


def test_a_chain_joins_as_a_list_does():
    rng = np.random.default_rng(0)
    parts = list("abcdefghij")
    chain = bpe.Chain(parts)
    for _ in range(9):
        alive = [i for i in range(10) if chain.parts[i]]
        at = rng.integers(len(alive) - 1)
        assert chain.pair(alive[at]) == (parts[at], parts[at + 1])
        chain.join(alive[at])
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        assert chain.joined() == tuple(parts)
        left = [i for i in range(10) if chain.parts[i]]
        assert [chain.before[i] for i in left] == [-1, *left[:-1]]
    assert chain.pair(0) is None and chain.pair(-1) is None


def test_counting_counts_questions():
    counting = bpe.Counting(RANKS)
    assert ("e", "r") in counting and ("x", "y") not in counting and counting.asked == 2


def test_the_novels_are_there_and_have_no_marks():
    text = texts.novels()
    assert len(text) > 3_000_000 and "<|endoftext|>" not in text
    assert len(texts.ARTICLE_1) == 8
    compile(texts.CODE, "code", "exec")
