"""The lessons as assignments of nbgrader, graded by the same rules as `b2t course grade`.

    FOLDER/nbgrader_config.py               how nbgrader is to treat them
    FOLDER/source/03_q4_k/03_q4_k.ipynb     the lesson, and below each exercise a cell that grades it, locked:

        from blocks2tokens.course.classroom import nbgrader
        nbgrader.points("03_q4_k.ipynb", "dequantize_q4_k")      1 point

A grading cell reads the submitted file and judges the exercise wherever it stands, so cells may be copied,
moved and deleted; nbgrader puts a deleted grading cell back (`add_missing_cells`). While it grades it runs
these cells only: the lesson's measurements would take minutes for each person.
"""

from functools import cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from blocks2tokens import files
from blocks2tokens.course.classroom import answers, grading
from blocks2tokens.course.classroom.judging import RIGHT
from blocks2tokens.course.setup import notebooks

CONFIG = '''"""nbgrader's settings for Blocks to Tokens: in this folder, `nbgrader autograde 03_q4_k`."""

from nbgrader.preprocessors import NbGraderPreprocessor

c = get_config()  # noqa: F821  nbgrader brings it


class OnlyGradingCells(NbGraderPreprocessor):
    """Leaves other cells unrun: a grading cell reads the file, and measurements take minutes."""

    def preprocess_cell(self, cell, resources, cell_index):
        if not cell.metadata.get("nbgrader", True):  # a copy, which OverwriteCells of 0.9.6 breaks off at
            del cell.metadata["nbgrader"]
        if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("grade"):
            cell.metadata.tags = [*cell.metadata.get("tags", []), "skip-execution"]
        return cell, resources


c.CourseDirectory.course_id = "blocks2tokens"
c.OverwriteCells.add_missing_cells = True  # a grading cell that was deleted comes back
c.Autograde.sanitize_preprocessors = [
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.DeduplicateIds",
    OnlyGradingCells,
    "nbgrader.preprocessors.OverwriteKernelspec",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Execute.timeout = 3600  # the first grading cell judges all exercises, each with limits of its own
'''


def export(folder: Path) -> list[str]:
    """Write the lessons that have exercises as assignments; return their names.

    Raises FileExistsError for a folder that is there and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: expected a new or empty folder")
    names, tasks = [], answers.tasks().values()
    for path in notebooks.find(notebooks.NOTEBOOKS):
        exercises = [task.exercise for task in tasks if task.lesson == path.stem.partition("_")[2]]
        if exercises:
            place = folder / "source" / path.stem / path.name
            place.parent.mkdir(parents=True)
            notebook = notebooks.clear(notebooks.normalize(notebooks.read(path)))
            notebooks.write(with_grading_cells(notebook, path.name, exercises), place)
            names.append(path.stem)
    files.write_text(folder / "nbgrader_config.py", CONFIG)
    return names


def with_grading_cells(notebook: NotebookNode, file: str, exercises: list[str]) -> NotebookNode:
    """Put a locked cell worth a point below each exercise's check, in place; return the notebook."""
    for exercise in exercises:
        asked = (i for i, cell in enumerate(notebook.cells) if f"check.{exercise}(" in cell.source)
        notebook.cells.insert(next(asked, len(notebook.cells) - 1) + 1, _grading_cell(file, exercise))
    return notebook


def _grading_cell(file, exercise):
    source = (
        "# This cell grades the exercise above, as the file is saved. Leave it as it is.\n"
        "from blocks2tokens.course.classroom import nbgrader\n\n"
        f'nbgrader.points("{file}", "{exercise}")'
    )
    cell = nbformat.v4.new_code_cell(source, id=f"grade-{exercise}"[:64])
    cell.metadata.nbgrader = {
        "grade": True,
        "grade_id": exercise,
        "locked": True,
        "points": 1,
        "schema_version": 3,
        "solution": False,
        "task": False,
    }
    return cell


def points(file: str, exercise: str) -> int:
    """Return 1 if an exercise is right in a notebook file; else raise AssertionError with the reason."""
    path = Path(file).resolve()
    grade = _grades(path, path.stat().st_mtime_ns)[exercise]
    if grade.kind != RIGHT:
        raise AssertionError(grade.reason)
    return 1


@cache
def _grades(path, modified):
    """Return {exercise: grade} of all exercises of the lesson that a file is named after, judged once."""
    lessons = {task.lesson for task in answers.tasks().values()}
    own = answers.named_in(path, lessons)
    return grading.grade_notebook(path, [t.exercise for t in answers.tasks().values() if t.lesson in own])
