"""The solution on a card is an answer: pasted into its cell in the place of the stub, it passes.

Of the cells above, only those statements run on which the solution depends: a lesson's measurements take
minutes, and a solution needs none of them.
"""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from pasting import code_cells, needed, paste, shown, used

from blocks2tokens.course import check
from blocks2tokens.course.check import exercise
from blocks2tokens.course.setup import notebooks

LESSONS = [path for path in notebooks.find(notebooks.NOTEBOOKS) if path.stem != "00_start_here"]
ASKED = re.compile(r"\bcheck\.(\w+)\(\s*(\w+)\s*\)")
CELLS = {
    exercise: (path, place, function)
    for path in LESSONS
    for place, source in enumerate(code_cells(path))
    for exercise, function in ASKED.findall(source)
    if exercise in check.EXERCISES
}
HAVE_A_TWIN = [exercise for exercise in check.EXERCISES.values() if exercise.twin is not None]
HAVE_NONE = [exercise for exercise in check.EXERCISES.values() if exercise.twin is None]


def test_each_exercise_has_a_name_and_a_cell_of_its_own():
    """A lesson asks for its exercises by name; of two with one name it could get the other's."""
    names = [exercise.name for lesson in check.LESSONS for exercise in check.BY_LESSON[lesson]]
    assert len(names) == len(set(names)) == len(check.EXERCISES)
    assert set(CELLS) == set(names)


def test_lessons_are_named_as_their_notebooks():
    assert list(check.LESSONS) == [path.stem.split("_", 1)[1] for path in LESSONS]


def verdict_on_pasted(name, monkeypatch):
    """Paste the solution of an exercise under the cells above it; return what its check says."""
    path, place, function = CELLS[name]
    cells = code_cells(path)
    pasted = paste(cells[place], shown(check.EXERCISES[name]), function)
    verdicts = []
    monkeypatch.setattr("blocks2tokens.course.check.exercise.display", verdicts.append)
    namespace = {}
    for source in needed(cells[:place], used(pasted)):
        exec(source, namespace)
    exec(pasted, namespace)
    return verdicts[-1]


@pytest.mark.parametrize("name", CELLS)
def test_a_pasted_solution_is_right(name, monkeypatch):
    verdict = verdict_on_pasted(name, monkeypatch)
    assert verdict.name == name and verdict.kind == "right", verdict
    assert verdict.pattern is None, "its answers have other types than the engine's"


def test_a_pasted_solution_that_needs_a_name_from_elsewhere_is_found(monkeypatch):
    monkeypatch.setattr(f"{__name__}.shown", lambda _: "def gflops(*sizes):\n    return roofline.of(sizes)\n")
    assert verdict_on_pasted("gflops", monkeypatch).kind == "wrong"


# What stands beside a solution


def test_the_lessons_on_formats_have_solutions_in_their_own_words():
    assert all(exercise.twin for lesson in check.LESSONS[:7] for exercise in check.BY_LESSON[lesson])


@pytest.mark.parametrize("exercise", HAVE_A_TWIN, ids=lambda exercise: exercise.name)
def test_the_card_says_where_the_engine_does_it(exercise):
    card = exercise.judge(lambda *arguments: ...)._repr_html_()
    module = exercise.twin.__module__
    assert module.startswith("blocks2tokens.") and not module.startswith("blocks2tokens.course")
    assert f"And in the engine: <code>{module}." in card


def test_what_a_solution_says_of_the_engine_is_there():
    package, told = Path(check.__file__).parents[2], 0
    for name in CELLS:
        for function, path in re.findall(
            r"# and in the engine: (\w+) in ([\w/.]+\.py)", shown(check.EXERCISES[name])
        ):
            assert f"def {function}(" in (package / path).read_text(encoding="utf-8"), name
            told += 1
    assert told >= 20


@pytest.mark.parametrize("exercise", HAVE_A_TWIN, ids=lambda exercise: exercise.name)
def test_no_hint_says_what_the_solution_returns(exercise):
    returned = [
        squeezed(ast.unparse(node.value))
        for node in ast.walk(ast.parse(shown(exercise)))
        if isinstance(node, ast.Return) and not isinstance(node.value, ast.Name | ast.Tuple)
    ]
    for hint in exercise.hints:
        assert not any(answer in squeezed(hint) for answer in returned)


def squeezed(text: str) -> str:
    return re.sub(r"[\s`]", "", text)


@pytest.mark.parametrize("exercise", HAVE_NONE, ids=lambda exercise: exercise.name)
def test_the_last_hint_is_not_the_solution(exercise):
    """A hint may hold a piece of a solution, not most of it: that is folded one step further in."""
    body = [node for node in ast.parse(shown(exercise)).body[0].body if not is_docstring(node)]
    solution, hint = words("\n".join(map(ast.unparse, body))), words(exercise.hints[-1])
    assert (solution & hint).total() < 0.6 * solution.total(), exercise.hints[-1]


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def words(source: str) -> Counter:
    """Return the names, numbers and operators of code, and how often each comes."""
    return Counter(word for word in re.findall(r"\w+|[^\w\s(),.:;]+", source) if word != "return")


# What a class is told


@pytest.fixture
def card(monkeypatch):
    """Return a function: what is shown of a wrong answer, with variables of the environment set."""
    shown = []
    monkeypatch.setattr(exercise, "display", shown.append)

    def told(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        check.bits_per_weight(lambda fmt: fmt.bytes_per_block / fmt.block_size)
        return shown[-1]._repr_html_() + repr(shown[-1])

    return told


def test_a_class_can_do_without_solutions(card):
    text = card(BLOCKS2TOKENS_SOLUTIONS="0")
    assert "Solution" not in text and "Stuck?" in text and "a byte has eight bits" in text


def test_in_a_test_there_is_nothing_but_the_mark(card):
    text = card(BLOCKS2TOKENS_STRICT="1")
    assert exercise.NOT_RIGHT in text and "✗" in text
    assert not any(word in text for word in ("Solution", "Stuck?", "eight bits"))


def test_else_all_is_there(card):
    text = card()
    assert all(word in text for word in ("Solution", "Stuck?", "a byte has eight bits"))
