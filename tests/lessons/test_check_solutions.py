"""The solution on a card is an answer: pasted into the lesson, it passes its own check."""

import ast
import contextlib
import inspect
import re
import textwrap

import pytest

from blocks2tokens.course import check
from blocks2tokens.course.setup import notebooks

EXERCISES = list(check.EXERCISES.values())
IN_THE_LESSONS_WORDS = [exercise for exercise in EXERCISES if exercise.twin is not None]


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


# Pasting


def shown(exercise):
    """Return the text of the solution, as the card shows it."""
    return textwrap.dedent(inspect.getsource(exercise.solution))


def statements(cell):
    """Return the statements of a code cell, without IPython's magics."""
    lines = ["pass" if re.match(r"[%!]", line) else line for line in cell.source.splitlines()]
    return ast.parse("\n".join(lines)).body


def is_cheap(statement):
    """Is it what gives names to a lesson and costs nothing: an import, a function, a constant?"""
    if isinstance(statement, ast.Assign):
        costly = ast.Call | ast.ListComp | ast.DictComp | ast.BinOp
        return not any(isinstance(node, costly) for node in ast.walk(statement.value))
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef)


def run(statement, names):
    with contextlib.suppress(NameError):  # what it needs comes from a statement that costs something
        exec(compile(ast.Module([statement], []), "<a cell>", "exec"), names)


def exercises_of(path):
    """Yield (exercise, name of its function, names that the cells above give) for each of a notebook."""
    names = {}
    for cell in (c for c in notebooks.read(path).cells if c.cell_type == "code"):
        asked = re.search(r"^(\w+) = check\.(\w+)\(\1\)$", cell.source, re.MULTILINE)
        for statement in statements(cell):
            is_stub = asked and isinstance(statement, ast.FunctionDef) and statement.name == asked[1]
            if is_cheap(statement) and not is_stub:
                run(statement, names)
        if asked:
            exercise = check.EXERCISES[asked[2]]
            yield exercise, asked[1], dict(names)
            names[asked[1]] = exercise.engine  # the stub as it was


def pasted():
    for path in notebooks.find(notebooks.NOTEBOOKS):
        for exercise, name, names in exercises_of(path):
            if exercise.twin is not None:
                yield pytest.param(exercise, name, names, id=exercise.name)


PASTED = list(pasted())


@pytest.mark.parametrize(("exercise", "name", "names"), PASTED)
def test_the_solution_pasted_into_its_cell_passes(exercise, name, names):
    exec(shown(exercise), names)
    verdict = exercise.judge(names[name])
    assert verdict.kind == "right", verdict
    assert verdict.pattern is None, "its answers have other types than the engine's"


def test_the_lessons_on_formats_have_solutions_in_their_own_words():
    first = [e for lesson in check.LESSONS[:7] for e in check.BY_LESSON[lesson]]
    assert {e.name for e in first} <= {p.values[0].name for p in PASTED}


def squeezed(text):
    return re.sub(r"[\s`]", "", text)


@pytest.mark.parametrize("exercise", IN_THE_LESSONS_WORDS, ids=lambda exercise: exercise.name)
def test_the_last_hint_leaves_something_to_do(exercise):
    """No hint says what a solution returns."""
    returned = [
        squeezed(ast.unparse(node.value))
        for node in ast.walk(ast.parse(shown(exercise)))
        if isinstance(node, ast.Return) and not isinstance(node.value, ast.Name | ast.Tuple)
    ]
    for hint in exercise.hints:
        assert not any(answer in squeezed(hint) for answer in returned)


@pytest.mark.parametrize("exercise", IN_THE_LESSONS_WORDS, ids=lambda exercise: exercise.name)
def test_the_card_says_where_the_engine_does_it(exercise):
    card = exercise.judge(lambda *arguments: ...)._repr_html_()
    module = exercise.twin.__module__
    assert module.startswith("blocks2tokens.") and not module.startswith("blocks2tokens.course")
    assert f"And in the engine: <code>{module}." in card
