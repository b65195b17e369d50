"""The picture of a file's first bytes: every byte once, words as words, fields under them."""

import matplotlib.pyplot as plt
import pytest

from blocks2tokens.course import hexdump


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_every_byte_is_drawn_once():
    data = bytes(range(70))
    axes = hexdump.draw(data, {"first": 40, "second": 10}, "A title")
    assert len(axes.patches) == 70
    assert axes.get_title(loc="left") == "A title" or axes.get_title() == "A title"
    assert {"first", "second"} <= set(texts(axes))


def test_words_are_words_and_other_bytes_numbers():
    drawn = texts(hexdump.draw(b"GGUF\x03\x00J\x00", {"magic": 4}, ""))
    assert drawn[:4] == ["G", "G", "U", "F"]
    assert {"03", "4a"} <= set(drawn) and "J" not in drawn


def test_rows_are_labelled_with_their_place_in_the_file():
    drawn = texts(hexdump.draw(bytes(64), {}, "", start=1000))
    assert "1,000" in drawn and "1,032" in drawn
