"""The pictures of lesson 33 show what they are given; the challenges can be taken up."""

import re
import shlex
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import blocks2tokens as b2t
from blocks2tokens.command_line import COMMANDS, arguments
from blocks2tokens.course import check, plot, progress
from blocks2tokens.course.capstone import __main__ as command
from blocks2tokens.course.capstone import pieces
from blocks2tokens.course.lessons.capstone import challenges, pictures
from blocks2tokens.course.lessons.quantizing_well import leaderboard

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def words(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_every_piece_has_its_box_and_looks_as_whose_it_is():
    assert sorted(sum(pictures.STAGES.values(), ())) == sorted(pieces.OF_LESSON)
    assert {name for name, nr in pieces.OF_LESSON.items() if nr == "33"} == pictures.NEW
    axes = pictures.draw_pieces({"bpe": pieces.WRITTEN, "align": pieces.PASSED}, "Two are yours")
    assert set(pieces.OF_LESSON) < set(words(axes)) and plot.alt_text(axes.figure) == "Two are yours"
    hatched = [box for box in axes.patches if box.get_hatch()]
    assert len(hatched) == 1 and len(axes.patches) == len(pieces.OF_LESSON)


def test_every_lesson_has_its_box_filled_by_what_is_done():
    states = {lesson: {e.name: progress.OPEN for e in check.BY_LESSON[lesson]} for lesson in check.LESSONS}
    states["q4_k"] = dict.fromkeys(states["q4_k"], progress.DONE)
    axes = pictures.draw_lessons(states)
    n, every = len(states["q4_k"]), sum(map(len, states.values()))
    assert plot.alt_text(axes.figure) == f"{n} of {every} exercises are yours"
    assert f"03 · {n}/{n}" in words(axes) and len(axes.patches) == 2 * len(states)
    assert sum(box.get_width() == pytest.approx(0.92) for box in axes.patches) == len(states) + 1


def test_costs_are_written_beside_their_bars():
    figures = {"read": {"starter": 4e6, "finished": 2e6}, "held": {"starter": 1e3, "finished": 10}}
    panels = pictures.draw_costs(figures, "Half of it")
    assert [words(axes) for axes in panels] == [["4 MB", "2 MB"], ["1 kB", "10 B"]]


def test_there_are_six_challenges_and_each_says_all():
    assert len(challenges.CHALLENGES) == 6
    assert all(all(vars(one).values()) for one in challenges.CHALLENGES)
    shown = challenges.table()
    for one in challenges.CHALLENGES:
        assert one.name in repr(shown) and one.name in shown._repr_html_()


@pytest.mark.parametrize("challenge", challenges.CHALLENGES, ids=lambda one: one.name)
def test_what_judges_a_challenge_is_there(challenge):
    first, *rest = shlex.split(challenge.judged) if " " in challenge.judged else [challenge.judged]
    if first == "python" and rest[1] == "pytest":
        assert (ROOT / rest[2]).is_file()
    elif first == "python":
        assert rest[1] == "blocks2tokens.course.capstone" and command._parser().parse_args(rest[2:])
    elif first == "b2t":
        assert arguments.parse(rest, COMMANDS)
    else:
        name, _, attribute = re.match(r"[\w.]+", challenge.judged)[0].partition(".")
        assert callable(getattr({"b2t": b2t, "leaderboard": leaderboard}[name], attribute))
