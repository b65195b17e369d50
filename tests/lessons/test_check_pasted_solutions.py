"""A shown solution, pasted into its cell in the place of the stub, passes: lessons 08 to 22.

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

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LESSONS = sorted(path for path in NOTEBOOKS.glob("*/*.ipynb") if path.name[:2] >= "08")
CALL = re.compile(r"\bcheck\.(\w+)\(")


EXERCISES = {
    name: (path, place)
    for path in LESSONS
    for place, source in enumerate(code_cells(path))
    for name in CALL.findall(source)
}


def verdict_on_pasted(name, monkeypatch):
    """Paste the solution of an exercise under the cells above it; return what its check says."""
    path, place = EXERCISES[name]
    cells = code_cells(path)
    pasted = paste(cells[place], shown(check.EXERCISES[name]), name)
    verdicts = []
    monkeypatch.setattr("blocks2tokens.course.check.exercise.display", verdicts.append)
    namespace = {}
    for source in needed(cells[:place], used(pasted)):
        exec(source, namespace)
    exec(pasted, namespace)
    return verdicts[-1]


def test_every_lesson_is_here():
    assert len(LESSONS) == 15 and len(EXERCISES) >= 70


@pytest.mark.parametrize("name", EXERCISES)
def test_a_pasted_solution_is_right(name, monkeypatch):
    verdict = verdict_on_pasted(name, monkeypatch)
    assert verdict.name == name and verdict.kind == "right", verdict


def test_a_pasted_solution_that_needs_a_name_from_elsewhere_is_found(monkeypatch):
    monkeypatch.setattr(f"{__name__}.shown", lambda _: "def gflops(*sizes):\n    return roofline.of(sizes)\n")
    assert verdict_on_pasted("gflops", monkeypatch).kind == "wrong"


def test_what_a_solution_says_of_the_engine_is_there():
    package, told = Path(check.__file__).parents[2], 0
    for name in EXERCISES:
        for function, path in re.findall(
            r"# and in the engine: (\w+) in ([\w/.]+\.py)", shown(check.EXERCISES[name])
        ):
            assert f"def {function}(" in (package / path).read_text(encoding="utf-8"), name
            told += 1
    assert told >= 20


@pytest.mark.parametrize("name", EXERCISES)
def test_the_last_hint_is_not_the_solution(name):
    """A hint may hold a piece of a solution, not most of it: that is folded one step further in."""
    exercise = check.EXERCISES[name]
    body = [node for node in ast.parse(shown(exercise)).body[0].body if not is_docstring(node)]
    solution, hint = words("\n".join(map(ast.unparse, body))), words(exercise.hints[-1])
    assert (solution & hint).total() < 0.6 * solution.total(), exercise.hints[-1]


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def words(source: str) -> Counter:
    """Return the names, numbers and operators of code, and how often each comes."""
    return Counter(word for word in re.findall(r"\w+|[^\w\s(),.:;]+", source) if word != "return")
