"""Made-up submissions: a lesson with some of its exercises answered, rightly, wrongly, or not at all.

made("03_q4_k", {"dequantize_q4_k": RIGHT, "split_q4_k_nibbles": 0})      0: its check's first known mistake
"""

import ast
import random
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from pasting import paste, shown

from blocks2tokens.course import check
from blocks2tokens.course.classroom import answers
from blocks2tokens.course.setup import notebooks

RIGHT, UNTOUCHED = "right", "untouched"


def course_notebook(stem: str) -> NotebookNode:
    path = next(path for path in notebooks.find(notebooks.NOTEBOOKS) if path.stem == stem)
    return notebooks.clear(notebooks.read(path))


def exercises_of(stem: str) -> list[str]:
    return [e.name for e in check.BY_LESSON[stem.partition("_")[2]]]


def made(stem: str, how: dict[str, str | int], notebook: NotebookNode | None = None) -> NotebookNode:
    """Return a lesson with these exercises answered; a number is that of a known mistake."""
    notebook = notebook or course_notebook(stem)
    for exercise, answer in how.items():
        if answer != UNTOUCHED:
            function = answers.tasks()[exercise].function
            cell = next(cell for cell in notebook.cells if f"check.{exercise}(" in cell.source)
            cell.source = paste(cell.source, source_of(exercise, function, answer), function)
    return notebook


def source_of(exercise: str, function: str, answer: str | int) -> str:
    if answer == RIGHT:
        return shown(check.EXERCISES[exercise])
    return f'{function} = check.EXERCISES["{exercise}"].mistakes[{answer}].wrong'


def what_they_did(
    people: list[str], stems: tuple[str, ...], seed: int = 0
) -> dict[str, dict[str, str | int]]:
    """Return {person: {exercise: right, untouched or the number of a mistake}}, each about a third."""
    rng, how = random.Random(seed), {}
    for person in people:
        names = [name for stem in stems for name in exercises_of(stem)]
        how[person] = {name: rng.choice([RIGHT, UNTOUCHED, rng.randrange(2)]) for name in names}
    return how


def notebook_of(*cells: str) -> NotebookNode:
    made_of = [nbformat.v4.new_code_cell(source) for source in cells]
    return nbformat.v4.new_notebook(cells=made_of)


def hand_in(folder: Path, person: str, notebook: NotebookNode, name: str = "homework.ipynb") -> Path:
    """Write a notebook to a person's folder; return its path."""
    (folder / person).mkdir(parents=True, exist_ok=True)
    notebooks.write(notebook, folder / person / name)
    return folder / person / name


def names_of(program: str) -> set[str]:
    """Return the names of the functions that a program defines."""
    return {node.name for node in ast.walk(ast.parse(program)) if isinstance(node, ast.FunctionDef)}
