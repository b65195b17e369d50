"""Stops: against the text cut as a whole, however it comes in pieces."""

import random

import pytest

from blocks2tokens.stops import cut_at_stops


def cut(text: str, stops) -> str:
    """The definition: the text up to where the first stop begins."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def in_pieces(text: str, rng) -> list[str]:
    cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(6)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def test_any_stops_in_any_pieces():
    rng = random.Random(1)
    for _ in range(20_000):
        text = "".join(rng.choices("ab", k=rng.randrange(12)))
        stops = ["".join(rng.choices("ab", k=rng.randrange(1, 6))) for _ in range(rng.randrange(4))]
        pieces = in_pieces(text, rng)
        assert "".join(cut_at_stops(pieces, stops)) == cut(text, stops), (pieces, stops)


@pytest.mark.parametrize(
    ("pieces", "stops", "shown"),
    [
        (["Fine", ".\n", "Yo", "u: and"], ["\nYou:", "###"], ["Fine", "."]),
        (["one\n", "\n", "two"], ["\n\n\n"], ["one", "\n\ntwo"]),
        (["a", "b", "c", "d"], ["bc", "abcd"], []),
        (["a", "b", "c", "x"], ["bc", "abcd"], ["a"]),
        (["a", "b", "c"], ["bc", "abcd"], ["a"]),
        (["ab", "", "ac"], [], ["ab", "ac"]),
        (["ENDING"], ["END"], []),
        (["EN", "D"], "END", []),
        (["Grü", "ße", "🙂", "."], ["🙂"], ["Grü", "ße"]),
    ],
)
def test_what_is_shown_and_when(pieces, stops, shown):
    assert list(cut_at_stops(pieces, stops)) == shown


def test_only_what_may_begin_a_stop_is_held_back():
    pieces = iter(["ab#", "#c", "d"])
    shown = cut_at_stops(pieces, ["###"])
    assert next(shown) == "ab"
    assert next(shown) == "##c"


def test_no_piece_behind_a_stop_is_taken():
    pieces = iter(["a", "STOP", "b"])
    assert list(cut_at_stops(pieces, ["STOP"])) == ["a"]
    assert list(pieces) == ["b"]


@pytest.mark.parametrize("stops", ["", ["a", ""], [1], 3, None, [b"a"]])
def test_what_is_no_stop_is_refused_before_any_piece_is_taken(stops):
    pieces = iter(["a"])
    with pytest.raises(ValueError, match="stop: expected strings"):
        cut_at_stops(pieces, stops)
    assert list(pieces) == ["a"]
