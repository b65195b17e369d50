"""The lessons as assignments of nbgrader: what is exported, and nbgrader itself at work on it."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from submissions import RIGHT, UNTOUCHED, exercises_of, hand_in, made, notebook_of, what_they_did

from blocks2tokens.command_line import main
from blocks2tokens.course import check
from blocks2tokens.course.classroom import grading, nbgrader
from blocks2tokens.course.setup import notebooks

ROOT = Path(__file__).resolve().parents[2]
STEM = "08_phase0_baseline"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nbgrader") / "course"
    nbgrader.export(folder)
    return folder


def test_each_lesson_with_exercises_is_an_assignment(course):
    graded = []
    for path in notebooks.find(course / "source"):
        notebook = notebooks.read(path)
        nbformat.validate(notebook)
        cells = [cell for cell in notebook.cells if "nbgrader" in cell.metadata]
        assert sorted(cell.metadata.nbgrader.grade_id for cell in cells) == sorted(exercises_of(path.stem))
        for cell in cells:
            above = notebook.cells[notebook.cells.index(cell) - 1].source
            assert f"check.{cell.metadata.nbgrader.grade_id}(" in above
            assert path.parent.name == path.stem and f'"{path.name}"' in cell.source
            graded.append(cell.metadata.nbgrader.grade_id)
    assert sorted(graded) == sorted(check.EXERCISES)


def test_a_grading_cell_gives_a_point_or_the_reason(tmp_path, monkeypatch):
    names = exercises_of(STEM)
    path = hand_in(tmp_path, "anna", made(STEM, {names[0]: RIGHT, names[1]: 0}), f"{STEM}.ipynb")
    monkeypatch.chdir(path.parent)
    assert nbgrader.points(path.name, names[0]) == 1
    with pytest.raises(AssertionError) as wrong:
        nbgrader.points(path.name, names[1])
    assert str(wrong.value).startswith(check.EXERCISES[names[1]].mistakes[0].message)
    with pytest.raises(AssertionError, match="not attempted"):
        nbgrader.points(path.name, names[2])


def test_the_command_says_what_comes_next_and_overwrites_nothing(course, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").write_text("mine")
    assert main(["course", "export-nbgrader", str(tmp_path)]) == 1
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    monkeypatch.setattr(nbgrader, "export", lambda folder: ["01_why_blocks"])
    assert main(["course", "export-nbgrader", str(tmp_path)]) == 0
    assert "  nbgrader autograde 01_why_blocks " in capsys.readouterr().out


# nbgrader itself

FULL = os.environ.get("BLOCKS2TOKENS_FULL") == "1"  # a class of 25; else of 4
PEOPLE = {"anna": [RIGHT], "ben": [RIGHT, 0], "cleo": [UNTOUCHED], "dora": [0, RIGHT, UNTOUCHED]}
OTHERS = [f"person {i:02}" for i in range(len(PEOPLE), 25)] if FULL else []


def class_of(stem):
    """Return {person: {exercise: what they did}}."""
    names = exercises_of(stem)
    how = {person: {n: did[i % len(did)] for i, n in enumerate(names)} for person, did in PEOPLE.items()}
    return how | what_they_did(OTHERS, (stem,))


def submission(course, person, how):
    """Return what a person hands in: the released lesson, answered, with cells added, copied, deleted."""
    notebook = notebooks.read(course / "release" / STEM / f"{STEM}.ipynb")
    cells = made(STEM, how, notebook).cells
    grading_cells = [cell for cell in cells if "nbgrader" in cell.metadata]
    if person == "anna":
        cells.remove(grading_cells[0])
        cells.insert(3, notebook_of("while True: pass").cells[0])
    elif person == "ben":
        again = nbformat.from_dict(grading_cells[1])
        again.id = "again"
        cells.insert(2, again)
    elif person == "dora":
        cells[:] = [cell for cell in cells if cell not in grading_cells]
    return notebook


@pytest.mark.skipif(
    importlib.util.find_spec("nbgrader") is None,
    reason='nbgrader is not here; pip install ".[class]" installs it',
)
def test_nbgrader_generates_grades_and_reports_with_the_marks_of_b2t(course, tmp_path):
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # alembic is needed
    own = {"PATH": programs, "PYTHONPATH": str(ROOT / "lib"), "JUPYTER_DATA_DIR": str(tmp_path / "jupyter")}
    environment, how = os.environ | own, class_of(STEM)

    def run(*words):
        command = [sys.executable, "-m", "nbgrader", *words]
        done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]

    run("generate_assignment", STEM)
    for person, did in how.items():
        notebook = submission(course, person, did)
        hand_in(course / "submitted" / person, STEM, notebook, f"{STEM}.ipynb")
        hand_in(tmp_path / "native", person, notebook, f"{STEM}.ipynb")
    run("autograde", STEM)
    run("generate_feedback", STEM)
    run("export")
    with open(course / "grades.csv", encoding="utf-8") as opened:
        marks = {row["student_id"]: float(row["score"]) for row in csv.DictReader(opened)}
    native = grading.grade(tmp_path / "native")
    assert marks == {person: native.total(person) for person in how}
    assert marks == {person: list(did.values()).count(RIGHT) for person, did in how.items()}
    assert 0 == marks["cleo"] < marks["dora"] < marks["ben"] < marks["anna"] == len(exercises_of(STEM))
    page = (course / "feedback" / "ben" / STEM / f"{STEM}.html").read_text(encoding="utf-8")
    assert check.EXERCISES[exercises_of(STEM)[1]].mistakes[0].message[:30] in page
