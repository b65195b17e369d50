"""Windows of a text: how many are measured, and what may be said of them."""

import warnings

import numpy as np
import pytest

from blocks2tokens.course import budget
from blocks2tokens.course.lessons.gguf import windows


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the measured windows move on."""
    now = [0.0]
    monkeypatch.setattr(budget, "clock", lambda: now[0])
    return now


def taking(clock, seconds):
    def measure(window):
        clock[0] += seconds
        return window

    return measure


@pytest.mark.parametrize(("each", "n"), [(1, 8), (5, 6), (6, 5), (7, 4), (16, 1), (90, 1)])
def test_windows_end_within_the_seconds(clock, capsys, each, n):
    assert windows.measured(taking(clock, each), 8, 30) == list(range(n))
    assert clock[0] <= max(30, each)
    told = capsys.readouterr().out
    assert f"{n} of 8 windows fit in 30 seconds" in told and ("too few" in told) == (n < 5)


def test_a_slow_window_ends_it(clock, capsys):
    def measure(window):
        clock[0] += 2 if window < 2 else 20
        return window

    assert windows.measured(measure, 8, 30) == [0, 1, 2]


def test_a_verdict_takes_five_windows():
    one, other = np.array([3.1, 3.3, 3.2, 3.15, 3.26]), np.array([3.0, 3.2, 3.11, 3.06, 3.15])
    assert windows.verdict(one, other) == "9.80% ± 0.37% worse: it counts"
    assert windows.verdict(other, one) == "9.80% ± 0.37% better: it counts"
    assert windows.verdict(one, one[::-1]).endswith("it does not count")
    assert windows.verdict(one[:4], other[:4]).endswith("4 windows are too few to say")


def test_one_window_has_no_uncertainty():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert windows.verdict(np.array([3.2]), np.array([3.1])).startswith("10.00% ± ? worse: 1 window is")


def test_a_guess_is_judged_by_the_uncertainty(capsys):
    guesses = {"Q4_K": 1, "Q4_0": "3 %", "Q2_K": None, "Q5_0": 1}
    found = {"Q4_K": (0.319, 0.35), "Q4_0": (0.319, 0.35), "Q2_K": (40.0, 1.0), "Q5_0": (0.3, np.nan)}
    windows.compare(guesses, found)
    assert capsys.readouterr().out.splitlines() == [
        "Q4_K   it is 0.319 ± 0.35 %; you said 1, near enough",
        "Q4_0   it is 0.319 ± 0.35 %; you said 3, not near",
        "Q2_K   it is 40 ± 1 %",
        "Q5_0   it is 0.3 ± ? %; you said 1, not near",
        "1 of 3 guesses near enough",
    ]
