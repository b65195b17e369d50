"""Where in a notebook an exercise is answered, and which of its statements that takes.

    code cells  --statements-->  names bound, names used, exercises asked for
        asked for:      f = check.<exercise>(f)             wherever it stands, as often as it stands
        not asked for:  the function that the course's lesson gives to the check, as it is in the end
    what is kept:       these, and upward all that binds a name that they use; so no measurement runs

The imports of the course's lesson go ahead of a notebook's own statements: a deleted set-up cell costs
nothing.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from blocks2tokens.course import check
from blocks2tokens.course.collected import file
from blocks2tokens.course.collected.sources import names_used
from blocks2tokens.course.setup import notebooks

TIMING = ("%%time", "%%timeit", "%%capture")  # below such a line there is ordinary code
CHANGING = {"append", "extend", "insert", "update", "add", "setdefault", "sort", "reverse", "pop", "remove"}
EVERYTHING = "*"  # bound by `from ... import *`
NO_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Task:
    """An exercise as the course's lesson asks for it: check.<exercise>(<function>)."""

    exercise: str
    lesson: str
    function: str


@dataclass(frozen=True)
class Answer:
    """What a notebook has for a task: statements to run, or a problem that leaves nothing to run."""

    task: Task
    program: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Step:
    """A statement, the names that it binds and uses, and the exercises that it asks for."""

    source: str
    binds: frozenset[str]
    uses: frozenset[str]
    asks: frozenset[str]


@cache
def tasks() -> dict[str, Task]:
    """Return {exercise: task} in the course's order. ValueError where the course's notebooks are not here."""
    found: dict[str, Task] = {}
    for path in notebooks.find(notebooks.NOTEBOOKS):
        lesson = path.stem.partition("_")[2]
        for source in code_cells(notebooks.read(path)):
            for exercise, function in _asked(ast.parse(plain(source)), {"check"}):
                if exercise in check.EXERCISES and function:
                    found.setdefault(exercise, Task(exercise, lesson, function))
    if not found:
        raise ValueError(f"{notebooks.NOTEBOOKS}: the course's lessons are not here")
    return {name: found[name] for name in check.EXERCISES if name in found}


@cache
def _imports(lesson: str) -> tuple[Step, ...]:
    path = next(path for path in notebooks.find(notebooks.NOTEBOOKS) if path.stem.partition("_")[2] == lesson)
    cells, _ = _steps(code_cells(notebooks.read(path)), frozenset({"check"}))
    return tuple(step for step in cells if step.source.startswith(("import ", "from ")))


def code_cells(notebook: NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def plain(source: str) -> str:
    """Return a cell as Python: IPython's own lines become calls, and a line that only times goes."""
    if source.lstrip().startswith(TIMING):
        source = source.lstrip().partition("\n")[2]
    return TransformerManager().transform_cell(source)


def find(path: Path, notebook: NotebookNode, wanted: Iterable[Task]) -> tuple[dict[str, Answer], set[str]]:
    """Return {exercise: answer} of those tasks that a notebook has something for, and the lessons it is of.

    A function that no check is asked about counts in a notebook of its lesson: others have names like it.
    """
    cells, wanted, found = code_cells(notebook), list(wanted), {}
    steps, broken = _steps(cells, frozenset(_names_of_check(cells)))
    lessons = _lessons(path, "\n".join(cells), steps, wanted)
    for task in wanted:
        program = _program([*_imports(task.lesson), *steps], task, task.lesson in lessons)
        mentions = (reason for text, reason in broken if _mentions(text, task, task.lesson in lessons))
        problem = next(mentions, "")
        if program or problem:
            found[task.exercise] = Answer(task, program, "" if program else problem)
    return found, lessons


def _mentions(text, task, is_of_lesson):
    return f"check.{task.exercise}(" in text or (is_of_lesson and f"def {task.function}(" in text)


def _program(steps, task, is_of_lesson):
    """Return the statements that an answer takes, in order, "" if there is none."""
    is_asked = any(task.exercise in step.asks for step in steps)
    wanted = set() if is_asked else {task.function}
    if not is_asked and not (is_of_lesson and any(task.function in step.binds for step in steps)):
        return ""
    kept = []
    for step in reversed(steps):
        if task.exercise in step.asks or step.binds & {*wanted, EVERYTHING}:
            kept.append(step.source)
            wanted |= step.uses
    return "\n\n".join(reversed(kept)) + "\n"


def _steps(cells, names_of_check):
    """Return the steps of all cells that are Python, and (text, why not) of the others."""
    steps, broken = [], []
    for number, text in enumerate(cells, start=1):
        try:
            for part in file.statements(plain(text)):
                steps.append(_step(part.source, names_of_check))
        except NO_PYTHON as error:
            line = f", line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else f": {error}"
            broken.append((text, f"code cell {number} is no Python{line}"))
    return steps, broken


def _step(source, names_of_check):
    tree = ast.parse(source)
    asks = frozenset(exercise for exercise, _ in _asked(tree, names_of_check))
    return Step(source, frozenset(_bound(tree)), frozenset(names_used(source)), asks)


def _asked(tree, names_of_check):
    """Yield (exercise, name of the function or "") for each call check.<exercise>(...)."""
    for node in ast.walk(tree):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_call and isinstance(node.func.value, ast.Name) and node.func.value.id in names_of_check:
            first = node.args[0] if node.args else None
            yield node.func.attr, first.id if isinstance(first, ast.Name) else ""


def _names_of_check(cells):
    """Yield the names that a notebook knows the checks by: `check`, whatever it was imported as."""
    yield "check"
    for cell in cells:
        try:
            tree = ast.parse(plain(cell))
        except NO_PYTHON:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from (a.asname for a in node.names if a.asname and a.name.split(".")[-1] == "check")


def _bound(tree):
    """Yield the names that statements give a value, or a part of one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.id
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from _root(node)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) in CHANGING:
            yield from _root(node.func)


def _root(node):
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def _lessons(path, text, steps, known):
    """Return the lessons that a notebook is of: by its name, what it asks for, and whose strip it shows."""
    asked = {exercise for step in steps for exercise in step.asks}
    every = {task.lesson for task in known}
    shown = {lesson for lesson in every if f'.progress("{lesson}")' in text}
    return {task.lesson for task in known if task.exercise in asked} | shown | named_in(path, every)


def named_in(path: Path, lessons: Iterable[str]) -> set[str]:
    """Return the lesson that a file's name holds, the longest where several do."""
    return set(sorted((lesson for lesson in lessons if lesson in path.stem), key=len)[-1:])
