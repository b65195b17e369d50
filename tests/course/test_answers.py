"""Finding an exercise's answer in a notebook, whatever was done to its cells."""

from pathlib import Path

import pytest
from submissions import RIGHT, course_notebook, exercises_of, made, names_of, notebook_of

from blocks2tokens.course import check
from blocks2tokens.course.classroom import answers
from blocks2tokens.course.setup import notebooks

SCALES, NIBBLES = "unpack_q4_k_scales", "split_q4_k_nibbles"
SOLUTION = "def unpack_scales(scales):\n    return np.split(scales, 2)"
ASK = "unpack_scales = check.unpack_q4_k_scales(unpack_scales)"


def program(*cells, exercise=SCALES, path="03_q4_k.ipynb"):
    """Return the program that answers an exercise, or the problem, or None."""
    found, _ = answers.find(Path(path), notebook_of(*cells), answers.tasks().values())
    answer = found.get(exercise)
    return answer and (answer.program or answer.problem)


def test_each_exercise_is_a_task_of_its_lesson():
    known = answers.tasks()
    assert list(known) == list(check.EXERCISES)
    assert known[SCALES] == answers.Task(SCALES, "q4_k", "unpack_scales")
    assert all(check.lesson_of(check.EXERCISES[name]) == task.lesson for name, task in known.items())


@pytest.mark.parametrize("path", notebooks.find(notebooks.NOTEBOOKS), ids=lambda path: path.stem)
def test_no_measurement_of_a_lesson_runs_to_judge_an_answer(path):
    found, lessons = answers.find(path, notebooks.read(path), answers.tasks().values())
    assert lessons <= {path.stem.partition("_")[2]}
    for exercise, answer in found.items():
        assert f"check.{exercise}(" in answer.program and not answer.problem
        calls = [name for name in ("bench.", "plt.", "pictures.", "b2t.load(") if name in answer.program]
        assert not calls, (exercise, calls)


def test_what_an_answer_needs_comes_along_and_nothing_else():
    notebook = made("03_q4_k", {SCALES: RIGHT})
    found, _ = answers.find(Path("x.ipynb"), notebook, answers.tasks().values())
    assert list(found) == exercises_of("03_q4_k")
    assert names_of(found[SCALES].program) == {"unpack_scales"}


def test_cells_may_be_moved_split_and_copied():
    whole = program(SOLUTION, ASK)
    assert whole.count("def unpack_scales") == 1 and whole.rstrip().endswith(ASK)
    assert program("SIZE = 2", SOLUTION, "nothing = 3", f"x = 1\n{ASK}") == whole
    twice = program(SOLUTION, ASK, SOLUTION.replace("2", "3"), ASK)
    assert twice.count(ASK) == 2 and twice.index("scales, 2") < twice.index("scales, 3")


def test_a_deleted_set_up_cell_costs_nothing():
    assert "import numpy as np" in program(SOLUTION, ASK)
    assert "from blocks2tokens.course import" in program(SOLUTION, ASK)


def test_without_the_check_the_function_of_the_lessons_name_counts():
    assert "def unpack_scales" in program(SOLUTION)
    assert program("def mine(scales):\n    pass") is None


def test_such_a_function_counts_in_a_notebook_of_its_lesson_only():
    assert program(SOLUTION, path="homework.ipynb") is None
    assert program("x = 1", SOLUTION, path="my 03_q4_k (2).ipynb")
    assert program('check.progress("q4_k")', SOLUTION, path="homework.ipynb")
    assert program("from blocks2tokens.course.lessons.q4_k import suspects", SOLUTION, path="x.ipynb") is None


def test_another_name_is_followed():
    found = program(
        "import numpy as n2\ndef mine(s):\n    return n2.split(s, 2)", "check.unpack_q4_k_scales(mine)"
    )
    assert "def mine" in found and "n2" in found


def test_the_check_may_be_imported_under_another_name():
    found = program(
        "from blocks2tokens.course import check as c", SOLUTION, "c.unpack_q4_k_scales(unpack_scales)"
    )
    assert "c.unpack_q4_k_scales(unpack_scales)" in found


def test_what_changes_a_value_comes_along():
    cells = ["table = [0]", "table.append(1)", "table[0] = 5", "other = []", "other.append(1)"]
    found = program(*cells, "def unpack_scales(s):\n    return table[s]", ASK)
    assert "table.append(1)" in found and "table[0] = 5" in found and "other" not in found


def test_lines_of_ipython_are_no_syntax_errors():
    assert "def unpack_scales" in program(
        "%matplotlib inline\n!ls", f"%%time\n{SOLUTION}\n%time 1 + 1\n{ASK}"
    )


def test_a_definition_within_a_statement_is_found():
    found = program(f"if True:\n    {SOLUTION.replace(chr(10), chr(10) + '    ')}", ASK)
    assert names_of(found) == {"unpack_scales"}


def test_a_cell_that_is_no_python_is_named():
    assert program("x = 1", f"{SOLUTION})\n{ASK}") == "code cell 2 is no Python, line 2: unmatched ')'"
    assert program("def (", SOLUTION, ASK).startswith("import ")
    assert program("(" * 100_000, SOLUTION, ASK)


def test_the_imports_of_everything_come_along():
    assert "from math import *" in program("from math import *", SOLUTION, ASK)


def test_the_text_of_a_lesson_is_no_answer():
    notebook = course_notebook("03_q4_k")
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type != "code"]
    assert answers.find(Path("03_q4_k.ipynb"), notebook, answers.tasks().values())[0] == {}
