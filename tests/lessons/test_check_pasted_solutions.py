"""A shown solution, pasted into its cell in the place of the stub, passes: lessons 08 to 22.

Of the cells above, only those statements run on which the solution depends: a lesson's measurements take
minutes, and a solution needs none of them.
"""

import ast
import inspect
import json
import re
import symtable
import textwrap
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from blocks2tokens.course import check

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LESSONS = sorted(path for path in NOTEBOOKS.glob("*/*.ipynb") if path.name[:2] >= "08")
CALL = re.compile(r"\bcheck\.(\w+)\(")


@cache
def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


EXERCISES = {
    name: (path, place)
    for path in LESSONS
    for place, source in enumerate(code_cells(path))
    for name in CALL.findall(source)
}


def shown(exercise) -> str:
    """Return the source that the card shows as the solution."""
    solution = exercise.solution or exercise.engine
    return textwrap.dedent(inspect.getsource(getattr(solution, "py_func", solution)))


def paste(cell: str, solution: str, name: str) -> str:
    """Put a solution in the place of the function that the cell leaves open."""
    stub = next(node for node in ast.parse(cell).body if getattr(node, "name", None) == name)
    lines = cell.splitlines()
    return "\n".join([*lines[: stub.lineno - 1], solution, *lines[stub.end_lineno :]])


def used(source: str) -> set[str]:
    """Return the names that a piece of code takes from around it."""

    def globals_of(table):
        own = {s.get_name() for s in table.get_symbols() if s.is_global() or table.get_type() == "module"}
        return own.union(*map(globals_of, table.get_children()))

    return globals_of(symtable.symtable(source, "cell", "exec"))


def bound(node: ast.AST) -> set[str]:
    """Return the names that a statement gives a value, or a part of one."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    stored = [n for n in ast.walk(node) if isinstance(getattr(n, "ctx", None), ast.Store)]
    places = [n.value if isinstance(n, ast.Subscript | ast.Attribute) else n for n in stored]
    return {n.id for n in places if isinstance(n, ast.Name)}


def statements(cells: list[str]) -> list[ast.stmt]:
    """Return the statements of cells, without the lines that only IPython reads."""
    lines = ((line for line in cell.splitlines() if not line.startswith(("%", "!"))) for cell in cells)
    return [statement for cell in lines for statement in ast.parse("\n".join(cell)).body]


def needed(cells: list[str], wanted: set[str]) -> list[str]:
    """Return those statements of the cells that the wanted names depend on, in order."""
    kept, wanted = [], set(wanted)
    for node in reversed(statements(cells)):
        names = bound(node)
        if names & wanted:
            source = ast.unparse(node)
            kept.append(source)
            wanted |= used(source)
    return kept[::-1]


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
