"""The solution on a card is an answer: pasted into the lesson, it passes its own check."""

import pytest

from blocks2tokens.course import check

FIRST = check.LESSONS.index(check.phase0_baseline)  # lesson 08
EXERCISES = [exercise for lesson in check.LESSONS[FIRST:] for exercise in lesson.EXERCISES]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_the_solution_is_right(exercise):
    solution = exercise.solution or exercise.engine
    verdict = exercise.judge(getattr(solution, "py_func", solution))
    assert verdict.kind == "right", verdict
