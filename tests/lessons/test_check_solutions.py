"""The solution on a card is an answer: pasted into the lesson, it passes its own check."""

import pytest

from blocks2tokens.course import check
from blocks2tokens.course.setup import notebooks

FIRST = check.LESSONS.index("phase0_baseline")  # lesson 08
EXERCISES = [exercise for lesson in check.LESSONS[FIRST:] for exercise in check.BY_LESSON[lesson]]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_the_solution_is_right(exercise):
    solution = exercise.solution or exercise.engine
    verdict = exercise.judge(getattr(solution, "py_func", solution))
    assert verdict.kind == "right", verdict


def test_each_exercise_has_a_name_of_its_own():
    """A lesson asks for its exercises by name; of two with one name it could get the other's."""
    names = [exercise.name for lesson in check.LESSONS for exercise in check.BY_LESSON[lesson]]
    assert len(names) == len(set(names)) == len(check.EXERCISES)


def test_lessons_are_named_as_their_notebooks():
    stems = [path.stem for path in notebooks.find(notebooks.NOTEBOOKS)]
    assert list(check.LESSONS) == [stem.split("_", 1)[1] for stem in stems if stem != "00_start_here"]
