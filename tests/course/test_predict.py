"""Predictions beside what was measured."""

import numpy as np
import pytest

from blocks2tokens.course import predict


def said(capsys, *arguments):
    predict.compare(*arguments)
    return capsys.readouterr().out.splitlines()


def test_who_guessed_nothing_is_told_what_came_out_and_no_more(capsys):
    assert said(
        capsys, {"by weight": None, "by block": ...}, {"by weight": 2.131, "by block": 40.0}, "×"
    ) == [
        "by weight   it is 2.13 ×",
        "by block    it is 40 ×",
    ]


def test_guesses_are_compared_and_counted(capsys):
    assert said(capsys, {"a": 3, "bb": 10}, {"a": 4.1, "bb": 4.1}) == [
        "a    it is 4.1; you said 3, near enough",
        "bb   it is 4.1; you said 10, not near",
        "1 of 2 guesses near enough",
    ]


@pytest.mark.parametrize(
    ("guess", "value", "is_near"),
    [
        (3, 4.5, True),
        (3, 4.6, False),
        (0, 0, True),
        (0, 1, False),
        (-2, 2, False),
        (-2, -2.5, True),
        ("Q4_K", "q4_k", True),
        ("100", 100.0, True),
        ("90 %", 100, True),
        ("1.2", "1.15", True),
        ("1,200", 1000, True),
        ("-2.5", -2, True),
        ("10", 100, False),
        ("a hundred", 100, False),
        (["a", "b"], ["a", "b"], True),
        (["b", "a"], ["a", "b"], False),
        (True, True, True),
        ("three", 3, False),
        (np.float32(2), 2.0, True),
        (float("nan"), 1.0, False),
        (object(), 1.0, False),
    ],
)
def test_near_enough(guess, value, is_near):
    assert predict.near(guess, value) is is_near


def test_numbers_are_written_without_exponents():
    assert [predict.written(x) for x in (1520.4, 0.00123456, 3.0, 12.345, float("inf"), "x")] == [
        "1,520",
        "0.00123",
        "3",
        "12.3",
        "inf",
        "x",
    ]


def test_a_number_in_quotes_is_a_number(capsys):
    assert said(capsys, {"a": "100", "b": "1.2 ms"}, {"a": 100.0, "b": 1.15}, "ms") == [
        "a   it is 100 ms; you said 100, near enough",
        "b   it is 1.15 ms; you said 1.2, near enough",
        "2 of 2 guesses near enough",
    ]
