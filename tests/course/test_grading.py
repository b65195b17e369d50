"""Grading a class: the marks expected, and a grade with its reason for whatever a submission does."""

import csv
import io
import os
import subprocess
import sys

import numpy as np
import psutil
import pytest
from submissions import RIGHT, UNTOUCHED, exercises_of, hand_in, made, notebook_of, what_they_did

from blocks2tokens.command_line import main
from blocks2tokens.course import check
from blocks2tokens.course.classroom import grading
from blocks2tokens.course.classroom.answer_key import called_by
from blocks2tokens.course.classroom.fresh import with_fresh_cases
from blocks2tokens.course.setup import notebooks
from blocks2tokens.formats import q4_k

LESSONS = ("03_q4_k", "19_layers")
ASK = "gflops = check.gflops(gflops)\n"
RECURSIVE = """
def gflops(M, K, N, seconds):
    return gflops(M // 2, K, N, seconds / 2) if M % 2 == 0 and M else 2 * M * K * N / seconds / 1e9
"""
STUB = "def gflops(*a):\n    return ...\n"
GOOD = "def gflops(M, K, N, seconds):\n    return 2 * M * K * N / seconds / 1e9\n"


def rows(text):
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


# Cases that no answer knows by heart


def test_fresh_cases_are_others_each_time_the_same():
    exercise = check.EXERCISES["unpack_q4_k_scales"]
    own, one, again, two = (
        e.cases() for e in [exercise, *(with_fresh_cases(exercise, s) for s in (1, 1, 2))]
    )
    assert list(own) == list(one)
    label = "random bytes"
    assert np.array_equal(one[label][0], again[label][0]) and np.array_equal(own["zeros"][0], one["zeros"][0])
    assert not np.array_equal(own[label][0], one[label][0]) and not np.array_equal(
        one[label][0], two[label][0]
    )
    assert np.array_equal(own[label][0], exercise.cases()[label][0]), "nothing is left behind"


def test_many_exercises_have_fresh_cases():
    def differ(exercise):
        return repr(exercise.cases()) != repr(with_fresh_cases(exercise, 1).cases())

    assert sum(map(differ, check.EXERCISES.values())) > 40


# A class


def test_a_class_of_25_is_graded_with_the_marks_expected(tmp_path, capsys):
    how = what_they_did([f"person {i:02}" for i in range(25)], LESSONS)
    for person, did in how.items():
        for stem in LESSONS:
            own = {name: did[name] for name in exercises_of(stem)}
            hand_in(tmp_path / "all", person, made(stem, own), f"{stem}.ipynb")
    assert main(["course", "grade", str(tmp_path / "all"), "--csv", str(tmp_path / "grades.csv")]) == 0
    marks = rows((tmp_path / "grades.csv").read_text(encoding="utf-8"))
    assert [row["person"] for row in marks] == sorted(how)
    for row in marks:
        did = how[row["person"]]
        for stem in LESSONS:
            for name in exercises_of(stem):
                expected = {RIGHT: "1", UNTOUCHED: ""}.get(did[name], "0")
                assert row[f"{stem[:2]} {name}"] == expected, (row["person"], name)
        assert int(row["total"]) == list(did.values()).count(RIGHT) and int(row["of"]) == len(did)
    for row in rows((tmp_path / "grades.reasons.csv").read_text(encoding="utf-8")):
        did = how[row["person"]][row["exercise"]]
        mistakes = check.EXERCISES[row["exercise"]].mistakes
        if isinstance(did, int) and row["exercise"] != "convict_q4_k_decoder":  # named by its evidence
            assert row["mistake"] == mistakes[did].message
        assert row["notebook"].startswith(LESSONS)
    view = capsys.readouterr().out
    n_wrong = sum(isinstance(did["unpack_q4_k_scales"], int) for did in how.values())
    assert f" {n_wrong} " in next(line for line in view.splitlines() if line.startswith("unpack_q4_k_scales"))


def test_all_shown_solutions_get_all_marks(tmp_path):
    """On fresh cases, too, and none is taken for a call of the engine's answer."""
    for path in notebooks.find(notebooks.NOTEBOOKS):
        lesson = path.stem.partition("_")[2]
        how = {exercise.name: RIGHT for exercise in check.BY_LESSON.get(lesson, [])}
        hand_in(tmp_path, "anna", made(path.stem, how), path.name)
    grades = grading.grade(tmp_path).grades["anna"]
    assert list(grades) == list(check.EXERCISES)
    assert {name: grade.reason for name, grade in grades.items() if grade.kind != "right"} == {}


# Whatever a submission does


CATCHES = "while True:\n        try:\n            while True: pass\n        except BaseException: pass"
SHELL = "import os\n    try: os.system('touch hacked')\n    except BaseException: pass"
DOES = {
    # what its function does before it answers rightly: what the reason says
    "loops": ("while True: pass", "does every loop in it end?"),
    "loops and catches": (CATCHES, "does every loop in it end?"),
    "sleeps": ("import time; time.sleep(10_000)", "does every loop in it end?"),
    "forks": ("import os; os.fork()", "it starts a process"),
    "runs a shell": (SHELL, "it starts a process"),
    "runs a program": ("import subprocess; subprocess.run(['ls'])", "it starts a process"),
    "writes a file": ("open('hacked', 'w').write('x')", "it writes a file"),
    "writes by NumPy": ("import numpy; numpy.save('hacked', numpy.ones(3))", "it writes a file"),
    "deletes files": ("import shutil; shutil.rmtree('.')", "it deletes a folder"),
    "phones home": ("import socket; socket.create_connection(('127.0.0.1', 9), 1)", "it goes to the network"),
    "kills": ("import os; os.kill(os.getppid(), 9)", "it ends a process"),
    "exits": ("import sys; sys.exit(0)", "exit()"),
    "exits at once": ("import os; os._exit(0)", "Python ended while judging it"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "eats memory": ("x = [bytearray(10**8) for _ in range(100)]", "MemoryError"),
    "asks for input": ("input()", "EOFError"),
}  # fmt: skip
HARMLESS = {
    "prints a gigabyte": "for _ in range(1000): print('x' * 10**6)",
    "reads a file": "open(__file__).read()",
    "imports everything": "import json, decimal, asyncio, sqlite3, xml.dom",
}


def gflops_that(does):
    return f"def gflops(M, K, N, seconds):\n    {does}\n    return 2 * M * K * N / seconds / 1e9\n"


OTHERS = {
    "imports nothing": (notebook_of(GOOD + ASK), "right"),
    "has no check": (notebook_of('check.progress("phase0_baseline")', GOOD), "right"),
    "uses everything": (notebook_of("from numpy import *\nfrom math import *", GOOD + ASK), "right"),
    "answers twice": (notebook_of(GOOD + ASK, GOOD.replace("2 *", "3 *") + ASK), "wrong"),
    "has the stub below": (notebook_of(GOOD + ASK, STUB + ASK), "right"),
    "calls itself": (notebook_of(RECURSIVE + ASK), "right"),
    "asks again": (notebook_of(GOOD.replace("2 *", "3 *") + ASK, ASK), "wrong"),
    "gives the engine's": (notebook_of("gflops = check.gflops.engine\n" + ASK), "open"),
    "asks the engine": (notebook_of("def gflops(*a):\n    return check.gflops.engine(*a)\n" + ASK), "wrong"),
    "has a stub, and a failure": (
        notebook_of("x = 1 / 0", STUB.replace("...", "... if 1 else x") + ASK),
        "open",
    ),
    "has nothing": (notebook_of(), "open"),
    "is broken": (notebook_of(f"def gflops(M:\n    pass\n{ASK}"), "wrong"),
    "raises above": (notebook_of("SIZE = 1 / 0", GOOD.replace("2 *", "SIZE *") + ASK), "wrong"),
    "loops above": (notebook_of("while True: TWO = 2", GOOD.replace("2 *", "TWO *") + ASK), "wrong"),
}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """All of the above, graded at once."""
    folder = tmp_path_factory.mktemp("submissions")
    for person, does in HARMLESS.items():
        hand_in(folder, person, notebook_of(gflops_that(does) + ASK))
    for person, (does, _) in DOES.items():
        hand_in(folder, person, notebook_of(gflops_that(does) + ASK))
    for person, (notebook, _) in OTHERS.items():
        hand_in(folder, person, notebook)
    spoilt = hand_in(folder, "no notebook", notebook_of(), "08_phase0_baseline.ipynb")
    spoilt.write_text("I did it on paper")
    elsewhere = hand_in(folder.parent, "elsewhere", notebook_of(GOOD + ASK))
    (folder / "a link").mkdir()
    (folder / "a link" / "08_phase0_baseline.ipynb").symlink_to(elsewhere)
    (folder / "nobody").mkdir()
    hand_in(folder, ".", notebook_of(GOOD + ASK), "loose.ipynb")
    before = {process.pid for process in psutil.process_iter()}
    found = grading.grade(folder, ["phase0_baseline"], grading.Limits(seconds=6, memory=1_500_000_000))
    return found, folder, before


def gflops_of(graded, person):
    return graded[0].grades[person]["gflops"]


@pytest.mark.parametrize("person", DOES)
def test_what_it_may_not_do_is_wrong_and_says_why(graded, person):
    grade = gflops_of(graded, person)
    assert grade.kind == "wrong" and DOES[person][1] in grade.reason, grade


@pytest.mark.parametrize("person", HARMLESS)
def test_what_does_no_harm_is_right(graded, person):
    assert gflops_of(graded, person).kind == "right", gflops_of(graded, person)


@pytest.mark.parametrize("person", OTHERS)
def test_odd_notebooks(graded, person):
    assert gflops_of(graded, person).kind == OTHERS[person][1], gflops_of(graded, person)


def test_reasons_name_what_failed(graded):
    assert "it calls the answer: blocks2tokens." in gflops_of(graded, "asks the engine").reason
    assert "code cell 1 is no Python, line 1" in gflops_of(graded, "is broken").reason
    assert "SIZE" in gflops_of(graded, "raises above").reason


def test_what_cannot_be_read_is_noted(graded):
    found, _, _ = graded
    for person, told in {"no notebook": "cannot be read: ", "a link": "it is no file of this folder"}.items():
        assert {g.kind for g in found.grades[person].values()} == {"wrong"}
        assert told in found.grades[person]["gflops"].reason
        assert any(note.startswith(f"{person}: ") and told in note for note in found.notes)
    assert {g.kind for g in found.grades["nobody"].values()} == {"open"}
    assert "not graded, in no person's folder: loose.ipynb" in found.notes


def test_nothing_is_left_behind(graded):
    _, folder, before = graded
    assert not list(folder.rglob("hacked")) and not os.path.exists("hacked")
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert not [p for p in left if any("spawn_main" in word for word in p.cmdline())]


def test_the_lessons_cases_by_heart_are_not_enough(tmp_path):
    by_heart = (
        "KNOWN = {c[0].tobytes(): check.EXERCISES['unpack_q4_k_scales'].engine(*c)\n"
        "         for c in check.EXERCISES['unpack_q4_k_scales'].cases().values()}\n"
        "def unpack_scales(scales):\n    return KNOWN[scales.tobytes()]\n"
        "unpack_scales = check.unpack_q4_k_scales(unpack_scales)"
    )
    hand_in(tmp_path, "cheat", notebook_of(by_heart))
    found = grading.grade(tmp_path)
    grade = found.grades["cheat"]["unpack_q4_k_scales"]
    assert grade.kind == "wrong" and "KeyError" in grade.reason


def imported(x):
    return q4_k.unpack_scales(x)


def through_a_helper(x):
    return imported(x)


def by_itself(scales):
    return check.EXERCISES["split_q4_k_nibbles"].engine(scales)


def test_whoever_calls_the_answer_is_found():
    unpack = check.EXERCISES["unpack_q4_k_scales"]
    told = "blocks2tokens.formats.q4_k.unpack_scales"
    assert called_by(imported, unpack) == called_by(through_a_helper, unpack) == told
    assert called_by(lambda x, f=None: (f or q4_k.unpack_scales)(x), unpack) == told
    assert called_by(by_itself, unpack) is None
    assert called_by(np.copy, unpack) is None, "and is no function of Python"


# What is written


def test_a_spreadsheet_takes_nothing_for_a_formula(tmp_path):
    task = grading.Task("gflops", "phase0_baseline", "gflops")
    grades = grading.Grades([task], {"=1+1": {"gflops": grading.Grade("wrong", "@SUM(1)", "-2")}})
    grades.sources["=1+1", "gflops"] = "+x.ipynb"
    beside = grading.write(grades, tmp_path / "grades.csv")
    assert beside.name == "grades.reasons.csv"
    assert (
        (tmp_path / "grades.csv")
        .read_bytes()
        .startswith(b"\xef\xbb\xbfperson,total,of,08 gflops\n'=1+1,0,1,0\n")
    )
    assert rows(beside.read_text(encoding="utf-8"))[0] == {
        "person": "'=1+1", "lesson": "phase0_baseline", "exercise": "gflops", "verdict": "wrong",
        "reason": "'@SUM(1)", "mistake": "'-2", "notebook": "'+x.ipynb",
    }  # fmt: skip


@pytest.mark.parametrize(("make", "told"), [
    (lambda path: None, "expected a folder with a folder for each person"),
    (lambda path: path.mkdir(), "expected a folder for each person in it, found none"),
    (lambda path: hand_in(path, "anna", notebook_of("1 + 1")), "found none that asks for an exercise"),
])  # fmt: skip
def test_nothing_to_grade_is_one_line(tmp_path, capsys, make, told):
    make(tmp_path / "all")
    assert main(["course", "grade", str(tmp_path / "all"), "--csv", str(tmp_path / "g.csv")]) == 1
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1 and not (tmp_path / "g.csv").exists()


def test_a_table_that_cannot_be_written_is_refused_before_anything_is_graded(tmp_path, capsys):
    hand_in(tmp_path / "all", "anna", notebook_of(GOOD + ASK))
    for place, told in {"nowhere/g.csv": "no such folder", "all": "expected a file's name"}.items():
        assert main(["course", "grade", str(tmp_path / "all"), "--csv", str(tmp_path / place)]) == 1
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1


def test_a_script_that_grades_is_not_run_again_by_the_processes(tmp_path):
    hand_in(tmp_path / "all", "anna", notebook_of(GOOD + ASK))
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom blocks2tokens.course.classroom import grading\n"
        "print(grading.grade(Path('all')).total('anna'))\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")
