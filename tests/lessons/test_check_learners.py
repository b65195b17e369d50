"""What learners write, lesson by lesson: right answers in their style pass, and each mistake is named.

A test_check_<lesson>.py has two tables, and tests of what is its lesson's own:

    RIGHT   {exercise: [functions]}, right in other words than the engine's
    WRONG   [(exercise, function, words)]: the words that the message on this function must have
"""

from importlib import import_module

import pytest

from blocks2tokens.course import check

MODULES = {lesson: import_module(f"test_check_{lesson}") for lesson in check.LESSONS}
TABLES = {lesson: module for lesson, module in MODULES.items() if hasattr(module, "WRONG")}
RIGHT = [(name, f) for module in TABLES.values() for name, right in module.RIGHT.items() for f in right]
WRONG = [case for module in TABLES.values() for case in module.WRONG]
EXERCISES = [exercise for lesson in TABLES for exercise in check.BY_LESSON[lesson]]


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_a_right_answer_passes(name, function):
    verdict = check.EXERCISES[name].judge(function)
    assert verdict.kind == "right", verdict


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize(("name", "function", "words"), WRONG, ids=[f"{n}-{words}" for n, _, words in WRONG])
def test_a_mistake_is_named(name, function, words):
    verdict = check.EXERCISES[name].judge(function)
    assert verdict.kind == "wrong" and words in verdict.message.split("\n")[0], verdict


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_each_known_mistake_has_its_mutant(exercise):
    """No message is left that no test expects."""
    assert any(name == exercise.name for name, _ in RIGHT)
    expected = [words for name, _, words in WRONG if name == exercise.name]
    for mistake in exercise.mistakes:
        assert any(words in mistake.message for words in expected), mistake.message
